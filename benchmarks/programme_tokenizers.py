"""A teacher with another tokenizer: a student of the starter with a third of its tokens, taught by it or by the labels alone.

The student has 20 of the starter's 30 layers and its first 16,384 tokens, so that its tokenizer has only the merges that lead to these.
All rows take equal steps and are scored on the same held-out rows, on every token: bits per byte, which no tokenizer changes, and against
the teacher's distribution in the student's tokens KL in nats and the share of equal first choices. Intervals are of 95 %. Seconds are
those of asking the teacher and training.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import contest

TOKENS, LAYERS = 16_384, 20
BASE: dict[str, Any] = {
    "approach": "distillation",
    "dataset": {"source": "builtin:python-docs", "samples": 200, "held_out": 0.2},
    "method": {"kind": "full", "freeze": "head"},
    "distillation": {"temperature": 2.0, "alpha": 0.2, "across_tokenizers": "projected"},
    "training": {"epochs": 1, "batch_size": 4, "learning_rate": 5e-4},
    "benchmark": {"rows": 1, "metrics": ["perplexity"], "speed": False},
}
ROWS = {
    "labels alone": ["distillation.alpha=1", "distillation.cache=none"],
    "projected, temperature 2": [],
    "projected, temperature 1": ["distillation.temperature=1"],
    "spans, temperature 1": ["distillation.temperature=1", "distillation.across_tokenizers=spans"],
}
SCORES = {"bits": ("bits per byte", "{:.3f}"), "kl": ("KL to the teacher", "{:.3f}"), "agreement": ("same first choice", "{:.1%}")}


def work(name: str, changes: list[str], folder: Path) -> dict[str, Any]:
    """One run, scored."""
    return distilled([*changes, *ROWS[name]])


def show(found: dict[str, Any]) -> None:
    """The table."""
    print(f"| {'':<24} | seconds | {' | '.join(f'{title:<21}' for title, _ in SCORES.values())} |")
    print(f"|{'-' * 26}|{'-' * 9}|{'|'.join('-' * 23 for _ in SCORES)}|")
    for name, result in found.items():
        print(f"| {name:<24} | {result['seconds']:>7.0f} | {shown(result['after'])} |")
    last = list(found.values())[-1]
    print(f"| {'before':<24} | {'':>7} | {shown(last['before'])} |")
    print(f"The teacher has {last['teacher']:.3f} bits per byte. {last['aligned']:.1%} of the held-out tokens align.")


def shown(scores: dict[str, list[float]]) -> str:
    cells = []
    for name, (_, form) in SCORES.items():
        value, low, high = (form.format(number) for number in scores[name])
        cells.append(f"{f'{value} [{low}, {high}]':<21}")
    return " | ".join(cells)


def distilled(overrides: list[str]) -> dict[str, Any]:
    """One run, scored."""
    from finetune.distillation.across_tokenizers.projected import Reading
    from finetune.events import Recorder, StageFinished, TrainingFinished
    from finetune.recipe import STARTER, Recipe, parse_override
    from finetune.run.finetuner import LLMFineTuner
    from finetune.runtime import RuntimeOptions
    from finetune.training.head import head_of

    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        changes = {"model": retokenised(f"{folder}/start"), "teacher": STARTER, "output_dir": f"{folder}/student"}
        recipe = Recipe.from_layers(BASE, *map(parse_override, overrides), changes)
        fresh = RuntimeOptions(
            cache_dir=contest.fresh_cache(Path(folder), "models", "machine.json")
        )  # everything but what a teacher once said
        tuner = LLMFineTuner(recipe, reporter=recorder, runtime=fresh)
        held_out = list(tuner.data.held_out)
        student, teacher = tuner.load_models(), tuner.load_teacher_model()
        (alignment,) = tuner.context.alignments
        assert alignment is not None
        reading = Reading(alignment, head_of(student).vocabulary)
        said = [taught(teacher, reading, row) for row in held_out]
        head = reading.head(head_of(teacher).detach())
        before = score(student, reading, head, held_out, said)
        tuner.train()
        after = score(tuner.model, reading, head, held_out, said)
    finished = recorder.of(TrainingFinished)[-1]
    seconds = sum(event.seconds for event in recorder.of(StageFinished) if event.stage == "teacher cache") + finished.train_seconds
    bits = sum(row["nats"] for row in said) / sum(read_bytes(reading, row) for row in held_out) / math.log(2)
    aligned = sum(int(row["aligned"].sum()) for row in said) / sum(len(row["aligned"]) for row in said)
    return {
        "before": before,
        "after": after,
        "seconds": seconds,
        "tokens": finished.real_tokens,
        "teacher": bits,
        "aligned": aligned,
    }


def retokenised(folder: str) -> str:
    """The starter with LAYERS layers and its first TOKENS tokens, saved."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from finetune.data.prepare import prepare_data
    from finetune.distillation.students.making import make_student
    from finetune.hardware.machine import inspect
    from finetune.recipe import DatasetSpec
    from finetune.recipe.settings import FromTeacher
    from finetune.runtime import RuntimeOptions

    tokenizer, model = contest.starter(inspect(RuntimeOptions()), ours=True)
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = {token: number for token, number in content["model"]["vocab"].items() if number < TOKENS}
    content["model"]["merges"] = [pair for pair in content["model"]["merges"] if "".join(pair) in kept]
    content["model"]["vocab"] = kept
    names = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    small = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)), clean_up_tokenization_spaces=False, **names)
    small.chat_template = tokenizer.chat_template
    rows = prepare_data(DatasetSpec(samples=100), tokenizer, seed=42).train
    student = make_student(model, FromTeacher(layers=LAYERS), rows).model
    student.resize_token_embeddings(TOKENS)
    for each in (student, small):
        each.save_pretrained(folder)
    return folder


def taught(teacher: Any, reading: Any, row: Any) -> dict[str, Any]:
    """What the teacher says about a held-out row: its states at the aligned tokens, and its own loss on the text in nats."""
    import torch

    from finetune.data.tokens.collator import Collator
    from finetune.training.head import head_of, hidden_states

    asked = reading.batch(Collator(0)([{"input_ids": row["input_ids"], "labels": row["labels"]}]))
    ids = asked.inputs["input_ids"]
    with torch.no_grad():
        states = hidden_states(teacher, ids)[0]
        loss = torch.nn.functional.cross_entropy(head_of(teacher).logits(states[:-1]).float(), ids[0, 1:], reduction="sum")
    return {"states": states[asked.index[asked.aligned]], "aligned": asked.aligned, "nats": float(loss)}


def score(model: Any, reading: Any, head: Any, rows: list[Any], said: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Bits per byte, KL to the teacher and share of equal first choices, each with its interval."""
    import torch

    from finetune.benchmark.intervals import estimate, mean_per_token
    from finetune.training.head import head_of, hidden_states

    sums: dict[str, list[float]] = {name: [] for name in SCORES}
    model.eval()
    for row, teacher in zip(rows, said, strict=True):
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            learnt = head_of(model).logits(hidden_states(model, ids)[0, :-1]).float().log_softmax(-1)
            theirs = head.logits(teacher["states"])
        sums["bits"].append(float(-learnt.gather(1, ids[0, 1:, None]).sum()) / math.log(2))
        ours = learnt[teacher["aligned"]]
        sums["kl"].append(float(torch.nn.functional.kl_div(ours, theirs, reduction="sum", log_target=True)))
        sums["agreement"].append(float((ours.argmax(-1) == theirs.argmax(-1)).sum()))
    of_bytes, of_tokens = [read_bytes(reading, row) for row in rows], [int(teacher["aligned"].sum()) for teacher in said]
    found = {name: estimate(mean_per_token(sums[name], of_bytes if name == "bits" else of_tokens)) for name in SCORES}
    return {name: contest.with_ends(each) for name, each in found.items()}


def read_bytes(reading: Any, row: Any) -> int:
    """The bytes that are predicted in a row: all but its first token."""
    alignment = reading.alignment
    return sum(len(alignment.content.get(token) or alignment.ours.strings[token] or b"") for token in row["input_ids"][1:])
