"""Model folders are judged by their files alone: what is missing, damaged or not to be trusted is named; torch stays out."""

import json
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune.errors import ModelError, NotHere
from finetune.events import Notice, Recorder
from finetune.model_folder import adapter_base, weight_files
from finetune.models.facts import describe, look_up
from finetune.models.location import locate
from finetune.runtime import RuntimeOptions

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "vocab_size": 300,
    "max_position_embeddings": 64,
}


def write_safetensors(path: Path, shapes: dict[str, list[int]], *, cut: int = 0) -> None:
    """A float32 safetensors file of zeros, written by hand so that these tests need no torch; `cut` bytes are left off its end."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4
        for length in shape:
            size *= length
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes((struct.pack("<Q", len(text)) + text + bytes(end))[: 8 + len(text) + end - cut])


def model_folder(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    write_safetensors(folder / "model.safetensors", {"a": [300, 16], "b": [16]})
    return folder


@pytest.fixture
def runtime(tmp_path: Path) -> RuntimeOptions:
    return RuntimeOptions(cache_dir=tmp_path / "cache")


def refusal(folder: Path, runtime: RuntimeOptions) -> ModelError:
    with pytest.raises(ModelError) as caught:
        locate(str(folder), runtime, Recorder())
    assert caught.value.hint
    assert caught.value.exit_code == 2
    return caught.value


def test_a_complete_folder_is_found_and_described_within_50_ms(tmp_path: Path, runtime: RuntimeOptions) -> None:
    folder = model_folder(tmp_path / "mine")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    located = locate(str(folder), runtime, Recorder())
    assert located.pinned == str(folder.resolve())
    assert located.bytes == (folder / "model.safetensors").stat().st_size
    began = time.process_time()
    facts = describe(located)
    assert time.process_time() - began < 0.05
    assert (facts.name, facts.parameters, facts.layers, facts.hidden) == ("mine", 300 * 16 + 16, 2, 16)
    assert (facts.vocabulary, facts.context, facts.licence) == (300, 64, "mit")


def test_gpt2_style_names_of_the_same_numbers_are_understood(tmp_path: Path, runtime: RuntimeOptions) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_layer": 3, "n_embd": 8, "n_positions": 32, "vocab_size": 9}))
    write_safetensors(folder / "model.safetensors", {"w": [3, 3]})
    facts = look_up(str(folder), runtime)
    assert facts is not None
    assert (facts.layers, facts.hidden, facts.context) == (3, 8, 32)


def test_shards_are_counted_by_the_index_and_a_lost_one_is_named(tmp_path: Path, runtime: RuntimeOptions) -> None:
    folder = model_folder(tmp_path / "sharded")
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    write_safetensors(folder / "two.safetensors", {"c": [10]})
    write_safetensors(folder / "stray.safetensors", {"d": [1000]})
    index = {"weight_map": {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert describe(locate(str(folder), runtime, Recorder())).parameters == 300 * 16 + 16 + 10
    (folder / "two.safetensors").unlink()
    assert "two.safetensors" in refusal(folder, runtime).message


def test_an_index_cannot_point_outside_its_folder(tmp_path: Path, runtime: RuntimeOptions) -> None:
    folder = model_folder(tmp_path / "hostile")
    (folder / "model.safetensors").rename(tmp_path / "secret.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    assert "not a list of weight files" in refusal(folder, runtime).message


def test_pickled_weights_are_refused_by_name(tmp_path: Path, runtime: RuntimeOptions) -> None:
    folder = model_folder(tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    error = refusal(folder, runtime)
    assert "pytorch_model.bin" in error.message
    assert "can run code" in error.message


@pytest.mark.slow  # imports transformers
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["BertForMaskedLM"]}, "BertForMaskedLM, not a causal language model"),
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, "not a causal language model"),
        ({"model_type": "not_in_transformers", "auto_map": {"AutoModelForCausalLM": "own.Model"}}, "needs its own Python code"),
    ],
)
def test_models_of_the_wrong_kind_are_refused(tmp_path: Path, runtime: RuntimeOptions, changes: dict[str, object], words: str) -> None:
    assert words in refusal(model_folder(tmp_path / "model", **changes), runtime).message


def test_own_code_that_transformers_does_not_need_is_no_reason_to_refuse(tmp_path: Path, runtime: RuntimeOptions) -> None:
    folder = model_folder(tmp_path / "model", auto_map={"AutoModelForCausalLM": "own.Model"})
    assert not locate(str(folder), runtime, Recorder()).remote_code


def test_own_code_is_allowed_only_by_the_flag(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", model_type="not_in_transformers", auto_map={"AutoModelForCausalLM": "own.Model"})
    allowed = RuntimeOptions(cache_dir=tmp_path / "cache", trust_remote_code=True)
    assert locate(str(folder), allowed, Recorder()).remote_code


def test_folders_without_a_config_say_what_they_are(tmp_path: Path, runtime: RuntimeOptions) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "no config.json" in refusal(folder, runtime).message
    (folder / "run").mkdir()
    assert "resume" in str(refusal(folder, runtime).hint)
    (folder / "run" / "benchmark.json").write_text("{}")
    assert refusal(folder, runtime).message == f"{folder} has the records of a finished run, and no model."
    (folder / "weights.gguf").write_bytes(b"GGUF")
    assert "weights.gguf" in str(refusal(folder, runtime).hint)


@pytest.mark.parametrize("content", ["{not json", "[1, 2]", "\xff"])
def test_a_broken_config_is_named(tmp_path: Path, runtime: RuntimeOptions, content: str) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "config.json").write_text(content, encoding="latin-1")
    assert "config.json" in refusal(folder, runtime).message


def test_cut_off_weights_are_noticed_before_loading(tmp_path: Path, runtime: RuntimeOptions) -> None:
    folder = model_folder(tmp_path / "model")
    write_safetensors(folder / "model.safetensors", {"a": [300, 16]}, cut=10)
    with pytest.raises(ModelError, match="truncated"):
        describe(locate(str(folder), runtime, Recorder()))


def test_an_adapter_folder_brings_its_base_as_the_run_recorded_it(tmp_path: Path, runtime: RuntimeOptions) -> None:
    base = model_folder(tmp_path / "base")
    adapter = tmp_path / "adapter"
    (adapter / "run").mkdir(parents=True)
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/a/path/of/another/machine"}))
    write_safetensors(adapter / "adapter_model.safetensors", {"lora": [4, 4]})
    (adapter / "run" / "recipe.yaml").write_text(f"model: {base}\n")
    located = locate(str(adapter), runtime, Recorder())
    assert located.adapter_base == str(base.resolve())
    facts = describe(located)
    assert (facts.name, facts.parameters, facts.layers) == ("adapter", 300 * 16 + 16 + 16, 2)
    (adapter / "adapter_model.safetensors").unlink()
    assert refusal(adapter, runtime).message == "adapter has no weights (adapter_model.safetensors)."


@pytest.mark.parametrize("base", [r"\\evil\share\model", "//evil/share/model", r"\\?\UNC\evil\share", r"/\evil\share", r"\\.\unc/evil/x"])
@pytest.mark.parametrize("recorded", [True, False])
def test_an_adapter_cannot_send_the_program_to_another_machine(tmp_path: Path, base: str, *, recorded: bool) -> None:
    """Windows would sign in there to look for the file."""
    (tmp_path / "run").mkdir()
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, "revision": "main"}))
    if recorded:
        (tmp_path / "run" / "recipe.yaml").write_text(json.dumps({"model": base}))
    with pytest.raises(ModelError, match="names a base model on another machine"):
        adapter_base(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [{"shadow_model": "org/other"}, {"adapters": {"0": r"\\evil\share"}}, {"megatron_config": {"a": 1}, "megatron_core": "megatron.x"}],
)
def test_an_adapter_cannot_have_other_models_or_modules_loaded(tmp_path: Path, settings: dict[str, object]) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"shadow_model": "mirror", "megatron_core": "megatron.core", **settings}))
    with pytest.raises(ModelError, match=rf"would load more than its own folder has: `{next(iter(settings))}`"):
        weight_files(tmp_path, "given")


@pytest.mark.parametrize("base", [r"\\?\C:\models\base", r"C:\models", "/data/base", "./base", "org/base"])
def test_a_base_on_this_machine_is_taken_as_it_is_written(tmp_path: Path, base: str) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    assert adapter_base(tmp_path) == base


def test_an_adapter_cannot_ask_for_more_layers_than_its_weights_have(tmp_path: Path, runtime: RuntimeOptions) -> None:
    base, adapter = model_folder(tmp_path / "base"), tmp_path / "adapter"
    adapter.mkdir()
    settings = {"base_model_name_or_path": str(base), "layer_replication": [[0, 2]] * 200}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    write_safetensors(adapter / "adapter_model.safetensors", {"lora": [4, 4]})
    assert "asks for 400 layers, and its weights have 1 tensors" in refusal(adapter, runtime).message


def identity(folder: Path, runtime: RuntimeOptions) -> str:
    return locate(str(folder), runtime, Recorder()).identity


def test_a_folder_keeps_its_identity_when_it_is_copied_and_loses_it_with_any_tensor(tmp_path: Path, runtime: RuntimeOptions) -> None:
    folder = model_folder(tmp_path / "base")
    first = identity(folder, runtime)
    assert identity(Path(shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)), runtime) == first
    state, weights = (folder / "model.safetensors").stat(), (folder / "model.safetensors").read_bytes()
    begins = len(weights) - 4 * (300 * 16 + 16)
    for place in (begins, begins + 4 * 150 * 16, begins + 4 * 300 * 16 - 1, len(weights) - 1):
        changed = bytearray(weights)
        changed[place] ^= 1
        (folder / "model.safetensors").write_bytes(changed)
        os.utime(folder / "model.safetensors", ns=(state.st_atime_ns, state.st_mtime_ns))
        assert identity(folder, runtime) != first
    (folder / "model.safetensors").write_bytes(weights)
    assert identity(folder, runtime) == first
    (folder / "config.json").write_text(json.dumps({**CONFIG, "rope_theta": 5}))
    assert identity(folder, runtime) != first


def test_an_adapter_has_another_identity_on_another_base(tmp_path: Path, runtime: RuntimeOptions) -> None:
    base, adapter = model_folder(tmp_path / "base"), tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    write_safetensors(adapter / "adapter_model.safetensors", {"lora": [4, 4]})
    first = identity(adapter, runtime)
    assert identity(adapter, runtime) == first
    write_safetensors(base / "model.safetensors", {"a": [300, 16], "c": [16]})
    assert identity(adapter, runtime) != first


def test_the_identity_of_many_gigabytes_takes_milliseconds(tmp_path: Path, runtime: RuntimeOptions) -> None:
    folder = model_folder(tmp_path / "base")
    tensors, size = 400, 64 * 2**20
    header = {f"t{n}": {"dtype": "U8", "shape": [size], "data_offsets": [n * size, (n + 1) * size]} for n in range(tensors)}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + tensors * size)  # a hole: it takes no room on the disk
    started = time.process_time()
    assert identity(folder, runtime)
    assert time.process_time() - started < 0.5


def test_an_adapter_on_itself_ends_in_a_sentence(tmp_path: Path, runtime: RuntimeOptions) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(adapter)}))
    write_safetensors(adapter / "adapter_model.safetensors", {"lora": [4, 4]})
    assert "is its own base model" in refusal(adapter, runtime).message


def test_quantised_loading_without_bitsandbytes_says_how_to_get_it(
    tmp_path: Path, runtime: RuntimeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.models.location.find_spec", lambda name: None)
    with pytest.raises(NotHere, match=r"^Loading in 4bit needs the package bitsandbytes\.") as refused:
        locate(str(model_folder(tmp_path / "model")), runtime, Recorder(), load_in="4bit")
    assert (refused.value.hint, refused.value.exit_code) == ("Install it: pip install bitsandbytes", 2)


def test_what_the_catalogue_knows_is_told_before_any_download(runtime: RuntimeOptions) -> None:
    facts = look_up("gpt2", runtime)
    assert facts is not None
    assert (facts.parameters, facts.context, facts.licence) == (124_439_808, 1024, "mit")
    assert look_up("nobody/knows-this", runtime) is None


def test_nothing_here_imports_torch_or_transformers(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    code = (
        "import sys\n"
        "from finetune.hardware import machine\n"
        "from finetune.hub import catalogue, models, reachability\n"
        "from finetune.models import facts, gguf_file, location, starter\n"
        "from finetune.runtime import RuntimeOptions\nfrom finetune.events import Recorder\n"
        "machine.glance(); reachability.hub_reachable()\n"
        "facts.describe(location.locate(sys.argv[1], RuntimeOptions(), Recorder())); facts.look_up('gpt2', RuntimeOptions())\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'peft') if name in sys.modules])\n"
    )
    answer = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True).stdout
    assert answer.strip() == "[]"


def test_a_notice_is_given_once_to_each_reporter(runtime: RuntimeOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune.models import location

    first, second = Recorder(), Recorder()
    for reporter in (first, first, second):
        location._say_once(reporter, "once")
    assert [len(reporter.of(Notice)) for reporter in (first, second)] == [1, 1]
