"""A teacher on a server that grades rows: of every supervised token it tells the likeliest tokens of its model, and nothing is written.

    grader = Grader(server, tokenizer, likeliest=20, vocabulary=49152, budget=200_000)
    grader.check()
    grader.ask(rows, progress)         # {"rows": [r], "values": [n, 21], "ids": [n, 20]}: a shard of a cache (signals/top_k.py)

Rows go as tokens, so both models must have the same: the server splits a text of ours, and spells tokens of ours and its likeliest ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import islice
from math import exp
from typing import Any

import torch
from torch import Tensor

from finetune.data.tokens.labels import NO_LOSS, labels_of
from finetune.distillation.top_k_loss import with_rest
from finetune.distillation.vocabulary import PROBE
from finetune.errors import ModelError, ModelNotFound, VocabularyMismatch
from finetune.models.templates.chat_template import added_tokens
from finetune.sources.account import Account
from finetune.sources.server import Grades, KeyRefused, NoGrades, Server, Told

LOWEST = -50.0  # a log-probability below counts as this
SUM_ERROR = 1e-3  # of probabilities in 32 bits, and in fewer where a server rounds them
MARKS = 16  # control tokens that are looked at
UNREADABLE = "\ufffd"  # what part of a letter is spelled as
INSTEAD = "Use one that does, such as vLLM, or let it write the answers: --set approach=fine-tuning --set dataset.answers=teacher"
TOO_MANY = re.compile(r"logprobs of \d+.* (greater|more|larger) than")  # as vLLM says it
SAME_TOKENS = "Name a student of the same model family, or serve another model."


class Grader:
    """Asks for at most `budget` tokens (sources/account.py). The student knows tokens below `vocabulary`."""

    def __init__(self, server: Server, tokenizer: Any, *, likeliest: int, vocabulary: int, budget: int | None) -> None:
        self.server, self.account = server, Account(server, budget)
        self.tokenizer, self.likeliest, self.vocabulary = tokenizer, likeliest, vocabulary

    def check(self) -> None:
        """Raises ModelError for a server that cannot be reached, does not grade or tells less, VocabularyMismatch for other tokens."""
        self.server.check()
        ours = list(self.tokenizer(PROBE)["input_ids"])
        (split,) = self._grades([PROBE], 0)
        theirs = [next(iter(place), None) for place in split.places]
        if len(theirs) != len(ours) or theirs[1:] != ours[1:]:
            raise self._mismatch("it splits text differently")
        template = self.tokenizer.chat_template or ""
        marks = [token for token in added_tokens(self.tokenizer) if token in template or token == self.tokenizer.eos_token]
        rows = [ours, [ours[-1], *(self.tokenizer.convert_tokens_to_ids(token) for token in islice(marks, MARKS))]]
        for ids, told in zip(rows, self._grades(rows, self.likeliest), strict=True):
            self._check_row(ids, told)
            self._check_spelling(told)

    def ask(self, rows: list[Any], progress: Callable[[int], None]) -> dict[str, Tensor]:
        """The tensors of one shard, in the order of its rows; raises BudgetUsedUp before it asks."""
        progress(0)
        given = [list(row["input_ids"]) for row in rows]
        self.account.check(sum(len(ids) + 1 for ids in given))  # a token is written, too
        places: list[dict[int, Told]] = []
        counts = []
        for row, tokens, told in zip(rows, given, self.account.grades(given, self.likeliest), strict=True):
            self._check_row(tokens, told)
            learned = [place for place, label in zip(told.places[1:], list(labels_of(row))[1:], strict=True) if label != NO_LOSS]
            places += learned
            counts.append(len(learned))
        chosen = [self._likeliest(place) for place in places]
        values = torch.tensor([[*each.values()] for each in chosen]).reshape(-1, self.likeliest)
        ids = torch.tensor([[*each] for each in chosen], dtype=torch.int32).reshape(-1, self.likeliest)
        return {"rows": torch.tensor(counts), "values": with_rest(values), "ids": ids}

    def _likeliest(self, place: dict[int, Told]) -> dict[int, float]:
        """The likeliest tokens that the student has; others, of a padded head, count as rest, and an unlikely token stands in."""
        known = sorted(((each.logprob, token) for token, each in place.items() if token < self.vocabulary), reverse=True)
        found = {token: max(LOWEST, logprob) for logprob, token in known[: self.likeliest]}
        for token in range(self.vocabulary):
            if len(found) == self.likeliest:
                break
            found.setdefault(token, LOWEST)
        return found

    def _grades(self, texts: Sequence[str | Sequence[int]], likeliest: int) -> list[Grades]:
        """The same, with what to do where the server does not."""
        try:
            return self.server.grades(texts, likeliest)
        except KeyRefused:
            raise
        except ModelError as error:
            if TOO_MANY.search(error.message):
                fewer = f"Ask for fewer: --set teacher.top_k={max(1, self.likeliest // 4)}"
                raise ModelError(error.message, hint=f"{fewer}, or allow more: vllm serve MODEL --max-logprobs {self.likeliest}") from None
            # The model is known by now, so what is not is the address, or what is asked.
            if isinstance(error, NoGrades | ModelNotFound) or "logprob" in error.message:
                said = f"The server {self.server.address} does not return log-probabilities of prompts, so it cannot grade rows."
                raise ModelError(said, hint=INSTEAD) from None
            raise

    def _check_row(self, ids: Sequence[int], told: Grades) -> None:
        """Raises ModelError where this is not what was asked for, VocabularyMismatch for tokens that the student has not."""
        if len(told.places) != len(ids):
            raise self._mismatch(f"it read {len(told.places):,} tokens where {len(ids):,} were sent")
        for token, place in zip(ids[1:], told.places[1:], strict=True):
            if token not in place or len(place) < self.likeliest:
                what = f"for token {token} it returned {len(place):,} likeliest tokens where {self.likeliest:,} were asked for"
                raise ModelError(f"The server {self.server.address} does not return what was asked for: {what}.", hint=INSTEAD)
            if (first := max(place, key=lambda token: place[token].logprob)) >= self.vocabulary:
                raise self._mismatch(f"it finds token {first:,} likeliest, and the student has {self.vocabulary:,}")
            if sum(exp(min(each.logprob, 1.0)) for each in place.values()) > 1 + SUM_ERROR:
                raise ModelError(
                    f"The server {self.server.address} returns numbers that are not log-probabilities: they add up to more than one.",
                    hint="vLLM returns log-probabilities with: vllm serve MODEL --logprobs-mode raw_logprobs",
                )

    def _check_spelling(self, told: Grades) -> None:
        """Raises VocabularyMismatch for a token that both spell differently; blanks and parts of letters are spelled in many ways."""
        for token, each in ((token, each) for place in told.places for token, each in place.items()):
            ours, theirs = self.tokenizer.decode([token]), each.text or ""
            bare = [text.replace("▁", " ").strip() for text in (ours, theirs)]
            if all(bare) and UNREADABLE not in ours + theirs and bare[0] != bare[1]:
                raise self._mismatch(f"token {token:,} is {theirs!r} there and {ours!r} here")

    def _mismatch(self, what: str) -> VocabularyMismatch:
        said = f"The model {self.server.model} at {self.server.address} has a different tokenizer from the student: {what}."
        return VocabularyMismatch(said, hint=SAME_TOKENS)
