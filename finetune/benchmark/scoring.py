"""Score one model on the held-out rows, and compare two or three of them.

    before = benchmark_model(model, tokenizer, prepared.held_out, recipe.benchmark, seed=42, reporter=reporter, stage="before")
    after = ...
    json = benchmark_json(before, after, seed=42)     # the content of run/benchmark.json

The base model's scores are cached (`load_base_scores`, `save_base_scores`): it is measured once per model and data.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune import registry
from finetune.benchmark.copied import copied
from finetune.benchmark.fitting import OF_SHORT, fitting
from finetune.benchmark.generation import answer_budget, answer_lengths, generate_answers
from finetune.benchmark.groups import groups_of
from finetune.benchmark.harness import load_tasks
from finetune.benchmark.intervals import Statistic, change, estimate, ratio, statistics_of
from finetune.benchmark.names import GROUP, RIGHT, is_task
from finetune.benchmark.perplexity import AnswerLosses, answer_losses
from finetune.benchmark.rouge import SETTINGS
from finetune.benchmark.teacher_agreement import TeacherStates
from finetune.data.tokens.labels import NO_LOSS
from finetune.errors import BenchmarkError, OutOfMemory
from finetune.events import Reporter
from finetune.hardware.peak_memory import release
from finetune.recipe import BenchmarkSpec
from finetune.runtime import RuntimeOptions
from finetune.system.storage import write_whole
from finetune.training.head import causal_lm, check_head, head_of
from finetune.training.out_of_memory import MEMORY_ERRORS, ran_out

if TYPE_CHECKING:
    from finetune.benchmark.harness_model import TaskScores

VERSION = 8  # version of the scoring: raise it when numbers would change, so that cached base scores are recomputed
RETAINED = ("rougeL", *RIGHT)  # more is better; "36 % of the perplexity" says nothing to anybody


@dataclass(frozen=True)
class Cost:
    """What answering takes, as finetune/run/costs.py measures it; `peak_memory_bytes` is None where it cannot be measured."""

    tokens_per_second: float
    peak_memory_bytes: int | None
    threads: int | None = None


@dataclass(frozen=True)
class Scores:
    """One model's results on the held-out rows; lists have one entry per row, `kl` is in nats per token.

    `counted` says which tokens have a loss: "all" of a row, or its "answers". `max_new_tokens` is how long an answer could be.
    `groups` has a number for each row, the same for rows of one prompt, conversation or text; it is empty where no two share one.
    `ended` says of each answer whether an end token ended it, `endless` how many none ended in tokens that are enough for their references;
    scores that an older version cached have neither.
    `states` is not in the JSON: it holds a teacher's hidden states, for comparison with its student.
    """

    values: dict[str, float]
    prompts: list[str]
    references: list[str]
    texts: list[str]
    per_row: dict[str, list[float]]
    losses: AnswerLosses | None
    counted: str
    max_new_tokens: int | None
    parameters: int
    longest_reference: int | None = None  # in tokens
    ended: list[bool] = field(default_factory=list)
    endless: int | None = None
    states: TeacherStates | None = None
    groups: list[int] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)  # what was run of lm-evaluation-harness; its scores are among the others

    @property
    def rows(self) -> int:
        return len(self.references)

    def row_scores(self) -> dict[str, list[float]]:
        """{metric: one value per row}, in the order of the rows; losses (nats) and divergences are row sums. Beside them the groups."""
        found = dict(self.per_row)
        if self.losses:
            found |= {"loss": self.losses.sums, "tokens": list(self.losses.tokens)}
            if self.losses.divergences:
                found |= {"kl": self.losses.divergences, "agreed": list(self.losses.agreed)}
        return found | ({GROUP: list(self.groups)} if self.groups else {})

    def statistics(self) -> dict[str, Statistic]:
        """The scores that can be resampled row by row."""
        return statistics_of(self.row_scores())

    def to_dict(self) -> dict[str, Any]:
        return asdict(replace(self, states=None)) | {"version": VERSION}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Scores:
        """Raises BenchmarkError for scores of another VERSION."""
        content = dict(data)
        if content.pop("version", None) != VERSION:
            raise BenchmarkError("These scores were written by a different version.", hint="Run the benchmark again.")
        losses = content.pop("losses")
        return cls(**content, losses=AnswerLosses(**losses) if losses else None)


def of_its_texts(scores: Scores) -> Scores:
    """The same without what is per token."""
    of_losses = [name for name in registry.names("metrics") if getattr(registry.load("metrics", name), "reads", "texts") == "losses"]
    return replace(scores, losses=None, values={name: value for name, value in scores.values.items() if name not in of_losses})


@contextmanager
def _own_folder_for_metrics() -> Iterator[None]:
    """evaluate makes a folder for each metric, in a cache of its own that may be read-only; here they leave nothing."""
    import evaluate

    usual = evaluate.config.HF_METRICS_CACHE
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        evaluate.config.HF_METRICS_CACHE = Path(folder)
        try:
            yield
        finally:
            evaluate.config.HF_METRICS_CACHE = usual


@_own_folder_for_metrics()
def benchmark_model(
    model: Any,
    tokenizer: Any,
    held_out: Any,
    spec: BenchmarkSpec,
    *,
    seed: int,
    reporter: Reporter,
    stage: str,
    teacher: TeacherStates | None = None,
    as_teacher: bool = False,
) -> Scores:
    """Score a model on the same `spec.rows` held-out rows for one seed.

    `as_teacher` keeps the hidden states that a student's benchmark takes as `teacher`, which adds "kl" and "agreement" to its scores.
    Raises BenchmarkError if there are no rows or the losses are not finite, ModelError if the model's head cannot be separated.
    """
    check_head(model)
    inner = causal_lm(model)
    rows = chosen_rows(held_out, spec, seed)
    references = [row["reference"] for row in rows]
    also = fitting(rows) if "rouge" in spec.metrics else []
    metrics = {name: registry.load("metrics", name)() for name in dict.fromkeys([*spec.metrics, *also])}
    of_losses = [name for name, metric in metrics.items() if getattr(metric, "reads", "texts") == "losses"]
    of_texts = [name for name in metrics if name not in of_losses]
    states = TeacherStates(head_of(model).detach()) if as_teacher else None
    values: dict[str, float] = {}
    per_row: dict[str, list[float]] = {}
    losses = texts = budget = longest = endless = None
    ended: list[bool] = []
    with _measuring(model):
        release()  # leftovers of earlier work
        if of_losses or teacher or as_teacher:
            losses = answer_losses(model, rows, reporter=reporter, stage=stage, teacher=teacher, remember=states)
        if of_texts:
            lengths = answer_lengths(tokenizer, rows)
            budget = answer_budget(rows, lengths) if spec.max_new_tokens == "auto" else spec.max_new_tokens
            answers = generate_answers(model, tokenizer, rows, max_new_tokens=budget, reporter=reporter, stage=stage)
            texts, ended = [answer.text for answer in answers], [answer.ended for answer in answers]
            longest = max(lengths)
            fits = [length < budget and not row.get("is_text") for length, row in zip(lengths, rows, strict=True)]
            endless = sum(fit and not end for fit, end in zip(fits, ended, strict=True))
    for name, metric in metrics.items():
        if name in of_losses and losses:
            values |= metric.compute(predictions=losses.sums, references=losses.tokens)
        elif texts is not None:
            values |= metric.compute(predictions=texts, references=references)
            per_row |= metric.per_row(texts, references) if hasattr(metric, "per_row") else {}
    tasks = _tasks(spec, model, tokenizer, reporter=reporter, stage=stage)
    if tasks:
        values, per_row = values | tasks.values, per_row | tasks.per_row
    if OF_SHORT in also:  # pairs of words and codes in labels say nothing more: a right label of one word has ROUGE-2 0
        values.pop("rouge2"), per_row.pop("rouge2")
    elif texts is not None:
        found, of = copied(texts, references)
        if sum(of):
            values["copied"] = sum(found) / sum(of)
            per_row |= {"codes_copied": list(found), "codes": list(of)}
    if losses and losses.divergences:
        tokens = sum(losses.tokens)
        values |= {"kl": sum(losses.divergences) / tokens, "agreement": sum(losses.agreed) / tokens}
    return Scores(
        values={key: float(value) for key, value in values.items()},
        prompts=[row["prompt"] for row in rows],
        references=references,
        texts=texts or [],
        per_row=per_row,
        losses=losses,
        counted=_counted(rows),
        max_new_tokens=budget,
        longest_reference=longest,
        ended=ended,
        endless=endless,
        parameters=inner.num_parameters(),
        states=states,
        groups=groups_of(rows),
        tasks=tasks.about if tasks else [],
    )


def _tasks(spec: BenchmarkSpec, model: Any, tokenizer: Any, *, reporter: Reporter, stage: str) -> TaskScores | None:
    """The scores of the tasks of lm-evaluation-harness, where there are some."""
    if not spec.tasks:
        return None
    from finetune.benchmark.harness_model import measure_tasks

    with _measuring(model):
        return measure_tasks(load_tasks(tuple(spec.tasks)), model, tokenizer, limit=spec.task_rows, reporter=reporter, stage=stage)


def _counted(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which tokens have a label: all that can have one, or those of the answers."""
    return "all" if all(NO_LOSS not in row["labels"][1:] for row in rows) else "answers"


@contextmanager
def _measuring(model: Any) -> Iterator[None]:
    """Turns dropout off, also for a model straight from training, and running out of memory into one sentence."""
    was_training = model.training
    model.eval()
    try:
        yield
    except MEMORY_ERRORS as error:
        if not ran_out(error):
            raise
        raise OutOfMemory("There is not enough memory to run the benchmark.", hint="Lower it: --set benchmark.max_new_tokens=32") from error
    finally:
        model.train(was_training)


def chosen_rows(held_out: Any, spec: BenchmarkSpec, seed: int) -> list[dict[str, Any]]:
    """At most `spec.rows` rows, drawn by seed, in the order of the data; raises BenchmarkError if there are none."""
    if not len(held_out):
        raise BenchmarkError("There are no held-out rows for the benchmark.", hint="Use more rows: --set dataset.samples=1000")
    count = min(spec.rows, len(held_out))
    return [held_out[int(place)] for place in sorted(np.random.default_rng(seed).choice(len(held_out), count, replace=False))]


def benchmark_json(
    before: Scores,
    after: Scores,
    teacher: Scores | None = None,
    *,
    bytes_on_disk: Mapping[str, int] | None = None,
    costs: Mapping[str, Cost] | None = None,
) -> dict[str, Any]:
    """benchmark.json: plain scores, their 95 % intervals, paired changes with a verdict, and every answer with its reference.

    `bytes_on_disk` is the size of the weights under "before", "after" and "teacher", as far as known; `costs` are those of the models that
    a person chooses between.
    """
    sides = {"before": before, "after": after} | ({"teacher": teacher} if teacher else {})
    for name, scores in sides.items():
        if scores.references != before.references:
            raise BenchmarkError(f"The {name} scores are from different rows than the first ones.", hint="Run the benchmark again.")
    return {
        "rows": before.rows,
        "tokens_counted": after.counted,
        "max_new_tokens": after.max_new_tokens,
        "longest_reference": after.longest_reference,
        "endless": {name: scores.endless for name, scores in sides.items() if scores.endless is not None},
        "before": before.values,
        "after": after.values,
        "teacher": teacher.values if teacher else None,
        "intervals": {name: intervals(scores) for name, scores in sides.items()},
        "change": changes(after, before),
        "against_teacher": changes(after, teacher) if teacher else None,
        "retention": retention(after, teacher) if teacher else None,
        "speed": {name: asdict(cost) for name, cost in (costs or {}).items()},
        "size": {
            name: {"parameters": scores.parameters, "bytes_on_disk": (bytes_on_disk or {}).get(name)} for name, scores in sides.items()
        },
        "rouge": SETTINGS,
        "tasks": after.tasks,
        # What another run's scores are compared with; the seventh digit of a row decides nothing.
        "per_row": {key: [round(value, 6) for value in values] for key, values in after.row_scores().items()},
        "generations": generations(sides),
    }


def intervals(scores: Scores) -> dict[str, list[float]]:
    """{metric: [low, high]}; without those of too few rows."""
    found = {key: estimate(statistic) for key, statistic in scores.statistics().items()}
    return {key: [each.low, each.high] for key, each in found.items() if each.low is not None and each.high is not None}


def changes(now: Scores, then: Scores) -> dict[str, dict[str, Any]]:
    """{metric: what `change` says} of the scores that both have."""
    new, old = now.statistics(), then.statistics()
    return {key: change(key, new[key], old[key]) for key in old if key in new}


def retention(student: Scores, teacher: Scores) -> dict[str, dict[str, float | None]]:
    """The student's score as a share of its teacher's, paired by row, where more is better: 1 is as good.

    A metric on which the teacher scores 0 is left out. For perplexity see `names.beside_the_teacher`.
    """
    ours, theirs = student.statistics(), teacher.statistics()
    kept = [key for key in ours if (key in RETAINED or is_task(key)) and key in theirs]
    shares = {key: ratio(ours[key], theirs[key]) for key in kept}
    return {key: asdict(share) for key, share in shares.items() if share is not None}


def generations(sides: Mapping[str, Scores]) -> list[dict[str, Any]]:
    """One record per row: prompt, reference, each model's answer under its name, and whether it ended."""
    first = next(iter(sides.values()))
    answered = {name: scores.texts for name, scores in sides.items() if scores.texts}
    ended = {name: scores.ended for name, scores in sides.items() if scores.ended}
    return [
        {"prompt": prompt, "reference": reference, **{name: texts[row] for name, texts in answered.items()}}
        | ({"ended": {name: ends[row] for name, ends in ended.items()}} if ended else {})
        for row, (prompt, reference) in enumerate(zip(first.prompts, first.references, strict=True))
    ]


def base_key(model: str, fingerprint: str, spec: BenchmarkSpec, *, seed: int, digits: Mapping[str, Any]) -> str:
    """The cache key of the base model's scores, from all they depend on; `model` is the pinned source, `fingerprint` that of the data.

    `digits` is all that rounding depends on: precision, processor, threads, versions.
    """
    tasks = load_tasks(tuple(spec.tasks)).fingerprint if spec.tasks else ""
    measured = spec.model_dump(mode="json", exclude={"speed"})  # which is measured anew each time
    of_packages = [code for name in spec.metrics if (code := registry.code_of("metrics", name))]
    parts = (VERSION, model, fingerprint, measured, seed, digits, tasks, *of_packages)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def load_base_scores(runtime: RuntimeOptions, key: str) -> Scores | None:
    """Scores cached by an earlier run, or None."""
    try:
        return Scores.from_dict(json.loads(_kept(runtime, key).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, BenchmarkError):
        return None  # absent, out of reach, truncated, or of another version: measured again


def save_base_scores(runtime: RuntimeOptions, key: str, scores: Scores) -> None:
    """Cache scores for later runs: complete or not at all; in a cache that cannot be written they are measured again."""
    with suppress(OSError):
        write_whole(_kept(runtime, key), json.dumps(scores.to_dict(), ensure_ascii=False), shared=True)


def _kept(runtime: RuntimeOptions, key: str) -> Path:
    return runtime.cache_dir / "benchmarks" / f"{key}.json"
