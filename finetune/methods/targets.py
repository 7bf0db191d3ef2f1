"""Where an adapter attaches, in peft's terms: target modules, target parameters, and modules to exclude although their name matches.

    targets = find_targets(model, "auto")
    targets.modules, targets.parameters            # ["k_proj", "o_proj", "q_proj", "v_proj"], ["experts.down_proj", "experts.gate_up_proj"]

`auto` is every linear layer of the text part, and experts that are one parameter; never the output head, a router, or a layer whose weights
the model uses past an adapter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from finetune.errors import ModelError
from finetune.methods.inventory import PAST, ROUTER, Inventory, Part, tower_names

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Targets:
    """`modules` are last parts of names where those are enough, `exclude` a pattern for what only has the name of one, or None."""

    modules: list[str]
    exclude: str | None = None
    parameters: list[str] = field(default_factory=list)


def linear_targets(model: PreTrainedModel) -> list[str]:
    """Names of every linear layer that an adapter can be attached to, by their last part, such as q_proj.

    Raises ModelError if there is none.
    """
    found = {part.leaf for part in Inventory.of(model).parts if not part.why and not part.experts}
    if not found:
        raise _no_layer(model)
    return sorted(found)


def find_targets(model: PreTrainedModel, wanted: str | Sequence[str], *, parameters: bool, quantised: bool = False) -> Targets:
    """The targets for the names a recipe gives, or for "auto"; `parameters` says whether peft adapts parameters by this method.

    Raises ModelError for a name that no layer of the text part has, for layers that share their weights with others, and for routers.
    """
    parts = Inventory.of(model).parts
    if isinstance(wanted, str):
        chosen = [part for part in parts if not part.why]
        if not any(parameters or not part.experts for part in chosen):
            raise _no_layer(model)
        layers, experts = [part.name for part in chosen if not part.experts], [part.name for part in chosen if part.experts]
    else:
        layers, experts = _named(model, wanted, parts, parameters=parameters)
    experts = experts if parameters else []
    # peft takes some names of layers for those that experts had before transformers 5, and adapts the experts in their place.
    taken = taken_for_experts(model) if parameters else set()
    weights = [f"{name}.weight" for name in layers if name.rpartition(".")[2] in taken and not quantised]
    layers = [name for name in layers if name.rpartition(".")[2] not in taken]
    every = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    modules, exclude = _by_last_part(layers, [name for name, _ in model.named_modules()])
    return Targets(modules, exclude, [*_shortest(experts, every), *_shortest(weights, every)])


def _named(model: PreTrainedModel, wanted: Iterable[str], parts: Sequence[Part], *, parameters: bool) -> tuple[list[str], list[str]]:
    """The layers and expert parameters that a person named."""
    towers = tuple(f"{name}." for name in tower_names(model))
    modules = {name: module for name, module in model.named_modules() if not f"{name}.".startswith(towers)}
    layers, experts = [], []
    for name in wanted:
        found = [other for other in modules if _is(other, name)]
        inside = [part.name for part in parts if part.experts and not part.why and _is(part.name, name)] if parameters else []
        if not found and not inside:
            raise _no_such_layer(model, name)
        layers += found
        experts += inside
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    for name in layers:
        if any(modules[name] is end for end in ends) and _tied(model):
            raise ModelError(
                f"{name.rpartition('.')[2]} cannot have an adapter in this model: embeddings and output head are the same weights "
                "(tie_word_embeddings), and wherever the adapter is loaded or merged it would change both.",
                hint="Leave it out: --set method.target_modules=auto, or train every weight: --set method.kind=full",
            )
    by_name = {part.name: part for part in parts}
    for name in layers:
        if name in by_name and by_name[name].why:
            reasons = {ROUTER: "it is a router", PAST: "the model uses its weights without calling it"}
            reason = reasons.get(by_name[name].why, "several layers use its weights")
            raise ModelError(f"{name} cannot have an adapter: {reason}.", hint=_choices(model))
    return layers, experts


def _is(name: str, wanted: str) -> bool:
    return name == wanted or name.endswith(f".{wanted}")


def _no_layer(model: PreTrainedModel) -> ModelError:
    return ModelError(f"{type(model).__name__} has no linear layers for LoRA.", hint="Use --set method.kind=full.")


def _no_such_layer(model: PreTrainedModel, name: str) -> ModelError:
    return ModelError(
        f"{type(model).__name__} has no layer called {name} in its text part, so it cannot have an adapter.", hint=_choices(model)
    )


def _choices(model: PreTrainedModel) -> str:
    experts = sorted({part.leaf for part in Inventory.of(model).parts if part.experts and not part.why})
    more = f" Its experts are {', '.join(experts)}." if experts else ""
    return f"The linear layers of this model are {', '.join(linear_targets(model))}.{more}"


def _tied(model: PreTrainedModel) -> bool:
    head = model.get_output_embeddings()
    same = head is not None and head.weight is model.get_input_embeddings().weight
    return same or bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))


def taken_for_experts(model: PreTrainedModel) -> set[str]:
    """Last parts of names which peft reads as those of an older transformers' experts in this architecture."""
    from peft.utils import transformers_weight_conversion as renaming

    conversion: Any = renaming
    kind = conversion._MODEL_TO_CONVERSION_PATTERN.get(model.config.model_type)
    return set(conversion._MOE_TARGET_MODULE_MAPPING.get(kind or "", {}))


def _by_last_part(wanted: Sequence[str], every: Sequence[str]) -> tuple[list[str], str | None]:
    """The last parts of the names, and a pattern for the other modules whose names end so."""
    last, chosen = sorted({name.rpartition(".")[2] for name in wanted}), set(wanted)
    others = [name for name in every if name not in chosen and name.rpartition(".")[2] in last]
    if not others:
        return last, None
    patterns = {}
    for name in others:
        words = name.split(".")
        # The shortest beginning below which nothing is wanted stands for a whole tower.
        begins = (".".join(words[:length]) for length in range(1, len(words) + 1))
        top = next((begin for begin in begins if not any(f"{each}.".startswith(f"{begin}.") for each in chosen)), None)
        exact = re.escape(name) if top is None else re.escape(top) + r"(\..*)?"
        general = re.sub(r"(?<=\\\.)\d+(?=\\\.|\()", r"\\d+", exact)
        patterns[exact if any(re.fullmatch(general, each) for each in chosen) else general] = True
    return last, "|".join(patterns)


def _shortest(wanted: Sequence[str], every: Sequence[str]) -> list[str]:
    """Ends of the names, at least two parts long, that no other name has; the full names where there are none."""
    chosen = set(wanted)
    for length in range(2, 8):
        ends = {".".join(name.split(".")[-length:]) for name in wanted}
        if all(name in chosen for name in every if any(_is(name, end) for end in ends)):
            return sorted(ends)
    return sorted(chosen)
