"""Errors in the words of the wizard: with the names of its questions, and the step at which to change the answer.

    in_words("Cut the rows: --set dataset.max_length=256.")     # "Cut the rows: Longest row 256 (Training, advanced settings)."
    step_of(error)                                              # 4

The engine's hints name recipe keys, for people who write --set. In a conversation there is nothing to set: there are questions.
"""

from __future__ import annotations

import re

from finetune.errors import (
    BenchmarkError,
    DatasetError,
    FinetuneError,
    FolderInUse,
    HardwareError,
    ModelError,
    OutOfMemory,
    OutputExists,
    TrainingError,
    UploadError,
)
from finetune.recipe import Recipe, known_fields
from finetune.recipe.settings import label

TITLES = ("Approach", "Models", "Dataset", "Configuration", "Training", "Benchmark", "Upload")
# The longest beginning of a key decides; what is asked for among the advanced settings is in STEP 4.
STEPS = {
    "approach": 0,
    "model": 1,
    "teacher": 1,
    "teachers": 1,
    "dataset": 2,
    "dataset.max_length": 4,
    "dataset.held_out": 4,
    "dataset.examples": 4,
    "dataset.answers": 4,
    "method": 3,
    "teacher.top_k": 4,
    "distillation": 4,
    "distillation.temperature": 3,
    "distillation.alpha": 3,
    "output_dir": 3,
    "training": 4,
    "seed": 4,
    "benchmark": 5,
    "benchmark.max_new_tokens": 4,
    "benchmark.speed": 4,
    "upload": 6,
}
IN_A_FINE_TUNING = {"teacher": 2, "dataset.answers": 2}  # where another model writes rows or answers: it is asked for with the data
ASKED_FIRST = ("training.epochs", "training.batch_size", "training.learning_rate")  # all else of STEP 4 is advanced
NEVER_ASKED = (
    "dataset.data_files",
    "dataset.bad_rows",
    "dataset.eval_split",
    "dataset.add_tokens",
    "training.activation_checkpointing",
    "training.save_every",
    "training.evaluate_every",
    "training.patience",
    "training.keep_checkpoints",
    "training.report_to",
    "benchmark.metrics",
    "teacher.load_in",
)
KINDS: tuple[tuple[type[FinetuneError], int], ...] = (
    (ModelError, 1),
    (DatasetError, 2),
    (OutputExists, 3),
    (FolderInUse, 3),
    (OutOfMemory, 4),
    (HardwareError, 3),
    (TrainingError, 4),
    (BenchmarkError, 5),
    (UploadError, 6),
)
USUAL = 4
_SET = re.compile(r"--set (?:(['\"])(?P<in_quotes>[\w.]+=.*?)\1|(?P<bare>[\w.]+=[^\s,;)]*[^\s,;).]))")
_BOTH = re.compile(r"(--set \S+) (?=--set )")
_COLUMNS = re.compile(r"--set dataset\.columns\.\w+=NAME(?: and --set dataset\.columns\.\w+=NAME| \.\.\.)*")  # whichever they are
_NESTED = re.compile(r"\(([^()]*) \(([^()]*)\)([^()]*)\)")  # parentheses in parentheses
_NOT_HERE = re.compile(r" To (?:skip all of these|learn each line as it is): --set \S+")  # no question asks it there
_OUTPUT_DIR = re.compile(r"(?<=another )--output-dir")
_OFFERED = re.compile(r" To [^.:]+: --set .*$")  # at the end of a note
_KEY = re.compile(r"\b(?:approach|model|teachers?|dataset|method|distillation|output_dir|training|seed|benchmark|upload)\b(?:\.\w+)*")


def in_words(text: str | None, approach: str = "") -> str:
    """A sentence in which every `--set KEY=VALUE` has become a question of the wizard and its answer."""
    given = _BOTH.sub(r"\1 and ", _NOT_HERE.sub("", text or ""))
    given = _COLUMNS.sub(f"choose the columns ({TITLES[STEPS['dataset']]})", given)
    spoken = _SET.sub(lambda found: _spoken(found["in_quotes"] or found["bare"], approach), given)
    return _NESTED.sub(r"(\1, under \2\3)", _OUTPUT_DIR.sub("output folder", spoken))


def without_setting(note: str) -> str:
    """A note on the data without what it offers to set: in a conversation the answers say it."""
    return _OFFERED.sub("", note)


def spoken_hint(error: FinetuneError) -> str:
    """The hint of an error, in words; empty if it has none."""
    return in_words(error.hint)


def step_of(problem: FinetuneError | str, recipe: Recipe | None = None) -> int:
    """The step with the question to answer differently: what the hint says to change, else what the error is about."""
    approach = recipe.approach if recipe else ""
    text = problem if isinstance(problem, str) else problem.hint or ""
    named = [(found["in_quotes"] or found["bare"]).partition("=")[0] for found in _SET.finditer(text)]
    if named:
        return _step(named[0], approach)
    if isinstance(problem, str):
        return 3 if "of disk is free" in problem else USUAL
    writer = recipe.teacher if recipe and approach == "fine-tuning" else None
    if writer and any(name in problem.message for name in (writer.server, writer.source, writer.key) if name):
        return IN_A_FINE_TUNING["teacher"]
    if kind := next((step for kind, step in KINDS if isinstance(problem, kind)), None):
        return kind
    key = _KEY.search(problem.message)
    return _step(key.group(), approach) if key else USUAL


def _step(key: str, approach: str) -> int:
    parts, steps = key.split("."), STEPS | IN_A_FINE_TUNING if approach == "fine-tuning" else STEPS
    beginnings = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((steps[beginning] for beginning in beginnings if beginning in steps), USUAL)


def _spoken(assignment: str, approach: str) -> str:
    key, _, value = assignment.partition("=")
    if key in NEVER_ASKED:
        return f"`{key}: {value}` in a recipe that you save and run"
    field = dict(known_fields()).get(key)
    name = label(key.rpartition(".")[2], field) if field else key
    name += " column" * key.startswith("dataset.columns.")  # as its question is called
    step = _step(key, approach)
    where = TITLES[step] + (", advanced settings" if step == 4 and key not in ASKED_FIRST else "")
    if value.isupper():  # it stands for something that the person knows
        return f"another answer to {name} ({where})" if step != 2 or key.startswith("teacher") else f"other data ({where})"
    return f"{name} {value} ({where})"
