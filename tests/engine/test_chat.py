"""The chat: turns are remembered, answers stream, Ctrl-C ends one answer, adapters and whole models both work."""

import json
import signal

import pytest
import torch
from chat_templates import FAMILIES
from finished_run import base_folder, finished_run
from letters import llama, parrot, tokenizer
from workshop import Workshop

from finetune.errors import BadInput, ModelNotFound
from finetune.recipe import Recipe
from finetune.run.chat import COMMANDS, SINGLE, Talk, _answer_both, _next, asked_to_think, chat, single_turn
from finetune.run.moved import told_if_moved
from finetune.runtime import RuntimeOptions
from finetune.system.stopping import Ended, ended_like_ctrl_c


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


@pytest.mark.parametrize(
    "own",
    [
        {"num_beams": 4},
        {"stop_strings": ["cat"]},
        {"num_return_sequences": 3},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"temperature": 0.0},
        {"top_p": 7, "typical_p": "hot"},
    ],
)
def test_whatever_a_model_asks_of_other_programs_it_can_be_talked_to(tmp_path, own):
    base = base_folder(tmp_path / "base")
    path = base / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_sample": True, **own}))
    assert "\n" in talk(base, ["what is a cat?"], tmp_path)


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


def test_a_base_that_is_gone_does_not_end_the_conversation(tmp_path):
    gone = tmp_path / "gone"
    run = finished_run(tmp_path / "run", base_folder(tmp_path / "base"), Recipe.from_layers({"model": str(gone)}), adapter=False)
    said = f"There is no folder {gone}."
    shown = both(run.output_dir, ["/both", "who?"], tmp_path)
    assert f"[{said} So the trained model answers alone.]{alone(run.output_dir, 'who?', tmp_path)}" in shown
    with pytest.raises(ModelNotFound, match=said) as refused, told_if_moved(run):
        both(run.output_dir, [], tmp_path, both=True)
    assert refused.value.hint == f"If it was moved, write where it is now into `model` of {run.recipe}."


def test_a_base_that_is_not_what_the_adapter_was_trained_on_is_told(tmp_path):
    base = base_folder(tmp_path / "base")
    run = finished_run(tmp_path / "run", base, Recipe.from_layers({"model": str(base)}))
    assert "has changed" not in both(run.output_dir, [], tmp_path)
    run.write_json(run.environment, {"model": {"identity": "another"}})
    assert f"[{base} has changed since the adapter was trained on it" in both(run.output_dir, [], tmp_path)
    run.environment.write_text("{")  # no reason to refuse a chat
    assert "is not known: " in both(run.output_dir, [], tmp_path)


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


def test_a_talk_asks_as_training_did(tmp_path):
    made = FAMILIES["qwen3"].tokenizer
    base = base_folder(tmp_path / "base")
    run = finished_run(tmp_path / "run", base, Recipe.from_layers({"model": str(base)}))
    for told, opened in ((None, "<think>\n\n</think>\n\n"), (False, "<think>\n\n</think>\n\n"), (True, "")):
        report = run.read_json(run.data_report) if run.data_report.is_file() else {}
        run.write_json(run.data_report, {**report, "thinking": told})
        conversation = Talk(llama(vocabulary=len(made)), made, thinking=asked_to_think(run.output_dir))
        conversation.turns.append({"role": "user", "content": "a<|im_end|>b"})
        assert made.decode(conversation._prompt()[0]) == f"<|im_start|>user\na<|im_end|>b<|im_end|>\n<|im_start|>assistant\n{opened}"
        assert conversation._prompt()[0].tolist().count(made.convert_tokens_to_ids("<|im_end|>")) == 1
    assert not asked_to_think(base)


def test_a_model_is_asked_behind_the_system_prompt_that_all_its_rows_had(tmp_path):
    run = trained_on(tmp_path, format="messages", most_answers=1, system_prompt="be a cat")
    shown = both(run.output_dir, ["who?", "/system", "who?", "/system be a dog", "who?"], tmp_path)
    assert shown.startswith("[All rows it was trained on had this system prompt, so it has it here too (/system changes it): be a cat]")
    made, asked = tokenizer(chat=True), []
    for system in ("be a cat", "", "be a dog"):
        conversation = Talk(llama(seed=3), made, system=system)
        conversation.turns.append({"role": "user", "content": "who?"})
        asked.append(made.decode(conversation._prompt()[0]))
    assert asked == [f"{told}<|user|>who?<|end|><|assistant|>" for told in ("<|system|>be a cat<|end|>", "", "<|system|>be a dog<|end|>")]
    answers = shown.split("alone.")[0], *(part.partition("]")[2] for part in shown.split("[")[3:])
    assert "[No system prompt from now on.]" in shown
    assert "[The system prompt from now on: be a dog]" in shown
    assert len(set(answers)) == 3
    run.write_json(run.data_report, {**run.read_json(run.data_report), "system_prompt": None, "opening": "Translate into\nFrench:"})
    assert "[All questions it was trained on began with these words, and yours should too: Translate into French:]" in both(
        run.output_dir, [], tmp_path
    )
    assert "did not all have the same system prompt" in both(run.output_dir, ["/exit"], tmp_path)


def test_a_message_longer_than_the_context_keeps_its_beginning():
    made = FAMILIES["llama2"].tokenizer
    conversation = Talk(llama(vocabulary=len(made)), made)
    conversation.turns.append({"role": "user", "content": "word " * 300 + "the end"})
    asked = conversation._prompt()[0].tolist()
    assert len(asked) == 128
    assert asked[0] == made.bos_token_id
    assert made.decode(asked).endswith("the end [/INST]")


# Commands, and what is remembered.


def trained_on(tmp_path, **report):
    base = base_folder(tmp_path / "base")
    run = finished_run(tmp_path / "run", base, Recipe.from_layers({"model": str(base)}))
    run.write_json(run.data_report, {"train": 90, "held_out": 12, "template": "chat", **report})
    return run


@pytest.mark.parametrize(
    ("report", "single"),
    [
        ({"format": "question_answer"}, True),
        ({"format": "text"}, True),
        ({"format": "messages", "most_answers": 1}, True),
        ({"format": "messages", "most_answers": 3}, False),
        ({"format": "messages"}, False),  # of an older version
        ({}, False),
    ],
)
def test_whether_rows_were_single_questions_is_read_from_the_run(tmp_path, report, single):
    assert single_turn(trained_on(tmp_path, **report).output_dir) is single


def test_a_model_of_single_questions_sees_each_message_alone_and_says_so(tmp_path):
    run = trained_on(tmp_path, format="question_answer")
    shown = both(run.output_dir, ["who?", "why?"], tmp_path)
    second = alone(run.output_dir, "why?", tmp_path)
    assert shown == f"[{SINGLE}]{alone(run.output_dir, 'who?', tmp_path)}\n{second}\n"
    remembering = both(run.output_dir, ["/remember", "who?", "why?"], tmp_path)
    assert "[The model sees what was said before.]" in remembering
    assert remembering.split("\n")[-2] != second, "with the first message before it, it answers something else"


def test_a_model_whose_training_was_stopped_says_so(tmp_path):
    run = trained_on(tmp_path, format="messages", most_answers=4)
    run.write_stage("training")
    assert both(run.output_dir, [], tmp_path) == "[Its training was stopped before its end; resume continues it.]"


@pytest.mark.parametrize("word", ["/new", "/reset", "/clear"])
def test_a_new_chat_forgets_what_was_said(tmp_path, word):
    run = trained_on(tmp_path, format="messages", most_answers=4)
    shown = both(run.output_dir, ["who?", word, "why?"], tmp_path)
    assert shown == (
        f"{alone(run.output_dir, 'who?', tmp_path)}\n[A new chat: what was said is forgotten.]{alone(run.output_dir, 'why?', tmp_path)}\n"
    )


@pytest.mark.parametrize(
    ("line", "named"), [("/halp", "Did you mean /help?"), ("/hepl me", "/hepl."), ("/", "/."), ("/usr/bin", "/usr/bin.")]
)
def test_a_line_that_begins_with_a_slash_never_goes_to_the_model(tmp_path, line, named):
    run = trained_on(tmp_path, format="question_answer")
    shown = both(run.output_dir, [line], tmp_path)
    assert shown.startswith(f"[{SINGLE}][There is no command ")
    assert named in shown
    assert shown.endswith("The model has not seen this line.]")


def test_help_lists_every_command_and_quit_ends(tmp_path):
    run = trained_on(tmp_path, format="messages")
    shown = both(run.output_dir, ["/help", "/quit", "never asked"], tmp_path)
    assert all(f"{name:<10}" in shown for name in COMMANDS)
    assert shown.count("[") == 1


def test_a_run_counts_the_answers_of_its_rows(tmp_path):
    shop = Workshop(tmp_path)
    turns = [[{"role": role, "content": f"say {'abcdefghijkl'[at]}"} for role in ("user", "assistant") * 3] for at in range(12)]
    tuner = shop.tuner(shop.layer(dataset={"source": str(shop.rows), "samples": None}))
    assert tuner.data.report.most_answers == 1
    chats = tmp_path / "chats.jsonl"
    chats.write_text("".join(json.dumps({"messages": turns[at][: 2 * (1 + at % 3)]}) + "\n" for at in range(12)))
    tuner = shop.tuner(shop.layer(dataset={"source": str(chats), "samples": None, "max_length": 128}))
    assert tuner.data.report.most_answers == 3
