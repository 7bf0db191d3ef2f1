"""A teacher's outputs for the rows of a run, on disk: written in one pass, read in every epoch of every run on the same rows.

    folder/index.json               the key (which teacher, which rows) and the shards with their sizes and hashes
    folder/index-1.json             the same of the shards that one of several processes has written, until index.json has them too
    folder/head.safetensors         the teacher's head (kind "hidden")
    folder/shard-00000.safetensors  rows [r] supervised tokens per row; values [tokens, d]; negentropy [tokens] (kind "gradient");
                                    ids [tokens, k] (kind "top_k");
                                    margins [tokens] (if the teacher is to be corrected)
                                    layer.3 [tokens, d]; last_layer.v [places, width], lengths [r] (what terms compare: internals.py)

    cache = TeacherCache.open(folder)
    values, negentropy = cache.read([3, 0], counts=[17, 5])

The kinds are the signals of the registry (finetune/distillation/signals/), which say what they are good for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from finetune import registry
from finetune.data.tokens.labels import labels_of, unpadded
from finetune.distillation.signals import Signal
from finetune.errors import FinetuneError, RecipeError, TrainingError
from finetune.formatting import size
from finetune.system.storage import write_whole
from finetune.training.head import Head

VERSION = 1
INDEX = "index.json"


@dataclass(frozen=True)
class CacheKey:
    """What a cache depends on. Two caches with equal keys contain equal numbers, up to the rounding of what wrote them."""

    kind: str
    teacher: str
    rows: str
    vocabulary: int
    student_head: str = ""
    temperature: float = 0.0
    version: int = VERSION
    margins: bool = False
    inside: dict[str, Any] = field(default_factory=dict)  # of the teacher: see internals.py, Kept

    def digest(self) -> str:
        """A short name for a folder."""
        fields = {name: value for name, value in self.to_dict().items() if name != "margins" or value}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """As plain values; `inside` is left out where it is empty, as in caches of earlier versions."""
        return {name: value for name, value in asdict(self).items() if name != "inside" or value}

    def differences(self, other: CacheKey) -> str:
        """The names of the fields that differ, in words."""
        return " and ".join(name.replace("_", " ") for name, value in asdict(self).items() if value != getattr(other, name))


@dataclass(frozen=True)
class Shard:
    file: str
    first_row: int
    rows: int
    tokens: int
    bytes: int
    sha256: str


class TeacherCache:
    """A complete cache, memory-mapped."""

    def __init__(self, folder: Path, key: CacheKey, shards: list[Shard]) -> None:
        self.folder, self.key, self.shards = folder, key, shards
        self._files = [safe_open(folder / shard.file, framework="pt") for shard in shards]
        self._counts = [file.get_tensor("rows").tolist() for file in self._files]
        self._offsets = [[0, *np.cumsum(counts).tolist()] for counts in self._counts]
        self._places: list[list[int]] = []
        if key.inside.get("places"):
            self._places = [[0, *np.cumsum(file.get_tensor("lengths").tolist()).tolist()] for file in self._files]
        self._first_rows = [shard.first_row for shard in shards]
        self.signal: Signal = registry.load("signals", key.kind)
        self.head = load_head(folder) if self.signal.keeps_head else None

    @classmethod
    def open(cls, folder: str | Path, key: CacheKey | None = None) -> TeacherCache:
        """Open a complete cache; raises TrainingError if it is not complete, or is for a different `key`."""
        folder = Path(folder)
        found = read_index(folder)
        if found is None or not found.complete:
            raise TrainingError(
                f"{folder} does not contain a complete teacher cache.", hint="Run again to complete it; finished parts are kept."
            )
        if key is not None and found.key != key:
            raise TrainingError(f"The teacher cache in {folder} is for a different {key.differences(found.key)}.")
        return cls(folder, found.key, found.shards)

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def tokens(self) -> int:
        return sum(shard.tokens for shard in self.shards)

    @property
    def nbytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    def read(self, rows: Iterable[int], counts: Iterable[int], names: Sequence[str] = ()) -> list[Tensor]:
        """The tensors [n, ...] called `names` (those of its signal) of the supervised tokens of `rows`, one after the other.

        `counts` are the supervised tokens that the caller sees in each row, or all its tokens for what is kept of every place; raises
        TrainingError if the cache has a different number.
        """
        names = names or self.signal.names
        at_places = bool(set(names) & self.key.inside.get("places", {}).keys())
        offsets, of = (self._places, "") if at_places else (self._offsets, "supervised ")
        found: list[list[Tensor]] = [[] for _ in names]
        for row, count in zip(rows, counts, strict=True):
            shard = int(np.searchsorted(self._first_rows, row, side="right")) - 1
            place = row - self._first_rows[shard]
            start, stop = offsets[shard][place], offsets[shard][place + 1]
            if count != stop - start:
                raise TrainingError(
                    f"Row {row} has {count} {of}tokens and the teacher cache in {self.folder} has {stop - start}.",
                    hint="It was built for different rows. Delete that folder, or train on the original rows.",
                )
            for name, tensors in zip(names, found, strict=True):
                tensors.append(self._files[shard].get_slice(name)[start:stop])
        return [torch.cat(tensors) for tensors in found]

    def check(self, head: Head, *, forward_kl: bool, temperature: float, of_spans: bool = False) -> None:
        """Raise RecipeError if this cache cannot be used for a student with this head at this temperature, or for what is compared."""
        if self.signal.of_spans != of_spans:
            kept = "likelihoods of spans" if self.signal.of_spans else "no likelihoods of spans"
            raise RecipeError(f"This {self.key.kind} cache has {kept}.", hint="Use across_tokenizers as it was when the cache was written.")
        if problem := self.signal.problem(head, forward_kl):
            raise RecipeError(f"This {self.key.kind} cache cannot be used: {problem}.", hint="Use cache: hidden, or cache: none.")
        if mismatch := self.signal.mismatch(self.key, head, temperature):
            raise RecipeError(mismatch, hint="Delete it; the next run builds it again.")


@dataclass(frozen=True)
class Index:
    """The content of index.json; `written_with` is the arithmetic of the process that began it (finetune/hardware/arithmetic.py)."""

    key: CacheKey
    total_rows: int
    shards: list[Shard]
    written_with: dict[str, Any] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return sum(shard.rows for shard in self.shards) == self.total_rows

    def write(self, folder: Path, name: str = INDEX) -> None:
        write_file(folder / name, json.dumps({**asdict(self), "key": self.key.to_dict()}, indent=1).encode())


def read_index(folder: Path, name: str = INDEX) -> Index | None:
    """The index of a cache folder; None if it is missing or cannot be read."""
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        shards, written_with = [Shard(**shard) for shard in content["shards"]], content.get("written_with", {})
        return Index(CacheKey(**content["key"]), content["total_rows"], shards, written_with)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_file(path: Path, content: bytes) -> None:
    """Write a file of a cache entirely or not at all; raises FinetuneError with the room needed if that fails."""
    try:
        write_whole(path, content)
    except OSError as error:
        raise FinetuneError(
            f"{path} could not be written ({error.strerror}); it needs {size(len(content))}.",
            hint="Free some space and run again: finished parts are kept. Or use cache: none.",
        ) from error


def save_head(head: Head, folder: Path) -> None:
    facts = {"scale": repr(head.scale), "softcap": repr(head.softcap or 0.0)}
    tensors = {"weight": head.weight, **({} if head.bias is None else {"bias": head.bias})}
    content = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, facts)
    write_file(folder / "head.safetensors", content)


def load_head(folder: Path) -> Head:
    """What `save_head` has written there; raises TrainingError."""
    try:
        with safe_open(folder / "head.safetensors", framework="pt") as file:
            names, facts = file.keys(), file.metadata()
            bias = file.get_tensor("bias") if "bias" in names else None
            return Head(file.get_tensor("weight"), bias, float(facts["scale"]), float(facts["softcap"]) or None)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"The teacher's head in {folder} cannot be read: {error}.", hint="Delete the folder and build it again."
        ) from error


def tensors_hash(tensors: Iterable[Tensor | None]) -> str:
    """A hash of the exact content of some tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        if tensor is not None:
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def model_identity(model: nn.Module, source: str = "", *, base_only: bool = False) -> str:
    """A name for a model's content: a hash of all its weights, or of a few numbers of each if `source` names where exactly it came from.

    With `base_only`, of those that do not train: what a model with a new adapter is without it.
    """
    digest = hashlib.sha256(source.encode())
    trained = {name for name, parameter in model.named_parameters() if base_only and parameter.requires_grad}
    for name, parameter in model.state_dict().items():
        if name in trained:
            continue
        spelled = name.replace(".base_layer.", ".") if base_only else name  # where an adapter sits says nothing about the base
        digest.update(f"{spelled} {parameter.dtype} {tuple(parameter.shape)}".encode())
        if source:
            flat = parameter.detach().flatten()
            digest.update(flat[:: max(1, flat.numel() // 16)].float().cpu().numpy().tobytes())
        elif isinstance(parameter, Tensor):
            digest.update(tensors_hash([parameter]).encode())
    return digest.hexdigest()


def rows_hash(dataset: Any) -> str:
    """A hash of every token, label and position of a dataset: it covers tokenizer, template, truncation and what is supervised."""
    digest = hashlib.sha256()
    for row in map(unpadded, dataset):
        for column in (row["input_ids"], labels_of(row), *([row["position_ids"]] if row.get("position_ids") is not None else ())):
            digest.update(np.asarray(column, dtype=np.int64).tobytes() + b"|")
    return digest.hexdigest()
