"""The program on this machine without what another system lacks; a child process, because nothing here can be taken back.

python other_systems.py windows run recipe.yaml          as finetune-cli run recipe.yaml
python other_systems.py apple run recipe.yaml --then run other.yaml
python other_systems.py windows --plain                  its questions, answered through a pipe

"windows": no Unix-only modules, signals or functions, processes are spawned, and no file that is open can be replaced, renamed or removed.
"apple": no float64 on the device (every tensor counts as being there), no /proc.
"""

from __future__ import annotations

import builtins
import multiprocessing
import os
import pathlib
import shutil
import signal
import sys
from collections.abc import Callable
from itertools import takewhile
from typing import Any

UNIX_MODULES = ("termios", "fcntl", "resource", "pwd", "grp", "tty", "pty", "syslog", "curses", "readline")
UNIX_SIGNALS = ("SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGPIPE", "SIGWINCH")
UNIX_FUNCTIONS = ("fork", "forkpty", "sched_getaffinity")
# These have another half for Windows; the one they use here needs the Unix modules.
TWO_HALVES = {*sys.stdlib_module_names, "psutil", "platformdirs", "prompt_toolkit", "filelock", "huggingface_hub"} - {"__main__"}


def windows() -> None:
    multiprocessing.set_start_method("spawn")
    builtins.__import__ = without_unix_modules(builtins.__import__)
    for name in UNIX_SIGNALS:
        delattr(signal, name)
    for name in UNIX_FUNCTIONS:
        delattr(os, name)
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    for name in ("replace", "rename", "remove", "unlink", "rmdir"):
        setattr(os, name, refusing_open_files(getattr(os, name)))


def without_unix_modules(imports: Callable[..., Any]) -> Callable[..., Any]:
    def imported(name: str, globals: Any = None, *rest: Any, **options: Any) -> Any:
        if name in UNIX_MODULES and (globals or {}).get("__name__", "").partition(".")[0] not in TWO_HALVES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return imports(name, globals, *rest, **options)

    return imported


def refusing_open_files(change: Callable[..., Any]) -> Callable[..., Any]:
    """As on Windows, where a file that is open or mapped, or a folder with one, is in use."""

    def changed(*paths: Any, **options: Any) -> Any:
        if not options.get("dir_fd"):
            for path in map(os.fspath, paths):
                full = os.path.realpath(path)
                for held in open_files():
                    if held == full or held.startswith(f"{full}{os.sep}"):
                        raise PermissionError(13, "The process cannot access the file because it is being used by another process", path)
        return change(*paths, **options)

    return changed


def open_files() -> set[str]:
    """What this process has open or mapped, but for what is written to without locks: logs of this test and devices."""
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    found = {os.path.realpath(link) for link in links if os.path.lexists(link)}
    with builtins.open("/proc/self/maps", encoding="utf-8") as maps:
        found |= {line.split(None, 5)[5].strip() for line in maps if "/" in line}
    return {path for path in found if not path.endswith(".lock")}


def apple() -> None:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class NoFloat64(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = function(*args, **(kwargs or {}))
            for tensor in tree_leaves(found):
                if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64 and tensor.ndim:
                    raise TypeError(f"Cannot convert a MPS Tensor to float64 dtype: {function}")
            return found

    NoFloat64().__enter__()
    without_proc(pathlib.Path)


def without_proc(kind: Any) -> None:
    read, write = kind.read_text, kind.write_text

    def read_text(path: Any, *args: Any, **options: Any) -> Any:
        if str(path).startswith(("/proc", "/sys")):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return read(path, *args, **options)

    def write_text(path: Any, *args: Any, **options: Any) -> Any:
        if str(path).startswith(("/proc", "/sys")):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return write(path, *args, **options)

    kind.read_text, kind.write_text = read_text, write_text


if __name__ == "__main__":
    system, *arguments = sys.argv[1:]
    {"windows": windows, "apple": apple}[system]()
    if arguments == ["--plain"]:
        for stream in (sys.stdin, sys.stdout):
            stream.isatty = lambda: True  # type: ignore[method-assign]
    from finetune.cli import main

    code = 0
    while arguments and not code:
        command = list(takewhile(lambda word: word != "--then", arguments))
        arguments = arguments[len(command) + 1 :]
        code = main(command)
    sys.exit(code)
