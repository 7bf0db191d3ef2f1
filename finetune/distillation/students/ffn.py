"""A narrower feed-forward part in every layer: the channels that are most active on calibration rows stay."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from finetune.distillation.students import Build, Made, Rows, wanted_of
from finetune.errors import RecipeError
from finetune.models.layer_configs import differs

if TYPE_CHECKING:
    from torch import nn

KEYS = ("ffn_dim", "n_inner", "intermediate_size")  # what configurations call the width of the feed-forward part
STEP = 32  # widths that kernels and quantisation like
WHAT = "feed-forward part"


class FeedForward:
    title = "Narrower layers"
    summary = "closest: all layers stay, with fewer channels in their feed-forward parts"
    passes = 1

    def planned(self, config: Any, amount: float, build: Build) -> Any:
        """Builds the model twice without weights."""
        from finetune.distillation.students.width import groups_of

        smaller, old, new = _smaller(config, amount)
        groups_of(config, smaller, build, old, new, WHAT)
        return smaller

    def make(self, teacher: nn.Module, amount: float, rows: Rows) -> Made:
        from finetune.distillation.students.width import groups_of, narrowed
        from finetune.training.head import causal_lm

        model = causal_lm(teacher)
        smaller, old, new = _smaller(model.config, amount)
        groups = groups_of(model.config, smaller, type(model)._from_config, old, new, WHAT)
        student = narrowed(teacher, smaller, groups, rows, lambda importance: importance.topk(new).indices.sort().values, WHAT)
        asked = wanted_of(amount, old)
        rounded = "" if abs(asked - new) < 1 else f" (rounded to a multiple of {STEP})"
        said = f"The feed-forward parts keep the {new:,} of {old:,} channels that are most active{rounded}."
        return Made(student, said, {"ffn": new, "of_ffn": old})


def ffn_width(config: Any) -> int:
    """Channels of the feed-forward part of each layer; raises ModelError if a configuration does not have one number for that."""
    return _key_and_width(config)[1]


def _smaller(config: Any, amount: float) -> tuple[Any, int, int]:
    """The configuration with fewer channels, and how many there were and are."""
    key, old = _key_and_width(config)
    new = kept_channels(amount, old)
    smaller = copy.deepcopy(config)
    setattr(smaller.get_text_config(), key, new)
    return smaller, old, new


def kept_channels(amount: float, width: int) -> int:
    """How many of `width` channels a count or a share means: a multiple of STEP; raises RecipeError if none or all would stay."""
    kept = round(wanted_of(amount, width) / STEP) * STEP
    if not STEP <= kept < width:
        raise RecipeError(
            f"model.from_teacher.ffn: {amount:g} means {kept:,} of the teacher's {width:,} channels.",
            hint=f"Multiples of {STEP} below {width:,} can be kept, or a share: --set model.from_teacher.ffn=0.75",
        )
    return kept


def _key_and_width(config: Any) -> tuple[str, int]:
    from finetune.distillation.students.width import EXPERTS, NO_SIZE, VARIES, has_experts, refusal

    text = config.get_text_config()
    if has_experts(config):
        raise refusal(config, WHAT, EXPERTS)
    if differs(text, *KEYS) or (getattr(text, "use_double_wide_mlp", False) and text.num_kv_shared_layers):  # Gemma 4's last layers
        raise refusal(config, WHAT, VARIES)
    key = next((key for key in KEYS if hasattr(text, key)), None)
    if key is None:
        raise refusal(config, WHAT, NO_SIZE)
    width = getattr(text, key)
    if width is None:  # of GPT-2 and its kin
        width = 4 * text.hidden_size
    if not isinstance(width, int):
        raise refusal(config, WHAT, VARIES)
    return key, width
