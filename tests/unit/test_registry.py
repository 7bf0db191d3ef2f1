"""What the registry knows is what people are shown: titles, summaries, the tables of documents, the order of formats; packages included."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune import registry
from finetune.benchmark.scoring import base_key
from finetune.data.formats import detect
from finetune.data.reading import Rows, read_rows
from finetune.errors import RecipeError
from finetune.events import Recorder
from finetune.recipe import BenchmarkSpec, DatasetSpec, Recipe
from finetune.recipe.settings import MethodSpec
from finetune.runtime import RuntimeOptions

ROOT = Path(__file__).parents[2]
TABLES = ("docs/data.md", "docs/methods.md", "DISTILLATION_UPDATE.md")
DOCUMENTS = "".join((ROOT / name).read_text(encoding="utf-8") for name in TABLES)
LONGEST_SUMMARY = 100


class Tickets:
    """A format of another package, for columns that a built-in one knows too."""

    name = "tickets"
    title = "tickets"
    order = 5
    columns = ("question", "answer")

    @classmethod
    def matches(cls, columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> Tickets | None:
        return cls() if set(cls.columns) <= set(columns) else None


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
    """What other packages add, by kind: empty at first."""
    added: dict[str, dict[str, str]] = {}
    monkeypatch.setattr(registry, "_outside", lambda kind: added.get(kind, {}))
    return added


@pytest.mark.parametrize("kind", registry.DESCRIBED)
def test_everything_has_a_title_and_a_summary_of_a_line(kind: str) -> None:
    found = registry.choices(kind)
    assert [name for name, _, _ in found] == registry.names(kind)
    for name, title, summary in found:
        assert title, name
        assert 0 < len(summary) <= LONGEST_SUMMARY, name
    assert len({title for _, title, _ in found}) == len(found)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in registry.DESCRIBED for name in registry.BUILT_IN[kind]])
def test_the_documents_tables_have_every_built_in_with_its_own_words(kind: str, name: str) -> None:
    title, summary = next((title, summary) for known, title, summary in registry.choices(kind) if known == name)
    called = "" if kind == "formats" else f"| `{name}` "  # the others are named in recipes
    assert f"{called}| {title} | {summary} |\n" in DOCUMENTS


def test_a_method_is_one_object_and_subclasses_inherit() -> None:
    lora, qlora = registry.load("methods", "lora"), registry.load("methods", "qlora")
    assert registry.load("methods", "lora") is lora
    assert isinstance(qlora, type(lora))
    assert type(qlora).attach is type(lora).attach


@pytest.mark.parametrize("name", registry.BUILT_IN["methods"])
def test_a_methods_spec_is_of_its_kind(name: str) -> None:
    spec = Recipe.from_layers({"method": name}).method
    assert isinstance(spec, MethodSpec)
    assert spec.kind == name
    assert registry.load("methods", name).Spec().kind == name


class Strange:
    """A method of another package whose Spec is some other class."""

    Spec = SimpleNamespace


@pytest.mark.parametrize("name", ["Strange", "Tickets"])
def test_a_method_whose_spec_is_of_another_class_is_named(name: str, outside: dict[str, dict[str, str]]) -> None:
    outside["methods"] = {"strange": f"{__name__}:{name}"}
    with pytest.raises(RecipeError, match=r"^The Spec of the method 'strange' is not a MethodSpec of finetune\.recipe\."):
        Recipe.from_layers({"method": "strange"})


@pytest.mark.parametrize(("order", "winner"), [(5, "tickets"), (45, "tickets"), (55, "question_answer"), (None, "question_answer")])
def test_a_format_of_another_package_stands_where_its_order_says(
    order: int | None, winner: str, outside: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if order is None:
        monkeypatch.delattr(Tickets, "order")
    else:
        monkeypatch.setattr(Tickets, "order", order)
    outside["formats"] = {"tickets": f"{__name__}:Tickets"}
    assert detect(["question", "answer"], [], None, "a.jsonl").name == winner


def test_the_order_of_the_built_in_formats_leaves_room_between_them() -> None:
    orders = [registry.load("formats", name).order for name in registry.names("formats")]
    assert orders == sorted(orders)
    assert all(later - earlier > 1 for earlier, later in pairwise(orders))


class NeedsAFolder:
    """A method of another package that is made with an argument."""

    def __init__(self, folder: Path) -> None:
        raise AssertionError


@pytest.mark.parametrize("target", ["nothing.of.that.name:Method", f"{__name__}:Missing", f"{__name__}:NeedsAFolder"])
def test_a_broken_package_is_named_in_a_sentence(target: str, outside: dict[str, dict[str, str]]) -> None:
    outside["methods"] = {"broken": target}
    with pytest.raises(RecipeError, match=rf"The method 'broken' \({target}\) cannot be loaded: .*"):
        registry.load("methods", "broken")


def test_what_other_packages_add_comes_after_what_is_built_in(outside: dict[str, dict[str, str]]) -> None:
    outside["objectives"] = {"z": f"{__name__}:Tickets", "a": f"{__name__}:Tickets", "jsd": f"{__name__}:Tickets"}
    assert registry.names("objectives")[-2:] == ["a", "z"]
    assert registry.load("objectives", "jsd") is not Tickets, "a built-in name cannot be taken"
    assert registry.choices("objectives")[-1] == ("z", "tickets", "")


def test_an_objects_class_may_be_anything_without_arguments(outside: dict[str, dict[str, str]]) -> None:
    outside["exporters"] = {"plain": "types:SimpleNamespace"}
    assert isinstance(registry.load("exporters", "plain"), SimpleNamespace)


FORMAT = """
class Notes:
    name, title, order, columns = "notes", "notes", 5, ("body",)

    @classmethod
    def matches(cls, columns, sample):
        return cls() if "body" in columns else None

    def to_messages(self, row):
        return [{"role": "user", "content": "%s"}, {"role": "assistant", "content": row["body"]}]
"""


def test_a_format_that_is_installed_or_changed_reads_rows_again_that_are_cached(
    outside: dict[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"body": "one"}\n{"body": "two"}\n')
    monkeypatch.syspath_prepend(tmp_path)

    def read() -> Rows:
        return read_rows(DatasetSpec(source=str(tmp_path / "rows.jsonl")), RuntimeOptions(cache_dir=tmp_path / "cache"), Recorder())

    plain = read()
    assert plain.facts.format == "text"
    found = []
    for asked in ("What?", "Who?"):
        (tmp_path / f"notes_{asked[:3]}.py").write_text(FORMAT % asked)
        outside["formats"] = {"notes": f"notes_{asked[:3]}:Notes"}
        found.append(read())
        assert found[-1].facts.format == "notes"
        assert asked in str(found[-1].dataset[0])
    assert len({rows.fingerprint for rows in (plain, *found)}) == 3
    outside["formats"] = {"other": f"{__name__}:Tickets"}
    assert read().fingerprint == plain.fingerprint, "a format that did not read these rows changes nothing about them"


@pytest.mark.parametrize("kind", ["class", "def"])
def test_scores_of_a_metric_that_has_changed_are_not_those_in_the_cache(
    kind: str, outside: dict[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    outside["metrics"] = {"mine": f"metric_{kind}:Mine"}
    file = tmp_path / f"metric_{kind}.py"
    file.write_text(f"{kind} Mine(): pass\n")

    def key(*metrics: str) -> str:
        return base_key("model", "rows", BenchmarkSpec(metrics=list(metrics)), seed=1, digits={"dtype": "float32"})

    ours, theirs = key("rouge"), key("mine")
    file.write_text(f"{kind} Mine(): 'better'\n")
    assert key("mine") != theirs
    assert key("rouge") == ours


def test_the_code_of_a_package_is_all_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one of them writes may be decided in another: a cache must not outlive either."""
    package = tmp_path / "measures_of_mine"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner" / "__init__.py").write_text("")
    (package / "inner" / "metric.py").write_text("class Metric:\n    pass\n")
    (package / "helper.py").write_text("WEIGHT = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_outside", lambda _: {"mine": "measures_of_mine.inner.metric:Metric"})
    before = registry.code_of("metrics", "mine")
    assert registry.code_of("metrics", "mine") == before
    (package / "helper.py").write_text("WEIGHT = 2\n")
    assert registry.code_of("metrics", "mine") != before
    assert registry.code_of("metrics", "rouge") == ""
