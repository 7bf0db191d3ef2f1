"""Names of scores, and their numbers as text: `number("agreement", 0.87)` is "87.0 %"."""

from __future__ import annotations

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
