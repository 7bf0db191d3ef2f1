"""Chat templates that run for ever, fill the memory or fail: a sentence within seconds, and ordinary ones as before."""

from __future__ import annotations

import threading
import time

import psutil
import pytest
from bytes_tokenizer import CHATML, TEMPLATES, byte_level
from lengths import few

from finetune.data.rows import RowProblem
from finetune.data.tokens.render import ChatTemplate
from finetune.errors import ModelError
from finetune.models.templates import template_limits
from finetune.models.templates.chat_template import TemplateFailure, render_chat

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a %}{% endfor %}{% endfor %}"
MILLION = "{% set t = 'a' * 999999 %}"
FLOODS = {
    "loops": LOOPS,
    "loops that write": LOOPS.replace("{% set c = a %}", "{{ 'flood' }}"),
    "loops at the third turn": "{% if messages | length > 1 %}" + LOOPS + "{% endif %}",
    "product": "{{ 'a' * 10 ** 10 }}",
    "list": "{{ [0] * 9999999999 }}",
    "power": "{{ 10 ** 10000000000 }}",
    "doubling": "{% set n = namespace(t='ab') %}{% for a in range(64) %}{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t }}",
    "filter": "{{ 'x' | center(3000000000000) }}",
    "replace": "{% set t = 'a' * 900000 %}{{ t.replace('a', t) }}",
    "number in a filter": "{{ 'x' | center(1000000000) }}",
    "format": "{{ '%0999999999d' % 1 }}",
    "format method": "{{ '{:0999999999}'.format(1) }}",
    "a list as JSON": MILLION + "{{ ([t] * 99999) | tojson }}",
    "lists in lists": "{% set n = namespace(l=['a']) %}{% for a in range(64) %}{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}",
    "lists that double": "{% set n = namespace(l=['a']) %}{% for a in range(64) %}{% set n.l = n.l + n.l %}{% endfor %}{{ n.l }}",
    "one text written often": MILLION + "{% for a in range(99999) %}{{ t }}{% endfor %}",
    "one text written often by a macro": MILLION + "{% macro m() %}{% for a in range(99999) %}{{ t }}{% endfor %}{% endmacro %}{{ m() }}",
    "a product of numbers": "{% set n = namespace(i=9) %}{% for a in range(64) %}{% set n.i = n.i * n.i %}{% endfor %}{{ n.i }}",
    "long program": "{{ 'a' }}" * 30_000,
}
LIKE_OTHERS = {"loops that write", "loops at the third turn", "lists in lists"}  # which take the three seconds that are allowed
FAILURES = {
    "division": ("{{ 1 // 0 }}", "zero"),
    "recursion": ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "nested too deeply"),
    "type": ("{{ messages + 1 }}", "list"),
    "syntax": ("{% for %}", "Expected"),
    "refusal": ("{{ raise_exception('not these turns') }}", "not these turns"),
}


@pytest.mark.parametrize("name", few(FLOODS, *(FLOODS.keys() - LIKE_OTHERS)))
def test_a_template_that_does_not_end_or_floods_the_memory_is_stopped(name: str) -> None:
    tokenizer = byte_level(FLOODS[name])
    before = psutil.Process().memory_info().rss
    with pytest.raises(ModelError, match=r"^The chat template of .* (takes|makes|writes|is too|more memory)"):
        render_chat(tokenizer, TURNS)
    assert psutil.Process().memory_info().rss - before < 1_000_000_000


@pytest.mark.parametrize(
    ("template", "written"),
    [
        ("{{ 1 + 2 }}{{ 'a' + 'b' }}{{ ([1] + [2]) | length }}", "3ab2"),
        ("{{ messages | map(attribute='content') | join(', ') }}", "Hi, Hello!"),
        ("{{ 'content' | join('-') }}", "c-o-n-t-e-n-t"),
        ("{{ '-'.join(messages | map(attribute='role')) }}", "user-assistant"),
        ("{{ '%s: %5d' % (messages[0].role, 7) ~ '|' ~ '{:>8}'.format(messages[0].content) }}", "user:     7|      Hi"),
        (
            "{{ messages[0] | tojson }}{{ [1, 'a'] }}{{ 2 ** 10 * 3 }}{{ 0.5 * 4000000 }}{{ '-' * 3 }}",
            '{"role": "user", "content": "Hi"}[1, \'a\']30722000000.0---',
        ),
        ("{{ 'a\tb'.expandtabs(4) }}{{ 'a\nb' | indent(2) }}{{ 'aba' | replace('a', 'cc') }}", "a   ba\n  bccbcc"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{% for t in messages %}{{ m(t.content) }}{{ loop.index }}{% endfor %}", "<Hi>1<Hello!>2"),
    ],
)
def test_what_ordinary_steps_make_is_what_jinja_makes(template: str, written: str) -> None:
    assert render_chat(byte_level(template), TURNS) == written


def test_long_conversations_are_written_however_long() -> None:
    long = [{"role": "user", "content": "a b " * 1_000_000}, {"role": "assistant", "content": "c " * 4_000_000}]
    text = render_chat(byte_level(CHATML), long)
    assert len(text) > 12_000_000
    assert text.count("<|im_end|>") == 2


@pytest.mark.parametrize(("template", "words"), FAILURES.values(), ids=FAILURES)
def test_a_template_that_fails_is_a_sentence_and_for_a_row_a_reason_to_skip_it(template: str, words: str) -> None:
    tokenizer = byte_level(template)
    with pytest.raises(TemplateFailure, match=words):
        render_chat(tokenizer, TURNS)
    with pytest.raises(RowProblem, match=f"refused by the model's chat template: .*{words}"):
        ChatTemplate(tokenizer).pieces(TURNS)


def test_a_template_is_stopped_in_whatever_thread_it_runs_and_the_others_go_on() -> None:
    found: list[BaseException] = []

    def work() -> None:
        try:
            render_chat(byte_level(LOOPS), TURNS)
        except ModelError as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    good = byte_level(CHATML)
    while thread.is_alive():
        assert render_chat(good, TURNS).startswith("<|im_start|>user\nHi<|im_end|>")
    thread.join()
    assert len(found) == 1


def test_a_template_is_not_stopped_because_the_program_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """By Ctrl-Z, or where other programs have the processor."""
    with template_limits.WATCH.watched():
        monkeypatch.setattr(template_limits.time, "monotonic", lambda now=time.monotonic: now() + 60)
        time.sleep(4 * template_limits.LOOKED_EVERY)


def test_ordinary_templates_write_what_transformers_writes() -> None:
    for name, template in TEMPLATES.items():
        tokenizer = byte_level(template)
        assert render_chat(tokenizer, TURNS) == tokenizer.apply_chat_template(TURNS, tokenize=False), name
