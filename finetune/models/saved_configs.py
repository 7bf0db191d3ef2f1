"""The configuration files of a saved model, written so that older versions and other programs can read them too.

    spell_out(folder, source)                                        # config.json: rope_theta and rope_parameters, torch_dtype and dtype
    end_answers_with(folder, [2, 5], pad=0, source=source)           # generation_config.json: where others stop
    name_base(folder, "org/base", revision="9f3a...")                # adapter_config.json: the base, and no key that only new readers know

transformers 5 reads the words of version 4 and writes its own: a folder it saves has its rotary base under rope_parameters alone, where
transformers 4, older vLLM and llama.cpp do not look; they would compute with another base and say nothing. Old words are written beside the
new ones only where transformers 5 itself reads the same from both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from finetune.errors import ModelError
from finetune.foreign import reading
from finetune.model_folder import AGAIN, read_json, write_json

CONFIG, GENERATION, ADAPTER_CONFIG = "config.json", "generation_config.json", "adapter_config.json"
THETA, SHARE, SCALING = "rope_theta", "partial_rotary_factor", "rope_scaling"
# What version 4 called them where it had other names; of the layers with a window, the base has a name of its own.
FLAT = {name: {THETA: "rotary_emb_base", SHARE: "rotary_pct"} for name in ("gpt_neox", "gpt_neox_japanese")}
WINDOWED = {
    "gemma3_text": (THETA, "rope_local_base_freq"),
    "gemma3n_text": (THETA, "rope_local_base_freq"),
    "modernbert-decoder": ("global_rope_theta", "local_rope_theta"),
}
THREE_KEYS = ("phi3", "phi4_multimodal")  # version 4 refuses more than type, short_factor and long_factor
READ_WRONGLY = ("olmo3",)  # of old words, version 5 takes the base for its layers without a window only; version 4 has one base for all
KINDS = {"granitemoehybrid": {"linear_attention": "mamba", "full_attention": "attention"}}  # of layers
OLD_WORDS = f"{THETA} {SHARE} {SCALING} rotary_emb_base rotary_pct rope_local_base_freq global_rope_theta local_rope_theta".split()
SETS_OF_PEFT = ("target_modules", "exclude_modules")
# What readers of adapters expect; everything else only where it is not what peft takes anyway.
READ_EVERYWHERE = [
    "peft_type",
    "task_type",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "r",
    "lora_alpha",
    "lora_dropout",
    "bias",
    "target_modules",
    "modules_to_save",
    "fan_in_fan_out",
    "use_rslora",
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "init_lora_weights",
]


def spell_out(folder: Path, source: Path | None) -> None:
    """Add to config.json, if there is one, the words of version 4; `source` is the folder of the model it came from, whose words are best.

    Raises ModelError for a source that cannot be read.
    """
    path = folder / CONFIG
    if path.is_file():
        theirs = read_json(source / CONFIG) if source and (source / CONFIG).is_file() else {}
        with reading(path, ModelError, hint=AGAIN):
            write_json(path, _spelled(read_json(path), theirs))


def end_answers_with(folder: Path, ends: Sequence[int], *, pad: int, source: Path | None) -> None:
    """Have generation_config.json stop at each of `ends` too; what else it says is the folder's own, else that of `source`."""
    places = [place / GENERATION for place in (folder, source) if place is not None]
    settings = next((read_json(path) for path in places if path.is_file()), None)
    if settings is None:  # then readers take the ends of the model's configuration
        config = read_json(source / CONFIG) if source and (source / CONFIG).is_file() else {}
        settings = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in config}
    known = settings.get("eos_token_id")
    stops = list(dict.fromkeys([*(known if isinstance(known, list) else [known]), *ends]))
    stops = [each for each in stops if isinstance(each, int)]
    settings.pop("_from_model_config", None)  # with it, a reader may put the model's own ends in their place
    if stops:
        settings["eos_token_id"] = stops[0] if len(stops) == 1 else stops
    if not isinstance(settings.get("pad_token_id"), int) or settings["pad_token_id"] in stops:
        settings["pad_token_id"] = pad
    write_json(folder / GENERATION, settings)


def ends_of(folder: Path) -> list[int]:
    """The tokens at which generation_config.json stops."""
    known = read_json(folder / GENERATION).get("eos_token_id") if (folder / GENERATION).is_file() else None
    return [each for each in (known if isinstance(known, list) else [known]) if isinstance(each, int)]


def name_base(folder: Path, base: str, revision: str | None) -> None:
    """Have adapter_config.json, if there is one, name its base; keys that say nothing and that older readers do not know are left out.

    What peft holds as sets, whose order differs from one start of Python to the next, is sorted.
    """
    from peft import LoraConfig

    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        return
    settings = {**read_json(path), "base_model_name_or_path": base, "revision": revision}
    settings |= {key: sorted(settings[key]) for key in SETS_OF_PEFT if isinstance(settings.get(key), list)}
    if settings.get("peft_type") == "LORA":
        usual = asdict(LoraConfig())
        settings = {key: value for key, value in settings.items() if key in READ_EVERYWHERE or value != usual.get(key)}
        settings.pop("peft_version", None)
    write_json(path, settings)


def _spelled(config: dict[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    told = {**config, **_rotary(config, source), **_kinds_of_layers(config), **_experts(config)}
    if isinstance(config.get("dtype"), str):
        told["torch_dtype"] = config["dtype"]
    for key, value in config.items():
        if isinstance(value, dict) and "model_type" in value:
            theirs = source.get(key)
            told[key] = _spelled(value, theirs if isinstance(theirs, dict) else {})
    return told


def _rotary(config: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    """Version 4's words for rope_parameters: those of the source, else made from them; none if they would not mean the same."""
    parameters = config.get("rope_parameters")
    if not isinstance(parameters, dict) or not parameters:
        return {}
    of_source = {key: source[key] for key in OLD_WORDS if key in source}
    made = _old_rotary(config, parameters)
    if config.get("model_type") in READ_WRONGLY and len({each.get(THETA) for each in parameters.values() if isinstance(each, dict)}) == 1:
        return made if _mean_the_same(config, made, "rope_parameters", alone=False) else {}
    return next((words for words in (of_source, made) if words and _mean_the_same(config, words, "rope_parameters")), {})


def _old_rotary(config: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    kind, windowed = str(config.get("model_type")), parameters.get("sliding_attention")
    if isinstance(parameters.get("full_attention"), dict):
        everywhere, in_window = WINDOWED.get(kind, (THETA, None))
        full: Mapping[str, Any] = parameters["full_attention"]
        words = {everywhere: full.get(THETA), SCALING: _scaling(config, full)}
        if in_window and isinstance(windowed, dict):
            words[in_window] = windowed.get(THETA)
        return words
    names = FLAT.get(kind, {})
    words = {names.get(key, key): parameters[key] for key in (THETA, SHARE) if key in parameters}
    return {**words, SCALING: _scaling(config, parameters)}


def _scaling(config: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """rope_scaling, None where positions are not scaled."""
    kind = parameters.get("rope_type", "default")
    if kind == "default":
        return None
    if config.get("model_type") in THREE_KEYS:
        return {"type": kind, **{key: parameters[key] for key in ("short_factor", "long_factor") if key in parameters}}
    words = {key: value for key, value in parameters.items() if key not in (THETA, SHARE)}
    # Filled in by version 5. Version 4 would take the quotient of the two, one, for the factor.
    if words.get("original_max_position_embeddings") == config.get("max_position_embeddings"):
        words.pop("original_max_position_embeddings", None)
    return words


def _kinds_of_layers(config: Mapping[str, Any]) -> dict[str, Any]:
    old, kinds = KINDS.get(str(config.get("model_type"))), config.get("layer_types")
    if not old or not isinstance(kinds, list):
        return {}
    words = {"layer_types": [old.get(kind, kind) for kind in kinds]}
    return words if _mean_the_same(config, words, "layer_types") else {}


def _experts(config: Mapping[str, Any]) -> dict[str, Any]:
    """Their number under the name that version 4 had for it in some mixtures."""
    words = {"num_experts": config.get("num_local_experts")}
    new = "num_local_experts" in config and "num_experts" not in config
    return words if new and _mean_the_same(config, words, "num_local_experts") else {}


def _mean_the_same(config: Mapping[str, Any], words: Mapping[str, Any], key: str, *, alone: bool = True) -> bool:
    """Whether transformers reads the same `key` from the configuration as it is, with the words beside it, and with the words `alone`."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    if config.get("model_type") not in CONFIG_MAPPING:
        return False
    others = {name: value for name, value in config.items() if name != key}
    ways = [config, {**config, **words}, *([{**others, **words}] if alone else [])]
    try:
        meant, *found = (_plain(getattr(_read(each), key)) for each in ways)
    except (StrictDataclassError, AttributeError, KeyError, TypeError, ValueError):
        return False
    return all(each == meant for each in found)


def _read(config: Mapping[str, Any]) -> Any:
    """A configuration as transformers reads it from a file."""
    from transformers import CONFIG_MAPPING

    with TemporaryDirectory() as folder:
        write_json(Path(folder) / CONFIG, dict(config))
        return CONFIG_MAPPING[config["model_type"]].from_json_file(str(Path(folder) / CONFIG))


def _plain(value: Any) -> Any:
    """Without `type`, which version 5 keeps beside the rope_type that it makes of it."""
    return {key: _plain(each) for key, each in value.items() if key != "type"} if isinstance(value, dict) else value
