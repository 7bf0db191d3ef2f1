"""Preparing data, speed and memory: this project against datasets.map with the same tokenizer and the same chat template.

    python benchmarks/data.py                    # 1,000 and 100,000 synthetic rows
    python benchmarks/data.py 1000 100000 1000000

Every measurement runs in a process of its own from an empty cache. Printed: seconds a thousand rows (reading, rendering, tokens,
labels, and here also the held-out split, duplicates and the report), and by how much the resident memory of the process grew.

Two cores of an AMD EPYC, Python 3.11, the tokenizer of SmolLM2-135M-Instruct, rows of 140 tokens:

         rows  contender      s / 1,000 rows  memory grew by
        1,000  this project            0.123          24 MiB
        1,000  datasets.map            0.234          48 MiB
      100,000  this project            0.100          76 MiB
      100,000  datasets.map            0.206         141 MiB
    1,000,000  this project            0.103         103 MiB
    1,000,000  datasets.map            0.204         546 MiB
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

CONTENDERS = ("this project", "datasets.map")
WORDS = [stem + ending for stem in ("sun", "moon", "cat", "tree", "walk", "blue", "fast", "river") for ending in ("", "s", "ing", "er")]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("counts", nargs="*", type=int, default=[1_000, 100_000], metavar="ROWS", help="how many rows: each is measured")
    arguments.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.worker:
        work(*given.worker)
        return
    print(f"{'rows':>10}  {'contender':<14} {'s / 1,000 rows':>14}  {'memory grew by':>14}")
    with tempfile.TemporaryDirectory() as folder:
        for count in given.counts:
            file = synthetic_rows(Path(folder) / f"{count}.jsonl", count)
            for contender in CONTENDERS:
                command = [sys.executable, __file__, "--worker", contender, str(file), f"{folder}/{contender}-{count}"]
                seconds, grown = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
                print(f"{count:>10,}  {contender:<14} {seconds * 1000 / count:>14.3f}  {grown / 2**20:>10,.0f} MiB", flush=True)


def synthetic_rows(file: Path, count: int) -> Path:
    chance = random.Random(0)
    with file.open("w", encoding="utf-8") as lines:
        for number in range(count):
            row = {"question": f"Row {number}: {' '.join(chance.choices(WORDS, k=40))}", "answer": " ".join(chance.choices(WORDS, k=30))}
            lines.write(json.dumps(row) + "\n")
    return file


def work(contender: str, file: str, cache: str) -> None:
    from finetune.events import Recorder
    from finetune.models.load import load_tokenizer
    from finetune.models.location import locate
    from finetune.recipe import STARTER
    from finetune.runtime import RuntimeOptions

    tokenizer = load_tokenizer(locate(STARTER, RuntimeOptions(), Recorder()))
    prepare = {"this project": with_this_project, "datasets.map": with_datasets_map}[contender]
    prepare(synthetic_file(cache), tokenizer, f"{cache}-warm")  # imports and lazy set-up are not what is measured
    memory = Memory()
    begun = time.perf_counter()
    prepare(file, tokenizer, cache, memory)
    seconds = time.perf_counter() - begun
    memory.report(None)
    print(json.dumps([seconds, memory.most - memory.before]))


def synthetic_file(cache: str) -> str:
    return str(synthetic_rows(Path(f"{cache}-warm.jsonl"), 50))


class Memory:
    """A reporter that looks at the memory of the process whenever something is reported."""

    def __init__(self) -> None:
        self.before = self.most = psutil.Process().memory_info().rss

    def report(self, event: object) -> None:
        self.most = max(self.most, psutil.Process().memory_info().rss)


def with_this_project(file: str, tokenizer: Any, cache: str, memory: Any = None) -> None:
    from finetune.data.prepare import prepare_data
    from finetune.recipe import DatasetSpec
    from finetune.runtime import RuntimeOptions

    spec = DatasetSpec(source=file, samples=None, held_out=0.05)
    prepare_data(spec, tokenizer, seed=0, runtime=RuntimeOptions(cache_dir=Path(cache)), reporter=memory)


def with_datasets_map(file: str, tokenizer: Any, cache: str, memory: Any = None) -> None:
    import datasets

    datasets.disable_progress_bars()

    def tokenised(batch: dict[str, list[str]]) -> dict[str, Any]:
        asked = [[{"role": "user", "content": question}] for question in batch["question"]]
        told = [[*chat, {"role": "assistant", "content": answer}] for chat, answer in zip(asked, batch["answer"], strict=True)]
        prompts = tokenizer(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True), add_special_tokens=False)
        whole = tokenizer(tokenizer.apply_chat_template(told, tokenize=False), add_special_tokens=False, truncation=True, max_length=512)
        pairs = zip(prompts["input_ids"], whole["input_ids"], strict=True)
        if memory is not None:
            memory.report(None)
        return {"input_ids": whole["input_ids"], "labels": [[-100] * len(prompt) + ids[len(prompt) :] for prompt, ids in pairs]}

    rows = datasets.load_dataset("json", data_files=file, split="train", cache_dir=cache)
    rows.map(tokenised, batched=True, remove_columns=rows.column_names)


if __name__ == "__main__":
    main()
