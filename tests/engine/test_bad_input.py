"""What people get wrong: each ends in one clear sentence and exit code 2, before any long work and with nothing left behind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import warm
from bytes_tokenizer import byte_level
from hub_server import HubServer
from letters import llama
from odd_files import lines
from workshop import Workshop

from finetune.cli import main

GOOD = [{"prompt": f"say {letter}", "completion": f"{letter} {letter}"} for letter in "abcdefghijklmnopqrstuvwx"]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is fine in itself, but whose tokens mean something else."""
    folder, made = tmp_path_factory.mktemp("models") / "foreign", byte_level()
    llama(vocabulary=len(made)).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def arguments(shop: Workshop, **changes: Any) -> list[str]:
    """`run` of a recipe file in the working folder, on a pico model and `rows.jsonl`."""
    layer = {"model": str(shop.model), "dataset": {"source": "rows.jsonl", "samples": None}, "output_dir": "made"}
    Path("recipe.yaml").write_text(json.dumps({**layer, **changes}), encoding="utf-8")
    return ["run", "recipe.yaml", "--device", "cpu"]


def refused(given: list[str], capfd: pytest.CaptureFixture[str], *words: str) -> None:
    code = main(given)
    out, err = capfd.readouterr()
    said = [line for line in err.splitlines() if line and not line.endswith(" ...")]
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    message = [line for line in said if all(word in line for word in words)]
    assert len(message) == 1, f"{words} not in one sentence of {err}"
    assert message[0].endswith((".", "?")), message
    assert not Path("made").exists(), "nothing is left behind"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["rows.jsonl", "no"]),
        (lines(GOOD[:10]) + b'{"prompt": "say cat", "compl\n' + lines(GOOD[10:]), ["rows.jsonl", "11"]),
        (lines(GOOD[:1]), ["rows.jsonl", "only one usable row"]),
    ],
    ids=["missing file", "broken line", "one row"],
)
def test_data_that_cannot_be_used(
    content: bytes | None, words: list[str], place: Path, shop: Workshop, capfd: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (place / "rows.jsonl").write_bytes(content)
    refused(arguments(shop), capfd, *words)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.lerning_rate=1e-4", ["training.lerning_rate", "Did you mean training.learning_rate?"]),
        ("training.batch_size=many", ["training.batch_size", "many"]),
        ("method.kind=lara", ["lara", "Did you mean lora?"]),
        ("benchmark.metrics=[rogue]", ["rogue", "Did you mean rouge?"]),
        ("model=./no_such_folder", ["no_such_folder"]),
        ("model=../../etc\x07passwd", ["etc", "is not a valid model name"]),
        ("dataset.source=builtin:pyton-docs", ["pyton-docs"]),
        ("dataset.source=no/such-dataset", ["no/such-dataset"]),
        ("method.target_modules=[nothing_like_it]", ["nothing_like_it"]),
    ],
)
def test_values_that_cannot_be_meant(
    override: str, words: list[str], place: Path, shop: Workshop, capfd: pytest.CaptureFixture[str]
) -> None:
    (place / "rows.jsonl").write_bytes(lines(GOOD))
    refused([*arguments(shop), "--set", override], capfd, *words)


def test_a_model_that_the_hub_does_not_know(place: Path, tmp_path: Path, shop: Workshop) -> None:
    """With the Hub (a loopback one) and when it is gone."""
    (place / "rows.jsonl").write_bytes(lines(GOOD))
    with HubServer(tmp_path) as hub:
        environment = os.environ | hub.environment(None)
        online = warm.run(arguments(shop, model="nobody/nothing"), place, environment)
    offline = warm.run(arguments(shop, model="nobody/nothing"), place, environment)
    for done in (online, offline):
        assert done.returncode == 2, done.stderr
        assert "nobody/nothing" in done.stderr
        assert "Traceback" not in done.stderr
    assert online.stderr != offline.stderr, "what is missing is not what is out of reach"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"distillation": {"objective": "forward_lk"}}, ["forward_lk", "Did you mean forward_kl?"]),
        ({"model": {"from_teacher": {"layers": 99}}}, ["99", "3 layers"]),
        ({"model": "SAME"}, ["same model"]),
        ({"model": "OTHER"}, ["do not share a tokenizer"]),
    ],
    ids=["objective", "too many layers", "teacher is student", "other tokenizer"],
)
def test_distillations_that_cannot_work(
    changes: dict[str, Any], words: list[str], place: Path, shop: Workshop, foreign: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (place / "rows.jsonl").write_bytes(lines(GOOD))
    models = {"SAME": str(shop.model), "OTHER": str(foreign)}
    model = changes.get("model", {"from_teacher": {"layers": 2}})
    layer = {"approach": "distillation", "teacher": str(shop.model), **changes}
    refused(arguments(shop, **{**layer, "model": models.get(str(model), model)}), capfd, *words)


def test_a_teacher_smaller_than_its_student_is_said_but_allowed(place: Path, shop: Workshop, capfd: pytest.CaptureFixture[str]) -> None:
    (place / "rows.jsonl").write_bytes(lines(GOOD))
    given = arguments(shop, approach="distillation", teacher=str(shop.smaller_model()), model=str(shop.model), training={"epochs": 1})
    assert main(given) == 0
    assert capfd.readouterr().err.count("is smaller than the student") == 1, "with the plan"
    assert Path("made/run/benchmark.json").exists()
