"""Files that are no files, folders in the wrong place, terminals and clocks that nobody thinks of: each works, or is one clear sentence."""

from __future__ import annotations

import errno
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

import finetune
from finetune.cli import main, say
from finetune.data.files import find_files
from finetune.data.reading import read_rows
from finetune.errors import BadInput, DatasetError, DatasetNotFound, HardwareError, ModelError, ModelNotFound, RecipeError
from finetune.events import Recorder
from finetune.foreign import reading
from finetune.models.location import parse
from finetune.planning.measure import _workplace
from finetune.recipe import DatasetSpec, Recipe
from finetune.runtime import RuntimeOptions
from finetune.screen.console import people
from finetune.screen.tables import fact_list, pairs
from finetune.screen.wording import as_typed, installing
from finetune.system.paths import looking_at
from finetune.system.shell import joined
from finetune.wizard.asking.prompter import drawn

ROOT = Path(__file__).parents[2]
POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")


# What is read.


def test_a_path_that_cannot_be_looked_at_is_refused_even_where_exists_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: False)  # as from Python 3.14 on
    with pytest.raises(BadInput, match=r"cannot be accessed: .+\.") as refused, looking_at("x" * 300):
        assert Path("x" * 300).exists()
    assert refused.value.hint == "Check the path and its permissions."
    for name in ("nothing_here", "org/name@main", "builtin:python-docs", "~/nothing_here"):
        with looking_at(name):
            pass


@POSIX
def test_a_recipe_may_come_through_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "recipe"
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_text, args=("seed: 7\n",), daemon=True).start()
    assert Recipe.load(pipe).seed == 7


@POSIX
def test_run_trains_the_recipe_that_comes_through_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, trained = tmp_path / "recipe", []
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_text, args=("seed: 7\n",), daemon=True).start()
    monkeypatch.setattr("finetune.command_line.commands._execute", lambda recipe, *_: trained.append(recipe.seed) or 0)
    assert main(["run", str(pipe), "--set", "training.epochs=2"]) == 0
    assert trained == [7]


@POSIX
def test_a_recipe_that_never_ends_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="/dev/zero cannot be read: it has more than 200 kB"):
        Recipe.load("/dev/zero")
    large = tmp_path / "large.yaml"
    large.write_text("seed: 7\n" + "# a comment\n" * 9_000_000)
    with pytest.raises(RecipeError, match=r"large\.yaml cannot be read: it has more than 200 kB"):
        Recipe.load(large)


@POSIX
@pytest.mark.parametrize("place", ["/dev/zero", "pipe"])
def test_data_and_models_are_files_and_folders_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    named = place if place.startswith("/") else f"./{place}"
    with pytest.raises(DatasetNotFound, match=f"{place} is neither a file nor a folder"):
        find_files(named, None, "train")
    with pytest.raises(ModelError, match=f"{place} is neither a file nor a folder"):
        parse(named)


@POSIX
def test_a_link_that_leads_to_itself_is_no_file(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(DatasetNotFound, match="There is no file"):
        find_files(f"{loop}.jsonl", None, "train")
    for named in (loop, loop / "inside"):
        with pytest.raises(DatasetError):
            find_files(str(named), None, "train")
        with pytest.raises(ModelNotFound):
            parse(str(named))


# What is in the folder of the data.


def found_in(folder: Path) -> tuple[list[str], list[str]]:
    files, notes = find_files(str(folder), None, "train")
    return [file.path.relative_to(folder).as_posix() for file in files], notes


def test_the_folder_of_the_data_may_contain_runs(tmp_path: Path) -> None:
    """Also the one that is just beginning: its log is there before the data are read, its recipe afterwards."""
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "b.jsonl").write_text('{"text": "b"}\n')
    for name, file in (("beginning", "debug.log"), ("more/earlier", "recipe.yaml")):
        (tmp_path / name / "run").mkdir(parents=True)
        (tmp_path / name / "run" / file).touch()
        (tmp_path / name / "tokenizer.json").write_text("{}")
        (tmp_path / name / "run" / "events.jsonl").write_text("{}\n")
    files, notes = found_in(tmp_path)
    assert files == ["a.jsonl", "more/b.jsonl"]
    assert notes == [f"Not read in {tmp_path.name}: beginning (a run), {Path('more/earlier')} (a run)."]


@POSIX
def test_links_to_folders_are_not_followed_and_that_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "b.jsonl").write_text('{"text": "b"}\n')
    (folder / "a.jsonl").symlink_to(tmp_path / "b.jsonl")
    for name in ("around", ".hidden"):
        (folder / name).symlink_to(tmp_path)
    assert found_in(folder) == (["a.jsonl"], ["Not read in data: around (a link to a folder)."])


def test_a_folder_that_cannot_be_entered_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def closed(place: Any = ".") -> Any:
        if str(place).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DatasetError, match=r"closed cannot be read: Permission denied\."):
        find_files(str(tmp_path), None, "train")


NAMES = [
    'quo"te.jsonl',
    "apos'trophe.jsonl",
    "back`tick $HOME.jsonl",
    "new\nline.jsonl",
    "emoji \U0001f469\u200d\U0001f467.jsonl",
    "\u202eright to left\u2066.jsonl",
    "\u05e2\u05d1\u05e8\u05d9\u05ea.jsonl",
]


@POSIX
@pytest.mark.parametrize("name", NAMES)
def test_files_of_any_name_are_read_and_named_in_recipes_and_commands(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text('{"text": "a"}\n{"text": "b"}\n')
    found = read_rows(DatasetSpec(source=str(path)), RuntimeOptions(cache_dir=tmp_path / "cache"), Recorder())
    assert (len(found), found.facts.files) == (2, [name])
    Recipe.from_layers({"dataset": str(path)}).save(tmp_path / "recipe.yaml")
    assert Recipe.load(tmp_path / "recipe.yaml").dataset.source == str(path)
    assert shlex.split(joined(["--set", f"dataset.source={path}"])) == ["--set", f"dataset.source={path}"]


# Where things are kept.


def test_a_tilde_in_the_name_of_the_cache_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("FINETUNE_CLI_CACHE", "~/my cache")
    assert RuntimeOptions().cache_dir == tmp_path / "my cache"


def test_where_there_is_no_place_for_temporary_files_the_cache_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune.command_line.arguments import parser
    from finetune.command_line.commands import _runtime

    def nowhere() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", nowhere)
    monkeypatch.setenv("TMPDIR", "/nowhere")
    monkeypatch.setenv("FINETUNE_CLI_CACHE", str(tmp_path / "cache"))
    _runtime(parser().parse_args(["doctor"]))
    assert os.environ["TMPDIR"] == str(tmp_path / "cache")
    with tempfile.TemporaryDirectory() as made:
        assert Path(made).parent == tmp_path / "cache"


def test_measuring_first_in_a_cache_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HardwareError, match=r"The cache folder .* cannot be written"):
        _workplace(tmp_path / "file" / "cache")


# Terminals and clocks.


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", ["1", "2", "10"])
def test_errors_are_told_on_the_narrowest_terminal(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "stderr", Screen())
    said, hint = "There is no recipe file a.yaml.", "Check the path."
    say(said, hint)
    assert sys.stderr.getvalue().split() == [*said.split(), *hint.split()]  # type: ignore[attr-defined]


@pytest.mark.parametrize("columns", ["1", "19", "80"])
def test_tables_lose_nothing_on_the_narrowest_terminal(
    monkeypatch: pytest.MonkeyPatch, columns: str, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    console = people()
    console.print(fact_list([("memory", "32 GB, 16 GB free", True), ("disk", "70 GB free", True)]))
    console.file.flush()
    assert "".join(capfd.readouterr().out.split()).replace("memory", "").replace("disk", "") == "32GB,16GBfree70GBfree"
    plain = drawn(pairs([("Model", "org/model"), ("Rows", "100")]), int(columns))
    assert {"Model", "Rows", "100"} <= set(plain.split())


def test_help_is_as_narrow_as_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    _, help = capsys.readouterr().out.split("Run a recipe.")
    assert max(map(len, help.splitlines())) < 40, "usage is laid out by argparse"


@pytest.mark.parametrize("command", [["runs", "."], ["doctor"], ["schema"], ["run", "missing.yaml"], ["--help"]])
def test_commands_work_on_the_narrowest_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "1")
    monkeypatch.chdir(tmp_path)
    try:
        code = main(command)
    except SystemExit as leaving:  # of argparse
        code = int(leaving.code or 0)
    assert code == (2 if command[0] == "run" else 0), capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), [("HF_ENDPOINT", "http://[::1"), ("HF_HUB_ETAG_TIMEOUT", "soon")])
def test_variables_that_the_library_of_the_hub_does_not_understand(tmp_path: Path, name: str, value: str) -> None:
    (tmp_path / "recipe.yaml").write_text("model: org/model\n")
    environment = {key: old for key, old in os.environ.items() if not key.startswith("HF_")} | {name: value}
    command = [sys.executable, str(ROOT / "finetune_cli.py"), "plan", "recipe.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert f"huggingface_hub does not understand the value of {name}: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EIO, "Input/output error", "/data/rows.arrow"), "/data/rows.arrow cannot be used: Input/output error."),
        (OSError(errno.EROFS, "Read-only file system", b"run/\xff"), "run/? cannot be used: Read-only file system."),
        (MemoryError(), "There is not enough memory."),
        (ModuleNotFoundError("No module named 'evaluate'", name="evaluate"), "The Python package evaluate is missing."),
        (ValueError("what?"), "Unexpected error: ValueError: what?"),
    ],
)
def test_what_breaks_in_the_machine_is_told_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    def breaks(arguments: object) -> int:
        raise error

    monkeypatch.setattr("finetune.command_line.commands.schema", breaks)
    monkeypatch.chdir(tempfile.gettempdir())
    assert main(["schema"]) == 1
    project = Path(finetune.__file__).parents[1]  # not that of a checkout where it is installed
    how = f": {installing()} {shlex.quote(str(project))}" if (project / "pyproject.toml").is_file() else "."
    install = f"Install the program with its dependencies{how}"
    hint = install if isinstance(error, ModuleNotFoundError) else "Run the command again with --debug to see where it happened."
    assert capfd.readouterr().err.splitlines() == [said, hint]
    with pytest.raises(type(error)):
        main(["schema", "--debug"])


@pytest.mark.parametrize(
    ("error", "said", "hint"),
    [
        (RuntimeError("can't start new thread"), "no more threads or processes.", "ulimit -u"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "no more threads or processes.", "ulimit -u"),
        (OSError(errno.EMFILE, "Too many open files", "tokenizer.json"), "no more open files.", "ulimit -n"),
    ],
)
def test_a_limit_of_the_system_is_no_damaged_file(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: Exception, said: str, hint: str
) -> None:
    def breaks(arguments: object) -> int:
        raise error

    with pytest.raises(HardwareError, match=said), reading("tokenizer.json"):
        breaks(None)
    monkeypatch.setattr("finetune.command_line.commands.schema", breaks)
    assert main(["schema"]) == 1
    first, second = capfd.readouterr().err.splitlines()
    assert first == f"The system allows this program {said}"
    assert hint in second


@pytest.mark.parametrize(
    ("made_by", "pip", "python", "is_here", "typed"),
    [
        ("pip", "/venv/bin/pip", "/venv/bin/python", True, "pip install"),
        ("not activated", "/usr/bin/pip", "/usr/bin/python", True, "/venv/bin/python -m pip install"),
        ("Windows", None, "/venv/bin/python", True, "python -m pip install"),
        ("uv", "/usr/bin/pip", "/venv/bin/python", False, "uv pip install --python /venv/bin/python"),
        ("pipx", "/usr/bin/pip", "/usr/bin/python", False, "pipx inject finetune-wizard"),
    ],
)
def test_what_is_missing_is_installed_for_this_python(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    made_by: str,
    pip: str | None,
    python: str,
    is_here: bool,
    typed: str,
) -> None:
    (tmp_path / f"{made_by}_metadata.json").touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr("shutil.which", {"pip": pip, "python": python}.get)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: sys.__spec__ if is_here else None)
    monkeypatch.setattr(sys, "executable", "/venv/bin/python")
    assert as_typed("Install it: pip install lm_eval") == f"Install it: {typed} lm_eval", made_by
    say("QLoRA needs bitsandbytes: pip install bitsandbytes.")
    assert capsys.readouterr().err == f"QLoRA needs bitsandbytes: {typed} bitsandbytes.\n"


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 10, 13)])
def test_a_python_that_is_too_old_is_told_which_is_needed(tmp_path: Path, version: tuple[int, ...]) -> None:
    needed = re.search(r'^requires-python = ">=(\S+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    code = f"import runpy, sys; sys.version_info = {version}; runpy.run_path({str(ROOT / 'finetune_cli.py')!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert needed
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"This is Python {version[0]}.{version[1]}, and finetune-cli needs Python {needed[1]} or newer.",
        f"Make an environment with a newer one, such as: python{needed[1]} -m venv .venv",
    ]
