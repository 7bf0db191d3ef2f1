"""How a result is used on another machine, as the end of a run and the card say it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import BadInput
from finetune.publish.card import model_card
from finetune.publish.run_facts import RunFacts
from finetune.publish.usage import adapter_of, base_of, folder_commands, in_short
from finetune.recipe import STARTER, Recipe
from finetune.run_folder import RunFolder

COMMIT = "b" * 40
ADAPTER = RunFacts(adapter=True, training={}, data={"train": 9, "held_out": 3}, environment={}, ends=[1, 5])


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def recipe(model: str) -> Recipe:
    return Recipe.from_layers({"model": model})


def run_folder(folder: Path, model: str, *, adapter: bool = True, continued: dict[str, Any] | None = None) -> Path:
    (folder / "run").mkdir(parents=True)
    recipe(model).save(folder / "run" / "recipe.yaml")
    if adapter:
        (folder / "adapter_config.json").write_text("{}")
    if continued:
        (folder / "run" / "continued.json").write_text(json.dumps(continued))
    return folder


def merge_first(out: Path) -> list[tuple[str, str]]:
    return [("Merge", f"finetune-cli merge {out}"), ("Elsewhere", "merge it first, then copy the merged folder")]


def test_an_adapter_on_a_model_of_the_hub_is_its_folder(tmp_path: Path) -> None:
    model = f"org/base@{COMMIT}"
    rows = in_short(run_folder(tmp_path / "out", model), "finetune-cli")
    assert rows == [("Elsewhere", "copy the folder; org/base is downloaded when it is loaded")]
    text = model_card(recipe(model), ADAPTER, {})
    assert "It works on any machine: its base model, org/base, is downloaded when it is loaded." in text
    assert "max_new_tokens=64, eos_token_id=[1, 5])" in text


def test_an_adapter_on_the_starter_of_the_package_index_needs_the_hubs_or_merging(tmp_path: Path) -> None:
    model = f"{STARTER}@pypi-0.1.2"
    out = run_folder(tmp_path / "out", model)
    assert in_short(out, "finetune-cli") == merge_first(out)
    text = model_card(recipe(model), ADAPTER, {})
    assert f'from_pretrained(\'{STARTER}\', dtype="float32")\nmodel.load_adapter(".")' in text
    assert "answers differ slightly" in text
    assert "finetune-cli merge ." in text
    assert "load_adapter" not in model_card(recipe(model), ADAPTER, {}, repo="ada/letters"), "there the base is the Hub's"
    assert "unpacked from a 4-bit file" in model_card(recipe(model), ADAPTER, {}, repo="ada/letters")


@pytest.mark.parametrize("origin", [None, f"org/base@{COMMIT}"])
def test_an_adapter_on_a_model_that_is_only_here_says_so_and_where_that_came_from(origin: str | None, tmp_path: Path) -> None:
    earlier = run_folder(tmp_path / "earlier", origin or str(tmp_path), adapter=False)
    out = run_folder(tmp_path / "out", str(earlier))
    assert in_short(out, "finetune-cli") == merge_first(out)
    text = model_card(recipe(str(earlier)), ADAPTER, {})
    assert "exists only on the machine where this adapter was trained" in text
    assert ("made from [org/base](https://huggingface.co/org/base)" in text) == (origin is not None)
    assert str(tmp_path) not in text


def test_an_adapter_of_experts_says_which_versions_read_it(tmp_path: Path) -> None:
    out = run_folder(tmp_path / "out", f"org/base@{COMMIT}")
    assert not RunFacts.of(RunFolder(out)).experts
    (out / "adapter_config.json").write_text(json.dumps({"target_parameters": ["experts.down_proj"]}))
    facts = RunFacts.of(RunFolder(out))
    assert facts.experts
    assert '`pip install "transformers>=5" "peft>=0.21"`' in model_card(recipe("org/base"), facts, {})


def test_a_whole_model_needs_nothing_else(tmp_path: Path) -> None:
    assert in_short(run_folder(tmp_path / "out", "org/base", adapter=False), "finetune-cli") == [
        ("Elsewhere", "copy the folder; it loads as it is")
    ]
    text = model_card(recipe("org/base"), replace(ADAPTER, adapter=False), {})
    assert "machine" not in text
    assert "eos_token_id" not in text


def test_the_base_of_a_continued_adapter_is_that_of_the_first(tmp_path: Path) -> None:
    """Also when the earlier run is gone."""
    record = {"adapter": str(tmp_path / "gone"), "base": f"org/base@{COMMIT}"}
    out = run_folder(tmp_path / "out", str(tmp_path / "gone"), continued=record)
    ((_, said),) = in_short(out, "finetune-cli")
    assert "org/base is downloaded" in said
    text = model_card(recipe(str(tmp_path / "gone")), replace(ADAPTER, continued=record), {})
    assert "base_model: org/base" in text
    assert "Training continued an earlier adapter, on the same base" in text
    of_hub = {**record, "adapter": f"ada/first@{COMMIT}"}
    text = model_card(recipe(f"ada/first@{COMMIT}"), replace(ADAPTER, continued=of_hub), {})
    assert "continued the adapter [ada/first](https://huggingface.co/ada/first), on the same base" in text
    starter = {**record, "base": f"{STARTER}@pypi-0.1.2"}
    assert base_of(recipe("./gone"), starter).kind == "starter"
    assert "4-bit file" in model_card(recipe("./gone"), replace(ADAPTER, continued=starter), {}, repo="ada/letters")


def test_what_can_be_merged_and_what_it_is_called_then(tmp_path: Path, empty_hub_cache: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "adapter_config.json").write_text("{}")
    assert adapter_of(str(theirs))[1] == tmp_path / "theirs-merged"
    snapshot = empty_hub_cache / "models--org--adapter" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (snapshot / name).write_text("{}")
    assert adapter_of(f"org/adapter@{COMMIT}")[1] == Path("adapter-merged")
    with pytest.raises(BadInput, match="is not a run folder"):
        adapter_of(str(tmp_path))


@pytest.mark.parametrize(
    ("files", "chats"),
    [
        ({"chat_template.jinja": "{{ messages }}", "tokenizer_config.json": "{}"}, True),
        ({"tokenizer_config.json": '{"chat_template": "{{ messages }}"}'}, True),
        ({"tokenizer_config.json": '{"eos_token": "</s>"}'}, False),
    ],
)
def test_a_model_without_a_chat_template_is_not_offered_for_a_chat(files: dict[str, str], chats: bool, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    commands = folder_commands(tmp_path)
    assert commands["vLLM"] == f"vllm serve {tmp_path}"
    assert commands["MLX"].startswith("mlx_lm.chat" if chats else "mlx_lm.generate")
    assert ("Ask" in commands) is not chats
