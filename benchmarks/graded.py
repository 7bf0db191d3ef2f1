"""A student of a teacher on a server beside the same student of the same teacher on this machine: likeliest tokens against all of them.

    vllm serve FOLDER_OF_THE_STARTER --served-model-name starter --dtype float32
    python benchmarks/graded.py --server http://localhost:8000/v1 --model starter

A student of 20 of its 30 layers learns from each on the same rows, with the same seed, and is scored on the same held-out rows, on every
token: KL(teacher || student) over the whole vocabulary with its 95 % interval, and the share of tokens for which both have the same first
choice. Seconds are those of asking the teacher, and of training. Then how far what the server tells is from what the model here says.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import contest
from programme_students import score

BASE: dict[str, Any] = {
    "approach": "distillation",
    "dataset": {"source": "builtin:python-docs", "samples": 120, "held_out": 0.25},
    "distillation": {"temperature": 1.0, "alpha": 0.2},
    "training": {"epochs": 1, "batch_size": 4, "learning_rate": 5e-4},
    "benchmark": {"rows": 1, "metrics": ["perplexity"]},  # the scores here are made below, on every held-out row
}
HERE, T2 = "all tokens, teacher here", {"distillation": {"temperature": 2.0}}
LAYERS = 20


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--server", required=True, help="address, up to /v1")
    arguments.add_argument("--model", required=True, help="what the server calls the starter")
    given = arguments.parse_args()

    def served(likeliest: int) -> dict[str, Any]:
        return {"teacher": {"source": "", "server": given.server, "model": given.model, "top_k": likeliest}}

    ways: dict[str, list[dict[str, Any]]] = {
        HERE: [{}],
        "20 likeliest, server": [served(20)],
        "5 likeliest, server": [served(5)],
        f"{HERE}, T 2": [{}, T2],
        "20 likeliest, server, T 2": [served(20), T2],
    }
    with tempfile.TemporaryDirectory() as place:
        student, states = Path(place) / "student", dict[str, Any]()
        make(student, Path(place), states)
        print(f"| {'':<30} | asking | training | bytes a token | KL before | KL after             | same first choice |", flush=True)
        print(f"|{'-' * 32}|{'-' * 8}|{'-' * 10}|{'-' * 15}|{'-' * 11}|{'-' * 22}|{'-' * 19}|", flush=True)
        for number, (name, layers) in enumerate(ways.items()):
            line(name, distilled(student, layers, Path(place) / str(number), states))
        differences(Path(place), list(ways))


def make(student: Path, place: Path, states: dict[str, Any]) -> None:
    """The student before it learns, saved; what the teacher says of the held-out rows goes into `states`."""
    tuner = tuner_of([{"model": {"from_teacher": {"layers": LAYERS}}}], place / "made")
    score(tuner.load_teacher_model(), list(tuner.data.held_out), states)
    tuner.load_models().save_pretrained(student)
    tuner.tokenizer.save_pretrained(student)


def tuner_of(layers: list[dict[str, Any]], folder: Path, dtype: str = "auto") -> Any:
    from finetune.events import Recorder
    from finetune.recipe import Recipe
    from finetune.run.finetuner import LLMFineTuner
    from finetune.runtime import RuntimeOptions

    folder.mkdir()
    recipe = Recipe.from_layers(BASE, *layers, {"output_dir": str(folder / "result")})
    fresh = RuntimeOptions(dtype=dtype, cache_dir=contest.fresh_cache(folder, "models", "datasets", "machine.json"))
    return LLMFineTuner(recipe, reporter=Recorder(), runtime=fresh)


def distilled(student: Path, layers: list[dict[str, Any]], folder: Path, states: dict[str, Any]) -> dict[str, Any]:
    """One run, scored; its cache stays in the folder."""
    from finetune.events import StageFinished, TrainingFinished

    tuner = tuner_of([{"model": str(student)}, *layers], folder)
    held_out = list(tuner.data.held_out)
    before = score(tuner.load_models(), held_out, states)
    tuner.train()
    (recorder,) = (each for each in tuner.reporter.reporters if hasattr(each, "of"))
    asking = sum(event.seconds for event in recorder.of(StageFinished) if event.stage == "teacher cache")
    training = recorder.of(TrainingFinished)[-1].train_seconds
    return {"before": before, "after": score(tuner.model, held_out, states), "asking": asking, "training": training, "cache": cache(folder)}


def cache(folder: Path) -> Any:
    """What was kept of the teacher."""
    from finetune.distillation.caches.on_disk import TeacherCache

    (index,) = folder.rglob("teachers/*/index.json")
    return TeacherCache.open(index.parent)


def line(name: str, found: dict[str, Any]) -> None:
    kept, after = found["cache"], found["after"]
    kl = "{:.3f} [{:.3f}, {:.3f}]".format(*after["kl"])
    print(
        f"| {name:<30} | {found['asking']:>4.0f} s | {found['training']:>6.0f} s | {kept.nbytes / kept.tokens:>13.0f} |"
        f" {found['before']['kl'][0]:>9.2f} | {kl:<20} | {after['agreement'][0]:>17.1%} |",
        flush=True,
    )


def differences(place: Path, ways: list[str]) -> None:
    """How far what the server told is from what the model here says of the same rows in float32."""
    from finetune.distillation.caches.builder import build_cache, supervised_counts

    tuner = tuner_of([], place / "here", "float32")
    rows, theirs = tuner.data.train, cache(place / str(ways.index("20 likeliest, server")))
    ours, counts = build_cache("top_k", tuner.load_teacher_model(), rows, place / "local"), supervised_counts(rows)
    (told, tokens), (values, same) = (each.read(range(len(rows)), counts) for each in (theirs, ours))
    far = [abs(float(value)) for value in (told[:, 0] - values[:, 0]).abs().quantile(told.new_tensor([0.5, 0.99, 1.0]))]
    rest = (told[:, -1].exp() - values[:, -1].exp()).abs().max().item()
    first, every = ((tokens[:, 0] == same[:, 0]).float().mean().item(), (tokens == same).all(1).float().mean().item())
    print(
        f"\nOf {len(told):,} tokens: same first choice for {first:.2%}, the same 20 in the same order for {every:.2%}.\n"
        f"Log-probability of the first choice: difference {far[0]:.1e} (median), {far[1]:.1e} (99 %), {far[2]:.1e} (largest).\n"
        f"Probability of the rest: {told[:, -1].exp().mean().item():.1%} on average, largest difference {rest:.1e}."
    )


if __name__ == "__main__":
    main()
