"""Files and folders are there whole or not at all, whatever stops the writing, and a full disk is told with sizes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune import storage
from finetune.errors import DiskFull, HardwareError
from finetune.storage import cache_folder, check_room, free_disk, whole_folder, write_whole


def failing(number: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(number, "no")

    return fail


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_is_replaced_whole_or_stays_as_it_was(shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "not" / "there yet" / "scores.json"
    write_whole(path, "één", shared=shared)
    assert path.read_text(encoding="utf-8") == "één"
    monkeypatch.setattr(storage, "to_disk", failing(errno.ENOSPC))
    with pytest.raises(OSError, match="no"):
        write_whole(path, b"longer", shared=shared)
    assert path.read_text(encoding="utf-8") == "één"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("refusals", [2, 5])
def test_where_open_files_cannot_be_replaced_a_reader_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int) -> None:
    replace, asked = os.replace, []

    def in_use(part: Path, path: Path) -> None:
        asked.append(path)
        if len(asked) <= refusals:
            raise PermissionError(errno.EACCES, "in use")
        replace(part, path)

    path = tmp_path / "progress.json"
    path.write_text("old")
    monkeypatch.setattr(storage, "PAUSES", (0.001, 0.001, 0.001))  # as on Windows, but shorter
    monkeypatch.setattr(storage.os, "replace", in_use)
    if refusals < 4:
        write_whole(path, "new")
    else:
        with pytest.raises(PermissionError):
            write_whole(path, "new")
    assert path.read_text() == ("new" if refusals < 4 else "old")
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_absent_until_it_is_complete_and_nothing_stays_of_one_that_is_not(tmp_path: Path) -> None:
    target = tmp_path / "models" / "mine"
    (tmp_path / "models" / ".mine.part").mkdir(parents=True)
    (tmp_path / "models" / ".mine.part" / "left by a kill").touch()
    with pytest.raises(OSError, match="no"), whole_folder(target) as unfinished:
        failing(errno.EIO)((unfinished / "a").touch())
    assert list(target.parent.iterdir()) == []
    with whole_folder(target) as unfinished:
        (unfinished / "a").touch()
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["a"]
    assert list(target.parent.iterdir()) == [target]


def test_of_two_processes_that_make_the_same_folder_the_faster_one_keeps_it(tmp_path: Path) -> None:
    target = tmp_path / "rows-1"
    with cache_folder(target) as slow:
        with cache_folder(target) as fast:
            assert slow != fast
            (fast / "fast").touch()
        (slow / "slow").touch()
    assert [path.name for path in target.iterdir()] == ["fast"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_belongs_to_somebody_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kept").touch()
    with pytest.raises(OSError, match="mine"), whole_folder(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine" / "kept").exists()


@pytest.mark.parametrize(("number", "said"), [(errno.ENOSPC, "is full"), (errno.EDQUOT, "is full"), (errno.EROFS, "cannot be written")])
def test_a_cache_that_fills_up_is_told_with_the_setting_that_moves_it(number: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(HardwareError, match=rf"The cache folder .* {said}") as caught, cache_folder(tmp_path / "rows-1"):
        failing(number)()
    assert "FINETUNE_CLI_CACHE" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_inside_a_folder_are_not_taken_for_those_of_the_cache(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), cache_folder(tmp_path / "rows-1"):
        failing(errno.EACCES)()


def test_a_full_disk_is_told_with_both_sizes(tmp_path: Path) -> None:
    check_room("It", 1000, tmp_path / "not" / "there" / "yet", "set HF_HOME")
    with pytest.raises(DiskFull, match=r"needs [\d.,]+ GB in .*, and [\d.,]+ GB are free") as caught:
        check_room("It", free_disk(tmp_path) * 2, tmp_path, "set HF_HOME")
    assert "HF_HOME" in str(caught.value.hint)
