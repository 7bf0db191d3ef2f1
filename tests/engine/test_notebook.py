"""The notebook runs from its first cell to its last, and what it prints reads well: lines, no bars, no noise of libraries."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from documents import ROOT
from pico_exports import ROUNDED, model_of, tokenizer_of

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
NOISE = ("\r", "Warning", "'loss':", "it/s]", "\x1b[")
OURS = "\nWarning: "  # of so few rows


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Executed with a pico model and few rows."""
    tokenizer = tokenizer_of("llama")
    tokenizer.eos_token = "<|im_end|>"  # as of most chat models: the token that ends a turn
    ends = {name: getattr(tokenizer, name) for name in ("eos_token_id", "bos_token_id", "pad_token_id")}
    shape = {"num_hidden_layers": 4, "intermediate_size": 128}
    model_of("llama", len(tokenizer) + ROUNDED, **shape, **ends).save_pretrained(tmp_path / "pico")
    tokenizer.save_pretrained(tmp_path / "pico")
    variables = {"NOTEBOOK_MODEL": str(tmp_path / "pico"), "NOTEBOOK_ROWS": "40", "NOTEBOOK_EPOCHS": "1", "HF_HUB_OFFLINE": "1"}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    for name, value in {**variables, "FINETUNE_CLI_CACHE": str(tmp_path / "cache"), "PYTHONPATH": path}.items():
        monkeypatch.setenv(name, value)
    made = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    nbclient.NotebookClient(made, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    return made


@pytest.mark.long
def test_the_notebook_runs_and_its_progress_reads_well(notebook: Any, tmp_path: Path) -> None:
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert [printed.count(line) for line in ("\nTraining: ", "\nMeasuring the new model ...\n")] == [2, 2]
    assert "rougeL     after" in printed
    assert f"{OURS}4 held-out rows are too few" in printed
    assert [noise for noise in NOISE if noise in printed.replace(OURS, "\n")] == []
    assert [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"] == []
    answers = [output.data["text/plain"] for output in outputs if output.output_type == "execute_result"]
    assert len(answers) == 3  # two rows, and an answer of each model
    assert (tmp_path / "small_shop_model" / "model.safetensors").exists()


def test_the_notebook_is_kept_without_its_outputs() -> None:
    kept = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    nbformat.validate(kept)
    assert all(cell.outputs == [] and cell.execution_count is None for cell in kept.cells if cell.cell_type == "code")
