"""Whatever the wizard offers can be taken: no choice makes, with the answers before it, a recipe that is refused and ends the session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lengths import few
from wizard_answers import Listening, here

from finetune.recipe import Recipe
from finetune.wizard import ask_recipe
from finetune.wizard.asking.undo import Rewind

ON_A_SERVER = {"teacher.name": "http://localhost:8000/v1", "teacher.model": "qwen"}
SESSIONS: dict[str, dict[str, Any]] = {
    "one teacher": {},
    "told something": {"teacher": "self", "teacher.system": "Be brief."},
    "last states": {"distillation.features.last": "0.1"},
    "in rounds": {
        "distillation.way": "rounds",
        "rounds.layers": "15",
        "distillation.rounds": "20, 15",
        "distillation.features.layers": "auto",
    },
    "on its own answers": {"distillation.way": "own"},
    "from nothing": {"distillation.way": "nothing"},
    "in rounds until": {"distillation.way": "rounds", "rounds.layers": "15", "distillation.rounds": "none"},
    "on a server": {"teacher": "another", **ON_A_SERVER},
    "written for a fine-tuning": {"approach": "fine-tuning", "dataset.source": "generated", **ON_A_SERVER},
}
LIKE_OTHERS = {"from nothing", "in rounds until", "on a server"}
TYPED = ("", "0", "x", "none", "0.5, 2")
NOT_OFFERED = {
    ("last states", "distillation.cache", "gradient"): "compares hidden states",
    ("in rounds", "distillation.cache", "hidden"): "the teacher runs at every step",
}
LEFT = {
    ("told something", "distillation.supervise"): "Supervise: answers",
    ("in rounds", "distillation.round_teacher"): "Teacher of a round: first",
    ("in rounds", "training.keep"): "Weights to keep: last",
}


def asked(name: str, **more: Any) -> tuple[Recipe, Listening]:
    prompter = Listening({"approach": "distillation", "advanced": True, **SESSIONS[name], **more})
    return Rewind(prompter).run(lambda given: ask_recipe(given, here)), prompter


@pytest.mark.parametrize("name", few(SESSIONS, *(SESSIONS.keys() - LIKE_OTHERS)))
def test_every_choice_can_be_taken(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, prompter = asked(name)
    offered = {key: [choice.value for choice in choices] for key, choices in prompter.offered.items() if choices}
    taken = [(key, value) for key, values in offered.items() for value in values if key.startswith(("distillation.", "training."))]
    assert len(taken) > (15 if "approach" not in SESSIONS[name] else 5)
    for key, value in taken:
        if key not in ("distillation.way", "distillation.task"):  # which lead to other questions, and change what is accepted later
            asked(name, **{key: value})
    typed = [key for key, choices in prompter.offered.items() if not choices and isinstance(prompter.defaults[key], str)]
    for value in TYPED:  # told what is wrong, or taken
        asked(name, **{key: [value, SESSIONS[name].get(key, prompter.DEFAULT)] for key in typed})
    for (session, key, value), why in NOT_OFFERED.items():
        if session == name:
            assert value not in offered[key]
            assert f"Not possible here: {value} (" in prompter.more[key]
            assert why in prompter.more[key]
    for (session, key), value in LEFT.items():
        if session == name:
            assert key not in prompter.asked
            assert f"{value}. Nothing else fits your other answers." in prompter.shown
