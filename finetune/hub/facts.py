"""What the Hub says about a model or a dataset before any of it is downloaded, and its search.

str(model_facts(HfApi().model_info("gpt2", files_metadata=True)))
# "137M parameters, 548 MB to download, mit, tokenizer included, open, 9.8M downloads a month"
search("gpt", "model")                # ("openai-community/gpt2", ...); empty if there is no answer
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from finetune.formatting import count, size
from finetune.hub.reachability import endpoint
from finetune.model_folder import ADAPTER, MODEL, SHARD, VOCABULARIES

if TYPE_CHECKING:
    from huggingface_hub import DatasetInfo, ModelInfo

MOST_FOUND = 6
ON_REQUEST = "gated (request access on its page)"


@dataclass(frozen=True)
class HubModel:
    """A model on the Hub; None where the Hub does not say. `bytes` is the size of the weights, `downloads` is for the last month."""

    parameters: int | None
    bytes: int
    licence: str | None
    gated: bool
    tokenizer: bool
    downloads: int | None

    def __str__(self) -> str:
        return _line(
            f"{count(self.parameters)} parameters" if self.parameters else None,
            f"{size(self.bytes)} to download" if self.bytes else None,
            self.licence or "no licence stated",
            "tokenizer included" if self.tokenizer else "no tokenizer of its own",
            _access(self.gated),
            _downloads(self.downloads),
        )


@dataclass(frozen=True)
class HubDataset:
    """A dataset on the Hub; `rows` counts the rows of a (configuration, split), as far as its card does; `bytes` is the download."""

    name: str
    commit: str
    bytes: int | None
    licence: str | None
    gated: bool
    downloads: int | None
    configs: tuple[str, ...] = ()
    rows: dict[tuple[str, str], int] = field(default_factory=dict)
    private: bool = False

    def __str__(self) -> str:
        splits: dict[str, int] = {}
        for (config, split), number in self.rows.items():
            if config == (self.configs[0] if self.configs else config):
                splits[split] = number
        of = f" in {self.configs[0]}" if len(self.configs) > 1 else ""
        return _line(
            f"rows{of}: {', '.join(f'{split} {number:,}' for split, number in splits.items())}" if splits else None,
            size(self.bytes) if self.bytes else None,
            self.licence or "no licence stated",
            _access(self.gated),
            _downloads(self.downloads),
        )


def model_facts(info: ModelInfo) -> HubModel:
    """From an answer of the Hub that includes file sizes."""
    files = {file.rfilename: file.size or 0 for file in info.siblings or [] if "/" not in file.rfilename}
    whole = MODEL in files  # shards next to it are the same weights again
    weights = [size for name, size in files.items() if (name == MODEL if whole else name == ADAPTER or SHARD.fullmatch(name))]
    return HubModel(
        info.safetensors.total if info.safetensors else None,
        sum(weights),
        _licence(info),
        bool(info.gated),
        any(name in files for name in VOCABULARIES),
        info.downloads,
    )


def dataset_facts(info: DatasetInfo) -> HubDataset:
    """From an answer of the Hub; rows and size are in the dataset's card, if anywhere."""
    card = info.card_data.to_dict() if info.card_data else {}
    described = card.get("dataset_info") or []
    described = [part for part in (described if isinstance(described, list) else [described]) if isinstance(part, dict)]
    rows = {
        (str(part.get("config_name", "default")), str(split.get("name"))): int(split["num_examples"])
        for part in described
        for split in part.get("splits") or []
        if isinstance(split, dict) and isinstance(split.get("num_examples"), int)
    }
    named = [part.get("config_name") for part in card.get("configs") or [] if isinstance(part, dict)]
    configs = dict.fromkeys([*(str(name) for name in named if name), *(config for config, _ in rows)])
    sizes = [part["download_size"] for part in described if isinstance(part.get("download_size"), int)]
    size = sum(sizes) or info.main_size or info.used_storage
    return HubDataset(
        info.id, str(info.sha), size, _licence(info), bool(info.gated), info.downloads, tuple(configs), rows, bool(info.private)
    )


def search(text: str, kind: Literal["model", "dataset"]) -> tuple[str, ...]:
    """Names that the Hub finds, most downloaded first; asked once per text, empty if there is no answer."""
    from huggingface_hub.errors import HTTPError

    try:
        return _asked(text.strip().lower(), kind, endpoint())
    except (HTTPError, OSError, ValueError):
        return ()  # a suggestion is never worth an error; the next call asks again


@lru_cache(maxsize=256)
def _asked(text: str, kind: str, address: str) -> tuple[str, ...]:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=address)
    if kind == "model":
        found: Any = api.list_models(search=text, filter="text-generation", sort="downloads", limit=MOST_FOUND)
    else:
        found = api.list_datasets(search=text, sort="downloads", limit=MOST_FOUND)
    return tuple(entry.id for entry in found)


def _licence(info: ModelInfo | DatasetInfo) -> str | None:
    told = info.card_data.get("license") if info.card_data else None
    told = told or next((tag.partition(":")[2] for tag in info.tags or [] if tag.startswith("license:")), None)
    return ", ".join(map(str, told)) if isinstance(told, list) else told


def _access(gated: bool) -> str:
    return ON_REQUEST if gated else "open"


def _downloads(number: int | None) -> str | None:
    return None if number is None else f"{count(number)} downloads a month"


def _line(*facts: str | None) -> str:
    return ", ".join(fact for fact in facts if fact)
