"""A training whose process gets no more memory from the system: the step is made in smaller parts, to the same result."""

from __future__ import annotations

import json
import os
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
from finetune.data.tokens.collator import Collator
from finetune.events import Notice, Recorder
from finetune.hardware.machine import inspect
from finetune.recipe import Recipe
from finetune.runtime import RuntimeOptions
from finetune.training.loop import train
from pathlib import Path

folder = Path(sys.argv[1])
torch.set_num_threads(1)
runtime = RuntimeOptions(device="cpu", dtype="float32", cache_dir=folder / "cache")
machine, words = inspect(runtime), tokenizer()
rows = [{{"input_ids": [6 + (row + place) % 20 for place in range(64)], "length": 64}} for row in range(16)]
rows = Dataset.from_list([{{**row, "labels": row["input_ids"]}} for row in rows])
recipe = Recipe.from_layers({{"method": {{"kind": "full"}}, "training": {{"epochs": 1, "batch_size": 8, "learning_rate": 0.01}}}})

def trained(name):
    recorder = Recorder()
    model = llama(layers=24, intermediate_size=4096)
    outcome = train(model, words, rows, recipe, machine, recorder, folder=folder / name)
    return model, outcome, [notice.text for notice in recorder.of(Notice)]

def mapped():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmSize"))

def refuses(bytes):
    try:
        torch.empty(bytes, dtype=torch.uint8)  # asked for, never written: no memory is really taken
    except RuntimeError:
        return True
    return False

roomy, _, said = trained("roomy")
assert not said, said
start = mapped()
for room in (600, 450, 300):
    limit = start + (room << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    if not refuses(2 * room << 20):
        print(json.dumps("no limit"))
        sys.exit()
    tight, outcome, said = trained(str(room))
    if said:
        break
apart = max(float((a - b).abs().max()) for a, b in zip(roomy.parameters(), tight.parameters()))
print(json.dumps({{"apart": apart, "steps": outcome.finished.steps, "said": said}}))
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the limit is Linux's")
def test_a_step_that_the_system_refuses_memory_for_is_made_in_parts(tmp_path: Path) -> None:
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    done = subprocess.run(
        [sys.executable, "-c", WORK.format(paths=paths), str(tmp_path)],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},  # freed tensors go back to the system, where the limit sees them
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    if found == "no limit":
        pytest.skip("this system gives a process more memory than its limit")
    assert found["steps"] == 2
    assert found["apart"] < 1e-5
    assert any("ran out of memory with 8 rows at a time" in notice for notice in found["said"])
