"""One step of distillation on this process's share of the rows; run by torch.distributed.run with two processes, or alone.

python two_processes.py OUTPUT_FILE BATCH_SIZE
"""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any

import torch
from pico import Rows, arguments, pico, pico_rows, weights

from finetune.distillation.trainer import DistillationTrainer


def main(output: str, batch: int) -> None:
    student = pico("llama", dtype=torch.float64)
    settings: dict[str, Any] = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 2}
    if "WORLD_SIZE" in os.environ:
        settings["ddp_backend"] = "gloo"
    trainer = DistillationTrainer(
        model=student,
        teacher_model=pico("llama", seed=7, dtype=torch.float64),
        args=arguments(tempfile.mkdtemp(), **settings),
        train_dataset=Rows(pico_rows(8)),
        features={"last": 0.1, "layers": "auto", "relations": ["v"]},
    )
    trainer.train()
    if int(os.environ.get("RANK", 0)) == 0:
        torch.save(weights(student), output)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        os._exit(0)  # now and then torch's own threads abort an ordinary exit, long after the step that is tested


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
