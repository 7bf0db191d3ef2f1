"""Which rows of a step are the student's own answers, and when it writes new ones.

    practice = Practice(spec, asks, first_step=102, seed=42, reporter=reporter)
    batches = practice.step(batches, 102, 404, write)      # some rows replaced; `write(prompts, seed)` gives answers

A share of each step's rows, drawn from the seed and the step's number, makes room for answers from a buffer. An empty buffer is filled: the
student answers the next `refresh` prompts, in an order drawn from the seed. All that is not drawn so is in `state_dict`: a training that
continues in the middle of a buffer uses the same answers.

Practice ends early where it would teach nonsense: if more than half of the answers do not end in time, or if they repeat themselves twice
as much as the first did. The rest of the training then learns from the data alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from finetune.data.tokens.labels import NO_LOSS
from finetune.distillation.on_policy.answers import Answer, Prompts, repetition
from finetune.events import Notice, OwnAnswers, Progress, Reporter
from finetune.formatting import percent
from finetune.recipe.distillation_settings import OnPolicySpec
from finetune.training.sub_batches import tensors_of

OWN = "own"  # of each row of a batch: whether the student wrote it
CUT = 0.5  # of the answers; more that do not end, and practice does
FEWEST = 16  # answers that say something, where a refresh has fewer because training ends
REPEATED = 0.05  # of the 4-grams: what a first refresh without any is taken to repeat

Batch = dict[str, Any]
Write = Callable[[list[list[int]], int], list[Answer]]


class Practice:
    """The answers of one training; `first_step` steps go before the first."""

    def __init__(self, spec: OnPolicySpec, asks: Prompts, *, first_step: int, seed: int, reporter: Reporter) -> None:
        self.spec, self.asks, self.first_step, self.seed, self.reporter = spec, asks, first_step, seed, reporter
        self.rows = self.taken = self.asked = self.used = 0
        self.buffer: list[tuple[int, int, list[int]]] = []  # the number of the row, how long its prompt is, and all tokens
        self.repeated: float | None = None  # by the first answers
        self.stopped = False

    def step(self, batches: list[Batch], done: int, total: int, write: Write) -> list[Batch]:
        """The batches of the step after `done` of `total` steps, own answers in place of some rows."""
        if done < self.first_step or self.stopped or not batches:
            return batches
        counts = [len(batch["input_ids"]) for batch in batches]
        self.rows += sum(counts)
        wanted = math.floor(self.spec.share * self.rows + 1e-9) - self.taken
        in_all = math.ceil(self.spec.share * (self.rows + sum(counts) * (total - done - 1)))
        own = self._next(wanted, in_all, done + 1, write)
        if own is None:
            return batches
        self.taken += wanted
        places = iter(_shuffled(sum(counts), self.seed, done)[:wanted])
        chosen = dict(zip(places, own, strict=True))
        starts = [sum(counts[:number]) for number in range(len(counts))]
        each = [
            {place - start: row for place, row in chosen.items() if start <= place < start + count}
            for start, count in zip(starts, counts, strict=True)
        ]
        teachers = self.asks.rows
        return [replaced(batch, rows, teachers) if rows else batch for batch, rows in zip(batches, each, strict=True)]

    def _next(self, wanted: int, in_all: int, step: int, write: Write) -> list[tuple[int, int, list[int]]] | None:
        """So many rows out of the buffer, filled as often as it must be; None where practice stops."""
        found: list[tuple[int, int, list[int]]] = []
        while len(found) < wanted:
            if self.used == len(self.buffer):
                self._refresh(max(1, min(self.spec.refresh, in_all - self.asked)), step, write)
                if self.stopped:
                    return None
            found.append(self.buffer[self.used])
            self.used += 1
        return found

    def _refresh(self, count: int, step: int, write: Write) -> None:
        began = time.perf_counter()
        self.reporter.report(Progress("training", 0, count, "own answers"))
        places = self._places(count)
        prompts = [self.asks[place] for place in places]
        answers = write(prompts, self.seed * 1_000_003 + self.asked)
        self.asked, self.used = self.asked + count, 0
        self.buffer = [
            (self.asks.numbers[place], len(prompt), prompt + answer.ids)
            for place, prompt, answer in zip(places, prompts, answers, strict=True)
        ]
        cut, repeated = sum(not answer.ended for answer in answers) / count, repetition(answers)
        length = sum(len(answer.ids) for answer in answers) / count
        seconds = round(time.perf_counter() - began, 2)
        self.reporter.report(OwnAnswers(step, count, round(length, 1), round(cut, 4), round(repeated, 4), seconds))
        if self.repeated is None:
            self.repeated = repeated
        if count >= min(self.spec.refresh, FEWEST):
            self._judge(step, count, cut, repeated)

    def _judge(self, step: int, count: int, cut: float, repeated: float) -> None:
        """Stop where the answers show that practice does harm, and say what to change."""
        first = self.repeated or 0.0
        lower = f"--set distillation.on_policy.share={self.spec.share / 2:g}"
        if cut > CUT:
            why = f"{round(cut * count)} of {count} answers did not end within {self.spec.tokens} tokens"
            change = f"longer answers (--set distillation.on_policy.tokens={2 * self.spec.tokens}), more epochs on the data, or {lower}"
        elif repeated > 2 * max(first, REPEATED):
            why = f"its answers repeat themselves: {percent(repeated)} of their 4-grams, {percent(first)} at first"
            change = f"a lower learning rate, or {lower}"
        else:
            return
        self.stopped, self.buffer, self.used = True, [], 0
        self.reporter.report(
            Notice(
                f"The student stopped practising before step {step}: {why}. The rest of the training uses the data alone. "
                f"Next time: {change}.",
                "warning",
            )
        )

    def _places(self, count: int) -> list[int]:
        """The places of the next prompts; each pass over all of them has an order of its own."""
        wanted = [divmod(number, len(self.asks)) for number in range(self.asked, self.asked + count)]
        orders = {passes: _shuffled(len(self.asks), self.seed, -1 - passes) for passes in {passes for passes, _ in wanted}}
        return [orders[passes][at] for passes, at in wanted]

    def state_dict(self) -> dict[str, Any]:
        counts = {name: getattr(self, name) for name in ("rows", "taken", "asked", "used", "repeated", "stopped")}
        return {**counts, "buffer": list(self.buffer)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


def replaced(batch: Batch, own: Mapping[int, tuple[int, int, list[int]]], rows: Any) -> Batch:
    """A batch with own answers in place of some of its rows; `rows` are those that the prompts are from, each perhaps with its teacher."""
    ids, labels = batch["input_ids"], batch["labels"]
    wider = max(0, max(len(tokens) for _, _, tokens in own.values()) - ids.shape[1])
    made = {**tensors_of(batch), OWN: torch.zeros(len(ids), dtype=torch.bool, device=ids.device)}
    made["input_ids"], made["labels"] = nn.functional.pad(ids, (0, wider)), nn.functional.pad(labels, (0, wider), value=NO_LOSS)
    for name in ("attention_mask", "length", "teacher_number"):
        if name in batch:
            made[name] = nn.functional.pad(batch[name], (0, wider)) if batch[name].dim() > 1 else batch[name].clone()
    for place, (number, prompt, tokens) in own.items():
        end = len(tokens)
        made["input_ids"][place, :end] = torch.tensor(tokens)
        made["labels"][place] = NO_LOSS
        made["labels"][place, prompt:end] = made["input_ids"][place, prompt:end]
        made[OWN][place] = True
        if "attention_mask" in made:
            made["attention_mask"][place] = 0
            made["attention_mask"][place, :end] = 1
        if "length" in made:
            made["length"][place] = end
        if "teacher_number" in made:
            made["teacher_number"][place] = int(rows[number]["teacher_number"])
    return made


def halves(batch: Batch) -> list[Batch]:
    """The rows of the data and the own answers of a batch apart, each as wide as its longest row; the latter have no row in a cache."""
    parts = []
    for mine in (False, True):
        places = (batch[OWN] == mine).nonzero().squeeze(1)
        if len(places):
            part = {name: values[places] for name, values in batch.items() if name != ("row" if mine else OWN)}
            widest = int(part["length"].max())
            parts.append({name: _cut(values, widest) for name, values in part.items()})
    return parts


def _cut(values: Tensor, width: int) -> Tensor:
    return values[:, :width] if values.dim() > 1 else values


def _shuffled(count: int, seed: int, number: int) -> Sequence[int]:
    """The numbers below `count` in an order that seed and `number` decide."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)
    order: list[int] = torch.randperm(count, generator=generator).tolist()
    return order
