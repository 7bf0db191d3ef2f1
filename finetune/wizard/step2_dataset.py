"""STEP 2: which dataset, shown as the model will see it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.endings import KINDS, ending_of, is_record_file, is_zip
from finetune.data.files import find_files, looks_local, named_files, nearest_name
from finetune.data.formats import asked_and_answered, parts, wordy
from finetune.data.formats.text import other_reading
from finetune.data.formats.turns import are_texts
from finetune.errors import DatasetError, RecipeError
from finetune.formatting import strip_control_chars
from finetune.recipe import DatasetSpec, Recipe
from finetune.recipe.settings import GENERATED, TEACHER
from finetune.system.paths import typed_path
from finetune.wizard.asking import suggest
from finetune.wizard.asking.dropped import dropped
from finetune.wizard.asking.layout import beginning
from finetune.wizard.asking.prompter import Choice, Prompter
from finetune.wizard.defaults import with_epochs
from finetune.wizard.draft import Draft, ask_field, get, has_writer, parsed, put, written_by_teacher
from finetune.wizard.error_words import spoken_hint
from finetune.wizard.host import HostInfo
from finetune.wizard.rows import hub_dataset, known_readings, text_encoding, writer
from finetune.wizard.rows.data_preview import Rows, fragments, look, rows_of

if TYPE_CHECKING:
    from finetune.data.preview import Preview

BUILT_IN = "builtin:python-docs"
FILE, HUB = "a file", "the Hub"
RIGHT, WRITTEN, SWAP, PAIR, RAW, COLUMNS, ENCODING = "yes", "written", "swap", "pair", "raw", "columns", "encoding"
TEXT_AS = {"auto": "No: split it between paragraphs", "line": "No: each line is a row", "document": "No: each file is a row"}
ROWS_WRITTEN = "300"  # a few minutes with the starter on two cores
MORE_TOPIC = (
    "The model that writes invents prompts on this topic, and then answers them. Rows that do not end, repeat themselves or are all alike "
    "are thrown away and counted.\n"
    "A file with a dozen rows of your own shows it better what you want: name it among the advanced settings."
)
MOST_CORRECTIONS = 9
WHOLE = "Does each row have a prompt (question) and a completion (answer)?"
LONGEST_NOTE = 40  # columns of the screen for a value beside the name of its column
MORE_READING = (
    "Above is one of your rows. What is marked is the answer that a model learns to give, and the rest is what it is given. "
    "If columns or text encoding are wrong, say so here."
)
MORE_WRITTEN = (
    "A better model answers your prompts before the training begins, and these answers are learned. If your data have answers in another "
    "column, say no, and name it."
)
MORE = (
    f"Files: {', '.join(KINDS)}, also compressed; separate several with commas.\n"
    "Columns are recognised by their names: text, prompt and completion, instruction and output, question and answer, or chat messages.\n"
    "Without data, or with prompts alone: a better model, here or on a server, can write the rows or the answers."
)


def ask(draft: Draft, prompter: Prompter, here: HostInfo) -> Draft:
    """Source, columns if their names do not tell, number of rows."""
    prompter.step(2, "Dataset")
    draft = _source(draft, prompter, here)
    if get(draft, "dataset.source") == GENERATED:
        return with_epochs(_written(draft, prompter))
    draft = _as_last_time(draft, prompter, here)
    draft = _read_right(draft, prompter, here)
    with prompter.busy("Counting the rows"):
        rows = rows_of(Recipe.from_layers(draft).dataset, here.runtime)
    return with_epochs(_rows_to_use(draft, prompter, rows))


def _written(draft: Draft, prompter: Prompter) -> Draft:
    """What the teacher is to write about, and how many rows."""
    draft = ask_field(draft, prompter, "dataset.topic", help="A few words or a sentence.", more=MORE_TOPIC)
    usual = None if "samples" in draft["dataset"] else ROWS_WRITTEN
    return ask_field(draft, prompter, "dataset.samples", help="Each takes a second or less to write with a small model.", default=usual)


def _rows_to_use(draft: Draft, prompter: Prompter, rows: Rows | None) -> Draft:
    """How many rows, out of those that the data have."""
    source = strip_control_chars(Path(get(draft, "dataset.source")).name)
    usual, default, help = get(draft, "dataset.samples"), None, "A number, or: all"
    if rows is not None:
        help = f"{source} has {rows}. {help}"
        if rows.exact:
            default = str(rows.number) if usual is None or usual >= rows.number else None

    def check(text: str) -> str | None:
        if rows is not None and rows.exact and text != "all" and parsed(draft, "dataset.samples", text) > rows.number:
            return f"{source} has {rows}: type a number up to {rows.number}, or: all."
        return None

    return ask_field(draft, prompter, "dataset.samples", help=help, default=default, check=check)


def _as_last_time(draft: Draft, prompter: Prompter, here: HostInfo) -> Draft:
    """The columns, text and encoding that were named for this file before, if the file still has them."""
    known = known_readings.recall(get(draft, "dataset.source"))
    if not known or any(key in draft["dataset"] for key in known):
        return draft
    try:
        read = draft
        for key, value in known.items():
            read = put(read, f"dataset.{key}", value)
        seen = look(Recipe.from_layers(read).dataset, here.runtime)
    except RecipeError:
        return draft  # of another version
    if isinstance(seen, DatasetError) or seen.problem:
        return draft
    prompter.note([("class:quiet", "Read as you said the last time.")])
    return read


def _read_right(draft: Draft, prompter: Prompter, here: HostInfo) -> Draft:
    """Show how the data are read until the person agrees; the built-in data need no agreement."""
    for again in range(MOST_CORRECTIONS):
        number = f"-{again + 1}" if again else ""  # each question is its own, for going back
        with prompter.busy("Reading the data"):
            seen = look(Recipe.from_layers(draft).dataset, here.runtime)
        if isinstance(seen, DatasetError) or seen.problem:
            letters = text_encoding.is_wrong(seen)
            told = f"{seen.message} {'' if letters else spoken_hint(seen)}" if isinstance(seen, DatasetError) else str(seen.problem)
            prompter.note([("class:warning", told.strip())])
            if letters:
                draft = text_encoding.ask(draft, prompter, number)
                continue
            if asked := _to_be_answered(draft, here):
                alone = isinstance(seen, DatasetError) or len(seen.columns) == 1  # otherwise the answers may be in another column
                if prompter.confirm(f"dataset.written{number}", "Shall a model write the answers?", default=alone, more=MORE_WRITTEN):
                    return writer.ask(asked, prompter, here)
            if isinstance(seen, DatasetError):
                return draft
            draft = _columns(draft, prompter, seen, number)
            continue
        prompter.note(fragments(seen, distilling=draft["approach"] == "distillation"))
        if get(draft, "dataset.source") == BUILT_IN:
            return draft
        answer = prompter.select(f"dataset.reading{number}", "Is this right?", _readings(draft, seen), default=RIGHT, more=MORE_READING)
        if answer in (RIGHT, WRITTEN):
            known_readings.remember(get(draft, "dataset.source"), draft["dataset"])
            return writer.ask(put(draft, "dataset.answers", TEACHER), prompter, here) if answer == WRITTEN else draft
        draft = _corrected(draft, prompter, seen, answer, number)
    return draft


def _to_be_answered(draft: Draft, here: HostInfo) -> Draft | None:
    """The draft with answers that a model writes, if its rows are prompts and there can be such a model."""
    if draft["approach"] == "distillation" and not has_writer(draft):
        return None
    asked = put(draft, "dataset.answers", TEACHER)
    seen = look(Recipe.from_layers(asked).dataset, here.runtime)
    return None if isinstance(seen, DatasetError) or seen.problem else asked


def _readings(draft: Draft, seen: Preview) -> list[Choice]:
    """Yes, and whatever else these data could be."""
    choices = [Choice(RIGHT, "Yes")]
    if seen.format == "rendered":
        choices.append(Choice(RAW, "No: learn the text as it is", "markers and questions too"))
    if seen.prose:
        now = get(draft, "dataset.text_as")
        choices += [Choice(way, title) for way, title in TEXT_AS.items() if way != now]
    else:
        if len(seen.used_columns) == 2 and seen.format not in ("messages", "rendered", "text", "tokenized"):
            asked, answered = map(strip_control_chars, seen.used_columns)
            # Its value says what it leads to: an answer that is remembered must not turn round what was turned round already.
            value = f"{SWAP} to {answered}, {asked}" if get(draft, "dataset.columns") else SWAP
            choices.append(Choice(value, f"No: swap prompt and completion (learn {asked} from {answered})"))
        if seen.format == "text" and (pair := other_reading(seen.columns, seen.used_columns[0])):  # a weight may be beside it
            prompt, completion = map(strip_control_chars, pair)
            choices.append(Choice(PAIR, f"No: learn {completion} from {prompt}"))
        if len(seen.columns) > 1:
            choices.append(Choice(COLUMNS, "No: choose the columns", f"there are {len(seen.columns)}"))
        if draft["approach"] == "fine-tuning" and seen.format not in ("text", "tokenized"):
            choices.insert(1, Choice(WRITTEN, "Yes, but another model writes the answers", "yours are not learned"))
    if draft["approach"] == "fine-tuning" and seen.format == "text" and _one_line(seen):
        choices.append(Choice(WRITTEN, "No: these are prompts", "another model writes the answers"))
    if seen.encodings:
        choices.append(Choice(ENCODING, "No: wrong text encoding", f"read as {', '.join(seen.encodings)}"))
    return choices


def _one_line(seen: Preview) -> bool:
    """Whether the rows that are shown are single lines, which may be questions."""
    return all("\n" not in piece.text.strip() for pieces in seen.examples for piece in pieces)


def _corrected(draft: Draft, prompter: Prompter, seen: Preview, answer: str, number: str) -> Draft:
    if answer in TEXT_AS:
        return put(draft, "dataset.text_as", answer)
    if answer.startswith(SWAP):
        asked, answered = seen.used_columns
        return _with_columns(draft, {"prompt": answered, "completion": asked})
    if answer == PAIR and (pair := other_reading(seen.columns, seen.used_columns[0])):
        return _with_columns(draft, {"prompt": pair[0], "completion": pair[1]})
    if answer == RAW:
        return _with_columns(draft, {"text": seen.used_columns[0]})
    if answer == ENCODING:
        return text_encoding.ask(draft, prompter, number, seen.encodings[0])
    return _columns(draft, prompter, seen, number)


def _source(draft: Draft, prompter: Prompter, here: HostInfo, number: int = 1, *, proposed: bool = True) -> Draft:
    """The dataset; it is asked again where an offered file cannot be read, as one that is typed is. `proposed`: Enter keeps the draft's."""
    default = get(draft, "dataset.source")
    note = get(draft, "dataset.config") or ("what the teacher learned from" if looks_local(default) else "")
    offered = [Choice(default, strip_control_chars(default), note)] if default not in (BUILT_IN, GENERATED) else []
    who = "Another model" if draft["approach"] == "fine-tuning" else "The teacher" if has_writer(draft) else None
    offered += [
        Choice(BUILT_IN, "Python functions and their docstrings", "built in"),
        *(Choice(path, path, "found in this folder") for path in _files_here() if path != default),
        Choice(FILE, "A file or folder", " ".join(KINDS)),
        Choice(HUB, "A Hugging Face dataset", "search by name" if here.hub else "datasets on this machine"),
        *([Choice(GENERATED, f"No data? {who} writes it", "on a topic of yours")] if who else []),
    ]
    key = "dataset.source" if number == 1 else f"dataset.source-{number}"  # each question is its own, for going back
    picked = prompter.select(key, "Dataset", offered, default=default if proposed else BUILT_IN, more=MORE)
    if picked == default:
        is_file = default not in (BUILT_IN, GENERATED) and looks_local(default)
        problem = _file_problem(default, here, Recipe.from_layers(draft).dataset) if is_file else None
        if not problem:
            return draft
        prompter.note([("class:warning", problem)])
        return _source(draft, prompter, here, number + 1, proposed=False)
    if picked == GENERATED:
        return writer.ask(written_by_teacher(draft), prompter, here)
    if picked == FILE:
        picked = prompter.text(
            "dataset.file",
            "File or folder",
            default="",
            check=lambda text: _file_problem(text, here),
            help="For example data/train.jsonl",
            more=MORE,
            complete=suggest.paths,
            read=dropped,
        )
    elif picked == HUB:
        name, config = hub_dataset.ask(prompter, here, key.removeprefix("dataset.source"))
        found = _fresh(draft, source=name, config=config)
        with prompter.busy("Looking for it"):
            absent = hub_dataset.absent(Recipe.from_layers(found).dataset, here)
        if absent is None:
            return ask_field(found, prompter, "dataset.split")
        prompter.note([("class:warning", f"{absent.message} {spoken_hint(absent)}".strip())])
        return _source(draft, prompter, here, number + 1, proposed=proposed)
    elif picked != BUILT_IN and (problem := _file_problem(picked, here)):
        prompter.note([("class:warning", problem)])
        return _source(draft, prompter, here, number + 1)
    return _fresh(draft, source=picked)


def _columns(draft: Draft, prompter: Prompter, seen: Preview, number: str = "") -> Draft:
    """Which columns are read, each beside what the first row has in it."""
    opened = [_opened(row) for row in seen.records]
    inside = dict.fromkeys(name for row in opened for name in row if name not in seen.columns)
    names = [name for column in seen.columns for name in (*(part for part in inside if part.startswith(f"{column}.")), column)]
    spoken = wordy(names, opened)
    likely = [*dict.fromkeys([*spoken, *names])]
    choices = [Choice(name, strip_control_chars(name), _beginning(opened[0].get(name))) for name in names]
    whole = len(names) > 1 and prompter.confirm(f"dataset.whole{number}", WHOLE, default=True)
    if not whole:
        column = prompter.select(f"dataset.columns.text{number}", "Text column", choices, default=likely[0])
        return _with_columns(draft, {"text": column})
    asked, *answered = asked_and_answered(spoken, opened) or [likely[0]]
    prompt = prompter.select(f"dataset.columns.prompt{number}", "Prompt column", choices, default=asked)
    rest = [choice for choice in choices if choice.value != prompt]
    if len(rest) == 1:
        return _with_columns(draft, {"prompt": prompt, "completion": rest[0].value})
    behind = names[names.index(prompt) + 1 :]  # an answer mostly stands behind what was asked
    usual = next(name for name in [*answered, *(name for name in spoken if name in behind), *likely] if name != prompt)
    completion = prompter.select(f"dataset.columns.completion{number}", "Completion column", rest, default=usual)
    return _with_columns(draft, {"prompt": prompt, "completion": completion})


def _opened(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the parts of its objects, and the first text of a list of several, by the names that a recipe gives them."""
    first = {f"{name}.0": cell[0] for name, cell in row.items() if isinstance(cell, list) and len(cell) > 1 and are_texts(cell)}
    return {**row, **parts(row), **first}


def _beginning(value: object) -> str:
    """A value in a few words."""
    text = " ".join(strip_control_chars(str("" if value is None else value)).split())
    return text if beginning(text, LONGEST_NOTE) == text else f"{beginning(text, LONGEST_NOTE - 1)}…"


def _with_columns(draft: Draft, columns: dict[str, str]) -> Draft:
    """Other columns instead of those chosen before."""
    dataset = {key: value for key, value in draft["dataset"].items() if key != "columns"}
    return put({**draft, "dataset": dataset}, "dataset.columns", columns)


def _fresh(draft: Draft, source: str, config: str | None = None) -> Draft:
    """The draft with another dataset: settings that describe the old one go, the number of rows stays."""
    kept = {key: value for key, value in draft.get("dataset", {}).items() if key in ("samples", "max_length", "held_out")}
    dataset = {**kept, "source": source}
    return {**draft, "dataset": {**dataset, "config": config} if config else dataset}


def _files_here() -> list[str]:
    """Data files in the working folder: the person probably came for them."""
    found = (path for path in sorted(Path().iterdir()) if path.is_file() and _is_offered(path))
    return [str(path) for path in islice(found, 3)]


def _is_offered(path: Path) -> bool:
    if not is_zip(path):
        return is_record_file(path.name) and ending_of(path.name) != ".json"  # a program's settings more often than not
    try:
        return any(is_record_file(file.name) for file in find_files(str(path), None, "train")[0])
    except DatasetError:
        return False


def _file_problem(text: str, here: HostInfo, spec: DatasetSpec | None = None) -> str | None:
    if not text:
        return "Type the name of a file or folder."
    if missing := _missing(text):
        return missing
    spec = spec or DatasetSpec(source=text)
    seen = look(spec, here.runtime)
    if not isinstance(seen, DatasetError) or text_encoding.is_wrong(seen):
        return None
    if isinstance(look(spec.model_copy(update={"answers": TEACHER}), here.runtime), DatasetError):
        return f"{seen.message} {spoken_hint(seen)}".strip()
    return None  # its rows have no answers: what becomes of them is asked next


def _missing(text: str) -> str | None:
    """Which of the named files is not there, and what may be meant; the Hub is not asked about a file."""
    for name in named_files(text):
        path = typed_path(name, DatasetError)
        if not path.exists() and not any(sign in name for sign in "*?["):
            return f"There is no file or folder {name}. {nearest_name(path)}"
    return None
