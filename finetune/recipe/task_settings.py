"""What a distilled student should be good at: the keys that each task fills in where a recipe leaves them out.

    filled({"distillation": {"task": "classify", "alpha": 0.3}})      # alpha stays 0.3, temperature is 2, answers only, accuracy

They are starting points; what was measured is in DISTILLATION_UPDATE.md. In the recipe of a run they stand as themselves, so that each can
be changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """`distillation` are keys of that part of a recipe, `metrics` those of its benchmark."""

    title: str
    summary: str
    distillation: Mapping[str, Any]
    metrics: tuple[str, ...] = ("rouge", "perplexity")

    @property
    def practises(self) -> bool:
        """Whether the student also learns from its own answers, which begin with the second epoch."""
        return "on_policy" in self.distillation

    def layer(self) -> dict[str, Any]:
        """All that the task decides, as a recipe layer."""
        return {"distillation": dict(self.distillation), "benchmark": {"metrics": list(self.metrics)}}


TASKS = {
    "compress": Task(
        "The same as the teacher",
        "a smaller model that predicts what its teacher does",
        {"objective": "forward_kl", "alpha": 0.2, "temperature": 1.0, "supervise": "all"},
    ),
    "chat": Task(
        "Conversation",
        "free answers; half of them its own, where it learns to leave out what the teacher would not say",
        {
            "objective": "skew_forward_kl",
            "alpha": 0.1,
            "temperature": 1.0,
            "supervise": "all",
            "on_policy": {"share": 0.5, "objective": "skew_reverse_kl"},
        },
    ),
    "summarise": Task(
        "Summaries",
        "answers that keep to a text; half of them its own",
        {"objective": "forward_kl", "alpha": 0.2, "temperature": 1.0, "supervise": "all", "on_policy": {"share": 0.5}},
    ),
    "classify": Task(
        "Choosing a label",
        "short answers that are right or wrong; they are counted",
        {"objective": "forward_kl", "alpha": 0.5, "temperature": 2.0, "supervise": "answers"},
        ("accuracy", "perplexity"),
    ),
    "code": Task(
        "Code",
        "programs; a quarter of the answers are its own",
        {"objective": "forward_kl", "alpha": 0.2, "temperature": 1.0, "supervise": "all", "on_policy": {"share": 0.25}},
    ),
    "reason": Task(
        "Reasoning",
        "steps towards an answer; after the first epoch all of them its own",
        {
            "objective": "forward_reverse_kl",
            "alpha": 0.0,
            "temperature": 1.0,
            "supervise": "answers",
            "on_policy": {"share": 1.0, "tokens": 256},  # of GSM8K's answers 61 % are longer than 96 tokens, so practice would stop
        },
    ),
}


def filled(given: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with the keys of its `distillation.task`, where there is one that is known and they are left out."""
    distillation, benchmark = given.get("distillation"), given.get("benchmark", {})
    task = TASKS.get(str(distillation.get("task"))) if isinstance(distillation, Mapping) else None
    if task is None or not isinstance(distillation, Mapping):
        return dict(given)
    loss = {**task.distillation, **distillation}
    if task.practises and isinstance(own := loss["on_policy"], Mapping):
        loss["on_policy"] = {**task.distillation["on_policy"], **own}
    layer = {**given, "distillation": loss}
    return {**layer, "benchmark": {"metrics": list(task.metrics), **benchmark}} if isinstance(benchmark, Mapping) else layer


def task_words(task: str) -> str:
    """What people read of a task: "conversation (chat)"."""
    title = TASKS[task].title
    return f"{title[:1].lower()}{title[1:]} ({task})"


def practises(task: str | None) -> bool:
    """Whether a task fills in practice on own answers; without a task nothing does."""
    return task is not None and TASKS[task].practises


def practice_of(task: str | None) -> str:
    """The key of practice in a sentence, with the task that fills it in."""
    return f"`distillation.on_policy` (of `distillation.task: {task}`)" if practises(task) else "`distillation.on_policy`"
