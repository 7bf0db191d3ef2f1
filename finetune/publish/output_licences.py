"""Licences of teachers that also bind models trained on their outputs: a sentence each, for the model card.

covers("llama3.2")      # "a model that ... must have a name that begins with Llama, ..."
"""

from __future__ import annotations

FORBIDS = "their outputs may not be used to improve any language model but theirs"
NAMES = 'a model that is trained on their outputs and passed on must have a name that begins with Llama, and say "Built with Llama"'
DERIVES = "a model that is trained on their outputs counts as a derivative, and the same terms and restrictions go with it"

# By the Hub's names of licences; the words are those of the licences (Llama 2 and 3: 1.b.v; Llama 3.1 and later: 1.b.i; Gemma: 1.1.e).
COVERED = {"llama2": FORBIDS, "llama3": FORBIDS, "gemma": DERIVES}
COVERED |= dict.fromkeys(("llama3.1", "llama3.2", "llama3.3", "llama4"), NAMES)


def covers(licence: str | None) -> str | None:
    """What the licence says of models that learned from its model's outputs, as a clause; None where it says nothing."""
    return COVERED.get(licence or "")
