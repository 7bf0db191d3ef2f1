"""The folder of a run as it is written down, without a run: recipe, data report, environment, events and scores.

folder = written_run(tmp_path / "model", change={"training": {"epochs": 2}})
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.recipe import Recipe
from finetune.run_folder import FINISHED, RunFolder

ROWS = 24
STEPS = 60
AFTER = 12.3  # perplexity
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "nobody", "looks", "at", "it"]
DATA = {
    "source": "shop/questions.jsonl",
    "pinned_source": None,
    "format": "prompt_completion",
    "columns": ["prompt", "completion"],
    "ignored_columns": ["ticket", "agent"],
    "files": ["shop/questions.jsonl"],
    "read": 250,
    "blank": 2,
    "skipped": 3,
    "skipped_rows": [{"file": "questions.jsonl", "line": line, "reason": "it has no completion"} for line in (7, 80, 81)],
    "ignored_text": {"agent": 0.04},
    "train": 221,
    "held_out": ROWS,
    "held_out_dropped": 1,
    "duplicates": 5,
    "train_tokens": 18_432,
    "supervised_tokens": 6_100,
    "supervised_share": 0.331,
    "truncated": 4,
    "truncated_share": 0.018,
    "length": {"min": 12.0, "mean": 83.4, "p10": 30.0, "p50": 71.0, "p90": 160.0, "p99": 250.0, "max": 256.0},
    "histogram": [{"tokens": 32 * (at + 1), "rows": rows} for at, rows in enumerate((14, 70, 66, 40, 17, 8, 4, 2))],
    "notes": ["2 rows end in blanks."],
}
ENVIRONMENT = {
    "versions": {"python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0"},
    "system": "Linux x86_64",
    "machine": {"cpu": "a CPU", "cores": 2, "memory_bytes": 8 * 2**30, "gpu": None, "dtype": "float32", "device": "cpu"},
    "model": {"name": "HuggingFaceTB/SmolLM2-135M-Instruct", "revision": "abc123", "note": None, "bytes": 1},
    "dataset_fingerprint": "f00",
    "seed": 42,
}
RANKS = {
    f"model.layers.{layer}.{part}": (3 * layer + 5 * at) % 13
    for layer in range(6)
    for at, part in enumerate(
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
    )
}


def written_run(
    output_dir: Path,
    *,
    change: Mapping[str, Any] | None = None,
    shift: float = 0.0,
    rows: int = ROWS,
    teacher: bool = False,
    **more_scores: Any,
) -> RunFolder:
    """`change` goes into the recipe; `shift` is added to each row's ROUGE, and taken from its loss, of the trained model."""
    approach: dict[str, Any] = {"approach": "distillation"} if teacher else {}
    recipe = Recipe.from_layers({"dataset": {"source": "shop/questions.jsonl"}, **approach}, change or {}, {"output_dir": str(output_dir)})
    folder = RunFolder(output_dir)
    folder.run.mkdir(parents=True)
    recipe.save(folder.recipe)
    folder.write_json(folder.data_report, DATA)
    folder.write_json(folder.environment, ENVIRONMENT)
    folder.events.write_text("".join(json.dumps(event) + "\n" for event in events()), encoding="utf-8")
    folder.write_json(folder.benchmark, {**scores(rows, shift, teacher), **more_scores})
    folder.write_stage(FINISHED, training={"steps": STEPS})
    return folder


def scores(rows: int, shift: float, teacher: bool) -> dict[str, Any]:
    """Made from numbers that are the same each time."""
    numbers = random.Random(0)
    rouge = [min(1.0, 0.2 + 0.5 * numbers.random() + shift) for _ in range(rows)]
    tokens = [numbers.randint(4, 30) for _ in range(rows)]
    losses = [count * (2.0 + numbers.random()) for count in tokens]
    fitting = math.log(AFTER) - sum(losses) / sum(tokens) - shift
    losses = [loss + count * fitting for loss, count in zip(losses, tokens, strict=True)]
    mean = sum(rouge) / rows
    values = {"before": {"rougeL": mean - 0.15, "perplexity": 66.1}, "after": {"rougeL": mean, "perplexity": AFTER * math.exp(-shift)}}
    if teacher:
        values["teacher"] = {"rougeL": mean + 0.05, "perplexity": 10.2}
    sentences = [" ".join(numbers.choice(WORDS) for _ in range(numbers.randint(3, 40))) for _ in range(rows)]
    sides = ("teacher", "before", "after") if teacher else ("before", "after")
    generations = [
        {"prompt": f"Question {row}: {text}?", "reference": text[:60], **{side: f"{side} says {text[: 50 + row]}" for side in sides}}
        for row, text in enumerate(sentences)
    ]
    generations[0] |= {"prompt": "def f(x):\n    <script>alert(1)</script>\n    return x & 1", "after": "", "before": "w" * 300}
    return {
        "rows": rows,
        "teacher": None,
        **values,
        "intervals": {side: {key: [0.8 * value, 1.2 * value] for key, value in found.items()} for side, found in values.items()},
        "change": {
            "rougeL": {"difference": 0.15, "low": 0.1, "high": 0.2, "verdict": "better"},
            "perplexity": {"difference": -53.8, "low": -70.0, "high": 2.0, "verdict": "no evidence"},
        },
        "against_teacher": {"rougeL": {"difference": -0.05, "low": -0.09, "high": -0.01, "verdict": "worse"}} if teacher else None,
        "retention": {"rougeL": {"value": 0.93, "low": 0.85, "high": 1.02}} if teacher else None,
        "speed": {side: {"tokens_per_second": 123.4, "peak_memory_bytes": 2 * 10**9} for side in sides},
        "size": {side: {"parameters": 134_515_008, "bytes_on_disk": 360 * 10**6} for side in sides},
        "per_row": {"rougeL": rouge, "loss": losses, "tokens": tokens},
        "generations": generations,
    }


def events() -> list[dict[str, Any]]:
    """A training that was interrupted after step 40 and made steps 31 to 40 again, with other losses."""
    numbers = random.Random(1)

    def step(number: int, extra: float = 0.0) -> dict[str, Any]:
        loss = 2.0 + 2.0 / number + 0.3 * numbers.random() + extra
        return {"event": "step", "time": 1_790_000_000 + number, "step": number, "loss": loss, "tokens_per_second": 300 + number}

    return [
        {"event": "stage_started", "time": 1_790_000_000, "stage": "training", "title": "Training"},
        *(step(number, extra=90.0 if number > 30 else 0.0) for number in range(1, 41)),
        {"event": "checkpoint", "step": 30, "total_steps": STEPS, "bytes": 1, "seconds": 0.1},
        {"event": "notice", "text": "Step 12 did not fit <into> memory.", "level": "warning"},
        {"event": "resumed", "step": 30, "total_steps": STEPS},
        *(step(number) for number in range(31, STEPS + 1)),
        {
            "event": "training",
            "steps": STEPS,
            "train_seconds": 147.0,
            "real_tokens": 53_837,
            "tokens_per_second": 366.2,
            "supervised_tokens": 4_659,
            "peak_memory_bytes": 25 * 10**8,
            "trainable_parameters": 4_884_480,
            "parameters": 139_399_488,
            "first_loss": 3.7351,
            "final_loss": 2.4715,
        },
        {"event": "stage_finished", "stage": "training", "seconds": 147.6, "summary": ""},
    ]
