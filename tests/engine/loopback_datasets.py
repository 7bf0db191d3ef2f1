"""A small Hub on 127.0.0.1 that serves data set folders to the unmodified `datasets` library.

    with LoopbackDatasets({"org/rows": folder}, gated={"org/closed"}) as hub:
        subprocess.run(..., env={**os.environ, "HF_ENDPOINT": hub.address})

Every data set has one commit, known as main; `hub.requests` lists what was asked for and `hub.sent` counts bytes of content.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

PART = 1 << 16
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class LoopbackDatasets:
    def __init__(self, folders: dict[str, Path], *, gated: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        self.folders, self.gated = folders, gated
        self.requests: list[str] = []
        self.sent = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> LoopbackDatasets:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def do_POST(self) -> None:
                self.asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
                self.answer(body=True)

            def answer(self, *, body: bool) -> None:
                path = unquote(self.path.partition("?")[0])
                hub.requests.append(f"{self.command} {path}")
                if path == "/":
                    return self.send(200, b"hello", body=body)
                about = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?", path)
                file = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
                found = about or file
                if found is None or found.group(1) not in hub.folders:
                    return self.refuse(404, "RepoNotFound", body)
                if found.group(1) in hub.gated:
                    return self.refuse(403, "GatedRepo", body)
                revision = about.group(3) if about else file.group(2) if file else None
                if revision not in (None, "main", COMMIT):
                    return self.refuse(404, "RevisionNotFound", body)
                folder = hub.folders[found.group(1)]
                if about:
                    content = hub.describe(about, folder, getattr(self, "asked", {}))
                    return self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"}, body=body)
                if not (folder / file.group(3)).is_file():
                    return self.refuse(404, "EntryNotFound", body)
                content = (folder / file.group(3)).read_bytes()
                headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"', "Accept-Ranges": "bytes"}
                wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                if wanted:
                    start, end = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
                    headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
                    return self.send(206, content[start : end + 1], headers, body=body)
                return self.send(200, content, headers, body=body)

            def refuse(self, status: int, code: str, body: bool) -> None:
                self.send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code}, body=body)

            def send(self, status: int, content: bytes, headers: dict[str, str] | None = None, *, body: bool) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    for start in range(0, len(content) if body else 0, PART):
                        self.wfile.write(content[start : start + PART])
                        hub.sent += PART
                except ConnectionError:  # the reader has enough
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def describe(self, about: re.Match[str], folder: Path, asked: dict[str, Any]) -> Any:
        """The tree of files below a folder, some paths of it, or the facts of the data set."""
        entries: dict[str, dict[str, Any]] = {}
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            oid = hashlib.sha1(path.read_bytes() if path.is_file() else name.encode()).hexdigest()
            kind = "file" if path.is_file() else "directory"
            entries[name] = {"type": kind, "path": name, "oid": oid, "size": path.stat().st_size if path.is_file() else 0}
        if about.group(2) == "tree":
            below = about.group(4) or ""
            return [entry for name, entry in entries.items() if name.startswith(f"{below}/" if below else "")]
        if about.group(2) == "paths-info":
            return [entries[path] for path in asked.get("paths", []) if path in entries]
        siblings = [{"rfilename": name} for name, entry in entries.items() if entry["type"] == "file"]
        return {"_id": "1", "id": about.group(1), "sha": COMMIT, "private": False, "gated": False, "disabled": False, "downloads": 0,
                "likes": 0, "tags": [], "cardData": {}, "lastModified": "2026-01-01T00:00:00.000Z", "siblings": siblings}  # fmt: skip
