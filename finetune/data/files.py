"""Which files a source means: files, folders, globs, several with commas between; plain, .gz, .zst, .bz2 or the members of an archive.

find_files("data/", data_files=None, split="train")  ->  [DataFile(data/train-0.jsonl), DataFile(data/train-1.jsonl)]
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterator, Sized
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from typing import IO, NoReturn, TypeVar, cast

from finetune.data.archives import BROKEN, UNSEEN, members, opened
from finetune.data.endings import (
    CONVERTED,
    KINDS,
    PACKED,
    READABLE,
    Kind,
    can_be_read,
    converted,
    ending_of,
    is_archive,
    is_record_file,
    is_zip,
)
from finetune.errors import BadRow, DatasetError, DatasetNotFound, UnknownFormat
from finetune.foreign import LINE, LONGEST, is_utf8, printable
from finetune.hub.datasets import PINNED
from finetune.letters import as_seen
from finetune.system.paths import check_access, typed_path

BOOKKEEPING = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}  # of saved Hugging Face datasets
OF_A_RUN = ("recipe.yaml", "debug.log")  # in the folder run/ of an output folder; the log is there first
ABOUT = ("readme", "license", "licence")  # prefixes of files that describe data
CONVERSATIONS = re.compile(r"conversations(-\d+)?\.json")
ACCOUNT = {"user.json", "users.json"}  # beside the conversations
SHOWN_FILES = 4
SPLITS = {"train": ("train", "training"), "test": ("test", "testing"), "validation": ("validation", "valid", "val", "dev", "eval")}
SPLITS |= {"valid": SPLITS["validation"], "dev": SPLITS["validation"], "eval": SPLITS["validation"]}


Item = TypeVar("Item")


@dataclass(frozen=True)
class DataFile:
    """One file to read; `member` names the file inside an archive, `together` is how many files are read with it, itself included.

    `remarks` are what a person should know about its content; they are there with its first row.
    """

    path: Path
    member: str | None = None
    together: int = field(default=1, compare=False)
    remarks: list[str] = field(default_factory=list, compare=False)

    @property
    def name(self) -> str:
        """What errors and reports call it."""
        return f"{self.path.name}/{self.member}" if self.member else self.path.name

    @property
    def suffix(self) -> str:
        """.jsonl for rows.jsonl.gz."""
        return ending_of(self.member or self.path.name)

    @property
    def kind(self) -> Kind:
        return KINDS[self.suffix]

    @property
    def longest_record(self) -> int:
        """Characters that one of its records may have: those of a file that is not packed can be as long as the file."""
        return min(max(LINE, self.path.stat().st_size), LONGEST)

    def open(self) -> IO[bytes]:
        """The content, unpacked while it is read."""
        packing = PACKED.get(Path(self.member or self.path.name).suffix.lower())
        content = opened(self.path, self.member) if self.member is not None else None
        if packing is None:
            return content or self.path.open("rb")
        import pyarrow as pa

        return cast(IO[bytes], pa.input_stream(content or str(self.path), compression=packing))

    def blocks(self, size: int = 1 << 20) -> Iterator[bytes]:
        """The content in pieces; raises BadRow if the compressed data are broken."""
        try:
            with self.open() as file:
                while block := file.read(size):
                    yield block
        except BROKEN as error:
            raise BadRow(f"{self.name} cannot be read: {error}.", hint="The file may be incomplete: copy or download it again.") from None
        except (NotImplementedError, RuntimeError) as error:  # zipfile does not support this compression, or needs a password
            raise BadRow(f"{self.name} cannot be unpacked: {error}.", hint="Unpack it yourself and give the files.") from None


def looks_local(source: str) -> bool:
    """Whether a source is a path: it exists, is a glob, looks like a path or ends like a data file, or names several.

    What a run has pinned never is, whatever is in the folder, so that the name alone says later whether the rows were the Hub's.
    """
    if PINNED.fullmatch(source):
        return False
    several = named_files(source)
    if len(several) > 1:
        return all(map(looks_local, several))
    if typed_path(source).exists() or any(sign in source for sign in "*?["):
        return True
    if source.startswith(("/", "./", "../", "~")) or source.endswith("/") or "\\" in source or re.match(r"^[A-Za-z]:/", source):
        return True
    path = Path(source)
    if _is_data(path):
        return True
    meant = _nearest(path, cutoff=0.75) if path.suffix else None  # a typo, as in train.jsnol
    return meant is not None and _is_data(meant)


def holds_files(source: str) -> bool:
    """Whether a source is a folder or an archive, of which `data_files` selects files."""
    path = typed_path(source)
    return path.is_dir() or is_archive(path.name)


def _is_data(path: Path) -> bool:
    return can_be_read(path.name) or path.suffix.lower() in PACKED


def named_files(source: str) -> list[str]:
    """The paths that a source names, with commas between them."""
    alone = os.path.exists(typed_path(source, DatasetNotFound))  # several together may be too long for a name
    names = [source] if alone else [part.strip() for part in source.split(",") if part.strip()]
    for name in names:
        check_access(name, DatasetNotFound)
    return names


def find_files(
    source: str, data_files: str | list[str] | None, split: str, *, strict_split: bool = False, measured: str | None = None
) -> tuple[list[DataFile], list[str]]:
    """The files of a local source in a fixed order, and what a person should know about those left out.

    A file that is named is taken. Of a folder, a glob or an archive in which names carry splits (train.jsonl, test.jsonl) only the files of
    `split` are, and never those of the split that is `measured` on. `strict_split` takes only files of that split. Raises DatasetNotFound
    for a missing path or split, and UnknownFormat for files that are no data.
    """
    notes: list[str] = []
    found: dict[DataFile, str] = {}  # to the name it was found under
    for name in named_files(source):
        found |= _of_name(name, [data_files] if isinstance(data_files, str) else data_files, notes)
    unnamed = next((file for file in found if not is_utf8(file.path) or not is_utf8(file.name)), None)
    if unnamed is not None:
        raise UnknownFormat(f"The name of {printable(unnamed.name)} is not valid UTF-8.", hint="Rename it.")
    unreadable = next((file for file in found if file.suffix not in KINDS), None)
    if unreadable is not None:
        raise UnknownFormat(f"{unreadable.name} is not a supported data file.", hint=converted(unreadable.name))
    chosen = _of_split(found, split, measured, strict_split)
    if not chosen:
        raise DatasetNotFound(
            f"{source} has no file of the split {split!r}.",
            hint=f"Its files: {', '.join(file.name for file in list(found)[:8])}. Name one of them, or another dataset.split.",
        )
    about = [] if strict_split else notes + _about_splits(list(found), chosen, split, measured)
    return [replace(file, together=len(chosen)) for file in chosen], about


def _of_name(name: str, data_files: list[str] | None, notes: list[str]) -> dict[DataFile, str]:
    """Files to the name they go by: what is named alone has one of its own, what is found together has one in common."""
    path = typed_path(name, DatasetNotFound)
    if path.is_dir():
        return _in_folder(path, data_files, notes)
    if path.exists():
        if data_files is not None and not is_archive(path.name):
            raise DatasetError(
                f"{path.name} is a single file, so dataset.data_files cannot select anything in it.", hint="Leave dataset.data_files out."
            )
        if not path.is_file():
            raise DatasetNotFound(f"{name} is neither a file nor a folder.", hint="Save it as a regular file first.")
        return dict.fromkeys(_unpacked(path, data_files, notes), name)
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    found = [file for match in matches if match.is_file() for file in _unpacked(match, data_files, notes)]
    if not found:
        raise DatasetNotFound(f"There is no file {name}.", hint=nearest_name(path))
    return dict.fromkeys(found, name)


def nearest_name(path: Path) -> str:
    """A hint that names the most similar file in that folder, or the folder in full: a run may be resumed from another one."""
    folder = path.parent
    if not folder.is_dir():
        return f"There is no folder {folder} either."
    near = _nearest(path, cutoff=0.5)
    if near and as_seen(near.name) == as_seen(path.name):
        return f"Its name is stored with other letters that look the same (Unicode NFC or NFD). Copy it from here: {near}"
    return f"Did you mean {near}?" if near else f"Check the path: the folder {folder.absolute()} exists, this file does not."


def _nearest(path: Path, cutoff: float) -> Path | None:
    """The entry of the same folder with the most similar name."""
    if not path.parent.is_dir():
        return None
    names = sorted(entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".") and os.path.exists(entry))
    close = get_close_matches(path.name, names, n=1, cutoff=cutoff)
    return path.parent / close[0] if close else None


def _in_folder(folder: Path, data_files: list[str] | None, notes: list[str]) -> dict[DataFile, str]:
    everything = _all_files(folder, notes)
    if data_files is not None:
        names = {path: path.relative_to(folder).as_posix() for path in everything}
        chosen = _chosen(names, data_files, folder)
        return {file: str(path if names[path] in data_files else folder) for path in chosen for file in _unpacked(path, None, notes)}
    # A .tar is opened where it is named: it may take minutes, and most lie beside what was unpacked from them.
    paths = [path for path in everything if path.name not in BOOKKEEPING]
    files = [file for path in paths for file in (_members(path) if is_zip(path) else [DataFile(path)])]
    where = f"The folder {folder}"
    return dict.fromkeys(_data_of(files, folder.name or str(folder), notes) or _nothing(where, files), str(folder))


def _chosen(names: dict[Item, str], data_files: list[str], where: Path) -> list[Item]:
    """What of a folder or an archive the patterns name."""
    chosen = [item for item, name in names.items() if any(fnmatch.fnmatch(name, pattern) for pattern in data_files)]
    if not chosen:
        near = get_close_matches(data_files[0], names.values(), n=1, cutoff=0.5)
        there = f"{', '.join(list(names.values())[:SHOWN_FILES])}{_more(names)}" if names else "no files"
        hint = f"Did you mean {near[0]}?" if near else f"It has {there}."
        raise DatasetNotFound(f"No file in {where} is called {', '.join(data_files)}.", hint=hint)
    return chosen


def _data_of(files: list[DataFile], where: str, notes: list[str]) -> list[DataFile]:
    """What is read of files that lie together, be it in a folder or an archive; the rest is noted."""
    # A README next to tables is not data; where there is only prose, it is.
    records = _conversations(files) or [file for file in files if is_record_file(file.name)]
    read = records or [file for file in files if file.suffix in KINDS]
    others = set(files).difference(read)  # of maybe tens of thousands
    left = [file for file in files if file in others and not Path(file.name).name.lower().startswith(ABOUT)]
    if read and left:
        left = sorted(left, key=lambda file: file.suffix not in KINDS)
        notes.append(f"Not read in {where}: {listed(left, where)}.")
    return read


def _conversations(files: list[DataFile]) -> list[DataFile]:
    """Those in an export of ChatGPT or Claude, which has more about the person who asked for it; none elsewhere."""
    names = {file: Path(file.name).name for file in files}
    return [file for file, name in names.items() if CONVERSATIONS.fullmatch(name)] if ACCOUNT & set(names.values()) else []


def _nothing(where: str, files: list[DataFile]) -> NoReturn:
    """Raises DatasetNotFound for a folder or an archive without data."""
    there = f", only {listed(files, where)}" if files else ""
    other = next((file for file in files if ending_of(file.name) in CONVERTED), files[0]) if files else None
    raise DatasetNotFound(f"{where} contains no data files{there}.", hint=converted(other.name) if other else READABLE)


def _all_files(folder: Path, notes: list[str]) -> list[Path]:
    """Those below a folder that are not hidden; raises DatasetError for a folder that cannot be entered.

    The output folders of runs are full of JSON that is no data, and a link to a folder may lead round in a circle.
    """

    def refuse(error: OSError) -> NoReturn:
        raise DatasetError(f"{error.filename} cannot be read: {error.strerror}.", hint="Check its permissions, or name the files.")

    found, left = [], []
    for place, folders, names in os.walk(folder, onerror=refuse):
        here = Path(place)
        if here != folder and any((here / "run" / name).is_file() for name in OF_A_RUN):
            left.append(f"{here.relative_to(folder)} (a run)")
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        left += [f"{path.relative_to(folder)} (a link to a folder)" for name in folders if (path := here / name).is_symlink()]
        found += [path for name in names if not name.startswith(UNSEEN) and (path := here / name).is_file()]
    if left:
        notes.append(f"Not read in {folder.name or folder}: {', '.join(sorted(left)[:SHOWN_FILES])}{_more(left)}.")
    return sorted(found)


def _unpacked(path: Path, data_files: list[str] | None, notes: list[str]) -> list[DataFile]:
    """A file, or what is read of an archive."""
    files = _members(path)
    if not is_archive(path.name):
        return files
    if data_files is not None:
        return _chosen({file: str(file.member) for file in files}, data_files, path)
    return _data_of(files, path.name, notes) or _nothing(path.name, files)


def _members(path: Path) -> list[DataFile]:
    """A file, or all that are in an archive."""
    return [DataFile(path, member) for member in members(path)] if is_archive(path.name) else [DataFile(path)]


def _of_split(found: dict[DataFile, str], split: str, measured: str | None, strict: bool) -> list[DataFile]:
    wanted, theirs = _words_of(split), _words_of(measured)
    words = _split_words(list(found), wanted | theirs)
    mine = [file for file in found if words[file] & wanted]
    if strict or (mine and split != "train"):
        return mine
    together: dict[str, list[DataFile]] = {}
    for file, name in found.items():
        if words[file] & wanted or not words[file] & theirs:
            together.setdefault(name, []).append(file)
    chosen = {file for files in together.values() for file in _of_group(files, wanted)}
    return [file for file in found if file in chosen]


def _of_group(files: list[DataFile], wanted: set[str]) -> list[DataFile]:
    words = _split_words(files, wanted)
    return [file for file in files if words[file] & wanted] if len(files) > 1 and any(words.values()) else files


def _about_splits(found: list[DataFile], chosen: list[DataFile], split: str, measured: str | None) -> list[str]:
    wanted, theirs = _words_of(split), _words_of(measured)
    words = _split_words(found, wanted | theirs)
    others = set(found).difference(chosen)
    left = [file for file in found if file in others and not words[file] & theirs]
    same = not {file.name for file in left}.isdisjoint(file.name for file in chosen)  # in another folder, which says the split
    names = [f"{file.path.parent.name}/{file.name}" if same else file.name for file in left]
    notes = [f"Not read, because the split is {split}: {', '.join(names[:SHOWN_FILES])}{_more(names)}."] if left else []
    if measured is None and (other := next((word for word in SPLITS if word != split and any(word in words[file] for file in left)), None)):
        notes[0] += f" To measure on {other}: --set dataset.eval_split={other}"
    named = [file for file in chosen if words[file] and not words[file] & wanted]
    if named and any(words[file] & wanted for file in chosen):
        notes.append(f"Trained on as well, because it is named: {listed(named)}. To measure on it: --set dataset.eval_split=NAME")
    return notes


def _split_words(files: list[DataFile], asked: set[str]) -> dict[DataFile, set[str]]:
    """The splits that each file's own name carries; where none carries any, those of the folders that differ."""
    known = asked.union(*SPLITS.values())

    def among(text: str) -> set[str]:
        return set(re.split(r"[^a-z]+", text.lower())) & known

    own = {file: among(Path(file.member or file.path).name) for file in files}
    if len({file.path for file in files}) > 1:
        own = {file: words or among(file.path.name) for file, words in own.items()}  # of the archive that a file is in
    if any(own.values()):
        return own
    folders = {file: (*file.path.parent.parts, *Path(file.member or "").parent.parts) for file in files}
    common = len(list(takewhile(lambda level: len(set(level)) == 1, zip(*folders.values(), strict=False))))
    return {file: among(" ".join(parts[common:])) for file, parts in folders.items()}


def _words_of(split: str | None) -> set[str]:
    return set(SPLITS.get(split, (split,))) if split else set()


def listed(files: list[DataFile], archive: str = "") -> str:
    """The first names, without that of the archive they are in, and how many more there are."""
    return ", ".join(file.name.removeprefix(f"{archive}/") for file in files[:SHOWN_FILES]) + _more(files)


def _more(listed: Sized) -> str:
    return f" and {len(listed) - SHOWN_FILES} more" if len(listed) > SHOWN_FILES else ""
