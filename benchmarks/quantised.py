"""What learning in few bits regains: the default student in Q4_0, plain, after 60 more steps, and after 60 steps in Q4_0.

    python benchmarks/quantised.py --folder ./few-bits                  # what is there already is not made again
    python benchmarks/quantised.py --folder ./few-bits --steps 60 --rate 5e-5 --prompts 60 --rounds 3

Every file is run by llama.cpp: mean KL(teacher || file) in nats over the same places of held-out rows, with the 95 % interval of its
difference to plain Q4_0, size, and the fastest of a few rounds of 64 tokens. Both further trainings see the same rows in the same order,
with the same rate, at temperature 1, from the teacher alone. The teacher is the starter in full precision, as transformers runs it.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.events import Recorder
from finetune.export.llama_cpp import Questions, asked
from finetune.export.to_gguf import GGUF
from finetune.formatting import size
from finetune.models.location import locate
from finetune.recipe import STARTER, Recipe
from finetune.run.finetuner import LLMFineTuner
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions

RUNTIME = RuntimeOptions(device="cpu", dtype="float32")
BASE: dict[str, Any] = {
    "approach": "distillation",
    "teacher": STARTER,
    "dataset": {"source": "builtin:python-docs", "samples": 450},
    "training": {"batch_size": 4},
    "benchmark": {"rows": 45, "metrics": ["perplexity"], "speed": False},
}
STUDENT = {"model": {"from_teacher": {"size": 0.75}}, "distillation": {"temperature": 1.0, "alpha": 0.2}, "training": {"epochs": 1}}
FILES = {  # name: the run, and the type of the file
    "F16": ("student", "f16"),
    "Q8_0": ("student", "q8_0"),
    "Q4_K_M": ("student", "q4_k_m"),
    "Q4_0, plain": ("student", "q4_0"),
    "Q4_0, {steps} more steps": ("further", "q4_0"),
    "Q4_0, {steps} steps in Q4_0": ("in-q4_0", "q4_0"),
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--folder", type=Path, required=True, help="for runs and files, about 3 GB")
    arguments.add_argument("--steps", type=int, default=60)
    arguments.add_argument("--rate", type=float, default=5e-5)
    arguments.add_argument("--prompts", type=int, default=60)
    arguments.add_argument("--rounds", type=int, default=3, help="of measuring the speed")
    given = arguments.parse_args()
    tuner = trained(given.folder / "student", STUDENT)
    more = {"model": str(given.folder / "student"), "training": {"epochs": given.steps / per_epoch(tuner), "learning_rate": given.rate}}
    alone = {"temperature": 1.0, "alpha": 0.0}
    trained(given.folder / "further", {**more, "distillation": alone})
    trained(given.folder / "in-q4_0", {**more, "distillation": {**alone, "quantize": "q4_0"}})
    files = {name.format(steps=given.steps): exported(given.folder, *made) for name, made in FILES.items()}
    prompts = places(tuner, given.prompts)
    teacher = said_by_teacher(given.folder, tuner, prompts)
    speeds: dict[str, list[float]] = {name: [] for name in files}
    losses: dict[str, np.ndarray[Any, Any]] = {}
    tops: dict[str, float] = {}
    for round_ in range(given.rounds):
        for name, file in files.items():
            questions = Questions([], [], prompts if not round_ else prompts[:1], len(teacher[0]), torch.get_num_threads(), prompts[0])
            answers = asked(file, questions, lambda *_: None)
            speeds[name].append(answers.tokens_per_second or 0.0)
            if not round_:
                losses[name] = np.array([divergence(*pair) for pair in zip(teacher, answers.log_probabilities, strict=True)])
                same = zip(teacher, answers.log_probabilities, strict=True)
                tops[name] = float(np.mean([ours.argmax() == theirs.argmax() for ours, theirs in same]))
    plain = losses["Q4_0, plain"]
    print(f"| {'file':<24} | {'size':>8} | KL to the teacher | against plain Q4_0   | same first choice | tokens/s |")
    print(f"|{'-' * 26}|{'-' * 10}|{'-' * 19}|{'-' * 22}|{'-' * 19}|{'-' * 10}|")
    for name, file in files.items():
        low, high = interval(losses[name] - plain)
        print(
            f"| {name:<24} | {size(file.stat().st_size):>8} | {losses[name].mean():>17.3f} | [{low:+.3f}, {high:+.3f}]".ljust(81)
            + f"| {tops[name]:>17.0%} | {max(speeds[name]):>8.1f} |"
        )
    for run in ("further", "in-q4_0"):
        scores = json.loads((given.folder / run / "run" / "benchmark.json").read_text())
        print(f"{run}, every token of the held-out rows, here: KL {scores['before']['kl']:.3f} before, {scores['after']['kl']:.3f} after")


def trained(folder: Path, layer: dict[str, Any]) -> LLMFineTuner:
    """The run in a folder, made if it is not there."""
    recipe = Recipe.from_layers(BASE, layer, {"output_dir": str(folder)})
    if folder.exists():
        return LLMFineTuner(recipe.with_changes({"output_dir": f"{folder}-again"}), runtime=RUNTIME)
    tuner = LLMFineTuner(recipe, runtime=RUNTIME, reporter=Recorder())
    tuner.run()
    return tuner


def per_epoch(tuner: LLMFineTuner) -> int:
    return -(-len(tuner.data.train) // tuner.recipe.training.batch_size)


def exported(folder: Path, run: str, type: str) -> Path:
    """The file of a run; the gate is wide open, since it is what lies beyond it that is measured."""
    place = folder / f"{run}-{type}"
    if not place.exists():
        GGUF.export(RunFolder.of(folder / run), place, RUNTIME, Recorder(), type=type, limit=50)
    return next(place.glob("*.gguf"))


def places(tuner: LLMFineTuner, count: int) -> list[list[int]]:
    """The beginnings of held-out rows, cut anywhere from the ninth token on."""
    chance, rows = random.Random(0), [list(row["input_ids"]) for row in tuner.data.held_out]
    chosen = [chance.choice(rows) for _ in range(count)]
    return [row[: chance.randint(min(8, len(row)), min(128, len(row)))] for row in chosen]


def said_by_teacher(folder: Path, tuner: LLMFineTuner, prompts: list[list[int]]) -> list[np.ndarray[Any, Any]]:
    """Log-probabilities after each prompt, in full precision."""
    kept = folder / f"teacher-{len(prompts)}.npy"
    if not kept.is_file():
        from finetune.hardware.machine import inspect
        from finetune.models.load import load_model

        model = load_model(locate(STARTER, RUNTIME, Recorder()), inspect(RUNTIME))
        with torch.inference_mode():
            said = [model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float().log_softmax(-1).numpy() for ids in prompts]
        np.save(kept, np.stack(said))
    return list(np.load(kept))


def divergence(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> float:
    """KL(ours || theirs) in nats; llama.cpp's are normalised again, since it sums in 32 bits."""
    mine, other = ours.astype(np.float64), theirs.astype(np.float64)
    other = other - np.log(np.exp(other).sum())
    return float((np.exp(mine) * (mine - other)).sum())


def interval(differences: np.ndarray[Any, Any], *, draws: int = 2000) -> tuple[float, float]:
    """Bootstrap over places, paired."""
    chance = np.random.default_rng(0)
    means = differences[chance.integers(0, len(differences), (draws, len(differences)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
