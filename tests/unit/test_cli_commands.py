"""The command line as a program: exit codes, one clear sentence, nothing asked without a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.cli import main
from finetune.command_line.arguments import parser
from finetune.errors import BadInput

pytestmark = pytest.mark.slow  # some start the program

ROOT = Path(__file__).parents[2]
SYSTEM = {
    name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TEMP") if name in os.environ
}  # without the last two no Python on Windows


def cli(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    home = str(folder or Path.home())
    return subprocess.run(
        [sys.executable, str(ROOT / "finetune_cli.py"), *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**SYSTEM, "HOME": home, "USERPROFILE": home, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
    )


@pytest.mark.parametrize(("module", "named"), [("finetune", "python -m finetune"), ("finetune.cli", "finetune-cli")])
def test_python_runs_the_package_as_the_command(module: str, named: str, tmp_path: Path) -> None:
    if module == "finetune":
        (tmp_path / "argparse.py").write_text("raise SystemExit('not yours')")  # of the folder where somebody works
    env = {**SYSTEM, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", module, "plan"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert f"`{named} plan --help`" in done.stderr


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert 1 <= len(done.stderr.strip().splitlines()) <= 3, done.stderr
    for word in words:
        assert word in done.stderr
    assert done.stdout == ""


def test_without_a_terminal_the_missing_flag_is_named(tmp_path: Path) -> None:
    refused(cli(folder=tmp_path), "--yes")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "missing.yaml"], ["missing.yaml"]),
        (["run"], ["RECIPE is missing", "run RECIPE"]),
        (["export", "here"], ["--to is missing", "export OUTPUT_DIR --to KIND"]),
        (["compare", "a", "b"], ["Did you mean runs compare?"]),
        (["run", "."], [". is a folder, not a recipe"]),
        (["plan", "rows.csv"], ["rows.csv is a data file, not a recipe", "step 2"]),
        (["rum", "recipe.yaml"], ["rum", "Did you mean run?"]),
        (["run", "recipe.yaml", "--sett", "a=1"], ["--sett", "Did you mean --set?"]),
        (["--yess"], ["--yess", "Did you mean --yes?"]),
        (["export", "a", "--to", "gguf", "--output-dir", "b"], ["no option --output-dir here. Did you mean --to-dir?", "export --help"]),
        (["merge", "a", "b"], ["b is one argument too many."]),
        (["merge", "a", "b=1"], ["b=1 is one argument too many."]),
        (["run", "a.yaml", "--set", "a.b=1", "c.d=x y"], ["There is no --set before c.d.", "--set KEY=VALUE --set KEY=VALUE"]),
        (["--yes", "--set", "a.b=1", "c.d=x y"], ["There is no --set before c.d."]),
        (["check", "a.yaml"], ["There is no command check. Did you mean plan?"]),
        (["run", "recipe.yaml", "--set", "training.epochs=-1"], ["training.epochs", "greater than 0", "-1"]),
        (["run", "recipe.yaml", "--set", "dataset.max_length=0"], ["dataset.max_length", "8"]),
        (["run", "recipe.yaml", "--set", "training.epoch=1"], ["training.epoch", "Did you mean training.epochs?"]),
        (["run", "recipe.yaml", "--set", "epochs"], ["KEY.PATH=VALUE"]),
        (["run", "recipe.yaml", "--set", "distillation.alpha=1.2"], ["distillation.alpha", "1.2"]),
        (["run", "recipe.yaml", "--set", "distillation.temperature=0"], ["distillation.temperature"]),
        (["run", "broken.yaml"], ["broken.yaml", "YAML"]),
        (["run", "recipe.yaml", "--device", "toaster"], ["--device", "toaster"]),
        (["upload", "nothing_here", "--repo", "me/mine"], ["nothing_here"]),
        (["benchmark", "nothing_here"], ["nothing_here"]),
        (["chat", "nothing_here"], ["There is no folder nothing_here."]),
        (["resume", "recipe.yaml"], ["recipe.yaml is not a run folder", "an interrupted run"]),
        (["--set", "training.epochs=-1", "run", "recipe.yaml"], ["training.epochs", "-1"]),
        (["--set", "training.epochs=-1", "run", "recipe.yaml", "--set", "seed=2"], ["training.epochs", "-1"]),
        (["--output-dir", "recipe.yaml", "run", "recipe.yaml"], ["recipe.yaml is a file"]),
        (["--output-dir=elsewhere", "chat", "nothing_here"], ["no option --output-dir"]),
        (["--yes", "run", "recipe.yaml"], ["no option --yes"]),
        (["--plain", "chat", "nothing_here"], ["nothing_here"]),
        (["run", "recipe.yaml", "--output-dir", "."], ["output folder .", "not empty", "--output-dir ", "-2"]),
        (["run", "recipe.yaml", "--output-dir", "recipe.yaml/x"], ["recipe.yaml/x cannot be made", "recipe.yaml is a file"]),
        (["run", "recipe.yaml", "--output-dir", "~nobodyhere/x"], ["~nobodyhere/x", "user"]),
        (["run", "recipe.yaml", "--output-dir", "x" * 300], ["xxx", "too long"]),
        (["plan", "recipe.yaml", "--output-dir", "x" * 300], ["xxx", "too long"]),
        (["chat", "x" * 300], ["xxx", "too long"]),
        (["runs", "x" * 300], ["xxx", "too long"]),
        (["runs", "~nobodyhere"], ["~nobodyhere", "user"]),
        (["plan", "recipe.yaml", "--device", "cpu", "--dtype", "float16"], ["--dtype float16", "cpu"]),
        (["--set", "seed=1"], ["--yes"]),
        (["--yes", "--set", "approach=distilation"], ["approach"]),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "dumb")  # as --plain makes it
    (tmp_path / "recipe.yaml").write_text("seed: 1\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    refused(subprocess.CompletedProcess(arguments, main(arguments), *capfd.readouterr()), *words)
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == ["broken.yaml", "recipe.yaml", "rows.csv"]


def test_debug_shows_where_an_error_came_from(tmp_path: Path) -> None:
    done = cli("run", "missing.yaml", "--debug", folder=tmp_path)
    assert "Traceback" in done.stderr


def test_help_names_every_command(tmp_path: Path) -> None:
    done = cli("--help", folder=tmp_path)
    assert done.returncode == 0
    for command in ("run", "plan", "benchmark", "upload", "chat", "doctor", "--yes"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--set"], "--set needs a value."),
        (["--nodes", "1.5"], "--nodes must be a whole number, not 1.5."),
        (["--nproc", "0"], "--nproc: 0 is neither auto nor a number of 1 or more."),
    ],
)
def test_a_value_that_is_missing_or_wrong_is_told_with_its_option(given: list[str], said: str) -> None:
    with pytest.raises(BadInput) as refused:
        parser().parse_args(["run", "recipe.yaml", *given])
    assert refused.value.message == said


def test_help_has_no_colours(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # argparse would add them from Python 3.14 on, whatever --no-color says
    with pytest.raises(SystemExit):
        parser().parse_args(["run", "--help"])
    assert "\x1b" not in capsys.readouterr().out


def test_doctor_as_json_is_one_object(tmp_path: Path) -> None:
    done = cli("doctor", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"python", "memory", "hub"} <= set(json.loads(done.stdout))
