"""What sources have in common whose rows a teacher writes, batch after batch: counted, kept, and gone on with after an interruption.

Rows are kept in the cache while they are written, and in run/synthetic.jsonl once the run begins. Afterwards they are an ordinary dataset.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.rows import Origin, SkippedRow
from finetune.data.rows import Row as DataRow
from finetune.errors import BadRow, EmptyDataset, RecipeError
from finetune.events import Progress, RowsWritten
from finetune.foreign import reading
from finetune.run_folder import ROWS, RunFolder
from finetune.sources.account import BudgetUsedUp
from finetune.sources.base import Making, Source
from finetune.sources.dataset import prepared
from finetune.sources.teacher import teacher_of
from finetune.sources.written import Batch, Row, Written
from finetune.system.shell import quoted
from finetune.system.storage import digest

if TYPE_CHECKING:
    from finetune.data.prepare import PreparedData
    from finetune.run_context import RunContext

FIRST, FEWEST = 64, 0.2  # after so many prompts, at least this share must have become rows


class ByTeacher(Source):
    """A kind of such rows says what decides them, how many there are, how the next batch is written, and how to tell people of it."""

    writes: str  # what its teacher does: "writes the rows"
    prefix: str  # of its files in the cache

    def key(self, context: RunContext) -> list[str]:
        """Everything that decides what is written, but not how many rows are wanted."""
        raise NotImplementedError

    def wanted(self, context: RunContext) -> int:
        """How many rows there should be."""
        raise NotImplementedError

    def last(self, context: RunContext) -> int | None:
        """After how many prompts there are no more; None: there are always more."""
        return None

    def check_teacher(self, context: RunContext) -> None:
        """Raises what makes it impossible for the teacher to write such rows."""
        raise NotImplementedError

    def batches(self, context: RunContext, written: Written, load: Callable[[], Any]) -> Callable[[int], Batch]:
        """A function that has the batch of a number written, behind those that are `written`; `load` loads the teacher."""
        raise NotImplementedError

    def expects(self, context: RunContext) -> tuple[Making, PreparedData]:
        """The cost, and stand-ins for the rows."""
        raise NotImplementedError

    def better(self, context: RunContext) -> str:
        """The hint where hardly a prompt became a row."""
        raise NotImplementedError

    def told(self, context: RunContext) -> dict[str, Any]:
        """What each line of run/synthetic.jsonl says beside its row."""
        teacher = teacher_of(context)
        return {"seed": context.recipe.seed, "teacher": teacher.pinned, "identity": teacher.identity}

    def origin(self, context: RunContext, rows: list[Row]) -> Origin:
        """The rows as a source that is opened."""
        return origin_of(f"rows written by {teacher_of(context).name}", rows, restricted=True)

    def facts(self, context: RunContext) -> dict[str, Any]:
        """What else the data report says of how the rows came to be."""
        return {}

    def sentence(self, facts: Mapping[str, Any]) -> str:
        """What became of the prompts."""
        raise NotImplementedError

    # What every source does.

    def check(self, context: RunContext) -> None:
        teacher = teacher_of(context)
        if not context.distils and teacher.pinned == context.located.pinned:
            said = f"{teacher.name} learns nothing new from rows that it wrote itself."
            raise RecipeError(said, hint="Name a larger one: --set teacher=MODEL")
        if self.missing(context):  # nobody is asked for rows that are there
            self.check_teacher(context)

    def missing(self, context: RunContext) -> bool:
        return context.recipe.teacher is None or self._rows(context) is None

    def cost(self, context: RunContext) -> Making | None:
        return self.expects(context)[0] if self.missing(context) else None

    def expected(self, context: RunContext) -> PreparedData:
        return self.expects(context)[1]

    def make(self, context: RunContext, folder: RunFolder, load: Callable[[], Any]) -> None:
        """Raises EmptyDataset if hardly a prompt becomes a row, BudgetUsedUp, and what a server's answers raise."""
        began, teacher, wanted = time.perf_counter(), teacher_of(context), self.wanted(context)
        with Written.open(self._path(context)) as written:
            write = self.batches(context, written, load)
            with context.stage("rows", f"{teacher.name} {self.writes}") as done:
                context.reporter.report(Progress("rows", len(written.rows), wanted, "rows"))
                while not self._enough(context, written):
                    self._check_share(context, written, FIRST)
                    try:
                        written.add(write(len(written.batches)))
                    except BudgetUsedUp as error:
                        kept_so_far = f"{error.message} {len(written.rows):,} of {wanted:,} rows are written and kept."
                        again = f"`finetune-cli resume {quoted(folder.output_dir)}` may take as many again."
                        raise BudgetUsedUp(kept_so_far, hint=again) from None
                    folder.write_stage(ROWS, rows=min(wanted, len(written.rows)), wanted=wanted)
                    context.reporter.report(Progress("rows", min(wanted, len(written.rows)), wanted, "rows"))
                kept, seconds = len(written.rows), round(time.perf_counter() - began, 1)
                if kept < wanted:
                    self._check_share(context, written, 1)
                context.reporter.report(RowsWritten(teacher.name, written.tried, kept, written.thrown, seconds))
                done(f"{min(wanted, kept):,} rows of {written.tried:,} prompts")

    def keep(self, context: RunContext, folder: RunFolder) -> None:
        """run/synthetic.jsonl: each row, the seed, and the teacher with its identity."""
        told = self.told(context)
        lines = [json.dumps({**row, **told}, ensure_ascii=False) + "\n" for row in self._rows(context) or []]
        folder.write_text(folder.synthetic, "".join(lines))

    def data(self, context: RunContext) -> PreparedData:
        rows = self._rows(context)
        if rows is None:
            raise RecipeError(
                "The teacher has not written the rows yet.", hint="`finetune-cli run` or LLMFineTuner.run() has them written first."
            )
        found = prepared(context, self.origin(context, rows))
        found.report.generated = facts = self._facts(context)
        found.report.notes.append(self.sentence(facts) if facts else "A teacher wrote these rows.")
        return found

    def _path(self, context: RunContext) -> Path:
        """The file in the cache."""
        return context.runtime.cache_dir / "generated" / f"{self.prefix}-{digest(self.key(context))}.jsonl"

    def _enough(self, context: RunContext, written: Written) -> bool:
        last = self.last(context)
        return len(written.rows) >= self.wanted(context) or (last is not None and written.tried >= last)

    def _rows(self, context: RunContext) -> list[Row] | None:
        """All rows that are wanted, from the cache or from the folder of the run; None while some are missing."""
        written, wanted = Written.read(self._path(context)), self.wanted(context)
        if self._enough(context, written):
            return written.rows[:wanted]
        kept = self._kept(context)
        return kept[:wanted] if kept and (self.last(context) is not None or len(kept) >= wanted) else None

    def _kept(self, context: RunContext) -> list[Row]:
        """The rows in the run's folder, if this teacher wrote them with this seed and whatever else each of them says."""
        path = RunFolder(context.recipe.output_dir).synthetic
        if not path.is_file():
            return []
        with reading(path, BadRow):
            with path.open(encoding="utf-8") as lines:  # not splitlines: a text may contain separators that JSON does not escape
                rows = [json.loads(line) for line in lines]
            told = {name: value for name, value in self.told(context).items() if name != "teacher"}
            if any(row[name] != value for row in rows for name, value in told.items()):
                return []
            return [{name: value for name, value in row.items() if name not in (*told, "teacher")} for row in rows]

    def _facts(self, context: RunContext) -> dict[str, Any]:
        """Who wrote the rows, under which licence, and what became of the prompts, as far as it is known."""
        written, wanted = Written.read(self._path(context)), self.wanted(context)
        if not self._enough(context, written):  # the cache is gone
            earlier = RunFolder(context.recipe.output_dir)
            return dict(earlier.known(earlier.data_report).get("generated", {}))
        written, teacher = written.first(wanted), teacher_of(context)
        kept = min(wanted, len(written.rows))
        told = {"by": teacher.name, "licence": teacher.licence, "tried": written.tried, "kept": kept, "thrown": written.thrown}
        return told | self.facts(context)

    def _check_share(self, context: RunContext, written: Written, first: int) -> None:
        """Raises EmptyDataset where hardly a prompt becomes a row: more of them would take for ever, and be no better."""
        if written.tried < first or len(written.rows) >= FEWEST * written.tried:
            return
        reasons = ", ".join(f"{number} x {reason}" for reason, number in list(written.thrown.items())[:3])
        raise EmptyDataset(
            f"Of {written.tried} prompts that {self.subject(context)} only {len(written.rows)} became rows ({reasons}).",
            hint=self.better(context),
        )

    def subject(self, context: RunContext) -> str:
        """`Of 64 prompts that` ..."""
        raise NotImplementedError


def origin_of(name: str, rows: list[Row], *, restricted: bool, **more: Any) -> Origin:
    """Rows in memory as a source that is opened."""

    def records() -> Iterator[DataRow | SkippedRow]:
        for number, row in enumerate(rows, start=1):
            yield DataRow(dict(row), name, number)

    def content() -> list[str]:
        return [digest(text if isinstance(text, str) else json.dumps(text, sort_keys=True) for row in rows for text in row.values())]

    return Origin(name, content, records, restricted=restricted, **more)


def thrown_away(facts: Mapping[str, Any]) -> str:
    """ "3 x an empty answer, 1 x the same prompt again"."""
    return ", ".join(f"{number:,} x {reason}" for reason, number in facts["thrown"].items()) or "nothing"
