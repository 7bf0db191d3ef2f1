"""Draw docs/imports.svg: the folders and loose files of finetune/, and which of them imports which, read from the source.

    python docs/picture.py          # writes it again; a test fails while it is out of date

Everything stands below whatever imports it. An arrow from A to C is left out where arrows lead from A through others to C. An import
against the layers in pyproject.toml is not drawn: tests/unit/test_imports.py refuses it.
"""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
WIDE, HIGH, GAP, STEP, SWEEPS = 150, 30, 28, 62, 24  # of a box; between boxes; from row to row; to sort each row by its neighbours
Arrows = set[tuple[str, str]]


def imports() -> Arrows:
    """Every (room, imported room): a room is a folder or a file directly in finetune/. Imports for types and inside functions count."""
    found = set()
    for path in (ROOT / "finetune").rglob("*.py"):
        here = path.relative_to(ROOT / "finetune").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
                modules = [start + alias.name for alias in node.names]
                found |= {(here, module.split(".")[1]) for module in modules if module.startswith("finetune.")}
    rooms = {path.stem for path in (ROOT / "finetune").iterdir() if path.stem[0] != "_"}
    return {(one, other) for one, other in found if one != other and {one, other} <= rooms}


def layers() -> dict[str, int]:
    """The order that import-linter enforces; 0 is the top."""
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    return {name: number for number, line in enumerate(lines) if line.startswith('  "') for name in re.findall(r"finetune\.(\w+)", line)}


def reduced(arrows: Arrows) -> Arrows:
    """Without those that follow from others."""
    follows: Arrows = set()
    for _ in layers():  # no way is longer
        follows |= {(one, last) for one, middle in arrows for first, last in arrows | follows if middle == first}
    return arrows - follows


def rows(arrows: Arrows) -> dict[str, int]:
    """The longest way from the top to each room."""
    depth = dict.fromkeys(sorted({name for arrow in arrows for name in arrow}), 0)
    for _ in depth:
        depth |= {below: max(depth[above] + 1 for above, other in arrows if other == below) for _, below in arrows}
    return depth


def arranged(row_of: dict[str, int], paths: list[list[str]]) -> dict[str, float]:
    """The middle of everything: in each row, sorted by the average of what it is tied to in the rows above and below."""
    ties = {name: [tie for path in paths for pair in pairwise(path) if name in pair for tie in pair if tie != name] for name in row_of}
    x = {name: float(number) for number, name in enumerate(row_of)}
    for sweep in range(SWEEPS):
        for row in sorted(set(row_of.values()), reverse=bool(sweep % 2)):
            names = [name for name in row_of if row_of[name] == row]
            names.sort(key=lambda name: (sum(x[tie] for tie in ties[name]) / len(ties[name]), name))
            widths = [GAP + (0 if ">" in name else WIDE) for name in names]
            x |= {name: sum(widths[:at]) + (widths[at] - sum(widths)) / 2 for at, name in enumerate(names)}
    return x


def svg() -> str:
    """The picture as text: the same for the same imports."""
    order = layers()
    arrows = {(one, other) for one, other in imports() if order.get(one, -1) < order.get(other, len(order))}
    rooms = rows(arrows)
    bends = {(a, b): {f"{a}>{b}>{row}": row for row in range(rooms[a] + 1, rooms[b])} for a, b in sorted(reduced(arrows))}
    paths = [[one, *between, other] for (one, other), between in bends.items()]  # a bend in every row between two rooms
    row_of = rooms | {bend: row for between in bends.values() for bend, row in between.items()}
    x, y = arranged(row_of, paths), {name: row * STEP + GAP for name, row in row_of.items()}
    left, width, bottom = min(x.values()) - WIDE, max(x.values()) - min(x.values()) + 2 * WIDE, max(y.values()) + HIGH + GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left:.0f} 0 {width:.0f} {bottom}" font-family="sans-serif" font-size="14">',
        f'<rect x="{left:.0f}" width="{width:.0f}" height="{bottom}" fill="#fff"/><marker id="tip" refX="7" refY="4" markerWidth="8"',
        'markerHeight="8" orient="auto"><path d="M0 1L7 4L0 7z"/></marker>',
    ]
    for path in paths:
        way = f"M{x[path[0]]:.0f} {y[path[0]] + HIGH}"
        for above, below in pairwise(path):
            half = (y[above] + HIGH + y[below]) // 2
            way += f" C{x[above]:.0f} {half} {x[below]:.0f} {half} {x[below]:.0f} {y[below]}" + f" v{HIGH}" * (">" in below)
        lines.append(f'<path d="{way}" fill="none" stroke="#57606a" marker-end="url(#tip)"/>')
    for name in rooms:
        fill, ending = ("#ddf4ff", "/") if (ROOT / "finetune" / name).is_dir() else ("#f6f8fa", ".py")
        box = f'x="{x[name] - WIDE / 2:.0f}" y="{y[name]}" width="{WIDE}" height="{HIGH}" rx="6" fill="{fill}" stroke="#57606a"'
        lines.append(f'<rect {box}/><text x="{x[name]:.0f}" y="{y[name] + 20}" text-anchor="middle">{name}{ending}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "imports.svg").write_text(svg(), encoding="utf-8")
