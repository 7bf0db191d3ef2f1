"""The model as its own teacher: what an anchor keeps of it, and how well a system prompt can be baked in.

FOLDER/self/unrelated.txt is text of another kind, which a person puts there; the table of DISTILLATION_UPDATE.md has the test part of
WikiText-2.
"""

from __future__ import annotations

import json
import math
import time
from functools import reduce
from pathlib import Path
from typing import Any

STARTER = "HuggingFaceTB/SmolLM2-135M-Instruct"
SAMPLES, MEASURED = 200, 30
TASK: dict[str, Any] = {
    "model": STARTER,
    "dataset": {"source": "builtin:python-docs", "samples": SAMPLES, "held_out": MEASURED / SAMPLES},
    "method": {"kind": "lora"},
    "training": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3},
    "benchmark": {"rows": MEASURED, "speed": False},
}
ANCHOR: dict[str, Any] = {"approach": "distillation", "teacher": "self", "distillation": {"alpha": 0.5, "temperature": 1.0}}
BLOCKS, BLOCK = 24, 256  # of the unrelated text, in tokens
PROMPT = "You are a pirate. Answer every question as a pirate, and begin every answer with 'Arrr!'"
ASKED = ("What is {}?", "Tell me about {}.", "Why do people need {}?", "Give me a tip about {}.", "How does one begin with {}?")
THINGS = [
    "bread",
    "a bicycle",
    "the moon",
    "a garden",
    "chess",
    "money",
    "sleep",
    "a library",
    "rain",
    "music",
    "a bridge",
    "salt",
    "a clock",
    "tea",
    "a map",
    "the sea",
    "a school",
    "wool",
    "a kite",
    "glass",
    "a compass",
    "paper",
    "honey",
    "a tent",
    "a lamp",
    "football",
    "a mirror",
    "soap",
    "a violin",
    "snow",
    "a train",
    "cheese",
    "a doctor",
    "a ladder",
    "coffee",
    "a river",
    "a poem",
    "a dog",
]
TRAINED, HELD = 120, 40  # questions
ANSWER = 40  # tokens


ROWS = ("plain", "anchored", "baked")  # LoRA on the docstrings; half of the loss holds the model where it was; a system prompt


def work(name: str, changes: list[str], folder: Path) -> dict[str, Any]:
    """One run, scored."""
    from finetune.recipe import merge, parse_override

    task = reduce(merge, map(parse_override, changes), TASK)
    began = time.perf_counter()
    found = _baked(folder, task) if name == "baked" else _task(folder, name, {**task, **(ANCHOR if name == "anchored" else {})})
    return found | {"seconds": time.perf_counter() - began}


def _tuner(folder: Path, name: str, recipe: dict[str, Any]) -> Any:
    """Every start has an output folder of its own."""
    from finetune import LLMFineTuner, RuntimeOptions

    output = next(path for number in range(100) if not (path := folder / f"{name}-{number}").exists())
    return LLMFineTuner({**recipe, "output_dir": str(output)}, runtime=RuntimeOptions(cache_dir=folder / "cache"))


def _task(folder: Path, arm: str, recipe: dict[str, Any]) -> dict[str, Any]:
    """The scores of the task, and the perplexity of text of another kind before and after."""
    tuner = _tuner(folder, arm, recipe)
    tuner.score_before()
    before = _unrelated(tuner.load_models(), tuner.tokenizer, folder)
    scores = tuner.run().scores
    after = _unrelated(tuner.model, tuner.tokenizer, folder)
    finished = tuner.outcome.finished
    return {
        "before": before,
        "after": after,
        "train_seconds": finished.train_seconds,
        "memory": finished.peak_memory_bytes,
        "scores": scores,
    }


def _unrelated(model: Any, tokenizer: Any, folder: Path) -> float:
    """The perplexity per token of some blocks of `folder`/unrelated.txt."""
    from finetune.benchmark.perplexity import answer_losses
    from finetune.events import Recorder

    ids = tokenizer((folder / "unrelated.txt").read_text(encoding="utf-8"))["input_ids"]
    rows = [{"input_ids": block, "labels": block} for n in range(BLOCKS) if (block := ids[n * BLOCK : (n + 1) * BLOCK])]
    was_training = model.training
    losses = answer_losses(model.eval(), rows, reporter=Recorder(), stage="")
    model.train(was_training)
    return math.exp(sum(losses.sums) / sum(losses.tokens))


def _baked(folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Shares of answers to held-out questions that obey the prompt: with it, without it, and without it after the training.

    The rows to learn from are answers that the model itself wrote behind the prompt.
    """
    from finetune.benchmark.generation import generate_answers
    from finetune.data.tokens import Encoder
    from finetune.events import Recorder

    questions = [ask.format(thing) for thing in THINGS for ask in ASKED]
    trained, held = questions[:TRAINED], questions[TRAINED : TRAINED + HELD]
    file = folder / "told.jsonl"
    recipe = {
        **task,
        **ANCHOR,
        "dataset": {"source": str(file), "samples": None, "held_out": 0.1},
        "teacher": {"source": "self", "system": PROMPT},
        "distillation": {"alpha": 0.0, "temperature": 1.0},
        "training": {**task["training"], "epochs": 3},
        "benchmark": {"rows": 15, "metrics": ["perplexity"], "speed": False},
    }

    def answers(model: Any, tokenizer: Any, asked: list[str], system: str | None) -> list[str]:
        encoder = Encoder(tokenizer, max_length=256, supervise="answers")
        told = [{"role": "system", "content": system}] if system else []
        prompts = [{"prompt_ids": encoder.prompt([*told, {"role": "user", "content": text}])} for text in asked]
        return generate_answers(model, tokenizer, prompts, max_new_tokens=ANSWER, reporter=Recorder(), stage="")

    first = _tuner(folder, "writer", task)
    model, tokenizer = first.load_models().eval(), first.tokenizer
    written = answers(model, tokenizer, trained, PROMPT)
    file.write_text("".join(json.dumps({"prompt": q, "completion": a}) + "\n" for q, a in zip(trained, written, strict=True)))
    found = {"told": answers(model, tokenizer, held, PROMPT), "before": answers(model, tokenizer, held, None)}
    tuner = _tuner(folder, "baked", recipe)
    tuner.train()
    found["after"] = answers(tuner.model.eval(), tokenizer, held, None)
    shares = {side: sum(map(obeys, texts)) / len(texts) for side, texts in found.items()}
    return {
        "shares": shares,
        "held": len(held),
        "of_rows": sum(map(obeys, written)) / len(written),
        "answers": {s: t[:3] for s, t in found.items()},
    }


def obeys(answer: str) -> bool:
    return answer.strip().startswith("Arrr")


def show(found: dict[str, Any]) -> None:
    """Both tables of the documents."""
    arms = {arm: result for arm, result in found.items() if arm != "baked"}
    if arms:
        _forgetting(arms)
    if baked := found.get("baked"):
        print(f"\n{PROMPT} {baked['held']} held-out questions, share of answers that obey: {baked['shares']}")


def _forgetting(arms: dict[str, Any]) -> None:
    print("| | ROUGE-L | perplexity of answers | perplexity of unrelated text | training, s | memory, GB |\n|---|---|---|---|---|---|")
    for side, found in {"before": next(iter(arms.values())), **arms}.items():
        which = "before" if side == "before" else "after"
        ends = {key: "[{:.3g}, {:.3g}]".format(*found["scores"]["intervals"][which][key]) for key in ("rougeL", "perplexity")}
        scores = [f"{found['scores'][which][key]:.3g} {ends[key]}" for key in ends]
        costs = ["", ""] if side == "before" else [f"{found['train_seconds']:.0f}", f"{found['memory'] / 1e9:.2f}"]
        print(f"| {side} | {' | '.join(scores)} | {found[which]:.2f} | {' | '.join(costs)} |")
    if "plain" in arms and "anchored" in arms:
        lost = {arm: math.log(found["after"] / found["before"]) for arm, found in arms.items()}
        print(f"\nOf the loss in nats per token on unrelated text, the anchor takes away {1 - lost['anchored'] / lost['plain']:.0%}.")
