"""Files and folders that are written completely or not at all, and the free space for them.

    write_whole(folder / "scores.json", json.dumps(scores))
    with cache_folder(cache / f"rows-{digest(parts)}") as unfinished:
        (unfinished / "rows.arrow").write_bytes(...)
    check_room("The starter model", 750_000_000, folder, OTHER_CACHE)

What is still being written has a hidden name that ends in .part. A cache is shared: other processes may be writing the same thing.
Network file systems may refuse locks, and to confirm that something is on the disk; the work goes on without.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from finetune.errors import DiskFull, HardwareError
from finetune.formatting import size

PART = ".part"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written|problem writing element \d+ to file")
# How a file system says that it has no such thing as locks, or as waiting for the disk.
UNKNOWN_HERE = (errno.EINVAL, errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
PAUSES = (0.01, 0.05, 0.2, 0.8) if os.name == "nt" else ()  # seconds
A_DAY = 86_400  # seconds
LARGER_FILES = "Raise that limit (ulimit -f)"
OTHER_CACHE = "set FINETUNE_CLI_CACHE to a folder on another disk"


def digest(parts: Iterable[str]) -> str:
    """A short name for what is made from `parts` and nothing else."""
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def file_hash(path: Path, method: hashlib.blake2b | None = None) -> str:
    """The hash of the content, read in blocks; SHA-256 unless a method is given."""
    content = method or hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            content.update(block)
    return content.hexdigest()


def changed(path: Path, bytes: int, sha256: str) -> str | None:
    """How a file differs from what was written, or None if it has the same content."""
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != bytes:
        return f"has {path.stat().st_size:,} bytes instead of {bytes:,}"
    return None if file_hash(path) == sha256 else "has changed since it was written"


def write_whole(path: Path, content: bytes | str, *, shared: bool = False) -> None:
    """Write a file, and its folder if need be, entirely or not at all; raises OSError and leaves what was there before."""
    part = part_of(path, shared)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        for left in _left_by_others(path.parent) if shared else [part]:  # of a process that was killed; or a link, in a folder given away
            _remove(left)
        with part.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        to_disk(part)
        replace(part, path)
    finally:  # Ctrl-C ends it too
        part.unlink(missing_ok=True)


@contextmanager
def whole_folder(target: Path, *, shared: bool = False) -> Iterator[Path]:
    """A folder to fill, which gets its name once its files are on the disk; where it is `shared` and another was faster, theirs stays."""
    part = part_of(target, shared)
    for left in _left_by_others(target.parent) if shared else [part]:  # of a process that was killed
        _remove(left)
    part.mkdir(parents=True)
    try:
        yield part
        ordinary_permissions(part)
        for path in (*part.rglob("*"), part):
            to_disk(path)
        try:
            replace(part, target)
            to_disk(target.parent)
        except OSError:
            if not (shared and target.is_dir()):
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _left_by_others(folder: Path) -> Iterator[Path]:
    """Unfinished files and folders in which nothing has been written for a day."""
    for part in folder.glob(f".*{PART}"):
        with suppress(OSError):  # it is finished just now
            if time.time() - max(path.lstat().st_mtime for path in (part, *part.rglob("*"))) > A_DAY:
                yield part


def _remove(left: Path) -> None:
    """Whatever it is; what cannot be removed stays, if it is not in the way."""
    if left.is_dir() and not left.is_symlink():
        shutil.rmtree(left, ignore_errors=True)
    else:
        left.unlink(missing_ok=True)


@contextmanager
def cache_folder(target: Path) -> Iterator[Path]:
    """A `whole_folder` of the cache; raises HardwareError if the cache is full or cannot be written."""
    filling = False
    try:
        with whole_folder(target, shared=True) as part:
            filling = True
            yield part
    except OSError as error:
        if filling and not (no_room(error) or error.errno == errno.EROFS):
            raise
        raise unwritable_cache(target.parent, error) from None


def unwritable_cache(folder: Path, error: OSError) -> HardwareError:
    """The error for a folder of the cache that does not take what it should keep."""
    what, instead = f"cannot be written ({error.strerror or error})", "Make it writable"
    if no_room(error):
        what, instead = "is full", "Free some space"
    if _limit(error) == errno.EFBIG:
        what, instead = f"takes no file larger than {_largest_file()}", LARGER_FILES
    return HardwareError(f"The cache folder {folder} {what}.", hint=f"{instead}, or {OTHER_CACHE}.")


def ordinary_permissions(made: Path) -> None:
    """Give what is in a new folder the permissions that the umask gave the folder: some libraries write files for the owner alone."""
    if os.name == "nt":
        return
    allowed = stat.S_IMODE(made.stat().st_mode)
    for path in made.rglob("*"):
        with suppress(OSError):  # a file system without permissions
            path.chmod(allowed if path.is_dir() else allowed & 0o666)


def replace(part: Path, path: Path) -> None:
    """Give `part` the name of `path`. Windows refuses while somebody, such as a virus scanner, reads either; there it is tried again."""
    for pause in (*PAUSES, None):
        try:
            os.replace(part, path)
            return
        except PermissionError:
            if pause is None:
                raise
            time.sleep(pause)


def to_disk(path: Path) -> bool:
    """Make the content of a file, or the names in a folder, survive a loss of power; False where the file system cannot promise it."""
    folder = path.is_dir()
    if folder and os.name == "nt":  # which has no such thing for folders
        return True
    try:
        descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in UNKNOWN_HERE:
            raise
        return False
    return True


class Lock(Protocol):
    """What keeps other processes out until it is released."""

    def release(self) -> None: ...


class NoLock:
    """In place of a lock where the file system has none: it locks nothing."""

    def release(self) -> None: ...


def lock(path: Path, *, timeout: float = -1) -> Lock:
    """A lock on a file, or a NoLock; waits `timeout` seconds for another process (-1: for ever), then raises filelock.Timeout."""
    from filelock import FileLock

    made = FileLock(path, thread_local=False)
    try:
        made.acquire(timeout=timeout)
    except NotImplementedError:  # ENOSYS, in older versions
        return NoLock()
    except OSError as error:
        if error.errno not in UNKNOWN_HERE:
            raise
        return NoLock()
    return made


def free_disk(folder: Path) -> int:
    """Bytes free on the disk that holds `folder`, which need not exist yet."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_room(what: str, needed: int, folder: Path, instead: str) -> None:
    """Raises DiskFull if `folder` has no room for `needed` bytes; `instead` is what helps other than freeing space."""
    free = free_disk(folder)
    if needed > free:
        raise DiskFull(f"{what} needs {size(needed)} in {folder}, and {size(free)} is free.", hint=f"Free some space, or {instead}.")


@contextmanager
def disk_may_fill(what: str, needed: int, folder: Path, instead: str) -> Iterator[None]:
    """Raises DiskFull, as `check_room` does, if the disk turns out to be full in the block, whatever library finds out."""
    try:
        yield
    except Exception as error:
        if not no_room(error):
            raise
        raise DiskFull(
            f"{what} did not fit on the disk: it needs {size(needed)} in {folder}.", hint=f"Free some space, or {instead}."
        ) from error


def no_room(error: BaseException) -> bool:
    """Whether an error, maybe of a library that has its own, comes from a disk that is full."""
    return _limit(error) is not None


def disk_full(
    what: str, needed: int, folder: Path, error: BaseException, then: str = "continue from the last checkpoint with `resume`"
) -> DiskFull:
    """The error for what a run could not write: how much it needs, what there is no more of, and what to do `then`."""
    because, first = {
        errno.EDQUOT: (f"your quota in {folder} is used up", "Free some space there, or ask for a larger quota"),
        errno.EFBIG: (f"no file in {folder} may be larger than {_largest_file()}", LARGER_FILES),
    }.get(_limit(error) or 0, (f"{size(free_disk(folder))} is free in {folder}", "Free some space there"))
    return DiskFull(
        f"{what} did not fit on the disk: it needs about {size(needed)}, and {because}.",
        hint=f"{first}, then {then}.",
    )


def _limit(error: BaseException) -> int | None:
    """Which of NO_ROOM an error is, by its number or by the system's words for it; numpy tells only how much it could write."""
    number = getattr(error, "errno", None)
    if isinstance(error, OSError) and number is None and SHORT_WRITE.fullmatch(str(error)):
        return errno.ENOSPC
    return number if number in NO_ROOM else next((each for each in NO_ROOM if os.strerror(each) in str(error)), None)


def _largest_file() -> str:
    """The limit of this process, or that of the file system, which does not tell its own."""
    try:
        import resource
    except ImportError:  # Windows
        return "it allows"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return "it allows" if limit == resource.RLIM_INFINITY else size(limit)


def part_of(path: Path, shared: bool = False) -> Path:
    """What `path` is called while it is written: the same again after a kill, so that it is found, or like nobody else's."""
    return path.with_name(f".{path.name}{f'.{secrets.token_hex(4)}' if shared else ''}{PART}")
