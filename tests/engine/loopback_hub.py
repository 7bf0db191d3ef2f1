"""A small Hub on 127.0.0.1 that serves model folders to the unmodified huggingface_hub client.

    with LoopbackHub({"org/model": folder}, gated={"org/closed"}) as hub:
        subprocess.run(..., env={**os.environ, "HF_ENDPOINT": hub.address})

Every model has one commit, known as main; `hub.requests` lists what was asked for.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class LoopbackHub:
    def __init__(self, models: dict[str, Path], *, gated: set[str] = frozenset(), break_at: int | None = None) -> None:
        self.models, self.gated, self.break_at = models, gated, break_at
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> LoopbackHub:
        self._thread.start()
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

            def answer(self, *, body: bool) -> None:
                path = self.path.partition("?")[0]
                hub.requests.append(f"{self.command} {path}")
                if path == "/":
                    return self.send(200, b"hello", body=body)
                about = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
                file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
                found = about or file
                if found is None or found.group(1) not in hub.models:
                    return self.refuse(404, "RepoNotFound", body)
                folder = hub.models[found.group(1)]
                revision = about.group(3) if about else file.group(2) if file else None
                if revision not in (None, "main", COMMIT):
                    return self.refuse(404, "RevisionNotFound", body)
                if about:
                    return self.send(200, hub.describe(about, folder), kind="application/json", body=body)
                if found.group(1) in hub.gated:
                    return self.refuse(403, "GatedRepo", body)
                content = (folder / file.group(3)).read_bytes()
                tag = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
                return self.send(200, content, tag, body=body)

            def refuse(self, status: int, code: str, body: bool) -> None:
                self.send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code}, body=body)

            def send(
                self, status: int, content: bytes, headers: dict[str, str] | None = None, *, kind: str = "text/plain", body: bool
            ) -> None:
                self.send_response(status)
                for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                if body:
                    if hub.break_at is not None and len(content) > hub.break_at:
                        self.wfile.write(content[: hub.break_at])
                        self.close_connection = True
                        return
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def describe(self, about: re.Match[str], folder: Path) -> bytes:
        """The answer to a look-up: the tree of files, or the facts of the model."""
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        names = {file.relative_to(folder).as_posix(): file for file in files}
        if about.group(2) == "tree":
            return json.dumps(
                [
                    {"type": "file", "path": name, "size": file.stat().st_size, "oid": hashlib.sha1(file.read_bytes()).hexdigest()}
                    for name, file in names.items()
                ]
            ).encode()
        siblings = [{"rfilename": name, "size": file.stat().st_size} for name, file in names.items()]
        return json.dumps(
            {"_id": "1", "id": about.group(1), "sha": COMMIT, "private": False, "gated": about.group(1) in self.gated, "siblings": siblings}
        ).encode()
