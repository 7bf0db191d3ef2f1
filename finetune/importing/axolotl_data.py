"""Axolotl's `datasets`: where the rows are, and what its types say about their columns.

list(datasets({}, "datasets", [{"path": "org/rows", "type": "alpaca"}]))
# datasets[0].path: dataset.source, datasets[0].type: columns that are recognised by their names
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.data.endings import can_be_read
from finetune.data.formats.beside import SYSTEM
from finetune.data.formats.cells import find_column
from finetune.data.formats.tools import COLUMNS as TOOLS
from finetune.data.formats.turns import REASONING, ROLES, SPEAKER, TEXT
from finetune.importing.lines import MAPPED, MISSING, SAME, Config, Line, Rule, is_off, missing, same, sets, shown

OWN_TEMPLATE = "written with the model's chat template, not as Axolotl words it"
LOADERS = ("json", "csv", "parquet", "arrow", "text")  # as `path`, with the files under `data_files`
ELSEWHERE = ("s3://", "gs://", "gcs://", "az://", "abfs://", "oci://", "http://", "https://")


@dataclass(frozen=True)
class Shape:
    """What a type reads: the columns it expects, and those that a recipe has to name because their names do not say it."""

    reads: tuple[str, ...]
    columns: Mapping[str, str] | None = None


def _shape(reads: str, **columns: str) -> Shape:
    return Shape(tuple(reads.split()), columns or None)


_ORCA = _shape("system_prompt question response", prompt="question", completion="response")
TYPES: dict[str, Shape] = {
    "alpaca": _shape("instruction input output"),
    "gpteacher": _shape("instruction input response"),
    **dict.fromkeys(("alpaca_chat", "alpaca_chat.load_concise", "alpaca_chat.load_no_prompt"), _shape("instruction input output")),
    **dict.fromkeys(("alpaca_instruct", "alpaca_instruct.load_no_prompt"), _shape("instruction input output")),
    "alpaca_chat.load_qa": _shape("question answer"),
    "alpaca_chat.load_camel_ai": _shape("message_1 message_2", prompt="message_1", completion="message_2"),
    **dict.fromkeys(("alpaca_w_system.load_open_orca", "alpaca_w_system.load_open_orca_chatml"), _ORCA),
    **dict.fromkeys(
        ("alpaca_w_system", "alpaca_w_system.load_chat", "alpaca_w_system.load_instruct"), _shape("system instruction input output")
    ),
    "oasst": _shape("INSTRUCTION RESPONSE"),
    "jeopardy": _shape("question category answer"),
    "summarizetldr": _shape("article summary"),
    "context_qa.load_v2": _shape("context question answer"),
    "chat_template": _shape("messages", messages="messages"),
    "sharegpt": _shape("conversations", messages="conversations"),
    "pygmalion": _shape("conversations", messages="conversations"),
    "completion": _shape("text", text="text"),
    "pretrain": _shape("text", text="text"),
}
CHATS = ("chat_template", "sharegpt", "pygmalion")


def datasets(config: Config, name: str, value: Any) -> Iterator[Line]:
    """The first dataset in full; of the others only files of the same kind, whose names stand after the first's."""
    entries = [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []
    if not entries:
        yield Line(name, MISSING, "it names no dataset: --set dataset.source=FILE")
        return
    first, *others = entries
    for key, part in first.items():
        if part is not None:
            yield from ENTRY.get(str(key), missing("not a key of a dataset that is known here"))(first, f"{name}[0].{key}", part)
    if first.get("type") is None:
        yield from _type(first, f"{name}[0].type", None)
    yield Line(f"{name}[0]", MAPPED, "all rows", {"dataset.samples": None})
    paths = [_source(first)]
    for number, entry in enumerate(others, start=1):
        alike = {key: part for key, part in entry.items() if key != "path"} == {key: part for key, part in first.items() if key != "path"}
        if alike and can_be_read(str(_source(entry))) and can_be_read(str(paths[0])):
            paths.append(_source(entry))
            yield Line(f"{name}[{number}].path", MAPPED, "after the first", {"dataset.source": ", ".join(paths)})
        else:
            instead = "a run reads one dataset of the Hub, or several files of the same kind with commas between them"
            yield Line(f"{name}[{number}] ({shown(entry.get('path'))})", MISSING, instead)


def pretraining(config: Config, name: str, value: Any) -> Iterator[Line]:
    """A dataset of plain text, which Axolotl streams for `max_steps` steps."""
    entries = value if isinstance(value, list) else [value]
    text = [{"path": entry} if isinstance(entry, str) else dict(entry) for entry in entries if isinstance(entry, str | Mapping)]
    for entry in text:
        entry.setdefault("type", "pretrain")
    for line in datasets(config, name, text):
        if "dataset.samples" not in line.keys:
            yield line
    yield Line(name, MISSING, "streamed there for max_steps steps; here the first rows are read: --set dataset.samples=1000 is the default")


def test_datasets(config: Config, name: str, value: Any) -> Iterator[Line]:
    """Another split of the same dataset can be measured on."""
    entries = value if isinstance(value, list) else []
    trained: Any = (config.get("datasets") or [{}])[0] if isinstance(config.get("datasets"), list) else {}
    for number, entry in enumerate(entries):
        key = f"{name}[{number}]"
        mine, theirs = (_source(each) if isinstance(each, Mapping) else None for each in (entry, trained))
        split = entry.get("split") if isinstance(entry, Mapping) else None
        if number == 0 and mine == theirs and split and split != trained.get("split", "train"):
            yield Line(f"{key}.split", MAPPED, keys={"dataset.eval_split": str(split)})
        else:
            yield Line(key, MISSING, "a run is measured on held-out rows, or on another split of the same data: `dataset.eval_split`")


def _source(entry: Mapping[str, Any]) -> str:
    """What a recipe calls it: a Hub id with its revision, or files."""
    path, files = str(entry.get("path", "")), entry.get("data_files")
    if path in LOADERS and files:
        return ", ".join(map(str, files)) if isinstance(files, list) else str(files)
    return f"{path}@{entry['revision']}" if entry.get("revision") and not can_be_read(path) else path


def _path(entry: Config, name: str, value: Any) -> Iterator[Line]:
    if str(value).startswith(ELSEWHERE):
        yield Line(name, MISSING, "copy the files to this machine and name them as `dataset.source`", {"dataset.source": _source(entry)})
    else:
        yield Line(name, MAPPED, keys={"dataset.source": _source(entry)})


def _data_files(entry: Config, name: str, value: Any) -> Iterator[Line]:
    if str(entry.get("path")) in LOADERS:
        yield Line(name, MAPPED, keys={"dataset.source": _source(entry)})
    else:
        yield Line(name, MAPPED, keys={"dataset.data_files": [str(file) for file in value] if isinstance(value, list) else str(value)})


def _type(entry: Config, name: str, value: Any) -> Iterator[Line]:
    """Columns, as far as their names do not tell them."""
    if isinstance(value, Mapping):
        yield from _own_type(value, name)
        return
    if is_off(value):
        yield Line(name, SAME, "rows that are tokens already are used as they are")
        return
    called, _, after = str(value).partition(":")
    shape = TYPES.get(called)  # with its loader: other loaders of one type read other columns
    if shape is None:
        known = ", ".join(dict.fromkeys(each.partition(".")[0] for each in TYPES))
        yield Line(name, MISSING, f"{shown(value)} is not known; columns are found by their names, or named in `dataset.columns` ({known})")
        return
    columns = dict(shape.columns or {})
    if "text" in columns:
        columns["text"] = str(entry.get("field") or entry.get("text_column") or after or columns["text"])
    elif "messages" in columns:
        columns["messages"] = str(entry.get("field_messages") or columns["messages"])
    said = OWN_TEMPLATE if not columns.keys() & {"messages", "text"} else ""
    if columns:
        yield Line(name, MAPPED, said, {f"dataset.columns.{part}": column for part, column in columns.items()})
    else:
        yield Line(name, SAME, f"{', '.join(shape.reads)} are found by their names; rows are {OWN_TEMPLATE}")


def _own_type(value: Mapping[str, Any], name: str) -> Iterator[Line]:
    """A type of the file's own: which columns are what, and how they are written."""
    prompt, answer = (str(value.get(key) or usual) for key, usual in (("field_instruction", "instruction"), ("field_output", "output")))
    given = value.get("field_input")
    whole = prompt == "instruction" and answer == "output" and given in (None, "", "input")
    if whole:
        yield Line(f"{name}.field_instruction", SAME, "instruction, input and output are found by their names")
    else:
        columns = {"dataset.columns.prompt": prompt, "dataset.columns.completion": answer}
        yield Line(f"{name}.field_instruction, field_output", MAPPED, keys=columns)
        if given:
            yield Line(f"{name}.field_input", MISSING, f"a prompt is one column: put {shown(given)} into {shown(prompt)}")
    for key, part in value.items():
        if key in ("field_instruction", "field_output", "field_input") or is_off(part):
            continue
        if key == "field_system":
            found = find_column([str(part)], *SYSTEM)
            yield Line(f"{name}.{key}", *_renamed(found, "system"))
        elif str(part).strip() in ("{instruction}", "{system}"):
            yield Line(f"{name}.{key}", SAME, "prompts are written as they are, inside the model's chat template")
        else:
            yield Line(
                f"{name}.{key}", MISSING, "prompts are written as they are, inside the model's chat template: put such words into the data"
            )


def _renamed(found: Any, wanted: str) -> tuple[str, str]:
    return (SAME, "found by its name") if found else (MISSING, f"rename the column to {wanted}")


def _one_of(wanted: Sequence[str]) -> Rule:
    def rule(entry: Config, name: str, value: Any) -> Iterator[Line]:
        yield Line(name, *_renamed(find_column([str(value)], *wanted), wanted[0]))

    return rule


def _properties(entry: Config, name: str, value: Any) -> Iterator[Line]:
    known = {"role": SPEAKER, "content": TEXT, "reasoning_content": REASONING, "tool_calls": ("tool_calls",), "weight": ("weight",)}
    for part, theirs in value.items() if isinstance(value, Mapping) else ():
        yield Line(f"{name}.{part}", *_renamed(find_column([str(theirs)], *known.get(part, ())), str(part)))


def _roles(entry: Config, name: str, value: Any) -> Iterator[Line]:
    for role, spellings in value.items() if isinstance(value, Mapping) else ():
        each = spellings if isinstance(spellings, list) else [spellings]
        others = [str(word) for word in each if str(word) != role and ROLES.get(str(word)) != role]
        if others:
            yield Line(f"{name}.{role}", MISSING, f"{', '.join(map(shown, others))} does not say {role} here: rename it in the data")
        else:
            yield Line(f"{name}.{role}", SAME, "these roles are known")


def _only_assistant(entry: Config, name: str, value: Any) -> Iterator[Line]:
    said = {str(role) for role in (value if isinstance(value, list) else [value])}
    if said <= {"assistant", "gpt"}:
        yield Line(name, SAME, "only answers are learned")
    else:
        yield Line(name, MISSING, "only answers are learned, no turns of others")


def _eos(entry: Config, name: str, value: Any) -> Iterator[Line]:
    if value == "turn":
        yield Line(name, SAME, "the end of each learned answer is learned with it")
    else:
        yield Line(name, MISSING, "the end of each learned answer is learned with it, no other")


_READ_WITH_TYPE = same("read with the type")
ENTRY: dict[str, Rule] = {
    "path": _path,
    "name": sets("dataset.config", str),
    "split": sets("dataset.split", str),
    "data_files": _data_files,
    "type": _type,
    "revision": same("it follows the name of the dataset, after an @"),
    "ds_type": same("the file name says what kind of file it is"),
    **dict.fromkeys(("field", "text_column", "field_messages"), _READ_WITH_TYPE),
    "message_property_mappings": _properties,
    "message_field_role": _one_of(SPEAKER),
    "message_field_content": _one_of(TEXT),
    "message_field_training": same("turns with a flag such as train, weight or loss are learned or not as it says"),
    "message_field_training_detail": missing("whole turns are learned or not; rows with parts of turns marked are left out"),
    "field_tools": _one_of(TOOLS),
    "field_thinking": _one_of(REASONING),
    "template_thinking_key": same("the model's chat template decides where reasoning goes"),
    "split_thinking": same("reasoning in an answer is recognised by its tags"),
    "roles": _roles,
    "roles_to_train": _only_assistant,
    "train_on_eos": _eos,
    "train_on_eot": _eos,
    "conversation": missing("the model's own chat template is used"),
    "chat_template": same("the model's own chat template is used; a model without one gets a plain one"),
    "chat_template_jinja": missing("the model's own chat template is used"),
    "drop_system_message": missing("leave system texts out of the data"),
    "trust_remote_code": missing("no code of a dataset is run"),
    **dict.fromkeys(("shards", "shards_idx", "preprocess_shards", "skip"), missing("limit rows with `dataset.samples`")),
    **dict.fromkeys(("input_format", "input_transform"), missing("change the data instead")),
}
