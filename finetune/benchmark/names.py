"""Names of scores, and their numbers as text: `number("agreement", 0.87)` is "87.0 %"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES = {
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "perplexity": "Perplexity",
    "kl": "KL to teacher",
    "agreement": "Same top token",
}
LOWER_IS_BETTER = ("perplexity", "kl")


def number(metric: str, value: float) -> str:
    """A score, rounded to the digits that matter."""
    if metric == "agreement":
        return f"{100 * value:.1f} %"
    if metric == "kl" or metric.startswith("rouge"):
        return f"{value:.3f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:,.1f}"


def signed(metric: str, difference: float) -> str:
    """A difference of two scores: "+0.150"."""
    return f"{'+' if difference >= 0 else '-'}{number(metric, abs(difference))}"


def in_order(metrics: list[str]) -> list[str]:
    """Known scores first, in the order of NAMES."""
    return sorted(metrics, key=lambda metric: [*NAMES, metric].index(metric))


def retained(scores: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """What benchmark.json says of shares of the teacher's scores; older versions wrote some down where less is better."""
    return {metric: share for metric, share in (scores.get("retention") or {}).items() if metric not in LOWER_IS_BETTER}


def beside_the_teacher(scores: Mapping[str, Any]) -> str | None:
    """A distillation's perplexities in words: the student's beside its teacher's."""
    student, teacher = (float((scores.get(side) or {}).get("perplexity") or 0) for side in ("after", "teacher"))
    if not student or not teacher:
        return None
    both = f"{number('perplexity', student)} against {number('perplexity', teacher)}"
    if student < teacher:
        return f"lower than the teacher's, {both}: the student predicts these answers better"
    return f"{student / teacher:.2f} times the teacher's, {both}: the student predicts these answers less well"
