"""The study behind DISTILLATION_UPDATE.md: each part compares ways to distil the starter model, and prints one table.

    python benchmarks/programme.py                                             # all parts; each takes minutes on two cores
    python benchmarks/programme.py --only generated
    python benchmarks/programme.py --only students --rows width --set dataset.samples=200

Each row of a table is a run in a process of its own. Results are kept in FOLDER/PART, and what is there is not run again: another
`--set` needs another folder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

PARTS = {  # a module has ROWS, their names; work(name, changes, folder), the result of one; show(found), the table
    "students": "programme_students",
    "self": "programme_self",
    "tokenizers": "programme_tokenizers",
    "generated": "programme_generated",
    "terms": "programme_terms",
    "policy": "programme_policy",
    "rounds": "programme_rounds",
    "routed": "programme_routed",
    "tasks": "programme_tasks",
    "defaults": "programme_defaults",
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--only", choices=list(PARTS), action="append", help="this part; may be given several times")
    arguments.add_argument("--rows", default="", help="rows whose name contains this")
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a recipe key of every row")
    arguments.add_argument("--folder", type=Path, default=Path("programme"), help="where results are kept")
    arguments.add_argument("--worker", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    for part in given.only or PARTS:
        module, folder = import_module(PARTS[part]), given.folder / part
        folder.mkdir(parents=True, exist_ok=True)
        if given.worker:
            place(folder, given.worker).write_text(json.dumps(module.work(given.worker, given.set, folder)))
            return
        print(f"\n{part}", flush=True)
        found = results(part, [name for name in module.ROWS if given.rows in name], folder, given.set)
        if found:
            module.show(found)


def results(part: str, names: list[str], folder: Path, changes: list[str]) -> dict[str, Any]:
    """The results of the rows that are there, or can be had."""
    options = [option for change in changes for option in ("--set", change)]
    for name in names:
        if not place(folder, name).is_file():
            command = [sys.executable, __file__, "--only", part, "--folder", str(folder.parent), *options, "--worker", name]
            if subprocess.run(command, check=False).returncode:
                print(f"{part}: {name} failed", file=sys.stderr)
    return {name: json.loads(place(folder, name).read_text()) for name in names if place(folder, name).is_file()}


def place(folder: Path, name: str) -> Path:
    return folder / f"{''.join(letter if letter.isalnum() else '-' for letter in name)}.json"


if __name__ == "__main__":
    main()
