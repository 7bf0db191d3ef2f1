"""A checkpoint in parts read by one process: exactly what was written, or one sentence where its files say something else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from letters import tokenizer
from safetensors import safe_open
from safetensors.torch import save_file
from test_training_loop import RECIPE, adapted, difference, machine, rows

from finetune.errors import CannotResume
from finetune.events import Recorder
from finetune.hardware.machine import Machine
from finetune.recipe import Recipe
from finetune.training.checkpoints import Checkpoint, Checkpoints
from finetune.training.loop import train
from finetune.training.parallel.processes import Processes
from finetune.training.saved_tensors import STATE, WEIGHTS, write_parts

assert machine  # the fixture

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # one process writes what several would

RECIPE_OF_SIX = Recipe.from_layers(RECIPE, {"training": {"save_every": 4}})


@pytest.fixture(scope="module")
def finished(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Checkpoint]:
    """A trained model, and its checkpoint of step 4 with the tensors in parts, in two files."""
    folder, model = tmp_path_factory.mktemp("parts"), adapted()
    train(model, tokenizer(), rows(), RECIPE_OF_SIX, machine, Recorder(), folder=folder)
    (saved,) = [each for each in Checkpoints(folder).all() if each.step == 4]
    weights = torch.load(saved.folder / WEIGHTS, weights_only=True)
    state = torch.load(saved.folder / STATE, weights_only=True)
    numbered = state["optimizer"]["state"]
    tensors = {f"optimizer.{number}.{name}": value for number, each in numbered.items() for name, value in each.items()}
    state["optimizer"]["state"] = {number: {} for number in numbered}
    torch.save(state, saved.folder / STATE)
    (saved.folder / WEIGHTS).unlink()
    write_parts(tensors | {f"weights.{name}": tensor for name, tensor in weights.items()}, saved.folder, Processes())
    halve(next(saved.folder.glob("shard-*")), saved.folder / "shard-00002-model-00001-of-00001.safetensors")
    return model, saved


def halve(path: Path, other: Path) -> None:
    """Move the second half of the rows of each matrix to another file, as another process would have written it."""
    tensors, offsets = read(path)
    matrices = {name: tensor for name, tensor in tensors.items() if tensor.dim() == 2 and len(tensor) > 1}
    cuts = {name: len(tensor) // 2 for name, tensor in matrices.items()}
    write(other, {name: tensor[cuts[name] :] for name, tensor in matrices.items()}, {name: [cut, 0] for name, cut in cuts.items()})
    write(path, {name: tensor[: cuts[name]] if name in cuts else tensor for name, tensor in tensors.items()}, offsets)


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, list[int]]]:
    with safe_open(path, framework="pt") as file:
        told = json.loads(file.metadata()["DCP_SHARDING_INFO"])
        return {name: file.get_tensor(name) for name in told}, {name: each["saved_offsets"] for name, each in told.items()}


def write(path: Path, tensors: Mapping[str, torch.Tensor], offsets: Mapping[str, Any]) -> None:
    told = {name: {"saved_offsets": offsets[name]} for name in tensors}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"DCP_SHARDING_INFO": json.dumps(told)})


def goes_on(start: Checkpoint, machine: Machine, folder: Path) -> Any:
    model = adapted()
    train(model, tokenizer(), rows(), RECIPE_OF_SIX, machine, Recorder(), folder=folder / "on", start=start)
    return model


def test_one_process_goes_on_from_parts_to_the_same_weights(finished: tuple[Any, Checkpoint], machine: Machine, tmp_path: Path) -> None:
    model, start = finished
    assert difference(model, goes_on(start, machine, tmp_path)) == 0


def change(path: Path, name: str, to: str | None = None, offset: Any = None, tensor: torch.Tensor | None = None) -> None:
    """Give a tensor of a file another name, place or content; without any of them it is left out."""
    tensors, offsets = read(path)
    (found,) = [each for each in tensors if each.endswith(name)][:1]
    before, place = tensors.pop(found), offsets.pop(found)
    if to or offset is not None or tensor is not None:
        key = to or found
        tensors[key], offsets[key] = before if tensor is None else tensor, place if offset is None else offset
    write(path, tensors, offsets)


BROKEN: dict[str, Callable[[Path], None]] = {
    "a weight is missing": lambda path: change(path, "lora_A.default.weight"),
    "a weight of another model": lambda path: change(path, "lora_A.default.weight", to="weights.other"),
    "a part is far away": lambda path: change(path, "lora_A.default.weight", offset=[2**40, 0]),
    "a place that is no number": lambda path: change(path, "lora_A.default.weight", offset="nowhere"),
    "a state of no parameter": lambda path: change(path, ".exp_avg", to="optimizer.999.exp_avg"),
    "a state of another size": lambda path: change(path, ".step", tensor=torch.zeros(7), offset=[0]),
    "half a file": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]) and None,
}


@pytest.mark.parametrize("what", BROKEN)
def test_parts_that_say_something_else_are_one_sentence(
    what: str, finished: tuple[Any, Checkpoint], machine: Machine, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished[1].folder, tmp_path / "step-00000004")
    BROKEN[what](folder / "shard-00001-model-00001-of-00001.safetensors")
    with pytest.raises(CannotResume):
        goes_on(Checkpoint(folder, 4, finished[1].facts, finished[1].files), machine, tmp_path)
