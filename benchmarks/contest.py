"""What the benchmarks share: rows, the starter model, contenders in processes of their own, the table."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

MARK = "RESULT "
NAMES = ("Ada", "Bo", "Chen", "Dana", "Eli", "Fay", "Gus", "Hana", "Ivo", "June", "Kai", "Lena", "Milo", "Nora", "Omar", "Pia")
THINGS = ("apples", "books", "cards", "eggs", "marbles", "pencils", "shells", "stamps", "stickers", "tickets")


def rows(path: Path | None, count: int) -> list[dict[str, str]]:
    """`count` rows with question and answer: from a .jsonl file, or made up with lengths like gsm8k's."""
    if path is not None:
        with path.open(encoding="utf-8") as file:
            return [json.loads(line) for line, _ in zip(file, range(count), strict=False)]
    draw = random.Random(0)
    return [_word_problem(draw, steps=draw.randint(2, 7)) for _ in range(count)]


def _word_problem(draw: random.Random, steps: int) -> dict[str, str]:
    name, thing, total = draw.choice(NAMES), draw.choice(THINGS), draw.randint(5, 60)
    asked, answered = [f"{name} starts the week with {total} {thing}."], []
    for step in range(steps):
        number, friend = draw.randint(2, 20), draw.choice(NAMES)
        if step % 2:
            asked.append(f"Then {friend} comes by and gives {name} another {number} {thing} out of a box that was found in the attic.")
            answered.append(
                f"After {friend} comes by, {name} has {total} + {number} = <<{total}+{number}={total + number}>>{total + number}."
            )
            total += number
        else:
            asked.append(f"The next day the number of {thing} grows to {number} times what it was in the morning.")
            answered.append(f"The next day {name} has {total} * {number} = <<{total}*{number}={total * number}>>{total * number} {thing}.")
            total *= number
    asked.append(f"How many {thing} does {name} have in the end?")
    return {"question": " ".join(asked), "answer": "\n".join([*answered, f"#### {total}"])}


def starter(machine: Any, *, ours: bool) -> tuple[Any, Any]:
    """Tokenizer and starter model, in the machine's dtype; loaded by us, whose linear layers multiply by our choice, or by transformers."""
    from transformers import AutoModelForCausalLM

    from finetune.events import Recorder
    from finetune.hardware.machine import torch_dtype
    from finetune.models.load import load_model, load_tokenizer
    from finetune.models.location import locate
    from finetune.recipe import STARTER
    from finetune.runtime import RuntimeOptions

    located = locate(STARTER, RuntimeOptions(), Recorder())
    if ours:
        return load_tokenizer(located), load_model(located, machine)
    return load_tokenizer(located), AutoModelForCausalLM.from_pretrained(located.folder, dtype=torch_dtype(machine)).eval()


def tokenised(rows: list[dict[str, str]], tokenizer: Any, length: int, *, supervise: str = "answers") -> Any:
    """input_ids, labels and length: question and answer in the model's chat template, loss on the answer (or on everything)."""
    from datasets import Dataset

    sequences = []
    for row in rows:
        asked = [{"role": "user", "content": row["question"]}]
        whole = [*asked, {"role": "assistant", "content": row["answer"]}]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        ids = tokenizer.apply_chat_template(whole, return_dict=False)[:length]
        start = 0 if supervise == "all" else len(prompt)
        sequences.append({"input_ids": ids, "labels": [-100] * start + ids[start:], "length": len(ids)})
    return Dataset.from_list(sequences)


def with_ends(score: Any) -> list[float]:
    """The value of an interval (finetune/benchmark/intervals.py) and its ends; SystemExit where there are too few rows for one."""
    if score is None or score.low is None or score.high is None:
        sys.exit("There are too few rows for an interval.")
    return [score.value, score.low, score.high]


def fresh_cache(folder: Path, *known: str) -> Path:
    """A cache folder in `folder` with only these entries of the user's own, so without what a teacher once said."""
    from finetune.runtime import default_cache

    cache = folder / "cache"
    cache.mkdir()
    for name in known:
        if (default_cache() / name).exists():
            (cache / name).symlink_to(default_cache() / name)
    return cache


def kept_cache(folder: Path) -> Path:
    """A cache in `folder` that stays there, with the user's own models."""
    return folder / "cache" if (folder / "cache").exists() else fresh_cache(folder, "models")


def context() -> Any:
    from finetune.methods.base import MethodContext

    return MethodContext(total_steps=1)


class Watch:
    """Seconds and the process's peak memory of what runs inside."""

    seconds = 0.0
    peak_bytes = 0

    def __enter__(self) -> Watch:
        from finetune.hardware.peak_memory import PeakMemory

        self._memory = PeakMemory("cpu")
        self._memory.__enter__()
        self._began = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.seconds = time.perf_counter() - self._began
        self._memory.__exit__(kind, error, trace)
        self.peak_bytes = self._memory.bytes


def interleave(script: str, names: list[str], rounds: int, arguments: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Run every contender once a round, each in a fresh process."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            done = subprocess.run([sys.executable, script, *arguments, "--worker", name], capture_output=True, text=True, check=False)
            line = next((line for line in done.stdout.splitlines() if line.startswith(MARK)), None)
            if line is None:
                print(f"{name} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
                continue
            found[name].append(json.loads(line.removeprefix(MARK)))
            rate = found[name][-1]["tokens"] / found[name][-1]["seconds"]
            print(f"round {number + 1}: {name}: {rate:.0f} tokens/s", file=sys.stderr, flush=True)
    return found


def table(found: dict[str, list[dict[str, Any]]], *, reference: str) -> None:
    """Medians of the rounds; the ratio is that of the speeds in the same round."""
    print(f"{'':<42}{'tokens/s':>10}{'x reference':>13}{'peak GiB':>10}{'of its rate':>13}{'dtype':>10}")
    base = [result["tokens"] / result["seconds"] for result in found.get(reference, [])]
    for name, results in found.items():
        if not results:
            print(f"{name:<42}{'failed':>10}")
            continue
        rates = [result["tokens"] / result["seconds"] for result in results]
        ratios = [rate / other for rate, other in zip(rates, base, strict=False)]
        ratio = f"{statistics.median(ratios):.2f}" if ratios else "-"
        peak = statistics.median(result["peak_bytes"] for result in results) / 2**30
        share = statistics.median(result.get("share of matrix rate", 0.0) for result in results)
        shown = f"{share:.0%}" if share else "-"
        print(f"{name:<42}{statistics.median(rates):>10.0f}{ratio:>13}{peak:>10.2f}{shown:>13}{results[0]['dtype']:>10}")
    rounds = len(next(iter(found.values())))
    print(f"Reference: {reference}. Tokens are those of the rows; padding is not counted. Medians of {rounds} rounds.")
