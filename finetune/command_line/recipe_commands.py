"""The commands that write recipe files: import, from the configuration of another program, and recipes, from those of this package.

import_config(parser().parse_args(["import", "lora.yml", "--output", "recipe.yaml"]))        # 0
"""

from __future__ import annotations

import argparse
from pathlib import Path

from finetune.errors import OutputExists, RecipeError
from finetune.screen.command_output import console_of, show


def recipe_file(name: str) -> Path:
    """The recipe that is named; raises RecipeError for a folder, and for data, which a recipe names."""
    from finetune.data.endings import ending_of, is_archive, is_record_file
    from finetune.system.paths import looking_at, typed_path

    path = typed_path(name, RecipeError)
    data = (is_record_file(path.name) and ending_of(path.name) != ".json") or is_archive(path.name)  # a recipe can be JSON
    own = path / "run" / "recipe.yaml"
    with looking_at(name, RecipeError):
        if path.is_dir():
            hint = f"Name the recipe of its run: {own}" if own.is_file() else "`finetune-cli recipes` lists recipes to start from."
            raise RecipeError(f"{name} is a folder, not a recipe.", hint=hint)
        if path.is_file() and data:
            hint = "Answer the wizard's questions, and choose the file at step 2: finetune-cli"
            raise RecipeError(f"{name} is a data file, not a recipe.", hint=hint)
    return path


def import_config(arguments: argparse.Namespace) -> int:
    """A configuration of Axolotl or LLaMA-Factory as a recipe, with all that became of its keys."""
    from rich.text import Text

    from finetune.importing import import_file
    from finetune.screen.console import people
    from finetune.screen.imported import imported_picture
    from finetune.system.paths import typed_path

    found = import_file(typed_path(arguments.config, RecipeError), arguments.source)
    written = write_new(arguments.output, found.text(), overwrite=arguments.overwrite) if arguments.output else None
    facts = {**found.to_dict(), "written": str(written) if written else None}
    if written or arguments.json:
        return show(arguments, facts, *imported_picture(found, written, console_of(arguments).width))
    words = people(stderr=True)
    words.print(*imported_picture(found, None, words.width), soft_wrap=not words.is_terminal)
    return show(arguments, facts, Text(found.text().rstrip(), no_wrap=True, overflow="ignore"))


def write_new(path: str, text: str, *, overwrite: bool) -> Path:
    """A text file where there is none yet, or where it may be overwritten; raises OutputExists or RecipeError."""
    from finetune.system.paths import looking_at, typed_path
    from finetune.system.storage import write_whole

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


def recipes(arguments: argparse.Namespace) -> int:
    """List the recipes to start from, or copy one."""
    from rich.padding import Padding
    from rich.text import Text

    from finetune.recipe.starting import starting_recipe, starting_recipes
    from finetune.screen.tables import block, to_copy
    from finetune.screen.wording import command_name
    from finetune.system.shell import quoted

    if arguments.name is None:
        if arguments.output:
            raise RecipeError("--output needs the name of a recipe.", hint="`finetune-cli recipes` lists them.")
        found = starting_recipes()
        listed = [block(Text(each.name, style="bold"), Padding(each.about, (0, 0, 0, 2))) for each in found]
        copy = Text(f"\nCopy one: {command_name()} recipes NAME", style="quiet")
        return show(arguments, {"recipes": [{"name": each.name, "about": each.about} for each in found]}, *listed, copy)
    chosen = starting_recipe(arguments.name)
    written = write_new(arguments.output or f"{chosen.name}.yaml", chosen.text, overwrite=arguments.overwrite)
    comment = "\n".join(line.removeprefix("#").removeprefix(" ") for line in chosen.text.splitlines() if line.startswith("#"))
    commands = {name: f"{command_name()} {name.lower()} {quoted(str(written))}" for name in ("Plan", "Run")}
    facts = {"name": chosen.name, "about": chosen.about, "written": str(written)}
    return show(
        arguments, facts, block(Text(comment)), Text(f"\nWritten: {written}\n"), to_copy(commands.items(), console_of(arguments).width)
    )
