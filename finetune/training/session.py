"""One training, from a model and token rows to a trained model and its totals.

outcome = train(model, tokenizer, prepared.train, recipe, machine, reporter, folder=folder.checkpoints)
outcome.finished.tokens_per_second, outcome.stopped
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainingArguments

from finetune.data.collator import Collator
from finetune.errors import OutOfMemory, TrainingError
from finetune.events import Reporter, TrainingFinished
from finetune.models.machine import Machine
from finetune.recipe import Recipe, TrainingSpec
from finetune.training.callbacks import ReleaseMemory, ReportSteps, StopOnSignal
from finetune.training.memory import PeakMemory, release
from finetune.training.trainer import SupervisedTrainer, padding_id

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainerCallback


@dataclass(frozen=True)
class Outcome:
    """The totals of a training; `stopped` if a person ended it before the last step."""

    finished: TrainingFinished
    stopped: bool


def train(
    model: Any,
    tokenizer: Any,
    rows: Dataset,
    recipe: Recipe,
    machine: Machine,
    reporter: Reporter,
    *,
    folder: Path,
    callbacks: list[TrainerCallback] | None = None,
    make_trainer: Callable[..., SupervisedTrainer] = SupervisedTrainer,
) -> Outcome:
    """Train `model` in place; `make_trainer` takes the arguments of a Trainer. Raises Diverged, OutOfMemory or TrainingError."""
    arguments = training_arguments(recipe, machine, folder, autocast=_full_precision(model), checkpointing=_checkpointing(recipe, model))
    memory = PeakMemory(machine.device)
    report = ReportSteps(reporter, memory)
    with memory, StopOnSignal(reporter) as stop:
        trainer = make_trainer(
            model=model,
            args=arguments,
            data_collator=Collator(padding_id(tokenizer, model)),
            train_dataset=rows,
            processing_class=tokenizer,
            callbacks=[report, stop, *([ReleaseMemory()] if machine.device == "cpu" else []), *(callbacks or [])],
        )
        report.trainer = trainer
        began = time.perf_counter()
        try:
            trainer.train()
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise _out_of_memory(recipe.training) from error
        except RuntimeError as error:
            if "can't allocate memory" in str(error):  # what a CPU allocation that fails says
                raise _out_of_memory(recipe.training) from error
            raise TrainingError(f"Training failed: {str(error).splitlines()[0]}", hint="The details are in run/debug.log.") from error
        seconds = time.perf_counter() - began
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # autocast around forward would go on in the benchmark
    model.eval()
    _let_go(trainer)
    first, last = (report.losses[:5], report.losses[-5:]) if report.losses else ([math.nan], [math.nan])
    finished = TrainingFinished(
        steps=trainer.state.global_step,
        train_seconds=round(seconds, 3),
        real_tokens=trainer.real_tokens,
        tokens_per_second=round(trainer.real_tokens / seconds, 2),
        supervised_tokens=trainer.supervised_tokens,
        peak_memory_bytes=memory.bytes,
        trainable_parameters=trainable(model),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        first_loss=round(sum(first) / len(first), 4),
        final_loss=round(sum(last) / len(last), 4),
    )
    reporter.report(finished)
    return Outcome(finished, stop.stopped)


def training_arguments(recipe: Recipe, machine: Machine, folder: Path, *, autocast: bool, checkpointing: bool) -> TrainingArguments:
    """The recipe as the Trainer's arguments.

    16-bit weights that do not train are used as they are; only float32 weights on a machine that is faster in 16 bits need autocast.
    """
    spec = recipe.training
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=spec.epochs,
        per_device_train_batch_size=spec.batch_size,
        gradient_accumulation_steps=spec.gradient_accumulation,
        learning_rate=spec.learning_rate,
        lr_scheduler_type=spec.scheduler,
        warmup_steps=spec.warmup,
        activation_checkpointing=checkpointing,
        bf16=autocast and machine.dtype == "bfloat16",
        fp16=machine.dtype == "float16",
        use_cpu=machine.device == "cpu",
        train_sampling_strategy="group_by_length",
        length_column_name="length",
        seed=recipe.seed,
        data_seed=recipe.seed,
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[],
        dataloader_pin_memory=machine.device == "cuda",
    )


def _let_go(trainer: SupervisedTrainer) -> None:
    """Free gradients and optimizer, which would stay in memory during the benchmark: trainer and callbacks hold each other."""
    trainer.model.zero_grad(set_to_none=True)
    trainer.optimizer = trainer.lr_scheduler = None
    trainer.accelerator.free_memory()
    gc.collect()
    release()


def trainable(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _full_precision(model: Any) -> bool:
    """Whether most of what is multiplied is float32, so that autocast has something to narrow."""
    return next(model.parameters()).dtype == torch.float32


def _checkpointing(recipe: Recipe, model: Any) -> bool:
    return recipe.training.activation_checkpointing is True


def _out_of_memory(spec: TrainingSpec) -> OutOfMemory:
    half = max(1, spec.batch_size // 2)
    return OutOfMemory(
        f"A batch of {spec.batch_size} rows does not fit into memory.",
        hint=f"Same result with less memory: --set training.batch_size={half} "
        f"--set training.gradient_accumulation={spec.gradient_accumulation * 2} or --set training.activation_checkpointing=true",
    )
