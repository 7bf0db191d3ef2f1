"""Why two processes and one differ by a few millionths in a weight: steps of LoRA on the starter, a step's rows at once and in two shares.

python benchmarks/rounding.py                # five minutes on one core; the starter must be in the cache

In float64 the same steps are made with nine more digits. If the difference shrinks with them, it is rounding: sums over a step's tokens in
another order. AdamW's steps, g / (|g| + eps) at the first, are as large for a gradient of 1e-8 as for one of 1: what is left of it after
rounding decides them.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from finetune import LLMFineTuner

ROWS, STEPS, RATE = 8, 2, 3e-4


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    import torch

    from finetune import LLMFineTuner

    tuner = LLMFineTuner({"dataset": {"samples": 60, "max_length": 128}, "method": {"dropout": 0.0}})
    rows = tuner.prepare_data().train
    step_rows = [[rows[number] for number in range(step * ROWS, (step + 1) * ROWS)] for step in range(STEPS)]
    print("| numbers | largest gradient of step 2 | its largest difference | largest difference of a weight | gradient of that weight |")
    print("|---|---|---|---|---|")
    for dtype in (torch.float32, torch.float64):
        (one, gradients), (two, others) = (trained(tuner, step_rows, dtype, shares) for shares in (1, 2))
        apart = (one - two).abs()
        place = int(apart.argmax())
        numbers = (gradients.abs().max(), (gradients - others).abs().max(), apart.max(), gradients[place].abs())
        print(f"| {str(dtype)[6:]} | " + " | ".join(f"{float(number):.0e}" for number in numbers) + " |", flush=True)


def trained(tuner: LLMFineTuner, step_rows: list[list[Any]], dtype: torch.dtype, shares: int) -> tuple[Tensor, Tensor]:
    """The adapter after the steps, and the gradients of the last, as one vector each; every share adds up its rows by itself."""
    import torch
    from transformers import TrainingArguments

    from finetune import registry
    from finetune.methods.base import MethodContext
    from finetune.models.load import load_model
    from finetune.training.batches import supervised_counts
    from finetune.training.trainer import SupervisedTrainer

    method = registry.load("methods", "lora")
    torch.manual_seed(0)
    model: Any = method.attach(
        load_model(tuner.context.located, tuner.context.machine, dtype=torch.float32),
        method.Spec(dropout=0.0),
        MethodContext(total_steps=STEPS),
    )
    trainer = SupervisedTrainer(
        model=model.to(dtype), args=TrainingArguments(tempfile.mkdtemp(), use_cpu=True, report_to=[]), train_dataset=step_rows[0]
    )
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adam = torch.optim.AdamW(learning, lr=RATE, weight_decay=0.0)
    for rows in step_rows:
        total: list[Tensor] = [torch.zeros_like(parameter) for parameter in learning]
        tokens = sum(supervised_counts(trainer.data_collator(rows)))
        for share in range(shares):
            adam.zero_grad()
            for part in trainer._parts(trainer.data_collator(rows[share::shares]), 1):
                (trainer.loss_sum(part)[0] / tokens).backward()
            for summed, parameter in zip(total, learning, strict=True):
                summed += parameter.grad
        for summed, parameter in zip(total, learning, strict=True):
            parameter.grad = summed
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        adam.step()
    flat = [torch.cat([each.detach().flatten().double() for each in some]) for some in (learning, total)]
    return flat[0], flat[1]


if __name__ == "__main__":
    main()
