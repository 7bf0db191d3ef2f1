"""torch's launcher with our workers: `python -m finetune.engines.agent WORKPLACE OPTIONS`, these as torchrun calls them, in JSON.

It starts the workers, ends the others when one of them ends, and notes how each ended in events-launcher.jsonl. Workers of one machine meet
at a port that only this machine reaches.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import rendezvous_handler_registry
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous
from torch.distributed.run import parse_args, run

from finetune.engines.workplace import Lines, Workplace
from finetune.system.children import python_command

HERE, MEET, ADDRESS = "here", 600, "127.0.0.1"  # a name in torch's registry; seconds


class OnThisMachine(StaticTCPRendezvous):
    """torchrun's own, where it is told that it stands alone, listens to the whole network, and unpickles what anybody writes there."""

    def get_backend(self) -> str:
        return HERE

    def next_rendezvous(self) -> Any:
        if self._store is None:
            with socket.socket() as bound:
                bound.bind((ADDRESS, 0))
                self.master_port = bound.getsockname()[1]
                self._store = TCPStore(ADDRESS, self.master_port, 1, True, self.timeout, multi_tenant=True, master_listen_fd=bound.detach())
        return super().next_rendezvous()


def main(folder: str, told: str) -> int:
    rendezvous_handler_registry.register(HERE, lambda asked: OnThisMachine(ADDRESS, 0, 0, 1, asked.run_id, MEET))
    options = {**json.loads(told), "monitor_interval": 0.1, "no_python": True}
    if options["rdzv_backend"] == HERE and sys.platform == "linux":  # else they listen where the name of this machine leads
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    flags = [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items() if value is not False]
    places = Workplace(Path(folder))
    worker, *arguments = python_command("finetune.engines.worker", folder)
    os.chdir(places.folder if places.folder.is_dir() else "/")  # a folder without modules, where the workers start
    try:
        run(parse_args([*flags, worker, *arguments]))
    except ChildFailedError as error:
        said = Lines(places.events("launcher"), everything=True)
        for rank, failure in error.failures.items():
            said.say("ended", "process", rank=rank, code=failure.exitcode)
        return 1
    except SignalException as error:  # of which the parent hears by how this process ends
        signal.signal(error.sigval, signal.SIG_DFL)
        os.kill(os.getpid(), error.sigval)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
