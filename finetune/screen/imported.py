"""What became of another program's configuration, on a screen: the numbers, what is left out, and the next commands.

show(arguments, facts, *imported_picture(import_file("lora.yml"), Path("recipe.yaml"), console.width))
"""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from finetune.formatting import counted, in_lines
from finetune.importing.imported import SECTIONS, Imported
from finetune.importing.lines import MAPPED, MISSING, RUNTIME, SAME, UNKNOWN
from finetune.screen.tables import to_copy
from finetune.screen.wording import command_name
from finetune.system.shell import quoted

STYLES = {MISSING: "warning", UNKNOWN: "warning", RUNTIME: ""}
WIDTH = 78


def imported_picture(found: Imported, written: Path | None, width: int) -> list[Text]:
    """Without a file the commands are left out: its name is not known yet."""
    numbers = {how: len({line.key for line in found.of(how)}) for how in (MAPPED, RUNTIME, SAME, MISSING, UNKNOWN)}
    read, left = counted(numbers[MAPPED], "key"), numbers[MISSING] + numbers[UNKNOWN]
    what = f"{read} in the recipe, {numbers[SAME]} not needed here, {left} left out"
    parts = [Text(f"{found.file}, a configuration of {found.title}: {what}.\n")]
    for how, style in STYLES.items():
        if said := found.said(how):
            parts.append(Text(f"\n{SECTIONS[how]}:\n", style=style))
            parts += [Text("\n".join([*in_lines(line, min(WIDTH, width), "  ", "    "), ""])) for line in said]
    if not written:
        return [Text().join(parts)]
    commands = {name: f"{command_name()} {name.lower()} {quoted(str(written))}" for name in ("Plan", "Run")}
    commands["Run"] = " ".join([commands["Run"], *found.options])
    parts.append(Text(f"\nWritten: {written}. Each line of it names the key that it comes from.\n"))
    return [Text().join(parts), to_copy(commands.items(), min(WIDTH, width))]
