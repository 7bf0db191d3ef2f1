"""What a run saves, read by others: ends of answers, the tokenizer's own files, words of older versions, the name of an adapter's base."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from bytes_tokenizer import sentence_piece
from gguf.vocab import SpecialVocab
from letters import parrot, tokenizer
from pico import pico
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from workshop import Workshop

from finetune.events import Recorder
from finetune.hardware.machine import inspect
from finetune.models.load import load_model, load_tokenizer
from finetune.models.location import LocatedModel, locate, parse
from finetune.models.saved import complete, public_name
from finetune.models.saved_configs import name_base, spell_out
from finetune.models.tokenizer_files import save_tokenizer
from finetune.publish.merged import Merged
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions
from finetune.training.decoding import stop_ids

RUNTIME = RuntimeOptions(device="cpu", dtype="float32")
# Fields of LoraConfig and of PeftConfig in peft 0.17.
PEFT_017 = {
    *("task_type", "peft_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "r", "target_modules"),
    *("exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out", "bias", "use_rslora", "modules_to_save", "init_lora_weights"),
    *("layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "megatron_config", "megatron_core"),
    *("trainable_token_indices", "loftq_config", "eva_config", "corda_config", "use_dora", "use_qalora", "qalora_group_size"),
    *("layer_replication", "runtime_config", "lora_bias", "target_parameters"),
}
END = 5  # <|end|>, which the chat template writes behind an answer; the tokenizer's own end is </s>, 1


@pytest.fixture(scope="module")
def saved(shop: Workshop) -> dict[str, Path]:
    """One folder of each kind that the program writes."""
    adapter = shop.tuner(shop.layer()).run().output_dir
    Merged.export(RunFolder.of(adapter), shop.folder / "merged", shop.runtime, Recorder())
    return {
        "adapter": adapter,
        "merged": shop.folder / "merged",
        "full": shop.tuner(shop.layer(method={"kind": "full"})).run().output_dir,
        "student": shop.tuner(shop.distilling()).run().output_dir,
    }


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize("kind", ["adapter", "merged", "full", "student"])
def test_what_is_saved_names_the_end_that_was_trained(kind: str, saved: dict[str, Path]) -> None:
    folder = saved[kind]
    assert read(folder / "generation_config.json")["eos_token_id"] == [1, END]
    assert read(folder / "generation_config.json")["pad_token_id"] == 0
    settings = read(folder / "tokenizer_config.json")
    assert settings["eos_token"] == "<|end|>"
    assert settings["pad_token"] == "<pad>"
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not {"extra_special_tokens", "backend", "is_local"} & settings.keys()
    again, original = AutoTokenizer.from_pretrained(folder), tokenizer(chat=True)
    turns = [{"role": "user", "content": "say cat"}, {"role": "assistant", "content": "cat"}]
    text = original.apply_chat_template(turns, tokenize=False)
    assert again.apply_chat_template(turns, tokenize=False) == text
    assert again(text)["input_ids"] == original(text)["input_ids"]


@pytest.mark.parametrize("kind", ["merged", "full", "student"])
def test_a_trained_model_remembers_what_it_read_as_its_source_does(kind: str, saved: dict[str, Path], shop: Workshop) -> None:
    """A Trainer switches the cache of keys and values off in the configuration, and who trusts that begins each token from the start."""
    assert read(shop.model / "config.json")["use_cache"] is True
    assert read(saved[kind] / "config.json")["use_cache"] is True


def test_converters_to_gguf_find_the_end_too(saved: dict[str, Path]) -> None:
    for folder in (saved["full"], saved["merged"]):
        assert SpecialVocab(folder, n_vocab=36).special_token_ids["eos"] == END


def test_plain_text_ends_with_the_tokenizers_own_end(shop: Workshop) -> None:
    """Nothing but that was trained, so the tokenizer stays as it is."""
    rows = shop.folder / "texts.jsonl"
    rows.write_text("".join(json.dumps({"text": f"the {word} is here"}) + "\n" for word in ("cat", "dog", "hen", "fox") * 4))
    layer = shop.layer(method={"kind": "full"}, dataset={"source": str(rows), "max_length": 32, "held_out": 0.25})
    folder = shop.tuner(layer).run().output_dir
    assert read(folder / "tokenizer_config.json")["eos_token"] == "</s>"


def test_plain_generate_stops_where_our_chat_stops(tmp_path: Path) -> None:
    """A base whose generation_config knows only the tokenizer's end."""
    made = tokenizer(chat=True)
    model = parrot(made, ["a", "b", "<|end|>", "c"])
    model.generation_config.eos_token_id = made.eos_token_id
    model.save_pretrained(tmp_path / "base")
    made.save_pretrained(tmp_path / "base")
    located = locate(str(tmp_path / "base"), RUNTIME, Recorder())
    ours, reads = load_model(located, inspect(RUNTIME)), load_tokenizer(located)
    ours.save_pretrained(tmp_path / "out")
    asked = torch.tensor([[2, 12, 3]])

    def answer() -> list[int]:
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        found: list[int] = plain.generate(asked, max_new_tokens=9, do_sample=False)[0, 3:].tolist()
        return found

    assert len(answer()) == 9, "as the base does"
    complete(tmp_path / "out", reads, source=located, base=None, pad=0, chat=True)
    assert answer() == made.convert_tokens_to_ids(["a", "b", "<|end|>"])
    assert stop_ids(ours, reads) == read(tmp_path / "out" / "generation_config.json")["eos_token_id"] == [1, END]


def source_folder(folder: Path, **settings: Any) -> LocatedModel:
    """A base whose tokenizer files look as version 4 wrote them, with comments of their own in unusual places."""
    pico("llama", vocab_size=36).save_pretrained(folder)
    tokenizer(chat=True).save_pretrained(folder)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "eos_token": "<|end|>",
        "model_max_length": 77,
        **settings,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=5))
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": config["eos_token"], "pad_token": {"content": "<pad>"}}))
    return locate(str(folder), RUNTIME, Recorder())


def test_tokenizer_files_are_the_sources_byte_for_byte_where_nothing_changed(tmp_path: Path) -> None:
    located = source_folder(tmp_path / "base")
    (tmp_path / "out").mkdir()
    complete(tmp_path / "out", load_tokenizer(located), source=located, base=None, pad=0, chat=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "base" / name).read_bytes(), name


@pytest.mark.skipif(os.name == "nt", reason="links of Unix")
def test_a_file_of_a_tokenizer_that_is_a_link_out_of_its_folder_is_not_copied(tmp_path: Path) -> None:
    located = source_folder(tmp_path / "base")
    (tmp_path / "id_ed25519").write_text("private")
    (tmp_path / "base" / "merges.txt").symlink_to(tmp_path / "id_ed25519")
    (tmp_path / "out").mkdir()
    complete(tmp_path / "out", load_tokenizer(located), source=located, base=None, pad=0, chat=True)
    assert not [file for file in (tmp_path / "out").iterdir() if b"private" in file.read_bytes()]


def test_only_what_changed_is_changed_in_a_tokenizers_settings(tmp_path: Path) -> None:
    told = {"eos_token": {"content": "</s>", "lstrip": False}, "pad_token": "</s>", "strange": 7, "extra_special_tokens": ["<|user|>"]}
    located = source_folder(tmp_path / "base", **told)
    (tmp_path / "out").mkdir()
    complete(tmp_path / "out", load_tokenizer(located), source=located, base=None, pad=0, chat=True)
    assert read(tmp_path / "out" / "tokenizer_config.json") == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "eos_token": "<|end|>",
        "model_max_length": 77,
        "strange": 7,
        "additional_special_tokens": ["<|user|>"],
    }
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (tmp_path / "base" / "tokenizer.json").read_bytes()


def test_a_sentence_piece_tokenizer_opens_texts_behind_marks_as_before(tmp_path: Path) -> None:
    """Where files cannot be copied, transformers writes them without the key that says so."""
    described = json.loads(sentence_piece().backend_tokenizer.to_str())["model"]
    merges, marks = [tuple(pair) for pair in described["merges"]], {"unk_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = transformers.LlamaTokenizer(vocab=described["vocab"], merges=merges, legacy=True, pad_token="<pad>", **marks)
    save_tokenizer(tokenizer, tmp_path, tmp_path / "saved")
    assert tokenizer.tokenize("a</s>b") == ["▁", "a", "</s>", "▁", "b"]
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").tokenize("a</s>b") == ["▁", "a", "</s>", "▁", "b"]


def test_a_template_that_writes_the_end_token_itself_keeps_it(tmp_path: Path) -> None:
    """With another end token it would write another text."""
    located = source_folder(tmp_path / "base", eos_token="</s>")
    template = tmp_path / "base" / "chat_template.jinja"
    template.write_text("{{ '' if messages else eos_token }}" + template.read_text())
    (tmp_path / "out").mkdir()
    complete(tmp_path / "out", load_tokenizer(located), source=located, base=None, pad=0, chat=True)
    assert read(tmp_path / "out" / "tokenizer_config.json")["eos_token"] == "</s>"
    assert END in read(tmp_path / "out" / "generation_config.json")["eos_token_id"]


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
FACTORS = {"short_factor": [1.0, 1.5, 2.0], "long_factor": [2.0, 3.0, 4.0]}
GEMMA = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 12345.0},
}
# An architecture with rope_parameters of transformers 5, and the same in the words of version 4.
WORDS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("Llama", {"rope_type": "default", "rope_theta": 5e5}, {"rope_theta": 5e5, "rope_scaling": None}),
    ("Llama", {**LLAMA3, "rope_theta": 5e5}, {"rope_theta": 5e5, "rope_scaling": LLAMA3}),
    (
        "Qwen2",  # what version 5 fills in where a file has none: version 4 would take the factor for one
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "rope_theta": 1e6},
        {"rope_theta": 1e6, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    ),
    (
        "GPTNeoX",
        {"rope_type": "default", "rope_theta": 33333, "partial_rotary_factor": 0.5},
        {"rotary_emb_base": 33333, "rotary_pct": 0.5, "rope_scaling": None},
    ),
    (
        "StableLm",
        {"rope_type": "default", "rope_theta": 777.0, "partial_rotary_factor": 0.75},
        {"rope_theta": 777.0, "partial_rotary_factor": 0.75, "rope_scaling": None},
    ),
    (
        "Phi3",
        {"rope_type": "longrope", "rope_theta": 4e4, "partial_rotary_factor": 1.0, "original_max_position_embeddings": 64, **FACTORS},
        {"rope_theta": 4e4, "partial_rotary_factor": 1.0, "rope_scaling": {"type": "longrope", **FACTORS}},
    ),
    (
        "Olmo3",
        {**GEMMA, "sliding_attention": {"rope_type": "default", "rope_theta": 1e6}},
        {"rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    ),
    ("Olmo3", GEMMA, {"rope_theta": "missing"}),  # version 4 has no words for two bases there
    (
        "Gemma3Text",
        GEMMA,
        {"rope_theta": 1e6, "rope_local_base_freq": 12345.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    ),
]


@pytest.mark.parametrize(
    ("family", "parameters", "words"), WORDS, ids=[f"{family}-{number}" for number, (family, _, _) in enumerate(WORDS)]
)
def test_rotary_positions_are_written_in_both_spellings(
    family: str, parameters: dict[str, Any], words: dict[str, Any], tmp_path: Path
) -> None:
    shape = {"hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 2, "max_position_embeddings": 128}
    shape |= {"head_dim": 6} if family == "Gemma3Text" else {"original_max_position_embeddings": 64} if family == "Phi3" else {}
    shape |= {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    made = getattr(transformers, f"{family}Config")(**shape, rope_parameters=json.loads(json.dumps(parameters)), dtype=torch.bfloat16)
    made.save_pretrained(tmp_path)
    before = AutoConfig.from_pretrained(tmp_path)
    spell_out(tmp_path, None)
    told = read(tmp_path / "config.json")
    assert {key: told.get(key, "missing") for key in words} == words
    assert told["torch_dtype"] == told["dtype"] == "bfloat16"
    again = AutoConfig.from_pretrained(tmp_path)
    again.rope_parameters.pop("type", None)  # which it keeps beside rope_type
    assert again.rope_parameters == before.rope_parameters, "version 5 reads what it read before"
    assert again.dtype == torch.bfloat16


def test_the_words_of_the_source_are_the_best_ones(tmp_path: Path) -> None:
    """They are what its own readers are used to; but not where they no longer say the same."""
    for name in ("source", "other", "out"):
        pico("llama", rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}).config.save_pretrained(tmp_path / name)
    old = {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    config = {key: value for key, value in read(tmp_path / "source" / "config.json").items() if key != "rope_parameters"}
    (tmp_path / "source" / "config.json").write_text(json.dumps({**config, **old}))
    (tmp_path / "other" / "config.json").write_text(json.dumps({**config, **old, "rope_theta": 600.0}))
    spell_out(tmp_path / "out", tmp_path / "other")
    assert read(tmp_path / "out" / "config.json")["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}
    assert read(tmp_path / "out" / "config.json")["rope_theta"] == 500.0
    spell_out(tmp_path / "out", tmp_path / "source")
    assert read(tmp_path / "out" / "config.json")["rope_scaling"] == {"type": "linear", "factor": 2.0}


def test_the_text_part_of_a_larger_model_is_spelled_out_too(tmp_path: Path) -> None:
    text = {"hidden_size": 24, "num_attention_heads": 4, "head_dim": 6, "num_hidden_layers": 2, "rope_parameters": GEMMA}
    transformers.Gemma3Config(text_config=json.loads(json.dumps(text))).save_pretrained(tmp_path)
    spell_out(tmp_path, None)
    told = read(tmp_path / "config.json")["text_config"]
    assert (told["rope_theta"], told["rope_local_base_freq"]) == (1e6, 12345.0)


def test_experts_are_counted_under_both_names(tmp_path: Path) -> None:
    transformers.Qwen3MoeConfig(num_local_experts=6).save_pretrained(tmp_path)
    spell_out(tmp_path, None)
    assert read(tmp_path / "config.json")["num_experts"] == read(tmp_path / "config.json")["num_local_experts"] == 6
    assert AutoConfig.from_pretrained(tmp_path).num_local_experts == 6


def test_kinds_of_layers_are_named_as_their_readers_name_them(tmp_path: Path) -> None:
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "mamba_n_heads": 8, "mamba_expand": 2, "mamba_d_head": 6}
    transformers.GraniteMoeHybridConfig(layer_types=["linear_attention", "full_attention"], **shape).save_pretrained(tmp_path)
    spell_out(tmp_path, None)
    assert read(tmp_path / "config.json")["layer_types"] == ["mamba", "attention"]
    assert AutoConfig.from_pretrained(tmp_path).layer_types == ["linear_attention", "full_attention"]


def test_an_adapters_settings_have_no_key_that_peft_017_does_not_know(saved: dict[str, Path]) -> None:
    settings = read(saved["adapter"] / "adapter_config.json")
    assert settings.keys() <= PEFT_017
    assert (settings["r"], settings["lora_alpha"], settings["lora_dropout"], settings["peft_type"]) == (16, 32, 0.05, "LORA")
    assert set(settings["target_modules"]) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_an_adapters_settings_are_the_same_file_each_time(saved: dict[str, Path], tmp_path: Path) -> None:
    modules = read(saved["adapter"] / "adapter_config.json")["target_modules"]
    assert modules == sorted(modules), "peft writes them in the order of a set, which changes with each start of Python"
    (tmp_path / "adapter_config.json").write_text(json.dumps({"target_modules": "all-linear", "exclude_modules": ["b", "a"]}))
    name_base(tmp_path, "org/base", None)
    settings = read(tmp_path / "adapter_config.json")
    assert (settings["target_modules"], settings["exclude_modules"]) == ("all-linear", ["a", "b"])


def test_what_only_new_readers_know_stays_where_it_matters(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 8, "use_bdlora": {"nblocks": 2}, "velora_config": None})
    )
    name_base(tmp_path, "org/base", None)
    settings = read(tmp_path / "adapter_config.json")
    assert settings["use_bdlora"] == {"nblocks": 2}
    assert "velora_config" not in settings


def test_the_base_of_an_adapter_is_named_as_anybody_can_find_it(saved: dict[str, Path], shop: Workshop, tmp_path: Path) -> None:
    commit = "0123456789" * 4
    hub = LocatedModel(parse("org/base"), tmp_path, f"org/base@{commit}", commit)
    assert public_name(hub) == ("org/base", commit)
    assert public_name(LocatedModel(parse("org/base"), tmp_path, "org/base@pypi-1", "pypi-1")) == (str(tmp_path), None)
    assert read(saved["adapter"] / "adapter_config.json")["base_model_name_or_path"] == str(shop.model)
