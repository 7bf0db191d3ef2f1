"""The scores on the page: a verdict in a sentence, every score with its interval, and what the models cost to run.

measured(scores), costs(scores), verdicts(scores)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.benchmark.names import LOWER_IS_BETTER, NAMES, beside_the_teacher, in_order, number, retained, signed
from finetune.benchmark.report.charts import interval, scale_of
from finetune.benchmark.report.html import Html, element, joined, section, table
from finetune.formatting import count, size

SIDES = ("teacher", "before", "after")
SENTENCES = {"better": "Better", "worse": "Worse", "no evidence": "No evidence of a change"}
COSTS = (
    ("Parameters", "size", "parameters", count),
    ("Weights on disk", "size", "bytes_on_disk", size),
    ("Generated tokens/s", "speed", "tokens_per_second", lambda rate: f"{rate:,.0f}"),
    ("Peak memory", "speed", "peak_memory_bytes", size),
)


def sides_of(scores: Mapping[str, Any]) -> list[str]:
    """The models that were measured; in a distillation the student is "before" and "after"."""
    return [side for side in SIDES if scores.get(side)]


def verdict_class(verdict: str) -> str:
    return verdict.replace(" ", "-") if verdict in SENTENCES else "quiet"


def verdicts(scores: Mapping[str, Any]) -> Html:
    """What got better, what got worse, and what shows no change: "Better: ROUGE-L and Perplexity."."""
    changes: Mapping[str, Any] = scores.get("change") or {}
    sentences = []
    for verdict, words in SENTENCES.items():
        names = [NAMES.get(metric, metric) for metric in in_order(list(changes)) if changes[metric]["verdict"] == verdict]
        if names:
            listed = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
            sentences.append(joined([element("strong", f"{words}:", class_=verdict_class(verdict)), f" {listed}. "]))
    return element("p", *sentences, class_="verdict") if sentences else Html()


def measured(scores: Mapping[str, Any]) -> Html:
    """Every score of every model, with its 95 % interval in numbers and as a picture."""
    sides = sides_of(scores)
    metrics = in_order(list(scores["after"]))
    lower = " and ".join(NAMES[metric] for metric in LOWER_IS_BETTER if metric in metrics)
    note = "In brackets: 95 % confidence interval (bootstrap over rows). A change counts only if the interval of the paired difference"
    note += f" excludes zero. {lower}: lower is better." if lower else " excludes zero."
    columns = [element("th", cell, scope="col") for cell in ("Model", "Score", "Interval", "Picture")]
    head = element("thead", element("tr", *columns), class_="hidden")
    bodies = [_metric(scores, metric, sides) for metric in metrics]
    whole = element("table", element("caption", "Scores of each model", class_="hidden"), head, *bodies, class_="scores")
    return section(f"On {scores['rows']:,} held-out rows", whole, note=note)


def _metric(scores: Mapping[str, Any], metric: str, sides: list[str]) -> Html:
    values = {side: scores[side][metric] for side in sides if scores[side].get(metric) is not None}
    ends = {side: scores.get("intervals", {}).get(side, {}).get(metric, (value, value)) for side, value in values.items()}
    scale = scale_of([point for side, value in values.items() for point in (value, *ends[side])])
    rows = [element("tr", element("th", NAMES.get(metric, metric), _change(scores, metric), colspan="4", scope="rowgroup"))]
    for side, value in values.items():
        low, high = ends[side]
        cells = [
            element("th", side.capitalize(), scope="row"),
            element("td", number(metric, value)),
            element("td", element("small", f"[{number(metric, low)}, {number(metric, high)}]")),
            element("td", interval(value, low, high, scale)),
        ]
        rows.append(element("tr", *cells))
    return element("tbody", *rows)


def _change(scores: Mapping[str, Any], metric: str) -> Html:
    change = (scores.get("change") or {}).get(metric)
    if not change:
        return Html()
    return element("em", f"{signed(metric, change['difference'])} {change['verdict']}", class_=verdict_class(change["verdict"]))


def costs(scores: Mapping[str, Any]) -> Html:
    """Size and speed, on a GPU memory too: the student compared with its teacher, or the result with its base."""
    distilled = bool(scores.get("teacher"))
    first, second = ("teacher", "after") if distilled else ("before", "after")
    rows = []
    for name, group, key, say in COSTS:
        then, now = (scores.get(group, {}).get(side, {}).get(key) for side in (first, second))
        if now:
            rows.append([name, say(then) if then else "", say(now), f"{now / then:.2f}" if then else ""])
    for metric, kept in retained(scores).items():
        share = joined([f"{kept['value']:.0%} ", element("small", f"[{kept['low']:.0%}, {kept['high']:.0%}]")])
        rows.append([f"{NAMES.get(metric, metric)} kept", "", share, ""])
    if not rows:
        return Html()
    head = ["", "Teacher", "Student", "Ratio"] if distilled else ["", "Before", "After", "Ratio"]
    title = "Student and teacher compared" if distilled else "Cost of running the result"
    words = beside_the_teacher(scores)
    perplexity = f" Perplexity: {words}." if words else ""
    return section(title, table(head, rows, title), note=f"Measured in this run.{perplexity}" if distilled else "")
