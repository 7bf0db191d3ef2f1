"""Models of the Hugging Face Hub: looked up, downloaded, found again in its cache without a network.

    folder, commit = fetch("org/name", "main", runtime, reporter)

Only config, tokenizer and safetensors are fetched; nothing is imported before it is needed.
"""

from __future__ import annotations

from pathlib import Path

from finetune.errors import ModelError, ModelNotFound
from finetune.events import Reporter
from finetune.models.reach import endpoint_host, hub_reachable
from finetune.recipe import STARTER
from finetune.runtime import RuntimeOptions


def cached(name: str, revision: str | None) -> Path | None:
    """The snapshot folder of a model in the Hub's cache, by branch, tag or commit; None if it is not there. No network."""
    from huggingface_hub import constants

    repository = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    commit = revision or "main"
    reference = repository / "refs" / commit
    if reference.is_file():
        commit = reference.read_text(encoding="utf-8").strip()
    folder = repository / "snapshots" / commit
    return folder if (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file() else None


def cached_names() -> list[str]:
    """The models in the Hub's cache."""
    from huggingface_hub import constants

    folders = sorted(Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*/*config.json"))
    return list(dict.fromkeys(folder.parents[2].name.removeprefix("models--").replace("--", "/") for folder in folders))


def fetch(name: str, revision: str | None, runtime: RuntimeOptions, reporter: Reporter) -> tuple[Path, str]:
    """The model's folder in the Hub's cache and its commit."""
    if not hub_reachable():
        folder = cached(name, revision)
        if folder is None:
            raise ModelNotFound(
                f"{endpoint_host()} cannot be reached, so {name} cannot be downloaded, and it is not on this machine.",
                hint=f"Here without a network: {', '.join(dict.fromkeys([STARTER, *cached_names()]))}, any model folder, any .gguf file.",
            )
        return folder, folder.name
    raise ModelError("Not yet.")
