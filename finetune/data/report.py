"""The prepared data in numbers: shown before training and kept in run/data_report.json.

report.used, report.supervised_share, report.length["p90"]
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

PERCENTILES = {"p10": 10, "p50": 50, "p90": 90, "p99": 99}


@dataclass
class DataReport:
    """Rows are records of the source; sequences are what is trained on (a long text gives several).

    Every row that was read is in exactly one of train, deciding, held_out, held_out_dropped, blank, skipped, left_out, not_asked and
    not_measured.
    """

    source: str
    pinned_source: str | None  # a Hub dataset with its commit
    format: str
    columns: list[str]
    ignored_columns: list[str]
    files: list[str]
    read: int
    blank: int
    skipped: int
    skipped_rows: list[dict[str, Any]]  # file, line, reason
    left_out: dict[str, int] = field(default_factory=dict)  # rows whose data say that they are not to be learned, by reason
    not_asked: int = 0  # usable rows beyond `samples`
    not_measured: int = 0  # usable rows of another split beyond those that are measured on
    samples: int | None = None  # the number of rows that was asked for
    restricted: bool = False  # a private or gated dataset of the Hub, or one that was not checked
    ignored_text: dict[str, float] = field(default_factory=dict)  # text that is not trained on, as a share of all text
    noticed: dict[str, int] = field(default_factory=dict)  # rows with something that the notes have a sentence about
    rewritten: int = 0  # rows of which the chat template leaves text out
    template: str = ""  # chat or plain
    thinking: bool | None = None  # whether the model is asked to think before it answers, where its chat template can do either
    prompt_options: dict[str, bool] = field(default_factory=dict)  # what the chat template is told for that
    system_prompt: str | None = ""  # that every row begins with; None: only some rows have one, or not the same
    opening: str = ""  # words that every question begins with
    tools: list[dict[str, Any]] = field(default_factory=list)  # definitions that every row has; none where they differ
    template_date: str | None = None  # the date that the chat template is always told, where it asks for today's
    most_answers: int = 0  # in one row; 0: not counted
    used: int = 0  # train + held_out + deciding
    train: int = 0
    deciding: int = 0  # rows by which it is decided whether another round follows, or which step's weights are kept
    deciding_tokens: int = 0
    deciding_supervised: int = 0  # tokens
    held_out: int = 0
    held_out_groups: int = 0  # rows of one prompt, conversation or text count as one; 0: not counted
    held_out_dropped: int = 0  # because they also occur in training
    held_out_by: str = ""  # prompts or rows, where rows held out at random were nearly all known from training
    duplicates: int = 0  # within training; kept
    train_sequences: int = 0
    train_tokens: int = 0
    supervised_tokens: int = 0
    supervised_share: float = 0.0
    truncated: int = 0  # sequences
    truncated_prompts: int = 0
    truncated_answers: int = 0
    longest: int = 0  # tokens of the longest of them, uncut
    truncated_share: float = 0.0
    length: dict[str, float] = field(default_factory=dict)  # tokens: min, mean, p10, p50, p90, p99, max
    histogram: list[dict[str, int]] = field(default_factory=list)  # sequences of up to `tokens` tokens
    examples: list[list[dict[str, Any]]] = field(default_factory=list)  # pieces of text, supervised or not
    notes: list[str] = field(default_factory=list)
    seldom: list[str] = field(default_factory=list)  # notes that too few rows have to be shown
    generated: dict[str, Any] = field(default_factory=dict)  # of rows that a teacher wrote: by whom, tried, kept, thrown by reason

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def measure_lengths(self, lengths: np.ndarray, max_length: int) -> None:
        """Fill `length` and `histogram` from the token counts of the training sequences."""
        values = {name: float(np.percentile(lengths, share)) for name, share in PERCENTILES.items()}
        self.length = {"min": float(lengths.min()), "mean": round(float(lengths.mean()), 1), **values, "max": float(lengths.max())}
        edges = np.unique(np.linspace(0, max_length, 9).astype(int))
        counts, _ = np.histogram(lengths, bins=edges)
        self.histogram = [{"tokens": int(edge), "rows": int(count)} for edge, count in zip(edges[1:], counts, strict=True)]
