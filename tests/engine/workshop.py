"""A pico model, a few rows and an empty cache: what a whole run needs to take a second.

shop = Workshop(tmp_path)
shop.tuner(training={"epochs": 2}).run()
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import torch
from letters import llama, tokenizer

from finetune import LLMFineTuner, Recipe, RuntimeOptions
from finetune.events import Notice, Recorder, TrainingStep

torch.set_num_threads(1)  # threads cost more than they give at this size

WORDS = ("cat", "dog", "bird", "fish", "cow", "hen", "fox", "owl")


class Workshop:
    """Folders and recipes of small runs; every run has its own output folder, all share a cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = model_folder(folder / "base", layers=3)
        self.rows = folder / "rows.jsonl"
        lines = [
            {"prompt": f"say {word} {'abcd'[time]}", "completion": f"{word} {'abcd'[time]} {word}"} for word in WORDS for time in range(4)
        ]
        self.rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
        self.runtime = RuntimeOptions(device="cpu", dtype="float32", cache_dir=folder / "cache")
        self.made = 0

    def layer(self, **changes: Any) -> dict[str, Any]:
        """A fine-tuning of eight steps, as a recipe layer."""
        self.made += 1
        return {
            "model": str(self.model),
            "output_dir": str(self.folder / f"run-{self.made}"),
            "dataset": {"source": str(self.rows), "samples": None, "max_length": 64, "held_out": 0.25},
            "training": {"epochs": 2, "batch_size": 6, "learning_rate": 0.01},
            "benchmark": {"rows": 6, "max_new_tokens": 8},
            **changes,
        }

    def distilling(self, **changes: Any) -> dict[str, Any]:
        """The same, learning from the model; the student is made from it unless `model` says otherwise."""
        student = {"from_teacher": {"layers": 2}}
        return {**self.layer(approach="distillation", teacher=str(self.model), model=student), **changes}

    def smaller_model(self) -> Path:
        """A model of one layer with the same tokenizer."""
        folder = self.folder / "smaller"
        return folder if folder.exists() else model_folder(folder, layers=1)

    def tuner(self, layer: dict[str, Any], *overrides: dict[str, Any]) -> LLMFineTuner:
        return LLMFineTuner(Recipe.from_layers(layer, *overrides), reporter=Recorder(), runtime=self.runtime)


def model_folder(folder: Path, *, layers: int) -> Path:
    """A random model that reads letters, as from_pretrained wants it."""
    llama(seed=layers, layers=layers).save_pretrained(folder)
    tokenizer(chat=True).save_pretrained(folder)
    return folder


class StopAt:
    """A reporter that presses Ctrl-C while a step is told, which ends the run after that step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def report(self, event: Any) -> None:
        if isinstance(event, TrainingStep) and event.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def recorded(tuner: LLMFineTuner) -> Recorder:
    """What a tuner has reported to its Recorder."""
    (recorder,) = (reporter for reporter in tuner.reporter.reporters if isinstance(reporter, Recorder))
    return recorder


def notices(tuner: LLMFineTuner) -> list[str]:
    """What a tuner has said."""
    return [notice.text for notice in recorded(tuner).of(Notice)]


def synthetic(tuner: LLMFineTuner) -> list[dict[str, Any]]:
    """The rows that were written for a tuner."""
    return [json.loads(line) for line in tuner.folder.synthetic.read_text().splitlines()]
