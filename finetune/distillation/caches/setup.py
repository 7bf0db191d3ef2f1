"""The cache of one teacher: which kind it is, and writing it, in this process or in several that share the shards.

setup = CacheSetup(spec, head_of(student), teacher, rows, "gpt2-medium@abc", tokenizers, reading, runtime, reporter)
choice, cache = setup.ask("auto", left=1)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from datasets import concatenate_datasets

from finetune.data.prepare import PreparedData
from finetune.data.tokens.system_prompt import teacher_rows
from finetune.distillation.across_tokenizers.projected import Reading
from finetune.distillation.across_tokenizers.spans import SpanReading
from finetune.distillation.across_tokenizers.ways import reading_of
from finetune.distillation.caches.builder import build_cache, cache_key, supervised_counts, write_share
from finetune.distillation.caches.choice import CacheChoice, choose_cache, signals_for
from finetune.distillation.caches.on_disk import TeacherCache
from finetune.distillation.teachers.correction import MARGIN_BYTES
from finetune.distillation.teachers.itself import SelfTeacher, as_teacher, identity_of
from finetune.distillation.terms.internals import Compared, facts_of
from finetune.distillation.vocabulary import shared_vocabulary
from finetune.events import Notice, Reporter
from finetune.formatting import percent, size
from finetune.recipe import DistillationSpec, Recipe
from finetune.runtime import RuntimeOptions
from finetune.training.head import Head, causal_lm, context_length, head_of

OTHER_LAYERS = "each round compares other layers of the teacher, which runs online"
Others = Callable[[str, Path], None]  # write the shards of a kind of cache into that folder


def rows_asked(recipe: Recipe, data: PreparedData) -> Any:
    """The rows that a teacher is asked about: those to train on, and after them those on which the student is measured while it trains."""
    if data.deciding is None or not recipe.training.evaluates:
        return data.train
    shared = [name for name in data.train.column_names if name in data.deciding.column_names]
    return concatenate_datasets([rows.select_columns(shared) for rows in (data.train, data.deciding)])


def reading_for(spec: DistillationSpec, student: Head, teacher: Any, ours: Any, theirs: Any) -> Reading | None:
    """How a teacher with another tokenizer is read, if the recipe lets it be."""
    if spec.across_tokenizers == "none" or isinstance(teacher, SelfTeacher):
        return None
    return reading_of(spec.across_tokenizers, ours, theirs, student.vocabulary, context_length(causal_lm(teacher)))


class CacheSetup:
    """One teacher, known by `name`, and its rows; `tokenizers` are the student's and its own."""

    def __init__(
        self,
        spec: DistillationSpec,
        student: Head,
        model: Any,
        rows: Any,
        name: str,
        tokenizers: tuple[Any, Any],
        reading: Reading | None,
        runtime: RuntimeOptions,
        reporter: Reporter,
        compared: Compared | None = None,
    ) -> None:
        self.spec, self.student, self.model, self.reporter = spec, student, model, reporter
        self.rows = teacher_rows(rows)
        self.folder, self.reading, self.identity = runtime.cache_dir / "teachers", reading, identity_of(model, name)
        with as_teacher(model) as asked:
            self.head = head_of(asked)
            self.kept = compared.kept(*facts_of(asked)) if compared else None
        if reading is None:
            vocabulary = shared_vocabulary(student.vocabulary, self.head.vocabulary, *tokenizers)
        else:
            vocabulary, self.identity = reading.vocabulary, reading.identity(self.identity)
        self.more: dict[str, Any] = {"vocabulary": vocabulary, "student_head": student, "temperature": spec.temperature}
        self.more |= {"margins": True} if spec.correct else {}
        self.compared = compared

    def ask(self, wanted: str, *, left: int, others: Others | None = None) -> tuple[CacheChoice, TeacherCache | None]:
        """The choice among the signals, and the cache; `left` teachers, this one included, still need room for theirs.

        `others` has other processes call `share`.
        """

        @cache
        def place(kind: str) -> Path:
            return self.folder / cache_key(kind, self.identity, self.rows, **self.more, kept=self.kept).digest()

        of_spans = isinstance(self.reading, SpanReading)
        kinds = signals_for(of_spans) if self.folder.is_dir() else {}
        if wanted != "none" and self.spec.compares_other_layers:
            return CacheChoice("none", OTHER_LAYERS), None
        tokens = sum(supervised_counts(self.rows))
        choice = choose_cache(
            wanted,
            tokens=tokens,
            student_head=self.student,
            teacher_head=self.head,
            objective=self.spec.objective,
            folder=self.folder,
            beside=(MARGIN_BYTES * tokens if self.spec.correct else 0) + self._inside_bytes(tokens),
            present={kind: sum(file.stat().st_size for file in place(kind).glob("*")) for kind in kinds},
            teachers=left,
            features=self.spec.features,
            of_spans=of_spans,
        )
        if self.kept and choice.kind != "none":
            choice = replace(choice, reason=f"{choice.reason}; {size(self._inside_bytes(tokens))} of it for what features compare")
        if choice.kind == "none":
            if isinstance(self.model, SelfTeacher):
                self.model.check_online(choice.reason)
            return choice, None
        if others is not None:
            others = partial(others, choice.kind, place(choice.kind))
        with as_teacher(self.model) as asked:
            written = build_cache(choice.kind, asked, self.rows, place(choice.kind), **self._build_options(), others=others)
        if written.key.margins:
            wrong = float((written.read(range(written.rows), supervised_counts(self.rows), ["margins"])[0] > 0).float().mean())
            self.reporter.report(Notice(f"The teacher's first choice is wrong for {percent(wrong)} of the tokens: there it is corrected."))
        return choice, written

    def _inside_bytes(self, tokens: int) -> int:
        """On disk, for what terms compare of the teacher's inside."""
        if self.kept is None:
            return 0
        places = sum(len(row["input_ids"]) for row in self.rows) if self.kept.places else 0
        return self.kept.bytes(tokens, places, self.head.weight.dtype)

    def share(self, kind: str, folder: Path, share: tuple[int, int], shard_bytes: int) -> None:
        """Write this process's share of the shards of a cache that another one builds; see `write_share`."""
        with as_teacher(self.model) as asked:
            write_share(kind, asked, self.rows, folder, share, **self._build_options(), shard_bytes=shard_bytes)

    def _build_options(self) -> dict[str, Any]:
        return {
            **self.more,
            "compared": self.compared,
            "teacher_identity": self.identity,
            "reading": self.reading,
            "reporter": self.reporter,
        }
