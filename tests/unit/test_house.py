"""The rules of the house that a program can check: style, types, size of files, one boundary for errors, exact public names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import finetune

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    [ROOT / "finetune_cli.py", *(path for part in ("finetune", "tests", "benchmarks", "docs") for path in (ROOT / part).rglob("*.py"))]
)
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(path for path in (ROOT / ".github").rglob("*") if path.is_file())]
OTHERS = [
    *ROOT.glob("*.toml"),
    ROOT / "Dockerfile",
    ROOT / ".pre-commit-config.yaml",
    ROOT / ".ci" / "run",
    *(ROOT / "finetune").rglob("*.yaml"),
]
TEXTS = sorted([*SOURCES, *DOCUMENTS, *OTHERS])
LINES = 400

# Where any error at all may end, and why.
BOUNDARIES = {
    "finetune/cli.py": 1,  # the door: an error becomes a sentence and an exit code
    "finetune/events.py": 1,  # a run does not end because somebody cannot hear of it
    "finetune/hub/reachability.py": 1,  # whatever stops a probe of the network means that there is none
    "finetune/training/tracker_callback.py": 1,  # whatever goes wrong in somebody's tracker must not end a training
    "finetune/wizard/asking/prompter.py": 1,  # an answer that cannot be checked must not cost the others
    "tests/engine/fuzz.py": 1,  # whatever a damaged file brings about is what it looks for
    "tests/engine/older_reads.py": 1,  # whatever an older library says of one folder must not hide the others
}
# finetune/foreign.py and finetune/models/templates/chat_template.py catch everything too, and raise it again as a sentence.
PUBLIC = {"LLMFineTuner", "RunResult", "DistillationTrainer", "Recipe", "RuntimeOptions", "PlainReporter", "FinetuneError"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


TYPES = ["mypy"] if (ROOT / ".mypy_cache").is_dir() else ["mypy", "--no-incremental"]  # writing what only a next time reads takes a quarter


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "--no-cache", "."],
        ["ruff", "format", "--no-cache", "--check", "."],
        TYPES,
    ],
    ids=["lint", "format", "types"],
)
def test_the_checkers_are_content(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_script_says_what_it_measures() -> None:
    scripts = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py")}
    mute = [name for name, text in scripts.items() if "__main__" in text and "ArgumentParser(description=" not in text]
    assert mute == []


def test_files_stay_short_enough_to_read() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: length for name, length in lengths.items() if length > LINES} == {}


def test_every_file_says_what_it_is_for() -> None:
    silent = [path for path in SOURCES if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    assert list(map(name_of, silent)) == []


def test_errors_are_caught_by_name_except_at_the_boundaries() -> None:
    found = {name_of(path): catch_alls(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert {name: count for name, count in found.items() if count} == BOUNDARIES


def catch_alls(source: str) -> int:
    """How many handlers end any error: bare, Exception or BaseException, also inside a tuple; those that raise it again do not count."""
    handlers = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ExceptHandler)]
    ending = [handler for handler in handlers if not isinstance(handler.body[-1], ast.Raise)]
    caught = [
        {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)} if handler.type else {"Exception"} for handler in ending
    ]
    return sum(bool(names & {"Exception", "BaseException"}) for names in caught)


@pytest.mark.parametrize("source", ["except:", "except Exception:", "except (OSError, BaseException) as error:"])
def test_the_check_for_catch_alls_sees_them(source: str) -> None:
    assert catch_alls(f"try:\n    pass\n{source}\n    pass\n") == 1
    assert catch_alls("try:\n    pass\nexcept (OSError, ValueError):\n    pass\n") == 0


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    place = re.compile(r"(?<![\w.$}~-])/(?:work|tmp|root|mnt|Users|home/(?!ada/))\b[/\w.-]*")
    found = {
        f"{name_of(path)}: {match.group()}"
        for path in TEXTS
        if path != Path(__file__)
        for match in place.finditer(path.read_text(encoding="utf-8"))
    }
    assert found == set()


def test_the_engine_neither_prints_nor_asks() -> None:
    speakers = re.compile(r"^finetune/(cli|command_line/|screen/|wizard/)")
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in SOURCES
        if name_of(path).startswith("finetune/") and not speakers.match(name_of(path))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "input")
    ]
    assert found == []


@pytest.mark.slow
def test_the_public_names_are_exact_and_all_there() -> None:
    assert set(finetune.__all__) == PUBLIC
    assert len(finetune.__all__) == len(PUBLIC)
    stub = ast.parse((ROOT / "finetune" / "__init__.pyi").read_text())  # what editors and type checkers read instead
    imported = {name.asname: found.module for found in stub.body if isinstance(found, ast.ImportFrom) for name in found.names}
    assert imported == finetune._PUBLIC
    for name in finetune.__all__:
        assert getattr(finetune, name).__doc__, name
    with pytest.raises(AttributeError, match="Tuner"):
        _ = finetune.Tuner  # type: ignore[attr-defined]


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, finetune; print([name for name in ('torch', 'transformers', 'pydantic', 'yaml') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_reads_as_one_page_and_only_the_finetuner_writes_into_itself() -> None:
    tuner = ast.parse((ROOT / "finetune" / "run" / "finetuner.py").read_text(encoding="utf-8"))
    (run,) = [node for node in ast.walk(tuner) if isinstance(node, ast.FunctionDef) and node.name == "run"]
    assert run.end_lineno is not None
    assert run.end_lineno - run.lineno < 40
    written = [
        f"{name_of(path)}:{node.lineno}"
        for path in SOURCES
        if name_of(path).startswith("finetune/")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del)
        if isinstance(node.value, ast.Name) and node.value.id in ("tuner", "context")
    ]
    assert [place for place in written if not place.startswith("finetune/run/finetuner.py")] == []


def test_scripts_have_the_line_ends_that_bash_reads_on_windows_too() -> None:
    assert "* text=auto eol=lf" in (ROOT / ".gitattributes").read_text(encoding="utf-8").splitlines()
    assert not [path.name for path in (ROOT / ".ci").iterdir() if b"\r" in path.read_bytes()]
