"""torch's launcher with our workers: `python -m finetune.engines.agent WORKPLACE OPTIONS`, these as torchrun calls them, in JSON.

It starts the workers, ends the others when one of them ends, and notes how each ended in events-launcher.jsonl.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from finetune.engines.workplace import Lines, Workplace
from finetune.system.children import python_command


def main(folder: str, told: str) -> int:
    options = {**json.loads(told), "monitor_interval": 0.1, "no_python": True}
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
