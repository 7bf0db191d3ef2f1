"""What a Hub on this machine keeps: repositories as folders on disk, and large files by their hash.

repo = Repo(tmp_path / "letters", {"README.md": b"# Letters"}, private=True)
repo.files["README.md"]        # the bytes that are on disk now
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, MutableMapping
from math import prod
from pathlib import Path
from typing import Any

import yaml

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Files(MutableMapping[str, bytes]):
    """The files below a folder, by their names in the repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, name: str) -> bytes:
        if not (self.folder / name).is_file():
            raise KeyError(name)
        return (self.folder / name).read_bytes()

    def __setitem__(self, name: str, content: bytes) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(content)

    def __delitem__(self, name: str) -> None:
        (self.folder / name).unlink()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __eq__(self, other: object) -> bool:
        return dict(self) == other


class Repo:
    """One repository; `folder` may be filled already. Its newest commit is known as main; nothing older can be read."""

    def __init__(
        self, folder: Path, files: Mapping[str, bytes] | None = None, *, private: bool = False, gated: bool = False, downloads: int = 0
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.private, self.gated, self.downloads = private, gated, downloads
        self.files = Files(folder)
        self.files.update(files or {})
        self.large: set[str] = set()
        self.commits = [COMMIT]

    def size(self, name: str) -> int:
        return (self.files.folder / name).stat().st_size

    def oid(self, name: str) -> str | None:
        """As git and LFS name a content; None for a file that is not there."""
        if name not in self.files:
            return None
        content = self.files[name]
        if name in self.large:
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()

    def entries(self, below: str = "") -> list[dict[str, Any]]:
        """The tree: files, and the folders that they lie in."""
        names = [name for name in self.files if name.startswith(f"{below}/" if below else "")]
        folders = sorted({str(parent) for name in names for parent in Path(name).parents} - {"."})
        directories = [{"type": "directory", "path": folder, "oid": hashlib.sha1(folder.encode()).hexdigest()} for folder in folders]
        return [*directories, *({"type": "file", "path": name, "size": self.size(name), "oid": self.oid(name)} for name in names)]

    def info(self, name: str) -> dict[str, Any]:
        """What the API says about it, as far as the tests and the libraries look at it."""
        facts: dict[str, Any] = {"_id": "1", "id": name, "sha": self.commits[-1], "private": self.private, "disabled": False}
        facts |= {
            "gated": "manual" if self.gated else False,
            "downloads": self.downloads,
            "likes": 0,
            "lastModified": "2026-01-01T00:00:00.000Z",
        }
        facts |= {"cardData": self.card(), "siblings": [{"rfilename": file, "size": self.size(file)} for file in self.files]}
        facts["tags"] = [f"license:{facts['cardData']['license']}"] if "license" in facts["cardData"] else []
        facts["usedStorage"] = sum(self.size(file) for file in self.files)
        parameters = sum(self.parameters(file) for file in self.files if re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors", file))
        return facts | ({"safetensors": {"parameters": {"F32": parameters}, "total": parameters}} if parameters else {})

    def card(self) -> dict[str, Any]:
        parts = self.files["README.md"].decode().split("---\n") if "README.md" in self.files else []
        return yaml.safe_load(parts[1]) or {} if len(parts) > 2 else {}

    def parameters(self, name: str) -> int:
        """Numbers in a safetensors file, by its header."""
        content = self.files[name]
        length = int.from_bytes(content[:8], "little")
        try:
            header = json.loads(content[8 : 8 + length])
        except ValueError:
            return 0  # a test put something else there
        return sum(prod(entry["shape"]) for key, entry in header.items() if key != "__metadata__")
