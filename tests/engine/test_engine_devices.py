"""Two processes that share a batch take the same step as one that has it all, although their rows hold unequal numbers of tokens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent


def step(output: Path, batch: int, *launcher: str) -> dict[str, torch.Tensor]:
    command = [sys.executable, *launcher, str(HERE / "two_processes.py"), str(output), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=HERE)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(output)


def test_the_loss_is_normalised_over_all_devices(tmp_path) -> None:
    alone = step(tmp_path / "alone.pt", 4)
    together = step(tmp_path / "together.pt", 2, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-9, atol=1e-9)
