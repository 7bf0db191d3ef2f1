"""The answers given in a working folder, saved after each one, so that Ctrl-C, a closed terminal or a crash loses none.

    kept = KeptAnswers.here()
    kept.keep(answers, changes, {}) # after every answer, so that even a killed program has lost none
    kept.load()                     # at the next start in the same folder: Session, or None
    kept.drop()                     # once a run has taken over

The file is CACHE/answers/NAME.json. A token is never an answer: secret questions are neither remembered nor handed to this file.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.errors import BadInput
from finetune.formatting import counted
from finetune.runtime import default_cache
from finetune.wizard.asking.prompter import Fragments
from finetune.wizard.asking.undo import Answer

VERSION = 1
DECISIONS = ("review", "change", "recipe_file")  # asked anew every time: none of them starts a run by itself at the next start
LONGEST = 1_000_000  # bytes; a person types a few hundred


@dataclass(frozen=True)
class Session:
    """Answers by key in the order of asking, and the changes to the recipe that were agreed to in the review.

    `taken_back` are those that somebody went back over and has not given again: the defaults when they are asked.
    """

    answers: dict[str, Answer]
    changes: list[dict[str, Any]]
    saved_at: float
    taken_back: dict[str, Answer] = field(default_factory=dict)

    def when(self) -> str:
        """14:02, or 25 Nov 14:02 for another day."""
        then = time.localtime(self.saved_at)
        today = then[:3] == time.localtime()[:3]
        return time.strftime("%H:%M", then) if today else f"{then.tm_mday} {time.strftime('%b %H:%M', then)}"

    def summary(self) -> str:
        """How many there are, and the last of them."""
        return f"{counted(len(self.answers), 'answer')}, the last: {list(self.answers.values())[-1].question}"


@dataclass
class KeptAnswers:
    """The file for one working folder; `written` is how many answers of this session are there, `problem` why it could not."""

    path: Path | None
    written: int = field(default=0, init=False)
    problem: str = field(default="", init=False)

    @classmethod
    def here(cls) -> KeptAnswers:
        """For the folder we are in; without a cache there is no place, and nothing is kept."""
        from hashlib import blake2b

        try:
            name = blake2b(os.fsencode(os.getcwd()), digest_size=8).hexdigest()
            return cls(default_cache() / "answers" / f"{name}.json")
        except (BadInput, OSError):
            return cls(None)

    def load(self) -> Session | None:
        """What is there; None for nothing, and for a file that this version did not write."""
        try:
            if self.path is None or self.path.stat().st_size > LONGEST:
                return None
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["version"] != VERSION:
                return None
            answers, taken_back = (
                {str(key): Answer(**answer) for key, answer in content.get(part, {}).items()} for part in ("answers", "taken_back")
            )
            changes = [dict(change) for change in content["changes"]]
            return Session(answers, changes, float(content["saved_at"]), taken_back) if answers else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def keep(self, answers: Mapping[str, Answer], changes: list[dict[str, Any]], taken_back: Mapping[str, Answer]) -> None:
        """Write all answers so far; a disk that does not take them is reported at the end."""
        from finetune.system.storage import write_whole

        kept, before = (
            {key: answer.to_dict() for key, answer in part.items() if key.partition("-")[0] not in DECISIONS}
            for part in (answers, taken_back)
        )
        if self.path is None or not kept or (len(kept) == 1 and all(answer.given == answer.default for answer in answers.values())):
            return  # a single Enter is no loss
        content = {"folder": os.getcwd(), "version": VERSION, "saved_at": time.time(), "answers": kept, "changes": changes}
        content |= {"taken_back": before} if before else {}
        try:
            write_whole(self.path, json.dumps(content, indent=1), shared=True)
            self.written, self.problem = len(kept), ""
        except OSError as error:
            self.problem = str(error.strerror or error)

    def drop(self) -> None:
        """Nothing is left to continue with."""
        self.written, self.problem = 0, ""
        if self.path is not None:
            try:
                self.path.unlink(missing_ok=True)
            except OSError:
                return  # a folder that we may only read: the answers are offered again, and can be declined

    def farewell(self) -> Fragments:
        """What becomes of the answers of this session, and the command that continues with them; empty if there are none."""
        from finetune.screen.wording import command_name

        if self.problem or not self.written:
            return [("class:warning", self.in_short())] if self.problem else []
        return [
            ("class:quiet", f"{self._number()} kept in\n"),
            ("class:command", f"{self.path}\n"),
            ("class:quiet", "To continue with them, in this folder:\n"),
            ("class:command", command_name()),
        ]

    def in_short(self) -> str:
        """The same in short, for the end of an error."""
        from finetune.screen.wording import command_name

        if self.problem:
            return f"Your answers could not be kept in {self.path}: {self.problem}."
        return f"{self._number()} kept. To continue with them, in this folder:\n{command_name()}" if self.written else ""

    def _number(self) -> str:
        return f"Your {self.written} answers are" if self.written > 1 else "Your answer is"
