"""The flags of turns that say whether they are learned, in the spellings of the programs that wrote them.

is_to_learn({"from": "gpt", "value": "No idea.", "train": False}, "conversations")  ->  False
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from finetune.data.formats.cells import is_empty
from finetune.data.json_values import number
from finetune.data.rows import RowProblem

# As names are compared: lower case, letters only. train_on_turn is axolotl's, weight OpenAI's, loss ms-swift's, step_loss_mask slime's.
LEARN = {"train", "training", "trainable", "trained", "trainonturn", "trainturn", "trainon", "dotrain", "istrained", "istrainable"}
LEARN |= {"learn", "learnable", "learned", "dolearn", "supervise", "supervised", "loss", "weight", "lossweight", "lossscale", "trainweight"}
LEARN |= {"lossmask", "steplossmask", "trainmask", "labelmask", "computeloss", "calculateloss", "useloss", "withloss", "hasloss"}
LEARN |= {"outputwithloss", "trainingweight", "turnweight", "messageweight"}
LEAVE = {"mask", "masked", "ismasked", "noloss", "ignoreloss", "skiploss", "maskloss", "maskturn", "notrain", "donottrain", "skiptraining"}
LEAVE |= {"excludefromloss", "excludeloss", "lossmasked", "ignoreinloss"}
PARTS = {"traindetail", "trainingdetail", "traindetails"}  # axolotl's: stretches of characters with flags of their own
YES, NO = {"true", "yes", "y", "t", "on"}, {"false", "no", "n", "f", "off"}

KEPT_NAMES = 4096  # the same few names come with every turn

FRACTIONS = "Weights of turns other than 0 and 1 count as 1"
ASKED = "User and system turns that are marked to be learned are not learned: only answers are"


@lru_cache(maxsize=KEPT_NAMES)
def is_flag(name: str) -> bool:
    return _short(name) in LEARN | LEAVE | PARTS


def is_to_learn(turn: dict[str, Any], column: str) -> bool:
    """Whether nothing about a turn says that it has no loss; raises RowProblem for a flag that cannot be understood."""
    return all(wanted is None or wanted > 0 for _, wanted in _flags(turn, column))


def remarks(turn: dict[str, Any], column: str, *, answer: bool) -> Iterator[str]:
    """What a person should know about the flags of a turn, as sentences without their full stop."""
    for _, wanted in _flags(turn, column):
        if answer and wanted is not None and wanted > 0 and wanted != 1:
            yield FRACTIONS
        if not answer and wanted is not None and wanted > 0:
            yield ASKED


def truth(value: Any) -> float | None:
    """1 for yes, 0 for no, or another number; None where nothing is said. Raises ValueError for anything else."""
    if is_empty(value):
        return None
    if isinstance(value, str):
        word = value.strip().lower()
        value = word in YES if word in YES | NO else number(word)
    if isinstance(value, bool | int | float):
        return float(value)
    raise ValueError("neither yes nor no")


def _flags(turn: dict[str, Any], column: str) -> Iterator[tuple[str, float | None]]:
    """The flags of a turn with what they say: above 0 is learned."""
    for name, value in turn.items():
        short = _short(name)
        if short in PARTS and value:
            raise RowProblem(f"column {column} has a turn of which only a part is to be learned ({name}); only whole turns can be left out")
        if short not in LEARN and short not in LEAVE:
            continue
        try:
            said = truth(value)
        except ValueError:
            raise RowProblem(f"column {column} has a turn with {name} {str(value)[:40]!r}, which is neither yes nor no") from None
        yield name, said if said is None or short in LEARN else float(not said)


@lru_cache(maxsize=KEPT_NAMES)
def _short(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower()) if isinstance(name, str) else ""
