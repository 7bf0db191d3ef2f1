"""Data sets that are on every machine. `builtin:python-docs`: function source -> first line of its docstring.

python_docs(cache_dir)[0]  ->  {"instruction": "Write the one-line docstring ...", "input": "def ...", "output": "..."}

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
from pathlib import Path

from finetune.errors import DatasetNotFound
from finetune.registry import did_you_mean

INSTRUCTION = "Write the one-line docstring of this Python function."
LONGEST_SOURCE = 1200  # characters, about 350 tokens: longer functions would make the demo slow, not better
SHORTEST_DOCSTRING = 10
VERSION = 1  # part of the cache name: raise it when the rows change

# Tests, demos and vendored projects are not the library's own documentation.
LEFT_OUT = {"test", "tests", "idlelib", "idle_test", "lib2to3", "turtledemo", "pydoc_data", "ensurepip", "site-packages", "dist-packages"}
LEFT_OUT |= {"pip", "setuptools", "_distutils_hack", "__pycache__", "_vendor"}


def read_builtin(name: str, cache_dir: Path) -> list[dict[str, str]]:
    """The rows of `builtin:NAME`; raises DatasetNotFound naming the known ones."""
    if name not in BUILT_IN:
        raise DatasetNotFound(
            f"There is no built-in data set {name!r}.{did_you_mean(name, list(BUILT_IN))}",
            hint=f"Known: {', '.join(f'builtin:{known}' for known in BUILT_IN)}.",
        )
    return BUILT_IN[name](cache_dir)


def python_docs(cache_dir: Path) -> list[dict[str, str]]:
    """Documented functions of the standard library in a fixed order; parsed once per Python version, then read from the cache."""
    cached = cache_dir / "datasets" / f"python-docs-{platform.python_version()}-v{VERSION}.json"
    if cached.exists():
        return json.loads(cached.read_text(encoding="utf-8"))
    library = Path(sysconfig.get_paths()["stdlib"])
    rows = [
        {"instruction": INSTRUCTION, "input": source, "output": docstring}
        for path in sorted(library.rglob("*.py"), key=lambda path: path.relative_to(library).as_posix())
        if not LEFT_OUT.intersection(path.relative_to(library).parts)
        for source, docstring in documented_functions(path)
    ]
    if not rows:
        raise DatasetNotFound(
            f"This Python has no library sources in {library}.", hint="Use a data set of your own: --set dataset.source=FILE"
        )
    cached.parent.mkdir(parents=True, exist_ok=True)
    half_written = cached.with_suffix(".part")
    half_written.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    half_written.replace(cached)
    return rows


def documented_functions(path: Path) -> Iterator[tuple[str, str]]:
    """(source without docstring, first line of the docstring) of each documented function in a file."""
    try:
        with tokenize.open(path) as file:
            text = file.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(text)
    except (SyntaxError, UnicodeDecodeError):  # a few library files are templates or hold deliberate errors
        return
    lines = text.splitlines()
    for node in functions_of(tree.body):
        if len(node.body) < 2:
            continue  # a docstring alone leaves nothing to describe
        docstring = ast.get_docstring(node)
        if docstring is None:
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
