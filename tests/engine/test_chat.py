"""The chat: turns are remembered, answers stream, Ctrl-C ends one answer, adapters and whole models both work."""

import signal

import pytest
import torch
from finished_run import base_folder, finished_run
from letters import llama, parrot, tokenizer

from finetune.errors import BadInput
from finetune.recipe import Recipe
from finetune.run.chat import Talk, _answer_both, _next, chat
from finetune.runtime import RuntimeOptions
from finetune.stopping import Ended, ended_like_ctrl_c


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def talk(folder, messages, tmp_path):
    asked, shown = iter(messages), []

    def ask():
        try:
            return next(asked)
        except StopIteration:
            raise EOFError from None

    chat(folder, RuntimeOptions(device="cpu", dtype="float32", cache_dir=tmp_path / "cache"), ask, shown.append)
    return shown


def said(conversation, message):
    pieces = []
    conversation.answer(message, pieces.append)
    return "".join(pieces)


@pytest.mark.parametrize("adapter", [True, False])
def test_adapter_and_whole_model_folders_answer_until_exit(tmp_path, adapter):
    base = base_folder(tmp_path / "base")
    run = finished_run(tmp_path / "run", base, Recipe.from_layers({"model": str(base)}), adapter=adapter)
    shown = talk(run.output_dir, ["who?", "  ", "/exit", "never asked"], tmp_path)
    assert len("".join(shown)) > 1
    assert shown.count("\n") == 1
    assert talk(run.output_dir, ["who?"], tmp_path) == shown  # the end of the input ends it too


@pytest.mark.parametrize("templated", [True, False])
def test_an_answer_continues_everything_that_was_said(templated):
    made = tokenizer(chat=templated)
    conversation = Talk(llama(seed=3), made)
    first, second = said(conversation, "who?"), said(conversation, "why?")
    assert [turn["role"] for turn in conversation.turns] == ["user", "assistant", "user", "assistant"]
    assert conversation.turns[1]["content"] == first.strip()
    if templated:
        so_far = f"<|user|>who?<|end|><|assistant|>{first.strip()}<|end|><|user|>why?<|end|><|assistant|>"
    else:
        so_far = f"who?\n{first.strip()}</s>why?\n"
    ids = torch.tensor([made(so_far, add_special_tokens=False)["input_ids"]])
    stops = conversation.stops
    expected = llama(seed=3).generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=128, eos_token_id=stops, do_sample=False)
    assert second == made.decode(expected[0, ids.shape[1] :], skip_special_tokens=True)


def test_an_answer_comes_in_pieces():
    made, shown = tokenizer(), []
    Talk(parrot(made, list("so ")), made).answer("speak", shown.append)
    assert "".join(shown).startswith("so so so ")
    assert len(shown) > 20


def test_ctrl_c_ends_the_answer_and_keeps_what_was_said():
    made, shown = tokenizer(), []
    conversation = Talk(parrot(made, list("so ")), made)

    def show(piece):
        shown.append(piece)
        if "".join(shown) == "so so ":
            signal.raise_signal(signal.SIGINT)

    conversation.answer("speak", show)
    assert "".join(shown) == "so so "
    assert conversation.turns[-1] == {"role": "assistant", "content": "so so"}
    assert len(said(conversation, "again")) > 60


def test_a_signal_to_end_ends_more_than_the_answer():
    made, shown = tokenizer(), []
    conversation = Talk(parrot(made, list("so ")), made)

    def show(piece):
        shown.append(piece)
        if "".join(shown) == "so so ":
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Ended), ended_like_ctrl_c():
        conversation.answer("speak", show)
    assert "".join(shown) == "so so "


def test_ctrl_c_at_the_prompt_ends_the_talk_and_a_signal_to_end_the_program():
    def pressed(error):
        raise error

    assert _next(lambda: pressed(KeyboardInterrupt)) is None
    with pytest.raises(Ended):
        _next(lambda: pressed(Ended))


def test_old_turns_are_forgotten_when_the_context_is_full():
    conversation = Talk(llama(seed=3), tokenizer(chat=True))
    for number in range(6):
        said(conversation, "a question of some length " * (number + 1))
    assert conversation.turns[0]["role"] == "user"
    assert len(conversation.turns) < 12


def test_an_error_inside_the_model_comes_out_and_does_not_hang_the_talk():
    model = llama()
    conversation = Talk(model, tokenizer())
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(3, 5))
    with pytest.raises(RuntimeError):
        said(conversation, "who?")


# Beside the model it came from.


def both(folder, messages, tmp_path, **options):
    """Everything that was shown, with whose turn it was and the remarks in brackets."""
    asked, shown = iter(messages), []
    chat(
        folder,
        RuntimeOptions(device="cpu", dtype="float32", cache_dir=tmp_path / "cache"),
        lambda: next(asked, "/exit"),
        shown.append,
        side=lambda name: shown.append(f"<{name}>"),
        say=lambda text: shown.append(f"[{text}]"),
        **options,
    )
    return "".join(shown)


def alone(folder, message, tmp_path):
    return "".join(talk(folder, [message], tmp_path)).removesuffix("\n")


def test_base_and_tuned_answer_the_same_message_each_as_it_does_alone(tmp_path):
    base = base_folder(tmp_path / "base")
    run = finished_run(tmp_path / "run", base, Recipe.from_layers({"model": str(base)}))
    shown = both(run.output_dir, ["who?"], tmp_path, both=True)
    expected = {name: alone(folder, "who?", tmp_path) for name, folder in (("base", base), ("tuned", run.output_dir))}
    assert expected["base"] != expected["tuned"]
    assert shown == f"[Loading the base, {base} ...]<base>{expected['base']}<tuned>{expected['tuned']}<>"


def test_the_other_model_is_asked_in_only_when_somebody_wants_it_and_can_be_sent_out_again(tmp_path):
    base = base_folder(tmp_path / "base")
    run = finished_run(tmp_path / "run", base, Recipe.from_layers({"model": str(base)}))
    shown = both(run.output_dir, ["/both", "who?", "/both", "why?"], tmp_path)
    assert shown.startswith("[Both models answer from now on.][Loading the base")
    assert shown.count("<base>") == 1
    assert shown.index("<>") < shown.index("[Only the trained model answers from now on.]")
    assert shown.endswith("\n")
    assert "Loading" not in both(run.output_dir, ["who?"], tmp_path)


def test_a_student_stands_beside_its_teacher(tmp_path):
    base = base_folder(tmp_path / "teacher")
    recipe = Recipe.from_layers({"approach": "distillation", "teacher": str(base)})
    run = finished_run(tmp_path / "run", base, recipe, adapter=False)
    shown = both(run.output_dir, ["who?"], tmp_path, both=True)
    assert [name for name in ("<teacher>", "<student>", "<>") if name in shown] == ["<teacher>", "<student>", "<>"]


def test_ctrl_c_ends_one_of_two_answers_and_each_model_remembers_its_own_words():
    made, shown = tokenizer(), []
    first, second = Talk(parrot(made, list("so ")), made), Talk(parrot(made, list("no ")), made)

    def show(piece):
        shown.append(piece)
        if "".join(shown) == "<base>so so ":
            signal.raise_signal(signal.SIGINT)

    _answer_both("speak", [("base", first), ("tuned", second)], show, lambda name: shown.append(f"<{name}>"))
    assert "".join(shown).startswith("<base>so so <tuned>no no no ")
    assert shown[-1] == "<>"
    assert first.turns[-1]["content"] == "so so"
    assert second.turns[-1]["content"].startswith("no no no")


def test_a_model_of_unknown_origin_cannot_be_compared_and_says_so(tmp_path):
    with pytest.raises(BadInput, match="does not name the model it came from"):
        both(base_folder(tmp_path / "base"), ["who?"], tmp_path, both=True)
