"""The output folder of a finished run, made in a second: an adapter or a whole model, and every file that a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from letters import llama, tokenizer
from peft import LoraConfig, get_peft_model

from finetune.recipe import Recipe
from finetune.run_folder import RunFolder

SCORES: dict[str, Any] = {
    "rows": 12,
    "before": {"rouge1": 0.2, "rouge2": 0.1, "rougeL": 0.18, "perplexity": 30.0},
    "after": {"rouge1": 0.4, "rouge2": 0.3, "rougeL": 0.37, "perplexity": 12.5},
    "teacher": None,
    "retention": None,
    "intervals": {
        side: {metric: [low, high] for metric, (low, high) in ends.items()}
        for side, ends in {
            "before": {"rouge1": (0.1, 0.3), "rouge2": (0, 0.2), "rougeL": (0.1, 0.3), "perplexity": (20, 40)},
            "after": {"rouge1": (0.3, 0.5), "rouge2": (0.2, 0.4), "rougeL": (0.3, 0.44), "perplexity": (10, 15)},
        }.items()
    },
    "change": {"rougeL": {"difference": 0.19, "low": 0.1, "high": 0.25, "verdict": "better"}},
    "speed": {},
    "generations": [
        {"prompt": "what is a cat?", "reference": "an animal", "before": "```\nescape", "after": "an animal."},
        {"prompt": "who?", "reference": "me", "before": "", "after": "me"},
    ],
}


def base_folder(folder: Path, **shape: int) -> Path:
    """A whole pico model with its tokenizer."""
    llama(seed=1, **shape).save_pretrained(folder)
    tokenizer(chat=True).save_pretrained(folder)
    return folder


def finished_run(folder: Path, base: Path, recipe: Recipe, *, adapter: bool = True, **shape: int) -> RunFolder:
    """As after `tuner.run()`; the adapter's config names the base by its path on this machine, as peft writes it."""
    model: Any = llama(seed=1, **shape)
    model.name_or_path = str(base)
    if adapter:
        torch.manual_seed(5)
        model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False))
    model.save_pretrained(folder)
    tokenizer(chat=True).save_pretrained(folder)
    run = RunFolder(folder)
    run.run.mkdir(exist_ok=True)
    recipe.with_changes({"output_dir": str(folder)}).save(run.recipe)
    run.write_json(run.benchmark, SCORES)
    run.write_json(run.data_report, {"train": 90, "held_out": 12, "template": "chat", "files": [str(folder / "letters.jsonl")]})
    run.write_json(run.environment, {"machine": {"cpu": "a CPU", "gpu": None, "dtype": "float32"}, "cwd": str(folder)})
    training = {"event": "training", "steps": 8, "train_seconds": 3.0, "real_tokens": 4000, "trainable_parameters": 1024}
    training |= {"parameters": 20000, "first_loss": 3.5, "final_loss": 1.25}
    run.events.write_text(json.dumps({"event": "stage_started"}) + "\n" + json.dumps(training) + "\n")
    run.debug_log.write_text("secret noise\n")
    (run.checkpoints / "checkpoint-8").mkdir(parents=True)
    (run.checkpoints / "checkpoint-8" / "model.safetensors").write_bytes(b"x" * 100)
    (folder / "letters.jsonl").write_text('{"prompt": "private", "completion": "data"}\n')
    return run
