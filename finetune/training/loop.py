"""One training, from a model and token rows to a trained model and its totals.

outcome = train(model, tokenizer, prepared.train, recipe, machine, reporter, folder=folder.checkpoints)
outcome.finished.tokens_per_second, outcome.stopped
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, TrainingArguments

from finetune.errors import OutOfMemory, TrainingError
from finetune.events import Notice, Reporter, Resumed, TrainingFinished
from finetune.foreign import reason
from finetune.formatting import epochs, roughly
from finetune.hardware.machine import Machine
from finetune.hardware.peak_memory import PeakMemory
from finetune.recipe import Recipe, StudentSpec, TrainingSpec
from finetune.system.library_warnings import unsaid
from finetune.system.storage import check_room
from finetune.training.callbacks import ReleaseMemory, ReportSteps, SaveCheckpoints, StopAtNonsense, StopOnSignal
from finetune.training.checkpoints import Checkpoint, Checkpoints
from finetune.training.held_out import ENDED, WatchHeldOut
from finetune.training.kept_step import Chosen, in_words
from finetune.training.loss.kernel import NO_TRITON, trouble
from finetune.training.out_of_memory import MEMORY_ERRORS, free_memory, ran_out
from finetune.training.parallel.processes import GONE, is_gone, world_size
from finetune.training.parallel.share_processor import ShareProcessor
from finetune.training.step_count import divided, rows_of_step
from finetune.training.tracker_callback import tracking
from finetune.training.trainer import SupervisedTrainer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainerCallback

FEWEST = 6  # losses in each of the two parts that are compared
SURE = 2.0  # standard errors of the difference between them: about one chance in 40 of a fall that is none


@dataclass(frozen=True)
class Outcome:
    """The totals of a training, and whether the user stopped it; it is complete after `total_steps` steps, or where patience was over."""

    finished: TrainingFinished
    stopped: bool
    total_steps: int

    @property
    def complete(self) -> bool:
        return self.finished.steps >= self.total_steps or bool((self.finished.kept or {}).get("stopped_after"))


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
    penalty: Callable[[], torch.Tensor] | None = None,
    start: Checkpoint | None = None,
    made_with: Mapping[str, Any] | None = None,
    stop: StopOnSignal | None = None,
    held_out: Any = None,
    settled_at: Callable[[int], int] = lambda steps: 0,
    cut: bool = False,
) -> Outcome:
    """Train `model` in place; `make_trainer` takes the arguments of a Trainer, `penalty` is added to the loss once per step.

    Checkpoints go to `folder`, with `made_with` in their manifests; `start` is one to continue from. In a process group each process has
    a share of the rows, and with `cut` of the model, and the totals are those of all. `stop` says when a person wants it to end: on a
    signal, unless it is given. On rows that are `held_out` the loss is measured meanwhile; of so many steps those from `settled_at` on can
    be the best. Raises Diverged, OutOfMemory, DiskFull or TrainingError, and RecipeError for a step that the processes cannot share.
    """
    spec = recipe.training
    arguments = training_arguments(recipe, machine, folder, autocast=next(model.parameters()).dtype == torch.float32, cut=cut)
    if machine.device == "cuda" and (why := trouble()) and arguments.local_process_index == 0:
        reporter.report(_without_kernel(why))
    memory = PeakMemory(machine.device)
    report, saving = ReportSteps(reporter, memory), SaveCheckpoints(reporter, spec.save_every)
    watch = None if held_out is None else WatchHeldOut(reporter, spec, len(held_out), settled_at)
    store, everything = Checkpoints(folder), isinstance(recipe.model, StudentSpec)
    new_ids = unsaid("transformers.trainer_utils", "The tokenizer has new PAD/BOS/EOS tokens")  # of the tokenizer, as everywhere here
    with memory, new_ids, stop or StopOnSignal(reporter) as stop, ShareProcessor(reporter) as sharing:
        trainer = make_trainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            processing_class=tokenizer,
            callbacks=[
                report,
                stop,
                StopAtNonsense(saving),
                *([ReleaseMemory()] if machine.device == "cpu" else []),
                *([sharing] if machine.device == "cpu" and arguments.world_size == 1 else []),  # else others are our own
                *(callbacks or []),
                *([watch] if watch else []),
                *(tracking(recipe, folder.parent, reporter, lambda: report.told) if arguments.process_index == 0 else []),
                saving,
            ],
            **({"held_out": held_out} if watch else {}),
        )
        trainer.remove_callback(PrinterCallback)  # of each step, what is reported anyway
        report.trainer = saving.trainer = stop.trainer = trainer
        report.watch, trainer.penalty, trainer.cut = watch, penalty, cut
        _make_do_with_less(trainer, spec, reporter)
        facts, more = {"made_with": dict(made_with or {})}, watch.watched_by(trainer) if watch else dict
        trainer.keep_in(store, lambda: {**facts, **report.facts(), **more()}, everything=everything)
        if start is None:
            # The second is written before the first is deleted, and the best stays.
            at_once = 3 if watch and spec.keep == "best" else 2
            check_room("Saving this run's checkpoints", at_once * trainer.state_bytes(), folder, "choose another --output-dir")
        else:
            reporter.report(Resumed(start.step, int(start.facts["total_steps"])))
        _run(trainer, start, spec)
        seconds = report.seconds
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # else autocast around forward would stay on in the benchmark
    model.eval()
    chosen = watch.take(model, store, everything=everything) if watch else None
    _let_go(trainer)
    finished = _totals(trainer, model, report, seconds, memory, chosen, sharing)
    reporter.report(finished)
    if chosen:
        reporter.report(Notice(f"Kept: {in_words(finished.kept)}."))
    ended_well = not stop.stopped and (chosen is None or chosen.best_step == finished.steps)
    if ended_well and spec.passes <= 1 and (means := still_falling(report.losses, finished.steps)):
        reporter.report(_falling(means, spec, seconds))
    return Outcome(finished, stop.stopped, trainer.state.max_steps)


def _run(trainer: SupervisedTrainer, start: Checkpoint | None, spec: TrainingSpec) -> None:
    """The steps, from the first on or from a checkpoint; raises OutOfMemory or TrainingError with a sentence for what torch says."""
    rows = trainer.args.per_device_train_batch_size
    try:
        if start and start.facts.get(ENDED):
            trainer.take_up_end(start.folder)
        else:
            trainer.train(resume_from_checkpoint=str(start.folder) if start else None)
    except MEMORY_ERRORS as error:
        if ran_out(error) and trainer.cut and rows > 1:
            raise _too_large_beside_shards(rows, spec) from error
        if ran_out(error):
            instead = "--set training.activation_checkpointing=true, a" if spec.activation_checkpointing is False else "A"
            hint = f"{instead} lower dataset.max_length, or a smaller model."
            raise OutOfMemory("Even one row at a time does not fit into memory.", hint=hint) from error
        if is_gone(error):
            raise TrainingError(GONE) from error
        raise TrainingError(f"Training failed: {reason(error)}.", hint="The details are in run/debug.log.") from error


def _make_do_with_less(trainer: SupervisedTrainer, spec: TrainingSpec, reporter: Reporter) -> None:
    """Say when a step must do with fewer rows at a time, and what it may do beyond that where memory runs out."""
    micro_batches = trainer.micro_batches
    micro_batches.on_halved = lambda before, after: reporter.report(_halved(trainer.state.global_step + 1, before, after, spec))
    if spec.activation_checkpointing == "auto" and not trainer.cut:  # what a step computes must be the same in all of them
        micro_batches.last_resort = lambda: _checkpoint_activations(trainer, reporter)


def _totals(
    trainer: SupervisedTrainer,
    model: Any,
    report: ReportSteps,
    seconds: float,
    memory: PeakMemory,
    chosen: Chosen | None,
    sharing: ShareProcessor,
) -> TrainingFinished:
    """What the training was in numbers, those of all processes."""
    first, last = report.ends(trainer.state.global_step)
    peaks = trainer.processes.gather(max(memory.bytes, report.earlier_peak))  # of each device
    return TrainingFinished(
        steps=trainer.state.global_step,
        train_seconds=round(seconds, 3),
        real_tokens=trainer.real_tokens,
        tokens_per_second=round(trainer.real_tokens / seconds, 2),
        supervised_tokens=trainer.supervised_tokens,
        peak_memory_bytes=max(peaks),
        trainable_parameters=trainable(model),
        parameters=parameters_of(model),
        first_loss=round(first, 4),
        final_loss=round(last, 4),
        kept=chosen.to_dict() if chosen else None,
        steps_with_fewer_threads=sharing.steps,
    )


def still_falling(losses: Sequence[float], steps: int) -> tuple[float, float] | None:
    """The mean losses of the last two quarters of `steps` steps, if the last is lower beyond what chance does (Welch's t); else None.

    `losses` are those of the last steps, one each, on rows that were new to the model: in a second pass they fall as rows are memorised.
    """
    each = steps // 4
    if each < FEWEST or len(losses) < 2 * each:
        return None
    before, last = list(losses)[-2 * each : -each], list(losses)[-each:]
    error = ((statistics.variance(before) + statistics.variance(last)) / each) ** 0.5
    first, second = statistics.fmean(before), statistics.fmean(last)
    return (first, second) if first - second > SURE * error else None


def _falling(means: tuple[float, float], spec: TrainingSpec, seconds: float) -> Notice:
    """What training longer would take; of rows that are seen for the first time only."""
    more = 2 * math.ceil(spec.passes)
    took = roughly(seconds * (more - spec.passes) / spec.passes)
    return Notice(
        f"The loss was still falling at the end ({means[0]:.2f}, then {means[1]:.2f}), so the model may get better: "
        f"{epochs(more)} would take {took} more."
    )


class Arguments(TrainingArguments):
    """The Trainer's, without a warm-up of one step: the rate begins at 0, so such a step would only be lost, and a run of one would learn
    nothing."""

    def get_warmup_steps(self, num_training_steps: int) -> int:
        steps = int(super().get_warmup_steps(num_training_steps))  # type: ignore[no-untyped-call]
        return 0 if steps == 1 else steps


class CutArguments(Arguments):
    """Those of a model that is cut before it goes to the device: whole it need not fit there."""

    @property
    def place_model_on_device(self) -> bool:
        return False


def training_arguments(recipe: Recipe, machine: Machine, folder: Path, *, autocast: bool, cut: bool = False) -> TrainingArguments:
    """The recipe as the Trainer's arguments.

    Frozen 16-bit weights are used as they are; only float32 weights on a machine that is faster in 16 bits need autocast.
    """
    spec = recipe.training
    batch, accumulation = divided(spec, world_size())
    return (CutArguments if cut else Arguments)(
        output_dir=str(folder),
        num_train_epochs=spec.passes,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=spec.rate,
        lr_scheduler_type=spec.scheduler,
        warmup_steps=spec.warmup,
        activation_checkpointing=spec.activation_checkpointing is True,
        bf16=autocast and machine.dtype == "bfloat16",
        fp16=machine.dtype == "float16",
        use_cpu=machine.device == "cpu",
        ddp_backend="gloo" if machine.device == "cpu" and world_size() > 1 else None,
        train_sampling_strategy="group_by_length",
        length_column_name="length",
        seed=recipe.seed,
        data_seed=recipe.seed,
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        run_name=Path(recipe.output_dir).resolve().name,
        project="finetune-cli",
        report_to=[],  # trackers come as callbacks: see tracker_callback.py
        dataloader_pin_memory=machine.device == "cuda",
    )


def _let_go(trainer: SupervisedTrainer) -> None:
    """Free gradients and optimizer, which would stay in memory during the benchmark: trainer and callbacks hold each other."""
    trainer.model.zero_grad(set_to_none=True)
    trainer.optimizer = trainer.lr_scheduler = None
    trainer.accelerator.free_memory()
    free_memory()


def trainable(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def parameters_of(model: Any) -> int:
    """All parameters; 4-bit ones are stored two per byte."""
    return sum(
        parameter.numel() * (2 * parameter.element_size() if hasattr(parameter, "quant_state") else 1) for parameter in model.parameters()
    )


def _too_large_beside_shards(rows: int, spec: TrainingSpec) -> OutOfMemory:
    """Processes that make each pass together cannot make one again by themselves."""
    of_step = rows_of_step(spec)
    fewer = next(number for number in range(rows // 2, 0, -1) if of_step % (number * world_size()) == 0)
    instead = f"--set training.batch_size={fewer} --set training.gradient_accumulation={of_step // fewer}"
    return OutOfMemory(
        f"{rows} rows at a time do not fit into memory with a part of the weights.",
        hint=f"The same steps with less memory: {instead}, or --set training.activation_checkpointing=true",
    )


def _without_kernel(why: str) -> Notice:
    said = f"The fused loss kernel cannot be used here ({why.rstrip('.')}): torch's own operations compute the same loss, more slowly."
    if why == NO_TRITON:  # which torch does not bring to every system
        return Notice(said)
    return Notice(f"{said} Triton needs a C compiler and Python's headers, such as gcc and python3-dev.", "warning")


def _halved(step: int, before: int, after: int, spec: TrainingSpec) -> Notice:
    accumulation = spec.gradient_accumulation * spec.batch_size // after
    return Notice(
        f"Step {step} ran out of memory with {before} rows at a time; it continues with {after} at a time. Gradients are accumulated, so "
        f"the result is the same. Next time: --set training.batch_size={after} --set training.gradient_accumulation={accumulation}",
        "warning",
    )


def _checkpoint_activations(trainer: SupervisedTrainer, reporter: Reporter) -> bool:
    if not trainer.checkpoint_activations():
        return False
    step = trainer.state.global_step + 1
    reporter.report(
        Notice(
            f"Step {step} ran out of memory with one row at a time too; from here on activation checkpointing is used, which takes a third "
            "longer and gives the same result. Next time: --set training.activation_checkpointing=true",
            "warning",
        )
    )
    return True
