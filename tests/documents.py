"""What documents are made of: their fences, with the title and the mark that each has.

for block in blocks(ROOT / "docs" / "start.md"):
    block.language, block.title, block.text, block.not_run      # "bash", "", "finetune-cli doctor\n", None

A fence of commands or Python that no test runs has a comment above it that says why: <!-- not run: it needs four GPUs -->.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(
    r"^(?:<!-- (?:not run: (?P<mark>[^\n]+?)|[^\n]*?) -->\n)?^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
OURS = re.compile(r"(?:python finetune_cli\.py|(?<![\w./-])finetune-cli)(?![\w.-])([^`\n]*)")


@dataclass(frozen=True)
class Block:
    """A fence; `not_run` is why no test runs it, or None."""

    language: str
    title: str
    text: str
    not_run: str | None

    def lines(self) -> list[str]:
        """Its commands, each on one line, without comments."""
        lines = re.sub(r"\s*\\\n\s*", " ", self.text).splitlines()
        return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if line]


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """The fences of a document, in their order."""
    found = FENCE.finditer(page.read_text(encoding="utf-8"))
    made = [Block(fence["language"], fence["title"] or "", fence["text"], fence["mark"]) for fence in found]
    return [block for block in made if language in (None, block.language)]


def our_arguments(line: str) -> list[str] | None:
    """What our program is given in a line of a shell, or None if the line does not begin with our program."""
    found = OURS.match(line)
    return shlex.split(found[1]) if found else None
