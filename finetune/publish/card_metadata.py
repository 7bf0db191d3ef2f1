"""The metadata of a model card, in the Hub's words: what the model came from, its licence and language, and its scores.

front_matter(recipe, facts, scores, repo)["base_model"]      # "HuggingFaceTB/SmolLM2-135M-Instruct"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from finetune.benchmark.names import NAMES, TASK_SCORE, is_task
from finetune.foreign import read_small_yaml
from finetune.formatting import strip_control_chars
from finetune.hub.cache import cached
from finetune.hub.catalogue import CATALOGUE
from finetune.publish.redaction import base_model, base_revision, hub_dataset, public_source
from finetune.publish.run_facts import RunFacts
from finetune.recipe import Recipe

PROJECT = "finetune-cli"

# Licences of teachers that also bind models trained on their outputs.
FORBIDS = "their outputs may not be used to improve any language model but theirs"
MUST_NAME = 'a model that is trained on their outputs and passed on must have a name that begins with Llama, and say "Built with Llama"'
DERIVES = "a model that is trained on their outputs counts as a derivative, and the same terms and restrictions go with it"

# By the Hub's names of licences; the words are those of the licences (Llama 2 and 3: 1.b.v; Llama 3.1 and later: 1.b.i; Gemma: 1.1.e).
COVERED = {"llama2": FORBIDS, "llama3": FORBIDS, "gemma": DERIVES}
COVERED |= dict.fromkeys(("llama3.1", "llama3.2", "llama3.3", "llama4"), MUST_NAME)


def safe(value: Any) -> Any:
    """Metadata without control characters."""
    if isinstance(value, dict):
        return {safe(key): safe(each) for key, each in value.items()}
    if isinstance(value, list):
        return [safe(each) for each in value]
    return strip_control_chars(value) if isinstance(value, str) else value


def front_matter(recipe: Recipe, facts: RunFacts, scores: Mapping[str, Any], repo: str | None = None) -> dict[str, Any]:
    """The Hub's metadata: only ids that others can look up, and the licence and language of the base model."""
    base, dataset = base_model(recipe, facts.continued), hub_dataset(recipe.dataset)
    inherited = _inherited(base, None if facts.continued else base_revision(recipe))
    kind = "distillation" if recipe.approach == "distillation" else recipe.method.model_dump()["kind"]
    fields: dict[str, Any] = {
        **{key: inherited.get(key) for key in ("license", "license_name", "license_link", "language")},
        "library_name": "peft" if facts.adapter else "transformers",
        "pipeline_tag": "text-generation",
        "base_model": base,
        "base_model_relation": facts.relation if base else None,
        "datasets": [dataset] if dataset else None,
        "tags": [PROJECT, kind],
        "model-index": _model_index(recipe, scores, repo) if scores else None,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _inherited(base: str | None, revision: str | None) -> dict[str, Any]:
    """Licence and language from the base model's own card in the Hub's cache, else the licence from the catalogue."""
    folder = (cached(base, revision) or cached(base, None)) if base else None
    card = folder / "README.md" if folder else None
    if card is not None and card.is_file():
        text = card.read_text(encoding="utf-8", errors="replace")
        try:
            found = read_small_yaml(text.split("---\n")[1]) if text.startswith("---\n") and text.count("---\n") > 1 else None
        except (yaml.YAMLError, ValueError, TypeError, RecursionError):
            found = None  # not our card, and not valid: nothing can be inherited from it
        if isinstance(found, dict):
            return found
    return next(({"license": entry.licence} for entry in CATALOGUE if entry.id == base), {})


def _model_index(recipe: Recipe, scores: Mapping[str, Any], repo: str | None) -> list[dict[str, Any]]:
    """The scores on the held-out rows, and those of each task of lm-evaluation-harness as a result of its own."""
    groups = {_evaluated_on(recipe)["name"]: (_evaluated_on(recipe), [key for key in scores["after"] if not is_task(key)])}
    for key in filter(is_task, scores["after"]):
        task = key.partition(TASK_SCORE)[0]
        groups.setdefault(task, ({"name": task, "type": task}, []))[1].append(key)
    task = {"type": "text-generation", "name": "Text generation"}
    results = [{"task": task, "dataset": dataset, "metrics": _metrics(scores, keys)} for dataset, keys in groups.values()]
    return [{"name": title_of(recipe, repo), "results": results}]


def _metrics(scores: Mapping[str, Any], keys: Sequence[str]) -> list[dict[str, Any]]:
    metrics = []
    for key in keys:
        name = key.partition(TASK_SCORE)[2] if is_task(key) else NAMES.get(key, key)
        kind = "rouge" if key.startswith("rouge") else "exact_match" if key == "last_number" else key.rpartition(TASK_SCORE)[2]
        metrics.append({"type": kind, "name": name, "value": round(scores["after"][key], 4)})
        if key in scores["before"]:
            metrics.append({"type": kind, "name": f"{name} before training", "value": round(scores["before"][key], 4)})
    return metrics


def _evaluated_on(recipe: Recipe) -> dict[str, str]:
    spec, dataset = recipe.dataset, hub_dataset(recipe.dataset)
    if dataset:
        named = {"name": f"{dataset}, held-out rows", "type": dataset, "split": spec.eval_split or spec.split}
        return named | ({"config": spec.config} if spec.config else {})
    name = public_source(spec) or "private data"
    return {"name": f"{name}, held-out rows", "type": name.replace(" ", "-")}


def title_of(recipe: Recipe, repo: str | None) -> str:
    return repo.partition("/")[2] or repo if repo else Path(recipe.output_dir.replace("\\", "/")).name or "model"


def covers(licence: str | None) -> str | None:
    """What the licence says of models that learned from its model's outputs, as a clause; None where it says nothing."""
    return COVERED.get(licence or "")
