"""The commands that write recipe files: import, from the configuration of another program.

import_config(parser().parse_args(["import", "lora.yml", "--output", "recipe.yaml"]))        # 0
"""

from __future__ import annotations

import argparse
from pathlib import Path

from finetune.errors import OutputExists, RecipeError
from finetune.screen.shown import show


def import_config(arguments: argparse.Namespace) -> int:
    """A configuration of Axolotl or LLaMA-Factory as a recipe, with all that became of its keys."""
    from finetune.importing import import_file
    from finetune.paths import typed_path
    from finetune.screen.console import people
    from finetune.screen.imported import imported_picture

    found = import_file(typed_path(arguments.config, RecipeError), arguments.source)
    written = write_new(arguments.output, found.text(), overwrite=arguments.overwrite) if arguments.output else None
    facts = {**found.to_dict(), "written": str(written) if written else None}
    if written or arguments.json:
        return show(arguments, facts, imported_picture(found, written))
    people(stderr=True).print(imported_picture(found, None), soft_wrap=True)
    return show(arguments, facts, found.text().rstrip())


def write_new(path: str, text: str, *, overwrite: bool) -> Path:
    """A text file where there is none yet, or where it may be overwritten; raises OutputExists or RecipeError."""
    from finetune.paths import looking_at, typed_path
    from finetune.storage import write_whole

    to = typed_path(path, RecipeError)
    with looking_at(to, RecipeError):
        there = to.exists()
    if there and (to.is_dir() or not overwrite):
        hint = "Choose another --output." if to.is_dir() else "Choose another --output, or add --overwrite."
        raise OutputExists(f"{path} exists{' and is a folder' if to.is_dir() else ''}.", hint=hint)
    try:
        write_whole(to, text)
    except OSError as error:
        raise RecipeError(f"{path} cannot be written: {error.strerror}.", hint="Choose another --output.") from None
    return to
