"""A Hugging Face Trainer that computes only what has a loss: no padding in the head, logits for supervised positions only, in chunks.

    trainer = SupervisedTrainer(model=model, args=TrainingArguments(...), train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    trainer.real_tokens, trainer.supervised_tokens

Rows have `input_ids` and `labels` (-100: no loss). Everything else is the ordinary Trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from inspect import signature
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import TrainingArguments

from finetune.data.tokens.collator import Collator
from finetune.data.tokens.labels import LEARNED, NO_LOSS, learned
from finetune.errors import ModelError, TrainingError
from finetune.hardware.kernels import use_fast_kernels
from finetune.models.load import is_packed, keep_unpacked
from finetune.training.batches import (
    KNOWN,
    NUMBERS,
    Supervised,
    WithLengths,
    ends_in_padding,
    lengths_of,
    right_padding_mask,
    supervised_counts,
)
from finetune.training.callbacks import KeepPaddingId
from finetune.training.head import (
    Head,
    backbone_of,
    causal_lm,
    check_causal,
    check_head,
    context_length,
    fixed_positions,
    head_of,
    needs_mask,
    nothing_packed,
    padding_id,
)
from finetune.training.loss.chunked import CrossEntropy, Rule, chunked_loss
from finetune.training.loss.experts import balances, balancing_loss
from finetune.training.loss.settings import NEED_LOGITS, check_loss_settings, loss_of
from finetune.training.loss.workspace import CHUNK_BYTES, Workspace
from finetune.training.out_of_memory import MicroBatches, parts_of
from finetune.training.parallel.shards import full
from finetune.training.parallel.together import Parts, Wishes
from finetune.training.resumable import ResumableTrainer
from finetune.training.step_count import CPU_TOKENS
from finetune.training.sub_batches import pieces

INPUTS = ("input_ids", "labels", "attention_mask", "position_ids", "length", *NUMBERS)


class SupervisedTrainer(ResumableTrainer):
    """Trains with the chunked cross-entropy; raises TrainingError for a step without a supervised token.

    `real_tokens` and `supervised_tokens` count what was trained on, never padding. A step that runs out of memory is repeated with
    half the rows at a time, and so are those after it. `step_batches`, `step_tokens` and `step_loss` are those of the current step.
    Evaluation gives the loss and its parts. `held_out` are rows to measure while it trains (finetune/training/held_out.py). One GPU trains,
    however many there are; with torchrun every process has one, and a share of each step's rows: what is counted, `step_loss` and the parts
    of the loss are then those of all. Raises RecipeError for settings of a Trainer that need another loss or the logits: label smoothing,
    `compute_loss_func`, `compute_metrics`, `preprocess_logits_for_metrics`; ModelError for what is no causal language model, or if none of
    its weights is to be trained.
    """

    loss_is_scaled_for_ga = True
    penalty: Callable[[], Tensor] | None = None  # added to the loss once per optimizer step, however many batches it has

    def __init__(self, model: Any = None, args: Any = None, data_collator: Any = None, *, held_out: Any = None, **kwargs: Any) -> None:
        if args is None:
            args = TrainingArguments(output_dir="tmp_trainer")  # as the Trainer does
        check_loss_settings(args, **{name: kwargs.get(name) for name in NEED_LOGITS})
        if model is not None:
            check_causal(model)
        args._n_gpu = min(args.n_gpu, 1)  # else the Trainer would share batches among GPUs by DataParallel, past the loss here
        pad = padding_id(kwargs.get("processing_class"), model)
        collator = WithLengths(data_collator or Collator(pad))
        if model is not None:  # the Trainer writes it into the configuration that is saved; each pass here says what it wants itself
            args.use_cache = getattr(model.config, "use_cache", args.use_cache)
        super().__init__(model=model, args=args, data_collator=collator, **kwargs)
        self.pad_id, self.held_out = pad, held_out
        self.real_tokens = 0
        self.supervised_tokens = 0
        self.micro_batches = MicroBatches()
        self.step_batches: list[dict[str, Any]] = []
        self.step_tokens: tuple[int, ...] = (0, 0)
        self.step_loss = torch.zeros(())
        self.gradient_norm: Any = None
        self._batches_done = 0
        self._work: int | None = None  # floating-point operations for a token, once they are known
        self.workspace = Workspace()
        self.parts, self.wishes = Parts(), Wishes()
        self.evaluated: dict[str, Tensor] = {}
        self.evaluated_tokens, self.evaluated_loss = 0, torch.zeros(())
        # The Trainer then counts the supervised tokens of the whole accumulation window, all devices, and hands them to compute_loss.
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = True
        use_fast_kernels(self.model)
        keep_unpacked(self.model)  # else one in 4 bits has no gradients after the next line, on a CPU
        check_head(self.model)
        collator.vocabulary, collator.longest = causal_lm(self.model).get_input_embeddings().weight.shape[0], fixed_positions(self.model)
        self.add_callback(KeepPaddingId(self.model))
        self.masks = needs_mask(self.model)
        self.context = context_length(self.model)
        self.balances = balances(self.model)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        with self.accelerator.autocast():
            loss, count = self.in_forward(lambda: self.loss_sum(inputs))
        loss = loss / (num_items_in_batch if num_items_in_batch is not None else max(count, 1))
        if self.sharded and self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * (self.accelerator.num_processes // self.get_tp_size())  # what shards a model takes the mean of its gradients
        return (loss, {"loss": loss}) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None) -> Tensor:
        self._batches_done += 1
        loss = self.micro_batches.run(
            lambda: self._in_parts(model, inputs, num_items_in_batch),
            lambda: self._step_so_far_again(model, num_items_in_batch),
            len(inputs["input_ids"]) if not self.together and num_items_in_batch is not None else 1,
        )
        self.step_loss = self.step_loss.to(loss.device) + loss
        if self.processes.size == 1:
            return loss
        if self._batches_done == len(self.step_batches):
            self.step_loss = self.end_step(self.parts, self.wishes, self.step_loss)
        return loss * self.processes.size  # of which the Trainer shows the mean over the processes

    def _step_so_far_again(self, model: nn.Module, num_items_in_batch: Tensor | int | None) -> Tensor:
        """The batches of this step up to the one that did not fit, from no gradient on; the loss of the last."""
        model.zero_grad()
        self.parts.begin()
        self.workspace = Workspace(CHUNK_BYTES)  # the smallest, where there is so little left
        losses = [self._in_parts(model, batch, num_items_in_batch) for batch in self.step_batches[: self._batches_done]]
        return losses[-1]

    def _in_parts(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None) -> Tensor:
        step = super().training_step
        if self.whole is not None and len(inputs["input_ids"]) == 0:
            return self._for_the_others(model)
        parts = [step(model, part, num_items_in_batch) for part in self._parts(inputs, num_items_in_batch)]
        return torch.stack(parts).sum() if parts else torch.zeros((), device=self.args.device)

    def _for_the_others(self, model: nn.Module) -> Tensor:
        """A pass that weighs nothing, where there are no rows: the others need the shards of this process, and its part of the sums."""
        row = next(row for row in cast(Any, self.train_dataset) if learned(row))
        parts, self.parts = self.parts, Parts()
        loss = super().training_step(model, self.data_collator([row]), torch.tensor(torch.inf, device=self.args.device))
        self.parts = parts
        return loss

    def _parts(self, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None) -> list[dict[str, Any]]:
        """A batch as it goes through the model: whole, in pieces that suit a CPU, or in parts that fit into memory."""
        most, on_cpu = self.micro_batches.rows, self.args.device.type == "cpu"
        # Without the number of tokens of the step the parts could not be weighed.
        if len(inputs["input_ids"]) == 0:
            return []  # of a step with fewer rows than processes
        if self.together or num_items_in_batch is None or not (on_cpu or most):
            return [inputs]
        mask = right_padding_mask(inputs, self.pad_id)
        if not self.balances and ends_in_padding(mask):  # a custom collator may pad on the left
            return list(pieces(inputs, mask.sum(1).tolist(), CPU_TOKENS if on_cpu else mask.numel(), widest=self.context, most=most))
        return parts_of(inputs, most) if most else [inputs]  # routers balance best over whole batches

    def loss_sum(self, inputs: dict[str, Any]) -> tuple[Tensor, int]:
        """The loss summed over the supervised tokens of a batch, and their number."""
        supervised = Supervised.of(inputs["labels"], inputs.get(KNOWN))
        count = len(supervised.labels)
        outputs = self.run_student(inputs)
        hidden = outputs.last_hidden_state.flatten(0, 1).index_select(0, supervised.index)
        rule = self.rule(inputs, supervised, hidden)
        loss = chunked_loss(hidden, self.head(), rule, workspace=self.workspace)
        if rule.beside is not None:
            loss = loss + rule.beside
        if self.model.training:
            parts = self.parts_of(inputs, rule)
            if self.penalty is not None:
                extra = self.penalty()
                parts["penalty"] = count * extra.detach()
                loss = loss + count * extra  # counts of a step, divided by their sum, add up to one
            self.parts.add(parts, count)
        else:
            self.evaluated_tokens += count
            for name, total in self.evaluated_parts(inputs, supervised, hidden, rule).items():
                self.evaluated[name] = self.evaluated.get(name, 0) + total.detach()
        if self.balances and outputs.router_logits is not None:
            mask = right_padding_mask(inputs, self.pad_id)
            loss = loss + count * balancing_loss(self.model, outputs.router_logits, mask)
        return loss, count

    def rule(self, inputs: dict[str, Any], supervised: Supervised, hidden: Tensor) -> Rule:
        """The loss of this trainer for one batch, whose supervised states are `hidden` [n, d]."""
        return CrossEntropy(supervised.labels)

    def parts_of(self, inputs: dict[str, Any], rule: Rule) -> dict[str, Tensor]:
        """The sums over a batch that a step of training tells beside the loss."""
        return dict(rule.sums)

    def evaluated_parts(self, inputs: dict[str, Any], supervised: Supervised, hidden: Tensor, rule: Rule) -> dict[str, Tensor]:
        """The sums over a batch that an evaluation tells beside the loss; `rule` is what made the loss."""
        return rule.sums

    def head(self) -> Head:
        """The last layer of the model that trains."""
        return head_of(self.model)

    def run_student(self, inputs: dict[str, Any]) -> Any:
        """Outputs of the model that trains, below its head."""
        more = {"output_router_logits": True} if self.balances else {}
        return run_backbone(self.model, inputs, self.pad_id, masks=self.masks, **more)

    @property
    def last_parts(self) -> dict[str, float]:
        """Mean of each part of the loss per supervised token that has it, over the batches of the last step."""
        return self.parts.means()

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.parts.begin()
        self.step_batches, self.step_loss, self._batches_done = batches, torch.zeros(()), 0
        if batches:
            if items is not None and (int(items) if self.sharded else self.step_tokens[1]) == 0:
                raise TrainingError(
                    f"Step {self.state.global_step + 1} has no supervised token: its rows have nothing to learn.",
                    hint="Raise dataset.max_length so that answers are not cut away, or leave out rows without an answer.",
                )
            self.real_tokens += self.step_tokens[0]
            self.supervised_tokens += self.step_tokens[1]
        return batches, items

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        real = sum(sum(lengths_of(batch, self.pad_id)) for batch in batch_samples)
        supervised = sum(sum(supervised_counts(batch)) for batch in batch_samples)
        self.step_tokens = tuple(map(int, self.processes.sum((real, supervised))))
        if self.sharded:  # by a library that has processes of its own
            return super()._get_num_items_in_batch(batch_samples, device)
        return torch.full((), self.step_tokens[1], device=device) if batch_samples else None  # a copy would wait for the device

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """What the Trainer says, which counts the weights of the model in each batch: milliseconds that a fast GPU waits for."""
        tokens = int(inputs["input_ids"].numel())
        if self._work is None and tokens:
            self._work = super().floating_point_ops(inputs) // tokens
        return (self._work or 0) * tokens

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        if self.args.include_num_input_tokens_seen == "non_padding":  # which the Trainer sees by a mask
            inputs = {**inputs, "attention_mask": right_padding_mask(inputs, self.pad_id)}
        super()._track_num_input_tokens(inputs)  # type: ignore[no-untyped-call]

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise ModelError(
                "All weights of the model are frozen, so there is nothing to train.",
                hint="Load an adapter with PeftModel.from_pretrained(..., is_trainable=True), or call model.requires_grad_(True).",
            )
        if is_packed(self.model):
            raise ModelError(
                "The model has answered before, and 4-bit layers that have answered on this CPU have no gradients.",
                hint="Load it again, and make the trainer before it answers.",
            )
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        return optimizer

    def take_back_step(self) -> None:
        """Count as before the step that runs, which has not changed a weight yet."""
        self.real_tokens -= self.step_tokens[0]
        self.supervised_tokens -= self.step_tokens[1]

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        self.gradient_norm = super()._get_grad_norm(model, full(grad_norm))  # type: ignore[no-untyped-call]
        return self.gradient_norm

    def checkpoint_activations(self) -> bool:
        """Use activation checkpointing from now on; False if it is already in use, or the model does not support it."""
        inner = causal_lm(self.model)
        if inner.is_activation_checkpointing or not inner.supports_gradient_checkpointing:
            return False
        inner.activation_checkpointing_enable()
        return True

    def remember(self) -> dict[str, Any]:
        return {
            "real_tokens": self.real_tokens,
            "supervised_tokens": self.supervised_tokens,
            "rows_at_a_time": self.micro_batches.rows,
            "activations_checkpointed": causal_lm(self.model).is_activation_checkpointing,
        }

    def recall(self, remembered: dict[str, Any]) -> None:
        if remembered.get("activations_checkpointed"):
            self.checkpoint_activations()
        self.real_tokens, self.supervised_tokens = remembered["real_tokens"], remembered["supervised_tokens"]
        self.micro_batches.rows = remembered["rows_at_a_time"]

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        inputs = self._each_row_once(self._prepare_inputs(inputs))
        for name in NUMBERS:
            inputs.pop(name, None)  # numbers the rows of the training set only
        with torch.no_grad():
            before = self.evaluated_tokens
            loss = self.compute_loss(model, inputs)
            self.evaluated_loss = self.evaluated_loss.to(loss.device) + loss.detach() * (self.evaluated_tokens - before)
        return loss.detach(), None, None

    def _each_row_once(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Without labels where an evaluation's last batches begin again, as accelerate makes them so that all processes have as many."""
        last, rows = self.accelerator.gradient_state, len(inputs["input_ids"])
        if self.args.world_size == 1 or not last.end_of_dataloader or last.remainder <= 0:
            return inputs
        share = getattr(last.active_dataloader.batch_sampler, "process_index", self.accelerator.process_index)  # some processes have one
        own = max(0, last.remainder - share * rows)
        if own >= rows:
            return inputs
        labels = inputs["labels"].clone()
        labels[own:] = NO_LOSS
        return {name: value for name, value in inputs.items() if name != KNOWN} | {"labels": labels}

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """The Trainer's, with the mean of the loss and of its parts per supervised token: eval_kl and eval_ce of a distillation."""
        self.evaluated, self.evaluated_tokens, self.evaluated_loss = {}, 0, torch.zeros(())
        output: Any = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        names = sorted(set(gather_object(list(self.evaluated))))  # a process without rows of its own has none
        sums = [self.evaluated_tokens, float(self.evaluated_loss), *(float(self.evaluated.get(name, 0)) for name in names)]
        if self.args.world_size > 1:
            together: Any = self.accelerator.reduce(torch.tensor(sums, dtype=torch.float64, device=self.args.device), "sum")
            sums = together.tolist()
        for name, total in zip(["loss", *names], sums[1:], strict=True):
            output.metrics[f"{metric_key_prefix}_{name}"] = total / max(sums[0], 1)
        return output

    def hyperparameter_search(self, hp_space: Any = None, compute_objective: Any = None, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's, which minimises the loss: of several numbers of an evaluation it would minimise the sum."""
        return super().hyperparameter_search(hp_space, compute_objective or loss_of, *args, **kwargs)

    def _set_signature_columns_if_needed(self) -> None:
        ours = isinstance(cast(Any, self.data_collator).collator, Collator)
        self._signature_columns: Any = [*INPUTS, *(LEARNED if ours else ())]


def run_backbone(model: nn.Module, inputs: dict[str, Any], pad_id: int, *, masks: bool, **more: Any) -> Any:
    """Outputs of a model below its head, without an attention mask where causality makes it superfluous (not `masks`).

    Padding before a text, which a collator of one's own may make, moves no token to another position.
    """
    if inputs.get("position_ids") is not None:
        more["position_ids"] = inputs["position_ids"]
    mask = inputs.get("attention_mask")
    if mask is None and masks:
        mask = right_padding_mask(inputs, pad_id)
    elif mask is not None and ends_in_padding(mask):
        mask = mask if masks else None
    elif mask is not None and "position_ids" not in more and "position_ids" in signature(backbone_of(model).forward).parameters:
        more["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)  # as generate() counts them
    with nullcontext() if inputs.get("position_ids") is not None else nothing_packed():
        return backbone_of(model)(input_ids=inputs["input_ids"], attention_mask=mask, use_cache=False, **more)
