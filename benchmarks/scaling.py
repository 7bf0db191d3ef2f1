"""Strong and weak scaling on CPUs: one and two processes with one thread each, exchanging gradients by gloo.

python benchmarks/scaling.py              # about two minutes on two cores with nothing else to do

Strong: the same rows per step, shared. Weak: as many rows for each process as one had. A step's time is the median after the first two;
`waiting` is the share of it until the slowest process has its gradient, `exchange` that of adding gradients up. The processor's time of a
process is what its step costs where nothing else runs; the two differ where others use the cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.training.parallel.processes import Processes

STEPS, SKIPPED = 10, 2
ROWS = 8  # of a step of one process
SHORTEST, LONGEST = 32, 96  # tokens
SIZE: dict[str, Any] = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 6, "vocab_size": 8192}


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    import torch

    torch.set_num_threads(1)
    print("| method | rows per step | processes | s per step | CPU s of a process | speed-up | waiting | exchange | gradients |")
    print("|---|---|---|---|---|---|---|---|---|")
    for method in ("lora", "full"):
        alone = measured(method, 1, ROWS)
        for name, processes, rows in (("", 1, ROWS), ("strong", 2, ROWS), ("weak", 2, 2 * ROWS)):
            found = alone if processes == 1 else measured(method, processes, rows)
            gain = alone["step"] / found["step"] * rows / ROWS
            shares = f"{found['waiting'] / found['step']:.1%} | {found['exchange'] / found['step']:.1%}"
            sent = f"{found['bytes'] / 1e6:.1f} MB"
            seconds = f"{found['step']:.2f} | {found['processor']:.2f}"
            print(f"| {method} | {rows} {name} | {processes} | {seconds} | {gain:.2f} | {shares} | {sent} |", flush=True)


def measured(method: str, processes: int, rows: int) -> dict[str, float]:
    """The means over the processes of what each measured."""
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for rank in range(processes):
            if (pid := os.fork()) == 0:
                work(method, processes, rank, rows, Path(folder))
                os._exit(0)
            children.append(pid)
        assert not any(os.waitpid(pid, 0)[1] for pid in children)
        found = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(processes)]
    return {name: statistics.mean(each[name] for each in found) for name in found[0]}


def work(method: str, processes: int, rank: int, rows: int, folder: Path) -> None:
    import torch.distributed as dist
    from transformers import TrainerCallback, TrainingArguments

    from finetune.training.trainer import SupervisedTrainer

    class Watched(Clock, TrainerCallback):
        """The clock, as the Trainer wants it."""

    log = os.open(folder / f"{rank}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if processes > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=processes)
    clock = Watched()
    trainer = SupervisedTrainer(
        model=model_of(method),
        args=TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=rows // processes,
            max_steps=STEPS,
            learning_rate=1e-4,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            ddp_backend="gloo" if processes > 1 else None,
        ),
        train_dataset=random_rows(rows * STEPS),
        callbacks=[clock],
    )
    clock.watch(trainer)
    trainer.train()
    learning = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    (folder / f"{rank}.json").write_text(json.dumps({**clock.found(), "bytes": 4 * learning}))


def model_of(method: str) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(LlamaConfig(**SIZE, tie_word_embeddings=True))
    return model if method == "full" else get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))


def random_rows(count: int) -> list[dict[str, list[int]]]:
    import torch

    chance = torch.Generator().manual_seed(1)
    lengths = torch.randint(SHORTEST, LONGEST + 1, (count,), generator=chance).tolist()
    tokens = [torch.randint(3, SIZE["vocab_size"], (length,), generator=chance).tolist() for length in lengths]
    return [{"input_ids": row, "labels": row} for row in tokens]


class Clock:
    """Seconds of each step, and those that its process spent in waiting and in the exchange."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, float, float, float]] = []
        self.spent = {"waiting": 0.0, "exchange": 0.0}

    def watch(self, trainer: Any) -> None:
        processes: Processes = trainer.processes
        if processes.size > 1:
            processes.sum = self.timed("waiting", processes.sum)  # type: ignore[method-assign]
            processes.add_gradients = self.timed("exchange", processes.add_gradients)  # type: ignore[method-assign]

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*arguments: Any) -> Any:
            began = time.perf_counter()
            result = call(*arguments)
            self.spent[name] += time.perf_counter() - began
            return result

        return inner

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began, self.worked = time.perf_counter(), time.process_time()
        self.spent = dict.fromkeys(self.spent, 0.0)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        seconds = (time.perf_counter() - self.began, time.process_time() - self.worked)
        self.steps.append((*seconds, self.spent["waiting"], self.spent["exchange"]))

    def found(self) -> dict[str, float]:
        columns = zip(*self.steps[SKIPPED:], strict=True)
        return dict(zip(("step", "processor", "waiting", "exchange"), map(statistics.median, columns), strict=True))


if __name__ == "__main__":
    main()
