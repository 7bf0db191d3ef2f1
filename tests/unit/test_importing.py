"""Configurations of Axolotl and LLaMA-Factory become recipes; every key of a file is used, explained or named as left out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from finetune import registry
from finetune.cli import main
from finetune.data.formats import detect
from finetune.errors import RecipeError
from finetune.importing import import_file
from finetune.importing.axolotl_data import ENTRY, TYPES, Shape
from finetune.importing.imported import Imported
from finetune.importing.lines import MAPPED, MISSING, RUNTIME, SAME, UNKNOWN, Refused
from finetune.importing.llama_factory_data import DESCRIBED
from finetune.recipe import Recipe, dotted, known_keys

# After public examples of both programs, written anew: the keys are theirs, models and rows are not. Each with the recipe that it becomes.
EXAMPLES = sorted((Path(__file__).parent / "importing").glob("*/*.yml"))
LEFT_OUT = {
    ("axolotl", "lora"): {"sample_packing", "evals_per_epoch"},
    ("axolotl", "qlora"): {"optimizer", "max_steps"},
    ("axolotl", "full"): {"chat_template", "weight_decay", "deepspeed", "neftune_noise_alpha", "gradient_checkpointing"},
    ("axolotl", "own_type"): {
        "datasets[0].type.format",
        "datasets[0].type.field_input",
        "load_in_8bit",
        "datasets[1] (org/other)",
        "train_on_inputs",
        "lora_modules_to_save",
    },
    ("axolotl", "text"): {"optimizer", "warmup_steps", "torch_compile", "pretraining_dataset", "max_steps"},
    ("llama-factory", "splits"): {"template", "warmup_steps", "eval_strategy", "mask_history"},
    ("llama-factory", "lora"): {"template"},
    ("llama-factory", "qlora"): {"template", "optim", "report_to"},
    ("llama-factory", "full"): {"lr_scheduler_type", "use_galore", "packing"},
}
OPTIONS = {
    ("axolotl", "qlora"): ["--dtype bfloat16", "--trust-remote-code"],
    ("axolotl", "full"): ["--dtype float16"],
    ("llama-factory", "splits"): ["--dtype bfloat16"],
    ("llama-factory", "lora"): ["--trust-remote-code", "--dtype bfloat16"],
}
DATASETS = {
    "tickets": {"file_name": "tickets.json", "columns": {"prompt": "question", "response": "reply"}},
    "more": {"file_name": "more.json", "columns": {"prompt": "question", "response": "reply"}},
    "chats": {
        "hf_hub_url": "org/chats",
        "formatting": "sharegpt",
        "subset": "en",
        "split": "sft",
        "num_samples": 300,
        "columns": {"messages": "dialog", "system": "system"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    },
    "sums": {"hf_hub_url": "org/sums", "split": "train"},
    "sums_test": {"hf_hub_url": "org/sums", "split": "test"},
    "papers": {"file_name": "papers", "columns": {"prompt": "text"}},
    "pairs": {"file_name": "pairs.json", "ranking": True},
}
CASES = pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: f"{path.parent.name}-{path.stem}")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(DATASETS), encoding="utf-8")
    return tmp_path


def imported(place: Path, given: str, source: str | None = None) -> Imported:
    (place / "given.yml").write_text(given, encoding="utf-8")
    return import_file(place / "given.yml", source)


def example(source: str, name: str) -> str:
    return (Path(__file__).parent / "importing" / source / f"{name}.yml").read_text(encoding="utf-8")


@CASES
def test_a_configuration_becomes_exactly_the_recipe_beside_it(example: Path, place: Path) -> None:
    found = import_file(example)
    source, wanted = example.parent.name, yaml.safe_load(example.with_suffix(".recipe.yaml").read_text(encoding="utf-8"))
    assert found.title == registry.title("importers", source)
    assert dict(dotted(yaml.safe_load(found.text()))) == dict(dotted({"approach": "fine-tuning", **wanted}))
    assert found.recipe == Recipe.from_layers(wanted)
    assert {line.key for line in found.of(MISSING)} == LEFT_OUT[source, example.stem]
    assert found.options == OPTIONS.get((source, example.stem), [])


@CASES
def test_no_key_is_dropped_without_a_word(example: Path, place: Path) -> None:
    text = import_file(example).text()
    for key in yaml.safe_load(example.read_text(encoding="utf-8")):
        assert re.search(rf"#.*\b{key}\b|^#   +{key}\b", text, re.MULTILINE), key


@pytest.mark.parametrize("source", registry.BUILT_IN["importers"])
def test_an_unknown_key_is_listed_with_the_nearest(source: str, place: Path) -> None:
    found = imported(place, example(source, "lora").replace("learning_rate", "lerning_rate", 1))
    assert found.said(UNKNOWN) == ["lerning_rate: Did you mean learning_rate?"]
    assert "# Not known, and left out:\n#   lerning_rate: Did you mean learning_rate?" in found.text()


@pytest.mark.parametrize("source", registry.BUILT_IN["importers"])
def test_every_rule_says_what_becomes_of_its_key_and_names_real_recipe_keys(source: str) -> None:
    keys = registry.load("importers", source).keys
    assert len(keys) > 150
    mapped, real = set(), set(known_keys())
    beside = {"adapter": "lora", "quantization_bit": 4, "push_to_hub": True, "dataset": "chats", DESCRIBED: DATASETS}
    for key, rule in keys.items():
        for value in (True, 0, 3, 4, 0.5, "auto", "none", "cosine", "wandb", "a/b", "chats", ["x"], {"x": "y"}, [{"path": "rows.jsonl"}]):
            try:
                lines = list(rule({**beside, key: value}, key, value))
            except RecipeError:
                continue
            for line in lines:
                assert line.how in (MAPPED, SAME, RUNTIME, MISSING)
                assert line.said or line.keys or line.option, key
                assert set(line.keys) <= real, key
                mapped |= {key} if line.how == MAPPED else set()
    assert len(mapped) >= 30, "keys whose values reach the recipe"


@pytest.mark.parametrize("name", TYPES)
def test_columns_of_axolotls_types_are_read_as_it_reads_them(name: str, place: Path) -> None:
    shape: Shape = TYPES[name]
    found = imported(place, f"{{base_model: org/m, num_epochs: 1, datasets: [{{path: rows.jsonl, type: {name}}}]}}")
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    row = {column: turns if column in ("messages", "conversations") else f"the {column}" for column in shape.reads}
    columns = found.recipe.dataset.columns
    assert (columns.model_dump(exclude_none=True) if columns else None) == (dict(shape.columns) if shape.columns else None)
    read = detect(list(row), [row], columns, "rows.jsonl")
    assert set(read.columns) >= set(row) - {"category"}, "every column is read"
    assert read.to_messages(row)[-1]["content"] in ("Hello!", f"the {shape.reads[-1]}")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{base_model: m, num_epochs: 1, rl: dpo}", "`rl: dpo` asks for training from preferences or rewards, which"),
        ("{base_model: m, num_epochs: 1, reward_model: true}", "`reward_model: true` asks for training from preferences"),
        ("{base_model: m, num_epochs: 1, adapter: llama-adapter}", "There is no method llama-adapter here."),
        ("{base_model: m, num_epochs: 1, plugins: [axolotl.integrations.kd.KDPlugin]}", "learns from a teacher's stored probabilities"),
        ("{model_name_or_path: m, stage: dpo, finetuning_type: lora}", "`stage: dpo` asks for training from preferences, which"),
        ("{model_name_or_path: m, stage: kto, finetuning_type: lora}", "`stage: kto` asks for training from preferences, which"),
        ("{model_name_or_path: m, stage: sft, finetuning_type: oft}", "There is no method oft here."),
        ("{model_name_or_path: m, stage: sft, do_predict: true, eval_dataset: tickets}", "`do_predict: true` without `do_train` is not a"),
        ("{model_name_or_path: m, export_dir: merged, template: x}", "`export_dir: merged` without `do_train` is not a training run."),
        (
            "{model_name_or_path: m, template: qwen, infer_backend: huggingface}",
            "It names no rows to train on, so it is not a training run.",
        ),
        ("{micro_batch_size: 1, num_epochs: 1, datasets: [{path: a.jsonl}]}", "It names no model, so it is not a training run."),
        ("{model: m, template: qwen3, cutoff_len: 9, train_dataset: d.yaml}", "`model: m` is how version 1 of LLaMA-Factory begins, whose"),
        ("{model_name_or_path: m, stage: sft, dataset: pairs}", "dataset_info.json of pairs is a dataset of preferences"),
    ],
)
def test_other_kinds_of_training_are_refused_in_a_sentence(given: str, said: str, place: Path) -> None:
    with pytest.raises(Refused, match=re.escape(said)) as refused:
        imported(place, given)
    assert refused.value.message.startswith(str(place / "given.yml"))
    assert refused.value.exit_code == 2
    assert refused.value.hint


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{base_model: m, num_epochs: many}", "num_epochs must be a number, not 'many'."),
        ("{base_model: m, num_epochs: 1, micro_batch_size: 1.5}", "micro_batch_size must be a whole number, not '1.5'."),
        ("{base_model: m, num_epochs: 1, learning_rate: 7, datasets: [{path: a.jsonl}]}", "training.learning_rate must be"),
        ("{model: m, dataset: rows.jsonl}", "does not look like a configuration of Axolotl or LLaMA-Factory."),
        ("[1, 2]", "must contain recipe keys"),
    ],
)
def test_what_no_recipe_can_have_is_said_with_the_file(given: str, said: str, place: Path) -> None:
    with pytest.raises(RecipeError, match=re.escape(said)) as refused:
        imported(place, given)
    assert "given.yml" in refused.value.message


def test_an_unknown_source_and_an_unrecognised_file_can_be_named(place: Path) -> None:
    found = imported(place, "{learning_rate: 1e-4, model_name_or_path: m, dataset: d}", "llama-factory")
    assert found.recipe.training.learning_rate == 1e-4
    with pytest.raises(RecipeError, match=r"There is no importer 'axolotol'\. Did you mean axolotl"):
        imported(place, "{learning_rate: 1e-4}", "axolotol")


def test_names_of_datasets_that_nothing_describes_are_all_said(place: Path) -> None:
    (place / "data" / "dataset_info.json").unlink()
    (said,) = [line.said for line in imported(place, example("llama-factory", "lora")).of(MISSING) if line.key == "dataset"]
    assert said.startswith("tickets, more are names of datasets there")


def test_a_files_own_text_cannot_leave_its_comment(place: Path) -> None:
    found = imported(
        place, '{base_model: "m\\nseed: 1", num_epochs: 1, datasets: [{path: a.jsonl}], "odd\\nseed: 3": "x", chat_template: "a\\nseed: 4"}'
    )
    assert yaml.safe_load(found.text())["model"] == "m\nseed: 1"
    assert "seed" not in yaml.safe_load(found.text())


def test_the_command_writes_a_recipe_and_never_over_another_file(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (place / "lora.yml").write_text(example("axolotl", "qlora"), encoding="utf-8")
    assert main(["import", "lora.yml", "--output", "recipe.yaml"]) == 0
    shown = capfd.readouterr().out
    assert "lora.yml, a configuration of Axolotl" in shown
    assert "finetune-cli run recipe.yaml --dtype bfloat16 --trust-remote-code" in shown
    assert Recipe.load("recipe.yaml").seed == 7
    assert main(["import", "lora.yml", "--output", "recipe.yaml"]) == 2
    assert "recipe.yaml exists." in capfd.readouterr().err
    assert main(["import", "lora.yml", "--output", "recipe.yaml", "--overwrite", "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["recipe"]["seed"] == 7
    assert facts["options"] == ["--dtype bfloat16", "--trust-remote-code"]
    assert main(["import", "lora.yml"]) == 0
    said = capfd.readouterr()
    assert Recipe.from_layers(yaml.safe_load(said.out)).seed == 7
    assert re.search(r"lora\.yml, a configuration of Axolotl: \d+ keys in the recipe, \d+ not needed here, \d+ left out\.", said.err)


def test_an_import_needs_no_library_of_the_engine(place: Path) -> None:
    (place / "lora.yml").write_text(example("axolotl", "lora"), encoding="utf-8")
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); from finetune.cli import main; main(['import', 'lora.yml']); "
    )
    code += "print([name for name in ('torch', 'transformers', 'datasets', 'peft') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


AXOLOTL = "base_model: org/small\nmicro_batch_size: 1\ndatasets: [{path: rows.jsonl, type: alpaca}]\n"
FACTORY = "model_name_or_path: org/small\nstage: sft\ndataset: tickets\n"


@pytest.mark.parametrize(
    ("given", "key", "value"),
    [
        # nothing is uploaded, or measured in between, unless the other program would
        (f"{FACTORY}hub_model_id: ada/model", "upload", None),
        (f"{FACTORY}hub_model_id: ada/model\npush_to_hub: true", "upload.repo", "ada/model"),
        (f"{AXOLOTL}hub_model_id: ada/model", "upload.repo", "ada/model"),
        (f"{FACTORY}val_size: 0.1\neval_steps: 50", "training.evaluate_every", "auto"),
        (f"{FACTORY}val_size: 0.1\neval_steps: 50\nevaluation_strategy: steps", "training.evaluate_every", 50),
        (f"{AXOLOTL}eval_steps: 50", "training.evaluate_every", "auto"),
        (f"{AXOLOTL}eval_steps: 50\nval_set_size: 0.1", "training.evaluate_every", 50),
        # steps go before a share, whichever stands first; no steps leave it to the share
        (f"{FACTORY}warmup_ratio: 0.1\nwarmup_steps: 0", "training.warmup", 0.1),
        (f"{FACTORY}warmup_steps: 0\nwarmup_ratio: 0.1", "training.warmup", 0.1),
        (f"{FACTORY}warmup_ratio: 0.1\nwarmup_steps: 20\nmax_steps: 100", "training.warmup", 0.2),
        (f"{FACTORY}warmup_steps: 20\nwarmup_ratio: 0.1", "training.warmup", 0.1),
        # as many rows for each dataset that is read, not for one that is left out
        (f"{FACTORY.replace('tickets', 'tickets, sums')}max_samples: 100", "dataset.samples", 100),
        (f"{FACTORY.replace('tickets', 'tickets, more')}max_samples: 100", "dataset.samples", 200),
        # a description without columns means the usual ones, of plain text too
        (FACTORY.replace("sft", "pt").replace("tickets", "sums"), "dataset.columns.text", "instruction"),
        # lists are joined, and of two values the first holds
        (f"{AXOLOTL}wandb_project: x\nuse_tensorboard: true", "training.report_to", ["wandb", "tensorboard"]),
        (f"{FACTORY}max_new_tokens: 10\ngeneration_max_length: 20", "benchmark.max_new_tokens", 10),
    ],
)
def test_keys_that_mean_something_together_are_read_together(given: str, key: str, value: object, place: Path) -> None:
    assert dict(dotted(imported(place, given).recipe.model_dump())).get(key) == value


def test_of_two_values_for_one_setting_the_other_is_named(place: Path) -> None:
    (line,) = imported(place, f"{FACTORY}max_new_tokens: 10\ngeneration_max_length: 20").said(MISSING)
    assert line == "generation_max_length: max_new_tokens sets `benchmark.max_new_tokens` too, to 10, and comes first"


def test_rows_for_so_many_steps_count_the_usual_batch(place: Path) -> None:
    (line,) = imported(place, f"{FACTORY}max_steps: 90").said(MISSING)
    assert "--set dataset.samples=800 " in line, "90 steps of 8 rows, and a tenth that is held out"


@pytest.mark.parametrize("value", [False, 0, "none", []])
@pytest.mark.parametrize("part", [*ENTRY, "never_heard_of"])
def test_a_part_of_a_dataset_is_named_on_or_off(part: str, value: object, place: Path) -> None:
    if part not in ("path", "type", "name", "split", "message_property_mappings", "roles"):
        found = imported(place, json.dumps({"base_model": "m", "num_epochs": 1, "datasets": [{"path": "rows.jsonl", part: value}]}))
        assert f"datasets[0].{part}" in {line.key for line in found.lines}


def test_what_a_description_of_rows_says_beyond_what_is_read_is_named(place: Path) -> None:
    told = {"tickets": {"file_name": "t.json", "load_from": "disk", "columns": {"prompt": "q", "response": "a", "thought": "t"}}}
    (place / "data" / "dataset_info.json").write_text(json.dumps(told), encoding="utf-8")
    assert imported(place, FACTORY).said(UNKNOWN) == ["dataset_info.json of tickets: load_from, dataset_info.json of tickets: thought"]


@pytest.mark.parametrize("loader", ["load_camel_ai", "load_nobody_knows"])
def test_a_loader_of_a_type_reads_its_own_columns(loader: str, place: Path) -> None:
    found = imported(place, AXOLOTL.replace("alpaca", f"alpaca_chat.{loader}"))
    assert "found by their names; rows" not in found.text()


def test_how_a_model_is_measured_while_it_trains_and_new_tokens_are_taken_over(place: Path) -> None:
    more = "eval_steps: 50\nload_best_model_at_end: true\nearly_stopping_patience: 3\ntokens: ['<call>']\n"
    found = imported(place, example("axolotl", "lora") + more).recipe
    assert (found.training.evaluate_every, found.training.keep, found.training.patience) == (50, "best", 3)
    assert found.dataset.add_tokens == ["<call>"]
    found = imported(place, example("llama-factory", "qlora") + "eval_strategy: steps\neval_steps: 50\n")
    assert found.recipe.training.evaluate_every == 50
    assert "eval_strategy" not in {line.key for line in found.of(MISSING)}
    more = "load_best_model_at_end: true\nmetric_for_best_model: "
    for metric, left in (("eval_loss", False), ("eval_accuracy", True)):
        found = imported(place, example("llama-factory", "qlora") + more + metric)
        assert ("metric_for_best_model" in {line.key for line in found.of(MISSING)}) == left
    more = "eval_strategy: 'no'\neval_steps: 50\nearly_stopping_steps: 3\nadd_tokens: <call>, <end>\n"
    found = imported(place, example("llama-factory", "qlora") + more).recipe
    assert (found.training.evaluate_every, found.training.keep, found.training.patience) == ("auto", "last", 3)
    assert found.dataset.add_tokens == ["<call>", "<end>"]
