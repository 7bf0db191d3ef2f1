"""The tables of docs/numbers.md from the lines that gpu.py has told.

python benchmarks/gpu_tables.py gpu.jsonl         # as far as it came
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Line = Mapping[str, Any]


def tables(told: Iterable[Line]) -> str:
    """Of training, and of the loss alone by vocabulary and by size of a chunk; those that have lines."""
    lines = [line for line in told if "failed" not in line]
    made = (_training(lines), _pivot(lines, "loss", "the loss alone"), _pivot(lines, "chunks", "chunks of the loss"))
    return "\n".join(f"\n{table}" for table in made if table)


def _training(lines: Sequence[Line]) -> str:
    columns = {"tokens_per_s": "tokens/s", "GiB": "peak GiB", "planned_GiB": "planned", "of_the_products'_rate": "of the products' rate"}
    rows = [
        [line["what"], *(_shown(line.get(name)) for name in columns)] for line in lines if line["section"] == "training" and "GiB" in line
    ]
    return _table(["training", *columns.values()], rows)


def _pivot(lines: Sequence[Line], section: str, title: str) -> str:
    """A row for each vocabulary, a column for each way: milliseconds and MiB with a frozen head / with one that trains."""
    cells: dict[str, dict[str, list[Line]]] = {}
    ways: list[str] = []
    for line in lines:
        if line["section"] == section and "ms" in line:
            of, _, way = line["what"].rpartition(": ")
            cells.setdefault(of.partition(" tokens")[0], {}).setdefault(way, []).append(line)
            ways += [way] if way not in ways else []
    rows = [[vocabulary, *(_cell(found.get(way, [])) for way in ways)] for vocabulary, found in cells.items()]
    return _table([f"{title}; frozen / trains", *ways], rows)


def _cell(lines: Sequence[Line]) -> str:
    heads = {"trains" if "head trains" in line["what"] else "frozen": line for line in lines}
    each = [" / ".join(_shown(heads[head][name]) if head in heads else "-" for head in ("frozen", "trains")) for name in ("ms", "MiB")]
    return f"{each[0]} ms, {each[1]} MiB" if lines else ""


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)) if rows else ""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("file", type=Path, metavar="FILE", help="what gpu.py has written, as far as it came")
    print(tables(json.loads(line) for line in arguments.parse_args().file.read_text().splitlines()))


if __name__ == "__main__":
    main()
