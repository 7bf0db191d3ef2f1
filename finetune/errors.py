"""Every error a user can meet, as one tree.

    FinetuneError                     exit code 1 unless said otherwise
    ├── BadInput                      exit code 2: the request itself cannot work
    │   ├── RecipeError               a recipe key or value
    │   ├── ModelError
    │   │   ├── ModelNotFound
    │   │   ├── ModelGated
    │   │   └── VocabularyMismatch    teacher and student do not share a tokenizer
    │   ├── DatasetError
    │   │   ├── DatasetNotFound
    │   │   ├── UnknownFormat         names the columns that were seen
    │   │   ├── EmptyDataset
    │   │   └── BadRow                names file and line
    │   ├── NoTerminal                a question, and nobody to ask
    │   ├── OutputExists              the output folder holds other work
    │   ├── FolderInUse               another process works in the output folder; names it
    │   └── CannotResume              what changed since the run began, or that there is nothing to continue
    ├── HardwareError
    │   ├── NotHere                   exit code 2: a device, a precision or a package that is not there
    │   ├── OutOfMemory               names what to lower
    │   └── DiskFull                  names the space needed
    ├── TrainingError
    │   └── Diverged                  names the step and the rows
    ├── BenchmarkError
    ├── UploadError
    │   ├── NotSignedIn
    │   ├── ReadOnlyToken
    │   └── RepoExists
    └── Interrupted                   exit code 130: `saved` is the folder that was kept, or None

A message says what and where; `hint` says what to do next. Third-party exceptions are translated once, where the library is called.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

LONGEST = 4000  # characters of a message or hint; the longest hint lists the keys of a recipe
HIDDEN = "(hidden)"
SHORTEST = len(HIDDEN)  # of a secret: a text never grows
_PASSWORD = re.compile(r"(?<=://)[^/\s'\"]*@")
_KNOWN = re.compile(r"\b(hf_|ghp_|github_pat_|glpat-|sk-)[\w-]{20,}")  # tokens that say what they are
_SENT = re.compile(r"""(?ix) (\b bearer \s+ | authorization ['"]? \s* [:=] \s* ['"]? (?:basic \s+)?
    | [?&] (?:x-amz-(?:signature|credential|security-token) | signature | (?:access_|auth_)?token | api_?key) =) [\w.~+/=%-]{8,}""")
_NAMES_ONE = re.compile(r"(?i)(token|secret|passw(or)?d|passphrase|api_?key|access_key)$")  # a variable of the environment


def without_secrets(text: str) -> str:
    """`text` without passwords in addresses (a mirror in HF_ENDPOINT), tokens, and the values of variables such as WANDB_API_KEY."""
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and value in text and _NAMES_ONE.search(name):
            text = text.replace(value, HIDDEN)
    return _SENT.sub(rf"\1{HIDDEN}", _KNOWN.sub(HIDDEN, _PASSWORD.sub("", text)))


class FinetuneError(Exception):
    """Root of all errors meant for people: `message` says what and where, `hint` what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = _fit(message)
        self.hint = hint and _fit(hint)
        super().__init__(self.message)
        if self.hint:
            self.add_note(self.hint)  # a traceback shows it below the message


def _fit(text: str) -> str:
    """Without secrets, and cut in the middle where names from a file are as long as the file."""
    text = without_secrets(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


class BadInput(FinetuneError):
    exit_code = 2


class RecipeError(BadInput):
    pass


class ModelError(BadInput):
    pass


class ModelNotFound(ModelError):
    pass


class ModelGated(ModelError):
    pass


class VocabularyMismatch(ModelError):
    pass


class DatasetError(BadInput):
    pass


class DatasetNotFound(DatasetError):
    pass


class UnknownFormat(DatasetError):
    pass


class EmptyDataset(DatasetError):
    pass


class BadRow(DatasetError):
    pass


class NoTerminal(BadInput):
    pass


class OutputExists(BadInput):
    pass


class FolderInUse(BadInput):
    pass


class CannotResume(BadInput):
    pass


class HardwareError(FinetuneError):
    pass


class NotHere(HardwareError):
    """What is asked for needs a device, a precision or a package that this machine does not have."""

    exit_code = 2


class OutOfMemory(HardwareError):
    pass


class DiskFull(HardwareError):
    pass


class TrainingError(FinetuneError):
    pass


class Diverged(TrainingError):
    pass


class BenchmarkError(FinetuneError):
    pass


class UploadError(FinetuneError):
    pass


class NotSignedIn(UploadError):
    pass


class ReadOnlyToken(UploadError):
    pass


class RepoExists(UploadError):
    pass


class Interrupted(FinetuneError):
    exit_code = 130

    def __init__(self, message: str, *, hint: str | None = None, saved: Path | None = None) -> None:
        super().__init__(message, hint=hint)
        self.saved = saved
