"""The model as its own teacher: what an anchor keeps of it, and how well a system prompt can be baked in.

`plain` and `anchored` learn docstrings; the rows called narrow learn the six kinds of answers of a made-up shop (benchmarks/support.py),
for so many epochs that the model forgets. What is forgotten shows on text of another kind: on docstrings with their functions, where these
are not the task, and on FOLDER/self/unrelated.txt, which a person puts there; the tables of DISTILLATION_UPDATE.md have the test part of
WikiText-2.
"""

from __future__ import annotations

import json
import time
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import Any

import contest
import support

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
NARROW: dict[str, Any] = {"training": {"epochs": 5}}
WEAK: dict[str, Any] = {"distillation": {"alpha": 0.9}}
BLOCKS, BLOCK = 24, 256  # of a text of another kind, in tokens
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


ROWS: dict[str, list[dict[str, Any]]] = {  # what of TASK is changed; an anchor is the part of the loss that holds the model where it was
    "plain": [],
    "anchored": [ANCHOR],
    "narrow, plain": [NARROW],
    "narrow, anchored, alpha 0.5": [NARROW, ANCHOR],
    "narrow, anchored, alpha 0.9": [NARROW, ANCHOR, WEAK],
    "baked": [],  # a system prompt
}


def work(name: str, changes: list[str], folder: Path) -> dict[str, Any]:
    """One run, scored."""
    from finetune.recipe import merge, parse_override

    task = reduce(merge, [TASK, *ROWS[name], *map(parse_override, changes)])
    if name.startswith("narrow"):
        task = merge(task, {"dataset": {"source": str(_shop(folder)), "samples": None}})
    began = time.perf_counter()
    found = _baked(folder, task) if name == "baked" else _task(folder, name, task)
    return found | {"seconds": time.perf_counter() - began}


def _shop(folder: Path) -> Path:
    rows = [{"prompt": row["question"], "completion": row["answer"]} for row in support.rows(SAMPLES)]
    (folder / "shop.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "shop.jsonl"


def _tuner(folder: Path, name: str, recipe: dict[str, Any]) -> Any:
    """Every start has an output folder of its own."""
    from finetune import LLMFineTuner, RuntimeOptions

    output = next(path for number in range(100) if not (path := folder / f"{name}-{number}").exists())
    return LLMFineTuner({**recipe, "output_dir": str(output)}, runtime=RuntimeOptions(cache_dir=folder / "cache"))


def _task(folder: Path, arm: str, recipe: dict[str, Any]) -> dict[str, Any]:
    """The scores of the task, and the perplexity of text of another kind before and after."""
    tuner, texts = _tuner(folder, arm, recipe), _texts(folder, recipe)
    tuner.score_before()
    before = _losses(tuner.load_models(), tuner.tokenizer, texts)
    scores = tuner.run().scores
    after = _losses(tuner.model, tuner.tokenizer, texts)
    finished = tuner.outcome.finished
    return {
        "before": before,
        "after": after,
        "train_seconds": finished.train_seconds,
        "memory": finished.peak_memory_bytes,
        "scores": scores,
    }


def _texts(folder: Path, recipe: dict[str, Any]) -> dict[str, str]:
    """Text of another kind than the task, by name."""
    from finetune.data.builtin import python_docs

    texts = {file.stem: file.read_text(encoding="utf-8") for file in [folder / "unrelated.txt"] if file.exists()}
    if recipe["dataset"]["source"] != TASK["dataset"]["source"]:
        texts["docstrings"] = "\n\n".join(f"{row['input']}\n{row['output']}" for row in islice(python_docs(), 0, 9 * BLOCKS, 9))
    return texts


def _losses(model: Any, tokenizer: Any, texts: dict[str, str]) -> dict[str, Any]:
    """Of the first blocks of each text: the loss in nats, and tokens."""
    from finetune.benchmark.perplexity import answer_losses
    from finetune.events import Recorder

    found, was_training = {}, model.training
    for name, text in texts.items():
        ids = tokenizer(text)["input_ids"]
        rows = [{"input_ids": block, "labels": block} for n in range(BLOCKS) if (block := ids[n * BLOCK : (n + 1) * BLOCK])]
        losses = answer_losses(model.eval(), rows, reporter=Recorder(), stage="")
        found[name] = {"nats": list(losses.sums), "tokens": list(losses.tokens)}
    model.train(was_training)
    return found


def _baked(folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Shares of answers to held-out questions that obey the prompt: with it, without it, and without it after the training.

    The rows to learn from are answers that the model itself wrote behind the prompt.
    """
    from finetune.benchmark.generation import generate_answers
    from finetune.data.tokens.encoder import Encoder
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
        told: list[Any] = [{"role": "system", "content": system}] if system else []
        prompts = [{"prompt_ids": encoder.prompt([*told, {"role": "user", "content": text}])} for text in asked]
        found = generate_answers(model, tokenizer, prompts, max_new_tokens=ANSWER, reporter=Recorder(), stage="")
        return [answer.text for answer in found]

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
    """The tables of the documents."""
    arms = {arm: result for arm, result in found.items() if arm != "baked"}
    for narrow in (False, True):
        if rows := {arm: result for arm, result in arms.items() if arm.startswith("narrow") == narrow}:
            _forgetting(rows)
    if baked := found.get("baked"):
        print(f"\n{PROMPT} {baked['held']} held-out questions, share of answers that obey: {baked['shares']}")


def _forgetting(arms: dict[str, Any]) -> None:
    """One task: its scores, the perplexity of other text, and which share of what the plain arm forgot another keeps."""
    from finetune.benchmark.intervals import estimate, mean_per_token, perplexity_of, ratio

    first, plain = next(iter(arms.values())), next((result for arm, result in arms.items() if arm.endswith("plain")), None)
    texts = list(first["before"])
    print(
        f"\n| | ROUGE-L | perplexity of answers | {' | '.join(f'perplexity, {text} | kept' for text in texts)} | training, s | memory, GB |"
    )
    print("|---|---|---|" + "---|---|" * len(texts) + "---|---|")
    for side, found in {"before": first, **arms}.items():
        which = "before" if side == "before" else "after"
        cells = [_cell(found["scores"][which][key], *found["scores"]["intervals"][which][key]) for key in ("rougeL", "perplexity")]
        for text in texts:
            losses = found[which][text]
            score = estimate(perplexity_of(losses["nats"], losses["tokens"]))
            cells += [_cell(*contest.with_ends(score)), ""]
            if side != "before" and plain is not None and found is not plain:
                forgotten, of = (mean_per_token(_rises(arm, text), losses["tokens"]) for arm in (found, plain))
                left = ratio(forgotten, of) if contest.with_ends(estimate(of))[1] > 0 else None
                cells[-1] = "nothing was forgotten" if left is None else "{:.0%} [{:.0%}, {:.0%}]".format(*_rest(left))
        cells += ["", ""] if side == "before" else [f"{found['train_seconds']:.0f}", f"{found['memory'] / 1e9:.2f}"]
        print(f"| {side} | {' | '.join(cells)} |")


def _rises(arm: dict[str, Any], text: str) -> list[float]:
    """By how much the loss of each block of a text rose, in nats."""
    return [after - before for after, before in zip(arm["after"][text]["nats"], arm["before"][text]["nats"], strict=True)]


def _rest(share: Any) -> tuple[float, float, float]:
    """What is left of a share of all, 100 % where nothing of it was taken or less."""
    value, least, most = (min(1.0, 1 - end) for end in (share.value, share.high, share.low))
    return value, least, most


def _cell(value: float, low: float, high: float) -> str:
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"
