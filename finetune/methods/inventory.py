"""The linear layers of a model's text part: which of them an adapter can reach, and which weights train.

    inventory = Inventory.of(model)
    attached = method.attach(model, spec, context)
    inventory.coverage(attached, spec)            # Coverage(share=0.97, notes=["Routers are not adapted.", ...])

A mixture of experts may keep all experts of a layer in one parameter of three dimensions, which is no layer. A model that also sees
pictures has towers that rows of text never reach. All of it works on torch's meta device, so that a plan says the same as the run.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from finetune.formatting import count, percent
from finetune.system.python_source import parsed

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

TEXT_INPUTS = ("input_ids", "inputs_embeds")
SENSES = re.compile(r"(^|_)(vision|visual|images?|img|audio|speech|video)(_|$)")  # in names of parts that read something else than text
ROUTER, PAST, SHARED, FLAT = "router", "past", "shared", "flat"
REFUSED = {"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"}  # where peft refuses out_proj, which fused kernels read
WHY = {
    ROUTER: "Routers are not adapted: they only choose experts.",
    PAST: "{names} cannot be adapted, because the model uses the weights past the layer: {share} of the weights in linear layers.",
    SHARED: "{names} cannot be adapted, because several layers use the same weights: {share} of the weights in linear layers.",
    FLAT: "The experts of this architecture cannot be adapted by peft: {share} of the weights in linear layers do not learn.",
}


@dataclass(frozen=True)
class Part:
    """Weights that multiply: a linear layer, or the parameter of some experts, whose name then ends with the parameter's.

    `why` is a reason why no adapter can be attached, or "".
    """

    name: str
    identity: int
    count: int
    why: str = ""
    experts: bool = False

    @property
    def leaf(self) -> str:
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class Coverage:
    """The share of the weights in linear layers that learn, and what a person should know of the others, one sentence each."""

    share: float
    notes: list[str]


@dataclass(frozen=True)
class Inventory:
    """The parts of a model's text part below its head; `towers` are modules beside it and how many parameters they have."""

    parts: list[Part]
    towers: dict[str, int]

    @classmethod
    def of(cls, model: PreTrainedModel) -> Inventory:
        towers = {name: model.get_submodule(name) for name in tower_names(model)}
        # Weights that several layers use count once, and those of an adapter that is there already not at all.
        parts = {part.identity: part for part in _parts(model) if "lora_" not in part.name}
        return cls(list(parts.values()), {name: sum(weight.numel() for weight in module.parameters()) for name, module in towers.items()})

    @property
    def weights(self) -> int:
        return sum(part.count for part in self.parts)

    def adapted_experts(self, attached: Any) -> int:
        """Weights of experts that an adapter is added to, as a new tensor in every step."""
        learning = _learning(attached)
        return sum(part.count for part in self.parts if part.experts and part.identity in learning) if is_adapted(attached) else 0

    def coverage(self, attached: Any, spec: Any = None) -> Coverage:
        """Which part of the model trains, with a method attached that has the settings `spec`."""
        learning, adapter = _learning(attached), is_adapted(attached)
        left = [part for part in self.parts if part.identity not in learning]
        share = 1 - sum(part.count for part in left) / self.weights if self.weights else 0.0
        return Coverage(share, [*self._beside(), *(self._left_out(left, attached, spec) if adapter else [])])

    def _beside(self) -> list[str]:
        if not self.towers:
            return []
        return [f"Only the text part learns: {_listed(self.towers)} ({count(sum(self.towers.values()))} parameters) stay as they are."]

    def _left_out(self, left: list[Part], attached: Any, spec: Any) -> Iterator[str]:
        named = getattr(spec, "target_modules", "auto") != "auto"
        if getattr(spec, "dropout", 0) and any(part.experts and part not in left for part in self.parts):
            yield "The adapter has no dropout, because peft's adapters on experts that are one parameter cannot have it."
        if named:
            if left:
                share = 1 - sum(part.count for part in left) / self.weights
                yield f"method.target_modules: the adapter is on {percent(share, 1)} of the weights in linear layers."
            return
        for why, sentence in WHY.items():
            if parts := [part for part in left if part.why == why]:
                yield sentence.format(names=_listed(part.leaf for part in parts), share=self._share(parts))
        if experts := [part for part in left if part.experts and not part.why]:
            yield (
                f"The experts do not learn: {self._share(experts)} of the weights in linear layers. "
                "Only plain LoRA, without DoRA, adapts experts that are one parameter."
            )
        if others := [part for part in left if not part.why and not part.experts]:
            names = _listed(part.leaf for part in others)
            yield f"{names} {'are' if len(others) > 1 else 'is'} not adapted: {self._share(others)} of the weights in linear layers."

    def _share(self, parts: list[Part]) -> str:
        return percent(sum(part.count for part in parts) / self.weights, 1)


def is_adapted(attached: Any) -> bool:
    """Whether a method has wrapped the model by peft."""
    return hasattr(attached, "peft_config")


def tower_names(model: PreTrainedModel) -> list[str]:
    """The topmost modules that rows of text never reach: vision and audio towers, projectors, layers of cross-attention."""
    from transformers import PreTrainedModel

    config = model.config
    text: tuple[Any, ...] = (model.get_input_embeddings(), model.get_output_embeddings())
    if config.get_text_config(decoder=True) is not config:
        text = (*text, model.get_decoder())
    kept = {name for name, module in model.named_modules() if any(module is part for part in text)}

    def beside(module: nn.Module, name: str) -> Iterator[str]:
        for key, child in module.named_children():
            inner = f"{name}.{key}" if name else key
            if inner in kept:
                continue
            if any(part.startswith(f"{inner}.") for part in kept):
                yield from beside(child, inner)
            elif next(child.parameters(), None) is not None:
                yield inner

    found: list[str] = list(beside(model, "")) if len(text) > 2 and "" not in kept else []
    for name, module in model.named_modules():
        sees = (isinstance(module, PreTrainedModel) and module.main_input_name not in TEXT_INPUTS) or SENSES.search(name.rpartition(".")[2])
        holds_text = not name or any(f"{part}.".startswith(f"{name}.") for part in kept)
        inside = f"{name}.".startswith(tuple(f"{each}." for each in found))
        if (sees or "CrossAttentionDecoderLayer" in type(module).__name__) and not holds_text and not inside:
            found.append(name)
    return found


def text_modules(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    """Every module of the text part with its name."""
    towers = tuple(tower_names(model))
    beside = tuple(f"{name}." for name in towers)
    for name, module in model.named_modules():
        if name not in towers and not name.startswith(beside):
            yield name, module


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The linear layers of the text part, without the output head: nn.Linear, GPT-2's Conv1D and the quantised ones of bitsandbytes."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return {name: module for name, module in text_modules(model) if isinstance(module, nn.Linear | Conv1D) and module is not head}


def _parts(model: PreTrainedModel) -> Iterator[Part]:
    users = Counter(id(weight) for module in model.modules() for weight in module._parameters.values() if weight is not None)
    linear, modules = linear_layers(model), dict(model.named_modules())
    for name, module in text_modules(model):
        parent = modules.get(name.rpartition(".")[0])
        leaf = name.rpartition(".")[2]
        if name in linear:
            weight: Any = module.weight
            size = int(module.in_features * module.out_features) if hasattr(module, "in_features") else weight.numel()  # type: ignore[operator]
            why = ROUTER if _is_router(name, module, parent) else SHARED if users[id(weight)] > 1 else ""
            # Elsewhere such code is for unused settings, or only reads the weight.
            state_space = hasattr(parent, "A_log") or hasattr(parent, "conv1d")
            if (
                not why
                and state_space
                and (leaf in read_past(cast(Hashable, type(parent))) or (leaf == "out_proj" and model.config.model_type in REFUSED))
            ):
                why = PAST
            yield Part(name, id(weight), size, why)
            continue
        if module is model.get_output_embeddings():
            continue
        router, experts = _is_router(name, module, parent), "expert" in type(module).__name__.lower() or "experts" in name.split(".")
        for key, weight in module._parameters.items():
            if weight is None or weight.dim() < 2 or "bias" in key or not (router or experts):
                continue
            why = ROUTER if router else FLAT if weight.dim() != 3 else SHARED if users[id(weight)] > 1 else ""
            yield Part(f"{name}.{key}", id(weight), weight.numel(), why, experts=not router)


def _is_router(name: str, module: nn.Module, parent: nn.Module | None) -> bool:
    """Whether a module picks experts; training it with LoRA unbalances them. Qwen's shared_expert_gate picks nothing."""
    words = name.split(".")
    return "router" in words or "Router" in type(module).__name__ or (words[-1] in ("gate", "wg") and hasattr(parent, "experts"))


@cache
def read_past(kind: Hashable) -> frozenset[str]:
    """Names of the layers whose weight a class uses without calling them, as in self.dt_proj.weight @ x: an adapter has no effect there."""
    try:
        tree = parsed(textwrap.dedent(inspect.getsource(cast(type, kind))))
    except (OSError, TypeError, SyntaxError):
        return frozenset()
    found = set()
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and "init" not in node.name):
        facts = {
            id(node.value) for node in ast.walk(function) if isinstance(node, ast.Attribute) and node.attr in ("dtype", "device", "shape")
        }
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and node.attr == "weight" and id(node) not in facts:
                layer = node.value
                if isinstance(layer, ast.Attribute) and isinstance(layer.value, ast.Name) and layer.value.id == "self":
                    found.add(layer.attr)
    return frozenset(found)


def _learning(attached: Any) -> set[int]:
    """Identities of the weights that train themselves, or have an adapter beside them."""
    found = {id(weight) for weight in attached.parameters() if weight.requires_grad}
    if is_adapted(attached):
        from peft.tuners.tuners_utils import BaseTunerLayer

        for module in attached.modules():
            if isinstance(module, BaseTunerLayer):
                weight = getattr(module.get_base_layer(), getattr(module, "parameter_name", "weight"), None)
                found.add(id(weight))
    return found


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))
