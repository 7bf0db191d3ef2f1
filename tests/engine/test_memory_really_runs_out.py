"""A training whose process gets no more memory from the system: the step is made in smaller parts, to the same result."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

WORK = """
import json, resource, sys
sys.path[:0] = {paths!r}
import torch
from datasets import Dataset
from letters import llama, tokenizer
from finetune.data.collator import Collator
from finetune.events import Notice, Recorder
from finetune.models.machine import inspect
from finetune.recipe import Recipe
from finetune.runtime import RuntimeOptions
from finetune.training.session import train
from pathlib import Path

folder, room = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
runtime = RuntimeOptions(device="cpu", dtype="float32", cache_dir=folder / "cache")
machine, words = inspect(runtime), tokenizer()
rows = [{{"input_ids": [6 + (row + place) % 20 for place in range(64)], "length": 64}} for row in range(16)]
rows = Dataset.from_list([{{**row, "labels": row["input_ids"]}} for row in rows])
recipe = Recipe.from_layers({{"method": {{"kind": "full"}}, "training": {{"epochs": 2, "batch_size": 8, "learning_rate": 0.01}}}})

def trained(name):
    recorder = Recorder()
    model = llama(layers=24, intermediate_size=4096)
    outcome = train(model, words, rows, recipe, machine, recorder, folder=folder / name)
    return model, outcome, [notice.text for notice in recorder.of(Notice)]

def data_bytes():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmData"))

roomy, _, said = trained("roomy")
assert not said, said
limit = data_bytes() + (room << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
tight, outcome, said = trained("tight")
apart = max(float((a - b).abs().max()) for a, b in zip(roomy.parameters(), tight.parameters()))
print(json.dumps({{"apart": apart, "steps": outcome.finished.steps, "said": said}}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the limit is Linux's")
def test_a_step_that_the_system_refuses_memory_for_is_made_in_parts(tmp_path: Path) -> None:
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    done = subprocess.run(
        [sys.executable, "-c", WORK.format(paths=paths), str(tmp_path), "600"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["steps"] == 4
    assert found["apart"] < 1e-5
    assert any("did not fit into memory with 8 rows at a time" in notice for notice in found["said"])
