"""A model that was trained with the plain template is saved with it, so that programs that chat by templates ask as the training did."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
from bytes_tokenizer import byte_level, sentence_piece
from letters import llama, tokenizer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from workshop import Workshop

from finetune import registry
from finetune.data.formats.cells import Message
from finetune.data.tokens.encoder import Encoder
from finetune.data.tokens.plain_in_jinja import template_for_others
from finetune.events import Recorder
from finetune.models.load import load_tokenizer
from finetune.models.location import locate
from finetune.models.templates.plain_chat import is_plain_chat, plain_chat
from finetune.models.tokenizer_files import save_tokenizer
from finetune.publish.usage import folder_commands
from finetune.run.chat import Talk
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions

PLAINLY = {"template": "plain", "format": "prompt_completion"}
TALKS: tuple[tuple[Message, ...], ...] = (
    ({"role": "user", "content": 'Say "it", {{ please }} \\ now.'},),
    (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello there"},
        {"role": "assistant", "content": "the answer"},
        {"role": "user", "content": "  and the rest?"},
    ),
)


def prompt(made: Any, turns: tuple[Message, ...]) -> list[int]:
    return Encoder(made, max_length=512, supervise="answers").prompt(turns)


@pytest.mark.parametrize(
    "made",
    [byte_level(), byte_level(bos=True), tokenizer(), sentence_piece()],
    ids=["byte-level", "with a beginning", "letters", "SentencePiece"],
)
def test_the_template_gives_the_tokens_of_training(made: Any) -> None:
    template = template_for_others(PLAINLY, made)
    assert template
    for turns in TALKS:
        told = made.apply_chat_template(turns, chat_template=template, add_generation_prompt=True, return_dict=False)
        assert told == prompt(made, turns)


def test_tokens_of_other_scripts_stand_in_the_template_as_they_are() -> None:
    template = plain_chat(begin="<｜begin｜>", end='<｜"end"｜>')
    assert '{{ "<｜begin｜>" }}' in template
    assert r'("<｜\"end\"｜>" if' in template


def test_where_others_would_read_other_tokens_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.tokens.plain_in_jinja.lead_ids", lambda _: [])  # a beginning that no text stands for
    assert template_for_others(PLAINLY, byte_level(bos=True)) is None


def test_a_tokenizer_that_fails_on_letters_that_it_does_not_know_has_none() -> None:
    backend = Tokenizer(WordLevel({letter: place for place, letter in enumerate(["</s>", *string.printable])}))
    backend.pre_tokenizer = Split("", "isolated")
    assert template_for_others(PLAINLY, PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")) is None


@pytest.mark.parametrize("report", [{"template": "plain", "format": "text"}, {"template": "chat", "format": "messages"}, {}])
def test_what_was_not_asked_plainly_gets_no_template(report: dict[str, str]) -> None:
    assert template_for_others(report, byte_level()) is None


def test_a_model_that_has_it_keeps_it_whatever_it_is_trained_on(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "had")
    made = tokenizer()
    made.chat_template = plain_chat(begin="", end="</s>")
    made.save_pretrained(tmp_path / "had")
    ours = load_tokenizer(locate(str(tmp_path / "had"), RuntimeOptions(cache_dir=tmp_path), Recorder()))
    (tmp_path / "saved").mkdir()
    save_tokenizer(ours, tmp_path / "had", tmp_path / "saved", template=template_for_others({"template": "plain", "format": "text"}, ours))
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").chat_template == made.chat_template


def test_a_run_is_saved_and_merged_with_it_and_asks_here_as_before(shop: Workshop, tmp_path: Path) -> None:
    base = tmp_path / "base"
    llama(seed=5).save_pretrained(base)
    tokenizer().save_pretrained(base)
    tuner = shop.tuner(shop.layer(model=str(base), training={"epochs": 1, "batch_size": 6}))
    scores = tuner.run().scores
    folder = tuner.folder.output_dir
    merged = tmp_path / "merged"
    registry.load("exporters", "merged").export(RunFolder.of(folder), merged, shop.runtime, Recorder())
    for saved in (folder, merged):
        others, ours = AutoTokenizer.from_pretrained(saved), load_tokenizer(locate(str(saved), shop.runtime, Recorder()))
        assert is_plain_chat(others.chat_template)
        assert ours.chat_template is None
        talk = Talk(tuner.model, ours)
        for turns in TALKS:
            told = others.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
            assert told == prompt(tuner.tokenizer, turns) == prompt(talk.tokenizer, turns)
    assert folder_commands(merged)["MLX"].startswith("mlx_lm.chat")
    again = tuner.of_run(folder, runtime=shop.runtime)
    assert again.benchmark()["after"] == scores["after"]
    assert again.data.report.template == "plain"

    further = shop.tuner(shop.layer(model=str(folder), training={"epochs": 1, "batch_size": 6}))
    further.run()
    assert further.data.report.template == "plain"
    assert (further.folder.output_dir / "chat_template.jinja").read_text() == (folder / "chat_template.jinja").read_text()
