"""The numbers of a model before anything is loaded: read from config.json and the headers of its weights.

describe(locate("./my_model", runtime, reporter)).parameters
look_up("gpt2", runtime)          # also for a model that is not downloaded yet, if the catalogue has it
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.errors import RecipeError
from finetune.hub.cache import cached
from finetune.hub.catalogue import find
from finetune.model_folder import adapter_base, is_adapter, read_json, tensor_places, weight_files
from finetune.models import starter
from finetune.models.gguf_file import read_header
from finetune.models.location import LocatedModel, ModelSource, parse
from finetune.models.quantised import stored_as
from finetune.recipe import STARTER
from finetune.runtime import RuntimeOptions

# The names that different architectures use for the same number.
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")


@dataclass(frozen=True)
class ModelFacts:
    """Numbers of a model; None or 0 where unknown. `bytes` are those of the weights, on disk or still to be downloaded."""

    name: str
    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    context: int | None
    bytes: int
    licence: str | None


def describe(located: LocatedModel) -> ModelFacts:
    """The facts of a model on this disk, an adapter's parameters included; raises ModelError for damaged weights."""
    own = _folder_facts(located.folder, located.source)
    if located.base is None:
        return own
    base = describe(located.base)
    return replace(base, name=own.name, parameters=base.parameters + own.parameters, bytes=located.bytes)


def look_up(text: str, runtime: RuntimeOptions) -> ModelFacts | None:
    """The facts of a model by name, without network: from a folder, a GGUF file, a cache, or the catalogue; None if unknown.

    An adapter has those of the model that it is merged into. Raises ModelError for impossible names and paths.
    """
    return _looked_up(text, runtime, seen=())


def _looked_up(text: str, runtime: RuntimeOptions, seen: tuple[str, ...]) -> ModelFacts | None:
    source = parse(text)
    if source.path is not None and source.kind != "gguf" and is_adapter(source.path):
        return _adapter_facts(source, source.path, runtime, seen)
    if source.path is not None:
        return _gguf_facts(source) if source.kind == "gguf" else _folder_facts(source.path, source)
    folder = cached(source.name, source.revision)
    starter_folder = starter.starter_folder(runtime)
    if folder is None and source.name == STARTER and (starter_folder / "config.json").is_file():
        folder = starter_folder
    if folder is not None:
        return _adapter_facts(source, folder, runtime, seen) if is_adapter(folder) else _folder_facts(folder, source)
    entry = find(source.name)
    if entry is None:
        return None
    size = entry.parameters * 2  # most are stored in 16 bits
    return ModelFacts(entry.id, entry.parameters, entry.layers, entry.hidden, entry.vocabulary, entry.context, size, entry.licence)


def _folder_facts(folder: Path, source: ModelSource) -> ModelFacts:
    files = weight_files(folder, source.name)
    config = {} if is_adapter(folder) else read_json(folder / "config.json")
    stored = stored_as(folder)
    entries = [(name, entry) for file in files for name, entry in tensor_places(file).items()]
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    return ModelFacts(
        name=source.name,
        parameters=sum(stored.weights(name, entry) if stored else entry["count"] for name, entry in entries),
        layers=_first(text, LAYERS) or 0,
        hidden=_first(text, HIDDEN) or 0,
        vocabulary=_first(text, ("vocab_size",)) or 0,
        context=_first(text, CONTEXT),
        bytes=sum(file.stat().st_size for file in files),
        licence=_licence(folder) or _known_licence(source),
    )


def _adapter_facts(source: ModelSource, folder: Path, runtime: RuntimeOptions, seen: tuple[str, ...]) -> ModelFacts | None:
    """Those of its base, with the bytes of both; None where the base is not known here, or is the adapter itself."""
    if str(folder) in seen:
        return None
    try:
        base = _looked_up(adapter_base(folder), runtime, (*seen, str(folder)))
    except RecipeError:  # of a run whose recipe is damaged
        return None
    own = sum(file.stat().st_size for file in weight_files(folder, source.name))
    return None if base is None else replace(base, name=source.name, bytes=base.bytes + own)


def _gguf_facts(source: ModelSource) -> ModelFacts:
    assert source.path is not None
    header = read_header(source.path)
    stored = header.metadata
    kind = str(stored.get("general.architecture", ""))
    licence = stored.get("general.license")
    return ModelFacts(
        name=source.name,
        parameters=header.parameters,
        layers=_first(stored, [f"{kind}.block_count"]) or 0,
        hidden=_first(stored, [f"{kind}.embedding_length"]) or 0,
        vocabulary=_first(stored, ["tokenizer.ggml.tokens"]) or 0,
        context=_first(stored, [f"{kind}.context_length"]),
        bytes=source.path.stat().st_size,
        licence=licence if isinstance(licence, str) else None,
    )


def _first(config: Any, names: Iterable[str]) -> int | None:
    return next((config[name] for name in names if isinstance(config.get(name), int) and config[name] >= 0), None)


def _licence(folder: Path) -> str | None:
    """The licence line of the model card."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    found = re.search(r"^license:[ \t]*([\w.-]+)", card.read_text(encoding="utf-8", errors="replace")[:20_000], re.MULTILINE)
    return found.group(1) if found else None


def _known_licence(source: ModelSource) -> str | None:
    entry = find(source.name) if source.kind == "hub" else None
    return entry.licence if entry else None
