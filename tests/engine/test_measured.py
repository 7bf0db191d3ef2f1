"""Models from anywhere measured on any rows: the scores of a run, paired differences, and what cannot be compared is said."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from pico import pico
from rich.console import Console
from transformers import PreTrainedTokenizerFast
from workshop import WORDS, Workshop

from finetune.benchmark.intervals import change, statistics_of
from finetune.command_line import commands
from finetune.errors import BadInput, BenchmarkError, EmptyDataset
from finetune.events import Notice, Recorder
from finetune.run.measured import measure_models, recipe_of
from finetune.screen.console import THEME
from finetune.screen.measured import measured_picture

FEW = ["benchmark.max_new_tokens=8", "dataset.max_length=64"]


@pytest.fixture(scope="module")
def run(shop: Workshop) -> Path:
    tuner = shop.tuner(shop.layer(), {"benchmark": {"rows": 8, "speed": False}})
    tuner.run()
    return tuner.folder.output_dir


def measured(shop: Workshop, models: list[str], data: str, *overrides: str, recorder: Recorder | None = None) -> dict:
    recipe = recipe_of(models, data, [*FEW, *overrides])
    return json.loads(json.dumps(measure_models(models, recipe, shop.runtime, recorder or Recorder()), allow_nan=False))


def shown(found: dict, width: int) -> str:
    console = Console(width=width, theme=THEME, file=io.StringIO())
    console.print(measured_picture(found, width))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_on_the_rows_of_a_run_two_models_have_the_scores_and_the_change_of_the_run(shop: Workshop, run: Path, tmp_path: Path) -> None:
    of_run = json.loads((run / "run" / "benchmark.json").read_text())
    data = tmp_path / "held_out.jsonl"
    rows = [{"prompt": row["prompt"], "completion": row["reference"]} for row in of_run["generations"]]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = measured(shop, [str(shop.model), str(run)], str(data))
    assert (found["rows"], [each["letter"] for each in found["models"]]) == (8, ["A", "B"])
    for each, side in zip(found["models"], ("before", "after"), strict=True):
        assert each["scores"] == pytest.approx(of_run[side], rel=1e-5)
        assert each["intervals"]["rougeL"] == pytest.approx(of_run["intervals"][side]["rougeL"])
        assert [row["answer"] for row in each["generations"]] == [row[side] for row in of_run["generations"]]
    for metric, expected in of_run["change"].items():
        difference = found["against_first"]["B"][metric]
        assert difference["verdict"] == expected["verdict"]
        assert [difference[end] for end in ("difference", "low", "high")] == pytest.approx(
            [expected[end] for end in ("difference", "low", "high")], rel=1e-4
        )
    pair = [statistics_of(each["per_row"])["perplexity"] for each in found["models"]]
    assert change("perplexity", pair[1], pair[0])["verdict"] == of_run["change"]["perplexity"]["verdict"]
    for width in (40, 120):
        text = " ".join(shown(found, width).split())
        assert f"A {shop.model}" in text or width == 40
        assert "Perplexity" in text
        assert "B against A: " in text
    assert "[-" in shown(found, 140)
    first, second = found["models"]
    repeats = {**found, "models": [first | {"endless": 0}, second | {"endless": 7}]}
    of_b = f"B: 7 of 8 answers did not end within {second['max_new_tokens']} tokens, though their references do."
    assert of_b in " ".join(shown(repeats, 120).split())
    assert shown(repeats, 120).count("did not end") == 1


def test_a_model_that_has_trained_on_the_rows_is_named(shop: Workshop, run: Path) -> None:
    source = yaml.safe_load((run / "run" / "recipe.yaml").read_text())["dataset"]["source"]
    recorder = Recorder()
    measured(shop, [str(shop.model), str(run)], source, recorder=recorder)
    said = [notice.text for notice in recorder.of(Notice) if "was trained on rows of" in notice.text]
    assert [f"{run.name} was trained on rows of {source}, " in text for text in said] == [True]


def test_rows_of_a_file_are_drawn_and_that_is_said_and_bad_ones_too(shop: Workshop, tmp_path: Path) -> None:
    data = tmp_path / "questions.jsonl"
    lines = [{"prompt": f"say {word}", "completion": word} for word in WORDS for _ in range(4)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"prompt": "say"}\n')
    recorder = Recorder()
    found = measured(
        shop, [str(shop.model)], str(data), "benchmark.rows=9", "benchmark.metrics=[accuracy]", "dataset.bad_rows=0.1", recorder=recorder
    )
    assert (found["rows"], found["usable_rows"]) == (9, 32)
    assert set(found["models"][0]["scores"]) == {"accuracy"}
    assert found["against_first"] == {}
    said = " ".join(notice.text for notice in recorder.of(Notice))
    assert "9 of the 32 rows are measured, drawn with seed 42; --set benchmark.rows=32 measures all." in said
    assert "1 row cannot be used, such as questions.jsonl line 33" in said
    assert "Right answers" in shown(found, 80)
    again = measured(shop, [str(shop.model)], str(data), "benchmark.rows=9", "benchmark.metrics=[accuracy]", "dataset.bad_rows=0.1")
    assert again == found


def test_models_with_other_tokens_are_compared_by_their_answers_alone(shop: Workshop, tmp_path: Path, words_model: Path) -> None:
    found = measured(shop, [str(shop.model), str(words_model), str(shop.model)], str(shop.rows), "benchmark.rows=8")
    against = found["against_first"]
    assert against["B"]["perplexity"] == {"why_not": "other tokens"}
    assert "verdict" in against["B"]["rougeL"]
    assert against["C"]["perplexity"]["difference"] == 0
    text = " ".join(shown(found, 100).split())
    assert "B and A cannot be compared by Perplexity: other tokens." in text
    assert "One such verdict in 20 is chance." in text


@pytest.fixture(scope="module")
def words_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer knows whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("words") / "model"
    words = ["<pad>", "</s>", "<unk>", "say", "a", "b", "c", "d", *WORDS]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    pico("llama").save_pretrained(folder)
    return folder


def test_rows_that_no_model_can_take_are_an_error(shop: Workshop, tmp_path: Path) -> None:
    data = tmp_path / "long.jsonl"
    data.write_text(json.dumps({"messages": [{"role": "tool", "content": "x"}, {"role": "assistant", "content": "y"}]}) + "\n")
    with pytest.raises((EmptyDataset, BadInput)):
        measured(shop, [str(shop.model)], str(data))


@pytest.mark.parametrize(
    ("models", "overrides", "words"),
    [
        (["a"], ["training.epochs=1"], "training.epochs has no effect on a measurement"),
        (["a"], ["dataset.held_out=0.2"], "dataset.held_out has no effect on a measurement"),
        (["a"] * 27, [], "At most 26 models"),
    ],
)
def test_what_says_nothing_about_a_measurement_is_refused(models: list[str], overrides: list[str], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        recipe_of(models, "rows.jsonl", overrides)


def typed(shop: Workshop, *models: str, **more: object) -> SimpleNamespace:
    flags = {"data": str(shop.rows), "set": [*FEW, "benchmark.rows=8"], "fail_if_worse": None, "json": True, "examples": False}
    machine = {"device": "cpu", "dtype": "float32", "trust_remote_code": False}
    return SimpleNamespace(models=list(models), **{**flags, **machine, **more})


def test_the_command_prints_no_text_of_rows_and_fails_where_the_second_is_worse(
    shop: Workshop, run: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_CLI_CACHE", str(shop.runtime.cache_dir))
    assert commands.benchmark(typed(shop, str(shop.model), str(run), fail_if_worse="perplexity")) == 0
    printed = json.loads(capfd.readouterr().out)
    assert printed["against_first"]["B"]["perplexity"]["verdict"] == "better"
    assert "generations" not in json.dumps(printed)
    with pytest.raises(BenchmarkError, match="Perplexity is worse than A: "):
        commands.benchmark(typed(shop, str(run), str(shop.model), fail_if_worse="perplexity"))
    with pytest.raises(BadInput, match="compares two models"):
        commands.benchmark(typed(shop, str(run), fail_if_worse="perplexity"))
    with pytest.raises(BadInput, match="need rows to measure on"):
        commands.benchmark(typed(shop, str(run), str(shop.model), data=None))
    with pytest.raises(BadInput, match=r"not a run folder") as error:
        commands.benchmark(typed(shop, str(shop.model), data=None, set=[]))
    assert "--data" in str(error.value.hint)
