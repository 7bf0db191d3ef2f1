"""Files and folders are there whole or not at all, whatever stops the writing, and a full disk is told with sizes."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.errors import DiskFull, HardwareError
from finetune.run_folder import RunFolder
from finetune.system import storage
from finetune.system.storage import NoLock, cache_folder, check_room, disk_may_fill, free_disk, lock, to_disk, whole_folder, write_whole
from finetune.training.checkpoints import Checkpoints


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


@pytest.mark.parametrize("shared", [False, True])
def test_ctrl_c_while_a_file_is_written_leaves_what_was_there(shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(path: Path) -> bool:
        raise KeyboardInterrupt

    (path := tmp_path / "machine.json").write_text("old")
    monkeypatch.setattr(storage, "to_disk", pressed)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, "new", shared=shared)
    assert path.read_text() == "old"
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


@pytest.mark.parametrize("shared", [False, True])
def test_the_files_of_a_folder_are_on_the_disk_before_it_has_its_name(
    shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a loss of power leaves a folder whose files are empty, which every later run would use."""
    done: list[int | str] = []
    fsync, replaced = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (fsync(descriptor), done.append(os.fstat(descriptor).st_ino)))
    monkeypatch.setattr(os, "replace", lambda *names: (replaced(*names), done.append("named")))
    with whole_folder(tmp_path / "rows-1", shared=shared) as unfinished:
        (unfinished / "inner").mkdir()
        (unfinished / "inner" / "rows.arrow").touch()
    inside = {path.stat().st_ino for path in (tmp_path / "rows-1", *(tmp_path / "rows-1").rglob("*"))}
    assert set(done[: done.index("named")]) == inside
    assert done[done.index("named") + 1 :] == [tmp_path.stat().st_ino]


def filled(target: Path) -> None:
    with cache_folder(target):
        pass


@pytest.mark.parametrize("make", [filled, lambda target: write_whole(target, "", shared=True)], ids=["folder", "file"])
def test_what_a_kill_has_left_in_a_cache_goes_once_it_is_a_day_old(make: Callable[[Path], None], tmp_path: Path) -> None:
    for name, hours in [(".rows-1.0a1b.part", 25), (".rows-2.0a1b.part", 23), (".rows-3.0a1b.part", 25)]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.arrow").touch()
        for path in (tmp_path / name / "rows.arrow", tmp_path / name):
            os.utime(path, (then := time.time() - 3600 * hours, then))
    (tmp_path / ".rows-3.0a1b.part" / "rows.arrow").touch()  # still written
    for name, hours in [(".scores.json.0a1b.part", 25), (".scores.json.2c3d.part", 23)]:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (then := time.time() - 3600 * hours, then))
    make(tmp_path / "rows-4")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".rows-2.0a1b.part",
        ".rows-3.0a1b.part",
        ".scores.json.2c3d.part",
        "rows-4",
    ]


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


@pytest.mark.parametrize(
    ("number", "said", "hint"),
    [
        (errno.ENOSPC, "is full", "Free some space"),
        (errno.EDQUOT, "is full", "Free some space"),
        (errno.EROFS, "cannot be written", "Make it writable"),
        (errno.EFBIG, "takes no file larger", "Raise that limit"),
    ],
)
def test_a_cache_that_fills_up_is_told_with_the_setting_that_moves_it(number: int, said: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(HardwareError, match=rf"The cache folder .* {said}") as caught, cache_folder(tmp_path / "rows-1"):
        failing(number)()
    assert str(caught.value.hint).startswith(hint), "room is of no use to what cannot be written"
    assert "FINETUNE_CLI_CACHE" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_inside_a_folder_are_not_taken_for_those_of_the_cache(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), cache_folder(tmp_path / "rows-1"):
        failing(errno.EACCES)()


def test_a_full_disk_is_told_with_both_sizes(tmp_path: Path) -> None:
    check_room("It", 1000, tmp_path / "not" / "there" / "yet", "set HF_HOME")
    with pytest.raises(DiskFull, match=r"needs [\d.,]+ GB in .*, and [\d.,]+ GB is free") as caught:
        check_room("It", free_disk(tmp_path) * 2, tmp_path, "set HF_HOME")
    assert "HF_HOME" in str(caught.value.hint)
    with (
        pytest.raises(DiskFull, match=r"It did not fit on the disk: it needs 3 kB in ") as filled,
        disk_may_fill("It", 3000, tmp_path, "x"),
    ):
        raise RuntimeError(f"I/O error: {os.strerror(errno.ENOSPC)} (os error 28)")  # as the library of safetensors says it
    assert filled.value.hint == "Free some space, or x."
    with pytest.raises(RuntimeError, match="other"), disk_may_fill("It", 3000, tmp_path, "x"):
        raise RuntimeError("other")


# File systems that lack something, and limits other than a full disk.


def refuses_fsync(monkeypatch: pytest.MonkeyPatch, number: int, *, folders_only: bool) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) or not folders_only:
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("folders_only", [True, False])
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP])
def test_where_nothing_confirms_what_is_on_the_disk_the_work_goes_on_and_says_so_once(
    number: int, folders_only: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses_fsync(monkeypatch, number, folders_only=folders_only)
    assert not to_disk(tmp_path)
    folder = RunFolder.create(tmp_path / "out")
    store = Checkpoints(folder.checkpoints)
    store.write(1, {}, {"a.bin": lambda file: file.write(b"a")})
    with folder.whole_model(needed=1) as partial:
        (partial / "config.json").touch()
    folder.write_json(folder.benchmark, {})
    folder.release()
    assert [made.step for made in store.all()] == [1]
    assert [weakness for weakness in folder.weaknesses if "loss of power" in weakness] == folder.weaknesses
    assert len(folder.weaknesses) == 1


def test_other_errors_of_the_disk_are_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuses_fsync(monkeypatch, errno.EIO, folders_only=False)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_whole(tmp_path / "scores.json", "1")


@pytest.mark.skipif(sys.platform == "win32", reason="flock is Unix's")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP])
def test_where_there_are_no_locks_the_work_goes_on_and_says_so_once(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", failing(number))
    assert isinstance(lock(tmp_path / "a.lock"), NoLock)
    folder = RunFolder.create(tmp_path / "out")
    assert folder.is_claimed
    folder.release()
    folder.check_unclaimed()
    assert folder.weaknesses == [f"{tmp_path / 'out'} is on a file system without locks: start no second run in it."]


def test_on_an_ordinary_disk_nothing_is_said(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "out")
    folder.release()
    assert folder.weaknesses == []


TOO_LARGE = """
import resource, signal, sys
from pathlib import Path
from finetune.errors import DiskFull
from finetune.training.checkpoints import Checkpoints
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    Checkpoints(Path(sys.argv[1])).write(3, {}, {"a.bin": lambda file: [file.write(bytes(1000)) for _ in range(5000)]}, needed=5_000_000)
except DiskFull as error:
    print(error, error.hint)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of Unix")
def test_a_limit_on_the_size_of_files_is_told_with_true_numbers(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", TOO_LARGE, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True)
    assert "The checkpoint of step 3 did not fit on the disk: it needs about 5 MB, and no file in" in done.stdout
    assert "may be larger than 200 kB. Raise that limit (ulimit -f)" in done.stdout


def test_a_quota_that_is_used_up_is_not_told_as_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "to_disk", failing(errno.EDQUOT))
    with pytest.raises(DiskFull, match=r"needs about 1 kB, and your quota in .* is used up"):
        RunFolder(tmp_path).write_json(tmp_path / "scores.json", {"a": 1})


def test_where_a_disk_is_full_the_hint_names_what_will_really_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path / "out")
    monkeypatch.setattr(storage, "to_disk", failing(errno.ENOSPC))
    with pytest.raises(DiskFull) as first:
        folder.write_text(folder.recipe, "seed: 1\n")
    assert str(first.value.hint).endswith("then give the same command again.")  # `resume` would find no run
    folder.recipe.write_text("seed: 1\n")
    with pytest.raises(DiskFull) as later:
        folder.write_stage("training")
    assert str(later.value.hint).endswith("then continue with `resume`.")


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of Unix")
@pytest.mark.parametrize(("umask", "folder", "file"), [(0o022, 0o755, 0o644), (0o002, 0o775, 0o664), (0o077, 0o700, 0o600)])
def test_what_is_written_has_the_permissions_of_the_users_umask_whatever_library_writes_it(
    umask: int, folder: int, file: int, tmp_path: Path
) -> None:
    """So that a group can share a cache, and rows are hidden from others by whoever wants that."""
    before = os.umask(umask)
    try:
        with cache_folder(tmp_path / "models" / "starter") as unfinished:
            (unfinished / "inner").mkdir(mode=0o700)
            for name in ("model.safetensors", "inner/rows.arrow"):
                os.close(os.open(unfinished / name, os.O_CREAT, 0o600))  # as tempfile and safetensors do
        run = RunFolder.create(tmp_path / "out")
        with run.whole_model(needed=1) as partial:
            os.close(os.open(partial / "model.safetensors", os.O_CREAT, 0o600))
        run.release()
        write_whole(tmp_path / "benchmarks" / "scores.json", "{}", shared=True)
    finally:
        os.umask(before)
    for path in (*tmp_path.rglob("*.safetensors"), *tmp_path.rglob("*.arrow"), tmp_path / "benchmarks" / "scores.json"):
        assert stat.S_IMODE(path.stat().st_mode) == file, path
        assert stat.S_IMODE(path.parent.stat().st_mode) == folder, path
