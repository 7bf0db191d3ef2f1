"""New tokens: what is added, how they begin, which rows learn, and what reads the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from letters import VOCABULARY, llama, tokenizer
from pico_exports import model_of, tokenizer_of
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from workshop import Workshop, notices

from finetune import LLMFineTuner
from finetune.errors import FinetuneError, ModelError, RecipeError
from finetune.events import Recorder
from finetune.export.to_gguf import GGUF
from finetune.hardware.machine import inspect
from finetune.models.load import load_model
from finetune.models.location import locate
from finetune.models.new_tokens import add_tokens, give_rows
from finetune.publish.merged import Merged
from finetune.recipe import Recipe
from finetune.run.chat import Talk
from finetune.run_folder import RunFolder

CAT, DOG = VOCABULARY, VOCABULARY + 1
FAST = {"rows": 2, "max_new_tokens": 2, "speed": False}
TRAINED = {"epochs": 1, "batch_size": 8, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    made = Workshop(tmp_path_factory.mktemp("tokens"))
    for name, more in {"free": {}, "tied": {"tie_word_embeddings": True}}.items():
        llama(seed=3, vocabulary=VOCABULARY + 4, **more).save_pretrained(made.folder / name)
        tokenizer(chat=True).save_pretrained(made.folder / name)
    return made


def run_of(shop: Workshop, base: str, kind: str = "lora", tokens: list[str] | None = None, **more: Any) -> LLMFineTuner:
    layer = shop.layer(model=str(shop.folder / base), method={"kind": kind}, training=TRAINED, benchmark=FAST)
    layer["dataset"] |= {"add_tokens": ["cat", "dog"] if tokens is None else tokens}
    return shop.tuner({**layer, **more})


def rows_of(model: Any) -> dict[str, torch.Tensor]:
    return {"in": model.get_input_embeddings().weight.detach().float(), "out": model.get_output_embeddings().weight.detach().float()}


def changed(one: torch.Tensor, other: torch.Tensor) -> list[int]:
    """The rows that differ; of two tables of one size."""
    return [int(row) for row in (one != other).any(1).nonzero().squeeze(1)]


@pytest.mark.parametrize("name", ["free", "tied"])
@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_beside_an_adapter_the_rows_of_new_tokens_learn_and_no_others(kind: str, name: str, shop: Workshop) -> None:
    tuner = run_of(shop, name, kind)
    result = tuner.run()
    assert any(CAT in row for row in tuner.data.train["input_ids"])
    base, made = (AutoModelForCausalLM.from_pretrained(folder) for folder in (shop.folder / name, result.output_dir))
    before, after = rows_of(base), rows_of(made)
    pieces = {CAT: tokenizer()("cat")["input_ids"], DOG: tokenizer()("dog")["input_ids"]}
    for end in ("in", "out"):
        assert changed(before[end], after[end]) == [CAT, DOG], "also as transformers alone loads it"
        for number, parts in pieces.items():
            begun = before[end][parts].mean(0)
            assert 0 < float((after[end][number] - begun).abs().max()) < 0.2, "from the mean of its pieces on"
    read = AutoTokenizer.from_pretrained(result.output_dir)
    assert read("a cat")["input_ids"][-1] == CAT
    assert read.decode([CAT], skip_special_tokens=True) == "cat"
    assert "The tokens 'cat', 'dog' are added" in "\n".join(notices(tuner))
    saved = load_file(result.output_dir / "adapter_model.safetensors")
    assert not [part for part, rows in saved.items() if rows.shape[0] == VOCABULARY + 4], "no table is in the file, only rows"
    learned = [rows for part, rows in saved.items() if "trainable_tokens" in part]
    assert len(learned) == (1 if name == "tied" else 2)
    for rows in learned:
        assert any(torch.equal(rows, table[[CAT, DOG]]) for table in after.values())


def test_where_all_weights_learn_the_model_grows(shop: Workshop) -> None:
    tuner = run_of(shop, "base", "full")
    plan = tuner.plan()
    result = tuner.run()
    made = AutoModelForCausalLM.from_pretrained(result.output_dir)
    assert made.config.vocab_size == made.get_input_embeddings().weight.shape[0] == VOCABULARY + 2
    assert plan.parameters == result.training["parameters"] == llama(layers=3).num_parameters() + 2 * 2 * 32
    assert AutoTokenizer.from_pretrained(result.output_dir)("dog cat")["input_ids"] == [DOG, tokenizer()(" ")["input_ids"][0], CAT]
    found = {number: sum(number in row for row in tuner.data.train["input_ids"]) for number in (CAT, DOG)}
    for number, text in ((CAT, "cat"), (DOG, "dog")):
        assert f"The new token '{text}' is in {found[number]} of the rows to train on." in plan.notes
    said: list[str] = []
    talk = Talk(load_model(locate(str(result.output_dir), shop.runtime, Recorder()), inspect(shop.runtime)), tuner.tokenizer)
    talk.answer("say cat", said.append)
    assert CAT in talk._prompt()


def test_a_row_begins_as_the_mean_of_its_pieces_and_the_others_stay() -> None:
    for tied in (False, True):
        model, made = llama(seed=1, tie_word_embeddings=tied), tokenizer()
        before = {end: rows.clone() for end, rows in rows_of(model).items()}
        add_tokens(made, ["ab", "c"])
        assert made.new_tokens == {VOCABULARY: tokenizer()("ab")["input_ids"]}
        assert made.notes[0].startswith("'c' is a token of the model already (number ")
        give_rows(model, made.new_tokens)
        for end, rows in rows_of(model).items():
            assert rows.shape[0] == VOCABULARY + 1
            assert torch.equal(rows[:-1], before[end])
            assert torch.allclose(rows[-1], before[end][made.new_tokens[VOCABULARY]].mean(0))


def test_a_token_that_no_row_has_is_said(shop: Workshop) -> None:
    plan = run_of(shop, "free", tokens=["zebra"]).plan()
    assert "The new token 'zebra' is in 0 of the rows to train on: it learns nothing." in plan.notes


def test_what_is_merged_and_exported_knows_the_new_tokens(shop: Workshop, tmp_path: Path) -> None:
    made = tokenizer_of("llama")
    size = len(made)
    model_of("llama", size + 16).save_pretrained(tmp_path / "base")
    made.save_pretrained(tmp_path / "base")
    rows = shop.rows
    layer = shop.layer(model=str(tmp_path / "base"), training=TRAINED, benchmark=FAST, output_dir=str(tmp_path / "run"))
    layer["dataset"] |= {"source": str(rows), "add_tokens": ["kubectl", "bird c"]}
    result = shop.tuner(layer).run()
    Merged.export(RunFolder.of(result.output_dir), tmp_path / "plain", shop.runtime, Recorder())
    adapted, plain = (AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (result.output_dir, tmp_path / "plain"))
    asked = AutoTokenizer.from_pretrained(tmp_path / "plain")("say bird c", return_tensors="pt")["input_ids"]
    assert size + 1 in asked[0].tolist()
    with torch.no_grad():
        assert torch.allclose(adapted(asked).logits, plain(asked).logits, atol=1e-4)
    done = GGUF.export(RunFolder.of(result.output_dir), tmp_path / "gguf", shop.runtime, Recorder())
    fields = gguf.GGUFReader(tmp_path / "gguf" / done.file).fields
    assert fields["tokenizer.ggml.tokens"].contents()[size : size + 2] == ["kubectl", "bird c"]
    assert fields["tokenizer.ggml.token_type"].contents()[size : size + 2] == [gguf.TokenType.USER_DEFINED] * 2


@pytest.mark.parametrize(
    ("model", "kind", "tokens", "words"),
    [
        ("base", "lora", ["cat"], f"An adapter cannot add tokens to LlamaForCausalLM: its embeddings have {VOCABULARY} rows"),
        (
            "free",
            "lora",
            ["a", "b", "cat", "dog", "fox", "hen", "owl"],
            "are needed, and an adapter is loaded onto a base that has no more",
        ),
    ],
)
def test_what_an_adapter_cannot_hold_is_refused_before_anything_is_loaded(
    model: str, kind: str, tokens: list[str], words: str, shop: Workshop
) -> None:
    with pytest.raises(ModelError) as refused:
        run_of(shop, model, kind, tokens).check()
    assert words in refused.value.message
    assert "method.kind=full" in str(refused.value.hint)


def test_a_head_that_peft_cannot_train_row_by_row_is_refused() -> None:
    from finetune.methods.new_tokens import token_settings

    biased, wrong = llama(), llama()
    biased.lm_head.bias = torch.nn.Parameter(torch.zeros(VOCABULARY))
    wrong.config.tie_word_embeddings = True
    for model, words in ((biased, "peft cannot train single rows"), (wrong, "does not say correctly whether")):
        with pytest.raises(ModelError, match=words):
            token_settings(model, [3])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"approach": "distillation"}, "whose teacher knows no new tokens"),
        ({"method": "adalora"}, "which AdaLoRA with these settings does not train"),
        ({"method": {"kind": "full", "freeze": "head"}}, "which Full with these settings does not train"),
        ({"dataset": {"add_tokens": ["x", "x"]}}, "must name each token once"),
        ({"dataset": {"add_tokens": [" x"]}}, "must name each token once, without spaces at its ends"),
    ],
)
def test_what_cannot_be_learned_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as refused:
        Recipe.from_layers({"dataset": {"add_tokens": ["x y"]}}, changes)
    assert words in refused.value.message


def test_an_adapter_that_is_trained_further_keeps_its_tokens_and_gets_no_others(shop: Workshop) -> None:
    first = run_of(shop, "free").run()
    again = run_of(shop, "free", model=str(first.output_dir))
    result = again.run()
    assert "'cat' is a token of the model already" in "\n".join(notices(again))
    one, two = (rows_of(AutoModelForCausalLM.from_pretrained(each.output_dir)) for each in (first, result))
    assert changed(one["in"], two["in"]) == [CAT, DOG]
    with pytest.raises(FinetuneError, match=r"dataset.add_tokens needs a new adapter"):
        run_of(shop, "free", tokens=["fox"], model=str(first.output_dir)).check()
