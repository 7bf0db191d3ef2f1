"""`export --to gguf`: llama.cpp answers as the model does, for every architecture and type, or nothing is kept."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from chat_templates import CHATML, GEMMA
from finished_run import base_folder, finished_run
from lengths import few
from peft import LoraConfig, get_peft_model
from pico_exports import FAMILIES, OPENS, ROUNDED, hostile, left_in, model_of, run_of, tokenizer_of
from transformers import AutoTokenizer

from finetune.cli import main
from finetune.data.tokens.encoder import Encoder
from finetune.errors import FinetuneError, UploadError
from finetune.events import Progress, Recorder
from finetune.export import gguf_gate, gguf_tokenizer, gguf_writer, to_gguf
from finetune.export.gguf_tokenizer import tokenizer_header
from finetune.export.gguf_types import KINDS, format_of
from finetune.export.gguf_writer import take_weights
from finetune.export.llama_cpp import Questions, asked
from finetune.export.modelfile import modelfile
from finetune.export.probes import Probes
from finetune.export.prompt_format import PromptFormat
from finetune.export.to_gguf import GGUF
from finetune.hardware.machine import glance
from finetune.models.gguf_architectures import architecture_of
from finetune.models.location import locate
from finetune.models.templates.chat_template import added_tokens
from finetune.publish.card import card_of
from finetune.publish.upload import _contents
from finetune.recipe import Recipe
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions
from finetune.screen.results import next_steps
from finetune.screen.wording import command_name
from finetune.wizard import offer_export
from finetune.wizard.asking.prompter import ScriptedPrompter
from finetune.wizard.host import HostInfo

RUNTIME = RuntimeOptions(device="cpu", dtype="float32")


@pytest.mark.parametrize("name", few(FAMILIES, "llama", "qwen3", "gemma3"))
def test_llama_cpp_answers_as_the_model_of_every_architecture(name: str, tmp_path: Path) -> None:
    run = run_of(name, tmp_path)
    done = GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder())
    assert done.gate["prompts"] == 20
    assert done.gate["same_top"] >= 19  # weights of chance: two tokens may be equally likely
    assert done.gate["difference"] < 0.05
    probes = Probes.of(run, PromptFormat.of(run, AutoTokenizer.from_pretrained(run.output_dir)))  # which llama.cpp has agreed with
    trained = Encoder(AutoTokenizer.from_pretrained(run.output_dir), max_length=512, supervise="answers")
    assert done.gate["chats"] == len(probes.chats) >= 2
    assert [trained.prompt(turns) for turns in probes.chats] == probes.ids[-len(probes.chats) :]
    assert left_in(tmp_path / "gguf") == ["Modelfile", "out-F16.gguf"]
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "gguf" / done.file).tensors}
    assert done.gate["tensors"] == len(stored)
    _check_hostile(name, run, tmp_path / "gguf" / done.file)


def _check_hostile(name: str, run: RunFolder, file: Path) -> None:
    """Five hundred texts that nobody writes become the same tokens."""
    tokenizer, texts = AutoTokenizer.from_pretrained(run.output_dir), hostile(500)  # Qwen2 cuts texts in its own way
    asking, chats = PromptFormat.of(run, tokenizer), name in ("smollm3", "phi3")  # whose chats begin with a turn
    assert ("begins with <s> for the model, and not in llama.cpp" in str(asking.notes)) == chats
    if name in OPENS:  # of whose texts one part begins as llama.cpp reads otherwise, or is read as Phi's marks swallow blanks
        assert "llama.cpp reads one space more" in asking.notes[0] or "the model adds a space" in asking.notes[0]
        begins = "|".join(["^", *map(re.escape, added_tokens(tokenizer))])
        texts = [text for text in texts if not re.search(rf"({begins})[\s▁]", text)]
    texts = list(filter(None, map(asking.probe, texts)))
    assert len(texts) > 300
    questions = Questions(texts, [], [[3]], len(tokenizer) + ROUNDED, threads=1)
    found = asked(file, questions, lambda *_: None)
    for text, ids in zip(texts, found.tokens, strict=True):
        assert ids == asking.ids(text), repr(text)
        assert asking.ids(text) == tokenizer(text)["input_ids"][chats:]


@pytest.mark.parametrize("name", few(KINDS, "f16", "q8_0", "q4_k_m"))
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
    assert name == "f16" or done.gate["computed"] < 0.005
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
    model: Any = model_of("llama", len(tokenizer_of("llama")) + ROUNDED)
    known, file = architecture_of(model.config, "out"), tmp_path / "gguf" / done.file
    held = model.state_dict()["model.layers.0.self_attn.k_proj.weight"].clone()
    take_weights(file, model, known)
    assert 0 < (model.state_dict()["model.layers.0.self_attn.k_proj.weight"] - held).abs().max() < 0.05
    with pytest.raises(FinetuneError, match=r"does not hold the model's weights: \S+ is another"):
        take_weights(file, model_of("llama", len(tokenizer_of("llama")) + ROUNDED, seed=5), known)
    assert format_of("blk.0.attn_qkv.weight", (768, 256), KINDS["q4_k_m"], layers=9, tied=True) == ("Q5_K", None)
    assert format_of("blk.0.attn_qkv.weight", (768, 256), KINDS["q5_k_m"], layers=9, tied=True) == ("Q6_K", None)
    odd = run_of("llama", tmp_path / "odd", intermediate_size=40)
    done = GGUF.export(odd, tmp_path / "q8", RUNTIME, Recorder(), type="q8_0")
    assert any("F16 instead of Q8_0" in note for note in done.notes)


def test_an_adapter_is_merged_first_whatever_its_folder_is_called(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("llama")
    base = tmp_path / "base"
    model: Any = model_of("llama", len(tokenizer) + ROUNDED)
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    model.name_or_path = str(base)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False))
    run = RunFolder(tmp_path / "My Phi-3 übt!")  # by this name llama.cpp would cut texts differently, and Ollama takes no such name
    adapted.save_pretrained(run.output_dir)
    tokenizer.save_pretrained(run.output_dir)
    run.run.mkdir()
    Recipe.from_layers({"model": str(base), "output_dir": str(run.output_dir)}).save(run.recipe)
    run.write_json(run.environment, {"model": {"identity": locate(str(base), RUNTIME, Recorder()).identity}})
    done = GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder())
    stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "gguf" / done.file).tensors}
    merged = adapted.merge_and_unload().model.layers[0].self_attn.v_proj.weight.detach()
    np.testing.assert_array_equal(stored["blk.0.attn_v.weight"], merged.half().numpy())
    assert str(base) not in json.dumps(done.gate)
    assert "ollama create My-Phi-3-ubt -f Modelfile && ollama run My-Phi-3-ubt" in done.commands["Ollama"]
    assert not done.notes
    model_of("llama", len(tokenizer) + ROUNDED, seed=5).save_pretrained(base)
    (note,) = GGUF.export(run, tmp_path / "later", RUNTIME, Recorder()).notes
    assert "has changed since the adapter was trained on it" in note
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(FinetuneError, match=r"needs its base model\. There is no folder"):
        GGUF.export(run, tmp_path / "lost", RUNTIME, Recorder())


@pytest.mark.parametrize("llama_cpp", [True, False])
@pytest.mark.parametrize("wrong", ["rotation", "rotary base", "pre-tokenizer", "template", "a byte"])
def test_a_file_that_would_answer_differently_is_refused_and_leaves_nothing(
    wrong: str, llama_cpp: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of("llama", tmp_path)
    monkeypatch.setattr(to_gguf, "has_llama_cpp", lambda: llama_cpp)
    said = {
        "rotation": "log-probability differs",
        "rotary base": "very weights of the file",
        "pre-tokenizer": "into other tokens",
        "template": "renders a chat",
        "a byte": "does not hold",
    }
    type = "f16"
    if wrong == "rotation":
        monkeypatch.setattr("finetune.models.gguf_architectures.interleaved", lambda values, heads: values)
    elif wrong == "rotary base":  # which the rounding to four bits hides
        type, facts = "q4_0", to_gguf._facts
        monkeypatch.setattr(to_gguf, "_facts", lambda *given: facts(*given) | {"llama.rope.freq_base": 100.0})
    elif wrong == "pre-tokenizer":
        monkeypatch.setattr(gguf_tokenizer, "pre_of", lambda described: "smollm")
    elif wrong == "template":
        monkeypatch.setattr(gguf_tokenizer, "_template", lambda tokenizer: {"tokenizer.chat_template": "{{ messages[0].content }}"})
    else:
        monkeypatch.setattr(to_gguf, "write", damaging(gguf_writer.write))
    if not llama_cpp and wrong in ("rotation", "rotary base", "template"):  # which is what the notes say
        done = GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder(), type=type)
        assert any("Not proven" in note for note in done.notes)
        return
    with pytest.raises(FinetuneError, match=said[wrong]) as caught:
        GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder(), type=type)
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


def test_without_llama_cpp_the_words_are_proven_and_the_rest_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_gguf, "has_llama_cpp", lambda: False)
    for name in ("qwen2", "phi3"):
        run = run_of(name, tmp_path / name)
        done = GGUF.export(run, tmp_path / name / "gguf", RUNTIME, Recorder(), type="q8_0")
        assert done.gate["texts"] > 40
        assert done.gate["kl"] is done.exported is None
        assert any("pip install" in note for note in done.notes)


def test_the_command_keeps_a_record_and_says_what_was_proven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = run_of("phi3", tmp_path, sliding_window=256)
    monkeypatch.chdir(tmp_path)
    assert main(["export", "out", "--to", "gguf:q8_0", "--device", "cpu", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    (kept,) = run.exports
    assert kept["file"] == told["file"] == "out-Q8_0.gguf"
    assert (told["folder"], kept["folder"]) == ("out-gguf", str(tmp_path / "out-gguf"))
    assert any("Its context is 256 tokens instead of 512" in note for note in told["notes"])
    assert kept["bytes"] == (tmp_path / "out-gguf" / "out-Q8_0.gguf").stat().st_size
    assert "| out-Q8_0.gguf |" in run.card.read_text()
    assert str(tmp_path) not in run.card.read_text()
    assert main(["export", str(run.output_dir), "--to", "gguf", "--to-dir", str(tmp_path / "f16"), "--device", "cpu"]) == 0
    shown = capfd.readouterr().out
    assert "bit for bit" in shown
    assert "Same top token      20 of 20 prompts" in shown
    assert "ollama create out -f Modelfile" in shown
    assert [each["type"] for each in run.exports] == ["q8_0", "f16"]


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
    (run.output_dir / "generation_config.json").write_text(json.dumps({"repetition_penalty": 1.3, "temperature": 0.6}))
    greedy = modelfile("out.gguf", PromptFormat.of(run, AutoTokenizer.from_pretrained(run.output_dir)), run.output_dir, None)
    assert "PARAMETER temperature 0\nPARAMETER repeat_penalty 1.3\nPARAMETER stop" in greedy  # as generate() takes it without do_sample
    assert (tmp_path / "gguf" / "Modelfile").read_text().splitlines() == [
        "FROM ./out-F16.gguf",
        'TEMPLATE """{{ range .Messages }}<|im_start|>{{ .Role }}',
        "{{ .Content }}<|im_end|>",
        "{{ end }}<|im_start|>assistant",
        '"""',
        "PARAMETER temperature 0.6",
        "PARAMETER top_p 0.9",
        "PARAMETER top_k 50",
        "PARAMETER repeat_penalty 1",
        'PARAMETER stop "</s>"',
        'PARAMETER stop "<|im_end|>"',
    ]


@pytest.mark.parametrize(
    ("longest", "said"),
    [(2048.0, None), (2049.0, "PARAMETER num_ctx 4096"), (4097.0, "PARAMETER num_ctx 5120"), (8192.0, "PARAMETER num_ctx 8192")],
)
def test_ollama_reads_as_much_as_the_longest_row_has(longest: float, said: str | None, tmp_path: Path) -> None:
    run = run_of("llama", tmp_path)
    run.write_json(run.data_report, {**run.read_json(run.data_report), "length": {"max": longest}})
    lines = modelfile("out.gguf", PromptFormat.of(run, AutoTokenizer.from_pretrained(run.output_dir)), run.output_dir, None).splitlines()
    assert [line for line in lines if "num_ctx" in line] == ([said] if said else [])


def test_a_token_or_a_licence_cannot_write_lines_of_a_modelfile(tmp_path: Path) -> None:
    run = run_of("llama", tmp_path)
    made = AutoTokenizer.from_pretrained(run.output_dir)
    made.eos_token = 'end"\nFROM ./another'
    lines = modelfile("out.gguf", PromptFormat.of(run, made), run.output_dir, 'mit"""\nFROM ./another').splitlines()
    assert [line for line in lines if line.startswith(("FROM", "LICENSE"))] == ["FROM ./out.gguf"]


@pytest.mark.parametrize(("template", "taken"), [(CHATML, True), (GEMMA, False)])
def test_ollama_gets_the_system_prompt_of_the_rows_where_the_template_has_a_place_for_it(
    template: str, taken: bool, tmp_path: Path
) -> None:
    run = run_of("llama", tmp_path)
    run.write_json(run.data_report, {**run.read_json(run.data_report), "system_prompt": "Be a cat."})
    made = AutoTokenizer.from_pretrained(run.output_dir)
    made.chat_template = template
    asked = PromptFormat.of(run, made)
    assert ('SYSTEM """Be a cat."""' in modelfile("out.gguf", asked, run.output_dir, None)) is taken
    assert "give it to other programs too" in asked.notes[-1]
    run.write_json(run.data_report, {**run.read_json(run.data_report), "tools": [{"type": "function", "function": {"name": "look"}}]})
    assert "Modelfile for Ollama has no place for them" in PromptFormat.of(run, made).notes[-1]


def test_ordinary_text_that_llama_cpp_takes_for_an_end_is_named(tmp_path: Path) -> None:
    run = run_of("llama", tmp_path)
    described = json.loads((run.output_dir / "tokenizer.json").read_text())
    described["model"]["vocab"]["<EOT>"] = size = len(AutoTokenizer.from_pretrained(run.output_dir))
    (run.output_dir / "tokenizer.json").write_text(json.dumps(described))
    asking = PromptFormat.of(run, AutoTokenizer.from_pretrained(run.output_dir))
    assert tokenizer_header(asking, "out", vocabulary=size + 1, model="out").note == (
        "llama.cpp ends an answer at <EOT>, which is ordinary text to the model."
    )
    assert tokenizer_header(PromptFormat.of(run, tokenizer_of("llama")), "out", vocabulary=size, model="out").note is None


def test_probabilities_that_are_no_numbers_agree_with_nothing() -> None:
    ours, broken = np.log(np.full(100, 0.01)), np.full(100, np.nan)
    difference, kl, same_top = gguf_gate._compared([ours, ours], [broken, ours])
    assert np.isnan(difference)
    assert np.isnan(kl)
    assert same_top <= 2
    assert gguf_gate._compared([ours], [ours]) == (pytest.approx(0), pytest.approx(0), 1)


def test_the_exported_files_can_be_uploaded(tmp_path: Path) -> None:
    run = run_of("llama", tmp_path)
    with pytest.raises(UploadError, match=r"No \.gguf file was exported"):
        _contents(run, "ada/model", gguf=True)
    GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder())
    assert _contents(run, "ada/model", gguf=True)["out-F16.gguf"] == tmp_path / "gguf" / "out-F16.gguf"
    (kept,) = run.exports
    run.write_json(run.export, {"files": [kept, {**kept, "to": "onnx", "file": "model.onnx"}]})
    shown = _contents(run, "ada/model", gguf=True)["README.md"]
    assert b"out-F16.gguf" in shown
    assert b"model.onnx" not in shown  # which stays here
    assert "model.onnx" in card_of(run, repo=None)
    without = _contents(run, "ada/model", gguf=False)
    assert b"out-F16.gguf" not in without["README.md"]
    assert "out-F16.gguf" not in without
    with (tmp_path / "gguf" / "out-F16.gguf").open("ab") as file:
        file.write(b"more")
    with pytest.raises(UploadError, match="bytes instead of"):
        _contents(run, "ada/model", gguf=True)
