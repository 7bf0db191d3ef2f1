"""Which teacher cache a run should use: the first that is valid and fits on the disk, and the reason in one sentence.

choice = choose_cache("auto", tokens=9000, student_head=ours, teacher_head=theirs, objective="forward_kl", folder=folder)
choice.kind, choice.reason
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune import registry
from finetune.distillation.caches.builder import NO_ROOM_HINT
from finetune.distillation.signals import Signal, bytes_of
from finetune.errors import RecipeError
from finetune.formatting import size
from finetune.recipe.distillation_settings import FeaturesSpec
from finetune.system.storage import check_room, free_disk
from finetune.training.head import Head

SPARE_BYTES = 10**9  # left free on the disk for checkpoints and other programs


@dataclass(frozen=True)
class CacheChoice:
    """`kind` of cache ("none": run the teacher at every step), and why."""

    kind: str
    reason: str


def choose_cache(
    wanted: str,
    *,
    tokens: int,
    student_head: Head,
    teacher_head: Head,
    objective: str,
    folder: str | Path,
    present: Mapping[str, int] | None = None,
    teachers: int = 1,
    beside: int = 0,
    features: FeaturesSpec | None = None,
    of_spans: bool = False,
) -> CacheChoice:
    """Choose for `tokens` supervised tokens; `present` are the bytes of each kind that are already on disk.

    `beside` are bytes that are kept with every kind. With several `teachers`, this one and those to come, `auto` wants room for
    the caches of all of them. `features` are what else is compared (terms/): the last states only a hidden cache has. `of_spans`: spans of
    text are compared across tokenizers, for which there is one signal.

    Raises RecipeError if the `wanted` kind cannot be used, DiskFull if it does not fit.
    """
    if wanted == "none":
        return CacheChoice("none", "the teacher runs online, as the recipe says")
    signals = signals_for(of_spans)
    problems = {name: problem_of(signal, student_head, objective, features) for name, signal in signals.items()}
    sizes = {name: bytes_of(signal, tokens, teacher_head, student_head) + beside for name, signal in signals.items()}
    needs = {name: sizes[name] - (present or {}).get(name, 0) for name in signals}
    of_all = {name: needs[name] + (teachers - 1) * sizes[name] for name in signals}
    if wanted != "auto":
        if problem := problems[wanted]:
            raise RecipeError(f"cache: {wanted} cannot be used for this run: {problem}.", hint="Use cache: hidden, or cache: auto.")
        check_room(f"cache: {wanted}", needs[wanted], Path(folder), NO_ROOM_HINT)
        return CacheChoice(wanted, f"{wanted} cache, {size(sizes[wanted])}, as the recipe says")
    room = free_disk(Path(folder)) - SPARE_BYTES
    passed: list[str] = []  # why a cheaper signal is not the one
    for name, signal in signals.items():
        if problems[name] is None and of_all[name] <= room:
            reason = "; ".join(passed) or signal.why
            return CacheChoice(name, f"{name} cache, {size(sizes[name])}: {reason}")
        problem = problems[name]
        passed.append(f"no {name} cache because {problem}" if problem else f"a {name} cache would need {size(of_all[name])}")
    needed = min(of_all[name] for name in signals if problems[name] is None)
    return CacheChoice("none", f"no cache, the teacher stays in memory: {size(needed)} is needed and {size(max(room, 0))} of disk is free")


def signals_for(spans: bool) -> dict[str, Signal]:
    """Those of the registry for spans across tokenizers, or those for every other teacher on this machine, cheapest first."""
    known: dict[str, Signal] = {name: registry.load("signals", name) for name in registry.names("signals")}
    return {name: signal for name, signal in known.items() if signal.of_spans == spans and not signal.of_server}


def problem_of(signal: Signal, student: Head, objective: str, features: FeaturesSpec | None) -> str | None:
    """Why a run cannot learn from a signal, as half a sentence, or None."""
    if features is not None and features.last and not signal.keeps_head:
        return "distillation.features.last compares hidden states, which it does not keep"
    return signal.problem(student, objective == "forward_kl")
