"""The documents are true where a program can tell: places in the code, links, the picture of the imports, what the workflow calls.

`finetune/data/tokens/encoder.py: Encoder._sequence`        a place: the file exists, and the name is defined in it
"""

from __future__ import annotations

import ast
import re
import runpy
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
PLACE = re.compile(r"`((?:finetune|tests|docs|benchmarks|\.ci|\.github)/[\w./-]*)(?:: ([\w., ]+))?`")


def places(document: Path) -> list[tuple[str, str]]:
    """Each (path, name) that a document names; the name is empty where it names a file or a folder alone."""
    found = PLACE.findall(document.read_text(encoding="utf-8"))
    return [(path, name) for path, names in found for name in names.split(", ")]


@cache
def defined(path: Path) -> set[str]:
    """`function`, `Class` and `Class.function` of a file."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            names |= {node.name, *(f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef))}
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
    return names


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_place_in_the_code_that_a_document_names_is_there(document: Path) -> None:
    missing = [
        f"{path}: {name}" for path, name in places(document) if not (ROOT / path).exists() or (name and name not in defined(ROOT / path))
    ]
    assert missing == []


def test_the_walks_name_many_places() -> None:
    assert len([name for _, name in places(ROOT / "docs" / "architecture.md") if name]) > 30


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_between_documents_leads_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", document.read_text(encoding="utf-8"))
    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_code_is_in_fences_that_other_tests_look_at(document: Path) -> None:
    outside = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"\n\n( {4}(?![-*]|\d+\.).*)", outside) == []


def test_the_picture_shows_the_imports_as_they_are() -> None:
    picture = runpy.run_path(str(ROOT / "docs" / "picture.py"))
    committed = (ROOT / "docs" / "imports.svg").read_text(encoding="utf-8")
    assert picture["svg"]() == committed, "out of date: python docs/picture.py"


def test_the_picture_is_made_from_the_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = runpy.run_path(str(ROOT / "docs" / "picture.py"))
    arrows = {("cli", "wizard"), ("wizard", "recipe"), ("cli", "recipe"), ("errors", "cli")}
    monkeypatch.setitem(picture["svg"].__globals__, "imports", lambda: arrows)
    drawn = picture["svg"]()
    assert [drawn.count(f">{name}<") for name in ("cli.py", "wizard/", "recipe/", "errors.py")] == [1, 1, 1, 0]
    assert drawn.count("marker-end") == 2  # one follows from others, one would run upwards


def test_the_workflow_does_what_ci_run_does() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run", ".ci/run -m long"]


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_the_issue_forms_ask_for_the_doctor(form: str) -> None:
    content = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{form}.yml").read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(content)
    assert any("finetune-cli doctor" in field["attributes"]["label"] for field in content["body"])


def test_the_hooks_need_no_network() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert {repository["repo"] for repository in hooks["repos"]} == {"local"}
    assert {hook["language"] for repository in hooks["repos"] for hook in repository["hooks"]} == {"system"}
