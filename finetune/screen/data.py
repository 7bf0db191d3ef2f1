"""The data report on a screen: what was read, what is left out, how long rows are, and three rows with the learned part marked.

console.print(data_report(tuner.data.report.to_dict()))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from finetune.formatting import beside_ignored, count, counted, percent, strip_control_chars
from finetune.letters import last_letters
from finetune.registry import title
from finetune.screen.tables import block, pairs

BARS = "▁▂▃▄▅▆▇█"
SHOWN_SKIPPED = 3
SHOWN_IGNORED = 12
SAID_IN_A_RUN = ("Ignored", "Notes")  # as sentences


def data_report(report: Mapping[str, Any], *, examples: bool = True, in_words: bool = False) -> RenderableType:
    """One fact per line; nothing is said about what did not happen. `in_words`: no bars and marks, as for screen readers."""
    facts = [(name, fact) for name, fact in _facts(report, in_words) if examples or name not in SAID_IN_A_RUN]
    parts: list[RenderableType] = [pairs(facts)]
    if examples and report["examples"]:
        parts.append(Text("Rows as the model sees them; it learns the marked part", style="quiet"))
        parts += [_example(pieces, in_words) for pieces in report["examples"]]
    return block(*parts)


def _facts(report: Mapping[str, Any], in_words: bool) -> Iterator[tuple[str, Text | str]]:
    blank = f", {report['blank']:,} blank" if report["blank"] else ""
    unasked = f", {report['not_asked']:,} not used: {report['samples']:,} were asked for" if report.get("not_asked") else ""
    unmeasured = f", {report['not_measured']:,} of the other split not used" if report.get("not_measured") else ""
    left = f", {sum(report['left_out'].values()):,} left out" if report.get("left_out") else ""
    decided = f", {report['deciding']:,} for validation" if report.get("deciding") else ""
    read = f"{report['read']:,} read{blank}{left}" if report["read"] else f"{report['samples']:,} to be written"  # by a teacher
    yield "Rows", f"{read}: {report['train']:,} to train on, {report['held_out']:,} held out{decided}{unasked}{unmeasured}"
    if report["skipped"]:
        shown = [f"{row['file']} line {row['line']}: {row['reason']}" for row in report["skipped_rows"][:SHOWN_SKIPPED]]
        more = [f"and {report['skipped'] - len(shown):,} more"] if report["skipped"] > len(shown) else []
        lines = [f"{counted(report['skipped'], 'row')} cannot be used", *map(strip_control_chars, shown), *more]
        yield "Skipped", Text("\n".join(lines), style="warning")
    repeated = []
    if report["duplicates"]:
        repeated.append(f"{counted(report['duplicates'], 'duplicate', 'are')} kept")
    if dropped := report["held_out_dropped"]:
        occur = "occurs in training and is" if dropped == 1 else "occur in training and are"
        repeated.append(f"{counted(dropped, 'held-out row')} also {occur} dropped")
    if repeated:
        yield "Repeated", ", ".join(repeated)
    yield "Read as", strip_control_chars(f"{title('formats', report['format'])}: {', '.join(report['columns'])}")
    if report["ignored_columns"] or report["ignored_text"]:
        yield "Ignored", _ignored(report)
    length = report["length"]
    yield "Tokens", f"median {length['p50']:,.0f}, 90th percentile {length['p90']:,.0f}, longest {length['max']:,.0f}"
    yield "", Text(_histogram(report["histogram"], in_words), style="quiet")
    if report["truncated"]:
        lost = []
        if report["truncated_answers"]:
            lost.append(f"{report['truncated_answers']:,} at the end of the answer: these do not teach the model to end there")
        if report["truncated_prompts"]:
            lost.append(f"{report['truncated_prompts']:,} at the start of the prompt")
        yield "Truncated", Text(f"{percent(report['truncated_share'])} of the rows: {'; '.join(lost)}", style="warning")
    yield "Learned", f"{percent(report['supervised_share'])} of {count(report['train_tokens'])} tokens"
    if notes := beside_ignored(report["notes"]):
        yield "Notes", strip_control_chars("\n".join(notes))


def _ignored(report: Mapping[str, Any]) -> Text:
    shares: Mapping[str, float] = report["ignored_text"]
    names = [*shares, *(column for column in report["ignored_columns"] if column not in shares)]
    shown = [f"{name} ({percent(shares[name])} of the text)" if name in shares else name for name in names[:SHOWN_IGNORED]]
    more = f" and {len(names) - SHOWN_IGNORED} more" if len(names) > SHOWN_IGNORED else ""
    return Text(strip_control_chars(", ".join(shown)) + more, style="warning" if shares else "")


def _histogram(parts: Sequence[Mapping[str, int]], in_words: bool) -> str:
    """A bar for each eighth of the longest length allowed."""
    most = max(part["rows"] for part in parts)
    if in_words:
        return ", ".join(f"up to {part['tokens']:,}: {part['rows']:,}" for part in parts if part["rows"])
    bars = [BARS[round((len(BARS) - 1) * part["rows"] / most)] if part["rows"] else " " for part in parts]
    return f"0 {''.join(bar * 3 for bar in bars)} {parts[-1]['tokens']:,}"


def _example(pieces: Sequence[Mapping[str, Any]], in_words: bool) -> RenderableType:
    """The end of the prompt and the beginning of what is learned, a line each."""
    last = max((number for number, piece in enumerate(pieces) if piece["supervised"]), default=0)
    lines = []
    for number in range(max(0, last - 1), last + 1):
        piece, learned = pieces[number], pieces[number]["supervised"]
        words = " ".join(strip_control_chars(piece["text"]).split())
        mark = ("learned: " if learned else "given: ") if in_words else ("▌ " if learned else "│ ")
        shown = words if number == last or len(words) <= 60 else ("... " if in_words else "…") + last_letters(words, 60)
        lines.append(Text(f"{mark}{shown}", style="green" if learned else "quiet", no_wrap=True, overflow="ellipsis"))
    return Group(*lines)
