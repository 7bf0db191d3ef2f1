"""From arguments to an exit code: 0 done, 1 the work failed, 2 bad input, 130 interrupted.

    main(["run", "recipe.yaml", "--set", "training.epochs=1"])        # 0

Errors become one sentence, a hint and an exit code here and nowhere else. What the commands do is in finetune/commands.py.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

from finetune.errors import BadInput, FinetuneError

ANYWHERE = ("--debug", "--no-color", "--plain")  # these stand before a command, after it, or without one

HELP = """Fine-tune or distil a language model, and see that it got better.

  finetune-cli                        a few questions; Enter takes each default
  finetune-cli --yes                  no question, every default: the demo

  finetune-cli run RECIPE             do what a recipe file says
  finetune-cli plan RECIPE            its memory, time, disk and problems;
                                      --measure makes a few real steps first
  finetune-cli resume OUTPUT_DIR      go on with an interrupted run
  finetune-cli benchmark OUTPUT_DIR   measure a finished run again
  finetune-cli chat OUTPUT_DIR        talk to a finished model; with --both
                                      beside the one that it came from
  finetune-cli runs [FOLDER]          the runs below a folder
  finetune-cli runs compare A B       what differs, and which is better
  finetune-cli merge OUTPUT_DIR       adapter and base as one plain model
  finetune-cli upload OUTPUT_DIR --repo USER/NAME
                                      to the Hub, private unless --public
  finetune-cli doctor                 machine, versions, Hub, sign-in state

With --yes, run and plan:
  --set KEY=VALUE       change a recipe key: --set training.epochs=1 --set ...
  --output-dir DIR      where the model and all records go
  --json                one JSON object on stdout, the rest on stderr

Anywhere it makes sense:
  --device DEVICE       auto (default), cpu, cuda or mps
  --trust-remote-code   run code that comes with a model: only if you trust it
  --plain               numbered questions, for screen readers
  --no-color            no colours; NO_COLOR=1 does the same
  --debug               show where an error came from
  --version             show the version

Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted with the work saved.
`finetune-cli COMMAND --help` says more.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; no traceback without --debug."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    if "--no-color" in given:
        os.environ["NO_COLOR"] = "1"
    if "--plain" in given:
        os.environ["TERM"] = "dumb"  # nothing moves on such a terminal
    try:
        return _leave(_dispatch([argument for argument in given if argument not in ANYWHERE]))
    except FinetuneError as error:
        if debug:
            raise
        say(error.message, error.hint)
        return _leave(error.exit_code)
    except KeyboardInterrupt:
        say("Cancelled.")
        return _leave(130)
    except BrokenPipeError:  # whoever read our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _leave(0)
    except Exception as error:
        if debug:
            raise
        say(f"Something unexpected happened: {type(error).__name__}: {error}", "Run the same command with --debug to see where.")
        return _leave(1)


def say(message: str, hint: str | None = None) -> None:
    """A sentence for people, on stderr; the hint may hold a command, so it is left in one piece."""
    sys.stdout.flush()
    message = "".join(letter for letter in message if letter.isprintable() or letter == "\n")  # a file name can hold anything
    if sys.stderr.isatty():
        import shutil
        import textwrap

        message = "\n".join(textwrap.wrap(message, shutil.get_terminal_size().columns - 1, break_long_words=False, break_on_hyphens=False))
    print(message, file=sys.stderr)
    if hint:
        from finetune.screen.wording import as_typed

        print(as_typed(hint), file=sys.stderr)


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is an error like any other."""

    def error(self, message: str) -> NoReturn:
        from finetune.registry import did_you_mean

        options = [option for action in self._actions for option in action.option_strings]
        commands = [name for action in self._actions if isinstance(action.choices, dict) for name in action.choices]
        if unknown := re.match(r"unrecognized arguments: (\S+)", message):
            message = f"There is no option {unknown[1]} here.{did_you_mean(unknown[1], options)}"
        elif unknown := re.match(r"argument COMMAND: invalid choice: '(\S+)'", message):
            message = f"There is no command {unknown[1]}.{did_you_mean(unknown[1], commands)}"
        else:
            message = f"{message[:1].upper()}{message[1:]}."
        raise BadInput(message, hint=f"`{self.prog} --help` lists what there is.")


def parser() -> Parser:
    """The command line as described in --help."""
    root = Parser(prog="finetune-cli", allow_abbrev=False)
    root.format_help = lambda: HELP  # type: ignore[method-assign]
    root.set_defaults(command="wizard", parser=root)
    for flag in ("--yes", "--version"):
        root.add_argument(flag, action="store_true")
    _add_recipe_options(root)
    commands = root.add_subparsers(metavar="COMMAND", parser_class=Parser)

    def command(name: str, help: str) -> Parser:
        made = commands.add_parser(name, help=help, description=help[:1].upper() + help[1:] + ".", allow_abbrev=False)
        made.set_defaults(command=name, parser=made)
        return made

    run = command("run", "do what a recipe file says")
    plan = command("plan", "show rows, tokens, memory, time and problems of a recipe; trains nothing")
    for made in (run, plan):
        made.add_argument("recipe", metavar="RECIPE", help="a YAML file, such as the run/recipe.yaml of an earlier run")
        _add_recipe_options(made)
    plan.add_argument("--measure", action="store_true", help="make a few real steps first (at most 20 seconds) and go by them")
    resume = command("resume", "go on with an interrupted run where it was last saved")
    resume.add_argument("--json", action="store_true", help="one JSON object on stdout")
    benchmark = command("benchmark", "measure a finished run again on its held-out rows")
    benchmark.add_argument("--json", action="store_true", help="one JSON object on stdout")
    upload = command("upload", "put a finished run on the Hugging Face Hub (private unless --public)")
    upload.add_argument("--repo", required=True, metavar="USER/NAME", help="the repository to create or update")
    upload.add_argument("--public", action="store_true", help="visible to everyone")
    chat = command("chat", "talk to a finished model")
    chat.add_argument("--both", action="store_true", help="the model it came from answers beside it; /both does the same during the talk")
    merge = command("merge", "write adapter and base of a finished run as one plain model, checked against the two")
    merge.add_argument("--to", metavar="DIR", help="the new folder (default: OUTPUT_DIR-merged)")
    merge.add_argument("--json", action="store_true", help="one JSON object on stdout")
    for made in (resume, benchmark, upload, chat, merge):
        made.add_argument("output_dir", metavar="OUTPUT_DIR", help="the folder of a run")
    runs = command("runs", "list the runs below a folder (default: here), or set two side by side: runs compare A B")
    runs.add_argument("folders", nargs="*", metavar="FOLDER", help="where to look, or: compare A B")
    runs.add_argument("--json", action="store_true", help="one JSON object on stdout")
    doctor = command("doctor", "show machine, versions, Hub and sign-in state (never the token)")
    doctor.add_argument("--json", action="store_true", help="one JSON object on stdout")
    for made in (resume, benchmark, chat, merge, doctor):
        _add_runtime_options(made)
    return root


def _add_recipe_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a recipe key, e.g. training.epochs=1")
    made.add_argument("--output-dir", metavar="DIR", help="where the model and all records go")
    made.add_argument("--json", action="store_true", help="one JSON object on stdout, everything else on stderr")
    _add_runtime_options(made)


def _add_runtime_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto", help="where to compute (default: auto)")
    made.add_argument("--trust-remote-code", action="store_true", help="run Python code that comes with a model: only if you trust it")


def _dispatch(given: list[str]) -> int:
    root = parser()
    arguments = root.parse_args(_command_first(given, root))
    from finetune import commands

    return int(getattr(commands, arguments.command)(arguments))


def _command_first(given: list[str], root: argparse.ArgumentParser) -> list[str]:
    """Options that stand before the command put behind it: there it takes them, or says that it has none of that name."""
    with_value = {option for action in root._actions if action.nargs is None for option in action.option_strings}
    at = 0
    while at < len(given) and given[at].startswith("-"):
        at += 2 if given[at] in with_value else 1
    return [*given[at : at + 1], *given[:at], *given[at + 1 :]]


def _leave(code: int) -> int:
    """Exit at once if imports are still warming up: the interpreter would wait for half a torch before it goes."""
    if any(thread.daemon and thread.name == "warm-imports" for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
