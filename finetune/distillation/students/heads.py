"""Fewer attention heads in every layer: those whose output is largest on calibration rows stay.

Where several heads share their keys and values (grouped-query attention) every group keeps as many of its own, and all keys and values
stay; where each head has its own, they go with it.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from finetune.distillation.students import Build, Made, Rows, wanted_of
from finetune.errors import RecipeError
from finetune.models.layer_configs import differs, head_width

if TYPE_CHECKING:
    from torch import Tensor, nn

WHAT = "attention"


class Heads:
    title = "Fewer attention heads"
    summary = "all layers stay, with fewer heads in each"
    passes = 1

    def planned(self, config: Any, amount: float, build: Build) -> Any:
        """Builds the model twice without weights."""
        from finetune.distillation.students.width import groups_of

        smaller, old, new, size = _smaller(config, amount)
        groups_of(config, smaller, build, old * size, new * size, WHAT)
        return smaller

    def make(self, teacher: nn.Module, amount: float, rows: Rows) -> Made:
        from finetune.distillation.students.width import groups_of, narrowed
        from finetune.training.head import causal_lm

        model = causal_lm(teacher)
        smaller, old, new, size = _smaller(model.config, amount)
        groups = groups_of(model.config, smaller, type(model)._from_config, old * size, new * size, WHAT)
        shared = _shared(model.config.get_text_config())

        def kept(importance: Tensor) -> Tensor:
            best = importance.view(shared, -1).topk(new // shared, dim=1).indices.sort(dim=1).values  # [groups, heads]
            first = best.new_tensor(range(0, old, old // shared))[:, None]
            return (first + best).flatten()

        student = narrowed(teacher, smaller, groups, rows, kept, WHAT, part=size)
        said = f"Every layer keeps the {new} of {old} attention heads that are most active{_rounded(amount, old, new)}."
        return Made(student, said, {"heads": new, "of_heads": old})


def _shared(text: Any) -> int:
    """How many groups of heads share keys and values; one group where each head has its own."""
    key_values = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return 1 if key_values == text.num_attention_heads else int(key_values)


def _rounded(amount: float, old: int, new: int) -> str:
    return "" if abs(wanted_of(amount, old) - new) < 0.5 else " (as many in every group that shares keys and values)"


def kept_heads(amount: float, heads: int, groups: int) -> int:
    """How many heads a count or a share means, as many in each group; raises RecipeError if none or all would stay."""
    kept = round(wanted_of(amount, heads) / groups) * groups
    if not groups <= kept < heads:
        raise RecipeError(
            f"model.from_teacher.heads: {amount:g} means {kept} of the teacher's {heads} attention heads.",
            hint=f"{f'Multiples of {groups}' if groups > 1 else 'Numbers'} below {heads} can be kept, or a share such as 0.67.",
        )
    return kept


def _smaller(config: Any, amount: float) -> tuple[Any, int, int, int]:
    """The configuration with fewer heads, how many there were and are, and the channels of each; ModelError if it has no number of them."""
    from finetune.distillation.students.width import NO_SIZE, VARIES, refusal

    text = config.get_text_config()
    if differs(text, "num_attention_heads", "num_key_value_heads", "head_dim"):
        raise refusal(config, WHAT, VARIES)
    old = getattr(text, "num_attention_heads", None)
    if not isinstance(old, int):  # a state space has none
        raise refusal(config, WHAT, NO_SIZE)
    new = kept_heads(amount, old, _shared(text))
    size = head_width(text)
    smaller = copy.deepcopy(config)
    fewer = smaller.get_text_config()
    try:
        fewer.num_attention_heads, fewer.head_dim = new, size
    except AttributeError:  # Falcon's heads always fill its width
        raise refusal(config, WHAT, NO_SIZE) from None
    if getattr(text, "num_key_value_heads", None) == old:
        fewer.num_key_value_heads = new
    return smaller, old, new, size
