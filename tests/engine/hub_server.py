"""A Hub that takes uploads, on 127.0.0.1, for the unmodified huggingface_hub client (LFS protocol: HF_HUB_DISABLE_XET=1).

    with HubServer(tmp_path, tokens={"hf_writes": {"name": "ada"}}) as hub:
        subprocess.run(..., env={**os.environ, **hub.environment("hf_writes")})
    hub.repos["ada/model"].files["config.json"]        # the bytes that were committed

`drop["PUT"] = 2` cuts the connection in the middle of the next two file transfers; "commit" does so for commits.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
LARGE = (".safetensors", "tokenizer.json")


@dataclass
class Repo:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    commits: list[str] = field(default_factory=lambda: ["0" * 40])


class HubServer:
    """`tokens` maps a token to its account: name, and if need be role ("write", "read", "fineGrained"), fineGrained, orgs."""

    def __init__(self, storage: Path, *, tokens: dict[str, dict[str, Any]], repos: dict[str, Repo] | None = None) -> None:
        self.storage, self.tokens, self.repos = storage, tokens, repos if repos is not None else {}
        self.requests: list[str] = []
        self.drop: dict[str, int] = {}
        self.refuse: dict[str, tuple[int, str]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, token: str | None) -> dict[str, str]:
        """For a client process: this Hub, this token, no cache of anybody else."""
        home = {"HF_ENDPOINT": self.address, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(self.storage / "hf-home"), "HF_HUB_OFFLINE": "0"}
        return {**home, "HF_TOKEN": token or "", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}

    def large_file(self, oid: str) -> Path:
        return self.storage / f"lfs-{oid}"


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.route("HEAD")

        def do_GET(self) -> None:
            self.route("GET")

        def do_POST(self) -> None:
            self.route("POST")

        def do_PUT(self) -> None:
            self.route("PUT")

        def route(self, method: str) -> None:
            path = urlsplit(self.path).path
            hub.requests.append(f"{method} {path}")
            for verb, pattern, action in ROUTES:
                found = re.fullmatch(pattern, path)
                if method in verb.split("|") and found:
                    if action.__name__ in hub.refuse:
                        return self.error(*hub.refuse[action.__name__])
                    return action(self, **found.groupdict())
            return self.error(404, f"no route {method} {path}")

        # ---- answers

        def home(self) -> None:
            self.send(200, b"hub")

        def whoami(self) -> None:
            account = self.account()
            if account is None:
                return self.error(401, "Invalid credentials in Authorization header")
            token = {"role": account.get("role", "write"), "fineGrained": account.get("fineGrained", {})}
            self.json({"name": account["name"], "orgs": account.get("orgs", []), "auth": {"accessToken": token}})

        def create(self) -> None:
            wanted = json.loads(self.body())
            account = self.account()
            if account is None or account.get("role") == "read":
                return self.error(403, "You don't have the rights to create a model under this namespace")
            name = f"{wanted.get('organization') or account['name']}/{wanted['name']}"
            if name in hub.repos:
                return self.error(409, "You already created this model repo")
            hub.repos[name] = Repo(private=wanted.get("visibility") == "private" or wanted.get("private") is True)
            self.json({"url": f"{hub.address}/{name}"})

        def validate_yaml(self) -> None:
            text = json.loads(self.body())["content"]
            self.json({"errors": [] if text.startswith("---\n") else [{"message": "no metadata"}], "warnings": []})

        def info(self, repo: str, revision: str | None = None) -> None:
            found = self.readable(repo)
            if found:
                siblings = [{"rfilename": name, "size": len(content)} for name, content in found.files.items()]
                self.json({"id": repo, "sha": found.commits[-1], "private": found.private, "siblings": siblings, "tags": []})

        def auth_check(self, repo: str, write: str | None) -> None:
            if write and not self.may_write(repo):
                return self.error(403, "Forbidden: you cannot write to this repository")
            if self.readable(repo):
                self.json({})

        def preupload(self, repo: str, revision: str) -> None:
            if not self.may_write(repo):
                return self.error(403, "Forbidden: pass a token with write access")
            files = json.loads(self.body())["files"]
            modes = [{"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular"} for file in files]
            self.json({"files": [{**mode, "shouldIgnore": False, "oid": self.oid(repo, mode["path"])} for mode in modes]})

        def lfs_batch(self, repo: str) -> None:
            if not self.may_write(repo):
                return self.error(403, "Forbidden")
            objects = []
            for wanted in json.loads(self.body())["objects"]:
                known = hub.large_file(wanted["oid"]).is_file()
                upload = {"actions": {"upload": {"href": f"{hub.address}/lfs/{wanted['oid']}", "header": {}}}}
                objects.append({"oid": wanted["oid"], "size": wanted["size"], **({} if known else upload)})
            self.json({"transfer": "basic", "objects": objects})

        def lfs_put(self, oid: str) -> None:
            if self.dropped("PUT"):
                return
            content = self.body()
            if hashlib.sha256(content).hexdigest() != oid:
                return self.error(400, "the content is not what was announced")
            hub.large_file(oid).write_bytes(content)
            self.send(200, b"")

        def commit(self, repo: str, revision: str) -> None:
            if self.dropped("commit"):
                return
            if not self.may_write(repo):
                return self.error(403, "Forbidden")
            found = hub.repos[repo]
            for line in self.body().splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    found.files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    found.files[value["path"]] = hub.large_file(value["oid"]).read_bytes()
                    found.large.add(value["path"])
                elif entry["key"] == "deletedFile":
                    del found.files[value["path"]]
            found.commits.append(hashlib.sha1(str(len(found.commits)).encode()).hexdigest())
            self.json({"commitUrl": f"{hub.address}/{repo}/commit/{found.commits[-1]}", "commitOid": found.commits[-1], "hookOutput": ""})

        def tree(self, repo: str, revision: str) -> None:
            found = self.readable(repo)
            if found:
                self.json(
                    [{"type": "file", "path": name, "size": len(data), "oid": self.oid(repo, name)} for name, data in found.files.items()]
                )

        def resolve(self, repo: str, revision: str, file: str) -> None:
            found = self.readable(repo)
            if not found:
                return
            if file not in found.files:
                return self.error(404, "Entry not found", code="EntryNotFound")
            content = found.files[file]
            etag = hashlib.sha256(content).hexdigest()
            self.send(200, content, {"X-Repo-Commit": found.commits[-1], "ETag": f'"{etag}"', "X-Linked-Size": str(len(content))})

        # ---- rights, faults, plumbing

        def account(self) -> dict[str, Any] | None:
            return hub.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

        def owns(self, repo: str) -> bool:
            account = self.account()
            return account is not None and repo.partition("/")[0] in (account["name"], *(org["name"] for org in account.get("orgs", [])))

        def may_write(self, repo: str) -> bool:
            return repo in hub.repos and self.owns(repo) and (self.account() or {}).get("role") != "read"

        def readable(self, repo: str) -> Repo | None:
            found = hub.repos.get(repo)
            if found is None or (found.private and not self.owns(repo)):
                self.error(404 if self.account() else 401, "Repository not found", code="RepoNotFound")
                return None
            return found

        def oid(self, repo: str, path: str) -> str | None:
            content = hub.repos[repo].files.get(path)
            if content is None:
                return None
            if path in hub.repos[repo].large:
                return hashlib.sha256(content).hexdigest()
            return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()

        def dropped(self, kind: str) -> bool:
            if not hub.drop.get(kind):
                return False
            hub.drop[kind] -= 1
            self.rfile.read(min(1000, int(self.headers.get("Content-Length") or 0)))
            self.close_connection = True
            self.connection.close()
            return True

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def json(self, content: Any) -> None:
            self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

        def error(self, status: int, message: str, code: str | None = None) -> None:
            headers = {"Content-Type": "application/json", "X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
            self.send(status, json.dumps({"error": message}).encode(), headers)

        def send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            if status >= 400:  # an unread request body would be taken for the next request
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    ROUTES = [
        ("GET|HEAD", "/", Handler.home),
        ("GET", "/api/whoami-v2", Handler.whoami),
        ("POST", "/api/repos/create", Handler.create),
        ("POST", "/api/validate-yaml", Handler.validate_yaml),
        ("GET", rf"/api/models/{REPO}(/revision/(?P<revision>.+))?", Handler.info),
        ("GET", rf"/api/models/{REPO}/auth-check(?P<write>/write)?", Handler.auth_check),
        ("POST", rf"/api/models/{REPO}/preupload/(?P<revision>.+)", Handler.preupload),
        ("POST", rf"/api/models/{REPO}/commit/(?P<revision>.+)", Handler.commit),
        ("GET", rf"/api/models/{REPO}/tree/(?P<revision>[^/]+)", Handler.tree),
        ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", Handler.lfs_batch),
        ("PUT", r"/lfs/(?P<oid>\w+)", Handler.lfs_put),
        ("GET|HEAD", rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", Handler.resolve),
    ]
    return Handler
