"""The scores on the page: a verdict in a sentence, every score with its interval, and what the models cost to run.

measured(scores), costs(scores), verdicts(scores)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.benchmark.answers import SIDES
from finetune.benchmark.names import (
    LOWER_IS_BETTER,
    NAMES,
    beside_the_teacher,
    between,
    by_verdict,
    codes_copied,
    each_round,
    each_teacher,
    held_out,
    how_counted,
    in_order,
    number,
    own_answers,
    retained,
    share,
    shared,
    signed,
    too_few,
    which_tokens,
)
from finetune.benchmark.report.charts import interval, scale_of
from finetune.benchmark.report.html import Html, duration, element, joined, section, table
from finetune.benchmark.student_verdict import verdict_on
from finetune.formatting import count, enumerated, ratio, size

SENTENCES = {"better": "Better", "worse": "Worse", "no evidence": "No evidence of a change"}
STUDENT = {"usable": "better", "not usable": "worse"}
MEASURED = "Speed and memory: both models in turn, in processes of their own; the median of several rounds."
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
    """Of a student what it keeps of its teacher; else what got better, what got worse, and what shows no change."""
    if student := verdict_on(scores):
        said = element("strong", student.sentence, class_=STUDENT.get(student.word, "quiet"))
        return element("p", said, f" {student.costs}", class_="verdict")
    by = by_verdict({metric: change["verdict"] for metric, change in (scores.get("change") or {}).items()})
    sentences = [f"{few} "] if (few := too_few(scores)) else []
    for verdict, words in SENTENCES.items():
        if names := by.get(verdict):
            sentences.append(joined([element("strong", f"{words}:", class_=verdict_class(verdict)), f" {enumerated(names)}. "]))
    return element("p", *sentences, class_="verdict") if sentences else Html()


def measured(scores: Mapping[str, Any]) -> Html:
    """Every score of every model, with its 95 % interval in numbers and as a picture."""
    sides = sides_of(scores)
    metrics = in_order(list(scores["after"]))
    lower = " and ".join(NAMES[metric] for metric in LOWER_IS_BETTER if metric in metrics)
    note = "In brackets: 95 % confidence interval over rows. A change counts only if the interval of the paired difference excludes zero."
    note += f" {together}" if (together := shared(scores)) else ""
    note += f" {lower}: lower is better." if lower else ""
    if "perplexity" in metrics and (tokens := which_tokens(scores)):
        note += f" Perplexity counts {tokens}."
    if copied := codes_copied(scores):
        note += f" Codes copied: {copied}."
    for said in how_counted(scores):
        note += f" {said}"
    if scores.get("teacher"):
        note += " Beside a name: the student compared with its teacher, then with what it was before."
    columns = [element("th", cell, scope="col") for cell in ("Model", "Score", "Interval", "Picture")]
    head = element("thead", element("tr", *columns), class_="hidden")
    bodies = [_metric(scores, metric, sides) for metric in metrics]
    whole = element("table", element("caption", "Scores of each model", class_="hidden"), head, *bodies, class_="scores")
    return section(f"On {held_out(scores['rows'])}", whole, note=note)


def _metric(scores: Mapping[str, Any], metric: str, sides: list[str]) -> Html:
    values = {side: scores[side][metric] for side in sides if scores[side].get(metric) is not None}
    ends = {side: scores.get("intervals", {}).get(side, {}).get(metric) for side in values}
    scale = scale_of([point for side, value in values.items() for point in (value, *(ends[side] or ()))])
    compared = [_change(scores, metric, against) for against in ("against_teacher", "change")]
    rows = [element("tr", element("th", NAMES.get(metric, metric), *compared, colspan="4", scope="rowgroup"))]
    for side, value in values.items():
        low, high = ends[side] or (value, value)
        cells = [
            element("th", side.capitalize(), scope="row"),
            element("td", number(metric, value)),
            element("td", element("small", between(metric, low, high)) if ends[side] else ""),
            element("td", interval(value, low, high, scale)),
        ]
        rows.append(element("tr", *cells))
    return element("tbody", *rows)


def _change(scores: Mapping[str, Any], metric: str, against: str) -> Html:
    change = (scores.get(against) or {}).get(metric)
    if not change:
        return Html()
    return element("em", f"{signed(metric, change['difference'])} {change['verdict']}", class_=verdict_class(change["verdict"]))


def costs(scores: Mapping[str, Any]) -> Html:
    """Size, speed and memory: the student compared with its teacher, or the result with its base."""
    distilled = bool(scores.get("teacher"))
    first, second = ("teacher", "after") if distilled else ("before", "after")
    rows = []
    for name, group, key, say in COSTS:
        then, now = ((scores.get(group) or {}).get(side, {}).get(key) for side in (first, second))
        if now:
            rows.append([name, say(then) if then else "", say(now), ratio(now / then) if then else ""])
    for metric, kept in retained(scores).items():
        between = element("small", f"[{share(kept['low'])}, {share(kept['high'])}]") if kept["low"] is not None else ""
        rows.append([f"{NAMES.get(metric, metric)} kept", "", joined([f"{share(kept['value'])} ", between]), ""])
    if not rows:
        return Html()
    head = ["", "Teacher", "Student", "Ratio"] if distilled else ["", "Before", "After", "Ratio"]
    title = "Student and teacher compared" if distilled else "Cost of running the result"
    words = beside_the_teacher(scores)
    perplexity = f" Perplexity: {words}." if words else ""
    return section(title, table(head, rows, title), note=f"{MEASURED}{perplexity}" if scores.get("speed") else perplexity.strip())


def teachers(scores: Mapping[str, Any]) -> Html:
    """A line for each of several teachers."""
    rows = [[name, words] for name, words in each_teacher(scores)]
    return section("Teachers", table(["", "On the rows that it teaches"], rows, "Teachers")) if rows else Html()


def practice(scores: Mapping[str, Any]) -> Html:
    """A row for each time that the student wrote answers to practise on."""
    words = own_answers(scores)
    head = ["Before step", "Answers", "Tokens on average", "Cut off", "4-grams repeated", "Time"]
    rows = [
        [
            f"{each['step']:,}",
            f"{each['answers']:,}",
            f"{each['tokens']:.1f}",
            share(each["cut"]),
            share(each["repetition"]),
            duration(each["seconds"]),
        ]
        for each in scores.get("own_answers") or []
    ]
    return section("Own answers", table(head, rows, "Own answers"), note=f"{words}.") if words else Html()


def rounds(scores: Mapping[str, Any]) -> Html:
    """A line for each of several rounds."""
    rows = [[name, words] for name, words in each_round(scores)]
    return section("Rounds", table(["", "On the held-out rows"], rows, "Rounds")) if rows else Html()
