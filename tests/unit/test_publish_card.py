"""The model card says what the run did, in metadata the Hub understands, and gives nothing private away."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from finetune.publish.card import model_card
from finetune.publish.redaction import adapters_base, base_model, hub_dataset, public_benchmark, public_config, public_recipe
from finetune.publish.run_facts import RunFacts
from finetune.recipe import Recipe

COMMIT = "b" * 40
SCORES = {
    "rows": 40,
    "before": {"rougeL": 0.1652, "perplexity": 30.0},
    "after": {"rougeL": 0.37049, "perplexity": 12.5},
    "teacher": None,
    "retention": None,
    "intervals": {"before": {"rougeL": [0.1, 0.2], "perplexity": [20, 40]}, "after": {"rougeL": [0.3, 0.44], "perplexity": [10, 15]}},
    "change": {"rougeL": {"difference": 0.2, "low": 0.1, "high": 0.3, "verdict": "better"}},
    "generations": [{"prompt": "x" * 500, "reference": "r", "before": "b", "after": "a"}]
    + [
        {"prompt": f"what is {word}?", "reference": "an animal", "before": "```\nbroken out", "after": f"{word}!"}
        for word in ("cat", "dog")
    ],
}
TRAINING = {"steps": 8, "train_seconds": 3.0, "real_tokens": 4000, "trainable_parameters": 1000, "parameters": 100_000}
FACTS = RunFacts(
    adapter=True,
    training={**TRAINING, "first_loss": 3.5, "final_loss": 1.25},
    data={"train": 360, "held_out": 40, "template": "chat", "restricted": False},
    environment={"machine": {"cpu": "Some CPU", "gpu": None, "dtype": "float32"}},
)
NOTHING = RunFacts(adapter=False, training={}, data={}, environment={})


def recipe(**changes):
    return Recipe.from_layers({"model": f"Qwen/Qwen2.5-0.5B-Instruct@{COMMIT}", "dataset": {"source": f"openai/gsm8k@{COMMIT}"}}, changes)


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ({"kind": "lora", "dora": True, "dropout": 0.1}, "LoRA: r 16, alpha 32, dropout 0.1, dora"),
        ({"kind": "lora", "target_modules": ["q_proj", "v_proj"]}, "LoRA: r 16, alpha 32, dropout 0.05, target_modules q_proj, v_proj"),
        ({"kind": "full"}, "Full"),
    ],
)
def test_the_method_is_told_in_words_without_what_is_off(method, line):
    assert f"\n- Method: {line}\n" in model_card(recipe(method=method), FACTS, SCORES)


def test_the_hub_reads_metadata_and_scores_with_the_baseline_beside_them():
    card = ModelCard(model_card(recipe(), FACTS, SCORES, repo="ada/letters"))
    data = card.data.to_dict()
    assert data["base_model"] == "Qwen/Qwen2.5-0.5B-Instruct"
    assert data["base_model_relation"] == "adapter"
    assert data["datasets"] == ["openai/gsm8k"]
    assert data["library_name"] == "peft"
    assert data["pipeline_tag"] == "text-generation"
    assert data["license"] == "apache-2.0"
    assert {"finetune-cli", "lora"} <= set(data["tags"])
    results = {result.metric_name: (result.metric_type, result.metric_value, result.dataset_type) for result in card.data.eval_results}
    assert results["ROUGE-L"] == ("rouge", 0.3705, "openai/gsm8k")
    assert results["ROUGE-L before training"] == ("rouge", 0.1652, "openai/gsm8k")
    assert results["Perplexity"] == ("perplexity", 12.5, "openai/gsm8k")


def with_card(cache, front):
    """The folder of a model in the Hub's cache whose card begins with these lines; known by its commit alone."""
    repository = cache / "models--org--base"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "README.md").write_text(f"---\n{front}\n---\n# Base\n")
    (snapshot / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (snapshot / "model.safetensors").write_bytes(b"")
    return repository


def test_licence_and_language_are_inherited_from_the_card_of_the_base_model(empty_hub_cache):
    repository = with_card(empty_hub_cache, "license: mit\nlanguage:\n- de")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    data = ModelCard(model_card(recipe(model="org/base"), NOTHING, {})).data.to_dict()
    assert (data["license"], data["language"], data["base_model_relation"]) == ("mit", ["de"], "finetune")


def test_a_card_that_repeats_itself_without_end_leaves_no_licence(empty_hub_cache):
    with_card(empty_hub_cache, "language: de\nlicense: &a [*a]")
    assert not {"license", "language"} & ModelCard(model_card(recipe(model=f"org/base@{COMMIT}"), FACTS, {})).data.to_dict().keys()


def test_licence_and_language_come_from_the_commit_that_was_trained_on(empty_hub_cache):
    """A pinned commit is not known to the cache as main."""
    with_card(empty_hub_cache, "license: other\nlicense_name: our-own\nlanguage: fr")
    data = ModelCard(model_card(recipe(model=f"org/base@{COMMIT}"), FACTS, {})).data.to_dict()
    assert (data["license"], data["license_name"], data["language"]) == ("other", "our-own", "fr")


def test_a_merged_adapter_says_so_and_needs_no_peft():
    merged = replace(FACTS, adapter=False, merged={"dtype": "bfloat16"})
    text = model_card(recipe(), merged, SCORES, repo="ada/letters")
    assert ModelCard(text).data.to_dict()["base_model_relation"] == "merge"
    assert "with an adapter merged into it" in text
    assert "stored as bfloat16" in text
    assert "peft" not in text


@pytest.mark.parametrize(("method", "adapter", "said"), [("qlora", True, True), ("qlora", False, False), ("lora", True, False)])
def test_an_adapter_that_was_measured_on_a_base_in_4_bits_says_so(method, adapter, said):
    card = model_card(recipe(method=method), replace(FACTS, adapter=adapter), {})
    assert ("Trained and measured on the base in 4 bits" in card) is said


def test_a_licence_that_is_not_known_is_not_made_up():
    assert "license" not in ModelCard(model_card(recipe(model="org/unknown"), FACTS, SCORES)).data.to_dict()


def test_the_table_has_intervals_and_the_verdict():
    text = model_card(recipe(), FACTS, SCORES)
    assert "| ROUGE-L | 0.165 [0.100, 0.200] | 0.370 [0.300, 0.440] | better |" in text
    assert "40 held-out rows" in text
    assert "100,000, of which 1,000 (1.00 %) were trained" in text
    assert "360 rows trained on, 40 held out" in text


def test_a_distilled_student_is_shown_beside_its_teacher():
    distilled = recipe(approach="distillation", model={"from_teacher": {"layers": 10}}, teacher="org/teacher", method="full")
    scores = {
        **SCORES,
        "teacher": {"rougeL": 0.4, "perplexity": 10.0},
        "against_teacher": {"rougeL": {"verdict": "no evidence"}},
        "tokens_counted": "answers",
        "retention": {"rougeL": {"value": 0.93, "low": 0.85, "high": 1.02}},
        "intervals": {**SCORES["intervals"], "teacher": {"rougeL": [0.35, 0.45], "perplexity": [8, 12]}},
    }
    text = model_card(distilled, NOTHING, scores)
    assert "| | teacher | before | after | against teacher | change |" in text
    assert "| 0.400 [0.350, 0.450] | 0.165 [0.100, 0.200] | 0.370 [0.300, 0.440] | no evidence | better |" in text
    assert "Perplexity counts the tokens of the answers." in text
    assert "**Keeps 93 % [85 %, 102 %] of its teacher: usable.**" in text
    assert "perplexity is 1.25 times the teacher's, 12.5 against 10.0: the student predicts these answers less well." in text
    assert "distilled from [org/teacher]" in text
    ready_made = model_card(recipe(approach="distillation", model="org/student", teacher="org/teacher", method="full"), NOTHING, scores)
    assert "distilled from [org/teacher](https://huggingface.co/org/teacher), starting from [org/student]" in ready_made
    assert ModelCard(ready_made).data.to_dict()["base_model"] == "org/student"
    assert "forward_kl, temperature 2.0, alpha 0.5" in text
    assert ModelCard(text).data.to_dict()["base_model"] == "org/teacher"


def test_samples_cannot_break_out_of_their_blocks_and_long_ones_are_cut():
    text = model_card(recipe(), FACTS, SCORES)
    assert "````text\n```\nbroken out\n````" in text
    assert "x" * 400 not in text
    assert "x" * 399 + "…" in text


def test_no_text_in_the_card_or_its_example_can_steer_a_terminal_or_turn_letters_around():
    """People read a card with `cat` and copy its example; what is ordinary in some language stays."""
    ordinary = "12\u00a0€, 👩\u200d👧, \u3000."
    steering = f"a\x1b[2Jb\x9bc\u202edef\u2066g\x07 {ordinary}"
    scores = {**SCORES, "generations": [{"prompt": steering, "reference": steering, "before": steering, "after": steering}]}
    text = model_card(recipe(output_dir=f"./{steering}"), FACTS, scores)
    assert not set("\x1b\x9b\x07\u202e\u2066") & set(text)
    assert "\\u001b" not in text
    assert text.count(ordinary) >= 6
    example = next(line for line in text.splitlines() if line.startswith("prompt = "))
    found = {}
    exec(example, found)
    assert found["prompt"] == [{"role": "user", "content": f"a?[2Jb?c?def?g? {ordinary}"}]
    assert "\\x1b" not in str(ModelCard(text).data.to_dict()), "nor once its metadata is read"


def test_own_files_leave_no_path_and_no_text_behind(tmp_path):
    data, base, out = tmp_path / "letters.jsonl", tmp_path / "models" / "base", tmp_path / "out" / "model"
    data.write_text("{}\n")
    base.mkdir(parents=True)
    own = recipe(model=str(base), dataset={"source": str(data), "data_files": [str(data)]}, output_dir=str(out))
    text = model_card(own, FACTS, SCORES, repo="ada/letters")
    assert str(tmp_path) not in text
    assert "what is cat?" not in text
    metadata = ModelCard(text).data.to_dict()
    assert not {"datasets", "base_model", "base_model_relation"} & set(metadata)
    assert yaml.safe_load(text.rpartition("```yaml\n")[2].partition("```")[0])["dataset"]["source"] == "private-data.jsonl"
    assert str(Path.home()) not in text


@pytest.mark.parametrize("source", ["letters", "letters/", "letters, more", "ada/letters", "rows.v2"])
@pytest.mark.parametrize("there", [True, False])
def test_a_bare_name_that_no_run_pinned_stays_private_wherever_it_is_asked(source, there, tmp_path, monkeypatch):
    """Rows may have moved since, or the upload is made from elsewhere."""
    monkeypatch.chdir(tmp_path)
    if there:
        (tmp_path / source).mkdir(parents=True)
    own = recipe(dataset={"source": source})
    text = model_card(own, FACTS, SCORES, repo="ada/model")
    assert "what is cat?" not in text
    assert "private files" in text
    assert "datasets" not in ModelCard(text).data.to_dict()
    assert "generations" not in public_benchmark(SCORES, own, FACTS.data)
    assert "generations" in public_benchmark(SCORES, recipe(), FACTS.data)


@pytest.mark.parametrize("data", [{**FACTS.data, "restricted": True}, {}])
def test_rows_that_not_everybody_can_read_on_the_hub_are_named_and_not_shown(data):
    facts = replace(FACTS, data=data)
    text = model_card(recipe(), facts, SCORES, repo="ada/model")
    assert "what is cat?" not in text
    assert ModelCard(text).data.to_dict()["datasets"] == ["openai/gsm8k"]
    assert "generations" not in public_benchmark(SCORES, recipe(), data)


def test_the_base_of_an_earlier_run_is_the_hub_model_that_run_began_with(tmp_path):
    earlier = tmp_path / "earlier"
    (earlier / "run").mkdir(parents=True)
    recipe(model=f"org/base@{COMMIT}").save(earlier / "run" / "recipe.yaml")
    assert base_model(recipe(model=str(earlier))) == "org/base"
    assert base_model(recipe(model=str(tmp_path / "gone"))) is None


def test_an_adapter_has_a_base_that_others_can_load_only_if_the_hub_has_that_very_model(tmp_path, empty_hub_cache):
    adapter = empty_hub_cache / "models--org--adapter" / "snapshots" / COMMIT
    adapter.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / name).write_text('{"base_model_name_or_path": "org/base"}')
    earlier = tmp_path / "earlier" / "run"
    earlier.mkdir(parents=True)
    recipe(model="org/base").save(earlier / "recipe.yaml")
    made = {"approach": "distillation", "model": {"from_teacher": {"layers": 2}}, "teacher": "org/base", "method": "lora"}
    assert adapters_base(recipe(model=f"org/base@{COMMIT}")) == "org/base"
    assert adapters_base(recipe(model=f"org/adapter@{COMMIT}")) == "org/base", "it is trained further, on its own base"
    assert adapters_base(recipe(model=str(earlier.parent))) is None
    assert adapters_base(recipe(**made)) is None


@pytest.mark.parametrize(
    ("dataset", "shown"),
    [
        ({"source": "/data/ada.lovelace"}, ("private-data", None)),
        ({"source": "C:\\Users\\ada\\patients of ward 3.csv"}, ("private-data.csv", None)),
        (
            {"source": "ada", "data_files": ["ada 1.jsonl.gz", "ada 2.zip"]},
            ("private-data", ["private-data-1.jsonl", "private-data-2.zip"]),
        ),
        ({"source": "~/rows.ada", "data_files": "ada*.json"}, ("private-data", "private-data.json")),
        ({"source": f"org/rows@{COMMIT}", "data_files": ["ada.csv"]}, (f"org/rows@{COMMIT}", ["ada.csv"])),  # the Hub's own file
        ({"source": f"org/rows@{COMMIT}", "data_files": "https://a.b/c/rows.csv?token=ada"}, (f"org/rows@{COMMIT}", "rows.csv")),
    ],
)
def test_names_of_a_persons_files_and_folders_stay_at_home(dataset, shown):
    own = recipe(model="/data/ada", output_dir="/data/ada", dataset=dataset, approach="distillation", teacher="./ada")
    public = public_recipe(own)
    assert (public.dataset.source, public.dataset.data_files) == shown
    assert (public.model, public.teacher.source, public.output_dir) == ("local-model", "local-teacher", "./distilled_model")
    text = model_card(own, FACTS, SCORES, repo="somebody/model")
    assert "ada" not in text.replace("metadata", "").replace("ada.csv", "")
    assert "ward 3" not in text


def test_the_public_recipe_is_a_recipe(tmp_path):
    (tmp_path / "rows").mkdir()
    own = recipe(model=str(tmp_path), dataset={"source": str(tmp_path / "rows")}, output_dir="/data/ada/secret project/model")
    shown = public_recipe(own)
    assert Recipe.from_layers(yaml.safe_load(shown.to_yaml())) == shown
    assert "secret" not in shown.to_yaml()
    assert public_recipe(recipe()).dataset == recipe().dataset
    assert public_recipe(recipe(upload={"repo": "ada/letters"})).upload is None


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("builtin:python-docs", None),
        (f"org/data@{COMMIT}", "org/data"),
        (f"squad@{COMMIT}", "squad"),
        ("./rows.jsonl", None),
        ("data/*.csv", None),
        ("letters", None),
        ("org/data@main", None),
        (f"./letters@{COMMIT}", None),
    ],
)
def test_only_datasets_that_a_run_pinned_on_the_hub_are_named_in_the_metadata(source, named):
    assert hub_dataset(recipe(dataset={"source": source}).dataset) == named


def test_configs_lose_the_paths_of_this_machine():
    config = {"base_model_name_or_path": "/data/ada/.cache/models/base", "r": 16}
    assert json.loads(public_config(json.dumps(config), "org/base")) == {"base_model_name_or_path": "org/base", "r": 16}
    config = {"name_or_path": "/data/ada/model", "eos_token": "</s>"}
    assert json.loads(public_config(json.dumps(config), "org/base")) == {"name_or_path": None, "eos_token": "</s>"}
    nested = {"special_tokens_map_file": "/data/ada/map.json", "inner": [{"cache_file": "C:\\Users\\ada\\x.pt", "model_path": "org/model"}]}
    assert json.loads(public_config(json.dumps(nested), None)) == {
        "special_tokens_map_file": None,
        "inner": [{"cache_file": None, "model_path": "org/model"}],
    }


def test_the_use_section_asks_as_the_model_was_trained():
    chat = model_card(recipe(), FACTS, SCORES, repo="ada/letters")
    assert 'pipeline("text-generation", "ada/letters")' in chat
    assert 'prompt = [{"role": "user", "content": "what is cat?"}]' in chat
    assert 'prompt = "what is cat?\\n"' in model_card(recipe(), replace(NOTHING, data={**FACTS.data, "template": "plain"}), SCORES)
    assert "/" not in model_card(recipe(output_dir="/data/ada/model"), FACTS, {}).partition('"text-generation", ')[2].partition(")")[0]
    silent = model_card(recipe(), replace(FACTS, data={**FACTS.data, "prompt_options": {"enable_thinking": False}}), SCORES)
    assert "generate(prompt, max_new_tokens=64, tokenizer_encode_kwargs={'enable_thinking': False})" in silent
    assert "tokenizer_encode_kwargs" not in chat
    assert "generate(prompt, max_new_tokens=180)" in model_card(recipe(), NOTHING, {**SCORES, "max_new_tokens": 180}), (
        "as long as answers are"
    )


def test_the_use_section_asks_behind_the_system_prompt_that_all_rows_had():
    told = replace(FACTS, data={**FACTS.data, "system_prompt": "be short"})
    asked = {**SCORES, "generations": [{**row, "prompt": f"be short\n\n{row['prompt']}"} for row in SCORES["generations"]]}
    question = '{"role": "user", "content": "what is cat?"}]'
    assert f'prompt = [{{"role": "system", "content": "be short"}}, {question}' in model_card(recipe(), told, asked)
    joined = replace(told, data={**told.data, "noticed": {"system": 450}})
    assert 'prompt = [{"role": "user", "content": "be short\\n\\nwhat is cat?"}]' in model_card(recipe(), joined, asked)
    plain = replace(told, data={**told.data, "template": "plain"})
    assert 'prompt = "be short\\nwhat is cat?\\n"' in model_card(recipe(), plain, asked)


def test_a_system_prompt_of_private_rows_stays_at_home(tmp_path):
    (tmp_path / "rows.jsonl").write_text("")
    told = replace(FACTS, data={**FACTS.data, "system_prompt": "be short"})
    card = model_card(recipe(dataset={"source": str(tmp_path / "rows.jsonl")}), told, SCORES)
    assert "be short" not in card
    assert '[{"role": "system", "content": "THE SYSTEM PROMPT OF THE ROWS"}, {"role": "user"' in card


@pytest.mark.parametrize(("source", "shown"), [("builtin:python-docs", "add"), ("./rows.jsonl", "A TOOL OF THE ROWS")])
def test_the_use_section_gives_the_tools_that_all_rows_had_and_private_ones_stay_at_home(source, shown):
    tools = [{"type": "function", "function": {"name": "add"}}]
    card = model_card(recipe(dataset={"source": source}), replace(FACTS, data={**FACTS.data, "tools": tools}), SCORES)
    assert f", tools=[{{'type': 'function', 'function': {{'name': '{shown}'}}}}]" in card
    assert '[0]["generated_text"][-1])' in card
    assert ("'add'" in card) is (shown == "add")
    sees = {**FACTS.environment, "model": {"loads_with": "AutoModelForImageTextToText"}}
    told = {**FACTS.data, "tools": tools, "prompt_options": {"enable_thinking": False}}
    card = model_card(recipe(dataset={"source": source}), replace(FACTS, data=told, environment=sees), SCORES)
    assert "return_dict=True, enable_thinking=False, tools=[{'type': 'function', 'function': {'name': '" + shown in card


def test_a_teacher_that_was_fine_tuned_here_is_not_called_by_the_name_of_its_base(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base", "peft_type": "LORA"}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    own = recipe(approach="distillation", model={"from_teacher": {"layers": 10}}, teacher=str(tmp_path), method="full")
    text = model_card(own, NOTHING, SCORES)
    assert "distilled from a local fine-tuning of [org/base](https://huggingface.co/org/base)" in text
    assert str(tmp_path) not in text
