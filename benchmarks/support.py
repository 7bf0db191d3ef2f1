"""A file as a small shop has it: support.csv, semicolons, Windows-1252, line breaks in cells, one answer for each kind of question.

    python benchmarks/support.py 200 support.csv

The rows are made up. What must be learned is the shop's way of answering, and to copy the order's number from the question.
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path

NAMES = ("Ada", "Ben", "Chloé", "Dörte", "Émile", "Frank", "Gül", "Håkon", "Ines", "Jürgen", "Kim", "Léa", "Mária", "Nils", "Olga", "Pía")
THINGS = ("kettle", "lamp", "rucksack", "desk chair", "headset", "coffee grinder", "bicycle bell", "raincoat", "keyboard", "tent")
# How a customer may ask, and what the shop answers: {name}, {thing}, {number} of the order, {price} in euros.
TOPICS = {
    "late": (
        ("Where is my {thing}?\nOrder {number} has not arrived yet.", "Hello,\nI am still waiting for order {number}, a {thing}."),
        "Dear {name}, I am sorry for the wait. Order {number} has left our warehouse and arrives within 3 working days.",
    ),
    "broken": (
        ("My {thing} is broken.\nIt came with order {number}.", "The {thing} from order {number} stopped working after a day."),
        "Dear {name}, I am sorry that your {thing} is broken. We send you a new one today; keep order number {number} for the return.",
    ),
    "refund": (
        ("I sent the {thing} back.\nWhen do I get my {price} € for order {number}?", "Refund for order {number}, please: {price} €."),
        "Dear {name}, your {price} € for order {number} will be on your account within 5 working days.",
    ),
    "address": (
        ("I have moved!\nPlease send order {number} to my new address.", "Can you change the address of order {number}?"),
        "Dear {name}, please change the address of order {number} under My Orders before we send it.",
    ),
    "cancel": (
        ("I want to cancel order {number}.", "Please stop order {number},\nI do not need the {thing} any more."),
        "Dear {name}, order {number} is cancelled. You will not be charged for the {thing}.",
    ),
    "invoice": (
        ("Can I have an invoice for the {thing}?\nOrder {number}.", "I need the invoice of order {number} for my company."),
        "Dear {name}, you can download the invoice for order {number} under My Orders.",
    ),
}


def rows(count: int, *, seed: int = 0) -> list[dict[str, str]]:
    """`count` questions and answers."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        asked, answer = TOPICS[draw.choice(list(TOPICS))]
        words = {
            "name": draw.choice(NAMES),
            "thing": draw.choice(THINGS),
            "number": draw.randint(10_000, 99_999),
            "price": f"{draw.randint(5, 200)},{draw.randint(0, 9)}0",
        }
        made.append({"question": f"{draw.choice(asked)}\n{words['name']}".format(**words), "answer": answer.format(**words)})
    return made


def write(path: Path, count: int) -> None:
    """The rows as such a file."""
    with path.open("w", encoding="cp1252", newline="") as file:
        table = csv.DictWriter(file, ["question", "answer"], delimiter=";")
        table.writeheader()
        table.writerows(rows(count))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("rows", type=int, metavar="ROWS", help="how many")
    arguments.add_argument("file", type=Path, metavar="FILE", help="where they are written")
    given = arguments.parse_args()
    write(given.file, given.rows)


if __name__ == "__main__":
    main()
