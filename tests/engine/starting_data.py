"""The files that the starting recipes ask a person for, small: documents, answers of a support team, labelled texts, texts and their JSON.

    write_files(folder, 24)          # my_documents/, support.jsonl, labelled.csv, extracted.jsonl

Run by itself it writes them here, for `finetune-cli run` by hand: python tests/engine/starting_data.py 200
"""

from __future__ import annotations

import csv
import json
import sys
from itertools import product
from pathlib import Path

THINGS = ("lamp", "kettle", "chair", "radio", "scale", "fan", "printer", "clock", "heater", "mixer")
FAULTS = ("makes a noise", "does not start", "is broken", "smells of smoke", "is too hot", "came without a cable", "has a scratch")
PLACES = ("Oslo", "Graz", "Turin", "Leeds", "Porto")
KINDS = {"makes a noise": "repair", "does not start": "repair", "is broken": "replacement", "smells of smoke": "replacement"}
KINDS |= {"is too hot": "repair", "came without a cable": "shipping", "has a scratch": "discount"}


def write_files(folder: Path, rows: int) -> None:
    """Up to 350 rows in each file."""
    cases = list(product(PLACES, FAULTS, THINGS))[:rows]
    answers = [
        {
            "question": f"My {thing} {fault}. I bought it in {place}.",
            "answer": f"We are sorry that your {thing} {fault}. Please send it to our shop in {place}. It is a case of {KINDS[fault]}.",
        }
        for place, fault, thing in cases
    ]
    _lines(folder / "support.jsonl", answers)
    orders = [
        {
            "text": f"{number + 1} x {thing}, to {place}; the last one {fault}.",
            "json": json.dumps({"item": thing, "amount": number + 1, "city": place, "fault": fault}),
        }
        for number, (place, fault, thing) in enumerate(cases)
    ]
    _lines(folder / "extracted.jsonl", orders)
    with (folder / "labelled.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([f"The {thing} from {place} {fault}.", KINDS[fault]] for place, fault, thing in cases)
    (folder / "my_documents").mkdir()
    for place in PLACES:
        parts = [f"A {thing} that {fault} goes to the {KINDS[fault]} desk in {where}." for where, fault, thing in cases if where == place]
        (folder / "my_documents" / f"{place.lower()}.md").write_text(f"# {place}\n\n" + "\n\n".join(parts) + "\n", encoding="utf-8")


def _lines(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    write_files(Path(), int(sys.argv[1]))
