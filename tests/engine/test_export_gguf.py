"""`export --to gguf`: llama.cpp answers as the model does, for every architecture and type, or nothing is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from finished_run import base_folder, finished_run
from peft import LoraConfig, get_peft_model
from pico_exports import FAMILIES, ROUNDED, hostile, model_of, run_of, tokenizer_of
from transformers import AutoTokenizer

from finetune.cli import main
from finetune.errors import DiskFull, FinetuneError, UploadError
from finetune.events import Progress, Recorder
from finetune.export import to_gguf, tokens, writing
from finetune.export.kinds import KINDS
from finetune.export.llama_cpp import Questions, asked
from finetune.export.to_gguf import GGUF
from finetune.hardware.machine import glance
from finetune.publish.upload import _contents
from finetune.recipe import Recipe
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions
from finetune.screen.results import next_steps
from finetune.screen.wording import command_name
from finetune.wizard import offer_export
from finetune.wizard.host import HostInfo
from finetune.wizard.prompter import ScriptedPrompter

RUNTIME = RuntimeOptions(device="cpu", dtype="float32")


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", FAMILIES)
def test_llama_cpp_answers_as_the_model_of_every_architecture(name: str, tmp_path: Path) -> None:
    run = run_of(name, tmp_path)
    done = GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder())
    assert done.gate["prompts"] == 20
    assert done.gate["same_top"] >= 19  # weights of chance: two tokens may be equally likely
    assert done.gate["difference"] < 0.05
    assert done.gate["chats"] == 3
    assert left_in(tmp_path / "gguf") == ["Modelfile", "out-F16.gguf"]
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "gguf" / done.file).tensors}
    assert done.gate["tensors"] == len(stored)


@pytest.mark.parametrize("name", KINDS)
def test_every_type(name: str, tmp_path: Path) -> None:
    run, recorder = run_of("llama", tmp_path, hidden_size=256, intermediate_size=512, head_dim=64, initializer_range=0.05), Recorder()
    done = GGUF.export(run, tmp_path / "gguf", RUNTIME, recorder, type=name.upper())
    kind = KINDS[name]
    read = gguf.GGUFReader(tmp_path / "gguf" / f"out-{name.upper()}.gguf")
    formats = {tensor.name: tensor.tensor_type.name for tensor in read.tensors}
    assert formats["blk.0.attn_q.weight"] == kind.format
    assert formats["blk.0.attn_norm.weight"] == "F32"
    assert read.fields["general.file_type"].contents() == kind.file_type
    assert done.gate[kind.measure] <= kind.limit == done.gate["limit"]
    assert not done.notes
    weights = sum(each.bytes for each in gguf_bytes(read))
    progress = [each for each in recorder.of(Progress) if each.unit == "bytes"]
    assert progress[-1].done == progress[-1].total == weights


def gguf_bytes(read: Any) -> list[Any]:
    return [type("Stored", (), {"bytes": tensor.n_bytes}) for tensor in read.tensors]


def test_rows_that_are_no_whole_blocks_get_llama_cpps_other_formats(tmp_path: Path) -> None:
    run = run_of("llama", tmp_path)
    done = GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder(), type="q4_k_m")
    read = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "gguf" / done.file).tensors}
    assert read["blk.0.attn_q.weight"] == "Q5_0"
    assert read["token_embd.weight"] == "Q8_0"
    assert any("Q5_0 instead of Q4_K" in note for note in done.notes)
    odd = run_of("llama", tmp_path / "odd", intermediate_size=40)
    done = GGUF.export(odd, tmp_path / "q8", RUNTIME, Recorder(), type="q8_0")
    assert any("F16 instead of Q8_0" in note for note in done.notes)


def test_an_adapter_is_merged_first(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("llama")
    base = tmp_path / "base"
    model: Any = model_of("llama", len(tokenizer) + ROUNDED)
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    model.name_or_path = str(base)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False))
    run = RunFolder(tmp_path / "out")
    adapted.save_pretrained(run.output_dir)
    tokenizer.save_pretrained(run.output_dir)
    run.run.mkdir()
    Recipe.from_layers({"model": str(base), "output_dir": str(run.output_dir)}).save(run.recipe)
    done = GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder())
    stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "gguf" / done.file).tensors}
    merged = adapted.merge_and_unload().model.layers[0].self_attn.v_proj.weight.detach()
    np.testing.assert_array_equal(stored["blk.0.attn_v.weight"], merged.half().numpy())
    assert str(base) not in json.dumps(done.gate)


@pytest.mark.parametrize("llama_cpp", [True, False])
@pytest.mark.parametrize("wrong", ["rotation", "pre-tokenizer", "template", "a byte"])
def test_a_file_that_would_answer_differently_is_refused_and_leaves_nothing(
    wrong: str, llama_cpp: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of("llama", tmp_path)
    monkeypatch.setattr(to_gguf, "has_llama_cpp", lambda: llama_cpp)
    said = {
        "rotation": "log-probability differs",
        "pre-tokenizer": "into other tokens",
        "template": "renders a chat",
        "a byte": "does not hold",
    }
    if wrong == "rotation":
        monkeypatch.setattr("finetune.models.llama_cpp.interleaved", lambda values, heads: values)
    elif wrong == "pre-tokenizer":
        monkeypatch.setattr(tokens, "pre_of", lambda described: "smollm")
    elif wrong == "template":
        monkeypatch.setattr(tokens, "_template", lambda tokenizer: {"tokenizer.chat_template": "{{ messages[0].content }}"})
    else:
        monkeypatch.setattr(to_gguf, "write", damaging(writing.write))
    if not llama_cpp and wrong in ("rotation", "template"):  # which is what the notes say
        done = GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder())
        assert any("Not proven" in note for note in done.notes)
        return
    with pytest.raises(FinetuneError, match=said[wrong]) as caught:
        GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder())
    assert caught.value.exit_code == 1
    assert left_in(tmp_path) == ["out"]
    assert not run.export.exists()


def damaging(write: Any) -> Any:
    """Changes the last byte of the file, which is a weight."""

    def damaged(path: Path, *rest: Any, **more: Any) -> Any:
        meant = write(path, *rest, **more)
        with path.open("r+b") as file:
            end = file.seek(0, 2)
            last = gguf.GGUFReader(path).tensors[-1]
            file.seek(last.data_offset)
            byte = file.read(1)
            file.seek(last.data_offset)
            file.write(bytes([byte[0] ^ 1]))
            assert last.data_offset < end
        return meant

    return damaged


def test_the_limit_can_be_raised(tmp_path: Path) -> None:
    run = run_of("llama", tmp_path)
    with pytest.raises(FinetuneError, match="KL divergence") as caught:
        GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder(), type="q4_0", limit=1e-6)
    assert "--limit" in str(caught.value.hint)
    done = GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder(), type="q4_0", limit=5)
    assert done.gate["limit"] == 5


def test_without_llama_cpp_the_words_are_proven_and_the_rest_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_gguf, "has_llama_cpp", lambda: False)
    for name in ("qwen2", "gemma2"):
        run = run_of(name, tmp_path / name)
        done = GGUF.export(run, tmp_path / name / "gguf", RUNTIME, Recorder(), type="q8_0")
        assert done.gate["texts"] > 40
        assert done.gate["kl"] is done.exported is None
        assert any("pip install" in note for note in done.notes)


def test_the_command_keeps_a_record_and_says_what_was_proven(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = run_of("llama", tmp_path)
    assert main(["export", str(run.output_dir), "--to", "gguf:q8_0", "--device", "cpu", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    (kept,) = run.exports
    assert kept["file"] == told["file"] == "out-Q8_0.gguf"
    assert kept["bytes"] == (tmp_path / "out-gguf" / "out-Q8_0.gguf").stat().st_size
    assert "| out-Q8_0.gguf |" in run.card.read_text()
    assert str(tmp_path) not in run.card.read_text()
    assert main(["export", str(run.output_dir), "--to", "gguf", "--to-dir", str(tmp_path / "f16"), "--device", "cpu"]) == 0
    shown = capfd.readouterr().out
    assert "bit for bit" in shown
    assert "Same top token      20 of 20 prompts" in shown
    assert "ollama create out -f Modelfile" in shown
    assert [each["type"] for each in run.exports] == ["q8_0", "f16"]


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("gguf:q4_k", "There is no GGUF type 'q4_k'. Did you mean q4_k_m?"),
        ("gguf:q99", "Choose from f16, bf16"),
        ("ggfu", "Did you mean gguf?"),
    ],
)
def test_what_does_not_exist_is_refused_with_the_nearest(to: str, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = run_of("llama", tmp_path)
    assert main(["export", str(run.output_dir), "--to", to]) == 2
    assert said in capfd.readouterr().err
    assert left_in(tmp_path) == ["out"]


def test_bad_places_and_runs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = run_of("llama", tmp_path)
    command = ["export", str(run.output_dir), "--to", "gguf", "--device", "cpu"]
    (tmp_path / "taken").mkdir()
    assert main([*command, "--to-dir", str(tmp_path / "taken")]) == 2
    assert "--to-dir" in capfd.readouterr().err
    assert main(["export", str(tmp_path / "taken"), "--to", "gguf"]) == 2
    assert "is not a run folder" in capfd.readouterr().err
    (tmp_path / ".out-gguf.part").mkdir()
    (tmp_path / ".out-gguf.part" / "diary.doc").touch()
    assert main(command) == 2
    assert "it is yours" in capfd.readouterr().err
    run.write_stage("training")
    assert main(command) == 2
    assert "resume" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("smollm3", {"num_hidden_layers": 3, "no_rope_layers": [1, 0, 1]}, "every fourth"),
        ("gemma2", {"query_pre_attn_scalar": 99}, "scaled by 99"),
        ("gemma3", {"num_hidden_layers": 2, "layer_types": ["full_attention", "sliding_attention"]}, "do not alternate"),
        ("qwen2", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "scaled by dynamic"),
    ],
)
def test_a_model_that_llama_cpp_would_take_for_another_is_refused(family: str, changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    run = run_of(family, tmp_path, **changes)
    with pytest.raises(FinetuneError, match=said) as caught:
        GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder())
    assert caught.value.exit_code == 2


def test_other_architectures_and_tokenizers_are_refused_with_those_that_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("llama", tmp_path)
    config = json.loads((run.output_dir / "config.json").read_text())
    (run.output_dir / "config.json").write_text(json.dumps({**config, "model_type": "granite", "architectures": ["GraniteForCausalLM"]}))
    with pytest.raises(FinetuneError, match="granite, which cannot be exported to GGUF; these can: llama, mistral, qwen2"):
        GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder())
    (run.output_dir / "config.json").write_text(json.dumps(config))
    described = json.loads((run.output_dir / "tokenizer.json").read_text())
    described["pre_tokenizer"] = {"type": "Digits", "individual_digits": False}
    (run.output_dir / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(FinetuneError, match=r"tokenizer\.ggml\.pre") as caught:
        GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder())
    assert caught.value.exit_code == 2


def test_a_full_disk_and_ctrl_c_leave_nothing_and_it_can_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("llama", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("finetune.storage.free_disk", lambda folder: 1000)
        with pytest.raises(DiskFull, match="The exported file needs"):
            GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder())
    for error, seen in ((OSError(28, "No space left on device"), DiskFull), (KeyboardInterrupt(), KeyboardInterrupt)):
        with monkeypatch.context() as patch:
            patch.setattr(to_gguf, "check_read_back", raising(error))
            with pytest.raises(seen):
                GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder())
        assert left_in(tmp_path) == ["out"]
    killed = tmp_path / ".gguf.part"
    killed.mkdir()
    (killed / "out-F16.gguf").write_bytes(b"GGUF")
    GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder())
    assert left_in(tmp_path) == ["gguf", "out"]


def raising(error: BaseException) -> Any:
    def fail(*_: Any) -> None:
        raise error

    return fail


def test_weights_that_no_format_can_hold(tmp_path: Path) -> None:
    run = run_of("llama", tmp_path)
    model = model_of("llama", len(tokenizer_of("llama")) + ROUNDED)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = 1e6
    model.save_pretrained(run.output_dir)
    with pytest.raises(FinetuneError, match="too large for f16"):
        GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder())


def test_the_wizard_offers_it_where_it_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = run_of("llama", tmp_path)
    here = HostInfo(glance(), hub=False, runtime=RUNTIME)
    no = ScriptedPrompter({"export": ScriptedPrompter.DEFAULT})
    offer_export.ask(run.output_dir, no, here)
    no.finish()
    assert left_in(tmp_path) == ["out"]
    yes = ScriptedPrompter({"export": True, "export.type": ScriptedPrompter.DEFAULT})
    offer_export.ask(run.output_dir, yes, here)
    yes.finish()
    assert left_in(tmp_path / "out-gguf") == ["Modelfile", "out-Q8_0.gguf"]
    assert "bit for bit" in yes.shown[-1]
    assert "&& ollama create out -f Modelfile &&" in capfd.readouterr().out
    again = ScriptedPrompter({"export": True, "export.type": "f16"})
    offer_export.ask(run.output_dir, again, here)
    assert "nothing is overwritten" in again.shown[-1]
    for elsewhere in ("finetune.export.quantising.has_llama_cpp", "finetune.export.offer.in_reach"):
        with monkeypatch.context() as patch:
            patch.setattr(elsewhere, lambda *_: False)
            offer_export.ask(run.output_dir, ScriptedPrompter({}), here)


def test_the_end_of_a_run_prints_the_command_for_models_that_can_be_exported(tmp_path: Path) -> None:
    known, other = run_of("gemma2", tmp_path / "known"), tmp_path / "other"
    base = base_folder(tmp_path / "base")
    finished_run(other, base, Recipe.from_layers({"model": str(base)}))
    assert next_steps(known.output_dir, 80, upload=False).plain.splitlines()[-1] == (
        f"  Ollama     {command_name()} export {known.output_dir} --to gguf:q8_0"
    )
    assert "--to gguf" not in next_steps(other, 80, upload=False).plain


def test_ollama_gets_the_chat_the_ends_and_the_sampling(tmp_path: Path) -> None:
    run = run_of("llama", tmp_path)
    settings = {"eos_token_id": [2, 4], "do_sample": True, "temperature": 0.6, "top_p": 0.9}
    (run.output_dir / "generation_config.json").write_text(json.dumps(settings))
    GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder())
    assert (tmp_path / "gguf" / "Modelfile").read_text().splitlines() == [
        "FROM ./out-F16.gguf",
        'TEMPLATE """{{ range .Messages }}<|im_start|>{{ .Role }}',
        "{{ .Content }}<|im_end|>",
        "{{ end }}<|im_start|>assistant",
        '"""',
        "PARAMETER temperature 0.6",
        "PARAMETER top_p 0.9",
        'PARAMETER stop "</s>"',
        'PARAMETER stop "<|im_end|>"',
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_five_hundred_hostile_strings_become_the_same_tokens(name: str, tmp_path: Path) -> None:
    run = run_of(name, tmp_path)
    done = GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder())
    tokenizer, texts = AutoTokenizer.from_pretrained(run.output_dir), hostile(500)  # Qwen2 cuts texts in its own way
    questions = Questions([(text, True) for text in texts], [], [[3]], len(tokenizer) + ROUNDED, threads=1)
    found = asked(tmp_path / "gguf" / done.file, questions, lambda *_: None)
    for text, ids in zip(texts, found.tokens, strict=True):
        assert ids == tokenizer(text)["input_ids"], repr(text)


def test_the_exported_files_can_be_uploaded(tmp_path: Path) -> None:
    run = run_of("llama", tmp_path)
    with pytest.raises(UploadError, match=r"No \.gguf file was exported"):
        _contents(run, "ada/model", gguf=True)
    GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder())
    assert _contents(run, "ada/model", gguf=True)["out-F16.gguf"] == tmp_path / "gguf" / "out-F16.gguf"
    assert b"out-F16.gguf" in _contents(run, "ada/model", gguf=True)["README.md"]
    without = _contents(run, "ada/model", gguf=False)
    assert b"out-F16.gguf" not in without["README.md"]
    assert "out-F16.gguf" not in without
    with (tmp_path / "gguf" / "out-F16.gguf").open("ab") as file:
        file.write(b"more")
    with pytest.raises(UploadError, match="bytes instead of"):
        _contents(run, "ada/model", gguf=True)
