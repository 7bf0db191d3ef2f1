"""run/report.html: one page that needs nothing else: scores with intervals, the loss curve, answers side by side.

write_report(RunFolder.of("./finetuned_model"))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from finetune.events import read_events
from finetune.run_folder import RunFolder

SIDES = ("teacher", "before", "after")
NAMES = {
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "perplexity": "Perplexity",
    "kl": "KL to the teacher",
    "agreement": "Same likeliest token",
}
WIDTH, HEIGHT, MARGIN = 720, 240, 44
STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --quiet: #6b6b70; --line: #d9d9de; --good: #1a7f37; --bad: #b3261e; --back: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececf0; --quiet: #a0a0a8; --line: #3a3a40; --good: #4cc36b; --bad: #ff7b72; --back: #161618; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid var(--line); }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
small, .quiet { color: var(--quiet); } .better { color: var(--good); } .worse { color: var(--bad); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font: 14px/1.4 ui-monospace, monospace; }
svg { width: 100%; height: auto; } polyline { fill: none; stroke: var(--ink); stroke-width: 1.5; }
svg text { fill: var(--quiet); font-size: 12px; } svg line { stroke: var(--line); }
"""


def write_report(folder: RunFolder) -> None:
    """Write the page from the run's own files."""
    page = report_page(folder.output_dir.name, folder.read_json(folder.benchmark), _losses(folder))
    (folder.run / "report.html").write_text(page, encoding="utf-8")


def report_page(title: str, scores: Mapping[str, Any], losses: Sequence[tuple[int, float]]) -> str:
    """The whole page; `losses` are (step, loss) pairs."""
    body = [
        f"<h1>{escape(title)}</h1>",
        _table(scores),
        "<h2>Training loss</h2>" + curve(losses) if len(losses) > 1 else "",
        _ranks(scores.get("ranks") or {}),
        _answers(scores),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(filter(None, body)) + "\n</body></html>\n"


def curve(points: Sequence[tuple[int, float]]) -> str:
    """Loss by step as inline SVG, its ends labelled."""
    steps, losses = zip(*points, strict=True)
    first, last, low, high = steps[0], steps[-1], min(losses), max(losses)
    across, up = (WIDTH - 2 * MARGIN) / max(1, last - first), (HEIGHT - 2 * MARGIN) / ((high - low) or 1)
    line = " ".join(f"{MARGIN + (step - first) * across:.1f},{HEIGHT - MARGIN - (loss - low) * up:.1f}" for step, loss in points)
    bottom, right = HEIGHT - MARGIN, WIDTH - MARGIN
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="loss from {losses[0]:.3f} to {losses[-1]:.3f} over {last} steps">'
        f'<line x1="{MARGIN}" y1="{bottom}" x2="{right}" y2="{bottom}"/><polyline points="{line}"/>'
        f'<text x="0" y="{MARGIN}">{high:.2f}</text><text x="0" y="{bottom}">{low:.2f}</text>'
        f'<text x="{MARGIN}" y="{HEIGHT - 20}">step {first}</text>'
        f'<text x="{right}" y="{HEIGHT - 20}" text-anchor="end">step {last}</text></svg>'
    )


def _table(scores: Mapping[str, Any]) -> str:
    sides = [side for side in SIDES if scores.get(side)]
    rows = [_row(["", *sides, "change"], "th")]
    for key in scores["after"]:
        cells = [_score(scores, side, key) for side in sides]
        rows.append(_row([NAMES.get(key, key), *cells, _change(scores.get("change", {}).get(key))]))
    for key, share in (scores.get("retention") or {}).items():
        kept = f"{share['value']:.0%} <small>[{share['low']:.0%}, {share['high']:.0%}]</small>"
        rows.append(_row([f"{NAMES.get(key, key)} kept of the teacher", *[""] * (len(sides) - 1), kept, ""]))
    for name, value in (("Parameters", "parameters"), ("Bytes on disk", "bytes_on_disk")):
        rows.append(_row([name, *(_count(scores.get("size", {}).get(side, {}).get(value)) for side in sides), ""]))
    for name, value in (("Generated tokens/s", "tokens_per_second"), ("Peak memory, bytes", "peak_memory_bytes")):
        rows.append(_row([name, *(_count(scores.get("speed", {}).get(side, {}).get(value)) for side in sides), ""]))
    note = "In brackets: 95 % confidence interval, bootstrap over rows. Lower is better for perplexity and KL."
    return f"<h2>On {scores['rows']} rows it never trained on</h2><table>{''.join(rows)}</table><p class=quiet>{note}</p>"


def _score(scores: Mapping[str, Any], side: str, key: str) -> str:
    value = scores[side].get(key)
    if value is None:
        return ""
    low, high = scores["intervals"][side].get(key, (value, value))
    return f"{value:.4g} <small>[{low:.3g}, {high:.3g}]</small>"


def _change(change: Mapping[str, Any] | None) -> str:
    if not change:
        return ""
    return f'<span class="{escape(change["verdict"])}">{change["difference"]:+.3g} {escape(change["verdict"])}</span>'


def ranks_in_words(ranks: Mapping[str, int]) -> str:
    """ "2 to 12 a layer, 8.0 on average; most in v_proj (10.4), least in k_proj (5.1)"."""
    means = {kind: sum(found) / len(found) for kind, found in _by_kind(ranks).items()}
    most, least = max(means, key=lambda kind: means[kind]), min(means, key=lambda kind: means[kind])
    return (
        f"{min(ranks.values())} to {max(ranks.values())} a layer, {sum(ranks.values()) / len(ranks):.1f} on average; "
        f"most in {most} ({means[most]:.1f}), least in {least} ({means[least]:.1f})"
    )


def _by_kind(ranks: Mapping[str, int]) -> dict[str, list[int]]:
    """The ranks of q_proj, of k_proj and so on, from the first block to the last."""
    found: dict[str, list[int]] = {}
    for name, rank in ranks.items():
        found.setdefault(name.rpartition(".")[2], []).append(rank)
    return found


def _ranks(ranks: Mapping[str, int]) -> str:
    if not ranks:
        return ""  # a method whose ranks do not move
    lines = [_row([escape(kind), " ".join(map(str, found))]) for kind, found in _by_kind(ranks).items()]
    return f"<h2>Final ranks, from the first layer to the last</h2><p>{escape(ranks_in_words(ranks))}</p><table>{''.join(lines)}</table>"


def _answers(scores: Mapping[str, Any]) -> str:
    rows = scores.get("generations") or []
    sides = [side for side in ("prompt", "reference", *SIDES) if rows and side in rows[0]]
    if len(sides) < 3:
        return ""  # nothing was generated
    lines = [_row(sides, "th"), *(_row([f"<pre>{escape(row[side])}</pre>" for side in sides]) for row in rows)]
    return f"<h2>Answers</h2><table>{''.join(lines)}</table>"


def _row(cells: Iterable[str], kind: str = "td") -> str:
    return f"<tr>{''.join(f'<{kind}>{cell}</{kind}>' for cell in cells)}</tr>"


def _count(value: float | None) -> str:
    return f"{value:,.0f}" if value else ""


def _losses(folder: RunFolder) -> list[tuple[int, float]]:
    return [(record["step"], record["loss"]) for record in read_events(folder.events) if record.get("event") == "step"]
