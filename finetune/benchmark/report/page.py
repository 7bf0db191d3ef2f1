"""The whole report page, self-contained: no script, no network request.

write_report(RunFolder.of("./finetuned_model"))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.benchmark.names import IN_SHORT, NAMES, number
from finetune.benchmark.report.about import asked, data, done, environment, headline, repeat
from finetune.benchmark.report.answers import answers
from finetune.benchmark.report.html import Html, duration, element, joined, section, table
from finetune.benchmark.report.ranks import final_ranks
from finetune.benchmark.report.records import Records, read_records
from finetune.benchmark.report.scores import costs, measured, practice, rounds, teachers, verdict_class, verdicts
from finetune.benchmark.report.style import STYLE
from finetune.foreign import reading
from finetune.formatting import counted, nearness, size
from finetune.run_folder import REMADE, RunFolder

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # with this policy a browser runs no script and fetches nothing
EXPORTED = ("", "On disk", "Loads in", "Speed", "KL divergence", "Same top token")
HOW_EXPORTED = (
    "Measured on this machine when the file was exported, beside the model as transformers runs it, each with what it loads from in the "
    "system's memory. KL divergence: how far the probabilities of the next token are from the model's, in nats."
)
NOT_MEASURED = "not measured"


def write_report(folder: RunFolder) -> None:
    """Write run/report.html from the run's own files."""
    with reading(folder.run, hint=REMADE):
        page = report_page(read_records(folder))
    folder.write_text(folder.run / "report.html", page)


def report_page(records: Records) -> str:
    """A complete HTML document."""
    scores = records.scores
    parts = [
        _top(records),
        answers(scores),
        measured(scores),
        costs(scores),
        teachers(scores),
        rounds(scores),
        practice(scores),
        exported_files(records.exports),
        asked(records),
        done(records),
        final_ranks(scores.get("ranks") or {}),
        data(records),
        environment(records),
        repeat(records),
    ]
    head = joined(
        [
            Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><link rel="icon" href="data:,">'),
            element("title", f"{records.title} - report"),
            element("style", Html(STYLE)),
        ]
    )
    body = element("main", Html("\n".join(filter(None, parts))))
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'


def _top(records: Records) -> Html:
    """Name, verdict and the main numbers."""
    scores, training = records.scores, records.training
    tiles = []
    first, changes = ("teacher", "against_teacher") if scores.get("teacher") else ("before", "change")
    for metric in IN_SHORT:
        before, after = ((scores.get(side) or {}).get(metric) for side in (first, "after"))
        if before is not None and after is not None:
            verdict = ((scores.get(changes) or {}).get(metric) or {}).get("verdict", "")
            said = element("em", f" {verdict}", class_=verdict_class(verdict))
            between = "against" if scores.get("teacher") else "→"
            pair = (after, before) if scores.get("teacher") else (before, after)
            numbers = [number(metric, value).replace(" ", "\u00a0") for value in pair]  # "0.0 %" stays on one line
            tiles.append(_tile(f" {between} ".join(numbers), joined([NAMES[metric], said])))
    if training:
        tiles.append(_tile(duration(training["train_seconds"]), f"trained, {counted(training['steps'], 'step')}"))
        tiles.append(_tile(size(training["peak_memory_bytes"]), "peak memory"))
    parts = [element("h1", records.title), element("p", headline(records), class_="quiet"), verdicts(scores)]
    return element("header", *parts, element("ul", *tiles, class_="tiles") if tiles else "")


def _tile(value: str, name: str) -> Html:
    return element("li", element("b", value), element("span", name))


def exported_files(exports: Sequence[Mapping[str, Any]]) -> Html:
    """The files for other programs: a row for each, below the original it came from; empty if nothing was exported."""
    if not exports:
        return Html()
    return section("Files for other programs", table(EXPORTED, _exported(exports), "Exported files and the original"), note=HOW_EXPORTED)


def _exported(exports: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    yield "Original", *_speed_of(exports[-1]["original"]), "", ""
    for each in exports:
        gate = each["gate"]
        measured = _speed_of(each["exported"]) if each["exported"] else (size(each["bytes"]), NOT_MEASURED, NOT_MEASURED)
        same = f"{gate['same_top']} of {gate['prompts']} prompts" if gate.get("prompts") else NOT_MEASURED
        yield each["file"], *measured, nearness(gate), same


def _speed_of(speed: Mapping[str, Any]) -> tuple[str, str, str]:
    rate = speed["tokens_per_second"]
    return size(speed["bytes"]), f"{speed['load_seconds']:.2f} s", f"{rate:,.0f} tokens/s" if rate else NOT_MEASURED
