"""Distillation, speed and memory: this project against the textbook recipe, TRL's GKDTrainer, and plain fine-tuning of the student.

    pip install -e .[bench]
    python benchmarks/distillation.py                      # synthetic word problems with the lengths of gsm8k
    python benchmarks/distillation.py --rows gsm8k.jsonl   # rows with question and answer
    python benchmarks/distillation.py --packed             # the same tokens in blocks of 256
    python benchmarks/distillation.py --loss               # the loss alone, vocabularies of 32k to 256k

Teacher: the starter model. Student: 10 of its 30 layers, made on the spot, the same for all. Batches of 4 rows of at most 512 tokens,
every token supervised. Every contender has a process of its own; rounds are interleaved, so that a machine that slows down slows all of
them. Every weight of the student trains, except where a row says that embeddings and head are frozen (the gradient cache asks for it).
TRL's loss is KL alone, at temperature 1; the textbook's and ours are 0.5 CE + 0.5 KL at temperature 2. The seconds are those of the
training alone: ours without the checkpoint it writes at the end, the others without any.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path
from typing import Any

import contest
import distillation_loss

BATCH, LENGTH, BLOCK, LAYERS, TEMPERATURE, ALPHA = 4, 512, 256, 10, 2.0, 0.5
TRL, TUNING = "TRL GKDTrainer, off-policy", "fine-tuning, Trainer"
CONTENDERS = {
    "textbook, padded to 512": "float32",
    "textbook, dynamic padding": "float32",
    TRL: "float32",
    TUNING: "float32",
    "fine-tuning, Trainer, grouped by length": "float32",
    "fine-tuning, Trainer, grouped, head frozen": "float32",
    "this project, online": "float32",
    "this project, hidden cache": "float32",
    "this project, hidden cache, head frozen": "float32",
    "this project, gradient cache, head frozen": "float32",
    "the same in the fastest dtype": "auto",
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rows", type=Path, help="a .jsonl file with question and answer")
    arguments.add_argument("--count", type=int, default=32, help="rows per round")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--only", help="contenders whose name contains this")
    arguments.add_argument("--packed", action="store_true", help=f"blocks of {BLOCK} tokens instead of rows")
    arguments.add_argument("--loss", action="store_true", help="measure the loss alone")
    arguments.add_argument("--vocabulary", type=int, action="append", help="with --loss: this size alone; may be given several times")
    arguments.add_argument("--worker", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.loss:
        distillation_loss.main(given.worker, given.rounds, given.only or "", given.vocabulary or distillation_loss.VOCABULARIES)
        return
    if given.worker:
        print(contest.MARK + json.dumps(work(given.worker, contest.rows(given.rows, given.count), packed=given.packed)))
        return
    names = [name for name in CONTENDERS if (not given.only or given.only in name) and not (given.packed and needless(name))]
    found = contest.interleave(__file__, names, given.rounds, sys.argv[1:])
    contest.table(found, reference=TUNING)
    from_nothing(found)


def needless(name: str) -> bool:
    """Contenders that differ from another one by what they do about rows of unequal length."""
    return "padded to" in name or name.endswith("grouped by length")


def from_nothing(found: dict[str, list[dict[str, Any]]]) -> None:
    """What the caches cost, and three epochs with them: computed from the measured parts."""

    def middle(name: str, key: str) -> float:
        return float(statistics.median(result[key] for result in found[name]))

    head = f"{'cache s':>10}{'cache MiB':>13}{'GiB then':>10}{'epoch s':>10}{'CPU s':>8}{'total s':>10}{'x TRL':>8}"
    print(f"\n{'three epochs from nothing':<42}{head}")
    totals = {name: middle(name, "cache seconds") + 3 * middle(name, "seconds") for name, results in found.items() if results}
    for name, total in totals.items():
        shown = "".join(
            f"{middle(name, key) / unit:>{width}.{digits}f}"
            for key, unit, width, digits in (
                ("cache seconds", 1, 10, 1),
                ("cache bytes", 2**20, 13, 1),
                ("cache peak bytes", 2**30, 10, 2),
                ("seconds", 1, 10, 1),
                ("cpu seconds", 1, 8, 1),
            )
        )
        ratio = f"{totals[TRL] / total:.2f}" if TRL in totals else "-"
        print(f"{name:<42}{shown}{total:>10.1f}{ratio:>8}")


def work(name: str, rows: list[dict[str, str]], *, packed: bool) -> dict[str, Any]:
    """One contender, one round, in this process."""
    import torch
    from transformers import set_seed

    from finetune.distillation.students.making import make_student
    from finetune.hardware.machine import inspect
    from finetune.recipe.settings import FromTeacher
    from finetune.runtime import RuntimeOptions

    machine = inspect(RuntimeOptions(dtype=CONTENDERS[name]))
    ours = name.startswith(("this project", "the same"))
    tokenizer, teacher = contest.starter(machine, ours=ours)
    dataset = contest.tokenised(rows, tokenizer, LENGTH, supervise="all")
    if packed:
        dataset = blocks(dataset)
    set_seed(0)
    student = make_student(teacher, FromTeacher(layers=LAYERS), dataset).model
    asking = contest.Watch()
    cache_bytes, saving = 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        if ours:
            from finetune.distillation.caches.builder import build_cache
            from finetune.distillation.prepare import DistillationSetup
            from finetune.distillation.teachers.model_or_cache import Teacher
            from finetune.events import CheckpointSaved, Recorder
            from finetune.methods.full import Full
            from finetune.recipe import Recipe
            from finetune.training.head import head_of
            from finetune.training.loop import train

            recipe = Recipe.from_layers(
                {
                    "approach": "distillation",
                    "method": {"kind": "full", "freeze": "none" if name.endswith(("online", "hidden cache")) else "head"},
                    "training": {"batch_size": BATCH, "epochs": 1, "learning_rate": 2e-4},
                    "distillation": {"temperature": TEMPERATURE, "alpha": ALPHA},
                }
            )
            method: Any = recipe.method
            Full().attach(student, method, contest.context())
            cache = None
            if not name.endswith("online"):
                gradient: dict[str, Any] = {} if "hidden cache" in name else {"student_head": head_of(student), "temperature": TEMPERATURE}
                with asking:
                    cache = build_cache("gradient" if gradient else "hidden", teacher, dataset, folder, **gradient)
                cache_bytes, teacher = cache.nbytes, None
            setup, recorder = DistillationSetup(recipe.distillation, [Teacher(teacher, cache)]), Recorder()
            with Busy() as busy, contest.Watch() as watch:
                train(student, tokenizer, dataset, recipe, machine, recorder, folder=Path(folder), make_trainer=setup.trainer)
            saving = sum(saved.seconds for saved in recorder.of(CheckpointSaved))  # the others save nothing
        else:
            trainer = rival(name, student, teacher, tokenizer, dataset, folder)
            if name.startswith("fine-tuning"):
                teacher = None
            with Busy() as busy, contest.Watch() as watch:
                trainer.train()
    return {
        "tokens": sum(dataset["length"]),
        "seconds": watch.seconds - saving,
        "cpu seconds": busy.seconds,
        "peak_bytes": watch.peak_bytes,
        "cache seconds": asking.seconds,
        "cache peak bytes": asking.peak_bytes,
        "cache bytes": cache_bytes,
        "dtype": machine.dtype,
        "threads": torch.get_num_threads(),
    }


class Busy:
    """Processor seconds of all threads: what remains comparable on a machine that others use too."""

    seconds = 0.0

    def __enter__(self) -> Busy:
        self.seconds = -time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.process_time()


def rival(name: str, student: Any, teacher: Any, tokenizer: Any, dataset: Any, folder: str) -> Any:
    """The trainer of everyone else, with the same arguments."""
    from torch import no_grad
    from torch.nn import KLDivLoss
    from torch.nn.functional import log_softmax, softmax
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    class Textbook(Trainer):
        """The recipe of the tutorials: the full logits of both models, KLDivLoss over all of them."""

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            outputs = model(**inputs)
            with no_grad():
                taught = teacher(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
            soft = KLDivLoss(reduction="batchmean")(log_softmax(outputs.logits / TEMPERATURE, -1), softmax(taught / TEMPERATURE, -1))
            loss = ALPHA * outputs.loss + (1 - ALPHA) * TEMPERATURE**2 * soft
            return (loss, outputs) if return_outputs else loss

    settings: dict[str, Any] = {
        "output_dir": folder,
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": 1,
        "learning_rate": 2e-4,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": next(student.parameters()).device.type == "cpu",
        "dataloader_pin_memory": False,
        "logging_steps": 1,
        "bf16": False,
    }
    student.train()
    fixed = {"padding": "max_length", "max_length": LENGTH} if "padded to" in name else {"padding": True}
    collator = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100, **fixed)
    if name == TRL:
        from trl.experimental.gkd import GKDConfig, GKDTrainer

        config = GKDConfig(lmbda=0.0, beta=0.0, temperature=1.0, max_length=LENGTH, activation_checkpointing=False, **settings)
        return GKDTrainer(
            student,
            teacher,
            config,
            data_collator=collator,
            train_dataset=dataset.remove_columns("length"),
            processing_class=tokenizer,
        )
    if "frozen" in name:
        student.get_input_embeddings().requires_grad_(False)
    if "grouped" in name:
        settings |= {"train_sampling_strategy": "group_by_length", "length_column_name": "length"}
    trainer = Trainer if name.startswith("fine-tuning") else Textbook
    return trainer(student, TrainingArguments(**settings), data_collator=collator, train_dataset=dataset)


def blocks(dataset: Any) -> Any:
    """All rows end to end, cut into blocks; what is left over at the end is dropped."""
    from datasets import Dataset

    tokens = list(chain.from_iterable(dataset["input_ids"]))
    cut = [tokens[start : start + BLOCK] for start in range(0, len(tokens) - BLOCK + 1, BLOCK)]
    return Dataset.from_list([{"input_ids": block, "labels": block, "length": BLOCK} for block in cut])


if __name__ == "__main__":
    main()
