"""builtin:python-docs: real, documented functions of this Python, the same ones every time."""

from __future__ import annotations

import ast
import textwrap
from itertools import islice
from pathlib import Path

import pytest

from finetune.data import builtin
from finetune.data.builtin import LONGEST_SOURCE, documented_functions, read_builtin, stream_builtin
from finetune.errors import DatasetNotFound

pytestmark = pytest.mark.slow  # the standard library is read first


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def rows(cache: Path) -> list[dict[str, str]]:
    return read_builtin("python-docs", cache)


def test_there_are_thousands_of_short_documented_functions(rows: list[dict[str, str]]) -> None:
    assert len(rows) > 4000
    assert all("def " in row["input"] and len(row["input"]) <= LONGEST_SOURCE for row in rows)
    assert all("\n" not in row["output"] and len(row["output"]) >= 10 for row in rows)


def test_the_answer_is_not_in_the_question(rows: list[dict[str, str]]) -> None:
    assert sum(row["output"] in row["input"] for row in rows) < len(rows) / 100


def test_the_rows_are_the_same_when_they_are_read_again(rows: list[dict[str, str]], cache: Path, tmp_path: Path) -> None:
    assert read_builtin("python-docs", cache) == rows, "from the cache"
    assert list(islice(stream_builtin("python-docs", tmp_path), 300)) == rows[:300], "from the sources"


def test_rows_whose_file_in_the_cache_is_damaged_are_read_from_the_sources_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(builtin.BUILT_IN, "python-docs", lambda: iter([{"input": "def f"}]))
    assert read_builtin("python-docs", tmp_path) == [{"input": "def f"}]
    (file,) = (tmp_path / "datasets").iterdir()
    for damaged in ('[{"inp', "", b"\xff"):
        file.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
        assert list(stream_builtin("python-docs", tmp_path)) == [{"input": "def f"}]
        assert read_builtin("python-docs", tmp_path) == [{"input": "def f"}]
        assert file.read_text() == '[{"input": "def f"}]'


def test_functions_come_in_source_order_without_their_docstrings(tmp_path: Path) -> None:
    source = '''
    class Thing:
        def first(self):
            """Do the first thing.

            At length.
            """
            return 1  # é

        @property
        async def second(self):
            "Do the second thing."
            if self:
                def inner():
                    """Do an inner thing."""
                    return 2
            return inner

    def undocumented():
        return 3

    def only_documented():
        """Say it all in the docstring."""
    '''
    path = tmp_path / "thing.py"
    path.write_text(textwrap.dedent(source), encoding="utf-8")
    found = list(documented_functions(path))
    assert [docstring for _, docstring in found] == ["Do the first thing.", "Do the second thing.", "Do an inner thing."]
    assert found[0][0] == "def first(self):\n    return 1  # é"


def test_an_unknown_name_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFound, match=r"Did you mean python-docs\?"):
        read_builtin("python-doc", tmp_path)


def test_a_file_that_another_thread_disturbs_is_parsed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, parse, seen = tmp_path / "module.py", ast.parse, []
    path.write_text('def double(x):\n    """Return twice the number."""\n    return 2 * x\n')

    def disturbed(text: str) -> ast.Module:
        seen.append(text)
        if len(seen) < 3:
            raise SystemError("AST constructor recursion depth mismatch (before=60, after=307)")
        return parse(text)

    monkeypatch.setattr("finetune.data.builtin.ast.parse", disturbed)
    assert [summary for _, summary in documented_functions(path)] == ["Return twice the number."]
    assert len(seen) == 3
