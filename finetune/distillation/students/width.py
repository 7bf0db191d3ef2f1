"""What students by width share: finding the channels that a configuration can do without, ranking them, leaving the others out.

    groups = narrow(config, smaller, build, 1536, 1152, "feed-forward part")       # one for each layer
    student = without(teacher, smaller, groups, rows, kept)

Which weights have one entry for each channel is read off two models without weights, on torch's meta device: one of the configuration as
it is, one of the smaller one. So no architecture has to be known by name; what does not fit the picture of linear layers that write
channels and one that reads them is refused.

A channel's importance: per row the mean of its absolute value over tokens, squared and summed over rows (Minitron, arXiv 2407.14679).
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from finetune.distillation.students import READY_MADE, Build, Rows
from finetune.distillation.students.calibration import calibrated
from finetune.distillation.students.rebuilding import check_rebuilt, off_by, probe, rebuilt
from finetune.errors import ModelError
from finetune.training.head import causal_lm
from finetune.training.out_of_memory import ran_out

NO_SIZE = "its configuration states no size for it alone"
VARIES = "its size differs from layer to layer"
EXPERTS = "it is a mixture of experts"
Kept = Callable[[Tensor], Tensor]  # from the importance [parts] of a group to the numbers of the parts that stay, in order


@dataclass
class Group:
    """Channels between the layers that write them and the one that reads them; `sides` is their dimension in each parameter, by name."""

    reader: str = ""
    sides: dict[str, int] = field(default_factory=dict)


def refusal(config: Any, what: str, why: str) -> ModelError:
    return ModelError(
        f"The {what} of a {config.model_type} cannot be made narrower here: {why}.",
        hint=f"Leave out layers instead: --set model.from_teacher.layers=0.67. {READY_MADE}",
    )


def has_experts(config: Any) -> bool:
    return any("experts" in name and isinstance(value, int) and value > 1 for name, value in vars(config.get_text_config()).items())


def groups_of(config: Any, smaller: Any, build: Build, old: int, new: int, what: str) -> list[Group]:
    """The groups of `old` channels of which a model of the configuration `smaller` has `new`; raises ModelError if there are none."""
    try:
        with torch.device("meta"):
            whole, less = build(copy.deepcopy(config)), build(copy.deepcopy(smaller))
    except (ValueError, RuntimeError) as error:  # sizes that do not go together
        raise refusal(config, what, f"its sizes depend on each other ({error})") from None
    shapes = dict(less.named_parameters())
    groups: dict[str, Group] = defaultdict(Group)
    for name, weight in whole.named_parameters():
        if name not in shapes:
            raise refusal(config, what, "a smaller one is built of other parts")
        if weight.shape == shapes[name].shape:
            continue
        changed = [at for at, (one, other) in enumerate(zip(weight.shape, shapes[name].shape, strict=True)) if one != other]
        owner_name, _, kind = name.rpartition(".")
        owner = whole.get_submodule(owner_name)
        if not isinstance(owner, nn.Linear | Conv1D):
            experts = weight.dim() > 2 and has_experts(config)
            raise refusal(config, what, EXPERTS if experts else f"{type(owner).__name__} spans all of its channels")
        if len(changed) > 1 or (weight.shape[changed[0]], shapes[name].shape[changed[0]]) != (old, new):
            raise refusal(config, what, f"{owner_name.rpartition('.')[2]} is several projections in one")
        group = groups[owner_name.rpartition(".")[0]]
        group.sides[name] = changed[0]
        if kind == "weight" and changed[0] == (1 if isinstance(owner, nn.Linear) else 0):
            if group.reader:
                raise refusal(config, what, "several layers read its channels")
            group.reader = owner_name
    if not groups:
        raise refusal(config, what, NO_SIZE)
    if not all(group.reader and len(group.sides) > 1 for group in groups.values()):
        raise refusal(config, what, "its channels are not written and read in one place")
    return list(groups.values())


@torch.no_grad()
def narrowed(teacher: nn.Module, smaller: Any, groups: list[Group], rows: Rows, kept: Kept, what: str, *, part: int = 1) -> Any:
    """A copy of the teacher with the configuration `smaller`, of each group only the parts of `part` channels that `kept` chooses.

    Raises ModelError if a model built from the teacher's configuration is not the teacher, or if the copy is not the teacher with all
    other channels at zero: then something else depends on their number or their order.
    """
    check_rebuilt(teacher)
    inner = causal_lm(teacher)
    found = importance(inner, [group.reader for group in groups], rows, part)
    weights = {name: weight.detach() for name, weight in inner.state_dict().items()}
    copied = {name: weight.clone() for name, weight in weights.items()}
    entering: dict[str, Tensor] = {}
    for group in groups:
        parts = kept(found[group.reader])
        entering[group.reader] = channels = (parts[:, None] * part + torch.arange(part, device=parts.device)).flatten()
        for name, side in group.sides.items():
            copied[name] = weights[name].index_select(side, channels.to(weights[name].device))
    try:
        student = rebuilt(inner, smaller, copied)
        same = _is_silenced(student, inner, entering)
    except RuntimeError as error:
        if ran_out(error):
            raise
        raise refusal(inner.config, what, "other parts depend on its size too") from None
    if not same:
        raise refusal(inner.config, what, "what is left would not compute what it did in the teacher")
    student.generation_config = copy.deepcopy(inner.generation_config)
    return student


def _is_silenced(student: nn.Module, teacher: nn.Module, entering: Mapping[str, Tensor]) -> bool:
    """Whether a student answers like its teacher with zeros in place of the other channels than those `entering` a layer, by its name."""

    def silenced(kept: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        return lambda _, args: (torch.zeros_like(args[0]).index_copy(-1, kept, args[0].index_select(-1, kept)), *args[1:])

    ids = probe(teacher)
    with ExitStack() as hooks:
        for name, kept in entering.items():
            hooks.enter_context(teacher.get_submodule(name).register_forward_pre_hook(silenced(kept)))
        wanted = teacher(input_ids=ids, use_cache=False).logits
    exact = wanted.dtype in (torch.float32, torch.float64)
    return off_by(student(input_ids=ids, use_cache=False).logits, wanted) <= (1e-3 if exact else 0.1)


def importance(model: nn.Module, readers: list[str], rows: Rows, part: int = 1) -> dict[str, Tensor]:
    """Of every part of `part` channels that enter each of the layers `readers`: [channels / part], larger is more important.

    Of several channels the Euclidean norm is what a single one's absolute value is.
    """
    found: dict[str, Tensor] = {}

    def entering(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            channels = args[0].detach().float().reshape(-1, args[0].shape[-1])  # [tokens, channels]
            mean = channels.unflatten(1, (-1, part)).norm(dim=-1).mean(0)
            found[name] = found.get(name, torch.zeros_like(mean)) + mean**2

        return add

    with ExitStack() as hooks:
        for name in readers:
            hooks.enter_context(model.get_submodule(name).register_forward_pre_hook(entering(name)))
        for _ in calibrated(model, rows):
            pass
    return found
