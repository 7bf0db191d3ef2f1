"""The walk of a person with a file of their own: the wizard on a real terminal, a shop's support.csv, and Enter all the way.

    pip install -e .[test]
    python benchmarks/walk.py                 # fine-tune on 200 rows
    python benchmarks/walk.py --distil        # then make a smaller model of the result, on its own data

Printed: the questions that were asked, the seconds of the whole walk, and the scores that the run wrote down.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path

import support

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "terminal"))
from screen import DOWN, ENTER, Terminal

ROWS = 200
LONGEST = 1800.0  # seconds
QUESTION = re.compile(r"^\? (.+?)(?:  |$)", re.MULTILINE)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--distil", action="store_true", help="then distil the result")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        support.write(place / "support.csv", ROWS)
        told(place / "finetuned_model", walk(place, {"Dataset": [DOWN]}))
        if given.distil:
            told(place / "distilled_model", walk(place, {"What would": [DOWN], "Teacher": [DOWN]}))


def walk(place: Path, keys: dict[str, list[str]]) -> float:
    """Enter at every question, after the `keys` for some; the seconds from the start to the last question."""
    began, answered = time.perf_counter(), ""
    with Terminal(folder=place, rows=50) as terminal:
        while time.perf_counter() - began < LONGEST:
            alive = terminal.read(0.3)
            asked = QUESTION.findall(terminal.text())
            if asked and asked[-1] != answered:
                answered = asked[-1]
                print(f"{time.perf_counter() - began:6.0f} s  {answered}", flush=True)
                terminal.press(*next((extra for words, extra in keys.items() if answered.startswith(words)), []), ENTER)
            if not alive:
                print("\n".join(terminal.lines()))
                return time.perf_counter() - began
    sys.exit(f"not done after {LONGEST:.0f} seconds")


def told(model: Path, seconds: float) -> None:
    """What the run wrote down."""
    scores = json.loads((model / "run" / "benchmark.json").read_text(encoding="utf-8"))
    print(
        f"{model.name}: {seconds:.0f} s; ROUGE-L {scores['before']['rougeL']:.3f} -> {scores['after']['rougeL']:.3f} on {scores['rows']} rows"
    )
    if scores.get("retention"):
        print(f"keeps {scores['retention']['rougeL']['value']:.0%} of its teacher")


if __name__ == "__main__":
    main()
