"""Settings of a Trainer that its loss here cannot do, or that would keep the worst step: refused in a sentence.

check_loss_settings(TrainingArguments(label_smoothing_factor=0.1), compute_metrics=None, ...)      # RecipeError
loss_of({"eval_loss": 2.1, "eval_ce": 3.0, "eval_kl": 0.4})      # 2.1
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import TrainingArguments

from finetune.errors import RecipeError

LOWER_IS_BETTER = ("ce", "kl")  # the last words of what an evaluation gives beside the loss: eval_ce, eval_mine_approximate_kl
NEED_LOGITS = {  # arguments of a Trainer, and why they are of no use here
    "compute_loss_func": "has its own loss",
    "compute_metrics": "keeps no logits, and evaluate() gives the loss",
    "preprocess_logits_for_metrics": "keeps no logits",
}


def check_loss_settings(args: TrainingArguments, **given: Any) -> None:
    """Raises RecipeError for a setting of the Trainer that would silently do nothing, or keep the worst; `given` are of NEED_LOGITS."""
    smoothing = args.label_smoothing_factor
    ignored = {
        f"label_smoothing_factor={smoothing} is not supported: this loss has no label smoothing": smoothing != 0,
        **{f"{name} would never be called: this trainer {why}": given[name] is not None for name, why in NEED_LOGITS.items()},
    }
    for problem, is_given in ignored.items():
        if is_given:
            raise RecipeError(f"{problem}.", hint="Leave it out, or use the Trainer of transformers.")
    metric = str(args.metric_for_best_model)
    if metric.rpartition("_")[2] in LOWER_IS_BETTER and args.greater_is_better:
        raise RecipeError(
            f"The lower {metric} is, the better, and greater_is_better is True: unless it is called loss, the Trainer takes the highest.",
            hint=f'TrainingArguments(metric_for_best_model="{metric}", greater_is_better=False, ...)',
        )


def loss_of(metrics: Mapping[str, float]) -> float:
    """What a search for settings is to make small: the loss, or the sum of those of several datasets, without its parts."""
    return sum(value for name, value in metrics.items() if name.endswith("_loss"))
