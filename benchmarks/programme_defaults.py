"""What a person gets who presses Enter: the default fine-tuning, then the default distillation with that expert as its teacher.

Both are runs of the command, in folders of their own. Printed: scores on the 45 held-out rows that both hold out, what the student keeps
of the expert's ROUGE-L, and three answers of each.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROWS = ("expert", "student")
SHOWN = {"kl": "KL to the teacher", "agreement": "same most likely token", "perplexity": "perplexity", "rougeL": "ROUGE-L"}
ANSWERS, WIDE = 3, 100  # shown, and characters of each
COMMAND = Path(__file__).parents[1] / "finetune_cli.py"


def work(name: str, changes: list[str], folder: Path) -> dict[str, Any]:
    """One run of the command: how long it took, and its scores."""
    settings = [f"output_dir={(folder / name).resolve()}", *changes]
    if name == "student":
        settings += ["approach=distillation", f"teacher={(folder / 'expert').resolve()}"]
    options = [option for setting in settings for option in ("--set", setting)]
    began = time.perf_counter()
    subprocess.run([sys.executable, str(COMMAND), "--yes", *options], check=True)
    return {"seconds": time.perf_counter() - began, **json.loads((folder / name / "run/benchmark.json").read_text())}


def show(found: dict[str, Any]) -> None:
    """The tables."""
    for name, scores in found.items():
        sides = [side for side in ("teacher", "before", "after") if scores[side]]
        print(f"{name}, {scores['seconds'] / 60:.0f} minutes\n\n| | {' | '.join(sides)} |\n|---|{'---|' * len(sides)}")
        for key, title in SHOWN.items():
            if key in scores["after"]:
                print(f"| {title} | {' | '.join(_cell(scores, side, key) for side in sides)} |")
        if kept := (scores["retention"] or {}).get("rougeL"):
            print(f"\nKept of the teacher's ROUGE-L: {kept['value']:.0%} [{kept['low']:.0%}, {kept['high']:.0%}].")
        print()
        for row in scores["generations"][:ANSWERS]:
            told = {"data": row["reference"], **{side: row[side] for side in sides if side in row}}
            print("\n".join(f"{who:>8}: {' '.join(text.split())[:WIDE]}" for who, text in told.items()), end="\n\n")


def _cell(scores: dict[str, Any], side: str, key: str) -> str:
    if key not in scores[side]:
        return ""
    low, high = scores["intervals"][side].get(key, (None, None))
    return f"{scores[side][key]:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None else "")
