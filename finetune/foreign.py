"""Read files from elsewhere: any failure becomes one sentence with the name of the file, and what a file may ask for has limits.

    with reading(path, ModelError, hint="Download it again."):
        content = json.loads(path.read_text(encoding="utf-8"))      # whatever goes wrong in here is a ModelError
    check_counts(config, path)                                      # ModelError for ten million layers

The limits are far above what models and data have, and low enough that a machine survives them.
"""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune.errors import BadInput, FinetuneError, HardwareError, ModelError

AGAIN = "It may be damaged: copy or download it again."

# Models.
DIMENSIONS = 8  # of a tensor; GGUF has 4
ELEMENTS = 2_000_000  # of all lists in a GGUF header; the largest vocabularies have 300,000 tokens, and as many kinds, scores and merges
LAYERS = 10_000  # also experts, heads and labels; the deepest models have a few hundred layers
WIDTH = 10_000_000  # of a layer or a vocabulary
SETTINGS_BYTES = 200_000_000  # of a file of settings; the largest have a few MB, and scores with many long answers more
SETTINGS_VALUES = 5_000_000  # in it; each takes up to 100 bytes of memory, and 3 of the file
RECIPE_BYTES = 200_000  # of a recipe, which has about 3,000
WRITTEN_OUT = 2_000_000  # characters and values of YAML, with everything in each place that names it (&a, *a)
MATCHING_SECONDS = 5  # all patterns of an adapter on all names of a model

# Data. A file that is not packed may always be held once, however large it is: a person can see its size.
LINE = 1 << 25  # characters of a line, a cell or a record
COLUMNS = 10_000
UNPACKED = 200_000_000  # bytes that are held at a time of a document or table that is packed
PACKING = 200  # times smaller: more than any text becomes
PACKED_ROWS = 20  # times smaller: more than rows become, of which many are unpacked together
HELD = 1 << 26  # characters of rows that are held at a time
VALUES = 15_000_000  # of a JSON record, or a document that is no list; each takes up to 100 bytes of memory, and 3 of the file
TURNS = 1_000_000  # of a conversation
LONGEST = (1 << 29) - 1  # characters of a text in any row; four bytes of each are what Arrow can hold

# Chat templates, which are programs.
TEMPLATE_SECONDS = 3.0
TEMPLATE_LENGTH = 200_000  # characters of the program itself; the longest have 30,000
TEMPLATE_CHARACTERS = 100_000_000  # of what it writes, and of what a step in it is given
TEMPLATE_PRODUCT = 1_000_000  # of a text, or of all texts in a list, times a number
TEMPLATE_MEMORY = 300_000_000  # bytes
TEMPLATE_NUMBER = 1_000_000  # bits of a number; dividing a longer one takes seconds

COUNTED = re.compile(r"(^|[._])(n|num)_|layers?$|layer_|heads?$|heads?_|experts?$|experts?_|block_count|(head|expert)_count|num_labels")
MEASURED = re.compile(r"(_size|_dim|_rank|_length|^d_model|^d_ff|^dim|embd|_inner)$")
NOT_MEASURED = re.compile(r"context|position|n_ctx|max_|window|chunk|block_size|num_tokens|seq|token_id")
NO_THREADS = re.compile("can't start new thread|ThreadPoolBuildError|thread constructor failed")
CODE_KEYS = re.compile(r"_?(attn|attention|experts?|kernel)s?_implementation(_internal)?")


@contextmanager
def reading(
    path: str | Path, kind: type[FinetuneError] = BadInput, *, hint: str | None = AGAIN, what: str = "cannot be read"
) -> Iterator[None]:
    """Raises `kind` for whatever fails inside, but for errors that are sentences already; `what` is said about the file.

    The program's own faults end here too: `--debug` shows where it happened.
    """
    try:
        yield
    except FinetuneError:
        raise
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)) or type(error).__name__ == "OutOfMemoryError":  # of a GPU
            raise
        raise limit_reached(error) or kind(f"{printable(path)} {what}: {reason(error)}.", hint=hint) from error


def limit_reached(error: BaseException) -> HardwareError | None:
    """The error for what the system does not allow this program any more of, which is no fault of a file; None for any other."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return HardwareError("The system allows this program no more open files.", hint="Allow more, for example: ulimit -n 1024")
    if (isinstance(error, OSError) and error.errno == errno.EAGAIN) or NO_THREADS.search(str(error)):
        hint = "Allow more (ulimit -u, or the limit of the container), or end other programs."
        return HardwareError("The system allows this program no more threads or processes.", hint=hint)
    return None


def is_panic(error: BaseException) -> bool:
    """Whether a library in Rust gave up, which is no Exception and has a name of its own."""
    return type(error).__name__ == "PanicException"


def reason(error: BaseException) -> str:
    """What is wrong, in few words and one line, whatever library found it."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if isinstance(error, UnicodeDecodeError):
        return "its text is not valid Unicode"
    if isinstance(error, KeyError):
        return f"{str(error)[:100]} is missing"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300].rstrip(".") if lines else type(error).__name__


def printable(path: str | Path) -> str:
    """A path as text that can be written anywhere: bytes of a name that are not UTF-8 become question marks."""
    return os.fsencode(path).decode("utf-8", "replace").replace("\ufffd", "?")


def is_utf8(path: str | Path) -> bool:
    """Whether the name of a file is text, which reports and recipes can hold."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def no_link(path: str, flags: int) -> int:
    """The `opener` of files that are added to: in a folder from elsewhere they may be links to any file of this person. Raises OSError."""
    try:
        return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, f"{os.path.basename(path)} is a link, which may lead anywhere", path) from None


def leads_out(file: Path) -> bool:
    """Whether a file of a model folder is a link out of it; the Hub's cache has its own files in `blobs` beside."""
    home = file.parent.resolve()
    return file.is_symlink() and file.resolve().parent not in (home, (home.parent.parent / "blobs").resolve())


def read_settings(path: Path, kind: type[FinetuneError], *, hint: str = AGAIN) -> dict[str, Any]:
    """A JSON object from a file; raises `kind` naming it."""
    with reading(path, kind, hint=hint, what="cannot be read as JSON"):
        if path.stat().st_size > SETTINGS_BYTES:
            raise ValueError(f"it has more than {SETTINGS_BYTES // 1_000_000} MB")
        text = path.read_text(encoding="utf-8")
        if has_many_values(text, SETTINGS_VALUES):
            raise ValueError(f"it has more than {SETTINGS_VALUES:,} values")
        content = json.loads(text)
    if not isinstance(content, dict):
        raise kind(f"{printable(path)} does not contain a JSON object.", hint=hint)
    return content


def has_many_values(text: str, most: int, start: int = 0) -> bool:
    """Whether the JSON from `start` on would take many times the memory of its text, by the signs before values; some may be in texts."""
    return len(text) - start > most and sum(text.count(sign, start) for sign in ",:[{") > most


def read_small_yaml(text: str) -> Any:
    """The content of YAML; raises ValueError where its parts name each other until it would fill the memory, and what yaml raises."""
    import yaml

    content = yaml.safe_load(text)
    weight, left = 0, [content]
    while left:
        part = left.pop()
        weight += len(part) if isinstance(part, str) else 1
        if weight + len(left) > max(WRITTEN_OUT, 4 * len(text)):
            raise ValueError("its parts repeat each other too often")
        left += [*part, *part.values()] if isinstance(part, dict) else part if isinstance(part, list | tuple | set) else ()
    return content


def check_counts(settings: Mapping[str, Any], path: Path) -> None:
    """Raises ModelError if a model's settings ask for more layers, heads, experts or width than any model has.

    A library would begin to make them all.
    """
    for key, value in numbers_of(settings):
        limit = WIDTH if is_width(key) else LAYERS if COUNTED.search(_last(key)) and not NOT_MEASURED.search(_last(key)) else None
        if limit is not None and abs(value) > limit:
            raise ModelError(f"{printable(path)} asks for {key.strip('/')} = {value:.4g}, and {limit:,} is the limit.", hint=AGAIN)


def is_width(key: str) -> bool:
    """Whether a number of a model's settings, by the path of its keys, is the width of something."""
    return bool(MEASURED.search(_last(key))) and not NOT_MEASURED.search(_last(key))


def _last(key: str) -> str:
    return key.rpartition("/")[2].lower()


def own_code_of(settings: Any) -> str | None:
    """The code of others that a model's settings choose for attention or experts, such as somebody/kernel; None for what libraries have."""
    found = [(key, value) for key, value in _leaves(settings) if isinstance(value, str) and "/" in value]
    return next((value for key, value in found if any(CODE_KEYS.fullmatch(part) for part in key.split("/"))), None)


def check_patterns(patterns: Sequence[str], names: Iterable[str], path: Path) -> None:
    """Raises ModelError if matching the patterns of an adapter with the names of a model's modules fails or takes longer than allowed.

    A pattern can take longer than the universe has; only another process can be stopped while it tries.
    """
    if not patterns:
        return
    work = "import json, re, sys; p, n = json.load(sys.stdin); [re.fullmatch(each, name) for each in p for name in n]"
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", work],
            input=json.dumps([patterns, list(names)]),
            text=True,
            capture_output=True,
            timeout=MATCHING_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"{printable(path)} has a pattern of module names that takes too long to match.", hint=AGAIN) from None
    if done.returncode:
        raise ModelError(f"{printable(path)} has a pattern of module names that is not valid.", hint=AGAIN)


def _leaves(settings: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with the path of its keys, /text_config/num_layers; not deeper than JSON can be."""
    inner = settings.items() if isinstance(settings, Mapping) else enumerate(settings) if isinstance(settings, list) else None
    if inner is None:
        yield key, settings
        return
    for name, value in inner:
        yield from _leaves(value, f"{key}/{name}")


def numbers_of(settings: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Every number in a model's settings, with the path of its keys: /text_config/num_layers."""
    for key, value in _leaves(settings):
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield key, value
