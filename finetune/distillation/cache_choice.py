"""Which teacher cache a run should use: the first that is valid and fits on the disk, and the reason in one sentence.

choice = choose_cache("auto", tokens=9000, student_head=ours, teacher_head=theirs, objective="forward_kl", folder=folder)
choice.kind, choice.bytes, choice.reason
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune.distillation.cache import Kind, gradient_problem
from finetune.distillation.cache_builder import NO_ROOM_HINT, disk_bytes
from finetune.errors import RecipeError
from finetune.formatting import size
from finetune.storage import check_room, free_disk
from finetune.training.head import Head

KINDS: tuple[Kind, ...] = ("gradient", "hidden")
SPARE_BYTES = 10**9  # left free on the disk for checkpoints and other programs


@dataclass(frozen=True)
class CacheChoice:
    """`kind` of cache ("none": run the teacher at every step), the bytes it takes on disk, and why."""

    kind: Literal["none", "hidden", "gradient"]
    bytes: int
    reason: str


def choose_cache(
    wanted: Literal["auto", "none", "hidden", "gradient"],
    *,
    tokens: int,
    student_head: Head,
    teacher_head: Head,
    objective: str,
    folder: str | Path,
    present: Mapping[Kind, int] | None = None,
) -> CacheChoice:
    """Choose for `tokens` supervised tokens; `present` are the bytes of each kind that are already on disk.

    Raises RecipeError if the `wanted` kind cannot be used, DiskFull if it does not fit.
    """
    if wanted == "none":
        return CacheChoice("none", 0, "the teacher runs online, as the recipe says")
    problem = gradient_problem(student_head, objective == "forward_kl")
    sizes = {kind: disk_bytes(kind, tokens, teacher_head, student_head) for kind in KINDS}
    needs = {kind: sizes[kind] - (present or {}).get(kind, 0) for kind in KINDS}
    if wanted != "auto":
        if wanted == "gradient" and problem:
            raise RecipeError(f"cache: gradient cannot be used for this run: {problem}.", hint="Use cache: hidden, or cache: auto.")
        check_room(f"cache: {wanted}", needs[wanted], Path(folder), NO_ROOM_HINT)
        return CacheChoice(wanted, sizes[wanted], f"{wanted} cache, {size(sizes[wanted])}, as the recipe says")
    room = free_disk(Path(folder)) - SPARE_BYTES
    if problem is None and needs["gradient"] <= room:
        return CacheChoice("gradient", sizes["gradient"], f"gradient cache, {size(sizes['gradient'])}: the student's head is frozen")
    why = f"no gradient cache because {problem}" if problem else f"a gradient cache would need {size(needs['gradient'])}"
    if needs["hidden"] <= room:
        return CacheChoice("hidden", sizes["hidden"], f"hidden cache, {size(sizes['hidden'])}: {why}")
    return CacheChoice(
        "none", 0, f"no cache, the teacher stays in memory: {size(needs['hidden'])} are needed and {size(max(room, 0))} of disk are free"
    )
