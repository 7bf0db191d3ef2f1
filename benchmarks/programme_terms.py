"""The study behind DISTILLATION_UPDATE.md: inner layers and relations against none, for a student of half the starter's layers.

    python benchmarks/programme_terms.py                    # one table, ten minutes on two cores
    python benchmarks/programme_terms.py --only last        # rows of the table whose name contains this
    python benchmarks/programme_terms.py --set dataset.samples=450

Each row is a run of LLMFineTuner in a process of its own, from an empty teacher cache: 15 of 30 layers, equal rows, equal steps, and
scores on the same held-out rows as in benchmarks/programme.py. Seconds are those of asking the teacher and training: a term that needs the
teacher at every step shows it there.
"""

from __future__ import annotations

import argparse
import json
import sys

import contest
import programme

BASE = ["model={from_teacher: {layers: 15}}", "training.learning_rate=5e-4", "dataset.samples=120", "dataset.held_out=0.25"]
TERMS = {
    "none": [],
    "last states, 0.1": ["distillation.features={last: 0.1}"],
    "inner layers": ["distillation.features={layers: auto}"],
    "relations of v": ["distillation.features={relations: [v]}"],
    "all three": ["distillation.features={last: 0.1, layers: auto, relations: [v]}"],
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--only", help="rows whose name contains this")
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a recipe key of every row")
    arguments.add_argument("--worker", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.worker:
        print(contest.MARK + json.dumps(programme.work([*BASE, *given.set, *TERMS[given.worker]])))
        return
    names = [name for name in TERMS if name == given.only] or [name for name in TERMS if not given.only or given.only in name]
    found = contest.interleave(__file__, names, 1, sys.argv[1:])
    print(f"| {'':<24} | seconds | KL before | KL after             | same first choice      | perplexity |")
    print(f"|{'-' * 26}|{'-' * 9}|{'-' * 11}|{'-' * 22}|{'-' * 24}|{'-' * 12}|")
    for name, (result, *_) in ((name, results) for name, results in found.items() if results):
        after = result["after"]
        kl, same = "{:.3f} [{:.3f}, {:.3f}]".format(*after["kl"]), "{:.1%} [{:.1%}, {:.1%}]".format(*after["agreement"])
        print(
            f"| {name:<24} | {result['seconds']:>7.0f} | {result['before']['kl'][0]:>9.2f} | {kl:<20} | {same:<22} |"
            f" {after['perplexity'][0]:>10.1f} |"
        )


if __name__ == "__main__":
    main()
