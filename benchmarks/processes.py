"""Two processes against one, for every method and every way to learn from a teacher; then two nodes by the command line.

python benchmarks/processes.py               # pico models, two minutes; exit code 1 where losses, weights or scores differ
python benchmarks/processes.py qlora full    # only these
python benchmarks/processes.py --shard lora full     # the two have half of the weights each
python benchmarks/processes.py starter       # the starter model by the command line, some ten minutes on two cores
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "engine"))

if TYPE_CHECKING:
    from workshop import Workshop

ROOT = Path(__file__).parents[1]
WHOLE = ("qlora", "adalora", "few bits", "its own teacher")  # refuse to be cut
STARTER, NODES = "starter", "two nodes"
ROUNDED = 1e-5  # sums over 139 M weights in another order: float32 has seven digits, and Adam makes whole steps of small gradients
STARTER_RUN = {
    "dataset": {"source": "builtin:python-docs", "samples": 60, "max_length": 256},
    "method": {"kind": "lora", "dropout": 0.0},
    "training": {"epochs": 1, "batch_size": 8, "learning_rate": 3e-4},
    "benchmark": {"rows": 6, "max_new_tokens": 32, "speed": False},
}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument(
        "runs", nargs="*", metavar="RUN", help=f"only these: a method, a way to learn from a teacher, {NODES!r} or {STARTER!r}"
    )
    arguments.add_argument("--shard", action="store_true", help="of two processes each has half of the weights")
    given = arguments.parse_args()
    from forks import Forks
    from several_processes import CASES, TOLERANCE, compare, layer_of
    from workshop import Workshop

    failed, shard = 0, "yes" if given.shard else "no"
    print(
        "| run | steps | largest difference of a loss, as a share of it | of a weight | of a score | seconds |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        forks = Forks()
        shop = Workshop(Path(folder))
        for name in given.runs or ([name for name in CASES if name not in WHOLE] if shard == "yes" else [*CASES, NODES]):
            began = time.perf_counter()
            if name == STARTER:
                layers = [{"output_dir": f"{folder}/starter-{number}", **STARTER_RUN} for number in (1, 2)]
                for number, layer in enumerate(layers, 1):
                    command(shop, layer, "--nproc", str(number), "--shard", shard if number > 1 else "no")
            else:
                layers = [layer_of(shop, name if name in CASES else "lora") for _ in range(2)]
                job = {"cache": str(shop.runtime.cache_dir), "log": f"{folder}/log.txt", "scored": True}
                for number, layer in enumerate(layers[: 1 if name == NODES else 2], 1):
                    if forks.run({**job, "layer": layer, "processes": number, "shard": shard if number > 1 else "no"}):
                        sys.exit(f"{name} failed: {Path(folder, 'log.txt').read_text()[-500:]}")
                if name == NODES:
                    two_nodes(shop, layers[1])
            found = compare(*layers)
            failed |= max(found.loss, found.weight, found.score or 0.0) > (ROUNDED if name == STARTER else TOLERANCE)
            shown = f"{found.loss:.0e} | {found.weight:.0e} | {found.score:.0e}"
            print(f"| {name} | {found.steps} | {shown} | {time.perf_counter() - began:.1f} |", flush=True)
    return failed


def command(shop: Workshop, layer: dict[str, Any], *options: str) -> None:
    """The run of a layer by the command line, with the cache of this user, where the starter is."""
    recipe = shop.folder / "recipe.yaml"
    recipe.write_text(shop.tuner(layer).recipe.to_yaml())
    words = [sys.executable, str(ROOT / "finetune_cli.py"), "run", str(recipe), "--device", "cpu", "--dtype", "float32", *options]
    from forks import paths

    environment = {**os.environ, "PYTHONPATH": paths(ROOT)}
    subprocess.run(words, env=environment, cwd=shop.folder, stdout=subprocess.DEVNULL, check=True)


def two_nodes(shop: Workshop, layer: dict[str, Any]) -> None:
    """The run of a layer by two nodes on this machine, with a process on each."""
    from forks import paths

    recipe = shop.folder / "recipe.yaml"
    recipe.write_text(shop.tuner(layer).recipe.to_yaml())
    environment = {**os.environ, "PYTHONPATH": paths(ROOT), "FINETUNE_CLI_CACHE": str(shop.runtime.cache_dir), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(ROOT / "finetune_cli.py"), "run", str(recipe), "--device", "cpu", "--dtype", "float32"]
    words += ["--nproc", "1", "--nodes", "2", "--rdzv", "127.0.0.1:29731", "--node-rank"]
    nodes = [subprocess.Popen([*words, rank], env=environment, cwd=shop.folder, stdout=subprocess.DEVNULL) for rank in "01"]
    assert [node.wait(300) for node in nodes] == [0, 0]


if __name__ == "__main__":
    sys.exit(main())
