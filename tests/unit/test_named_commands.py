"""Every flag, command and recipe key that a hint, a help text or a document names is real."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from finetune.command_line.arguments import ANYWHERE, COMMANDS, parser
from finetune.recipe import known_keys

ROOT = Path(__file__).parents[2]
DOCUMENTS = [path for pattern in ("*.md", "docs/*.md", ".github/**/*.md") for path in sorted(ROOT.glob(pattern))]
SCRIPTS = "|".join(path.stem for path in (ROOT / "benchmarks").glob("*.py"))
PROGRAM = re.compile(
    r"(?P<ours>finetune-cli|finetune_cli\.py)(?: (?P<command>[a-z]+)(?![\w.=]))?"
    rf"|\b(?P<script>{SCRIPTS})\.py\b"
    r"|\b(?:pip|pipx|uv|hf|git|gh|pytest|python -m \w+|docker|ruff|mypy|pre-commit|lint-imports|apt-get|nvidia_smi)(?= )"
    r"|\b(?:torchrun|SBATCH|srun|ray start|kubectl|vllm serve)(?= )"
    r"|\bmlx_lm\.(?:chat|generate)(?= )"
)
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
SET = re.compile(r"--set[ =]['\"]?([a-z][\w.]*)=")
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
CLAUSE = re.compile(r"`|[,;] |\. |&&| or ")  # what follows one of these is about something else


@cache
def options() -> dict[str | None, set[str]]:
    """The options of each command, and under None those of all."""
    root = parser()
    (commands,) = (action.choices for action in root._actions if isinstance(action, argparse._SubParsersAction))
    found = {name: {option for action in made._actions for option in action.option_strings} for name, made in commands.items()}
    without = {option for action in root._actions for option in action.option_strings}
    return {**found, "": without, None: without.union(*found.values())}


@cache
def options_of_script(name: str) -> set[str]:
    return set(re.findall(r'"(--[\w-]+)"', (ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")))


def wrong(text: str) -> Iterator[str]:
    """What a text names and nobody has. A flag is that of the program before it in its clause; without one, of any command of ours.

    Documents may speak of the flags of a benchmark that they have named.
    """
    named = set().union(*(options_of_script(match["script"]) for match in PROGRAM.finditer(text) if match["script"]))
    for clause in (clause for line in text.replace("\\\n", "").splitlines() for clause in CLAUSE.split(line)):
        programs = list(PROGRAM.finditer(clause))
        for program in programs:
            if program["command"] and program["command"] not in COMMANDS:
                yield f"command {program['command']}"
        for flag in FLAG.finditer(clause):
            program = next((program for program in reversed(programs) if program.end() <= flag.start()), None)
            if program is None:
                known = options()[None] | named
            elif program["script"]:
                known = options_of_script(program["script"])
            elif program["ours"]:
                known = options().get(program["command"] or "", set())
            else:
                continue
            if flag[0] not in known:
                yield f"{flag[0]} of {program[0] if program else 'any command'}"
        yield from (f"key {match[1]}" for match in SET.finditer(clause) if match[1] not in set(known_keys()))


def strings(source: str) -> Iterator[str]:
    """Strings as people read them: … where an f-string has a value, and a list of words and variables as a line of them."""
    inside: set[int] = set()
    for node in ast.walk(ast.parse(source)):  # from outside to inside
        if isinstance(node, ast.JoinedStr | ast.List) and id(node) not in inside:
            parts = node.values if isinstance(node, ast.JoinedStr) else node.elts
            inside.update(id(part) for part in ast.walk(node))
            yield ("" if isinstance(node, ast.JoinedStr) else " ").join(map(spoken, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


def spoken(part: ast.AST) -> str:
    if isinstance(part, ast.JoinedStr):
        return "".join(map(spoken, part.values))
    if isinstance(part, ast.Starred | ast.Name):
        return spoken(part.value) if isinstance(part, ast.Starred) else part.id
    return str(part.value) if isinstance(part, ast.Constant) else "…"


def test_what_the_program_says_is_real() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name} in {text[:80]!r}"
        for path in (ROOT / "finetune").rglob("*.py")
        for text in strings(path.read_text(encoding="utf-8"))
        if "var(--" not in text  # a style sheet
        for name in wrong(text)
    }
    assert found == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_what_the_documents_say_is_real(path: Path) -> None:
    code = CODE.findall(path.read_text(encoding="utf-8"))  # the rest is sentences: "finetune-cli has"
    assert list(wrong("\n".join(code))) == []


def test_what_the_help_says_is_real_and_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    root = parser()
    (commands,) = (action.choices for action in root._actions if isinstance(action, argparse._SubParsersAction))
    overview = root.format_help()
    for text in (overview, *(made.format_help() for made in commands.values())):
        assert list(wrong(text)) == []
        assert max(map(len, text.splitlines())) <= 80
    for name in (*COMMANDS, "--yes", "--version", *ANYWHERE):
        assert re.search(rf"^  .*{name}\b", overview, re.MULTILINE), name


@pytest.mark.parametrize(
    "text",
    [
        "Use --dtipe auto",
        "finetune-cli chatt my_model",
        "Use `finetune-cli runn recipe.yaml`",
        "finetune-cli upload X --both",
        "finetune-cli --measure",
        "python benchmarks/plan.py --both",
        "--set training.epoch=1",
        "--yes --set training.epoch=1",
        "pip install x, then finetune-cli run X --measure",
    ],
)
def test_the_check_sees_what_is_not_real(text: str) -> None:
    assert list(wrong(text))


@pytest.mark.parametrize(
    "text",
    [
        "pip install --upgrade x",
        "git commit --amend",
        "finetune-cli chat X --both --device cpu",
        "`finetune-cli` is the same program",
        "finetune-cli merge X, then --set model=Y",
        "python benchmarks/plan.py --only lora; `--count 3`",
    ],
)
def test_the_check_lets_pass_what_is(text: str) -> None:
    assert list(wrong(text)) == []


def test_strings_are_read_as_people_do() -> None:
    source = 'say(f"--set {key}=1", [*pip, "--quiet", f"--dest={folder}"], "--json")'
    assert sorted(strings(source)) == ["--json", "--set …=1", "pip --quiet --dest=…"]
