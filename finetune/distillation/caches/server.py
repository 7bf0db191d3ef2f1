"""The cache of a teacher on a server, which returns its likeliest tokens for each row; and what is still to be requested.

    rows = Graded.of(recipe, data, tokenizer, runtime)
    rows.left()                             # Left(rows=300, tokens=45_000, supervised=30_000)
    rows.cache(source, reporter)            # asks for what is left; a TeacherCache of kind "top_k"

Its key is the address, the name of the model, the student's tokens, and how many likeliest tokens there are: the weights cannot be seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.data.prepare import PreparedData, tokenizer_fingerprint
from finetune.data.tokens.system_prompt import teacher_rows
from finetune.distillation.caches.builder import CacheWriter, ShardSource, cache_key, filled, supervised_counts
from finetune.distillation.caches.on_disk import CacheKey, TeacherCache, read_index
from finetune.distillation.caches.setup import rows_asked
from finetune.distillation.signals.top_k import token_bytes
from finetune.events import Reporter
from finetune.recipe import Recipe
from finetune.runtime import RuntimeOptions
from finetune.system.storage import digest

VERSION = 1  # raise it when the same answers would give other numbers
SHARD_TOKENS = 4096  # supervised: what an interruption can lose of what was paid for


@dataclass(frozen=True)
class Left:
    """Rows that are still to be graded, their tokens with the one that is written for each, and the supervised tokens among them."""

    rows: int
    tokens: int
    supervised: int


@dataclass(frozen=True)
class Graded:
    rows: Any
    key: CacheKey
    folder: Path
    likeliest: int

    @classmethod
    def of(cls, recipe: Recipe, data: PreparedData, tokenizer: Any, runtime: RuntimeOptions) -> Graded:
        """The rows of a run whose teacher is on a server."""
        spec, rows = recipe.grader, teacher_rows(rows_asked(recipe, data))
        assert spec is not None
        assert spec.server is not None
        parts = [str(VERSION), spec.server.rstrip("/"), str(spec.model), tokenizer_fingerprint(tokenizer), str(spec.likeliest)]
        key = cache_key("top_k", digest(parts), rows, vocabulary=tokens_of(tokenizer))
        return cls(rows, key, runtime.cache_dir / "teachers" / key.digest(), spec.likeliest)

    def left(self) -> Left:
        """What no earlier run has asked for."""
        index = read_index(self.folder)
        there = {row for shard in index.shards for row in range(shard.first_row, shard.first_row + shard.rows)} if index else set[int]()
        rows = [self.rows[number] for number in range(len(self.rows)) if number not in there]
        return Left(len(rows), sum(len(row["input_ids"]) + 1 for row in rows), sum(supervised_counts(rows)))

    def cache(self, source: ShardSource, reporter: Reporter) -> TeacherCache:
        """Raises what `source` raises; what was returned before that is kept."""
        each = token_bytes(self.likeliest)
        counts = supervised_counts(self.rows)
        row_bytes = [count * each for count in counts]
        return filled(CacheWriter(self.rows, self.key, counts, row_bytes, SHARD_TOKENS * each, source), self.folder, reporter)


def tokens_of(tokenizer: Any) -> int:
    """How many leading ids both models have: a head may be padded beyond them."""
    return int(max(tokenizer.get_vocab().values())) + 1
