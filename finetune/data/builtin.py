"""Datasets that every machine has. `builtin:python-docs`: function source -> first line of its docstring.

next(python_docs())  ->  {"instruction": "Write the one-line docstring ...", "input": "def ...", "output": "..."}

The rows come from the standard library of the running Python, read with `ast`; nothing is imported from it.
"""

from __future__ import annotations

import ast
import json
import platform
import sysconfig
import textwrap
import tokenize
import warnings
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import cast

from finetune.data.rows import Origin, Row, SkippedRow
from finetune.errors import DatasetNotFound
from finetune.registry import did_you_mean
from finetune.system.python_source import parsed
from finetune.system.storage import digest, write_whole

INSTRUCTION = "Write the one-line docstring of this Python function."
LONGEST_SOURCE = 1200  # characters, about 350 tokens: longer functions would make the demo slower, not better
SHORTEST_DOCSTRING = 10
VERSION = 1  # part of the cache name: raise it when the rows change

# Tests, demos and vendored projects are not the library's own documentation.
LEFT_OUT = {"test", "tests", "idlelib", "idle_test", "lib2to3", "turtledemo", "pydoc_data", "ensurepip", "site-packages", "dist-packages"}
LEFT_OUT |= {"pip", "setuptools", "_distutils_hack", "__pycache__", "_vendor"}


def read_builtin(name: str, cache_dir: Path) -> list[dict[str, str]]:
    """All rows of `builtin:NAME`, kept in the cache from the second time on."""
    check_builtin(name)
    if (kept := _kept(name, cache_dir)) is not None:
        return kept
    rows = list(BUILT_IN[name]())
    with suppress(OSError):  # cached only to be faster next time
        write_whole(_cache_file(name, cache_dir), json.dumps(rows, ensure_ascii=False), shared=True)
    return rows


def stream_builtin(name: str, cache_dir: Path) -> Iterator[dict[str, str]]:
    """The same rows one by one, the first of them at once."""
    kept = _kept(name, cache_dir)
    return BUILT_IN[name]() if kept is None else iter(kept)


def open_builtin(source: str, cache_dir: Path) -> Origin:
    """The records of `source`, which begins with builtin:; raises DatasetNotFound naming the known ones."""
    name = source.removeprefix("builtin:")
    check_builtin(name)

    def records() -> Iterator[Row | SkippedRow]:
        for number, row in enumerate(stream_builtin(name, cache_dir), start=1):
            yield Row(dict(row), source, number)

    return Origin(source, lambda: [digest(chain.from_iterable(row.values() for row in read_builtin(name, cache_dir)))], records)


def check_builtin(name: str) -> None:
    """Raises DatasetNotFound naming the known ones."""
    if name not in BUILT_IN:
        raise DatasetNotFound(
            f"There is no built-in dataset {name!r}.{did_you_mean(name, list(BUILT_IN))}",
            hint=f"Choose from {', '.join(f'builtin:{known}' for known in BUILT_IN)}.",
        )


def python_docs() -> Iterator[dict[str, str]]:
    """Documented functions of the standard library, in a fixed order."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found = False
    for path in sorted(library.rglob("*.py"), key=lambda path: path.relative_to(library).as_posix()):
        if LEFT_OUT.isdisjoint(path.relative_to(library).parts):
            for source, docstring in documented_functions(path):
                found = True
                yield {"instruction": INSTRUCTION, "input": source, "output": docstring}
    if not found:
        raise DatasetNotFound(f"This Python has no library sources in {library}.", hint="Use your own data: --set dataset.source=FILE")


def _kept(name: str, cache_dir: Path) -> list[dict[str, str]] | None:
    """The rows in the cache; None where there are none, or where they are damaged."""
    try:
        return cast("list[dict[str, str]]", json.loads(_cache_file(name, cache_dir).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _cache_file(name: str, cache_dir: Path) -> Path:
    return cache_dir / "datasets" / f"{name}-{platform.python_version()}-v{VERSION}.json"


def documented_functions(path: Path) -> Iterator[tuple[str, str]]:
    """(source without docstring, first line of the docstring) of each documented function in a file."""
    try:
        with tokenize.open(path) as file:
            text = file.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = parsed(text)
    except (SyntaxError, UnicodeDecodeError):  # a few library files are templates or contain deliberate errors
        return
    lines = text.splitlines()
    for node in functions_of(tree.body):
        docstring = ast.get_docstring(node)
        if docstring is None or len(node.body) < 2:  # a docstring alone leaves nothing to describe
            continue
        summary = docstring.strip().partition("\n")[0].strip()
        written = node.body[0]
        kept = lines[node.lineno - 1 : written.lineno - 1] + lines[written.end_lineno or written.lineno : node.end_lineno]
        source = textwrap.dedent("\n".join(kept)).strip()
        if len(summary) >= SHORTEST_DOCSTRING and len(source) <= LONGEST_SOURCE and written.lineno > node.lineno:
            yield source, summary


def functions_of(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions in source order, without visiting expressions (a third of the time of `ast.walk`)."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        for inner in ("body", "orelse", "handlers", "finalbody"):
            yield from functions_of(getattr(node, inner, []))


BUILT_IN = {"python-docs": python_docs}
