"""Whether a result can be exported to GGUF, from its files alone: for the end of a run, which offers it.

in_reach(Path("./finetuned_model"))         # True: the wizard asks, or the command is printed
"""

from __future__ import annotations

from pathlib import Path

from finetune import registry
from finetune.errors import ModelError, RecipeError
from finetune.hub.cache import cached
from finetune.model_folder import adapter_base, is_adapter, read_json
from finetune.models.gguf_architectures import KNOWN
from finetune.models.location import parse
from finetune.models.starter import REVISION, starter_folder
from finetune.recipe import Recipe
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions

USUAL = "q8_0"  # half of f16, and hardly ever another answer


def in_reach(home: Path, runtime: RuntimeOptions | None = None) -> bool:
    """Whether llama.cpp has the architecture and a tokenizer of this kind; loads nothing, and downloads no base that is not here."""
    try:
        folder = _whole(home, runtime or RuntimeOptions())
        config = read_json(folder / "config.json") if folder is not None and (folder / "config.json").is_file() else {}
        words = read_json(home / "tokenizer.json").get("model") if (home / "tokenizer.json").is_file() else None
    except (ModelError, RecipeError):
        return False
    text = config.get("text_config")
    known = (text if isinstance(text, dict) else config).get("model_type") in KNOWN
    return known and isinstance(words, dict) and words.get("type") == "BPE"


def usual_type(home: Path) -> str:
    """The type that a result was trained for in few bits, which loses nothing more; else USUAL."""
    recipe = RunFolder(home).recipe
    spec = Recipe.load(recipe).distillation.quantize if recipe.is_file() else None
    type: str | None = registry.load("grids", spec.format).file_type if spec else None
    return type or USUAL


def _whole(home: Path, runtime: RuntimeOptions) -> Path | None:
    """The folder of the whole model below any adapters; None if it is not on this disk."""
    seen: list[Path] = []
    folder: Path | None = home
    while folder is not None and is_adapter(folder) and folder not in seen:
        seen.append(folder)
        source = parse(adapter_base(folder))
        folder = source.path if source.path is not None else cached(source.name, source.revision)
        if folder is None and source.revision == REVISION:
            folder = starter_folder(runtime)
    return folder if folder not in seen else None
