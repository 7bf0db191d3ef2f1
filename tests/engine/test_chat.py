"""The chat: turns are remembered, answers stream, Ctrl-C ends one answer, adapters and whole models both work."""

import signal

import pytest
import torch
from finished_run import base_folder, finished_run
from letters import llama, parrot, tokenizer

from finetune.chat import Talk, chat
from finetune.recipe import Recipe
from finetune.runtime import RuntimeOptions


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
    assert shown[:3] == ["so ", "so ", "so "]
    assert len(shown) > 20


def test_ctrl_c_ends_the_answer_and_keeps_what_was_said():
    made, shown = tokenizer(), []
    conversation = Talk(parrot(made, list("so ")), made)

    def show(piece):
        shown.append(piece)
        if len(shown) == 2:
            signal.raise_signal(signal.SIGINT)

    conversation.answer("speak", show)
    assert shown == ["so ", "so "]
    assert conversation.turns[-1] == {"role": "assistant", "content": "so so"}
    assert len(said(conversation, "again")) > 60


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
