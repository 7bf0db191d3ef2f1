"""Ray Train with our workers: `python -m finetune.engines.ray_agent WORKPLACE OPTIONS`, these in JSON.

Ray places the workers, notices when one is lost, and then starts all of them again, as often as `retries` says: they continue from the last
checkpoint. An error of ours is not tried again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from finetune.engines.worker import by_ray, watch_parent
from finetune.engines.workplace import Lines, Workplace
from finetune.errors import TrainingError
from finetune.events import Notice
from finetune.foreign import reason


def main(folder: str, told: str) -> int:
    options, places = json.loads(told), Workplace(Path(folder))
    said = Lines(places.events("launcher"), everything=True)
    gpu = places.device == "cuda"
    ray.init(include_dashboard=False, log_to_driver=False)
    there = int(ray.cluster_resources().get("GPU" if gpu else "CPU", 0))
    if there < options["workers"]:
        what = "GPUs" if gpu else "processors"
        said.report(Notice(f"Ray has {there} {what} for {options['workers']} workers: it waits for more of them.", "warning"))
    trainer: Any = TorchTrainer(
        by_ray,
        train_loop_config={"folder": folder},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=options["workers"], use_gpu=gpu),
        run_config=RunConfig(
            name="training", storage_path=str(places.folder / "ray"), failure_config=FailureConfig(max_failures=options["retries"])
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        said.failed(TrainingError(f"Ray lost workers {options['retries'] + 1} times.", hint=f"The last was: {reason(error)}"))
        return 1
    finally:
        ray.shutdown()
    return 1 if places.failed.exists() else 0


if __name__ == "__main__":
    watch_parent()
    sys.exit(main(*sys.argv[1:]))
