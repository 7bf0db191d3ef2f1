"""The data stage: source -> rows -> train and held-out -> tokens in Arrow on disk, with a report.

prepared = prepare_data(recipe.dataset, tokenizer, seed=42)
prepared.train[0]     ->  {"input_ids": [...], "labels": [...], "length": 87, "row": 0, "answer_start": 41}
prepared.held_out[0]  ->  the first three, and prompt_ids, prompt, reference, group

Everything is cached by a fingerprint of content, tokenizer and settings; the second call reads it back in milliseconds.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from finetune.data import tokenized, tool_calls
from finetune.data.alike import Alike
from finetune.data.reading import Rows, kept, read_rows
from finetune.data.report import DataReport
from finetune.data.rows import KEPT_SKIPPED, Origin, RowFacts, RowProblem, SkippedRow, too_many_bad_rows
from finetune.data.split import MEASURED, NOTES, Division, divide, with_deciding
from finetune.data.thinking import decide
from finetune.data.tokens.encoder import Encoder, Sequence
from finetune.data.tokens.pieces import REWRITTEN
from finetune.data.tokens.system_prompt import TEACHER_IDS, SystemPrompt
from finetune.data.tokens.turns import last_learned
from finetune.data.tool_calls import first_call
from finetune.errors import EmptyDataset
from finetune.events import Progress, Recorder, Reporter
from finetune.models.templates.chat_template import fixed_date
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions
from finetune.system.storage import cache_folder, digest

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

VERSION = 6  # part of the fingerprint: raise it when the same rows would give other tokens
COLUMNS = "answer_start, group, is_text, system_prompt, opening, seldom, tools"  # part of the cache's name: what it has beside tokens
LONGEST_REFERENCE = 64  # tokens of plain text that stand as the reference of a held-out block
DATED = "The model's chat template writes today's date; in this run it is always {date}."
TAKEN = "{rows} rows are taken from those to train on, {why}; no score is reported on them."
DECIDED = {"rounds": "to decide after each round", "steps": "to measure the held-out loss while it trains"}
BY_EVERY_ANSWER = ("", "conversations")  # ways to hold out rows in which no earlier answer of theirs is trained on either
PARTS = ("train", "held_out", "deciding")
LEARNED_FROM = ("input_ids", "labels", "answer_start", "route", TEACHER_IDS)  # columns that a training reads
EXAMPLES = 3
REPORTED_EVERY = 1000
BATCH = 1000


@dataclass
class PreparedData:
    """Memory-mapped token rows; `fingerprint` is the same wherever content, tokenizer and settings are."""

    train: Dataset
    held_out: Dataset
    report: DataReport
    fingerprint: str
    deciding: Dataset | None = None  # rows like those held out, by which it is decided between rounds or steps

    @cached_property
    def contents(self) -> str:
        """A hash of what a training reads of the rows: the same where another version of the readers gives the same."""
        found = hashlib.sha256()
        for part in filter(None, (self.train, self.deciding)):
            for name in LEARNED_FROM:
                if name in part.column_names:
                    _add_column(found, part.data.column(name).chunks)
        return found.hexdigest()


def prepare_data(
    spec: DatasetSpec,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    supervise: Literal["answers", "all"] = "answers",
    system: str | None = None,
    routed_by: str | None = None,
    runtime: RuntimeOptions | None = None,
    reporter: Reporter | None = None,
    origin: Origin | None = None,
    deciding: Literal["rounds", "steps"] | None = None,
) -> PreparedData:
    """Tokens to train on and held-out rows for the benchmark; a held-out row is never trained on.

    `system` is a prompt that only the teacher sees: the rows then have its tokens too (finetune/data/tokens/system_prompt.py).
    Each has a `route`, what the column `routed_by` says of it, if there is one.

    Labels are -100 where there is no loss and the token itself elsewhere (the shift by one happens in the loss); a student
    that learns every token (`supervise="all"`) is measured on every token. What comes before the `answer_start` of a training
    row asks for its last answer; plain text has 0 there. `origin` is read instead of `spec.source`. For `deciding` between rounds or
    steps some of the rows to train on become a third part; for steps none where there are too few.
    Raises the DatasetError that states what is wrong.
    """
    from datasets import Dataset

    runtime, reporter = runtime or RuntimeOptions(), reporter or Recorder()
    rows = read_rows(spec, runtime, reporter, origin=origin, routed_by=routed_by)
    evaluation = read_rows(spec, runtime, reporter, split=spec.eval_split, routed_by=routed_by) if spec.eval_split else None
    decided = {"rounds": ["deciding"], "steps": ["steps"]}[deciding] if deciding else []
    measured = [f"{MEASURED} measured"] if evaluation else []
    settings = [str(spec.samples), str(spec.held_out), str(spec.max_length), str(seed), supervise, *decided, *measured]
    contents = [rows.fingerprint, evaluation.fingerprint if evaluation else "", tokenizer_fingerprint(tokenizer)]
    fingerprint = digest([str(VERSION), *contents, *settings])
    renamed = [part.kept_as for part in (rows, evaluation) if part and part.kept_as != part.fingerprint]  # the report names the files
    # What changes nothing about the student's tokens: `bad_rows` says only whether there are any.
    more = [COLUMNS, str(spec.bad_rows), *renamed, *filter(None, [system])]
    folder = runtime.cache_dir / "datasets" / f"tokens-{digest([fingerprint, *more])}"
    if not folder.is_dir():
        division = divide(rows, evaluation, spec, seed)
        division = with_deciding(division, rows, seed, deciding) if deciding else division
        with cache_folder(folder) as unfinished:
            stage = _Stage(rows, division, tokenizer, spec, reporter, system)
            report = stage.run(unfinished, supervise, routed=routed_by is not None, decided=DECIDED[deciding] if deciding else "")
            (unfinished / "report.json").write_text(json.dumps(report.to_dict(), ensure_ascii=False), encoding="utf-8")
    with kept(folder):
        report = DataReport(**json.loads((folder / "report.json").read_text(encoding="utf-8")))
        files = [folder / f"{part}.arrow" for part in PARTS if (folder / f"{part}.arrow").is_file()]
        train, held_out, *third = (Dataset.from_file(str(file)) for file in files)
    report.restricted = rows.restricted or (evaluation is not None and evaluation.restricted)
    found = digest([fingerprint, report.held_out_by]) if report.held_out_by else fingerprint
    return PreparedData(train, held_out, report, found, *third)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """The same for tokenizers that give the same tokens and templates, wherever they were loaded from."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    edges = [str(tokenizer.bos_token), str(tokenizer.eos_token)]
    return digest([vocabulary, str(tokenizer.chat_template), *edges, *filter(None, [fixed_date(tokenizer)])])


class _Stage:
    """Tokenises the two parts of a division into `folder` and keeps the report."""

    def __init__(
        self,
        rows: Rows,
        division: Division,
        tokenizer: PreTrainedTokenizerBase,
        spec: DatasetSpec,
        reporter: Reporter,
        system: str | None,
    ) -> None:
        self.rows, self.division, self.tokenizer, self.spec, self.reporter = rows, division, tokenizer, spec, reporter
        self.system = system
        self.done = 0
        self.refused: list[SkippedRow] = []
        self.lengths = array("i")
        self.alike = Alike()
        self.report = _report_of(rows.facts, division.held_out_rows.facts if division.held_out_rows is not rows else None)
        self.report.samples, self.report.not_asked = spec.samples, division.not_asked
        self.report.not_measured = division.not_measured
        self.report.duplicates, self.report.held_out_dropped = division.duplicates, division.held_out_dropped
        self.report.held_out_by = division.by
        if division.by:
            self.report.notes.append(NOTES[division.by])
        if tokenizer.eos_token is None:
            self.report.notes.append("The tokenizer has no end-of-text token: the model does not learn to end its answers.")

    def run(self, folder: Path, supervise: Literal["answers", "all"], *, routed: bool, decided: str) -> DataReport:
        report = self.report
        thinking = decide(self.tokenizer, self.rows, self.division.train)
        encoder = Encoder(self.tokenizer, max_length=self.spec.max_length, supervise=supervise, thinking=bool(thinking.thinking))
        report.template = {"text": "plain", tokenized.FORMAT: "none"}.get(report.format, encoder.template.name)
        more = ({"route": "string"} if routed else {}) | ({TEACHER_IDS: _TOKENS} if self.system else {})
        _write(folder / "train.arrow", self._train_rows(encoder), _TRAIN | more)
        _write(folder / "held_out.arrow", self._held_out_rows(encoder), _HELD_OUT | {"group": "int64"} | more)
        if len(self.division.deciding):
            _write(folder / "deciding.arrow", self._deciding_rows(encoder), _HELD_OUT | more)
            report.notes.append(TAKEN.format(rows=report.deciding, why=decided))
        self._check()
        report.used = report.train + report.held_out + report.deciding
        report.thinking, report.prompt_options = thinking.thinking, thinking.options
        report.template_date = fixed_date(self.tokenizer)
        report.system_prompt, report.opening, report.tools = self.alike.system, self.alike.opening, self.alike.tools
        noticed, unbroken = encoder.noticed, encoder.tokeniser.unbroken
        report.rewritten, report.noticed = noticed.rows[REWRITTEN], dict(noticed.rows)
        report.notes += noticed.sentences(report.files, unbroken=unbroken)
        report.seldom += noticed.seldom(report.files, unbroken=unbroken)
        dated = DATED.format(date=report.template_date) if report.template_date else ""
        report.notes += filter(None, [self.alike.one_answer, thinking.note, dated])
        report.train_sequences, report.train_tokens = len(self.lengths), sum(self.lengths)
        report.supervised_share = round(report.supervised_tokens / report.train_tokens, 4)
        report.truncated_share = round(report.truncated / report.train_sequences, 4)
        report.measure_lengths(np.frombuffer(self.lengths, dtype=np.int32), self.spec.max_length)
        return report

    def _train_rows(self, encoder: Encoder) -> Iterator[dict[str, Any]]:
        report = self.report
        for record, sequences in self._encoded(encoder, self.rows, self.division.train):
            report.train += 1
            self.alike.add(record["messages"], record.get("tools"))
            report.most_answers = max(report.most_answers, sum(turn["role"] == "assistant" for turn in record["messages"]))
            if len(report.examples) < EXAMPLES:
                shown = {"input_ids": sequences[0].ids, "labels": sequences[0].labels} if sequences[0].uncut else record
                pieces = tokenized.pieces(shown, self.tokenizer) or encoder.pieces(record)
                report.examples.append([{"text": piece.text, "supervised": piece.supervised} for piece in pieces])
            for sequence in sequences:
                report.supervised_tokens += sequence.supervised
                report.truncated_prompts += sequence.prompt_cut
                report.truncated_answers += sequence.answer_cut
                report.truncated += sequence.prompt_cut or sequence.answer_cut
                report.longest = max(report.longest, sequence.uncut)
                row = {"input_ids": sequence.ids, "labels": sequence.labels, "length": len(sequence.ids), "row": len(self.lengths)}
                row["answer_start"] = 0 if record["messages"][0]["role"] == "text" else sequence.answer_start
                yield row | {TEACHER_IDS: sequence.teacher_ids} | _beside(record)
                self.lengths.append(len(sequence.ids))

    def _held_out_rows(self, encoder: Encoder) -> Iterator[dict[str, Any]]:
        groups = set()
        for record, sequences in self._encoded(encoder, self.division.held_out_rows, self.division.held_out, self.division.groups):
            self.report.held_out += 1
            groups.add(record["group"])
            self.report.held_out_groups = len(groups)
            yield from self._to_measure(record, sequences, first_call(encoder, record) if self.division.by in BY_EVERY_ANSWER else None)

    def _deciding_rows(self, encoder: Encoder) -> Iterator[dict[str, Any]]:
        for record, sequences in self._encoded(encoder, self.rows, self.division.deciding):
            self.report.deciding += 1
            self.report.deciding_tokens += sum(len(sequence.ids) for sequence in sequences)
            self.report.deciding_supervised += sum(sequence.supervised for sequence in sequences)
            yield from self._to_measure(record, sequences)

    def _to_measure(self, record: dict[str, Any], sequences: list[Sequence], call: Sequence | None = None) -> Iterator[dict[str, Any]]:
        if call and tool_calls.MEASURED not in self.report.notes:
            self.report.notes.append(tool_calls.MEASURED)
        for sequence in sequences:
            yield measured_row(sequence, record, self.tokenizer, call) | {TEACHER_IDS: sequence.teacher_ids} | _beside(record)

    def _encoded(
        self, encoder: Encoder, rows: Rows, chosen: np.ndarray, groups: np.ndarray | None = None
    ) -> Iterator[tuple[dict[str, Any], list[Sequence]]]:
        total = len(self.division.train) + len(self.division.held_out) + len(self.division.deciding)
        prompt = SystemPrompt(encoder, self.system) if self.system else None
        for place, (record, result) in enumerate(tokenized.encoded(encoder, rows, chosen)):
            if groups is not None:
                record["group"] = int(groups[place])
            if prompt and not isinstance(result, RowProblem):
                result = prompt.beside(record, result)
            self.done += 1
            if self.done % REPORTED_EVERY == 0 or self.done == total:
                self.reporter.report(Progress("data", self.done, total, "rows"))
            learnable = [] if isinstance(result, RowProblem) else [sequence for sequence in result if sequence.supervised]
            if learnable:
                yield record, learnable
            else:
                reason = str(result) if isinstance(result, RowProblem) else "no supervised token"
                self.refused.append(SkippedRow(rows.facts.files[record["file"]], record["line"], reason))

    def _check(self) -> None:
        report, refused = self.report, self.refused
        tried = report.train + report.held_out + report.deciding + len(refused)
        if refused and all(row.reason == "no supervised token" for row in refused) and not (report.train and report.held_out):
            raise EmptyDataset(
                f"{report.source}, columns {', '.join(report.columns)}: no row has a supervised token.",
                hint="Check the columns, or raise dataset.max_length.",
            )
        if len(refused) > self.spec.bad_rows * tried or not (report.train and report.held_out):
            raise too_many_bad_rows(refused, len(refused), tried, self.spec.bad_rows)
        report.skipped += len(refused)
        report.skipped_rows += [row._asdict() for row in refused][: KEPT_SKIPPED - len(report.skipped_rows)]


def _report_of(facts: RowFacts, measured: RowFacts | None) -> DataReport:
    """What reading found out, all but the number of usable rows: the report counts those that are used.

    Rows of another split that is `measured` on are counted too.
    """
    found = asdict(facts) | {"skipped_rows": [row._asdict() for row in facts.skipped_rows]}
    del found["usable"]
    if measured is not None:
        for name in ("read", "blank", "skipped"):
            found[name] += getattr(measured, name)
        found["left_out"] = dict(Counter(facts.left_out) + Counter(measured.left_out))
        found["skipped_rows"] += [row._asdict() for row in measured.skipped_rows][: KEPT_SKIPPED - len(found["skipped_rows"])]
        found["notes"] += [note for note in measured.notes if note not in facts.notes]
    return DataReport(source=found.pop("origin"), pinned_source=found.pop("pinned"), **found)


def _beside(record: dict[str, Any]) -> dict[str, Any]:
    """What is known of a row beside its text: the teacher that it names, and which held-out rows belong together."""
    return {name: record[name] for name in ("route", "group") if name in record}


def measured_row(
    sequence: Sequence, record: dict[str, Any], tokenizer: PreTrainedTokenizerBase, call: Sequence | None = None
) -> dict[str, Any]:
    """A held-out row: what the model is asked, and what a good answer is: the last one, or the `call` of a tool."""
    messages, until = record["messages"], call or sequence
    asked, is_text = until.ids[: until.answer_start], messages[0]["role"] == "text"
    ahead = until.ids[until.answer_start :][: LONGEST_REFERENCE if is_text else None]
    asking = messages[: tool_calls.number_of_call(messages) if call else last_learned(messages)]
    prompt = "\n\n".join(turn["content"] for turn in asking if turn["content"])
    if is_text or "input_ids" in record:
        prompt = str(tokenizer.decode(asked, skip_special_tokens=True))
    # What is thought and called is part of the answer, and so is what the template writes into it.
    reference = until.reference or str(tokenizer.decode(ahead, skip_special_tokens=True))
    row = {"input_ids": sequence.ids, "labels": sequence.labels, "length": len(sequence.ids)}
    return {**row, "prompt_ids": asked, "prompt": prompt, "reference": reference, "is_text": is_text}


_TOKENS = "tokens"
_TRAIN = {"input_ids": _TOKENS, "labels": _TOKENS, "length": "int32", "row": "int64", "answer_start": "int32"}
_HELD_OUT = {"input_ids": _TOKENS, "labels": _TOKENS, "length": "int32", "prompt_ids": _TOKENS, "prompt": "string", "reference": "string"}
_HELD_OUT["is_text"] = "bool"


def _add_column(found: Any, chunks: list[Any]) -> None:
    """Add the values of an Arrow column to a hash; of tokens also how many each row has."""
    nested = [chunk for chunk in chunks if hasattr(chunk, "value_lengths")]
    for values in [chunk.flatten() for chunk in nested] or chunks:
        found.update(json.dumps(values.to_pylist()).encode() if values.type == "string" else values.to_numpy())
    for chunk in nested:
        found.update(chunk.value_lengths().to_numpy())


def _write(path: Path, rows: Iterator[dict[str, Any]], columns: dict[str, str]) -> None:
    """Rows to an Arrow stream file, some at a time."""
    import pyarrow as pa

    schema = pa.schema({name: pa.list_(pa.int32()) if kind == _TOKENS else kind for name, kind in columns.items()})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        while batch := list(islice(rows, BATCH)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
