"""`export --to gguf`: what cannot be exported is refused in a sentence, and nothing is left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pico_exports import ROUNDED, left_in, model_of, run_of, tokenizer_of

from finetune.cli import main
from finetune.errors import BadInput, DiskFull, FinetuneError
from finetune.events import Recorder
from finetune.export import to_gguf
from finetune.export.to_gguf import GGUF
from finetune.runtime import RuntimeOptions

RUNTIME = RuntimeOptions(device="cpu", dtype="float32")


def test_the_limit_can_be_raised(tmp_path: Path) -> None:
    run = run_of("llama", tmp_path)
    with pytest.raises(FinetuneError, match="KL divergence") as caught:
        GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder(), type="q4_0", limit=1e-6)
    assert "--limit" in str(caught.value.hint)
    done = GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder(), type="q4_0", limit=5)
    assert done.gate["limit"] == 5


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
        ("gemma2", {"final_logit_softcapping": None}, "have no soft cap"),
        ("qwen2", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "scaled by dynamic"),
        ("qwen2", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "beta_fast": 8.0}}, "with another beta_fast"),
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
        patch.setattr("finetune.system.storage.free_disk", lambda folder: 1000)
        with pytest.raises(DiskFull, match="The exported file needs"):
            GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder())
    resource = pytest.importorskip("resource")
    most, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # as a disk that fills up after all
        with pytest.raises(DiskFull, match="did not fit on the disk"):
            GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
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


def test_a_damaged_record_is_told_before_the_long_work(tmp_path: Path) -> None:
    run = run_of("llama", tmp_path)
    for damaged in (3, [{"file": "out-F16.gguf"}]):
        run.write_json(run.export, {"files": damaged})
        with pytest.raises(BadInput, match="is not a list of exported files"):
            GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder())


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
