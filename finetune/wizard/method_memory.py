"""What each method would need on this machine, for the method question, before anything is loaded.

found = options(draft, here)
found.needed               # {"lora": 1_400_000_000, ...}; empty if the model is not known yet
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune import registry
from finetune.errors import ModelError
from finetune.hardware.machine import remembered_dtype
from finetune.methods.earlier_adapter import EarlierAdapter, why_not
from finetune.models.facts import ModelFacts, look_up
from finetune.models.location import parse
from finetune.planning.memory import adapter_parameters, memory_parts
from finetune.recipe import Recipe
from finetune.screen.wording import for_this_python
from finetune.training.step_count import CPU_TOKENS
from finetune.wizard.defaults import uses_gpu
from finetune.wizard.draft import Draft
from finetune.wizard.host import HostInfo


@dataclass(frozen=True)
class Options:
    """`needed` bytes by method, of `free` ones; `refused` says why a method is not available here."""

    needed: dict[str, int]
    free: int
    refused: dict[str, str]


def options(draft: Draft, here: HostInfo) -> Options:
    """At most, that is for the longest rows allowed and the widest dtype that may be chosen; the review knows both.

    `needed` is empty for a model whose size is not known before it is downloaded.
    """
    recipe = Recipe.from_layers(draft)
    gpu = uses_gpu(here)
    known: dict[str, Any] = {name: registry.load("methods", name) for name in registry.names("methods")}
    costs = {name: method.footprint(method.Spec()) for name, method in known.items()}
    device = "cuda" if gpu else "cpu"
    refused = {
        name: for_this_python(problems[0])
        for name, method in known.items()
        if (problems := (costs[name].adapter and _no_adapter(recipe, method)) or method.check(method.Spec(), device))
    }
    student, teacher = _models(recipe, here)
    free = here.glance.free_gpu_memory_bytes if gpu else here.glance.free_memory_bytes
    if student is None or not student.hidden:
        return Options({}, free, refused)
    narrow = 2 if gpu or remembered_dtype(here.runtime) == "bfloat16" else 4
    tokens = recipe.training.batch_size * recipe.dataset.max_length
    linear = max(0, student.parameters - student.vocabulary * student.hidden)
    shape = {"linear": linear, "layers": student.layers, "hidden": student.hidden}
    needed = {}
    for name, cost in costs.items():
        if name in refused:
            continue
        parts = memory_parts(
            cost,
            parameters=student.parameters,
            trainable=adapter_parameters(rank=cost.rank, **shape) if cost.adapter else student.parameters,
            tokens=tokens if gpu else min(tokens, max(CPU_TOKENS, recipe.dataset.max_length)),
            narrow=narrow,
            on_cpu=not gpu,
            checkpointed=recipe.training.activation_checkpointing is True,
            **shape,
        )
        needed[name] = sum(parts.values()) + (teacher.parameters * narrow if teacher else 0)
    return Options(needed, free, refused)


def recommended(needed: Mapping[str, int], free: int) -> str:
    """LoRA where it fits; else QLoRA where that does; else whatever needs least."""
    return next((name for name in ("lora", "qlora") if name in needed and needed[name] <= free), min(needed, key=lambda name: needed[name]))


def _no_adapter(recipe: Recipe, method: Any) -> list[str]:
    """Why the method cannot train an adapter of the model, or train the model further that is one; empty if it can."""
    if not isinstance(recipe.model, str):
        return ["an adapter would not contain the layers of a student made from its teacher"]
    try:
        source = parse(recipe.model)
        earlier = EarlierAdapter.read(source.path, source.name) if source.path else None
    except ModelError:
        return []  # the review will say what is wrong with it
    reason = why_not(earlier, method, method.Spec()) if earlier else None
    return [f"{source.name} {reason}: merge it into its base first"] if reason else []


def _models(recipe: Recipe, here: HostInfo) -> tuple[ModelFacts | None, ModelFacts | None]:
    """The model that trains and its largest teacher, as far as known; a student made from its teacher counts as its teacher does."""
    try:
        others = [] if recipe.teaches_itself else recipe.all_teachers
        known = [facts for each in others if (facts := look_up(each.source, here.runtime))]
        teacher = max(known, key=lambda facts: facts.parameters, default=None)
        return (look_up(recipe.model, here.runtime) if isinstance(recipe.model, str) else teacher), teacher
    except ModelError:
        return None, None  # the review will say what is wrong with it
