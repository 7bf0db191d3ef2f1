"""The program without the seconds that importing torch and transformers takes: forked from a process that has imported them.

    program, terminal = warm.on_terminal(["run", "recipe.yaml"], folder, environment, rows=40, columns=80)
    done = warm.run(["plan", "recipe.yaml", "--json"], folder, environment)                              # as subprocess.run
    done = warm.run(["-c", "print(1)"], folder, environment)                                             # lines instead of the program

For each set of variables that libraries read when they are imported there is one such process; its HF_HOME is a link to that of who asks.
What is about starting needs a new interpreter (`fresh`); tests/e2e begins with one too. Run as a program, this file is the process that
forks; it imports what WARM_WITH names, too. What it forked goes on at the end of the file, and ends as any Python program does.
"""

from __future__ import annotations

import array
import atexit
import fcntl
import gc
import importlib
import io
import json
import os
import pkgutil
import pty
import runpy
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import psutil

ROOT = Path(__file__).parents[1]
PROGRAM = str(ROOT / "finetune_cli.py")
READ_LATER = ("HF_TOKEN", "HF_HOME")  # by name only, or through the link
READ_BY_IMPORTS = ("HF_", "HUGGING", "TRANSFORMERS_", "TORCH", "OMP_", "GOMP_", "KMP_", "MKL_", "PYTHON", "LC_", "LANG", "TOKENIZERS_")
READ_BY_IMPORTS += ("WARM_",)
BESIDE_OURS = ["peft", "datasets", "evaluate", "rouge_score.rouge_scorer", "transformers.models.llama.modeling_llama"]
FORKS = sys.platform == "linux"  # elsewhere libraries do not survive it


def on_terminal(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], *, rows: int, columns: int, fresh: bool = False
) -> tuple[Any, int]:
    """The program on a pseudo-terminal of its own, and the descriptor of its other end."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    try:
        return start(arguments, folder, environment, its, its, its, fresh=fresh, terminal=True), ours
    finally:
        os.close(its)


def run(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], *, typed: bytes = b"", timeout: float = 240, fresh: bool = False
) -> subprocess.CompletedProcess[str]:
    """The program with files for input and output, until it ends; raises subprocess.TimeoutExpired."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        given.write(typed)
        given.seek(0)
        process = start(arguments, folder, environment, given.fileno(), out.fileno(), errors.fileno(), fresh=fresh)
        code = process.wait(timeout)
        texts = [_text(file) for file in (out, errors)]
    return subprocess.CompletedProcess(arguments, code, *texts)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def start(
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    *descriptors: int,
    fresh: bool = False,
    terminal: bool = False,
) -> Any:
    """The program with these descriptors as stdin, stdout and stderr: a Popen, or what behaves as one."""
    if fresh or not FORKS:
        take = _take_terminal if terminal else None
        streams = dict(zip(("stdin", "stdout", "stderr"), descriptors, strict=True))
        command = [sys.executable, *([] if arguments[:1] == ["-c"] else [PROGRAM]), *arguments]
        return subprocess.Popen(command, cwd=folder, env=dict(environment), start_new_session=True, preexec_fn=take, **streams)
    server = Server.of(environment)
    given = dict(environment) | ({"HF_HOME": server.home(environment["HF_HOME"])} if "HF_HOME" in environment else {})
    job = {"arguments": list(arguments), "folder": str(folder), "environment": given, "terminal": terminal}
    return Forked(server, job, descriptors)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Server:
    """The process that has imported everything; one for each set of variables that imports read."""

    _known: dict[str, Server] = {}

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Server:
        read = {name: value for name, value in environment.items() if name.startswith(READ_BY_IMPORTS) and name not in READ_LATER}
        key = json.dumps([sorted(read.items()), "HF_HOME" in environment])
        if key not in cls._known:
            cls._known[key] = cls(environment)
        return cls._known[key]

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.socket, its = socket.socketpair()
        self.link = Path(tempfile.mkdtemp()) / "home"
        home = {"HF_HOME": str(self.link)} if "HF_HOME" in environment else {}
        command = [sys.executable, __file__, str(its.fileno())]
        alone: dict[str, Any] = {"stdin": subprocess.DEVNULL, "pass_fds": [its.fileno()], "start_new_session": True}
        subprocess.Popen(command, cwd=ROOT, env={**environment, **home}, **alone)
        its.close()  # which ends it with us
        assert self.ask({"ready": True}) == 1

    def home(self, folder: str) -> str:
        """Let the link that the imports have read lead to this folder, for what is started from now on."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        next_link = self.link.with_name("next")
        next_link.symlink_to(Path(folder).resolve())
        next_link.replace(self.link)
        return str(self.link)

    def ask(self, question: dict[str, Any], descriptors: Sequence[int] = ()) -> int:
        said = json.dumps(question).encode()
        sent = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self.socket.sendmsg([struct.pack("I", len(said))], sent)
        self.socket.sendall(said)
        return int(struct.unpack("i", self.socket.recv(4, socket.MSG_WAITALL))[0])


class Forked:
    """A program that a Server forked. It is not reaped before `wait`, so its number belongs to it until then."""

    def __init__(self, server: Server, job: dict[str, Any], descriptors: Sequence[int]) -> None:
        self.server, self.returncode, self.pid = server, None, server.ask(job, descriptors)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        if self.returncode is None and psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE:
            self.returncode = self.server.ask({"reap": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        until = time.monotonic() + (timeout or float("inf"))
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(PROGRAM, timeout or 0)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode


def serve(channel: socket.socket) -> list[str]:
    """Answer until the other end is gone; returns in a forked process only, with the arguments of its program."""
    while head := channel.recv(4, socket.MSG_PEEK):
        assert len(head) == 4
        _, sent, _, _ = received = channel.recvmsg(4, socket.CMSG_SPACE(3 * 4))
        job = json.loads(channel.recv(struct.unpack("I", received[0])[0], socket.MSG_WAITALL))
        answer = 1
        if "reap" in job:
            answer = os.waitstatus_to_exitcode(os.waitpid(job["reap"], 0)[1])
        elif "arguments" in job:
            descriptors = array.array("i", sent[0][2])
            answer = os.fork()
            if answer == 0:
                channel.close()
                if "triton" in sys.modules:  # whose bindings print at the end what is still frozen and never freed
                    atexit.register(gc.unfreeze)
                become(job, list(descriptors))
                return list(job["arguments"])
            for descriptor in descriptors:
                os.close(descriptor)
        channel.sendall(struct.pack("i", answer))
    os._exit(0)


def become(job: dict[str, Any], descriptors: list[int]) -> None:
    """This process as that of the job: its session, terminal, streams, folder and environment."""
    os.setsid()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    for descriptor in descriptors:
        os.close(descriptor)
    if job["terminal"]:
        _take_terminal()
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    sys.argv = [PROGRAM, *job["arguments"]]
    sys.orig_argv[:] = [sys.executable, *sys.argv]
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, name)
        raw = io.FileIO(number, "w" if number else "r", closefd=False)
        buffered = io.BufferedWriter(raw) if number else io.BufferedReader(raw)
        words: dict[str, Any] = {"encoding": old.encoding, "errors": old.errors, "line_buffering": number == 2 or os.isatty(number)}
        new = io.TextIOWrapper(buffered, **words, write_through=bool(number and os.environ.get("PYTHONUNBUFFERED")))
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


def import_everything() -> None:
    from finetune.system.library_warnings import hush

    hush()
    import finetune

    ours = (found.name for found in pkgutil.walk_packages(finetune.__path__, "finetune."))
    for module in [*ours, *BESIDE_OURS, *os.environ.get("WARM_WITH", "").split()]:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:  # of an extra, which need not be installed
            if (error.name or "").startswith("finetune"):
                raise
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    del sys.path[0]  # this folder
    import_everything()
    given = serve(socket.socket(fileno=int(sys.argv[1])))
    if given[:1] == ["-c"]:
        sys.path.insert(0, "")
        sys.argv = ["-c", *given[2:]]
        exec(compile(given[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_path(PROGRAM, run_name="__main__")
