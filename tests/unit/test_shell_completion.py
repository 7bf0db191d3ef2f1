"""Tab in real shells: the script is sourced, and the shell is asked what it would offer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

pytestmark = pytest.mark.slow  # each starts a shell or the program

ROOT = Path(__file__).parents[2]
SHELLS = ("bash", "zsh", "fish")
HEAVY = {"torch", "transformers", "datasets", "peft", "pydantic", "rich", "yaml", "huggingface_hub"}
ASK_BASH = """
eval "$(finetune-cli completion bash)"
COMP_LINE="$1" COMP_POINT=${#1} COMP_TYPE=9
$(complete -p finetune-cli | sed 's/.* -F \\([^ ]*\\) .*/\\1/') finetune-cli
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe, a run and another folder; `finetune-cli` is on the PATH."""
    program = tmp_path / "bin" / "finetune-cli"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT / "finetune_cli.py"}" "$@"\n')
    program.chmod(0o755)
    here = tmp_path / "here"
    for run in ("run one", "two"):
        (here / run / "run").mkdir(parents=True)
        (here / run / "run" / "recipe.yaml").touch()
    (here / "other").mkdir()
    for file in ("mine.yaml", "rows.jsonl"):
        (here / file).touch()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.chdir(here)
    return here


def offered(shell: str, line: str) -> list[str]:
    """What bash or fish would complete a line with, without what the word begins with and without descriptions."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    code = ["bash", "-c", ASK_BASH, "ask", line]
    if shell == "fish":
        code = ["fish", "--no-config", "-c", 'finetune-cli completion fish | source; complete -C "$argv[1]"', line]
    done = subprocess.run(code, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return [word.partition("\t")[0].strip().replace("\\ ", " ") for word in done.stdout.splitlines() if word.strip()]


@pytest.mark.parametrize("shell", ["bash", "fish"])
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("finetune-cli ru", ["run", "runs"]),
        ("finetune-cli completion ", ["bash", "fish", "zsh"]),
        ("finetune-cli run ", ["mine.yaml", "other/", "run one/", "two/"]),
        ("finetune-cli resume ", ["other/", "run one", "two"]),
        ("finetune-cli runs compare t", ["two"]),
        ("finetune-cli run mine.yaml --output-dir o", ["other/"]),
        ("finetune-cli run mine.yaml --se", ["--set"]),
        ("finetune-cli run mine.yaml --set training.ep", ["training.epochs="]),
        ("finetune-cli --yes --set method.r", ["method.r=", "method.rslora="]),
        ("finetune-cli --device c", ["cpu", "cuda"]),
        ("finetune-cli upload two --repo ", []),
        ("finetune-cli nowhere/", []),
        ("finetune-cli run nowhere/", []),
        ("finetune-cli run 'mi", ["mine.yaml"]),
    ],
)
def test_bash_and_fish_offer_what_may_come_next(shell: str, line: str, words: list[str], place: Path) -> None:
    assert sorted(word.strip("'") for word in offered(shell, line)) == words


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_after_the_equals_sign_come_the_values_of_a_key(shell: str, place: Path) -> None:
    found = offered(shell, "finetune-cli run mine.yaml --set distillation.objective=skew")
    assert sorted(word.removeprefix("distillation.objective=") for word in found) == ["skew_forward_kl", "skew_reverse_kl"]


def test_zsh_completes_a_line_as_it_is_typed(place: Path) -> None:
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    shell = pexpect.spawn("zsh", ["-f", "-i"], encoding="utf-8", dimensions=(40, 120), timeout=30, env={**os.environ, "TERM": "dumb"})
    shell.sendline('autoload -U compinit; compinit -u -D; eval "$(finetune-cli completion zsh)"; echo rea""dy')
    shell.expect("ready")
    for typed, whole in (("run mine.yaml --set training.ep", "training.epochs="), ("resume tw", "resume two")):
        shell.send(f"finetune-cli {typed}\t")
        shell.expect(whole)
        shell.send("\x15")  # the line is taken back
    shell.sendline("exit")
    shell.expect(pexpect.EOF)


def answer(line: str, place: Path) -> tuple[str, set[str]]:
    """What the program itself answers a shell, and the top-level modules that it imported for that."""
    reply = place / "reply"
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_STDOUT_FILENAME": str(reply)}
    command = [sys.executable, "-X", "importtime", str(ROOT / "finetune_cli.py")]
    done = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == ""
    imported = [said for said in done.stderr.splitlines() if said.startswith("import time:")]
    assert len(imported) == len(done.stderr.splitlines()), "nothing else is printed"
    return reply.read_text(), {said.rpartition("|")[2].strip().partition(".")[0] for said in imported}


def test_what_is_asked_decides_what_is_imported(place: Path) -> None:
    commands, imported = answer("finetune-cli ", place)
    assert "completion" in commands
    assert imported & HEAVY == set()
    keys, imported = answer("finetune-cli --set ", place)
    assert "training.epochs=" in keys
    assert imported & HEAVY <= {"pydantic", "yaml"}


@pytest.mark.parametrize("line", ["finetune-cli run '", 'finetune-cli run "a b', "finetune-cli --set =", "finetune-cli --sett x "])
def test_odd_lines_are_answered_without_noise(line: str, place: Path) -> None:
    answer(line, place)


def test_another_shell_is_refused_in_a_sentence(place: Path) -> None:
    done = subprocess.run(["finetune-cli", "completion", "tcsh"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "SHELL cannot be tcsh.\nChoose from bash, zsh, fish.\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_ends_with_where_it_goes(shell: str, place: Path) -> None:
    done = subprocess.run(["finetune-cli", "completion", shell], capture_output=True, text=True, timeout=60, check=True)
    assert f"finetune-cli completion {shell}" in done.stdout.splitlines()[-1]
    assert done.stderr == ""
