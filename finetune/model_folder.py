"""What is in a model folder: its weights, whether they are complete, and what they need before they can be loaded.

weight_files(folder, "my model")       # the safetensors, or a ModelError that says what is wrong
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from math import prod
from pathlib import Path
from typing import Any

from finetune.errors import ModelError

# The files of a model, by name or ending.
GGUF, SAFETENSORS = ".gguf", ".safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MODEL, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
CONFIGS = ("config.json", "generation_config.json", "adapter_config.json", "tokenizer_config.json")
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")  # a tokenizer has one of them
TOKENIZER = (*VOCABULARIES, "special_tokens_map.json", "added_tokens.json", "merges.txt", "chat_template.jinja")
BESIDE_WEIGHTS = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".md")  # config, tokenizer and card, whatever their names
AGAIN = "Download or save the model again."
HEADER_LIMIT = 100_000_000  # what the safetensors format allows
PAGE = 4096  # bytes
WRITES_TEXT = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def is_gguf(name: str | Path) -> bool:
    return Path(name).suffix.lower() == GGUF


def is_adapter(folder: Path) -> bool:
    """Whether the folder contains a peft adapter and no complete model."""
    whole = any((folder / file).is_file() for file in (MODEL, INDEX))
    return (folder / "adapter_config.json").is_file() and not whole


def is_complete(folder: Path) -> bool:
    """Whether everything that loading needs is there."""
    try:
        return bool(weight_files(folder, folder.name))
    except ModelError:
        return False


def weight_files(folder: Path, name: str) -> list[Path]:
    """The safetensors of a model or adapter folder, each of them there; raises ModelError saying what is missing."""
    if is_adapter(folder):
        files = [folder / ADAPTER]
    else:
        _check_config(folder, name)
        files = [folder / file for file in weight_names(folder)]
    for file in files:
        if not file.is_file():
            pickled = next((other.name for other in sorted(folder.iterdir()) if other.suffix in PICKLES), None)
            if len(files) == 1:
                raise no_safetensors(name, pickled)
            raise ModelError(f"{name} is incomplete: {file.name} is missing in {folder}.", hint=AGAIN)
    return files


def weight_names(folder: Path) -> list[str]:
    """The names of the weight files, by the index where there is one."""
    index = folder / INDEX
    if (folder / MODEL).is_file() or not index.is_file():
        return [MODEL]
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or any(Path(str(shard)).name != shard for shard in shards.values()):
        raise ModelError(f"{index} is not a list of weight files.", hint=AGAIN)
    return sorted(set(shards.values()))


def tensor_places(file: Path) -> dict[str, dict[str, Any]]:
    """What the header of a safetensors file (an 8-byte length, then JSON) states about each tensor; raises ModelError if it is damaged.

    `data_offsets`, begin and end in bytes, are counted from the start of the file; `count` is how many numbers a tensor has.
    """
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > HEADER_LIMIT:
                raise ValueError("its header is too long")
            header = json.loads(stream.read(length))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        for entry in tensors.values():
            entry["data_offsets"] = [8 + length + int(place) for place in entry["data_offsets"]]
            entry["count"] = prod(entry["shape"])
        if max((entry["data_offsets"][1] for entry in tensors.values()), default=0) > file.stat().st_size:
            raise ValueError("it is truncated")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, struct.error) as error:
        raise ModelError(f"{file} is not a readable safetensors file: {error}.", hint=AGAIN) from None
    return tensors


def fingerprint(folder: Path, name: str) -> str:
    """The same for folders with the same model, different once it was trained; takes milliseconds, however large it is.

    A hash of its configuration and of a page of bytes from the start, the middle and the end of every tensor. Raises ModelError.
    """
    digest = hashlib.sha256()
    for config in ("config.json", "adapter_config.json", "generation_config.json"):
        if (folder / config).is_file():
            digest.update((folder / config).read_bytes())
    for file in weight_files(folder, name):
        places = tensor_places(file)
        digest.update(json.dumps(places, sort_keys=True).encode())
        with file.open("rb") as stream:
            for begin, end in sorted(entry["data_offsets"] for entry in places.values()):
                for start in sorted({begin, max(begin, (begin + end - PAGE) // 2), max(begin, end - PAGE)}):
                    stream.seek(start)
                    digest.update(stream.read(min(PAGE, end - start)))
    return digest.hexdigest()


def no_safetensors(name: str, pickled: str | None) -> ModelError:
    """The error for a model without safetensors; `pickled` is the file it has instead."""
    if pickled is None:
        return ModelError(f"{name} has no weights ({MODEL}).", hint=AGAIN)
    return ModelError(
        f"{name} has its weights only as {pickled}: pickled Python objects, which can run code when opened.",
        hint="Look for a revision with safetensors: on the Hub often a pull request, named as MODEL@refs/pr/NUMBER.",
    )


def may_run_own_code(folder: Path, name: str, *, allowed: bool) -> bool:
    """Whether the model's Python code will run when it is loaded; raises ModelError if it would have to but is not allowed."""
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if not config.get("auto_map"):
        return False
    from transformers import CONFIG_MAPPING  # slow to import, and hardly ever needed

    if config.get("model_type") in CONFIG_MAPPING:
        return False
    if not allowed:
        raise ModelError(
            f"{name} needs its own Python code, which does not run unless you allow it.",
            hint="Read that code, then allow it with --trust-remote-code and a pinned revision: MODEL@COMMIT",
        )
    return True


def adapter_base(folder: Path) -> str:
    """The base model of an adapter folder: as the run recorded it, else as peft did."""
    recorded = folder / "run" / "recipe.yaml"
    if recorded.is_file():
        from finetune.recipe import read_yaml

        model = read_yaml(recorded).get("model")
        if isinstance(model, str):
            return model
    base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(f"The adapter in {folder} does not name its base model.", hint="Name the base model instead.")
    return base


def adapter_load_in(folder: Path) -> str | None:
    """How the base of an adapter was loaded for training, "4bit" or None, according to the recipe of the run."""
    recorded = folder / "run" / "recipe.yaml"
    if not recorded.is_file():
        return None
    from finetune import registry
    from finetune.errors import RecipeError
    from finetune.recipe import Recipe

    try:
        method = Recipe.load(recorded).method
    except RecipeError:
        return None  # written by another version
    held: str | None = registry.load("methods", method.kind).load_in(method)
    return held


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model folder; raises ModelError naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}.", hint=AGAIN) from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} does not contain a JSON object.", hint=AGAIN)
    return content


def _check_config(folder: Path, name: str) -> None:
    if not (folder / "config.json").is_file():
        files = sorted(folder.glob("*.gguf"))
        if files:
            raise ModelError(f"{folder} has no config.json, but a GGUF file.", hint=f"Name the file: {files[0]}")
        if (folder / "run").is_dir():
            raise ModelError(f"{folder} contains an unfinished run.", hint=f"Finish it: finetune-cli resume {folder}")
        raise ModelError(f"{folder} has no config.json, so it is not a model folder.", hint="Name the folder that save_pretrained wrote.")
    config = read_json(folder / "config.json")
    kinds = config.get("architectures") or []
    if config.get("is_encoder_decoder") or (kinds and not any(str(kind).endswith(WRITES_TEXT) for kind in kinds)):
        kind = kinds[0] if kinds else config.get("model_type")
        raise ModelError(f"{name} is a {kind}, not a causal language model.", hint="Choose a causal language model, such as gpt2.")
