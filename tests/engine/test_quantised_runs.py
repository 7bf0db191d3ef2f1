"""Students that learn in few bits, as runs: their file has their weights bit for bit, an interrupted run ends with the same ones."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from lengths import few
from pico_exports import ROUNDED, model_of, tokenizer_of
from rich.console import Console
from test_resume import StopAt
from transformers import AutoModelForCausalLM
from workshop import Workshop

from finetune import LLMFineTuner
from finetune.errors import FinetuneError, Interrupted, RecipeError
from finetune.events import Recorder
from finetune.export.to_gguf import GGUF
from finetune.models.gguf_architectures import architecture_of, tensors
from finetune.publish.card import card_of
from finetune.run.finetuner import RunResult
from finetune.screen.console import THEME
from finetune.screen.plan_table import review
from finetune.screen.results import next_steps, scores_table

TRAINING = {"epochs": 1, "batch_size": 6, "learning_rate": 3e-3}
BENCHMARK = {"rows": 6, "max_new_tokens": 8, "speed": False}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    made = Workshop(tmp_path_factory.mktemp("few-bits"))
    made.model = saved(made.folder / "teacher", "llama", num_hidden_layers=3, intermediate_size=128)
    return made


def saved(folder: Path, family: str, **changes: Any) -> Path:
    tokenizer = tokenizer_of(family)
    model_of(family, len(tokenizer) + ROUNDED, **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def layer(shop: Workshop, model: Any, quantize: Any = "q4_0", **changes: Any) -> dict[str, Any]:
    distillation = {"quantize": quantize}
    return shop.distilling(**{"model": model, "distillation": distillation, "training": TRAINING, "benchmark": BENCHMARK, **changes})


def stored(folder: Path, file: str) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of a file, as llama.cpp reads them."""
    read = gguf.GGUFReader(folder / file).tensors
    return {each.name: gguf.dequantize(each.data, each.tensor_type).reshape(tuple(reversed(each.shape.tolist()))) for each in read}


STUDENTS = {
    "depth": ({"from_teacher": {"layers": 2}}, "q4_0"),
    "width": ({"from_teacher": {"ffn": 64}}, "q8_0"),
    "heads": ({"from_teacher": {"heads": 2}}, {"format": "q4_0", "head": "q4_0"}),
    "itself": (None, "q4_0"),
}


@pytest.mark.parametrize("name", few(STUDENTS, "width", "itself"))
def test_the_file_has_the_trained_weights_bit_for_bit(name: str, shop: Workshop) -> None:
    model, quantize = STUDENTS[name]
    training = TRAINING if model else {**TRAINING, "learning_rate": 3e-4}  # only the rounding has to be learned
    tuner = shop.tuner(layer(shop, model or str(shop.model), quantize, training=training))
    result = tuner.run()
    assert result.scores["after"]["kl"] < result.scores["before"]["kl"]
    spec = tuner.recipe.distillation.quantize
    assert spec is not None
    assert result.scores["in_few_bits"] == spec.model_dump()
    done = GGUF.export(tuner.folder, shop.folder / f"{name}-gguf", shop.runtime, Recorder(), type=spec.format)
    result_model: Any = AutoModelForCausalLM.from_pretrained(tuner.folder.output_dir)
    assert result_model.dtype == torch.float32
    read, known = stored(Path(done.folder), done.file), architecture_of(result_model.config, "student")
    meant = dict(tensors(result_model, known))
    assert read.keys() == meant.keys()
    for key, values in meant.items():
        np.testing.assert_array_equal(read[key], values.numpy(), err_msg=key)
    types = {each.name: each.tensor_type.name.lower() for each in gguf.GGUFReader(Path(done.folder) / done.file).tensors}
    assert types["blk.0.ffn_down.weight"] == spec.format
    assert types["token_embd.weight"] == spec.head
    assert done.gate["exact"]
    assert done.gate["kl"] < done.gate["limit"] == 0.05
    assert not done.notes
    if name == "width":
        other = GGUF.export(tuner.folder, shop.folder / "other-gguf", shop.runtime, Recorder(), type="q4_0")
        assert "exact" not in other.gate
        assert any("learned to be Q8_0, and Q4_0 rounds it once more" in note for note in other.notes)
    assert f"--to gguf:{spec.format}" in next_steps(tuner.folder.output_dir, 200, upload=False).plain


def test_every_place_says_that_it_learned_in_few_bits(shop: Workshop) -> None:
    tuner = shop.tuner(layer(shop, {"from_teacher": {"layers": 2}}))
    planned = tuner.plan()
    weights = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128)  # of the linear layers of two layers
    assert planned.memory["rounded weights"] == 4 * weights
    console = Console(width=200, record=True, file=io.StringIO(), theme=THEME)
    console.print(review(tuner.recipe, planned))
    console.print(scores_table(tuner.run().scores, 120))
    shown = console.export_text()
    words = "linear layers in Q4_0, embeddings and head in Q8_0"
    for text in (shown, card_of(tuner.folder, repo=None), (tuner.folder.run / "report.html").read_text()):
        assert text.count(words) == 2
        assert "is measured as its file will be" in text
    assert "quantize:" in tuner.folder.recipe.read_text()


def test_it_begins_as_its_file_would_be_without_training(shop: Workshop) -> None:
    """So the scores compare two files: of the student rounded at the start, and of the one that learned to be rounded."""
    given = layer(shop, str(shop.model), training={**TRAINING, "learning_rate": 1e-9})
    scores = shop.tuner(given).run().scores
    assert scores["before"]["kl"] > 0.01  # from itself, in full precision
    assert scores["after"]["kl"] == pytest.approx(scores["before"]["kl"], rel=1e-3)


def test_a_finished_student_learns_further_in_few_bits(shop: Workshop) -> None:
    finished = shop.tuner(layer(shop, {"from_teacher": {"layers": 2}}, None)).run().output_dir
    tuner = shop.tuner(layer(shop, str(finished), training={"epochs": 1, "batch_size": 6}))
    assert (tuner.recipe.distillation.temperature, tuner.recipe.distillation.alpha) == (1.0, 0.0)
    assert 1e-5 <= tuner.recipe.training.rate <= 5e-5
    tuner.load_model()
    embeddings = tuner.model.get_input_embeddings().weight
    assert not embeddings.requires_grad
    before = embeddings.detach().clone()
    tuner.train()
    saved_model = AutoModelForCausalLM.from_pretrained(tuner.folder.output_dir)
    assert torch.equal(saved_model.get_input_embeddings().weight, before)


@pytest.mark.parametrize("made", [True, False])
def test_an_interrupted_run_ends_with_the_same_weights(made: bool, shop: Workshop) -> None:
    model = {"from_teacher": {"layers": 2}} if made else str(shop.model)
    training = {**TRAINING, "epochs": 2, "save_every": 1}
    whole: RunResult = shop.tuner(layer(shop, model, training=training)).run()
    tuner = shop.tuner(layer(shop, model, training=training))
    tuner.reporter.reporters.append(StopAt(3))
    with pytest.raises(Interrupted):
        tuner.run()
    resumed = LLMFineTuner.unfinished(tuner.folder.output_dir, reporter=Recorder(), runtime=shop.runtime).run()
    one, other = ((each.output_dir / "model.safetensors").read_bytes() for each in (whole, resumed))
    assert one == other
    assert whole.scores["after"] == resumed.scores["after"]


def test_bitsandbytes_reads_back_what_was_trained_in_nf4(shop: Workshop) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    tuner = shop.tuner(layer(shop, {"from_teacher": {"layers": 2}}, "nf4"))
    tuner.run()
    student: Any = AutoModelForCausalLM.from_pretrained(tuner.folder.output_dir)
    for name, values in student.state_dict().items():
        if name.endswith("_proj.weight"):
            again = functional.dequantize_4bit(*functional.quantize_4bit(values, quant_type="nf4", blocksize=64))
            assert torch.equal(again, values), name
    done = GGUF.export(tuner.folder, shop.folder / "nf4-gguf", shop.runtime, Recorder())  # an ordinary model for every other program
    assert "exact" not in done.gate
    assert "--to gguf:q8_0" in next_steps(tuner.folder.output_dir, 200, upload=False).plain


def test_a_folder_whose_weights_were_rounded_once_more_is_refused(shop: Workshop) -> None:
    tuner = shop.tuner(layer(shop, {"from_teacher": {"layers": 2}}))
    tuner.run()
    AutoModelForCausalLM.from_pretrained(tuner.folder.output_dir).bfloat16().save_pretrained(tuner.folder.output_dir)
    with pytest.raises(FinetuneError, match="are not those that were trained in Q"):
        GGUF.export(tuner.folder, shop.folder / "refused", shop.runtime, Recorder(), type="q4_0")
    assert not (shop.folder / "refused").exists()


def test_what_does_not_fit_is_found_before_the_long_work(shop: Workshop) -> None:
    odd = saved(shop.folder / "odd", "llama", intermediate_size=40)
    tuner = shop.tuner(layer(shop, str(odd)))
    with pytest.raises(RecipeError, match=r"mlp\.down_proj has 40 weights"):
        tuner.check()
    assert not tuner.folder.output_dir.exists()
    assert json.dumps(tuner.recipe.model_dump(mode="json"))
