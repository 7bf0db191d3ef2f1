"""What a notebook user types: names of models, rows as they are at hand, numbers as text; what is printed is ours alone."""

from __future__ import annotations

import json
import logging
import os
import shutil
import traceback
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import warm
from chat_templates import FAMILIES
from letters import llama, tokenizer
from pico import arguments
from workshop import Workshop

import finetune
from finetune import DistillationTrainer, LLMFineTuner
from finetune.data.in_memory import tokens
from finetune.data.tokens.encoder import NO_LOSS
from finetune.distillation.caches.builder import build_cache
from finetune.distillation.objectives import through_softmax_
from finetune.distillation.objectives.check import check_gradient
from finetune.distillation.objectives.forward_kl import ForwardKL
from finetune.distillation.trainer_inputs import as_tokens
from finetune.errors import DatasetError, ModelError, RecipeError
from finetune.events import Progress, Recorder
from finetune.registry import load, names
from finetune.system.library_warnings import KERNEL, ROUNDED, hush
from finetune.training.callbacks import ReportSteps

PAIRS = [{"prompt": f"say {word}", "completion": f"{word} {word}"} for word in ("cat", "dog", "bird", "fish", "cow", "hen", "fox", "owl")]


def test_the_package_lists_what_it_has() -> None:
    for name in ("LLMFineTuner", "Recipe", "DistillationTrainer", "RuntimeOptions", "FinetuneError", "__version__"):
        assert name in dir(finetune)
        assert getattr(finetune, name)
    said = warm.run(["-c", "import finetune; help(finetune)"], Path(__file__).parents[2], os.environ).stdout
    for words in ("class LLMFineTuner", "class DistillationTrainer", "class Recipe", finetune.__version__, "fine-tune or distil"):
        assert words in said
    with pytest.raises(AttributeError, match="it has LLMFineTuner"):
        finetune.LLMFinetuner  # noqa: B018


def test_a_run_says_what_its_reporter_says_and_nothing_else(
    shop: Workshop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    library: list[logging.LogRecord] = []
    monkeypatch.setattr(logging.getLogger("transformers").handlers[0], "emit", library.append)
    model = Path(shutil.copytree(shop.model, shop.folder / "other ids"))  # which a Trainer makes the tokenizer's, and says so
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "pad_token_id": None, "bos_token_id": None}))
    LLMFineTuner(shop.layer(model=str(model)), runtime=shop.runtime).run()
    assert (capsys.readouterr().out, library) == ("", [])
    LLMFineTuner(shop.layer(), runtime=shop.runtime, reporter=finetune.PlainReporter()).run()
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith(" ...")
    assert any(line.startswith("Training: ") and "tokens/s" in line for line in said)
    assert not any("'loss'" in line or "\r" in line for line in said)


def test_a_run_from_rows_in_memory_and_numbers_as_text(shop: Workshop) -> None:
    layer = shop.layer(dataset={"source": PAIRS, "held_out": "0.25", "max_length": "64"}, training={"epochs": "2", "learning_rate": "1e-2"})
    tuner = LLMFineTuner(layer, runtime=shop.runtime, seed="3")
    result = tuner.run()
    assert (tuner.data.report.read, tuner.recipe.seed) == (8, 3)
    assert result.training["steps"] > 0
    assert Path(tuner.recipe.dataset.source).is_file(), "the recipe of the run names a file, so it can be repeated"


def test_the_calls_that_users_know_give_the_run_of_a_recipe(shop: Workshop) -> None:
    """In the order in which they were always made: the model is loaded before there is a teacher, and before the temperature is known."""
    model, training = str(shop.smaller_model()), {"epochs": 1, "batch_size": 6, "learning_rate": 0.01}
    tuner = shop.tuner(shop.layer(model=model, training=training))
    tuner.load_model()
    tuner.load_teacher_model(str(shop.model))
    tuner.train_distillation(temperature=4.0, alpha=0.3, epochs=2)
    scores = tuner.benchmark()
    distilled = {"method": "lora", "distillation": {"temperature": 4.0, "alpha": 0.3}, "training": {**training, "epochs": 2}}
    by_recipe = shop.tuner(shop.distilling(model=model, **distilled)).run()
    for name in ("teacher", "before", "after", "retention", "teacher_agreement"):
        assert scores.get(name) == by_recipe.scores.get(name)
    assert scores["teacher"]["perplexity"] > 0
    adapters = [(folder / "adapter_model.safetensors").read_bytes() for folder in (tuner.folder.output_dir, by_recipe.output_dir)]
    assert adapters[0] == adapters[1]


def test_a_traceback_shows_what_to_do_next() -> None:
    with pytest.raises(RecipeError) as refused:
        finetune.Recipe.from_layers({"training": {"epochs": "many"}})
    shown = "".join(traceback.format_exception(refused.value))
    assert str(refused.value) == "training.epochs must be 'auto' or a number, not 'many'."
    assert shown.endswith(f"not 'many'.\n{refused.value.hint}\n")


def test_an_unknown_keyword_of_a_distillation_names_the_nearest(shop: Workshop) -> None:
    with pytest.raises(RecipeError, match=r"train_distillation has no keyword temp. Did you mean temperature\?"):
        shop.tuner(shop.distilling()).train_distillation(temp=3.0)


def test_the_cache_of_runtime_options_can_be_text(tmp_path: Path) -> None:
    assert finetune.RuntimeOptions(cache_dir=str(tmp_path)).cache_dir == tmp_path  # type: ignore[arg-type]


def test_a_teacher_by_name_teaches_on_rows_of_text(shop: Workshop, tmp_path: Path) -> None:
    trainer = DistillationTrainer(
        str(shop.smaller_model()), arguments(tmp_path, max_steps=2), teacher_model=shop.model, temperature="2.0", alpha="5e-1",
        train_dataset=PAIRS,
    )  # fmt: skip
    assert (trainer.temperature, trainer.alpha) == (2.0, 0.5)
    assert trainer.train_dataset[0] == tokens(PAIRS, tokenizer(chat=True))[0]
    assert trainer.train().global_step == 2
    assert trainer.last_parts["kl"] > 0


def test_it_resumes_and_evaluates_as_every_trainer_does(tmp_path: Path) -> None:
    def made(folder: Path) -> DistillationTrainer:
        given = {"train_dataset": PAIRS, "eval_dataset": {"some": PAIRS[:4], "others": PAIRS[4:]}, "processing_class": tokenizer(chat=True)}
        settings = arguments(folder, max_steps=4, save_strategy="steps", save_steps=2, train_sampling_strategy="random")
        return DistillationTrainer(llama(seed=1), settings, teacher_model=llama(seed=3), **given)

    whole, again = made(tmp_path / "whole"), made(tmp_path / "again")
    whole.train()
    assert {"eval_some_loss", "eval_others_kl"} <= whole.evaluate().keys()
    again.train()
    shutil.rmtree(tmp_path / "again" / "checkpoint-4")
    for newest in (True, tmp_path / "again" / "checkpoint-2"):
        resumed = made(tmp_path / "again")
        assert resumed.train(resume_from_checkpoint=newest).global_step == 4
        shutil.rmtree(tmp_path / "again" / "checkpoint-4")
        for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
            assert torch.equal(ours, theirs)
        assert (resumed.real_tokens, resumed.supervised_tokens) == (whole.real_tokens, whole.supervised_tokens)


def test_rows_of_text_are_the_tokens_that_a_recipe_would_prepare(shop: Workshop) -> None:
    layer = shop.layer(dataset={"source": PAIRS, "max_length": 64})
    prepared = LLMFineTuner(layer, runtime=shop.runtime).prepare_data()
    ours = tokens(PAIRS, tokenizer(chat=True), max_length=64)
    for row in prepared.train:
        assert {name: row[name] for name in ("input_ids", "labels", "answer_start")} in ours


def asked(text: str, **more: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "q"}, {"role": "assistant", "content": text, **more}]


def test_rows_in_memory_are_read_as_those_of_a_recipe_are(recwarn: pytest.WarningsRecorder) -> None:
    qwen = FAMILIES["qwen3"].tokenizer

    def learned(rows: Any, **settings: Any) -> list[str]:
        return [qwen.decode([label for label in row["labels"] if label != NO_LOSS]) for row in tokens(rows, qwen, **settings)]

    marked = [{"prompt": "q", "completion": "good", "label": True}, {"prompt": "q", "completion": "bad", "label": False}]
    assert learned([*marked, {"prompt": "", "completion": None}]) == ["good<|im_end|>"]
    assert learned([{"messages": asked("a", reasoning_content="r")}]) == ["<think>\nr\n</think>\n\na<|im_end|>"]
    assert learned([{"prompt": "q", "completion": "long " * 20}], max_length=20)[0].startswith("long long")
    assert '"add"' in qwen.decode(tokens([{"messages": asked("a"), "tools": [{"name": "add", "parameters": {}}]}], qwen)[0]["input_ids"])
    assert [str(warning.message) for warning in recwarn] == [
        "1 row is left out: column label marks the answer as undesired. Rename the column if it means something else.",
        "1 row is blank.",
        "1 row is cut to 20 tokens.",
    ]
    for rows, sentence in (
        ([{"messages": asked("a"), "images": ["a.jpg"]}], "Row 1 cannot be used: column images has images, audio or video"),
        ([{"prompt": "q", "completion": "a", "label": False}] * 2, "no row is to be learned"),
        ([{"prompt": "", "completion": None}] * 2, "the columns prompt, completion are empty in every row"),
    ):
        with pytest.raises(DatasetError, match=sentence):
            tokens(rows, qwen)


def test_text_with_the_markers_of_a_chat_is_learned_as_it_is() -> None:
    """A script that wrote them has no recipe in which it could say that it means them."""
    qwen, text = FAMILIES["qwen3"].tokenizer, "### Human: a### Assistant: b"
    (row,) = tokens([text], qwen)
    assert qwen.decode(row["input_ids"]).startswith(text)
    assert row["answer_start"] == 0


def test_a_file_of_tokens_is_used_as_it_is_and_checked(tmp_path: Path) -> None:
    file, qwen = tmp_path / "rows.jsonl", FAMILIES["qwen3"].tokenizer
    file.write_text('{"input_ids": [5, 6, 7], "labels": [-100, -100, 7]}\n')
    with pytest.warns(UserWarning, match="tokenised already"):
        assert as_tokens(file, qwen) == [{"input_ids": [5, 6, 7], "labels": [NO_LOSS, NO_LOSS, 7], "answer_start": 2}]
    file.write_text('{"input_ids": [5, 99999]}\n')
    with pytest.raises(DatasetError, match="Row 1 cannot be used: token 99999 is not in the model's vocabulary"):
        as_tokens(file, qwen)


def test_rows_of_a_file_by_its_name(shop: Workshop, tmp_path: Path) -> None:
    trainer = DistillationTrainer(
        llama(seed=1), arguments(tmp_path), teacher_model=llama(seed=3), train_dataset=shop.rows, processing_class=tokenizer(chat=True)
    )
    assert len(trainer.train_dataset) == 32


@pytest.mark.parametrize(
    ("changes", "kind", "sentence"),
    [
        ({"temperature": "hot"}, RecipeError, "temperature must be a number, not 'hot'."),
        ({"alpha": 2}, RecipeError, "alpha must be at most 1, not 2."),
        ({"teacher_model": "./no/such/folder"}, ModelError, "There is no folder ./no/such/folder."),
        ({"train_dataset": PAIRS, "processing_class": None}, DatasetError, "The rows are text, and there is no tokenizer for them."),
        ({"train_dataset": [{"left": "a", "right": "b"}]}, DatasetError, "The dataset has the columns left, right, and none"),
        ({"teacher_model": 3}, RecipeError, "teacher_model is of type int."),
        ({"teacher_modle": 3}, RecipeError, "DistillationTrainer has no keyword teacher_modle. Did you mean teacher_model?"),
        ({"eval_datset": []}, RecipeError, "DistillationTrainer has no keyword eval_datset. Did you mean eval_dataset?"),
        ({"args": {"num_train_epochs": 1}}, RecipeError, "args is of type dict."),
        ({"train_dataset": []}, DatasetError, "The data contains no rows."),
        ({"train_dataset": "no-such-rows.jsonl"}, DatasetError, "There is no file no-such-rows.jsonl."),
        ({"objective": "forward_lk"}, RecipeError, "There is no objective 'forward_lk'. Did you mean forward_kl?"),
        ({"objective": ForwardKL}, RecipeError, "objective is the class ForwardKL."),
        ({"objective": None}, RecipeError, "objective cannot be called with p, q, ratio and shift: it is of type NoneType."),
        ({"objective": lambda p, q: q}, RecipeError, "objective cannot be called with p, q, ratio and shift: it is of type function."),
    ],
)
def test_a_refusal_is_one_sentence(changes: dict[str, Any], kind: type[Exception], sentence: str, tmp_path: Path) -> None:
    given = {"teacher_model": llama(seed=3), "train_dataset": PAIRS, "processing_class": tokenizer(chat=True), **changes}
    given.setdefault("args", arguments(tmp_path))
    with pytest.raises(kind) as refused:
        DistillationTrainer(llama(seed=1), **given)
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)
    assert "--set" not in str(refused.value.hint), "there is no recipe"


# A gradient check for plugins.


@pytest.mark.parametrize("name", names("objectives"))
def test_every_objective_passes_the_check_that_plugins_can_call(name: str) -> None:
    check_gradient(load("objectives", name)())


class Squared:
    """The example of DISTILLATION_UPDATE.md."""

    def __call__(self, p: Any, q: Any, ratio: Any, shift: Any) -> Any:
        value = 0.5 * (p - q).square().sum()
        through_softmax_(p, p - q)
        return value


class WrongGradient(Squared):
    def __call__(self, p: Any, q: Any, ratio: Any, shift: Any) -> Any:
        value = super().__call__(p, q, ratio, shift)
        p.mul_(1.01)
        return value


class ForgetsTheShift:
    def __call__(self, p: Any, q: Any, ratio: Any, shift: Any) -> Any:
        value = (p * ratio).sum()
        through_softmax_(p, ratio + 1)
        return value


class PerToken(Squared):
    def __call__(self, p: Any, q: Any, ratio: Any, shift: Any) -> Any:
        return super().__call__(p, q, ratio, shift) * torch.ones(4)


class MeanOfTokens(Squared):
    def __call__(self, p: Any, q: Any, ratio: Any, shift: Any, *, each: bool = False) -> Any:
        value = super().__call__(p, q, ratio, shift)
        return (value / len(p)).expand(len(p)) if each else value


def test_the_check_accepts_the_example_of_the_page_and_finds_each_mistake() -> None:
    check_gradient(Squared())
    mistakes = {WrongGradient: "token 0, word 0", ForgetsTheShift: "must be 0", PerToken: "one finite number", MeanOfTokens: "each=True"}
    for wrong, words in ((kind(), words) for kind, words in mistakes.items()):
        with pytest.raises(AssertionError, match=words):
            check_gradient(wrong)


# What the plan and the screen say while the teacher is asked, and after an interruption.


def test_the_progress_of_asking_the_teacher_moves_within_a_shard(tmp_path: Path) -> None:
    recorder, rows = Recorder(), tokens([{"prompt": "say it", "completion": "word " * 12}] * 200, tokenizer(chat=True))
    build_cache("hidden", llama(seed=1), rows, tmp_path / "cache", reporter=recorder)
    done = [event.done for event in recorder.of(Progress)]
    assert done[0] == 0
    assert done == sorted(done)
    assert len(set(done)) > 2, "one shard, several batches"
    assert done[-1] == recorder.of(Progress)[-1].total


@pytest.mark.parametrize("settings", [{}, {"cache": "hidden"}, {"objective": "jsd"}, {"supervise": "answers"}])
def test_the_cache_takes_what_the_plan_says(settings: dict[str, Any], tmp_path: Path) -> None:
    shop = Workshop(tmp_path)
    tuner = shop.tuner(shop.distilling(distillation=settings))
    planned = tuner.plan().cache_bytes
    tuner.train()
    (folder,) = (path.parent for path in (shop.runtime.cache_dir / "teachers").glob("*/index.json"))
    written = sum(file.stat().st_size for file in folder.iterdir())
    assert planned == pytest.approx(written, rel=0.2, abs=10_000)


class Memory:
    def now(self) -> int:
        return 0

    def highest(self) -> int:
        return 0


def pace_after(seconds: list[float], monkeypatch: pytest.MonkeyPatch, earlier: float = 0.0) -> float:
    """Seconds a step after steps that took so long."""
    moments = [sum(seconds[:number]) for number in range(len(seconds) + 1)]
    steps = ReportSteps(Recorder(), Memory())  # type: ignore[arg-type]
    steps.trainer = type("Trainer", (), {"real_tokens": 0, "last_parts": {}})()
    steps.earlier_pace = earlier
    clock = iter(moments)
    monkeypatch.setattr("finetune.training.callbacks.time.perf_counter", lambda: next(clock, moments[-1]))
    steps.on_train_begin(None, None, None)
    state = type("State", (), {"global_step": 1, "max_steps": 2, "epoch": 0.0})()
    for _ in seconds:
        steps.on_log(None, state, None, logs={"loss": 1.0})
    return steps._pace()


def test_the_first_step_of_a_process_does_not_decide_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pace_after([20.0], monkeypatch) == 20.0, "nothing else is known"
    assert pace_after([20.0, 1.0, 1.0], monkeypatch) == 1.0
    assert pace_after([20.0], monkeypatch, earlier=1.5) == 1.5, "after an interruption it is"
    assert pace_after([20.0, 1.0, 1.0, 1.0], monkeypatch, earlier=9.0) == 1.0


def test_a_program_that_was_stopped_for_an_hour_does_not_have_years_left(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pace_after([1.0, 1.0, 3600.0, 1.0, 1.0], monkeypatch) == (10.0 + 3) / 4
    assert pace_after([1.0, 1.0, 4.0, 1.0, 2.0], monkeypatch) == 2.0, "steps of many lengths count as they are"


# Noise.


def test_they_are_dropped_before_a_public_name_loads_the_library(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")  # which warns when it is imported
    monkeypatch.setattr(logger, "filters", [])
    assert finetune.DistillationTrainer
    logger.warning(f"{KERNEL} from kernels-community")
    assert not caplog.records


def test_some_messages_of_libraries_are_dropped_and_no_others(caplog: pytest.LogCaptureFixture) -> None:
    hush()
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    with caplog.at_level(logging.WARNING):
        logger.warning(f"{KERNEL} from kernels-community: %s.", "no network")
        logger.warning("Something else.")
        logging.getLogger("bitsandbytes.autograd._functions").warning(f"{ROUNDED} from %s to float16", torch.float32)  # at every product
    assert [record.getMessage() for record in caplog.records] == ["Something else."]
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        hush()
        assert not llama().is_gradient_checkpointing
        warnings.warn("Another name is deprecated", FutureWarning, stacklevel=1)
    assert [str(warning.message) for warning in heard] == ["Another name is deprecated"]
