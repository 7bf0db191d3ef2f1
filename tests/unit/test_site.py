"""The pages of the site: what they tell to type is understood, what they show was measured, and the site is built without a word."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from documents import PAGES, ROOT, blocks, our_arguments

from finetune import Recipe, registry
from finetune.command_line.arguments import parser
from finetune.data.endings import ARCHIVES, KINDS, PACKED
from finetune.recipe import known_keys, nested
from finetune.recipe.schema import keys_of_parts

sys.path.insert(0, str(ROOT / "docs"))
import pages
import settings

OTHER_PROGRAMS = ("benchmarks/", "python make_support.py")
NOT_OURS = {"scale.md", "extending.md"}  # tests of their own run these: test_scale_page.py, test_extending.py
RUN = {"start.md", "own-data.md", "smaller.md", "ollama.md", "extending.md", "README.md"}  # test_tutorials.py, test_extending.py, .ci/run
TUTORIALS = ("start.md", "own-data.md", "smaller.md", "ollama.md", "four-gpus.md")
PARTS = ("approach", "model", "teacher", "teachers", "dataset", "method", "distillation", "training", "benchmark", "upload", "output_dir")


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in NOT_OURS], ids=lambda page: page.name)
def test_every_command_in_a_fence_is_understood_or_marked(page: Path) -> None:
    for block in blocks(page, "bash"):
        for line in block.lines():
            arguments = our_arguments(line)
            if arguments is not None:
                parser().parse_args(arguments)
            else:
                assert block.not_run or page.name in ("README.md", "CONTRIBUTING.md") or line.startswith(OTHER_PROGRAMS), line


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in RUN], ids=lambda page: page.name)
def test_every_command_in_a_fence_is_run_by_a_test_or_says_why_not(page: Path) -> None:
    for block in blocks(page, "bash"):
        assert block.not_run, block.text


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in NOT_OURS], ids=lambda page: page.name)
def test_every_recipe_in_a_fence_is_one(page: Path) -> None:
    for block in blocks(page, "yaml"):
        layer = yaml.safe_load(block.text)
        assert set(layer) <= set(PARTS), block.text
        Recipe.from_layers(layer)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_fence_that_looks_like_a_recipe_in_a_line_has_known_keys(page: Path) -> None:
    for part, inside in re.findall(r"`(dataset|distillation|training|benchmark|teacher): (\{[^`]*\})`", page.read_text(encoding="utf-8")):
        keys = yaml.safe_load(inside.replace("...", "x"))
        assert {f"{part}.{key}" for key in keys} <= set(known_keys()), inside


def test_the_tutorials_are_there_and_short_enough_to_follow() -> None:
    for name in TUTORIALS:
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert "\n## 1. " in text
        assert len(text.splitlines()) < 150


@pytest.mark.parametrize("name", ["own-data.md", "smaller.md"])
def test_what_a_tutorial_proposes_fits_the_recipe_that_it_made(name: str) -> None:
    page = ROOT / "docs" / name
    (recipe,) = (yaml.safe_load(block.text) for block in blocks(page, "yaml") if block.title)
    proposed = 0
    for line in page.read_text(encoding="utf-8").splitlines():
        keys = [yaml.safe_load(span) for span in re.findall(r"`(\w+: \{[^`]+\})`", line)]
        keys += [nested({key: yaml.safe_load(value)}) for key, value in re.findall(r"--set ([\w.]+)=([^ `]+)", line)]
        for layer in keys:
            kept = {key: value for key, value in recipe.items() if f"instead of `{key}`" not in line}
            Recipe.from_layers(kept, layer)
            proposed += 1
    assert proposed >= 2


def test_the_page_of_settings_has_every_key_with_its_meaning() -> None:
    page = settings.settings()
    keys = {*known_keys(), *keys_of_parts("teachers")} - {"method.kind"}  # each method has a section of its own
    assert [key for key in sorted(keys) if f"| `{key}` |" not in page] == []
    for name, title, _ in registry.choices("objectives"):
        assert f"| `{name}` | {title} |" in page
    assert "| `distillation.alpha` | number ≥ 0 and ≤ 1 | `0.5` | " in page
    assert "`[rouge, perplexity]`" in page  # as it is written in a recipe
    assert "| `` |" not in page
    assert settings.MARK in (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")


def test_the_documents_name_every_kind_of_file_every_metric_and_every_tracker() -> None:
    files = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    assert [ending for ending in (*KINDS, *PACKED, *ARCHIVES) if f"`{ending}`" not in files] == []
    measuring = (ROOT / "docs" / "measuring.md").read_text(encoding="utf-8").lower()
    named = [*registry.BUILT_IN["metrics"], *registry.BUILT_IN["trackers"]]
    assert [name for name in named if name not in measuring] == []


def test_the_measured_numbers_are_those_of_the_log() -> None:
    sources = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("docs/log.md", "DISTILLATION_UPDATE.md"))
    rows = [line for line in (ROOT / "docs" / "numbers.md").read_text(encoding="utf-8").splitlines() if re.match(r"\| .*\d", line)]
    assert len(rows) > 40
    assert [row for row in rows if row not in sources] == []


def test_links_lead_to_pages_and_code_has_none() -> None:
    known = {"how.md", "distillation.md", "log.md"}
    linked = {
        "[x](../DISTILLATION_UPDATE.md#settings)": "[x](distillation.md#settings)",
        "[x](log.md)": "[x](log.md)",
        "[benchmarks/data.py](../benchmarks/data.py)": "`benchmarks/data.py`",
        "[`x`](../finetune/recipe/recipe.py)": "`x`",
        "[x](https://example.org)": "[x](https://example.org)",
    }
    for before, after in linked.items():
        assert pages.LINK.sub(lambda found: pages.linked(found, "docs/how.md", "how.md", known), before) == after
    assert pages.outside_code("a\n```text\na\n```\na\n", lambda text: text.replace("a", "b")) == "b\n```text\na\n```\nb\n"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material", reason='there is no mkdocs-material here: pip install ".[docs]"')
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, [line for line in done.stderr.splitlines() if line.startswith(("WARNING", "ERROR"))]) == (0, [])
    assert "<math" in (tmp_path / "how" / "index.html").read_text(encoding="utf-8")
    assert "training.learning_rate" in (tmp_path / "settings" / "index.html").read_text(encoding="utf-8")
    made = {path.parent.name for path in tmp_path.rglob("index.html")}
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"} <= made
