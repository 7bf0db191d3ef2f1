"""The gate: a file is kept only if the program that people will use answers as our model does.

    found = judge(path, kind, probes, ours, limit=None, progress=...)
    found.kl, found.same_top          # 0.002, 20

Four parts: every tensor reads back as it was written (finetune/export/gguf_writer.py); texts become the same tokens; the next token after
each prompt has nearly the same probabilities; chats are rendered alike. Without llama.cpp only the first two can be shown.

What rounding to few bits changes hides what is wrong: a file with another rotary base is no farther from the model than a right one. So
llama.cpp is also compared with our model with its weights as the file has them, from which it differs by no rounding but its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import FinetuneError
from finetune.export.gguf_types import DIFFERENCE, Kind
from finetune.export.llama_cpp import AS_IT_IS, Answers, Questions, asked
from finetune.export.probes import Probes
from finetune.formatting import strip_control_chars

# Of today there, always the same here: 26 Jul 2024, July 26, 2024, 2024-07-26.
DATE = re.compile(r"\d{1,2} [A-Z][a-z]+ \d{4}|[A-Z][a-z]+ \d{1,2}, \d{4}|\d{4}-\d{2}-\d{2}")
COMPUTED = 0.05  # the largest KL in nats from the model with the weights of the file: what llama.cpp rounds while it computes
LIKELIEST = 50  # tokens whose log-probabilities are compared one by one; those of the rest are noise far below


@dataclass(frozen=True)
class Verdict:
    """What was compared and how it came out.

    In nats: `difference` is the largest of a log-probability among the 50 likeliest tokens, `kl` the mean KL divergence from our model.
    `same_top` counts the prompts with the same likeliest token, `computed` is the largest divergence
    from our model with the weights of the file. None where llama.cpp is not here to say.
    """

    tensors: int
    texts: int
    chats: int | None = None
    prompts: int | None = None
    difference: float | None = None
    kl: float | None = None
    same_top: int | None = None
    limit: float | None = None
    computed: float | None = None


def judge(
    path: Path,
    kind: Kind,
    probes: Probes,
    ours: Sequence[np.ndarray[Any, Any]],
    *,
    rounded: Sequence[np.ndarray[Any, Any]] | None,
    tensors: int,
    threads: int,
    timed: Sequence[int],
    limit: float | None,
    progress: Callable[[int, int], None],
) -> tuple[Verdict, Answers]:
    """Parts two to four by llama.cpp. `ours` are log-probabilities [vocabulary] after each prompt, `rounded` those with the file's weights.

    Raises FinetuneError if it differs.
    """
    vocabulary = len(ours[0])
    answers = asked(path, Questions(probes.texts, probes.chats, probes.prompts, vocabulary, threads, timed), progress)
    check_tokens(probes.texts, answers.tokens, probes.ids)
    for meant, found in zip(probes.rendered, answers.rendered, strict=True):
        if meant != found and not (probes.dated and DATE.sub("", meant) == DATE.sub("", found)):
            raise _refused(f"llama.cpp renders a chat as {_short(found, meant)}, and the model was trained with {_short(meant, found)}")
    allowed = kind.limit if limit is None else limit
    theirs = answers.log_probabilities
    difference, kl, same_top = _compared(ours, theirs)
    computed = (
        None if rounded is None else float(np.max([_compared([one], [other])[1] for one, other in zip(rounded, theirs, strict=True)]))
    )
    verdict = Verdict(tensors, len(probes.texts), len(probes.chats), len(ours), difference, kl, same_top, allowed, computed)
    if computed is not None and not computed <= max(COMPUTED, limit or 0):
        raise _refused(f"with the very weights of the file, the model and llama.cpp differ by a KL divergence of {computed:.3g}")
    measured = difference if kind.measure == DIFFERENCE else kl
    if not measured <= allowed:  # also where it is no number
        what = "a log-probability differs by" if kind.measure == DIFFERENCE else "the KL divergence from the model is"
        raise _refused(
            f"{what} {measured:.3g}, and {allowed:g} is the limit of {kind.name} "
            f"({same_top} of {len(ours)} prompts have the same likeliest token)",
            hint=f"Choose a type with more bits, such as q8_0, or accept it with a higher limit: --limit {2 * measured:.2g}",
        )
    return verdict, answers


def check_tokens(texts: Sequence[str], found: Sequence[Sequence[int]], meant: Sequence[Sequence[int]]) -> None:
    """Part two: raises FinetuneError for the first text that is cut into other tokens."""
    for text, theirs, ours in zip(texts, found, meant, strict=True):
        if list(theirs) != list(ours):
            pairs = enumerate(zip(theirs, ours, strict=False))
            at = next((place for place, (one, other) in pairs if one != other), min(len(theirs), len(ours)))
            few = slice(at, at + 4)
            raise _refused(f"llama.cpp cuts {_short(text)} into other tokens: {list(theirs[few])} where the model knows {list(ours[few])}")


def _compared(ours: Sequence[np.ndarray[Any, Any]], theirs: Sequence[np.ndarray[Any, Any]]) -> tuple[float, float, int]:
    """The largest difference among the likeliest, the mean KL divergence from ours, and how often the likeliest is the same."""
    largest, divergence, same = 0.0, 0.0, 0
    for mine, given in zip(ours, theirs, strict=True):
        other = given - np.log(np.exp(given.astype(np.float64)).sum())  # llama.cpp sums in 32 bits: they are of 1.0002
        likeliest = np.argsort(mine)[-LIKELIEST:]
        largest = float(np.maximum(largest, np.abs(mine[likeliest] - other[likeliest]).max()))  # which keeps what is no number
        chances = np.exp(mine.astype(np.float64))
        seen = chances > 0
        divergence += float((chances[seen] * (mine[seen].astype(np.float64) - other[seen])).sum())
        same += int(mine.argmax() == other.argmax())
    return largest, float(np.maximum(0.0, divergence / len(ours))), same


def _refused(what: str, hint: str = AS_IT_IS) -> FinetuneError:
    return FinetuneError(f"The exported file was refused: {what}.", hint=hint)


def _short(text: str, other: str = "") -> str:
    """The text from where it differs from `other`, as one short line."""
    at = next((n for n, (one, two) in enumerate(zip(text, other, strict=False)) if one != two), 0) if other else 0
    return repr(strip_control_chars(text[max(0, at - 20) : at + 40]))
