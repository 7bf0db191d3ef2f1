"""Somebody's own script with a DistillationTrainer: a few steps and an evaluation, by one process, or by two that accelerate has set up.

told = distilled("llama", folder)         # the losses of the steps, and the numbers of each evaluation
both({"model": "llama", "by": "fsdp", "folder": ...})       # the same by two, in told-0.json and told-1.json

They share the rows, or a library shares more: "fsdp" cuts the model, "deepspeed-2" the gradients and the optimizer.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pico import pico, pico_rows
from torch.utils.data import IterableDataset

ROWS, ASKED = pico_rows(8), pico_rows(8, seed=9)
COUNTS = (2, 5, 6, 7, 8)  # how many of the second are evaluated: two processes take four at a time; of two rows one has none
DEEPSPEED = dict.fromkeys(
    ("train_micro_batch_size_per_gpu", "train_batch_size", "gradient_accumulation_steps", "gradient_clipping"), "auto"
)
LAYERS = {"llama": "LlamaDecoderLayer", "qwen3": "Qwen3DecoderLayer"}


class Stream(IterableDataset[Any]):
    """Rows without a length, which two processes have to share all the same."""

    def __iter__(self) -> Iterator[Any]:
        return iter(ROWS)


def distilled(name: str, folder: Path, *, processes: int = 1, by: str = "", streamed: bool = False) -> dict[str, Any]:
    from transformers import PrinterCallback, TrainingArguments

    from finetune.distillation.trainer import DistillationTrainer

    libraries: dict[str, dict[str, Any]] = {
        "": {},
        "fsdp": {"fsdp": True, "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": [LAYERS[name]]}},
        **{f"deepspeed-{stage}": {"deepspeed": {**DEEPSPEED, "zero_optimization": {"stage": stage}}} for stage in (1, 2)},
    }
    quiet: dict[str, Any] = {"report_to": [], "disable_tqdm": True, "save_strategy": "no", "train_sampling_strategy": "sequential"}
    each = {"per_device_train_batch_size": 4 // processes, "per_device_eval_batch_size": 2, "max_steps": 3, "logging_steps": 1}
    arguments = TrainingArguments(str(folder), use_cpu=True, **each, **quiet, **libraries[by])
    trainer = DistillationTrainer(pico(name), arguments, teacher_model=pico(name, seed=3), train_dataset=Stream() if streamed else ROWS)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    told = {}
    for count in COUNTS:
        found = trainer.evaluate(ASKED[:count])
        told[str(count)] = {name: found[name] for name in ("eval_loss", "eval_ce", "eval_kl")} | {"tokens": trainer.evaluated_tokens}
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    kind = str(trainer.accelerator.distributed_type.value)
    return {"evaluated": told, "losses": losses, "kind": kind}


def both(job: dict[str, Any]) -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    second = os.fork()
    rank = int(second == 0)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    code = 1
    try:
        if job["by"] == "fsdp":
            on_processors()
        os.environ["DS_ACCELERATOR"] = "cpu"  # of DeepSpeed
        folder = Path(job["folder"])
        told = distilled(job["model"], folder, processes=2, by=job["by"], streamed=job["streamed"])
        (folder / f"told-{rank}.json").write_text(json.dumps(told))
        code = 0
    finally:
        if sys.exc_info()[0]:
            traceback.print_exc()
        if rank:
            os._exit(code)
    return code or os.waitstatus_to_exitcode(os.waitpid(second, 0)[1])


def on_processors() -> None:
    """Have accelerate cut models on CPUs too, where it silently does not."""
    from accelerate.state import AcceleratorState, DistributedType

    made, plugins = AcceleratorState.__init__, list[Any]()

    def make(state: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        made(state, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        plugins.extend([] if fsdp_plugin is None else [fsdp_plugin])
        if plugins:
            state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, plugins[0]

    AcceleratorState.__init__ = make  # type: ignore[method-assign]
