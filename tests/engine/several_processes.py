"""Runs that are made by one process and by two, and what is compared of them.

found = compare(layer_of(shop, "lora"), layer_of(shop, "lora"))       # after both were trained
found.loss, found.weight, found.score
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

from pico import apart
from safetensors.torch import load_file
from workshop import Workshop

from finetune.events import read_events

TOLERANCE = 1e-6
NO_DROPOUT = {"kind": "lora", "dropout": 0.0}

UNEVEN = {"samples": 31}  # 23 to train on: the last step of an epoch has one row, and one of two processes none

CASES: dict[str, dict[str, Any]] = {
    "lora": {"method": NO_DROPOUT},
    "qlora": {"method": {"kind": "qlora", "dropout": 0.0}},
    "adalora": {"method": {"kind": "adalora", "dropout": 0.0}, "dataset": UNEVEN, "training": {"epochs": 4, "batch_size": 22}},
    "dora": {"method": {**NO_DROPOUT, "dora": True}},
    "activation checkpointing": {"method": NO_DROPOUT, "training": {"activation_checkpointing": True}},
    "full": {"method": {"kind": "full"}},
    "accumulation": {"method": NO_DROPOUT, "training": {"batch_size": 3, "gradient_accumulation": 4}},
    "one row at a time": {"method": NO_DROPOUT, "training": {"batch_size": 1, "gradient_accumulation": 6}},
    "a last step of one row": {"method": NO_DROPOUT, "dataset": UNEVEN, "training": {"batch_size": 11, "gradient_accumulation": 2}},
    "three epochs": {"method": NO_DROPOUT, "training": {"epochs": 3}},
    "teacher online": {"distillation": {"cache": "none"}},
    "hidden cache": {"distillation": {"cache": "hidden"}, "dataset": UNEVEN, "training": {"batch_size": 22}},
    "gradient cache": {"distillation": {"cache": "gradient"}, "method": NO_DROPOUT, "model": "smaller"},
    "mixed teachers": {"teacher": None, "teachers": ["base", "smaller"], "distillation": {"cache": "none"}},
    "teachers of rows": {"teacher": None, "teachers": ["base", "smaller"], "rows": True, "distillation": {"cache": "hidden"}},
    "corrected teacher": {"distillation": {"cache": "hidden", "correct": 0.2}},
    "the best step": {"distillation": {"cache": "hidden"}, "training": {"epochs": 4, "evaluate_every": 3, "keep": "best"}},
    "few bits": {"distillation": {"quantize": "q8_0", "cache": "none"}, "method": {"kind": "full"}, "model": None},
    "its own teacher": {"approach": "distillation", "teacher": "self", "method": NO_DROPOUT, "distillation": {"cache": "none"}},
}


@dataclass(frozen=True)
class Found:
    """The steps, and the largest difference of a step's loss (as a share of it) and of a score, where there are scores.

    `weight` is the root mean square of the differences of all weights.
    """

    steps: int
    loss: float
    weight: float
    score: float | None


def layer_of(shop: Workshop, name: str) -> dict[str, Any]:
    case = dict(CASES[name])
    distils = "distillation" in case and case.get("teacher") != "self"
    layer = shop.distilling() if distils else shop.layer()
    if "model" in case and case["model"] is None:
        layer["model"] = case.pop("model")
    if case.get("model") == "smaller":
        case["model"] = str(shop.smaller_model())
    if case.get("teachers"):
        case["teachers"] = [{"source": str({"base": shop.model, "smaller": shop.smaller_model()}[each])} for each in case["teachers"]]
    if case.pop("rows", False):
        case["dataset"] = {"source": str(rows_of_two(shop))}
        for kind, teacher in zip("ab", case["teachers"], strict=True):
            teacher["rows"] = {"column": "kind", "equals": kind}
    case["benchmark"] = {**layer["benchmark"], "speed": False}
    for part in ("training", "dataset"):
        case[part] = {**layer[part], **case.get(part, {})}
    case["training"]["learning_rate"] = 3e-4  # Adam makes steps of this size of any gradient, also of what is left after rounding
    return {**layer, **case}


def rows_of_two(shop: Workshop) -> Path:
    """The rows of a workshop, every other one of kind b."""
    rows, lines = shop.folder / "of-two.jsonl", shop.rows.read_text().splitlines()
    rows.write_text("".join(json.dumps({**json.loads(line), "kind": "ab"[place % 2]}) + "\n" for place, line in enumerate(lines)))
    return rows


def compare(one: dict[str, Any], other: dict[str, Any]) -> Found:
    losses = [[record["loss"] for record in read_events(events_of(layer)) if record["event"] == "step"] for layer in (one, other)]
    assert len(losses[0]) == len(losses[1]) > 0
    weights = [load_file(next(Path(layer["output_dir"]).glob("*.safetensors"))) for layer in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    assert all(tensor.shape == weights[1][name].shape for name, tensor in weights[0].items())
    weight = apart(*weights)
    loss = max(abs(a - b) / max(1.0, abs(a)) for a, b in zip(*losses, strict=True))
    return Found(len(losses[0]), loss, weight, difference_of_scores(one, other))


def difference_of_scores(one: dict[str, Any], other: dict[str, Any]) -> float | None:
    """The largest between two results; perplexities by their logarithm, which is a mean like a loss."""
    files = [Path(layer["output_dir"]) / "run" / "benchmark.json" for layer in (one, other)]
    if not all(file.exists() for file in files):
        return None
    scores = [json.loads(file.read_text())["after"] for file in files]
    numbers = [{name: log(value) if name == "perplexity" else value for name, value in each.items()} for each in scores]
    assert numbers[0].keys() == numbers[1].keys()
    assert len(numbers[0]) >= 4
    return max(abs(value - numbers[1][name]) for name, value in numbers[0].items())


def events_of(layer: dict[str, Any]) -> Path:
    return Path(layer["output_dir"]) / "run" / "events.jsonl"
