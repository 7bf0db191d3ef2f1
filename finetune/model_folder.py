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
from finetune.foreign import DIMENSIONS, check_counts, is_width, numbers_of, own_code_of, read_settings, reading
from finetune.system.shell import quoted

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
ELSEWHERE = ("adapters", "shadow_model", "prompt_tuning_init_state_dict_path", "megatron_config")  # of adapter_config.json
NO_ADAPTER = {"subfolder": "no adapter"}  # where transformers looks for one to put on a whole model, without a word
SHARE = re.compile(r"[\\/]{2}(?![?.][\\/][a-z]:)(?:[?.][\\/]unc[\\/])?([^\\/]+)", re.IGNORECASE)
DEPTH = re.compile(r"/(num_hidden_layers|n_layers?|num_layers)$")
SHALLOW, NARROW = 256, 4096  # layers and width that are made without asking whether the weights have them
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
        _check_alone(folder, name)
        files = [folder / ADAPTER]
    else:
        _check_config(folder, name)
        files = [folder / file for file in weight_names(folder)]
    for file in files:
        if not file.is_file():
            pickled = next((other.name for other in sorted(folder.iterdir()) if other.suffix in PICKLES), None)
            if len(files) == 1:
                raise no_safetensors(name, pickled, file.name)
            raise ModelError(f"{name} is incomplete: {file.name} is missing in {folder}.", hint=AGAIN)
    _check_sizes(folder, files)
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
    with reading(file, ModelError, hint=AGAIN, what="is not a readable safetensors file"):
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > HEADER_LIMIT:
                raise ValueError("its header is too long")
            header = json.loads(stream.read(length))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        for name, entry in tensors.items():
            shape, (begin, end) = entry["shape"], entry["data_offsets"]
            if (
                len(shape) > DIMENSIONS
                or not all(isinstance(number, int) and number >= 0 for number in (*shape, begin, end))
                or begin > end
            ):
                raise ValueError(f"{name[:80]} has an impossible shape or place")
            entry["data_offsets"] = [8 + length + begin, 8 + length + end]
            entry["count"] = prod(shape)
        if max((entry["data_offsets"][1] for entry in tensors.values()), default=0) > file.stat().st_size:
            raise ValueError("it is truncated")
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


def no_safetensors(name: str, pickled: str | None, usual: str = MODEL) -> ModelError:
    """The error for a model without the `usual` file of weights; `pickled` is the file it has instead."""
    if pickled is None:
        return ModelError(f"{name} has no weights ({usual}).", hint=AGAIN)
    return ModelError(
        f"{name} has its weights only as {pickled}: pickled Python objects, which can run code when opened.",
        hint="Look for a revision with safetensors: on the Hub often a pull request, named as MODEL@refs/pr/NUMBER.",
    )


def own_code(folder: Path, name: str, *, allowed: bool) -> set[str]:
    """Whose Python code will run when the folder is loaded, "model" or "tokenizer"; raises ModelError if it must but is not allowed."""
    config, tokenizer = (read_json(folder / file) if (folder / file).is_file() else {} for file in ("config.json", "tokenizer_config.json"))
    with reading(folder / "config.json", ModelError, hint=AGAIN):
        elsewhere = own_code_of(config)
    has = {part for part, settings in (("model", config), ("tokenizer", tokenizer)) if settings.get("auto_map")}
    needed = set(has)
    if has:
        with reading(folder / "tokenizer_config.json", ModelError, hint=AGAIN):
            needed -= _known_to_transformers(config, tokenizer)
    if allowed:  # transformers has a tokenizer for nearly every model, which need not be this one's
        return needed | (has & {"tokenizer"})
    hint = "Read that code, then allow it with --trust-remote-code and a pinned revision: MODEL@COMMIT"
    if needed:
        raise ModelError(f"{name} needs its own Python code, which does not run unless you allow it.", hint=hint)
    if elsewhere:
        raise ModelError(f"{name} asks for code from elsewhere ({elsewhere}), which does not run unless you allow it.", hint=hint)
    return needed


def _known_to_transformers(config: dict[str, Any], tokenizer: dict[str, Any]) -> set[str]:
    """Of what may have code of its own, what transformers has itself: its own is used then, as `from_pretrained` does."""
    from transformers import CONFIG_MAPPING  # slow to import, and hardly ever needed
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

    kind, named, places = config.get("model_type"), tokenizer.get("tokenizer_class"), tokenizer.get("auto_map")
    known = {"model"} if kind in CONFIG_MAPPING else set()
    own = places.get("AutoTokenizer") if isinstance(places, dict) else places
    if not own or TOKENIZER_MAPPING_NAMES.get(str(kind)) or (named and tokenizer_class_from_name(named)):
        known.add("tokenizer")
    return known


def adapter_base(folder: Path) -> str:
    """The base model of an adapter folder: as the run recorded it, else as peft did.

    The model of a run that trained an earlier adapter further is that adapter, and its base is the earlier one's. Raises ModelError for a
    base on a machine that the folder itself is not on: to look for it would sign in there.
    """
    base, revision, place = _base_named(folder)
    if not isinstance(base, str) or not base:
        raise ModelError(f"The adapter in {folder} does not name its base model.", hint="Name the base model instead.")
    server = _server(base)
    if server and server != _server(str(folder.resolve())):
        raise ModelError(
            f"The adapter in {folder} names a base model on another machine, {base}.",
            hint=f"Copy that model to this machine, and write its path into {place}.",
        )
    return f"{base}@{revision}" if isinstance(revision, str) and revision and not Path(base).exists() else base


def where_base_is_named(folder: Path) -> str:
    """The key and the file in which an adapter folder names its base model, for people."""
    return _base_named(folder)[2]


def _base_named(folder: Path) -> tuple[Any, Any, str]:
    """Base model and revision as a file of an adapter folder has them, and the key and the file."""
    continued, recorded, settings = (folder / name for name in ("run/continued.json", "run/recipe.yaml", "adapter_config.json"))
    if continued.is_file():
        if isinstance(base := read_json(continued).get("base"), str):
            return base, None, f"`base` of {continued}"
    elif recorded.is_file():
        from finetune.recipe import read_yaml

        if isinstance(model := read_yaml(recorded).get("model"), str):
            return model, None, f"`model` of {recorded}"
    found = read_json(settings)
    return found.get("base_model_name_or_path"), found.get("revision"), f"`base_model_name_or_path` of {settings}"


def _server(path: str) -> str | None:
    """The machine in a path such as \\\\server\\share, which Windows asks for with the name and the hashed password of who is there."""
    found = SHARE.match(path)
    return found[1].lower() if found else None


def name_patterns(adapter: dict[str, Any]) -> list[str]:
    """The regular expressions in an adapter's settings, as peft matches them with the names of modules; plain names are none."""
    whole = [adapter[key] for key in ("target_modules", "exclude_modules") if isinstance(adapter.get(key), str)]
    lists = [adapter.get(key) for key in ("modules_to_save", "layers_pattern", "target_parameters")]
    parts = [each for names in lists for each in ([names] if isinstance(names, str) else names or [])]
    parts += [key for name, value in adapter.items() if name.endswith("_pattern") and isinstance(value, dict) for key in value]
    plain = re.compile(r"[\w.-]*").fullmatch
    return [each for each in whole if not plain(each)] + [rf"(.*\.)?({part})($|\..*)" for part in parts if not plain(str(part))]


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
    return read_settings(path, ModelError, hint=AGAIN)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """A JSON object into a model folder that is being made."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


def _check_alone(folder: Path, name: str) -> None:
    """Raises ModelError for an adapter whose settings have peft load other models, files or modules, from wherever they say."""
    settings = read_json(folder / "adapter_config.json")
    if key := next((key for key in ELSEWHERE if settings.get(key) not in (None, {}, "mirror")), None):
        what = f"`{key}` of its adapter_config.json, {str(settings[key])[:80]}"
        raise ModelError(f"The adapter {name} would load more than its own folder has: {what}.", hint="Use an adapter that is whole.")


def _check_sizes(folder: Path, files: list[Path]) -> None:
    """Raises ModelError for settings that ask for far more than the weights have: a library would make it all before it compares."""
    path = folder / ("adapter_config.json" if is_adapter(folder) else "config.json")
    settings = read_json(path)
    with reading(path, ModelError, hint=AGAIN):
        numbers = {key: int(value) for key, value in numbers_of(settings) if isinstance(value, int)}
        widths = [value for key, value in numbers.items() if is_width(key) or key.startswith("/rank_pattern/")]
        widths += [numbers.get(f"/{key}", 0) for key in ("r", "init_r", "target_r")]
        layers = max((value for key, value in numbers.items() if DEPTH.search(key)), default=0)
        layers = max(layers, sum(end - start for start, end in settings.get("layer_replication") or ()))  # of an adapter
        if layers <= SHALLOW and max(widths, default=0) <= NARROW:
            return
        tensors = [entry for file in files for entry in tensor_places(file).values()]
        widest = max((number for entry in tensors for number in entry["shape"]), default=0)
        if layers > max(SHALLOW, len(tensors)):
            raise ModelError(f"{path} asks for {layers:,} layers, and its weights have {len(tensors):,} tensors.", hint=AGAIN)
        if max(widths) > max(NARROW, 8 * widest):  # eight numbers of four bits are stored as one
            raise ModelError(f"{path} asks for a width of {max(widths):,}, and its weights have {widest:,}.", hint=AGAIN)


def _check_config(folder: Path, name: str) -> None:
    if not (folder / "config.json").is_file():
        files = sorted(folder.glob("*.gguf"))
        if files:
            raise ModelError(f"{folder} has no config.json, but a GGUF file.", hint=f"Name the file: {files[0]}")
        if (folder / "run" / "benchmark.json").is_file():
            again = f"Copy its files back, or repeat the run: finetune-cli run {quoted(folder / 'run' / 'recipe.yaml')} --output-dir NEW"
            raise ModelError(f"{folder} has the records of a finished run, and no model.", hint=again)
        if (folder / "run").is_dir():
            raise ModelError(f"{folder} contains an unfinished run.", hint=f"Finish it: finetune-cli resume {quoted(folder)}")
        raise ModelError(f"{folder} has no config.json, so it is not a model folder.", hint="Name the folder that save_pretrained wrote.")
    config = read_json(folder / "config.json")
    with reading(folder / "config.json", ModelError, hint=AGAIN):
        check_counts(config, folder / "config.json")
    kinds = config.get("architectures") or []
    if not isinstance(kinds, list):
        raise ModelError(f"{folder / 'config.json'} does not list its architectures.", hint=AGAIN)
    if config.get("is_encoder_decoder") or (kinds and not any(str(kind).endswith(WRITES_TEXT) for kind in kinds)):
        kind = kinds[0] if kinds else config.get("model_type")
        raise ModelError(f"{name} is a {kind}, not a causal language model.", hint="Choose a causal language model, such as gpt2.")
