"""Does lm-evaluation-harness find what we find? The same multiple-choice rows by its wrapper and by the code of our perplexity.

    python benchmarks/harness.py                     # the starter model, 40 functions with four docstrings each: a minute
    python benchmarks/harness.py --model MODEL --count 200

Prints the largest difference of a log-likelihood, in nats, and the scores of both. Needs the extra `eval`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from finetune.benchmark.harness import load_tasks
from finetune.benchmark.perplexity import answer_losses
from finetune.data.builtin import python_docs
from finetune.data.tokens.labels import NO_LOSS
from finetune.events import Recorder
from finetune.hardware.machine import inspect
from finetune.models.load import load_model, load_tokenizer
from finetune.models.location import locate
from finetune.recipe import STARTER
from finetune.runtime import RuntimeOptions

CHOICES = 4


def questions(count: int) -> list[dict[str, Any]]:
    """A function each; the choices are its docstring and those of the next ones."""
    rows = list(islice(python_docs(), count + CHOICES))
    return [
        {
            "question": f"{row['instruction']}\n\n{row['input']}\n\n",
            "choices": [rows[number + (place - number) % CHOICES]["output"] for place in range(CHOICES)],
            "answer": number % CHOICES,
        }
        for number, row in enumerate(rows[:count])
    ]


def task_file(rows: list[dict[str, Any]], folder: Path) -> Path:
    data, file = folder / "docs.jsonl", folder / "docs.yaml"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shown = {"doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}", "doc_to_target": "{{answer}}", "target_delimiter": ""}
    source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
    scored = {"output_type": "multiple_choice", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]}
    file.write_text(yaml.safe_dump({"task": "docs", **source, **scored, **shown}), encoding="utf-8")
    return file


def ours(model: Any, tokenizer: Any, row: dict[str, Any]) -> list[float]:
    """The log-likelihood of each choice behind the question, in nats."""
    asked = len(tokenizer(row["question"].rstrip())["input_ids"])
    blanks = row["question"][len(row["question"].rstrip()) :]  # they belong to the choice, as lm_eval has it
    whole = [tokenizer(row["question"].rstrip() + blanks + choice)["input_ids"] for choice in row["choices"]]
    labelled = [{"input_ids": ids, "labels": [NO_LOSS] * asked + ids[asked:]} for ids in whole]
    return [-loss for loss in answer_losses(model, labelled, reporter=Recorder(), stage="ours").sums]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=STARTER)
    parser.add_argument("--count", type=int, default=40)
    given = parser.parse_args()
    from lm_eval import evaluator

    from finetune.benchmark import harness_model

    runtime = RuntimeOptions(dtype="float32")
    located = locate(given.model, runtime, Recorder())
    model, tokenizer, rows = load_model(located, inspect(runtime)), load_tokenizer(located), questions(given.count)
    kept: dict[str, Any] = {}
    harness_model.evaluate = lambda *told, **options: kept.setdefault("found", evaluator.evaluate(*told, **options))  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        tasks = load_tasks((str(task_file(rows, Path(folder))),))
        theirs = harness_model.measure_tasks(tasks, model, tokenizer, limit=None, reporter=Recorder(), stage="theirs")
    each = [ours(model, tokenizer, row) for row in rows]
    asked = [[value for value, _ in sample["filtered_resps"]] for sample in kept["found"]["samples"]["docs"]]
    apart = [(abs(a - b), abs(a - b) / abs(a)) for one, other in zip(each, asked, strict=True) for a, b in zip(one, other, strict=True)]
    right = [max(range(CHOICES), key=one.__getitem__) == row["answer"] for one, row in zip(each, rows, strict=True)]
    normed = [[value / len(choice) for value, choice in zip(one, row["choices"], strict=True)] for one, row in zip(each, rows, strict=True)]
    by_length = [max(range(CHOICES), key=one.__getitem__) == row["answer"] for one, row in zip(normed, rows, strict=True)]
    print(
        f"{len(apart)} log-likelihoods differ by at most {max(a for a, _ in apart):.1e} nats, {max(b for _, b in apart):.1e} of their value"
    )
    for name, mine in (("acc", right), ("acc_norm", by_length)):
        print(f"{name:<9} lm_eval {theirs.values[f'docs/{name}']:.6f}   ours {sum(mine) / len(mine):.6f}")


if __name__ == "__main__":
    main()
