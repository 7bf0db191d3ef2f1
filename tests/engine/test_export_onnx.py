"""`export --to onnx`: onnxruntime computes the logits of the model, or nothing is kept."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from pico_exports import run_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune.errors import BadInput, DiskFull, FinetuneError
from finetune.events import Recorder
from finetune.export import to_onnx
from finetune.export.exporters import chosen
from finetune.export.to_onnx import ONNX
from finetune.runtime import RuntimeOptions

RUNTIME = RuntimeOptions(device="cpu", dtype="float32")


@pytest.mark.long
def test_logits_within_a_ten_thousandth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("llama", tmp_path)
    done = ONNX.export(run, tmp_path / "onnx", RUNTIME, Recorder())
    assert done.gate["logits"] < 1e-4
    assert run.exports[0]["to"] == "onnx"
    ids = np.array([[3, 4, 5, 6, 7], [8, 9, 10, 11, 12], [9, 9, 9, 9, 9]])
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    model = AutoModelForCausalLM.from_pretrained(run.output_dir, dtype=torch.float32).eval()
    with torch.no_grad():
        np.testing.assert_allclose(logits, model(torch.tensor(ids)).logits.numpy(), atol=1e-4, rtol=0)
    assert AutoTokenizer.from_pretrained(tmp_path / "onnx")("the answer")["input_ids"]
    monkeypatch.setattr(to_onnx, "_trace", lambda model, prompts, part, name: None)  # the rest on a graph that is another model's
    monkeypatch.setattr(to_onnx, "_run", lambda path, prompts: [np.zeros((len(each), logits.shape[-1])) for each in prompts])
    monkeypatch.setattr(to_onnx, "file_hash", lambda path: "")
    with pytest.raises(FinetuneError, match="a logit differs by"):
        ONNX.export(run, tmp_path / "again", RUNTIME, Recorder())
    assert not (tmp_path / "again").exists()


def test_a_disk_that_fills_up_after_all_is_told_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path) -> None:
        raise OSError("problem writing element 4711 to file")  # as numpy says it, without a number

    graph = SimpleNamespace(save_pretrained=full)
    monkeypatch.setattr("transformers.exporters.exporter_onnx.OnnxExporter.export", lambda *_, **__: graph)
    with pytest.raises(DiskFull, match="did not fit on the disk"):
        ONNX.export(run_of("llama", tmp_path), tmp_path / "full", RUNTIME, Recorder())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_what_is_missing_is_named_with_the_command_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_onnx, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="needs onnx, onnxruntime, onnxscript") as caught:
        ONNX.export(run_of("llama", tmp_path), tmp_path / "onnx", RUNTIME, Recorder())
    assert caught.value.hint == "Install it: pip install onnx onnxscript onnxruntime"


def test_it_has_no_types() -> None:
    with pytest.raises(BadInput, match="ONNX has no types"):
        chosen("onnx:f16", None)
    assert chosen("onnx", 0.5)[1] == {"limit": 0.5}
