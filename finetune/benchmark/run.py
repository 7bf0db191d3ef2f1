"""One model on the held-out rows, and two or three of them side by side.

    before = benchmark_model(model, tokenizer, prepared.held_out, recipe.benchmark, seed=42, reporter=reporter, stage="before")
    after = ...
    json = benchmark_json(before, after, seed=42)     # the content of run/benchmark.json

The base model's scores are kept in the user's cache (`load_base_scores`, `save_base_scores`): it is measured once per model and data.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from finetune import registry
from finetune.benchmark.bootstrap import Interval, Statistic, bootstrap, change, mean_of, perplexity_of, ratio
from finetune.benchmark.generation import answer_budget, generate_answers
from finetune.benchmark.perplexity import AnswerLosses, answer_losses
from finetune.benchmark.rouge import SETTINGS
from finetune.errors import BenchmarkError
from finetune.events import Reporter
from finetune.recipe import BenchmarkSpec
from finetune.runtime import RuntimeOptions

VERSION = 1  # of the way scores are made: raise it when numbers would change, so that kept base scores are made again
LOWER_IS_BETTER = frozenset({"perplexity"})
RETAINED = ("rougeL", "perplexity")


@dataclass(frozen=True)
class Scores:
    """What one model did on the held-out rows; every list has one entry a row."""

    values: dict[str, float]
    prompts: list[str]
    references: list[str]
    texts: list[str] = field(default_factory=list)
    per_row: dict[str, list[float]] = field(default_factory=dict)
    losses: AnswerLosses | None = None
    tokens_per_second: float = 0.0
    parameters: int = 0

    @property
    def rows(self) -> int:
        return len(self.references)

    def statistics(self) -> dict[str, Statistic]:
        """The scores that can be resampled row by row."""
        found = {key: mean_of(values) for key, values in self.per_row.items()}
        if self.losses:
            found["perplexity"] = perplexity_of(self.losses.sums, self.losses.tokens)
        return found

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Scores:
        losses = data.get("losses")
        return cls(**{**data, "losses": AnswerLosses(**losses) if losses else None})


def benchmark_model(model: Any, tokenizer: Any, held_out: Any, spec: BenchmarkSpec, *, seed: int, reporter: Reporter, stage: str) -> Scores:
    """Score a model on the same `spec.rows` held-out rows for one seed; raises BenchmarkError if there are none."""
    rows = chosen_rows(held_out, spec, seed)
    metrics = {name: registry.load("metrics", name)() for name in spec.metrics}
    of_losses = {name for name, metric in metrics.items() if getattr(metric, "reads", "texts") == "losses"}
    references = [row["reference"] for row in rows]
    values: dict[str, float] = {}
    per_row: dict[str, list[float]] = {}
    losses = answer_losses(model, rows, reporter=reporter, stage=stage) if of_losses else None
    made = None
    if set(metrics) - of_losses:
        budget = answer_budget(tokenizer, rows) if spec.max_new_tokens == "auto" else spec.max_new_tokens
        made = generate_answers(model, tokenizer, rows, max_new_tokens=budget, reporter=reporter, stage=stage)
    for name, metric in metrics.items():
        if name in of_losses:
            values |= metric.compute(predictions=losses.sums, references=losses.tokens)
            continue
        values |= metric.compute(predictions=made.texts, references=references)
        if hasattr(metric, "per_row"):
            per_row |= metric.per_row(made.texts, references)
    return Scores(
        values={key: float(value) for key, value in values.items()},
        prompts=[row["prompt"] for row in rows],
        references=references,
        texts=made.texts if made else [],
        per_row=per_row,
        losses=losses,
        tokens_per_second=made.tokens_per_second if made else 0.0,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def chosen_rows(held_out: Any, spec: BenchmarkSpec, seed: int) -> list[dict[str, Any]]:
    """At most `spec.rows` rows, drawn by seed, in the order of the data; raises BenchmarkError if there are none."""
    if not len(held_out):
        raise BenchmarkError("No held-out rows are left to benchmark on.", hint="Use more rows: --set dataset.samples=1000")
    count = min(spec.rows, len(held_out))
    return [held_out[int(place)] for place in sorted(np.random.default_rng(seed).choice(len(held_out), count, replace=False))]


def benchmark_json(before: Scores, after: Scores, teacher: Scores | None = None, *, seed: int = 42) -> dict[str, Any]:
    """benchmark.json: plain scores, their 95 % intervals, paired changes with a verdict, and every text beside its reference."""
    sides = {"before": before, "after": after} | ({"teacher": teacher} if teacher else {})
    for name, scores in sides.items():
        if scores.references != before.references:
            raise BenchmarkError(f"The {name} scores were made on other rows than the first ones.", hint="Run the benchmark again.")
    old, new = before.statistics(), after.statistics()
    rows = before.rows
    return {
        "rows": rows,
        "before": before.values,
        "after": after.values,
        "teacher": teacher.values if teacher else None,
        "intervals": {name: intervals(scores, seed) for name, scores in sides.items()},
        "change": {
            key: change(new[key], old[key], rows=rows, seed=seed, lower_is_better=key in LOWER_IS_BETTER) for key in old if key in new
        },
        "retention": retention(after, teacher, seed) if teacher else None,
        "speed": {name: {"tokens_per_second": scores.tokens_per_second} for name, scores in sides.items()},
        "rouge": SETTINGS,
        "generations": generations(sides),
    }


def intervals(scores: Scores, seed: int) -> dict[str, list[float]]:
    """{metric: [low, high]}."""
    found = {key: bootstrap(statistic, rows=scores.rows, seed=seed) for key, statistic in scores.statistics().items()}
    return {key: [interval.low, interval.high] for key, interval in found.items()}


def retention(student: Scores, teacher: Scores, seed: int) -> dict[str, dict[str, float]]:
    """The student as a share of its teacher, paired by row: 1 is as good; for perplexity the teacher's is divided by the student's."""
    ours, theirs = student.statistics(), teacher.statistics()
    found: dict[str, Interval] = {}
    for key in RETAINED:
        if key in ours and key in theirs:
            pair = (theirs[key], ours[key]) if key in LOWER_IS_BETTER else (ours[key], theirs[key])
            found[key] = bootstrap(ratio(*pair), rows=student.rows, seed=seed)
    return {key: asdict(interval) for key, interval in found.items()}


def generations(sides: Mapping[str, Scores]) -> list[dict[str, str]]:
    """One record a row: prompt, reference, and each model's answer under its name."""
    first = next(iter(sides.values()))
    answered = {name: scores.texts for name, scores in sides.items() if scores.texts}
    return [
        {"prompt": prompt, "reference": reference, **{name: texts[row] for name, texts in answered.items()}}
        for row, (prompt, reference) in enumerate(zip(first.prompts, first.references, strict=True))
    ]


def base_key(model: str, fingerprint: str, spec: BenchmarkSpec, *, seed: int, dtype: str) -> str:
    """Names the base model's scores by everything they depend on; `model` is the pinned source, `fingerprint` that of the data."""
    parts: Sequence[Any] = (VERSION, model, fingerprint, spec.model_dump(mode="json"), seed, dtype)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def load_base_scores(runtime: RuntimeOptions, key: str) -> Scores | None:
    """Scores kept by an earlier run, or None."""
    try:
        return Scores.from_dict(json.loads(_kept(runtime, key).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None  # absent, cut off, or written by another version: measured again


def save_base_scores(runtime: RuntimeOptions, key: str, scores: Scores) -> None:
    """Keep scores for later runs: complete or absent."""
    path = _kept(runtime, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(scores.to_dict(), ensure_ascii=False), encoding="utf-8")
    part.replace(path)


def _kept(runtime: RuntimeOptions, key: str) -> Path:
    return runtime.cache_dir / "benchmarks" / f"{key}.json"
