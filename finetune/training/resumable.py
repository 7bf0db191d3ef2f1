"""A Trainer that resumes to exactly the same weights: everything that decides the next step is saved and restored.

    trainer.keep_in(Checkpoints(folder), facts)
    trainer.train(resume_from_checkpoint=str(checkpoint.folder))

Without `keep_in` it saves and resumes like any Trainer. Where a model is cut into shards, each process writes and reads its part. A
callback or method with state between steps has `state_dict()` and `load_state_dict(state)`: plain values and tensors, restored after
`on_train_begin` of a resumed training.
"""

from __future__ import annotations

import dataclasses
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from transformers import TrainerState
from transformers.trainer_pt_utils import LengthGroupedSampler

from finetune.errors import CannotResume
from finetune.foreign import reading
from finetune.training.checkpoints import MANIFEST, Checkpoint, Checkpoints, Parts
from finetune.training.parallel.together import TogetherTrainer
from finetune.training.saved_tensors import (
    STATE,
    WEIGHTS,
    cut_state,
    in_parts,
    optimizer_tensors,
    read_optimizer,
    take_weights,
    weights_of,
    write_together,
)

TRAINER_STATE = "trainer_state.json"
REMEMBERED = "counted.pt"  # beside what the Trainer saves in a checkpoint of its own


class ResumableTrainer(TogetherTrainer):
    """Writes checkpoints to a store, and continues from them; of several processes the first writes, or each its part of a cut model."""

    optimizer: Any
    lr_scheduler: Any
    store: Checkpoints | None = None
    facts: Callable[[], Mapping[str, Any]]
    everything = False
    saved_step = -1
    on_saved: Callable[[int, int, int, float], None] | None = None
    loaded: dict[str, Any] | None = None
    loaded_from: Path = Path()
    order: GroupedByLength | None = None

    def keep_in(self, store: Checkpoints, facts: Callable[[], Mapping[str, Any]], *, everything: bool = False) -> None:
        """Save to `store`, with `facts()` in each manifest; `everything`: frozen weights too."""
        self.store, self.facts, self.everything = store, facts, everything

    def save_state(self, random_states: dict[str, Any] | None = None) -> Checkpoint | None:
        """A checkpoint of the last finished step, unless there is one; `random_states` are those after it. Raises DiskFull.

        Called in all processes; the first has it.
        """
        if self.store is None or self.state.global_step in (0, self.saved_step):
            return None
        began = time.perf_counter()
        ours, *others = self.processes.gather(random_states or random_states_now())
        self.saved_step = self.state.global_step
        if self.whole is not None:
            tensors, optimizer = optimizer_tensors(self.optimizer)
            tensors |= {f"weights.{name}": tensor for name, tensor in self._weights().items()}
            made = write_together(tensors, self.processes, lambda parts: self._write_checkpoint(ours, others, optimizer, parts))
        elif self.processes.first:
            made = self._write_checkpoint(ours, others, self.optimizer.state_dict())
        else:
            return None
        if made is not None and self.on_saved is not None:
            self.on_saved(made.step, self.state.max_steps, made.bytes, time.perf_counter() - began)
        return made

    def _write_checkpoint(self, ours: Any, others: list[Any], optimizer: dict[str, Any], parts: Parts | None = None) -> Checkpoint:
        """What the first process writes: with `parts` the tensors are in those."""
        state = self._state_of_step(ours, optimizer) | ({"others": others} if others else {})
        # The history grows with the run, and is in events.jsonl.
        trainer_state = dataclasses.asdict(dataclasses.replace(self.state, log_history=[]))
        contents: dict[str, Callable[[IO[bytes]], Any]] = {
            STATE: lambda file: torch.save(state, file),
            TRAINER_STATE: lambda file: file.write(json.dumps(trainer_state, indent=2, sort_keys=True).encode()),
        }
        if parts is None:
            contents[WEIGHTS] = lambda file: torch.save(self._weights(), file)
        assert self.store is not None
        facts = {"total_steps": self.state.max_steps, **self.facts()}
        return self.store.write(self.state.global_step, facts, contents, needed=self.state_bytes(), parts=parts)

    def state_bytes(self) -> int:
        """About how many bytes a checkpoint takes: weights, and two moments of the optimizer for the trained weights."""
        trained: int = sum(parameter.nbytes for parameter in self.model.parameters() if parameter.requires_grad)
        return sum(tensor.nbytes for tensor in self._weights().values()) + 2 * trained

    def remember(self) -> dict[str, Any]:
        """What the trainer itself counts, for the checkpoint."""
        return {}

    def recall(self, remembered: dict[str, Any]) -> None:
        """Restore what `remember` returned."""

    def _state_of_step(self, random_states: dict[str, Any], optimizer: dict[str, Any]) -> dict[str, Any]:
        scaler = getattr(self.accelerator, "scaler", None)
        return {
            "optimizer": optimizer,
            "scheduler": self.lr_scheduler.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "random": random_states,
            "order": self.order.drawn_from if self.order is not None else None,
            "trainer": self.remember(),
            "callbacks": {name: callback.state_dict() for name, callback in self._with_state().items()},
        }

    def _with_state(self) -> dict[str, Any]:
        return {type(callback).__name__: callback for callback in self.callback_handler.callbacks if hasattr(callback, "state_dict")}

    def _weights(self) -> dict[str, Tensor]:
        return weights_of(self.model, everything=self.everything)

    # Where the Trainer saves and loads.

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.store is None:
            super()._save_checkpoint(model, trial)
            if self.args.should_save and not self.args.save_only_model:
                torch.save(self.remember(), Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}" / REMEMBERED)
        else:
            self.save_state()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        if not (folder / MANIFEST).is_file():
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        with _restoring(folder):
            self._restore_weights(folder)

    def _restore_weights(self, folder: Path) -> None:
        if not (self.cut and in_parts(folder)):  # else each process reads its part, once it has one
            try:
                take_weights(self.model, folder, everything=self.everything)
            except ValueError as error:
                hint = "Start again with `run` in a new output folder."
                raise CannotResume(f"The weights in {folder} are from a different model or method.", hint=hint) from error
        self.loaded = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        self.loaded_from = folder

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.loaded is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            if checkpoint is not None and (Path(checkpoint) / REMEMBERED).is_file():
                with _restoring(checkpoint):
                    self.recall(torch.load(Path(checkpoint) / REMEMBERED, map_location="cpu", weights_only=True))
            return
        with _restoring(self.loaded_from):
            state = self.loaded["optimizer"]
            if in_parts(self.loaded_from):
                if self.whole is not None:
                    take_weights(self.model, self.loaded_from, everything=self.everything)
                state = read_optimizer(state, self.optimizer, self.loaded_from)
            elif self.whole is not None:
                state = cut_state(state, self.optimizer)
            self.optimizer.load_state_dict(state)
            self.lr_scheduler.load_state_dict(self.loaded["scheduler"])
            self.recall(self.loaded["trainer"])
        self.saved_step = self.state.global_step

    def _load_scaler(self, checkpoint: str | None) -> None:
        if self.loaded is None:
            super()._load_scaler(checkpoint)
        elif self.loaded["scaler"] is not None and getattr(self.accelerator, "scaler", None) is not None:
            with _restoring(self.loaded_from):
                self.accelerator.scaler.load_state_dict(self.loaded["scaler"])

    def restore_callbacks(self) -> None:
        """Restore the state of callbacks and methods."""
        for name, callback in self._with_state().items():
            if self.loaded is not None and name in self.loaded["callbacks"]:
                with _restoring(self.loaded_from):
                    callback.load_state_dict(self.loaded["callbacks"][name])

    # Randomness: where each epoch's order was drawn, and what is drawn next.

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(train_dataset)
        if type(sampler) is LengthGroupedSampler:
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            generator = torch.Generator().manual_seed(seed)
            lengths = sampler.lengths[:]  # one by one a column of a dataset is read a thousand times slower
            sampler = self.order = GroupedByLength(sampler.batch_size * self.processes.size, lengths=lengths, generator=generator)
            if self.loaded is not None:
                self.order.draw_from = self.loaded["order"]
        return sampler

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if self.loaded is None:
            super()._load_rng_state(checkpoint)
            return
        with _restoring(self.loaded_from):
            states = [self.loaded["random"], *self.loaded.get("others", ())]
            if self.processes.rank < len(states):  # of more processes than before, the new ones draw their own
                set_random_states(states[self.processes.rank])
        if self.order is not None:
            self.order.pass_over()  # a new epoch draws an order of its own

    def train(self, resume_from_checkpoint: str | PathLike[str] | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        self.loaded = None
        if isinstance(resume_from_checkpoint, PathLike):
            resume_from_checkpoint = str(resume_from_checkpoint)
        if isinstance(resume_from_checkpoint, str) and (Path(resume_from_checkpoint) / MANIFEST).is_file():
            with _restoring(resume_from_checkpoint):
                _check_trainer_state(Path(resume_from_checkpoint) / TRAINER_STATE)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def take_up_end(self, folder: Path) -> None:
        """Be as after the last step of a training that ended with this checkpoint: nothing is left to train. Raises CannotResume."""
        with _restoring(folder):
            _check_trainer_state(folder / TRAINER_STATE)
            self.state = TrainerState.load_from_json(str(folder / TRAINER_STATE))
            self.loaded = torch.load(folder / STATE, map_location="cpu", weights_only=True)
            self.loaded_from = folder
            take_weights(self.model, folder, everything=self.everything)
            self.recall(self.loaded["trainer"])
        self.restore_callbacks()


def _restoring(folder: str | Path) -> AbstractContextManager[None]:
    """Raises CannotResume for a checkpoint whose files are whole, and not what this version writes."""
    return reading(folder, CannotResume, hint="Start again with `run` in a new output folder.")


def _check_trainer_state(path: Path) -> None:
    """Raises ValueError for a state that the Trainer would stumble over later."""
    state, usual = TrainerState.load_from_json(str(path)), TrainerState()
    for field in dataclasses.fields(usual):
        value, default = getattr(state, field.name), getattr(usual, field.name)
        if default is None:
            text = str(field.type)
            kinds = [kind for kind in (str, int, float) if kind.__name__ in text] if not ("dict" in text or "list" in text) else []
            fits = value is None or not kinds or isinstance(value, (*kinds, int) if float in kinds else tuple(kinds))
        else:
            fits = all(isinstance(value, kind) == isinstance(default, kind) for kind in ((int, float), str, list, dict))
        if not fits:
            raise ValueError(f"{field.name} of {path.name} is {str(value)[:80]!r}")
    if not 0 <= state.global_step <= state.max_steps:
        raise ValueError(f"{path.name} is at step {state.global_step} of {state.max_steps}")


class GroupedByLength(LengthGroupedSampler):
    """The Trainer's order by length, from a generator of its own: every process draws the same, whatever dropout each has drawn.

    It remembers where an epoch's order was drawn, to draw the same again.
    """

    drawn_from: Tensor | None = None
    draw_from: Tensor | None = None
    generator: torch.Generator

    def __iter__(self) -> Iterator[int]:
        # The Trainer's own sampler draws from the generator of dropout: going on after that draw, dropout stays what it was.
        torch.randperm(len(self.lengths))
        return self._drawn()

    def _drawn(self) -> Iterator[int]:
        if self.draw_from is not None:
            self.generator.set_state(self.draw_from)
            self.draw_from = None
        else:
            # A DataLoader draws once for its workers before each epoch; without dropout the orders are those of its own generator.
            torch.empty((), dtype=torch.int64).random_(generator=self.generator)
        self.drawn_from = self.generator.get_state()
        ordered: Iterator[int] = super().__iter__()  # type: ignore[no-untyped-call]
        return ordered

    def pass_over(self) -> None:
        """Draw the order that was to be drawn again, and drop it: its epoch is over."""
        if self.draw_from is not None:
            self._drawn()


def random_states_now() -> dict[str, Any]:
    """The states of all random generators that training may use."""
    name, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), int(place), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Restore what `random_states_now` returned, as far as this machine has those generators."""
    random.setstate(states["python"])
    name, keys, place, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), place, has_gauss, gauss))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])


class SavePolicy:
    """When to save: every so many steps, or (auto) by the clock, so that saving stays within a few percent of the time.

    `auto` saves after a minute, or fifty times the duration of the last save, whichever is longer, and at the end of each epoch unless the
    last save was less than twenty times its duration ago.
    """

    SECONDS = 60.0
    SHARE = 0.02
    SHARE_AT_EPOCH = 0.05

    def __init__(self, every: int | str, clock: Callable[[], float] = time.perf_counter) -> None:
        self.every = every
        self.clock = clock
        self.cost = 0.0
        self.last = clock()

    def due(self, step: int, *, epoch_ends: bool) -> bool:
        if isinstance(self.every, int):
            return step % self.every == 0
        passed = self.clock() - self.last
        if epoch_ends:
            return passed >= self.cost / self.SHARE_AT_EPOCH
        return passed >= max(self.SECONDS, self.cost / self.SHARE)

    def saved(self, seconds: float) -> None:
        self.cost, self.last = seconds, self.clock()
