"""Who imports whom: the first question waits for no torch, the layers hold, and no files import each other in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "datasets", "peft")

EVERY_STEP = """
import os, sys, tempfile
sys.path.insert(0, {root!r})
os.chdir(tempfile.mkdtemp())
from finetune.hardware.machine import glance
from finetune.runtime import RuntimeOptions
from finetune.wizard import ask_recipe
from finetune.wizard.host import HostInfo
from finetune.wizard.asking.prompter import ScriptedPrompter
from finetune.wizard import conversation, step6_upload
from finetune.wizard.asking import plain, terminal
for approach in ("fine-tuning", "distillation"):
    prompter = ScriptedPrompter({{"approach": approach, "advanced": True}}, otherwise_default=True)
    ask_recipe(prompter, lambda: HostInfo(glance(), False, RuntimeOptions()))
    assert "STEP 5 Benchmark" in prompter.shown
print([module for module in {heavy!r} if module in sys.modules])
"""

FIRST_QUESTION = """
import sys
sys.path.insert(0, {root!r})
from finetune import cli
from finetune.command_line import commands
from finetune.wizard import conversation, step0_approach
from finetune.wizard.asking.terminal import TerminalPrompter
print([module for module in {modules!r} if module in sys.modules])
"""


HELP = """
import contextlib, io, sys
sys.path.insert(0, {root!r})
from finetune.cli import main
said = io.StringIO()
for given in (["--help"], ["run", "--help"], ["schema"]):
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main(given)
assert "Forward KL" in said.getvalue() and "LoRA" in said.getvalue()
print([module for module in {heavy!r} if module in sys.modules])
"""


def imported_by(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_step_of_the_wizard_imports_the_engines_libraries() -> None:
    assert imported_by(EVERY_STEP.format(root=str(ROOT), heavy=HEAVY)) == "[]"


def test_the_first_question_needs_neither_recipe_nor_tables() -> None:
    modules = (*HEAVY, "pydantic", "rich.table", "huggingface_hub", "numpy")
    assert imported_by(FIRST_QUESTION.format(root=str(ROOT), modules=modules)) == "[]"


def test_help_and_mistakes_need_none_of_it_either() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from finetune.cli import main; main(['runn']); main(['run', 'missing.yaml']); "
    assert imported_by(code + f"print([module for module in {HEAVY!r} if module in sys.modules])") == "[]"


def test_help_with_every_method_and_objective_and_the_schema_need_no_engine() -> None:
    assert imported_by(HELP.format(root=str(ROOT), heavy=HEAVY)) == "[]"


def test_the_layers_of_the_house_hold() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "KEPT" in done.stdout


def imports_of(package: Path) -> dict[str, set[str]]:
    """For each file of a package the files it imports: at any depth of its code, for types only too."""
    files = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): path for path in package.rglob("*.py")
    }
    found: dict[str, set[str]] = {}
    for name, path in files.items():
        imported: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}: imports of this project name the whole path"
                parts = {f"{node.module}.{alias.name}" for alias in node.names}
                imported |= {part if part in files else str(node.module) for part in parts}
        found[name] = (imported & files.keys()) - {name}
    return found


def circles(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """What is left of a graph when files that import nothing of the rest, and files that nothing of the rest imports, are taken away."""
    left = {name: set(others) for name, others in graph.items()}
    while True:
        imported = set().union(*left.values()) if left else set()
        ends = {name for name, others in left.items() if not others or name not in imported}
        if not ends:
            return left
        left = {name: others - ends for name, others in left.items() if name not in ends}


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = imports_of(ROOT / "finetune")
    assert len(graph) > 150
    assert circles(graph) == {}


def test_the_search_for_circles_finds_them() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a"}}) == {"a": {"b"}, "b": {"c"}, "c": {"a"}}
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {}
