"""How many of the tokens in a batch are padding: with rows ordered by length, as training has them, and in any order.

python benchmarks/padding.py                                  # the built-in rows
python benchmarks/padding.py rows.jsonl text.txt              # also those; packing rows can win at most the share that is padding

One epoch, without a model: the tokenizer and template of the starter. On a GPU a batch is as wide as its longest row.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable
from pathlib import Path

BATCHES = (4, 8, 16, 32)
BUILT_IN = "builtin:python-docs"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("files", nargs="*", metavar="FILE", help="rows to measure too")
    given = arguments.parse_args()
    from finetune import LLMFineTuner

    header = "".join(f" {batch} |" for batch in BATCHES)
    print(f"| rows | number | length: median, longest | order |{header}\n|---|---|---|---|{'---|' * len(BATCHES)}")
    for source in [BUILT_IN, *given.files]:
        tuner = LLMFineTuner({"dataset": {"source": source, "samples": None}})
        lengths = [len(row["input_ids"]) for row in tuner.prepare_data().train]
        facts = f"{len(lengths):,} | {statistics.median(lengths):.0f}, {max(lengths)}"
        for order in ("by length", "any"):
            shares = "".join(f" {padding(lengths, batch, order):.1%} |" for batch in BATCHES)
            print(f"| {Path(source).name} | {facts} | {order} |{shares}", flush=True)


def padding(lengths: list[int], batch: int, order: str) -> float:
    """The share of an epoch's tokens that is padding, in batches of so many rows."""
    import torch

    from finetune.training.resumable import GroupedByLength

    generator = torch.Generator().manual_seed(42)
    rows: Iterable[int] = torch.randperm(len(lengths), generator=generator).tolist()
    if order == "by length":
        rows = GroupedByLength(batch, lengths=lengths, generator=generator)
    taken = [lengths[row] for row in rows]
    each = [taken[start : start + batch] for start in range(0, len(taken), batch)]
    return 1 - sum(lengths) / sum(len(rows) * max(rows) for rows in each)


if __name__ == "__main__":
    main()
