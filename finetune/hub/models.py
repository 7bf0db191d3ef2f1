"""Models of the Hugging Face Hub: looked up, downloaded, found again in its cache without a network.

    folder, commit = fetch("org/name", "main", runtime, reporter)

Only config, tokenizer, card and safetensors are downloaded: small files first, so that an unusable model is refused before gigabytes
arrive.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from finetune.errors import ModelNotFound
from finetune.events import Notice, Progress, Reporter
from finetune.hub.cache import COMMIT, cached, cached_names
from finetune.hub.facts import HubModel, model_facts
from finetune.hub.failures import one_sentence
from finetune.hub.reachability import hub_reachable, offline_reason
from finetune.model_folder import (
    ADAPTER,
    BESIDE_WEIGHTS,
    MODEL,
    PICKLES,
    SAFETENSORS,
    is_adapter,
    no_safetensors,
    own_code,
    weight_names,
)
from finetune.recipe import STARTER
from finetune.runtime import RuntimeOptions
from finetune.system.storage import check_room


def fetch(name: str, revision: str | None, runtime: RuntimeOptions, reporter: Reporter) -> tuple[Path, str]:
    """The model's folder in the Hub's cache, and its commit.

    Raises ModelNotFound (no such model, no such revision, no network), ModelGated, ModelError or DiskFull.
    """
    known = cached(name, revision)
    if known is not None and (not hub_reachable() or COMMIT.fullmatch(revision or "")):
        return known, known.name
    if not hub_reachable():
        wanted = f"{name}@{revision}" if revision else name
        here = ", ".join(dict.fromkeys([STARTER, *cached_names("model")]))
        raise ModelNotFound(
            f"{offline_reason()}, and {wanted} is not on this machine.",
            hint=f"Without the Hub you can use: {here}, any model folder, any .gguf file.",
        )
    with one_sentence("model", name, revision):
        return _download(name, revision, runtime, reporter)


@lru_cache(maxsize=64)
def facts(name: str, revision: str | None) -> HubModel:
    """What the Hub says about a model, without downloading it; asked once per process.

    Raises ModelNotFound, ModelGated or ModelError if it could not be downloaded.
    """
    from huggingface_hub import HfApi

    with one_sentence("model", name, revision):
        found = model_facts(HfApi().model_info(name, revision=revision, files_metadata=True, timeout=5))
        if found.gated:  # its facts are public, its files are not
            HfApi().auth_check(name)
        return found


def _download(name: str, revision: str | None, runtime: RuntimeOptions, reporter: Reporter) -> tuple[Path, str]:
    from huggingface_hub import HfApi, constants, snapshot_download

    info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=10)
    if cached(name, info.sha) is None:
        reporter.report(Notice(f"{name}: {model_facts(info)}."))
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or [] if "/" not in file.rfilename}
    if not any(file.endswith(SAFETENSORS) for file in sizes):
        raise no_safetensors(name, next((file for file in sorted(sizes) if file.endswith(PICKLES)), None))

    def get(files: list[str]) -> Path:
        progress = _progress(reporter, sum(sizes[file] for file in files))
        # By name, so that branch and tag names are recorded in the cache and work offline.
        return Path(snapshot_download(name, revision=revision or "main", allow_patterns=files, tqdm_class=progress, etag_timeout=10))

    suffixes = (*BESIDE_WEIGHTS, ".py") if runtime.trust_remote_code else BESIDE_WEIGHTS
    folder = get([file for file in sizes if file.endswith(suffixes)])
    own_code(folder, name, allowed=runtime.trust_remote_code)
    whole = [MODEL] if MODEL in sizes else weight_names(folder)
    weights = [ADAPTER] if ADAPTER in sizes and is_adapter(folder) else whole
    needed = sum(sizes.get(file, 0) for file in weights if not (folder / file).is_file())
    check_room(name, needed, Path(constants.HF_HUB_CACHE), "set HF_HOME to a folder on another disk")
    return get(weights), folder.name


def _progress(reporter: Reporter, total: int) -> type[Any]:
    """A silent progress bar that reports bytes instead of drawing."""
    from tqdm import tqdm

    arrived: dict[str, int] = {}

    class Reported(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self.counted = str(options.get("desc")) if options.get("unit") == "B" else None
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            if self.counted:  # two bars: bytes received, bytes assembled
                arrived[self.counted] = arrived.get(self.counted, 0) + int(n or 0)
                reporter.report(Progress("model", min(max(arrived.values()), total), total, "bytes"))

    return Reported
