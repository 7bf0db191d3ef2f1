"""Models whose files ask for care before training: quantised already, or with a tokenizer that knows more tokens than the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from letters import llama, tokenizer
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from workshop import Workshop, recorded
from zoo import save

from finetune.errors import ModelError, RecipeError
from finetune.events import Notice, Planned
from finetune.models.facts import describe
from finetune.models.location import locate
from finetune.models.quantised import stored_as
from finetune.publish.merged import Merged
from finetune.run_folder import RunFolder

FORMATS = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "awq": {"quant_method": "awq", "bits": 4},
    "fp8": {"quant_method": "fp8"},
    "mxfp4": {"quant_method": "mxfp4"},
    "8-bit": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "compressed": {"quant_method": "compressed-tensors"},
}


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def nf4(folder: Path) -> Path:
    """A model of letters that was saved after loading in 4 bits."""
    llama(seed=3, hidden_size=64, intermediate_size=128).save_pretrained(folder / "whole")
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    made = AutoModelForCausalLM.from_pretrained(folder / "whole", quantization_config=config, device_map={"": "cpu"}, dtype=torch.float32)
    made.save_pretrained(folder / "nf4")
    tokenizer(chat=True).save_pretrained(folder / "nf4")
    return folder / "nf4"


class TestQuantisedAlready:
    @pytest.mark.parametrize(("form", "kind"), [*((form, "qlora") for form in FORMATS), ("8-bit", "lora"), ("fp8", "full")])
    def test_plan_and_check_refuse_it_in_one_sentence(self, form: str, kind: str, shop: Workshop) -> None:
        path = shop.model / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": FORMATS[form]}))
        for stage in ("plan", "check"):
            tuner = shop.tuner(shop.layer(method={"kind": kind}))
            with pytest.raises(RecipeError, match=r"The weights of base are stored .*, so it cannot be trained") as error:
                getattr(tuner, stage)()
            assert "Name the model that it was made from" in str(error.value.hint)

    def test_a_student_cannot_be_made_from_it(self, shop: Workshop) -> None:
        path = shop.model / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": FORMATS["fp8"]}))
        with pytest.raises(RecipeError, match="A student cannot be made from base: its weights are stored in 8 bits"):
            shop.tuner(shop.distilling(method={"kind": "full"})).plan()

    def test_nf4_is_counted_trained_by_qlora_and_merged_as_it_is(self, shop: Workshop) -> None:
        folder = nf4(shop.folder)
        whole = llama(seed=3, hidden_size=64, intermediate_size=128)
        located = locate(str(folder), shop.runtime, shop.tuner(shop.layer()).reporter)
        assert stored_as(folder).is_nf4  # type: ignore[union-attr]
        assert describe(located).parameters == sum(value.numel() for value in whole.parameters())

        for kind in ("lora", "full"):
            with pytest.raises(RecipeError, match="which only QLoRA can train") as error:
                shop.tuner(shop.layer(model=str(folder), method={"kind": kind})).check()
            assert "method.kind=qlora" in str(error.value.hint)

        layer = shop.layer(
            model=str(folder), method={"kind": "qlora", "r": 4}, training={"epochs": 1, "batch_size": 6, "learning_rate": 0.01}
        )
        tuner = shop.tuner(layer)
        plan = tuner.plan()
        assert plan.parameters - plan.trainable_parameters == sum(value.numel() for value in whole.parameters())
        tuner.run()

        done = Merged.export(RunFolder.of(layer["output_dir"]), shop.folder / "merged", shop.runtime, tuner.reporter)
        assert done.difference < 1e-4
        plain = AutoModelForCausalLM.from_pretrained(shop.folder / "merged", dtype=torch.float32)
        assert not hasattr(plain.config, "quantization_config")


class TestTokensWithoutAnEmbedding:
    def grown(self, shop: Workshop, token: str) -> Any:
        made = tokenizer(chat=True)
        made.add_tokens([token])
        made.save_pretrained(shop.model)
        return made

    def test_a_token_that_rows_use_is_refused_by_plan_and_run_with_both_numbers(self, shop: Workshop) -> None:
        made = self.grown(shop, "cat")
        rows = llama().get_input_embeddings().weight.shape[0]
        assert len(made) == rows + 1
        for stage in ("plan", "run"):
            with pytest.raises(
                ModelError, match=rf"has {rows + 1} tokens and the embeddings of base have {rows} rows: the data uses 'cat'"
            ) as error:
                getattr(shop.tuner(shop.layer()), stage)()
            assert "resize_token_embeddings" in str(error.value.hint)

    def test_one_that_no_row_uses_is_said(self, shop: Workshop) -> None:
        self.grown(shop, "<image>")
        tuner = shop.tuner(shop.layer())
        notes = tuner.plan().notes
        assert notes == ["The tokenizer has 37 tokens and the embeddings of base have 36 rows: <image> cannot be used, and no row uses it."]
        tuner.run()
        reported = [event for event in recorded(tuner).events if isinstance(event, Planned)]
        assert reported[0].plan["notes"] == notes
        assert not [event for event in recorded(tuner).events if isinstance(event, Notice) and event.level == "warning"]

    def test_a_smaller_tokenizer_is_fine(self, shop: Workshop) -> None:
        llama(vocabulary=64).save_pretrained(shop.model)
        assert shop.tuner(shop.layer()).plan().notes == []


@pytest.mark.parametrize(
    ("name", "note"),
    [("llava", "Only the text part learns: model.multi_modal_projector, model.vision_tower"), ("qwen3_moe", "The adapter has no dropout")],
)
def test_a_whole_run_says_what_learns_and_its_card_loads_it(name: str, note: str, shop: Workshop, monkeypatch: Any, capsys: Any) -> None:
    folder = save(name, shop.folder / name)
    tokenizer(chat=True).save_pretrained(folder)
    layer = shop.layer(model=str(folder))
    tuner = shop.tuner(layer)
    plan = tuner.plan()
    assert any(note in text for text in plan.notes)
    tuner.run()
    output = Path(layer["output_dir"])
    events = [json.loads(line) for line in (output / "run" / "events.jsonl").read_text().splitlines()]
    assert [event["linear_share"] for event in events if event["event"] == "model"] == [plan.linear_share]
    assert next(event["plan"] for event in events if event["event"] == "plan")["notes"] == plan.notes
    page = (output / "run" / "report.html").read_text()
    assert ("of the weights in linear layers" in page) is (plan.linear_share < 1)

    done = Merged.export(RunFolder.of(output), shop.folder / "merged", shop.runtime, tuner.reporter)
    assert done.difference < 1e-3
    for where in (output, shop.folder / "merged"):
        code = (where / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
        monkeypatch.chdir(where)
        exec(code, {})
        assert capsys.readouterr().out.strip()
