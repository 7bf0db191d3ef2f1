"""The starter model as people export it: run by llama.cpp, near the original, with the same tokens for texts that nobody writes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from pico_exports import hostile

from finetune.events import Recorder
from finetune.export.probes import Probes
from finetune.export.prompt_format import PromptFormat
from finetune.export.to_gguf import GGUF
from finetune.models.starter import fetch_starter
from finetune.recipe import STARTER, Recipe
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions

RUNTIME = RuntimeOptions(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The starter itself in the place of what was trained from it."""
    out = tmp_path_factory.mktemp("starter") / "out"
    shutil.copytree(fetch_starter(RUNTIME, Recorder()), out)
    made = RunFolder(out)
    made.run.mkdir()
    Recipe.from_layers({"model": f"{STARTER}@pypi-0.1.2", "method": "full", "output_dir": str(out)}).save(made.recipe)
    return made


@pytest.mark.long
def test_it_answers_in_llama_cpp_as_here_and_is_smaller(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer prompts than usual, since llama.cpp writes all 49,152 probabilities of each as text; and 500 texts that nobody writes."""
    usual, texts = Probes.of, hostile(500)

    def asked(made_by: RunFolder, asking: PromptFormat) -> Probes:
        probes = usual(made_by, asking)
        ids = [asking.tokenizer(text)["input_ids"] for text in texts]
        return replace(probes, texts=[*probes.texts, *texts], ids=[*probes.ids, *ids], prompts=probes.prompts[:6])

    monkeypatch.setattr(Probes, "of", asked)
    done = GGUF.export(run, tmp_path / "gguf", RUNTIME, Recorder(), type="q8_0")
    assert done.gate["texts"] > 540
    assert done.gate["kl"] < 0.02
    assert done.gate["same_top"] == 6
    assert done.gate["chats"] == 3
    assert done.smaller > 3
    assert done.exported is not None
    assert done.exported.tokens_per_second
    assert 'SYSTEM """You are a helpful AI assistant named SmolLM' in (tmp_path / "gguf" / "Modelfile").read_text()
