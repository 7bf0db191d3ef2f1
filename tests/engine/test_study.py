"""Parts of the study (benchmarks/programme.py) that a run of it needs before it can measure anything, and what its tables say."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from bytes_tokenizer import CHATML, byte_level
from pico import Rows, arguments, pico, pico_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune.distillation.on_policy.trainer import SLOWER
from finetune.training.trainer import SupervisedTrainer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module


def test_the_student_with_another_tokenizer_has_fewer_tokens_and_layers(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, whole = study("programme_tokenizers"), byte_level(CHATML)
    teacher = pico("llama", vocab_size=len(whole), max_position_embeddings=2048)
    monkeypatch.setattr(study("contest"), "starter", lambda machine, ours: (whole, teacher))
    monkeypatch.setattr(part, "TOKENS", 290)
    monkeypatch.setattr(part, "LAYERS", 2)
    part.retokenised(str(tmp_path))
    student, small = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert student.config.num_hidden_layers == 2
    assert len(small) == student.config.vocab_size == 290
    text = "the answer to the question"
    assert small.decode(small.encode(text)) == text
    assert len(small.encode(text)) > len(whole.encode(text)), "it has fewer merges"


@pytest.mark.parametrize("name", ["this project, online", "this project, gradient cache, head frozen"])
def test_our_side_of_the_comparison_in_speed_trains(study: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    part, tokenizer = study("distillation"), byte_level(CHATML)
    model = pico("llama", vocab_size=len(tokenizer), max_position_embeddings=2048)
    monkeypatch.setattr(study("contest"), "starter", lambda machine, ours: (tokenizer, model))
    monkeypatch.setattr(part, "LAYERS", 2)
    found = part.work(name, study("contest").rows(None, 4), packed=False)
    assert found["tokens"] == 4 * part.LENGTH, "rows are long for so few merges"
    assert 0 < found["seconds"] < 60
    assert bool(found["cache bytes"]) == ("cache" in name)


def test_what_an_anchor_keeps_is_the_share_of_what_was_forgotten_without(study: Any, capsys: pytest.CaptureFixture[str]) -> None:
    before, tokens = [20.0, 22.0, 19.0, 21.0, 23.0, 20.0] * 4, [10] * 24

    def arm(rise: float) -> dict[str, Any]:
        sides = {"before": before, "after": [nats + rise * (1 + place / 10) for place, nats in enumerate(before)]}
        scores = {side: {"rougeL": 0.5, "perplexity": 3.0} for side in sides}
        ends = {side: {"rougeL": [0.4, 0.6], "perplexity": [2.0, 4.0]} for side in sides}
        losses = {side: {"unrelated": {"nats": nats, "tokens": tokens}} for side, nats in sides.items()}
        return {**losses, "scores": {**scores, "intervals": ends}, "train_seconds": 9, "memory": 1e9}

    part = study("programme_self")
    part.show({"narrow, plain": arm(8.0), "narrow, anchored, alpha 0.5": arm(2.0), "plain": arm(0.0), "anchored": arm(0.0)})
    shown = capsys.readouterr().out.splitlines()
    assert "| 75% [75%, 75%] |" in next(line for line in shown if line.startswith("| narrow, anchored"))
    assert "| nothing was forgotten |" in next(line for line in shown if line.startswith("| anchored"))


def test_the_lower_rate_alone_is_that_of_practice(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(SupervisedTrainer, "create_scheduler", SupervisedTrainer.create_scheduler)  # put back after the test
    study("programme_policy")._slow_after_an_epoch()
    trainer = SupervisedTrainer(pico("llama"), arguments(tmp_path, num_train_epochs=2), train_dataset=Rows(pico_rows(8)))
    rates: list[float] = []
    trainer.log = lambda logs, *_: rates.append(logs["learning_rate"]) if "learning_rate" in logs else None
    trainer.train()
    assert rates == pytest.approx([0.05, 0.05, 0.05 * SLOWER, 0.05 * SLOWER])
