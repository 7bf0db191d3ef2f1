"""Damaged files of every kind, read as the program reads them: each must end in a sentence or a success, quickly and in little memory.

    python tests/engine/fuzz.py                          20,000 mutants of each light kind, 500 of each heavy one
    python tests/engine/fuzz.py gguf config --count 5000 --seed 7

Every kind is read in a process of its own, which may crash or hang: the mutant that did it is counted, and the next one goes on.
Prints how many mutants of each kind were read, refused and found faults with; exits with 1 if there were faults.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

SECONDS, BYTES = 5.0, 1_000_000_000  # of the processor and of memory, for one mutant
HANGS = 40.0  # seconds on the clock: other programs may use the processors too
HERE = Path(__file__).parent
FOLDERS = [str(folder) for folder in (HERE, HERE.parent, HERE.parent / "unit", HERE.parents[1])]
PROCESSES = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
PROCESSES.set_forkserver_preload(["datasets", "peft", "transformers.trainer"])  # once, instead of in the process of each kind


def fuzz(name: str, count: int, seed: int) -> tuple[int, int, list[str]]:
    """How many mutants were read, how many of them were refused with a sentence, and what went wrong with which."""
    refused, at, faults = 0, 0, []
    while at < count:
        with tempfile.TemporaryDirectory() as workplace:
            here, there = PROCESSES.Pipe(duplex=False)
            process = PROCESSES.Process(target=work, args=(name, workplace, at, count, seed, there), daemon=True)
            process.start()
            there.close()
            working: int | None = None
            while True:
                if not here.poll(HANGS if working is not None else 10 * HANGS):
                    process.kill()
                    faults.append(f"{name} {working}: hangs")
                    break
                try:
                    working, what, why = here.recv()
                except EOFError:
                    process.join()
                    if process.exitcode != 0:
                        faults.append(f"{name} {working}: the process died ({process.exitcode})")
                    break
                refused += what == "refused"
                if what == "fault":
                    faults.append(f"{name} {working}: {why}")
            process.join()
        if working is None or len(faults) > 50:
            faults.append(f"{name}: given up after mutant {working}")
            break
        at = working + 1
    return at, refused, faults


def work(name: str, workplace: str, first: int, count: int, seed: int, told: Connection) -> None:
    """Read mutants `first` to `count` and tell of each; what libraries print goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    sys.path[:0] = FOLDERS
    import warnings

    from fuzz_kinds import HEAVY, chosen, make
    from fuzz_mutants import mutant

    from finetune.errors import FinetuneError

    warnings.simplefilter("ignore")
    if name in HEAVY:
        import torch

        torch.set_num_threads(1)
    kind = make(name, Path(workplace))
    for file, (content, _) in kind.files.items():
        try:
            kind.read(file, content)  # imports and first uses are not the mutants' cost
        except FinetuneError as error:
            raise SystemExit(f"the valid {name} is refused: {error}") from error
    before = _peak()
    for number in range(first, count):
        numbers = random.Random(f"{seed} {name} {number}")
        file, content, damage = chosen(kind, numbers)
        content = mutant(content, numbers, damage)
        began = time.process_time()
        what, why = "read", ""
        told.send((number, "begins", ""))
        try:
            kind.read(file, content)
        except FinetuneError as error:
            what = "refused"
            if not error.message.strip() or "Traceback" in error.message or len(error.message) > 5000:
                what, why = "fault", f"no sentence: {error.message[:200]!r}"
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)
            ours = next((frame for frame in reversed(where) if "finetune/" in frame.filename and "tests" not in frame.filename), where[-1])
            what, why = "fault", f"{file}: {type(error).__name__}: {str(error)[:150]} ({Path(ours.filename).name}:{ours.lineno})"
            if isinstance(error, KeyboardInterrupt):
                raise
        seconds, grown = time.process_time() - began, _peak() - before
        if seconds > SECONDS:
            what, why = "fault", f"{file}: took {seconds:.1f} s {why}"
        if grown > BYTES:
            what, why, before = "fault", f"{file}: took {grown / 1e9:.1f} GB {why}", _peak()
        if what != "read":
            told.send((number, what, why))


def _peak() -> int:
    """The most memory that this process ever had, in bytes."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> int:
    sys.path[:0] = FOLDERS
    from fuzz_kinds import HEAVY, LIGHT

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", help=f"of {', '.join((*LIGHT, *HEAVY))}; all if none is named")
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    failed = False
    for name in arguments.kinds or (*LIGHT, *HEAVY):
        began = time.monotonic()
        read, refused, faults = fuzz(name, arguments.count or (20_000 if name in LIGHT else 500), arguments.seed)
        print(f"{name:12} {read:7,} mutants, {refused:7,} refused, {len(faults)} faults, {time.monotonic() - began:.0f} s", flush=True)
        for fault in faults[:20]:
            print(f"    {fault}", flush=True)
        failed = failed or bool(faults)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
