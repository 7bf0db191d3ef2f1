"""The tensors of a training on disk: in two files of the one process that writes, or in files of each process that has a part of them.

    take_weights(model, checkpoint.folder, everything=False)      # whichever it is

    known = write_parts(tensors, folder, processes)     # all processes together: each its part; afterwards all know every file's hash
    read_parts(tensors, folder)                         # each by itself, whatever part it has now: any number of processes, or one

Parts are safetensors files of torch.distributed.checkpoint, which state where in a tensor each piece belongs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor

from finetune.system.storage import file_hash
from finetune.training.checkpoints import Checkpoint, Files, Parts
from finetune.training.parallel.processes import Processes

WEIGHTS, STATE = "weights.pt", "state.pt"
PART = "shard-*.safetensors"  # so torch.distributed.checkpoint calls them
AT_ONCE = 2**30  # bytes of whole tensors whose parts share a file: while one is written, its process holds it twice


def weights_of(model: Any, *, everything: bool) -> dict[str, Tensor]:
    """What is kept of a model in a checkpoint, by name: all of it, or what trains."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if everything or parameter.requires_grad}


@torch.no_grad()
def take_weights(model: Any, folder: Path, *, everything: bool) -> None:
    """Give a model the weights of a checkpoint of its training; what only the training needed stays there.

    Raises ValueError for a checkpoint of another model or method.
    """
    ours = weights_of(model, everything=everything)
    if in_parts(folder):
        named = {f"weights.{name}": tensor for name, tensor in ours.items()}
        _check_same(named, {name: size for name, (size, _) in sizes_of(folder).items() if name.startswith("weights.")})
        read_parts(named, folder)
        return
    saved = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    _check_same(ours, {name: tensor.shape for name, tensor in saved.items()})
    for name, tensor in ours.items():
        tensor.copy_(saved[name])


def _check_same(ours: Mapping[str, Tensor], theirs: Mapping[str, torch.Size]) -> None:
    if {name: tensor.shape for name, tensor in ours.items()} != dict(theirs):
        raise ValueError("its weights are from a different model or method")


def in_parts(folder: Path) -> bool:
    """Whether the tensors of a checkpoint are in files of several processes."""
    return any(folder.glob(PART))


def write_parts(tensors: Mapping[str, Tensor], folder: Path, processes: Processes) -> Files:
    """Write what this process has of `tensors`, all of them at the same time; raises in each what went wrong in one of them.

    Returns size and SHA-256 of the files of all.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    numbers, filled = {}, 0
    for name, tensor in tensors.items():
        numbers[name] = filled // AT_ONCE + 1
        filled += tensor.nbytes
    with _plain_errors():
        save(
            dict(tensors),
            storage_writer=HuggingFaceStorageWriter(str(folder), numbers, save_distributed=True),
        )
    ours = folder.glob(PART.replace("*", f"{processes.rank + 1:05d}-*"))
    known = {path.name: {"bytes": path.stat().st_size, "sha256": file_hash(path)} for path in ours}
    return {name: facts for files in processes.gather(known) for name, facts in files.items()}


def write_together(tensors: Mapping[str, Tensor], processes: Processes, write: Callable[[Parts], Checkpoint]) -> Checkpoint | None:
    """Have the first process `write` a checkpoint; its `parts` are written by all of them, as often as it asks for them.

    The others have no checkpoint, and leave errors to the first.
    """

    def everybody(folder: Path | None) -> Files:
        folder = processes.gather(folder)[0]
        return {} if folder is None else write_parts(tensors, folder, processes)

    if processes.first:
        try:
            return write(everybody)
        finally:
            everybody(None)
    while True:
        try:
            if not everybody(None):
                return None
        except OSError:
            continue


def read_parts(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Fill `tensors`, or what this process has of them; raises ValueError or RuntimeError for one that the files lack."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    with _plain_errors(), catch_warnings():
        simplefilter("ignore")  # "assuming the intent is to load in a single process"
        load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)


def sizes_of(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Size and dtype of each tensor in the parts of a folder; raises ValueError where some of one are missing."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    known: Any = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    for name, each in known.items():
        if sum(chunk.sizes.numel() for chunk in each.chunks) != each.size.numel():
            raise ValueError(f"parts of {name} are missing")
    return {name: (each.size, each.properties.dtype) for name, each in known.items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of an optimizer by name, and the rest of its state."""
    state = optimizer.state_dict()
    named = {(number, name): value for number, each in state["state"].items() for name, value in each.items()}
    tensors = {f"optimizer.{number}.{name}": value for (number, name), value in named.items() if isinstance(value, Tensor)}
    rest: dict[int, dict[str, Any]] = {number: {} for number in state["state"]}
    for (number, name), value in named.items():
        if not isinstance(value, Tensor):
            rest[number][name] = value
    return tensors, {**state, "state": rest}


def read_optimizer(rest: Mapping[str, Any], optimizer: torch.optim.Optimizer, folder: Path) -> dict[str, Any]:
    """The state of an optimizer out of parts, `rest` being what is no tensor: whole, or cut as its parameters are now."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {number: dict(each) for number, each in rest["state"].items()}
    tensors = {}
    for key, (size, dtype) in sizes_of(folder).items():
        if found := re.fullmatch(r"optimizer\.(\d+)\.(\w+)", key):
            number, name = int(found[1]), found[2]
            parameter = parameters[number].detach()
            if size not in (parameter.shape, torch.Size()):
                raise ValueError(f"{key} has the size {list(size)}")
            tensors[key] = torch.empty_like(parameter, dtype=dtype) if size == parameter.shape else torch.empty(size, dtype=dtype)
            state[number][name] = tensors[key]
    read_parts(tensors, folder)
    return {**rest, "state": state}


def cut_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The whole state of an optimizer, cut as its parameters are."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def cut(value: Any, parameter: Tensor) -> Any:
        if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
            return value
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)

    known = {number: {name: cut(value, parameters[number]) for name, value in each.items()} for number, each in state["state"].items()}
    return {**state, "state": known}


@contextmanager
def _plain_errors() -> Iterator[None]:
    """The first error of a process instead of torch's collection of them, which is no Exception."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        first = next(iter(error.failures.values()))[0]
        raise first from None
