"""The command line as two tables, from which the parser, its help and shell completion are made.

parser().parse_args(["run", "recipe.yaml", "--set", "training.epochs=1"]).command        # "run"

A new command is one line in COMMANDS and a function of its name, or of its name in FUNCTIONS, in finetune/command_line/commands.py. An
argument that means something else to one command has a second line, with the command in front of its name.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from finetune.errors import BadInput
from finetune.formatting import enumerated, in_lines
from finetune.screen.wording import command_name

WITH_RECIPE = ("--set", "--output-dir")
RUNTIME = ("--json", "--device", "--dtype", "--trust-remote-code")
ANYWHERE = ("--plain", "--no-color", "--debug")
DEVICES = ("--nproc", "--on", "--nodes", "--node-rank", "--rdzv", "--shard")
PARTS = {"model.from_teacher": "students", "distillation.features": "terms"}  # recipe keys whose own keys are names in the registry
TOLD = ("teacher", "teachers", "dataset", "method", "distillation", "training", "benchmark", "upload")  # keys whose own keys are listed
BESIDE = {"teachers": ", beside those of teacher", "method": ", of which each method has some"}
WIZARD = ("--yes", "--version", *WITH_RECIPE, *RUNTIME, *DEVICES, "--examples")  # without a command

COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "run": ("run a recipe", ("recipe", *WITH_RECIPE, "--fail-if-worse", *RUNTIME, *DEVICES, "--examples")),
    "plan": (
        "what a run would cost, and its problems; trains nothing",
        ("recipe", "--measure", *WITH_RECIPE, *RUNTIME, "--nproc", "--examples"),
    ),
    "resume": ("continue an interrupted run from its last checkpoint", ("output_dir", *RUNTIME, *DEVICES, "--examples")),
    "benchmark": (
        "measure a finished run again, or with --data any models on any rows",
        ("models", "--data", "--set", "--fail-if-worse", *RUNTIME, "--examples"),
    ),
    "chat": ("chat with a finished model", ("output_dir", "--both", *RUNTIME[1:])),
    "runs": ("list the runs in a folder, or: runs compare A B ...", ("folders", "--json")),
    "merge": ("merge an adapter and its base into one plain model", ("output_dir", "--to", *RUNTIME)),
    "export": (
        "write a finished model for llama.cpp, Ollama and LM Studio, or as ONNX",
        ("output_dir", "--to", "--to-dir", "--limit", *RUNTIME),
    ),
    "upload": ("upload a finished run to the Hub, private unless --public", ("output_dir", "--repo", "--public", "--gguf")),
    "recipes": ("list recipes to start from, or copy one", ("name", "--output", "--overwrite", "--json")),
    "import": (
        "make a recipe from a configuration of Axolotl or LLaMA-Factory",
        ("config", "--output", "--overwrite", "--from", "--json"),
    ),
    "doctor": ("show machine, versions, Hub and sign-in state", RUNTIME),
    "schema": ("print the JSON schema of a recipe, for editors", ()),
    "completion": ("print a script that completes commands on Tab", ("shell",)),
}


SETTING = re.compile(r"(?:unrecognized arguments: |argument COMMAND: invalid choice: ')([a-z][\w.]*)=")
MEANT = {  # what people type for a command whose name is not like it
    "check": "plan",
    "compare": "runs compare",
    "convert": "export",
    "evaluate": "benchmark",
    "help": "--help",
    "list": "runs",
    "push": "upload",
    "train": "run",
    "version": "--version",
}
NAMED = {"--on": "engines", "--from": "importers"}  # options whose values the registry knows
FUNCTIONS = {"import": "import_config"}  # of a command whose name is no name for a function


def _one_of(what: str, default: str, *others: str) -> dict[str, Any]:
    return {"choices": (default, *others), "default": default, "help": f"{what}: {enumerated((f'{default} (default)', *others), 'or')}"}


def _number(text: str) -> int | None:
    """A number of processes, None for auto."""
    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is neither auto nor a number of 1 or more")
    return int(text)


ARGUMENTS: dict[str, dict[str, Any]] = {
    "recipe": {"metavar": "RECIPE", "help": "a YAML file, such as the run/recipe.yaml of an earlier run"},
    "output_dir": {"metavar": "OUTPUT_DIR", "help": "the folder of a run"},
    "config": {"metavar": "FILE", "help": "the other program's YAML file"},
    "models": {
        "metavar": "MODEL",
        "nargs": "+",
        "help": "the folder of a run; with --data any models, compared with the first: Hub ids, folders, .gguf files, runs",
    },
    "name": {"metavar": "NAME", "nargs": "?", "help": "the recipe to copy (default: list all)"},
    "folders": {"metavar": "FOLDER", "nargs": "*", "help": "where to look (default: here), or: compare A B ..."},
    "shell": {
        "metavar": "SHELL",
        "choices": ("bash", "zsh", "fish"),
        "help": 'bash or zsh: eval "$(finetune-cli completion bash)"; fish: finetune-cli completion fish | source',
    },
    "--yes": {"action": "store_true", "help": "take every default, ask nothing"},
    "--set": {
        "action": "append",
        "default": [],
        "metavar": "KEY=VALUE",
        "help": "change a recipe key, for example training.epochs=1; with run, training.epochs=1,3 makes a run for each value",
    },
    "--data": {"metavar": "DATA", "help": "rows to measure on, as dataset.source takes them: a file, a folder, a Hub id"},
    "benchmark --set": {
        "action": "append",
        "default": [],
        "metavar": "KEY=VALUE",
        "help": "with --data, a key of dataset or benchmark, for example benchmark.rows=200",
    },
    "--fail-if-worse": {"metavar": "METRIC", "help": "exit code 1 if this score (rougeL, perplexity, ...) is worse than before training"},
    "benchmark --fail-if-worse": {
        "metavar": "METRIC",
        "help": "exit code 1 if this score is worse than before training; with --data, if the second model is worse than the first",
    },
    "--output-dir": {"metavar": "DIR", "help": "folder for the model and all records"},
    "--json": {"action": "store_true", "help": "one JSON object on stdout, the rest on stderr"},
    "--examples": {"action": "store_true", "help": "with --json: include rows and answers"},
    "--measure": {"action": "store_true", "help": "make a few real steps first, in about 20 seconds, and base the plan on them"},
    "--both": {"action": "store_true", "help": "the model it came from answers too; /both switches this on and off during the chat"},
    "--to": {"metavar": "DIR", "help": "the new folder (default: OUTPUT_DIR-merged)"},
    "export --to": {
        "metavar": "KIND",
        "required": True,
        "help": "one of the kinds below, for example gguf:q8_0",
    },
    "--to-dir": {"metavar": "DIR", "help": "the new folder (default: OUTPUT_DIR-KIND)"},
    "--limit": {
        "metavar": "NUMBER",
        "type": float,
        "help": "how far the file may differ from the model, if not the default: in KL divergence; f16: in a log-probability; "
        "onnx: in a logit",
    },
    "--output": {"metavar": "FILE", "help": "the recipe file to write (default: print it)"},
    "recipes --output": {"metavar": "FILE", "help": "the file to write (default: NAME.yaml)"},
    "--overwrite": {"action": "store_true", "help": "overwrite an existing file"},
    "--from": {
        "metavar": "SOURCE",
        "dest": "source",
        "help": "the program that it belongs to, one of the names below (default: recognised by its keys)",
    },
    "--repo": {"metavar": "USER/NAME", "required": True, "help": "the repository to create or update"},
    "--public": {"action": "store_true", "help": "visible to everyone"},
    "--gguf": {"action": "store_true", "help": "upload its exported .gguf files too"},
    "--device": {"metavar": "DEVICE", **_one_of("where to compute", "auto", "cpu", "cuda", "mps")},
    "--dtype": {"metavar": "DTYPE", **_one_of("precision", "auto", "float32", "bfloat16", "float16")},
    "--trust-remote-code": {"action": "store_true", "help": "run Python code that comes with the model: only if you trust it"},
    "--nproc": {
        "metavar": "N",
        "type": _number,
        "help": "processes that train, each on a GPU and a share of each step's rows; auto (default): one for each GPU",
    },
    "--on": {
        "metavar": "ENGINE",
        "help": "what trains: here (one process), torchrun (several) or ray (a cluster); the default suits --nproc and --nodes",
    },
    "--nodes": {
        "metavar": "N",
        "type": int,
        "default": 1,
        "help": "machines that train together; run the same command on each (default: 1)",
    },
    "--node-rank": {"metavar": "K", "type": int, "default": 0, "help": "the number of this machine, from 0 (default: 0, which reports)"},
    "--rdzv": {"metavar": "HOST:PORT", "help": "the rendezvous address: name and a free port of machine 0"},
    "--shard": {
        "metavar": "WHEN",
        **_one_of("shard the weights over the GPUs (auto: if one GPU has no room for all of them)", "auto", "yes", "no"),
    },
    "--plain": {"action": "store_true", "help": "numbered questions, for screen readers"},
    "--no-color": {"action": "store_true", "help": "no colours; NO_COLOR=1 does the same"},
    "--debug": {"action": "store_true", "help": "show where an error came from"},
    "--version": {"action": "store_true", "help": "show the version"},
}


class HelpText(argparse.HelpFormatter):
    """Help in lines that are broken at spaces alone: `--output-dir` stays whole."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return in_lines(text, width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(in_lines(text, width, indent, indent))


class Parser(argparse.ArgumentParser):
    """argparse that raises BadInput instead of exiting."""

    def parse_known_args(self, *arguments: Any, **more: Any) -> Any:
        """All of them must be known: the parser of a command says so itself, of its own options."""
        found, unknown = super().parse_known_args(*arguments, **more)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        from finetune.registry import did_you_mean

        hint = f"`{self.prog} --help` lists the options."
        options = [option for action in self._actions for option in action.option_strings]
        if "--set" in options and (setting := SETTING.match(message)):
            message, hint = f"There is no --set before {setting[1]}.", "Each KEY=VALUE needs its own: --set KEY=VALUE --set KEY=VALUE"
        elif unknown := re.match(r"unrecognized arguments: (\S+)", message):
            message = f"There is no option {unknown[1]} here.{did_you_mean(unknown[1], options)}"
            if not unknown[1].startswith("-"):
                message = f"{unknown[1]} is one argument too many."
        elif unknown := re.match(r"argument (\S+): invalid choice: '(.*?)' \(choose from (.*)\)", message):
            if unknown[1] == "COMMAND":
                meant = f" Did you mean {MEANT[unknown[2]]}?" if unknown[2] in MEANT else did_you_mean(unknown[2], list(COMMANDS))
                message = f"There is no command {unknown[2]}.{meant}"
            else:
                message, hint = f"{unknown[1]} cannot be {unknown[2]}.", f"Choose from {unknown[3]}.".replace("'", "")
        elif bare := re.match(r"argument ([^:]+): expected (?:at least )?one argument", message):
            message = f"{bare[1]} needs a value."
        elif wrong := re.match(r"argument ([^:]+): invalid (int|float) value: '(.*)'", message):
            message = f"{wrong[1]} must be a {'whole ' if wrong[2] == 'int' else ''}number, not {wrong[3]}."
        elif of_one := re.match(r"argument ([^:]+: .*)", message):
            message = f"{of_one[1]}."
        elif missing := re.match(r"the following arguments are required: (.*)", message):
            program, _, command = self.prog.rpartition(" ")
            message = f"{missing[1]} {'are' if ',' in missing[1] else 'is'} missing."
            hint = f"Usage: {program} {_usage(command)}\n{hint}"
        else:
            message = f"{message[:1].upper()}{message[1:]}."
        raise BadInput(message, hint=hint)

    def format_help(self) -> str:
        self.color = False  # from Python 3.14 on it would paint this, whatever --no-color says
        takes = {option for action in self._actions for option in action.option_strings}
        if "--yes" in takes:
            return _overview(self.prog)
        parts = ("benchmark",) if "--data" in takes else ()
        told = _choices(*parts) if "--set" in takes else _kinds() if "--to-dir" in takes else ""
        return super().format_help() + told + "".join(_names(option) for option in NAMED if option in takes)


def parser() -> Parser:
    """The command line; what it parses has a `command`: the name of a function in finetune/command_line/commands.py."""

    def formatted(prog: str) -> argparse.HelpFormatter:
        import shutil

        return HelpText(prog, width=min(79, shutil.get_terminal_size().columns - 1))

    def filled(made: Parser, command: str, arguments: Iterable[str]) -> None:
        made.set_defaults(command=FUNCTIONS.get(command, command))
        for name in (*arguments, *ANYWHERE):
            made.add_argument(name, **_argument(command, name))

    root = Parser(prog=command_name(), allow_abbrev=False)
    filled(root, "wizard", WIZARD)
    commands = root.add_subparsers(metavar="COMMAND", parser_class=Parser)
    for command, (does, arguments) in COMMANDS.items():
        said = f"{does[:1].upper()}{does[1:]}{'' if does.endswith('...') else '.'}"
        made = commands.add_parser(command, help=does, description=said, allow_abbrev=False, formatter_class=formatted)
        filled(made, command, arguments)
    return root


def _argument(command: str, name: str) -> dict[str, Any]:
    """What a command takes under this name; a few mean something of their own by it."""
    return ARGUMENTS.get(f"{command} {name}", ARGUMENTS[name])


def _overview(program: str) -> str:
    """Every command and every option that more than one of them takes."""
    starts = [(program, "asks a few questions; Enter accepts each default"), (f"{program} --yes", ARGUMENTS["--yes"]["help"])]
    sections = [
        _filled("Fine-tune or distil a language model, and measure that it got better."),
        _columns(starts, max(24, len(starts[1][0]) + 4)),
        "Commands:\n" + _columns([(_usage(command), does) for command, (does, _) in COMMANDS.items()]),
        "With --yes, run and plan:\n" + _columns(_options(WITH_RECIPE)),
        "With --yes, run and resume:\n" + _columns(_options(DEVICES)),
        "With most commands:\n" + _columns(_options((*RUNTIME, "--examples", *ANYWHERE, "--version"))),
        _filled("Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted with the work saved.")
        + f"\n`{program} COMMAND --help` says more.\n",
    ]
    return "\n\n".join(sections)


def _usage(command: str) -> str:
    """`upload OUTPUT_DIR --repo USER/NAME`: a command with all that it needs."""
    words = [command]
    for name in COMMANDS[command][1]:
        taken = _argument(command, name)
        if name[0] != "-":
            optional, more = taken.get("nargs") in ("*", "?"), " ..." if taken.get("nargs") == "+" else ""
            words.append(f"[{taken['metavar']}]" if optional else f"{taken['metavar']}{more}")
        elif taken.get("required"):
            words += [name, taken["metavar"]]
    return " ".join(words)


def _options(names: Iterable[str]) -> list[tuple[str, str]]:
    return [(f"{name} {ARGUMENTS[name].get('metavar', '')}".strip(), ARGUMENTS[name]["help"]) for name in names]


def _kinds() -> str:
    """What a model can be exported to."""
    from finetune.export.exporters import exporters
    from finetune.export.gguf_types import DEFAULT, KINDS

    told = (f"Kinds: {', '.join(exporters())}", f"Types of gguf: {', '.join(KINDS)} (default {DEFAULT})")
    return "\n" + "".join(f"{_filled(line)}\n" for line in told)


def _names(option: str) -> str:
    """What an option can be, with what other packages add."""
    from finetune import registry

    return "\n" + _filled(f"Names for {option}: {', '.join(registry.names(NAMED[option]))}") + "\n"


def _choices(*of_parts: str) -> str:
    """The names a recipe can use: methods, objectives, metrics, trackers and keys that are names, those of other packages too; and keys.

    With `of_parts` only those of these parts of the recipe.
    """
    from finetune import registry
    from finetune.recipe.schema import keys_of_names, keys_of_parts
    from finetune.recipe.task_settings import TASKS

    sections = []
    for key, kind in keys_of_names().items():
        if of_parts and key.partition(".")[0] not in of_parts:
            continue
        titled = kind in registry.DESCRIBED
        rows = registry.choices(kind) if titled else [(name, "", "") for name in registry.names(kind)]
        sections.append(_section(f"Names for the recipe key {key}:", _titled(rows)))
    if not of_parts:
        tasks = [(name, task.title, task.summary) for name, task in TASKS.items()]
        sections.append(_section("Names for the recipe key distillation.task:", _titled(tasks)))
        for key, kind in PARTS.items():
            sections.append(_section(f"Keys under the recipe key {key}:", _titled(registry.choices(kind))))
        told = {f"{key}.{name}" for key, kind in PARTS.items() for name in registry.names(kind)}
        for part in TOLD:
            keys = [(key.removeprefix(f"{part}."), help) for key, help in keys_of_parts(part).items() if key not in told]
            sections.append(_section(f"Keys under the recipe key {part}{BESIDE.get(part, '')}:", _columns(keys)))
    return "\n".join(sections) + "\n"


def _section(heading: str, rows: str) -> str:
    return f"\n{_filled(heading)}\n{rows}"


def _titled(rows: Iterable[tuple[str, str, str]]) -> str:
    """Names with what is said of each: its title, its summary, or both."""
    return _columns((name, ": ".join(filter(None, about))) for name, *about in rows)


def _room() -> int:
    """Columns of the terminal, at most 79."""
    import shutil

    return max(20, min(79, shutil.get_terminal_size().columns - 1))


def _filled(text: str) -> str:
    return "\n".join(in_lines(text, _room()))


def _columns(rows: Iterable[tuple[str, str]], width: int = 24) -> str:
    """Two columns; what is too long for the first has a line to itself, as everything has where room is short."""
    lines, room = [], _room()
    width = width if room > 2 * width else 6
    for left, right in rows:
        first, *others = in_lines(right, room - width) or [""]
        lines += [f"  {left:<{width - 2}}{first}".rstrip()] if len(left) < width - 2 else [f"  {left}", " " * width + first]
        lines += [" " * width + other for other in others]
    return "\n".join(line.rstrip() for line in lines)
