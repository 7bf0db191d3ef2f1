"""LoRA fine-tuning, speed and memory: this project against transformers.Trainer + peft and against TRL's SFTTrainer.

    pip install -e .[bench]
    python benchmarks/finetuning.py                      # synthetic word problems with the lengths of gsm8k
    python benchmarks/finetuning.py --rows gsm8k.jsonl   # rows with question and answer

Every contender trains the same tokenised rows (batch 4, at most 512 tokens, LoRA r 16 on all linear layers, loss on the answer) in
a process of its own; rounds are interleaved, so that a machine that slows down slows all of them. Printed: real tokens a second (padding
is not counted), peak memory of the process, and the share of the machine's own matrix-product rate that is reached.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import contest

BATCH, LENGTH, RANK = 4, 512, 16
CONTENDERS = {
    "this project": "float32",
    "this project, fastest dtype": "auto",
    "Trainer + peft, dynamic padding": "float32",
    "Trainer + peft, dynamic padding, bf16": "bfloat16",
    "Trainer + peft, padded to 512": "float32",
    "TRL SFTTrainer": "float32",
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rows", type=Path, help="a .jsonl file with question and answer")
    arguments.add_argument("--count", type=int, default=48, help="rows per round")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--only", help="contenders whose name contains this")
    arguments.add_argument("--worker", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.worker:
        with tempfile.TemporaryDirectory() as folder:
            print(contest.MARK + json.dumps(work(given.worker, contest.rows(given.rows, given.count), folder)))
        return
    names = [name for name in CONTENDERS if not given.only or given.only in name]
    found = contest.interleave(__file__, names, given.rounds, sys.argv[1:])
    contest.table(found, reference="Trainer + peft, dynamic padding")


def work(name: str, rows: list[dict[str, str]], folder: str) -> dict[str, Any]:
    """One contender, one round, in this process."""
    if name.startswith("this project"):
        import finetune  # noqa: F401  before torch, as in the program: it bounds how long threads spin

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments, set_seed

    from finetune.hardware.machine import inspect
    from finetune.methods.lora import LoRA
    from finetune.runtime import RuntimeOptions

    machine = inspect(RuntimeOptions(dtype=CONTENDERS[name]))
    ours = name.startswith("this project")
    tokenizer, model = contest.starter(machine, ours=ours)
    dataset = contest.tokenised(rows, tokenizer, LENGTH)
    settings: dict[str, Any] = {
        "output_dir": folder,
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": 1,
        "learning_rate": 2e-4,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": machine.device == "cpu",
        "dataloader_pin_memory": False,
        "logging_steps": 1,
        "bf16": machine.dtype == "bfloat16",
    }
    set_seed(0)
    if ours:
        from finetune.events import Recorder
        from finetune.recipe import Recipe
        from finetune.training.loop import train

        recipe = Recipe.from_layers({"training": {"batch_size": BATCH, "epochs": 1}})
        method: Any = recipe.method
        model = LoRA().attach(model, method, contest.context())
        with contest.Watch() as watch:
            train(model, tokenizer, dataset, recipe, machine, Recorder(), folder=Path(folder))
    else:
        lora = LoraConfig(r=RANK, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM")
        if name == "TRL SFTTrainer":
            from trl import SFTConfig, SFTTrainer

            masked = dataset.map(
                lambda row: {"completion_mask": [int(label != -100) for label in row["labels"]]}, remove_columns=["labels"]
            )
            config = SFTConfig(max_length=LENGTH, activation_checkpointing=False, **settings)
            trainer: Trainer = SFTTrainer(model=model, args=config, train_dataset=masked, processing_class=tokenizer, peft_config=lora)
        else:
            fixed = {"padding": "max_length", "max_length": LENGTH} if "padded" in name else {"padding": True}
            collator = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100, **fixed)
            columns = dataset.remove_columns("length")
            arguments = TrainingArguments(**settings)
            trainer = Trainer(model=get_peft_model(model, lora), args=arguments, train_dataset=columns, data_collator=collator)
        with contest.Watch() as watch:
            trainer.train()
    tokens = sum(dataset["length"])
    labels = sum(label != -100 for row in dataset["labels"] for label in row)
    embeddings = model.get_input_embeddings().weight.numel()
    body = sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad) - embeddings
    products = tokens * 4 * body + labels * 4 * embeddings
    share = products / watch.seconds / 1e9 / machine.gflops[machine.dtype]
    return {
        "tokens": tokens,
        "seconds": watch.seconds,
        "peak_bytes": watch.peak_bytes,
        "share of matrix rate": share,
        "dtype": machine.dtype,
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    main()
