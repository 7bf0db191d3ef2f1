"""From arguments to an exit code: 0 done, 1 the work failed, 2 bad input, 130 interrupted.

    main(["run", "recipe.yaml", "--set", "training.epochs=1"])        # 0

Errors become one sentence, a hint and an exit code here and nowhere else. What the commands do is in finetune/command_line/commands.py.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from finetune.command_line.arguments import parser
from finetune.errors import FinetuneError, without_secrets
from finetune.foreign import is_panic, limit_reached
from finetune.formatting import strip_control_chars
from finetune.screen.streams import outlast, unwritten
from finetune.screen.wording import as_typed, at_breaks, for_this_python
from finetune.system.shell import quoted
from finetune.system.stopping import ended_like_ctrl_c

DEBUG = "Run the command again with --debug to see where it happened."
AGAIN = "If it fails again, add --debug to see where."
NARROWEST = 10  # columns that a sentence is broken into
WORK = ("wizard", "run", "resume", "merge", "export", "upload", "chat")  # commands that are called for more than their words


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line, that of this process if none is given; no traceback without --debug."""
    if arguments is None:
        _in_utf8()
        outlast()
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    if "--no-color" in given:
        os.environ["NO_COLOR"] = "1"
    if "--plain" in given:
        os.environ["TERM"] = "dumb"  # nothing moves on such a terminal
    if "_ARGCOMPLETE" in os.environ:  # a shell asks for completions
        from finetune.command_line.completion import answer

        answer(parser())
    try:
        return _leave(_dispatch(given))
    except FinetuneError as error:
        if debug:
            raise
        say(error.message, error.hint)
        return _leave(error.exit_code)
    except (KeyboardInterrupt, EOFError):  # EOFError: of a terminal that is gone
        say("Cancelled.")
        return _leave(130)
    except BaseException as error:
        if debug or not (isinstance(error, Exception) or is_panic(error)):
            raise
        missing = isinstance(error, ModuleNotFoundError) and error.name
        kept = getattr(error, "__notes__", [])  # what can be continued, and how
        if limit := limit_reached(error):
            say(limit.message, "\n".join([*kept, limit.hint or ""]))
            return _leave(1)
        said = _of_the_machine(error) or f"Unexpected error: {type(error).__name__}: {error}"
        install = [f"Install the program with its dependencies{_how()}"] if missing else []
        say(said, "\n".join([*install, *kept, *([] if missing else [AGAIN if kept else DEBUG])]))
        return _leave(1)


def _of_the_machine(error: BaseException) -> str | None:
    """A sentence for what no program foresees: a disk that breaks, a folder that somebody removes meanwhile, a library that is gone.

    huggingface_hub reads its variables when it is imported, and fails over a value that it does not expect.
    """
    if isinstance(error, OSError) and isinstance(error.filename, str | bytes) and error.strerror:
        return f"{os.fsdecode(error.filename)} cannot be used: {error.strerror}."
    if isinstance(error, MemoryError):
        return "There is not enough memory."
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"The Python package {error.name} is missing."
    if isinstance(error, ValueError) and any("huggingface_hub" in place.f_code.co_filename for place in _imports(error)):
        names = " or ".join(sorted(name for name in os.environ if name.startswith("HF_")))
        return f"huggingface_hub does not understand the value of {names}: {error}."
    return None


def _how() -> str:
    """The command that does it, where this program runs in the folder of its project."""
    project = Path(__file__).parents[1]
    if not (project / "pyproject.toml").is_file():
        return "."
    return f": pip install {'.' if project == Path.cwd() else quoted(str(project))}"


def _imports(error: BaseException) -> Iterator[FrameType]:
    """The modules that were being imported when it was raised."""
    trace = error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_name == "<module>":
            yield trace.tb_frame
        trace = trace.tb_next


def say(message: str, hint: str | None = None) -> None:
    """A sentence for people and a hint, on stderr; a command in it is left in one piece."""
    sys.stdout.flush()
    message, hint = (strip_control_chars(without_secrets(text)) for text in (message, hint or ""))  # a file name can contain anything
    lines = [for_this_python(message), *(as_typed(hint).split("\n") if hint else [])]
    if sys.stderr.isatty():
        import shutil

        width = max(NARROWEST, shutil.get_terminal_size().columns - 1)
        lines = [part for line in lines for part in at_breaks(line, width)]
    print("\n".join(lines), file=sys.stderr)


def _dispatch(given: list[str]) -> int:
    root = parser()
    arguments = root.parse_args(_command_first(given, root))
    from finetune.command_line import commands

    with ended_like_ctrl_c():
        code = int(getattr(commands, arguments.command)(arguments))
    if lost := unwritten():
        say(f"The output could not be written: {lost.strerror}.")
        return code or int(arguments.command not in WORK or getattr(arguments, "json", False))
    return code


def _in_utf8() -> None:
    """Start again in UTF-8 if Python took the C locale at its word: names of files are UTF-8 for every library below."""
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1" and hasattr(os, "execve"):
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONUTF8": "1"})


def _command_first(given: list[str], root: argparse.ArgumentParser) -> list[str]:
    """Move options that stand before the command to after it, where it takes or refuses them."""
    with_value = {option for action in root._actions if action.nargs is None for option in action.option_strings}
    at = 0
    while at < len(given) and given[at].startswith("-"):
        at += 2 if given[at] in with_value else 1
    return [*given[at : at + 1], *given[:at], *given[at + 1 :]]


def _leave(code: int) -> int:
    """Exit at once if imports are still warming up: the interpreter would wait for the import of torch before it exits."""
    if any(thread.daemon and thread.name == "warm-imports" for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
