"""A trainer for on-policy steps: some rows are replaced by answers of its own model, which run in batches of their own.

    trainer.practise(OnPolicySpec(share=0.5), reporter)      # before train()
    trainer.last_parts["own_kl"]                             # the divergence on own answers in the last step

What the loss of such rows is, a subclass says in `rule`: their batches have the key OWN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from finetune.distillation.caches.row_numbers import check_looked_up
from finetune.distillation.on_policy.answers import Answer, Prompts, Writing, pads, write_answers
from finetune.distillation.on_policy.practice import OWN, Practice, halves
from finetune.distillation.teachers.model_or_cache import Teacher
from finetune.errors import RecipeError
from finetune.events import Notice, Reporter, Warn
from finetune.formatting import percent
from finetune.recipe.distillation_settings import OnPolicySpec
from finetune.training.decoding import stop_ids
from finetune.training.head import causal_lm
from finetune.training.loss.chunked import Rule
from finetune.training.step_count import steps_of_epoch
from finetune.training.trainer import SupervisedTrainer

SLOWER = 0.2  # of the learning rate, where the student practises: its answers change with every step, so the steps over them are small


class OnPolicyTrainer(SupervisedTrainer):
    """Without `practise` it is a SupervisedTrainer."""

    practice: Practice | None = None
    _writing: Writing
    _alone: bool | None = None
    _before_step: dict[str, Any]

    def practise(self, spec: OnPolicySpec, reporter: Reporter | None = None) -> None:
        """Practise from the second epoch on, as GKD (2306.13649) and DistiLLM (2402.03898) do: what it writes untrained teaches nothing.

        Raises RecipeError for rows without prompts, and where nothing ends an answer.
        """
        args = self.args
        rows: Any = self.train_dataset
        if args.world_size > 1:
            raise RecipeError("on_policy works in one process, and there are several.", hint="Leave it out, or train in one process.")
        check_looked_up(rows, "on_policy")
        asks = Prompts(rows, tokens=spec.tokens, context=self.context)
        stops = stop_ids(causal_lm(self.model), self.processing_class)
        if not stops:
            raise RecipeError("on_policy needs answers that end, and the tokenizer has no end token.", hint="Leave out on_policy.")
        first = steps_of_epoch(len(rows), args.train_batch_size, args.gradient_accumulation_steps)
        self.practice = Practice(spec, asks, first_step=first, seed=args.seed, reporter=reporter or Warn())
        self._writing = Writing(stops, self.pad_id, spec.tokens)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        given = self.lr_scheduler is not None  # whose rate is its owner's business
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if self.practice is None:
            return scheduler
        first = self.practice.first_step
        if first >= num_training_steps:
            raise RecipeError(
                f"on_policy begins after the first epoch of {first:,} steps, and there are {num_training_steps:,} in all.",
                hint="Train for 2 epochs or more.",
            )
        if not given:
            slow_down(scheduler, first)
            self.practice.reporter.report(
                Notice(
                    f"From step {first + 1:,} of {num_training_steps:,} on, {percent(self.practice.spec.share)} of the rows are answers of "
                    "the student, and the learning rate is a fifth of what it would be."
                )
            )
        return scheduler

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        if self.practice is None:
            return super().get_batch_samples(epoch_iterator, num_batches, device)
        self._before_step = self.practice.state_dict()
        batches = list(islice(epoch_iterator, num_batches))
        batches = self.practice.step(batches, self.state.global_step, self.state.max_steps, self._write)
        return super().get_batch_samples(iter(batches), num_batches, device)

    def _write(self, prompts: list[list[int]], seed: int) -> list[Answer]:
        assert self.practice is not None
        with self.accelerator.autocast():
            if self._alone is None:
                self._alone = not pads(self.model, self.practice.asks, self.pad_id)
            how = replace(self._writing, vocabulary=self.head().vocabulary)
            return write_answers(self.model, prompts, how, seed=seed, alone=self._alone)

    def _parts(self, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None) -> list[dict[str, Any]]:
        if OWN not in inputs:
            return super()._parts(inputs, num_items_in_batch)
        return [part for half in halves(inputs) for part in super(OnPolicyTrainer, self)._parts(half, num_items_in_batch)]

    def parts_of(self, inputs: dict[str, Any], rule: Rule) -> dict[str, Tensor]:
        return {f"own_{name}" if OWN in inputs else name: total for name, total in super().parts_of(inputs, rule).items()}

    def take_back_step(self) -> None:
        super().take_back_step()
        if self.practice is not None:
            self.practice.load_state_dict(self._before_step)

    def remember(self) -> dict[str, Any]:
        return super().remember() | ({"practice": self.practice.state_dict()} if self.practice else {})

    def recall(self, remembered: dict[str, Any]) -> None:
        super().recall(remembered)
        if self.practice is not None:
            self.practice.load_state_dict(remembered["practice"])


def slow_down(scheduler: Any, first: int) -> None:
    """Multiply the learning rate by SLOWER after `first` steps; raises RecipeError for a scheduler that cannot do that."""
    if not hasattr(scheduler, "lr_lambdas"):
        raise RecipeError(
            f"on_policy lowers the learning rate after {first} steps, which {type(scheduler).__name__} does not allow.",
            hint="Choose another lr_scheduler_type, such as cosine.",
        )
    scheduler.lr_lambdas = [_slowed(usual, first) for usual in scheduler.lr_lambdas]


def _slowed(usual: Callable[[int], float], first: int) -> Callable[[int], float]:
    return lambda step: usual(step) * (SLOWER if step >= first else 1.0)


def check_teachers(teachers: Sequence[Teacher], *, prompted: bool, collates: bool) -> None:
    """Raises RecipeError where teachers cannot read what a student writes: `prompted` ones see other prompts.

    `collates`: somebody else makes the batches.
    """
    if any(teacher.model is None for teacher in teachers):
        raise RecipeError("on_policy asks the teacher about new answers, and there is only its cache.", hint="Pass teacher_model= too.")
    if prompted:
        raise RecipeError("on_policy and a system prompt of the teacher work one at a time.", hint="Leave out one of the two.")
    if collates:
        raise RecipeError("on_policy makes rows of its own, which a data_collator would have to know.", hint="Leave out data_collator.")
