"""LLaMA-Factory's datasets: names in dataset_info.json, which says where the rows are and what their columns mean.

{"tickets": {"file_name": "tickets.jsonl", "columns": {"prompt": "question", "response": "reply"}}}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune.data.formats.beside import HISTORY, SYSTEM
from finetune.data.formats.cells import find_column
from finetune.data.formats.tools import COLUMNS as TOOLS
from finetune.data.formats.turns import ROLES, SPEAKER, TEXT
from finetune.errors import RecipeError
from finetune.foreign import reading
from finetune.importing.lines import MAPPED, MISSING, SAME, UNKNOWN, Config, Line, Refused, Rule, converted, is_off, shown, whole

DESCRIBED = "dataset_info.json"  # the key under which the descriptions are put beside the configuration
FOLDER = "dataset_dir"
LARGEST = 20_000_000  # bytes of such a file; LLaMA-Factory's own has 20,000
BESIDE = {"system": SYSTEM, "tools": TOOLS, "history": HISTORY}  # columns that are found by their names alone
MEDIA = ("images", "videos", "audios")
WHERE = ("file_name", "file_sha1", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name", FOLDER)
READ = {  # what is read of a description, by where it stands
    "": (*WHERE, "formatting", "ranking", "subset", "split", "folder", "num_samples", "columns", "tags"),
    "columns": ("prompt", "query", "response", "messages", "chosen", "rejected", "kto_tag", *BESIDE, *MEDIA),
}
USUAL = {"prompt": "instruction", "query": "input", "response": "output"}
TAGS = {"role_tag": SPEAKER, "content_tag": TEXT}
SPOKEN = {"user_tag": "user", "assistant_tag": "assistant", "system_tag": "system", "observation_tag": "tool", "function_tag": "assistant"}
ROLES_THERE = {"human", "gpt", "observation", "function_call", "system", *ROLES}


def named(value: Any) -> list[str]:
    """The names of a list, or with commas between them."""
    parts = value if isinstance(value, list) else str(value or "").split(",")
    return [str(part).strip() for part in parts if str(part).strip()]


def descriptions(config: Config, folder: Path) -> Mapping[str, Any] | None:
    """What dataset_info.json says, from here or next to the configuration; None where it is not. Raises RecipeError for a broken one."""
    where = str(config.get(FOLDER) or "data")
    for place in (Path(where), folder / where):
        file = place / DESCRIBED
        if not file.is_file():
            continue
        with reading(file, RecipeError, hint="It describes datasets for LLaMA-Factory, as JSON."):
            if file.stat().st_size > LARGEST:
                raise RecipeError(f"{file} is too large to be a description of datasets.", hint="Correct `dataset_dir`.")
            found = json.loads(file.read_text(encoding="utf-8"))
        return {str(name): {**entry, FOLDER: str(place)} for name, entry in found.items() if isinstance(entry, dict)}
    return None


def describe(key: str) -> Rule:
    """The rule of `dataset`, or of `eval_dataset`, which can only be another split of it."""
    return _training if key == "dataset" else _evaluation


def _training(config: Config, name: str, value: Any) -> Iterator[Line]:
    """The first dataset in full, and files of the same description after it."""
    told, names = config.get(DESCRIBED), named(value)
    if not names:
        yield Line(name, MISSING, "it names no dataset: --set dataset.source=FILE")
        return
    first, together = _entry(told, names[0], config), read_together(config)
    if first is None or not together:
        listed = f"{', '.join(map(shown, names))} {'is a name' if len(names) == 1 else 'are names'} of datasets there"
        instead = f"{DESCRIBED} does not say here where the rows are: --set dataset.source=FILE or a Hub id"
        yield Line(name, MISSING, f"{listed}, and {instead}", {"dataset.source": names[0]})
        return
    for other in names:
        if other not in together:
            yield Line(f"{name} ({shown(other)})", MISSING, "a run reads one dataset of the Hub, or several files with the same columns")
    yield Line(name, MAPPED, f"as {DESCRIBED} says", {"dataset.source": ", ".join(together.values())})
    yield from _details(f"{DESCRIBED} of {shown(names[0])}", first, config)


def read_together(config: Config) -> dict[str, str]:
    """Name and source of the first dataset, and of files of the same description after it; none where the first is not known."""
    found: dict[str, str] = {}
    first: Mapping[str, Any] = {}
    for name in named(config.get("dataset")):
        entry = _entry(config.get(DESCRIBED), name, config)
        source = _source(entry)
        if entry is None or source is None:
            if not found:
                break
        elif not found or (_kind(entry) == _kind(first) and "file_name" in entry and "file_name" in first):
            first = first or entry
            found[name] = source
    return found


def _evaluation(config: Config, name: str, value: Any) -> Iterator[Line]:
    told, trained = config.get(DESCRIBED), named(config.get("dataset"))
    mine = _entry(told, named(value)[0], config) if named(value) else None
    theirs = _entry(told, trained[0], config) if trained else None
    if mine and theirs and len(named(value)) == 1 and _source(mine) == _source(theirs) and mine.get("split"):
        yield Line(name, MAPPED, keys={"dataset.eval_split": str(mine["split"])})
    elif not trained:
        raise Refused(f"`{name}` without `dataset` is not a training run.", hint="Here that is: finetune-cli benchmark OUTPUT_DIR")
    else:
        yield Line(name, MISSING, "a run is measured on held-out rows, or on another split of the same data: `dataset.eval_split`")


def _entry(told: Any, name: str, config: Config) -> Mapping[str, Any] | None:
    """A description; without any file of them a name is what the Hub calls it, where the configuration says so."""
    if config.get(FOLDER) == "ONLINE":
        return {"hf_hub_url": name}
    found = told.get(name) if isinstance(told, Mapping) else None
    return found if isinstance(found, Mapping) else None


def _source(entry: Mapping[str, Any] | None) -> str | None:
    """A Hub id, or a path; None where the rows are somewhere else."""
    if entry is None:
        return None
    if entry.get("hf_hub_url"):
        return str(entry["hf_hub_url"])
    if entry.get("file_name") and not entry.get("script_url"):
        return str(Path(str(entry.get(FOLDER, ""))) / str(entry["file_name"]))
    return None


def _kind(entry: Mapping[str, Any]) -> Any:
    return entry.get("formatting", "alpaca"), entry.get("columns"), entry.get("tags")


def _details(name: str, entry: Mapping[str, Any], config: Config) -> Iterator[Line]:
    """What else a description says: configuration, split, columns, roles."""
    if entry.get("ranking"):
        raise Refused(
            f"{name} is a dataset of preferences (ranking: true), and this program does not learn from preferences.",
            hint="To learn the chosen answers alone, leave `ranking` out: columns called chosen and rejected are recognised.",
        )
    for part, read in READ.items():
        there = entry.get(part) if part else entry
        for key in there if isinstance(there, Mapping) else ():
            if key not in read:
                yield Line(f"{name}: {shown(key)}", UNKNOWN)
    for key, wanted in (("subset", "dataset.config"), ("split", "dataset.split")):
        if entry.get(key):
            yield Line(f"{name}: {key}", MAPPED, keys={wanted: str(entry[key])})
    if entry.get("folder"):
        yield Line(f"{name}: folder", MAPPED, keys={"dataset.data_files": f"{entry['folder']}/*"})
    if entry.get("num_samples") and is_off(config.get("max_samples")):
        yield Line(f"{name}: num_samples", MAPPED, keys={"dataset.samples": converted("num_samples", entry["num_samples"], whole)})
    columns = entry.get("columns")
    columns = dict(columns) if isinstance(columns, Mapping) else {}
    yield from _media(name, columns)
    if entry.get("formatting", "alpaca") == "alpaca":
        yield from _alpaca(name, columns, plain=config.get("stage") == "pt")
    else:
        yield Line(f"{name}: messages", MAPPED, keys={"dataset.columns.messages": str(columns.get("messages") or "conversations")})
        tags = entry.get("tags")
        yield from _tags(name, tags if isinstance(tags, Mapping) else {})
    for part, known in BESIDE.items():
        if column := columns.get(part):
            found = find_column([str(column)], *known)
            yield Line(f"{name}: {part}", SAME if found else MISSING, "found by its name" if found else f"rename the column to {part}")


def _alpaca(name: str, columns: Mapping[str, Any], *, plain: bool) -> Iterator[Line]:
    if plain:
        yield Line(
            f"{name}: prompt",
            MAPPED,
            keys={"dataset.columns.text": str(columns.get("prompt") or (not columns and USUAL["prompt"]) or "text")},
        )
        return
    read = columns or USUAL  # a description without columns has the usual ones
    parts = {part: str(read.get(part) or "") for part in USUAL}
    if all(column in ("", USUAL[part]) for part, column in parts.items()):
        yield Line(f"{name}: columns", SAME, "instruction, input and output are found by their names")
        return
    prompt, answer = parts["prompt"] or USUAL["prompt"], parts["response"] or USUAL["response"]
    yield Line(f"{name}: columns", MAPPED, keys={"dataset.columns.prompt": prompt, "dataset.columns.completion": answer})
    if parts["query"]:
        yield Line(f"{name}: query", MISSING, f"a prompt is one column: put {shown(parts['query'])} into {shown(prompt)}")


def _tags(name: str, tags: Mapping[str, Any]) -> Iterator[Line]:
    for tag, value in tags.items():
        known = find_column([str(value)], *TAGS[tag]) is not None if tag in TAGS else str(value) in ROLES_THERE
        said = (
            "these words are known"
            if known
            else f"{shown(value)} is not known as {SPOKEN.get(str(tag), 'such a word')}: rename it in the data"
        )
        yield Line(f"{name}: {tag}", SAME if known else MISSING, said)


def _media(name: str, columns: dict[str, Any]) -> Iterator[Line]:
    for part in MEDIA:
        if columns.get(part):
            yield Line(f"{name}: {part}", MISSING, "the text part of a model trains; rows with pictures or sound are left out")
    if columns.get("kto_tag"):
        yield Line(f"{name}: kto_tag", MISSING, "rows that are marked as undesired are left out, where the column is called kto_tag")
