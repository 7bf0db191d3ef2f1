"""Whether the loss was still falling when a training ended, where that means something: on rows that the model had never seen before.

    still_falling(losses, steps=51)         # (2.31, 2.05), or None

In a second pass over the same rows a falling loss means that they are memorised, which says nothing about other rows.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

FEWEST = 6  # losses in each of the two parts
SURE = 2.0  # standard errors of the difference between them: about one chance in 40 of a fall that is none


def still_falling(losses: Sequence[float], steps: int) -> tuple[float, float] | None:
    """The mean losses of the last two quarters of `steps` steps, if the last is lower beyond what chance does (Welch's t); else None.

    `losses` are those of the last steps, one each.
    """
    each = steps // 4
    if each < FEWEST or len(losses) < 2 * each:
        return None
    before, last = list(losses)[-2 * each : -each], list(losses)[-each:]
    error = ((statistics.variance(before) + statistics.variance(last)) / each) ** 0.5
    first, second = statistics.fmean(before), statistics.fmean(last)
    return (first, second) if first - second > SURE * error else None
