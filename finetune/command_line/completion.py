"""What Tab offers in a shell: commands, options, recipe keys after --set, recipe files and the folders of runs.

print(script("bash"))       # for the shell to evaluate; from then on it asks the program itself, through argcomplete
keys("training.ep")         # {"training.epochs=": "passes over the training rows"}
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from argcomplete import autocomplete
from argcomplete.completers import SuppressCompleter
from argcomplete.shell_integration import shellcode

HOW = {
    "bash": 'In ~/.bashrc: eval "$(finetune-cli completion bash)"',
    "zsh": 'In ~/.zshrc, after compinit: eval "$(finetune-cli completion zsh)"',
    "fish": "Once: finetune-cli completion fish > ~/.config/fish/completions/finetune-cli.fish",
}


def script(shell: str) -> str:
    """What `shell` has to evaluate, and in its last line how."""
    return shellcode(["finetune-cli"], use_defaults=False, shell=shell).strip() + f"\n# {HOW[shell]}\n"


def answer(parser: argparse.ArgumentParser) -> None:
    """Tell the shell what may come next, and end the program."""
    commands = next(action.choices for action in parser._actions if isinstance(action.choices, dict))
    for part in (parser, *commands.values()):
        for action in part._actions:
            if complete := COMPLETE.get(str(action.metavar)):
                action.completer = lambda prefix, complete=complete, **_: complete(prefix)
    autocomplete(parser, always_complete_options=False, default_completer=SuppressCompleter())


def keys(prefix: str) -> dict[str, str]:
    """Recipe keys for --set and what they mean; after the equals sign, the values of a key that has few."""
    from finetune.recipe.schema import recipe_keys

    key, equals, _ = prefix.partition("=")
    known = recipe_keys()
    if equals:
        return {f"{key}={value}": "" for value in _values(known.get(key, {}))}
    return {f"{name}=": str(about.get("description", "")) for name, about in known.items()}


def _values(about: Any) -> Iterator[str]:
    for way in about.get("anyOf", [about]):
        if way.get("type") == "boolean":
            yield from ("true", "false")
        yield from way.get("enum", [way["const"]] if "const" in way else [])
        yield from ["null"] * (way.get("type") == "null")


def recipes(prefix: str) -> list[str]:
    return [name for name, path in _beside(prefix) if name.endswith("/") or path.suffix in (".yaml", ".yml")]


def files(prefix: str) -> list[str]:
    return [name for name, _ in _beside(prefix)]


def starting(prefix: str) -> dict[str, str]:
    from finetune.recipe.starting import starting_recipes

    return {each.name: each.about for each in starting_recipes() if each.name.startswith(prefix)}


def folders(prefix: str) -> list[str]:
    return [name for name, _ in _beside(prefix) if name.endswith("/")]


def runs(prefix: str) -> list[str]:
    """Folders that are runs, without a slash so that the word ends there, and other folders, which may hold some."""
    return [name.rstrip("/") if (path / "run" / "recipe.yaml").is_file() else name for name, path in _beside(prefix) if name.endswith("/")]


def _beside(prefix: str) -> Iterator[tuple[str, Path]]:
    """Files and folders that begin with `prefix`, as typed; folders end in a slash, and hidden ones come when asked for."""
    typed, start = os.path.split(prefix)
    place = Path(typed).expanduser()
    try:
        found = sorted(os.scandir(place), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in found:
        if entry.name.startswith(start) and (start or not entry.name.startswith(".")):
            yield os.path.join(typed, entry.name) + "/" * entry.is_dir(), Path(entry)


COMPLETE = {
    "KEY=VALUE": keys,
    "RECIPE": recipes,
    "CONFIG": recipes,
    "NAME": starting,
    "FILE": recipes,
    "OUTPUT_DIR": runs,
    "MODEL": runs,
    "DATA": files,
    "DIR": folders,
    "FOLDER": lambda prefix: [*runs(prefix), "compare"],
}
