"""Tokenizers and models into memory: every place a model can come from gives the same numbers, every damage one sentence."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
import torch
from finished_run import base_folder, finished_run
from peft import LoraConfig, get_peft_model
from pico import pico
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from finetune.errors import ModelError, ModelNotFound, NotHere
from finetune.events import Notice, Recorder
from finetune.hardware import machine
from finetune.hardware.machine import Machine, inspect, torch_dtype
from finetune.models.facts import describe, look_up
from finetune.models.load import load_model, load_tokenizer
from finetune.models.location import LocatedModel, locate
from finetune.models.starter import convert
from finetune.recipe import Recipe
from finetune.runtime import RuntimeOptions

torch.set_num_threads(1)
MACHINE = Machine("cpu", 1, 2**33, 2**33, "cpu", None, 0, "float32", {}, "asked for")
IDS = torch.tensor([[3, 17, 42, 99, 5, 8]])


@pytest.fixture
def runtime(tmp_path: Path) -> RuntimeOptions:
    return RuntimeOptions(cache_dir=tmp_path / "cache", dtype="float32")


def tokenizer(**special: str) -> PreTrainedTokenizerFast:
    words = ["<unk>", "<s>", "</s>", *(f"word{number}" for number in range(128))]
    plain = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=plain, **special)


def saved(folder: Path, name: str = "llama", **special: str) -> Any:
    model = pico(name)
    model.save_pretrained(folder)
    tokenizer(**(special or {"eos_token": "</s>", "unk_token": "<unk>", "bos_token": "<s>"})).save_pretrained(folder)
    return model


def find(path: Path, runtime: RuntimeOptions) -> LocatedModel:
    return locate(str(path), runtime, Recorder())


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_a_folder_loads_to_the_same_logits_in_eval_mode(tmp_path: Path, runtime: RuntimeOptions, name: str) -> None:
    original = saved(tmp_path / "model", name)
    located = find(tmp_path / "model", runtime)
    model = load_model(located, MACHINE)
    assert not model.training
    assert torch.equal(logits(model), logits(original))
    assert describe(located).parameters == sum(parameter.numel() for parameter in original.parameters())


def test_the_dtype_is_the_machines_unless_asked_for(tmp_path: Path, runtime: RuntimeOptions) -> None:
    saved(tmp_path / "model")
    located = find(tmp_path / "model", runtime)
    assert load_model(located, MACHINE).dtype == torch.float32
    assert load_model(located, MACHINE, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_an_adapter_is_read_to_where_its_base_is(tmp_path: Path, runtime: RuntimeOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also beside a GPU, which other programs may have filled."""
    adapted = get_peft_model(saved(tmp_path / "base"), LoraConfig(r=4, target_modules=["q_proj"]))
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "adapter")
    monkeypatch.setattr("peft.peft_model.infer_device", lambda: "cuda:7")
    assert load_model(find(tmp_path / "adapter", runtime), MACHINE).device.type == "cpu"


def test_an_adapter_folder_loads_merged_and_close_to_the_wrapped_model(tmp_path: Path, runtime: RuntimeOptions) -> None:
    base = saved(tmp_path / "base")
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)).eval()
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "adapter")
    located = find(tmp_path / "adapter", runtime)
    model = load_model(located, MACHINE)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert torch.allclose(logits(model), logits(adapted), atol=1e-4)
    assert torch.equal(logits(load_model(located, MACHINE, merge=False)), logits(adapted))
    assert not torch.allclose(logits(model), logits(load_model(find(tmp_path / "base", runtime), MACHINE)), atol=1e-2)
    assert load_tokenizer(located).eos_token == "</s>"  # the base's: the adapter folder has none


def test_an_adapter_that_lacks_weights_is_not_loaded_as_if_it_were_whole(tmp_path: Path, runtime: RuntimeOptions) -> None:
    adapted = get_peft_model(saved(tmp_path / "base"), LoraConfig(r=4, target_modules=["q_proj"]))
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    weights.pop(sorted(weights)[0])
    save_file(weights, file)
    with pytest.raises(ModelError, match="missing adapter keys"):
        load_model(find(tmp_path / "adapter", runtime), MACHINE)


def test_a_model_whose_weights_lack_something_is_not_filled_with_random_numbers(tmp_path: Path, runtime: RuntimeOptions) -> None:
    saved(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"is missing 1 of its weights, such as model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(find(tmp_path / "model", runtime), MACHINE)


@pytest.mark.parametrize("damage", ["cut", "shape", "garbage"])
def test_damaged_weights_end_in_one_sentence(tmp_path: Path, runtime: RuntimeOptions, damage: str) -> None:
    saved(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "garbage":
        file.write_bytes(b"\0" * 1000)
    else:
        weights = load_file(file)
        weights["model.norm.weight"] = torch.zeros(7)
        save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError) as caught:
        load_model(find(tmp_path / "model", runtime), MACHINE)
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_unknown_architectures_and_broken_tokenizers_end_in_one_sentence(tmp_path: Path, runtime: RuntimeOptions) -> None:
    saved(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_tokenizer(find(tmp_path / "model", runtime))
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "model_type": "never_heard_of"}))
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(find(tmp_path / "model", runtime), MACHINE)


def test_own_code_is_never_run_without_the_flag(tmp_path: Path, runtime: RuntimeOptions) -> None:
    saved(tmp_path / "model")
    sentinel = tmp_path / "it_ran"
    (tmp_path / "model" / "own.py").write_text(f"open({str(sentinel)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    file = tmp_path / "model" / "config.json"
    mapped = {"auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model", "AutoTokenizer": ["own.Model", None]}}
    config = {**json.loads(file.read_text()), **mapped}
    file.write_text(json.dumps(config))  # a known architecture: transformers' own class is used
    load_model(find(tmp_path / "model", runtime), MACHINE)
    load_tokenizer(find(tmp_path / "model", runtime))
    file.write_text(json.dumps({**config, "model_type": "never_heard_of"}))
    with pytest.raises(ModelError, match="its own Python code"):
        find(tmp_path / "model", runtime)
    assert not sentinel.exists()


def test_padding_is_never_the_end_token_where_another_is_free(tmp_path: Path, runtime: RuntimeOptions) -> None:
    saved(tmp_path / "both", eos_token="</s>", bos_token="<s>", pad_token="</s>")
    loaded: Any = load_tokenizer(find(tmp_path / "both", runtime))
    assert (loaded.pad_token, loaded.eos_token) == ("<unk>", "</s>")
    assert any("Padding token: <unk>" in note for note in loaded.notes)
    assert any("no chat template" in note for note in loaded.notes)


def test_padding_of_its_own_is_kept(tmp_path: Path, runtime: RuntimeOptions) -> None:
    saved(tmp_path / "own", eos_token="</s>", pad_token="<s>")
    loaded: Any = load_tokenizer(find(tmp_path / "own", runtime))
    assert loaded.pad_token == "<s>"
    assert not any("Padding" in note for note in loaded.notes)


def test_a_tokenizer_without_an_end_gets_the_one_in_its_vocabulary(tmp_path: Path, runtime: RuntimeOptions) -> None:
    saved(tmp_path / "endless", unk_token="<unk>")
    loaded: Any = load_tokenizer(find(tmp_path / "endless", runtime))
    assert loaded.eos_token == "</s>"
    assert any("no end token" in note for note in loaded.notes)


@pytest.mark.parametrize("load_in", ["8bit", "4bit"])
def test_quantised_loading_takes_less_room_and_stays_close(tmp_path: Path, runtime: RuntimeOptions, load_in: str) -> None:
    pytest.importorskip("bitsandbytes")
    pico("llama", hidden_size=64, intermediate_size=128).save_pretrained(tmp_path / "model")
    located = find(tmp_path / "model", runtime)
    whole, small = load_model(located, MACHINE), load_model(located, MACHINE, load_in=load_in)
    assert small.get_memory_footprint() < whole.get_memory_footprint()
    agreement = torch.cosine_similarity(logits(small).float().flatten(), logits(whole).flatten(), dim=0)
    assert agreement > 0.9


def test_the_dtype_once_chosen_stays_and_the_rates_only_rise(tmp_path: Path) -> None:
    runtime = RuntimeOptions(cache_dir=tmp_path)
    first = inspect(runtime)
    assert set(first.gflops) >= {"float32"}
    assert min(first.gflops.values()) > 0
    stored = tmp_path / "machine.json"
    (key,) = json.loads(stored.read_text())
    slow, fast = dict.fromkeys(first.gflops, 0.001), dict.fromkeys(first.gflops, 1e9)
    for dtype in ("float32", "bfloat16"):
        for rates in (slow, fast):
            stored.write_text(json.dumps({key: {"dtype": dtype, "gflops": rates}, "another machine": {"dtype": "float16", "gflops": {}}}))
            again = inspect(runtime)
            assert again.dtype == dtype
            assert (again.gflops == fast) == (rates is fast)
            assert "another machine" in json.loads(stored.read_text())
    for broken in ("broken", "[]", json.dumps({key: 3})):
        stored.write_text(broken)
        assert inspect(runtime).gflops


def test_bfloat16_must_pay_for_its_rounding() -> None:
    assert machine._fastest("cpu", {"float32": 100.0, "bfloat16": 149.0})[0] == "float32"
    assert machine._fastest("cpu", {"float32": 100.0, "bfloat16": 150.0})[0] == "bfloat16"


def test_impossible_devices_and_dtypes_are_refused(tmp_path: Path) -> None:
    assert NotHere.exit_code == 2
    with pytest.raises(NotHere, match="no device 'tpu'"):
        inspect(RuntimeOptions(cache_dir=tmp_path, device="tpu"))
    with pytest.raises(NotHere, match="float16"):
        inspect(RuntimeOptions(cache_dir=tmp_path, device="cpu", dtype="float16"))
    assert torch_dtype(inspect(RuntimeOptions(cache_dir=tmp_path, device="cpu", dtype="bfloat16"))) == torch.bfloat16


def write_gguf(path: Path, *, architecture: str = "llama") -> None:
    """A GGUF file of a small Llama with a byte-level tokenizer, one matrix as Q8_0, one as Q4_1, the rest as float32."""
    width, inner, heads, kv_heads, layers = 64, 96, 4, 2, 2
    random = numpy.random.default_rng(0)
    words = ["<unk>", "<s>", "</s>", "a", "b", "c", "ab", *(f"w{number}" for number in range(121))]
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_name("pico")
    writer.add_block_count(layers)
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([3, 3, 3] + [1] * (len(words) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)

    def add(name: str, *shape: int, kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32) -> None:
        values = random.standard_normal(shape, dtype=numpy.float32)
        if kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", len(words), width, kind=gguf.GGMLQuantizationType.Q8_0)
    add("output_norm.weight", width)
    for layer in range(layers):
        add(f"blk.{layer}.attn_q.weight", width, width, kind=gguf.GGMLQuantizationType.Q4_1)
        add(f"blk.{layer}.attn_k.weight", width // 2, width)
        add(f"blk.{layer}.attn_v.weight", width // 2, width)
        add(f"blk.{layer}.attn_output.weight", width, width)
        for name in ("ffn_gate", "ffn_up"):
            add(f"blk.{layer}.{name}.weight", inner, width)
        add(f"blk.{layer}.ffn_down.weight", width, inner)
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{layer}.{name}.weight", width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_unpacked_once_and_gives_what_transformers_reads(tmp_path: Path, runtime: RuntimeOptions) -> None:
    file = tmp_path / "pico.gguf"
    write_gguf(file)
    reporter = Recorder()
    located = locate(str(file), runtime, reporter)
    assert (located.pinned, located.source.kind) == (str(file.resolve()), "gguf")
    assert "pico.gguf" in str(located.note)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="pico.gguf", dtype=torch.float32)
    assert torch.equal(logits(load_model(located, MACHINE)), logits(theirs))
    assert (
        load_tokenizer(located)("ab c")["input_ids"] == AutoTokenizer.from_pretrained(tmp_path, gguf_file="pico.gguf")("ab c")["input_ids"]
    )

    again = Recorder()
    assert locate(str(file), runtime, again).folder == located.folder
    assert reporter.of(Notice)
    assert not again.of(Notice)
    facts = look_up(str(file), runtime)
    assert facts is not None
    assert (facts.parameters, facts.layers, facts.hidden, facts.context) == (describe(located).parameters, 2, 64, 128)
    assert [path.name for path in located.folder.parent.iterdir()] == [located.folder.name]


def test_what_lies_beside_a_gguf_file_is_not_taken_for_a_part_of_it(tmp_path: Path, runtime: RuntimeOptions) -> None:
    """An adapter, and the tokenizer of another model; the same file alone makes the same folder."""
    folders = []
    for place in ("alone", "beside"):
        (tmp_path / place).mkdir()
        write_gguf(tmp_path / place / "pico.gguf")
        if place == "beside":
            tokenizer().save_pretrained(tmp_path / place)
            (tmp_path / place / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base", "peft_type": "LORA"}')
        found = locate(str(tmp_path / place / "pico.gguf"), runtime, Recorder()).folder
        folders.append({file.name: file.read_bytes() for file in found.iterdir()})
    assert folders[0] == folders[1]


def test_of_a_gguf_file_one_copy_is_kept_and_those_of_other_files_stay(tmp_path: Path, runtime: RuntimeOptions) -> None:
    """Copies of an older version of the program, and of what the file was before, are as large as the model and would stay for ever."""
    file, other = tmp_path / "pico.gguf", tmp_path / "other.gguf"
    write_gguf(file)
    write_gguf(other)
    copies, state = runtime.cache_dir / "models", f"{file.resolve()}|{file.stat().st_size}|{file.stat().st_mtime_ns}"
    for version in (1, 2):
        (copies / f"gguf-{hashlib.sha256(f'{version}|{state}'.encode()).hexdigest()[:12]}" / "old").mkdir(parents=True)
    beside = locate(str(other), runtime, Recorder()).folder
    before = locate(str(file), runtime, Recorder()).folder
    assert {*copies.iterdir()} == {before, beside}
    write_gguf(file)
    os.utime(file, (1, 1))
    now = locate(str(file), runtime, Recorder()).folder
    assert now != before
    assert {*copies.iterdir()} == {now, beside}


def test_the_starters_own_conversion_gives_what_transformers_reads(tmp_path: Path) -> None:
    write_gguf(tmp_path / "pico.gguf")
    convert(tmp_path / "pico.gguf", tmp_path / "model")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="pico.gguf", dtype=torch.float32)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())
    assert torch.equal(logits(ours), logits(theirs))
    assert AutoTokenizer.from_pretrained(tmp_path / "model").eos_token == "</s>"


@pytest.mark.parametrize(
    "damage", ["cut in the weights", "cut in the header", "other file", "empty", "absurd count", "unknown architecture"]
)
def test_broken_gguf_files_end_in_one_sentence_and_leave_nothing(tmp_path: Path, runtime: RuntimeOptions, damage: str) -> None:
    file = tmp_path / "pico.gguf"
    write_gguf(file, architecture="never_heard_of" if damage == "unknown architecture" else "llama")
    content = file.read_bytes()
    file.write_bytes(
        {
            "cut in the weights": content[:-1000],
            "cut in the header": content[:700],
            "other file": b"PK" + content[2:],
            "empty": b"",
            "absurd count": content[:8] + b"\xff" * 16 + content[24:],
        }.get(damage, content)
    )
    with pytest.raises(ModelError) as caught:
        locate(str(file), runtime, Recorder())
    assert "pico.gguf" in caught.value.message
    assert "\n" not in caught.value.message
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize("run", [True, False])
def test_an_adapter_whose_base_was_moved_says_where_its_new_place_belongs(run: bool, tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base")
    folder = finished_run(tmp_path / "run", base, Recipe.from_layers({"model": str(base)})).output_dir
    if not run:
        shutil.rmtree(folder / "run")
    base.rename(tmp_path / "moved")
    with pytest.raises(ModelNotFound, match="needs its base model") as refused:
        locate(str(folder), RuntimeOptions(), Recorder())
    place = folder / ("run/recipe.yaml" if run else "adapter_config.json")
    assert f"write where it is now into `{'model' if run else 'base_model_name_or_path'}` of {place}" in str(refused.value.hint)
    place.write_text(place.read_text().replace(str(base), str(tmp_path / "moved")))
    assert locate(str(folder), RuntimeOptions(), Recorder()).home.folder == tmp_path / "moved"
