"""STEP 2: which rows, shown as the model will see them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import DatasetError
from finetune.recipe import DatasetSpec, Recipe
from finetune.wizard import suggest
from finetune.wizard.draft import Draft, ask_field, get, problem, put
from finetune.wizard.here import Here
from finetune.wizard.preview import fragments, look
from finetune.wizard.prompter import Choice, Prompter

if TYPE_CHECKING:
    from finetune.data.preview import Preview

BUILT_IN = "builtin:python-docs"
FILE, HUB = "a file", "the Hub"
MORE = """Files: .jsonl, .json, .csv, .tsv, .txt, .parquet. Columns are recognised by their names: text,
prompt and completion, instruction and output, question and answer, or chat messages."""


def ask(draft: Draft, prompter: Prompter, here: Here) -> Draft:
    """Source, columns if they are not plain from their names, number of rows."""
    prompter.step(2, "Dataset")
    draft = _source(draft, prompter, here)
    seen = _look(draft, prompter, here)
    if not isinstance(seen, DatasetError) and seen.problem:
        prompter.note([("class:warning", seen.problem)])
        draft = _columns(draft, prompter, seen.columns)
        seen = _look(draft, prompter, here)
    if isinstance(seen, DatasetError):
        prompter.note([("class:warning", f"{seen.message} {seen.hint or ''}".strip())])
    else:
        prompter.note(fragments(seen))
    return ask_field(draft, prompter, "dataset.samples", "Rows to use", help="A number, or: all")


def _look(draft: Draft, prompter: Prompter, here: Here) -> Preview | DatasetError:
    with prompter.busy("Reading the data"):
        return look(_spec(draft), here.runtime)


def _source(draft: Draft, prompter: Prompter, here: Here) -> Draft:
    default = get(draft, "dataset.source")
    offered = [Choice(BUILT_IN, "Python functions and what they do", "built in")]
    if default != BUILT_IN:
        offered.insert(0, Choice(default, default, get(draft, "dataset.config") or ""))
    offered += [Choice(path, path, "found in this folder") for path in _files_here() if path != default]
    offered += [
        Choice(FILE, "A file or folder", ".jsonl .json .csv .tsv .txt .parquet"),
        Choice(HUB, "A Hugging Face dataset", "by its name" if here.hub else "huggingface.co does not answer now"),
    ]
    picked = prompter.select("dataset.source", "Dataset", offered, default=default, more=MORE)
    if picked == default:
        return draft
    if picked == FILE:
        picked = prompter.text(
            "dataset.file",
            "File or folder",
            default="",
            validate=lambda text: _file_problem(text, here),
            help="Tab completes. For example data/train.jsonl",
            more=MORE,
            complete=suggest.paths,
        )
    elif picked == HUB:
        return _hub_dataset(draft, prompter)
    return _fresh(draft, source=picked)


def _hub_dataset(draft: Draft, prompter: Prompter) -> Draft:
    name = prompter.text(
        "dataset.name", "Dataset name", default="", validate=_hub_name_problem, help="For example HuggingFaceH4/no_robots or openai/gsm8k"
    )
    config = prompter.text("dataset.config", "Configuration", default="none", help="Only some datasets have one, such as gsm8k: main")
    draft = _fresh(draft, source=name, config=None if config == "none" else config)
    return ask_field(draft, prompter, "dataset.split", "Split", help="The part to train on.")


def _columns(draft: Draft, prompter: Prompter, names: list[str]) -> Draft:
    choices = [Choice(name, name) for name in names]
    whole = prompter.confirm("dataset.whole", "Is there a question and an answer in each row?", default=len(names) > 1)
    if not whole:
        column = prompter.select("dataset.columns.text", "Column with the text", choices, default=names[0])
        return put(draft, "dataset.columns", {"text": column})
    prompt = prompter.select("dataset.columns.prompt", "Column with the question", choices, default=names[0])
    rest = [choice for choice in choices if choice.value != prompt]
    completion = prompter.select("dataset.columns.completion", "Column with the answer", rest, default=rest[0].value)
    return put(draft, "dataset.columns", {"prompt": prompt, "completion": completion})


def _fresh(draft: Draft, source: str, config: str | None = None) -> Draft:
    """The draft with another dataset: what described the old one is gone, the person's number of rows stays."""
    kept = {key: value for key, value in draft.get("dataset", {}).items() if key in ("samples", "max_length", "held_out")}
    dataset = {**kept, "source": source}
    return {**draft, "dataset": {**dataset, "config": config} if config else dataset}


def _spec(draft: Draft) -> DatasetSpec:
    return Recipe.from_layers(draft).dataset


def _files_here() -> list[str]:
    """Data files lying in the working folder: the person probably came for them."""
    found = [path for path in sorted(Path().iterdir()) if path.suffix.lower() in (".jsonl", ".csv", ".tsv", ".parquet") and path.is_file()]
    return [str(path) for path in found[:3]]


def _file_problem(text: str, here: Here) -> str | None:
    if not text:
        return "Type the name of a file or folder."
    seen = look(DatasetSpec.model_validate({"source": text}), here.runtime)
    return seen.message if isinstance(seen, DatasetError) else None


def _hub_name_problem(text: str) -> str | None:
    if not text or any(space in text for space in " \t"):
        return "Type a dataset name such as openai/gsm8k."
    return problem({}, "dataset.source", text)
