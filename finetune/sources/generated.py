"""Rows that a teacher writes: prompts and their answers, filtered, kept in the cache and in the run's folder.

    dataset: {source: generated, samples: 500, topic: gardening, examples: a_dozen.jsonl}

Afterwards they are an ordinary dataset. When fine-tuning, `teacher` names the model that writes: a model learns nothing from its own words.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.rows import Origin, SkippedRow
from finetune.data.rows import Row as DataRow
from finetune.errors import BadRow, EmptyDataset, RecipeError
from finetune.events import Progress, RowsWritten
from finetune.foreign import reading
from finetune.run_folder import ROWS, RunFolder
from finetune.shell import quoted
from finetune.sources.base import Making, Source
from finetune.sources.dataset import prepared
from finetune.sources.examples import read_examples
from finetune.sources.expected import expected_data, making
from finetune.sources.filters import Filters
from finetune.sources.server_author import BudgetUsedUp
from finetune.sources.teacher import teacher_of
from finetune.sources.written import Batch, Row, Written
from finetune.storage import digest

if TYPE_CHECKING:
    from finetune.data.prepare import PreparedData
    from finetune.run_context import RunContext
    from finetune.sources.author import Author

VERSION = 1  # part of the key: raise it when the same teacher would write other rows
FIRST, FEWEST = 64, 0.2  # after so many prompts, at least this share must have become rows


class Generated(Source):
    def check(self, context: RunContext) -> None:
        teacher, examples = teacher_of(context), context.recipe.dataset.examples
        if examples:
            read_examples(examples, context)
        if not context.distils and teacher.pinned == context.located.pinned:
            said = f"{teacher.name} learns nothing new from rows that it wrote itself."
            raise RecipeError(said, hint="Name a larger one: --set teacher=MODEL")
        if self.missing(context):  # nobody is asked for rows that are there
            teacher.check()

    def missing(self, context: RunContext) -> bool:
        return context.recipe.teacher is None or _rows(context) is None

    def cost(self, context: RunContext) -> Making | None:
        return making(context) if self.missing(context) else None

    def expected(self, context: RunContext) -> PreparedData:
        return expected_data(context)

    def make(self, context: RunContext, folder: RunFolder, load: Callable[[], Any]) -> None:
        """Raises EmptyDataset if hardly a prompt becomes a row, BudgetUsedUp, and what a server's answers raise."""
        spec, began = context.recipe.dataset, time.perf_counter()
        teacher, wanted = teacher_of(context), int(spec.samples or 0)
        name = teacher.name
        examples = read_examples(spec.examples, context) if spec.examples else []
        with Written.open(_path(context)) as written:
            author = teacher.author(examples, load)
            with context.stage("rows", f"{name} writes the rows") as done:
                filters = Filters([turns[-2]["content"] for turns in examples])
                for prompt in written.asked:
                    filters.take(prompt)
                context.reporter.report(Progress("rows", len(written.rows), wanted, "rows"))
                while (kept := len(written.rows)) < wanted:
                    _check_share(written, name, spec.topic or spec.examples)
                    try:
                        written.add(_batch(author, filters, len(written.batches)))
                    except BudgetUsedUp as error:
                        kept_so_far = f"{error.message} {kept:,} of {wanted:,} rows are written and kept."
                        again = f"finetune-cli resume {quoted(folder.output_dir)} may take as many again."
                        raise BudgetUsedUp(kept_so_far, hint=again) from None
                    folder.write_stage(ROWS, rows=min(wanted, len(written.rows)), wanted=wanted)
                    context.reporter.report(Progress("rows", min(wanted, len(written.rows)), wanted, "rows"))
                seconds = round(time.perf_counter() - began, 1)
                context.reporter.report(RowsWritten(name, written.tried, kept, written.thrown, seconds))
                done(f"{wanted:,} rows of {written.tried:,} prompts")

    def keep(self, context: RunContext, folder: RunFolder) -> None:
        """run/synthetic.jsonl: prompt and completion of each row, the seed, and the teacher with its identity."""
        teacher = teacher_of(context)
        told = {"seed": context.recipe.seed, "teacher": teacher.pinned, "identity": teacher.identity}
        lines = [json.dumps({**row, **told}, ensure_ascii=False) + "\n" for row in _rows(context) or []]
        folder.write_text(folder.synthetic, "".join(lines))

    def data(self, context: RunContext) -> PreparedData:
        found = prepared(context, _origin(context))
        found.report.generated = _facts(context)
        found.report.notes.append(_sentence(found.report.generated))
        return found


def _check_share(written: Written, name: str, told: str | None) -> None:
    """Raises EmptyDataset where hardly a prompt becomes a row: more of them would take for ever, and be no better."""
    if written.tried < FIRST or len(written.rows) >= FEWEST * written.tried:
        return
    reasons = ", ".join(f"{number} x {reason}" for reason, number in list(written.thrown.items())[:3])
    better = "Choose a larger teacher" if told else "Say what the rows are about: --set dataset.topic=TOPIC, or choose a larger teacher"
    raise EmptyDataset(
        f"Of {written.tried} prompts that {name} wrote only {len(written.rows)} became rows ({reasons}).",
        hint=f"{better}; longer rows are allowed with --set dataset.max_length=1024.",
    )


def _batch(author: Author, filters: Filters, number: int) -> Batch:
    """The next prompts, and answers to those that are kept."""
    prompts = author.prompts(number)
    reasons = [filters.prompt(text) for text in prompts]
    asked = [text for text, reason in zip(prompts, reasons, strict=True) if reason is None and text is not None]
    answers = author.answers(number, asked) if asked else []
    judged = [filters.answer(text) for text in answers]
    rows: list[Row] = [
        {"prompt": prompt, "completion": answer}
        for prompt, answer, reason in zip(asked, answers, judged, strict=True)
        if reason is None and answer is not None
    ]
    return Batch(len(prompts), asked, rows, dict(Counter(reason for reason in (*reasons, *judged) if reason)))


def _path(context: RunContext) -> Path:
    """The file in the cache; its name has everything that decides what is written, but not how many rows are wanted."""
    spec = context.recipe.dataset
    examples = read_examples(spec.examples, context) if spec.examples else []
    parts = [str(VERSION), teacher_of(context).writes_with]
    parts += [str(context.recipe.seed), str(spec.max_length), str(spec.topic), json.dumps(examples, ensure_ascii=False)]
    return context.runtime.cache_dir / "generated" / f"rows-{digest(parts)}.jsonl"


def _rows(context: RunContext) -> list[Row] | None:
    """All rows that are wanted, from the cache or from the folder of the run; None while some are missing."""
    wanted = int(context.recipe.dataset.samples or 0)
    found = Written.read(_path(context)).rows
    if len(found) < wanted:
        found = _kept(context)
    return found[:wanted] if len(found) >= wanted else None


def _kept(context: RunContext) -> list[Row]:
    """The rows in the run's folder, if this teacher wrote them with this seed."""
    path = RunFolder(context.recipe.output_dir).synthetic
    if not path.is_file():
        return []
    with reading(path, BadRow):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        theirs = {(row["identity"], row["seed"]) for row in rows}
        if theirs != {(teacher_of(context).identity, context.recipe.seed)}:
            return []
        return [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows]


def _origin(context: RunContext) -> Origin:
    rows = _rows(context)
    if rows is None:
        raise RecipeError(
            "The teacher has not written the rows yet.", hint="`finetune-cli run` or LLMFineTuner.run() has them written first."
        )
    name = f"rows written by {teacher_of(context).name}"

    def records() -> Iterator[DataRow | SkippedRow]:
        for number, row in enumerate(rows, start=1):
            yield DataRow(dict(row), name, number)

    return Origin(name, lambda: [digest(text for row in rows for text in row.values())], records, restricted=True)


def _facts(context: RunContext) -> dict[str, Any]:
    """Who wrote the rows, under which licence, and what became of the prompts, as far as it is known."""
    written, wanted = Written.read(_path(context)), int(context.recipe.dataset.samples or 0)
    if len(written.rows) < wanted:  # the cache is gone
        earlier = RunFolder(context.recipe.output_dir)
        return dict(earlier.read_json(earlier.data_report).get("generated", {})) if earlier.data_report.is_file() else {}
    written, teacher = written.first(wanted), teacher_of(context)
    return {"by": teacher.name, "licence": teacher.licence, "tried": written.tried, "kept": wanted, "thrown": written.thrown}


def _sentence(facts: dict[str, Any]) -> str:
    if not facts:
        return "A teacher wrote these rows."
    thrown = ", ".join(f"{number:,} x {reason}" for reason, number in facts["thrown"].items()) or "nothing"
    return f"{facts['by']} wrote {facts['tried']:,} prompts, and {facts['kept']:,} became rows. Thrown away: {thrown}."
