"""Words of printed commands in the shells people have: what a program gets back is what was meant."""

from __future__ import annotations

import shlex
import subprocess

import pytest

from finetune.publish.upload import command
from finetune.recipe.settings import UploadSpec
from finetune.system import shell

WORDS = ["plain-1", "out dir", "café", "it's", "$HOME", "50%", "a&b", "back`tick", "C:\\my model", "C:\\my end\\", 'x={"a": 1}', ""]


@pytest.fixture
def in_shell(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    monkeypatch.setattr(shell, "shell_name", lambda: request.param)
    return str(request.param)


@pytest.mark.parametrize("in_shell", ["posix"], indirect=True)
def test_a_posix_shell_gives_the_words_back(in_shell: str) -> None:
    assert shlex.split(shell.joined(WORDS)) == WORDS


@pytest.mark.parametrize("in_shell", ["cmd"], indirect=True)
def test_cmd_gives_the_words_back(in_shell: str) -> None:
    for word in WORDS:
        typed = shell.quoted(word)
        assert arguments_of(typed.replace("^%", "%")) == [word], "a caret outside quotes is taken away by cmd"
        assert "%" not in typed.replace('"^%"', ""), "no variable is named"
    assert shell.quoted("out dir") == '"out dir"'
    assert shell.quoted("50%") == '"50"^%""'
    assert shell.quoted(r"C:\runs\model") == r"C:\runs\model"


@pytest.mark.parametrize("in_shell", ["powershell", "pwsh"], indirect=True)
def test_powershell_gives_the_words_back(in_shell: str) -> None:
    for word in WORDS:
        typed = shell.quoted(word)
        inside = typed[1:-1].replace("''", "'") if typed.startswith("'") else typed
        if in_shell == "pwsh":
            assert inside == word
        elif word:  # Windows PowerShell puts quotes around an argument with spaces, and nothing else
            assert arguments_of(f'"{inside}"' if " " in inside else inside) == [word]
    assert shell.quoted("$HOME") == "'$HOME'"
    assert shell.quoted("it\u2019s") == "'it\u2019\u2019s'", "PowerShell takes typographic quotes for quotes"


@pytest.mark.parametrize("in_shell", ["cmd"], indirect=True)
def test_whole_commands_are_quoted_for_the_shell_that_is_there(in_shell: str) -> None:
    assert command(r"C:\my runs\one", UploadSpec(repo="ada/one")) == r'python finetune_cli.py upload "C:\my runs\one" --repo ada/one'


@pytest.mark.parametrize(
    ("parents", "found"),
    [
        (["cmd.exe", "explorer.exe"], "cmd"),
        (["finetune-cli.exe", "PowerShell.exe", "explorer.exe"], "powershell"),
        (["python.exe", "pwsh.exe"], "pwsh"),
        (["explorer.exe"], "powershell"),
    ],
)
def test_the_shell_is_found_by_the_processes_above(monkeypatch: pytest.MonkeyPatch, parents: list[str], found: str) -> None:
    class Process:
        def __init__(self, name: str = "") -> None:
            self.name = lambda: name

        def parents(self) -> list[Process]:
            return list(map(Process, parents))

    monkeypatch.setattr("psutil.Process", Process)
    monkeypatch.setattr(shell.os, "name", "nt")
    monkeypatch.delenv("MSYSTEM", raising=False)
    assert shell.shell_name.__wrapped__() == found
    monkeypatch.setenv("MSYSTEM", "MINGW64")
    assert shell.shell_name.__wrapped__() == "posix"


def arguments_of(line: str) -> list[str]:
    """How a program on Windows splits its command line (the rules of CommandLineToArgvW, which subprocess.list2cmdline inverts)."""
    words: list[str] = []
    word, quoted, begun, slashes = "", False, False, 0
    for letter in [*line, " "]:
        if letter == "\\":
            slashes, begun = slashes + 1, True
            continue
        if letter == '"':
            word += "\\" * (slashes // 2)
            if slashes % 2:
                word += '"'
            else:
                quoted = not quoted
            slashes, begun = 0, True
            continue
        word += "\\" * slashes
        slashes = 0
        if letter == " " and not quoted:
            if begun:
                words.append(word)
            word, begun = "", False
        else:
            word, begun = word + letter, True
    return words


@pytest.mark.parametrize("word", WORDS)
def test_the_splitting_of_these_tests_is_that_of_windows(word: str) -> None:
    assert arguments_of(subprocess.list2cmdline([word, word])) == [word, word]
