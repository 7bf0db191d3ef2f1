"""A Hub on 127.0.0.1 for the unmodified huggingface_hub, transformers and datasets clients (LFS protocol: HF_HUB_DISABLE_XET=1).

    with HubServer(tmp_path, tokens={"hf_writes": {"name": "ada"}}) as hub:
        hub.add("org/base", folder)                                # a model of that folder's files
        hub.add("org/rows", folder, kind="dataset", gated=True)
        subprocess.run(..., env={**os.environ, **hub.environment("hf_writes")})
    hub.repos["ada/model"].files["config.json"]                    # the bytes that were committed

Faults are named by what is asked for (the methods of the handler: info, search, resolve, create, preupload, lfs_put, commit, ...):

    hub.refuse("commit", 503, times=2)          # an answer; without `times`, for ever
    hub.drop("lfs_put", after=1000)             # the connection is cut after that many bytes of content
    hub.slow("resolve", seconds=0.5)
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_storage import COMMIT, Repo

__all__ = ["COMMIT", "HubServer", "Repo"]
REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
API = rf"/api/(?P<kind>model|dataset)s/{REPO}"
LARGE = (".safetensors", "tokenizer.json")
FOR_EVER = 10**9
PART = 1 << 16


@dataclass
class Fault:
    times: int
    status: int = 0
    message: str = ""
    after: int = 0
    skip: int = 0
    seconds: float = 0.0


class HubServer:
    """`tokens` maps a token to its account: name, and if need be role ("write", "read", "fineGrained"), fineGrained, orgs.

    One after the other has the same address, which programs forked from a warm one have read already; `own_address` is for clients in this
    process, which keep connections and remember what they asked there. `requests` lists what was asked for; `sent` and `received` count
    bytes of files, `uploads` those of each transfer.
    """

    def __init__(self, storage: Path, *, tokens: Mapping[str, dict[str, Any]] | None = None, own_address: bool = False) -> None:
        self.storage, self.tokens = storage, dict(tokens or {})
        self.repos: dict[str, Repo] = {}
        self.datasets: dict[str, Repo] = {}
        self.requests: list[str] = []
        self.uploads: list[tuple[str, int]] = []
        self.sent = 0
        self._faults: dict[str, Fault] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self)) if own_address else _usual(_handler(self))
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def received(self) -> int:
        return sum(size for _, size in self.uploads)

    def add(self, name: str, files: Path | Mapping[str, bytes] | None = None, *, kind: str = "model", **facts: Any) -> Repo:
        """A repository of a folder's files, or of these files in a folder of its own."""
        folder = files if isinstance(files, Path) else self.storage / f"{kind}s" / name
        repo = Repo(folder, None if isinstance(files, Path) else files, **facts)
        self.of(kind)[name] = repo
        return repo

    def of(self, kind: str) -> dict[str, Repo]:
        return self.repos if kind == "model" else self.datasets

    def environment(self, token: str | None) -> dict[str, str]:
        return client_of(self.address, self.storage / "hf-home", token)

    def large_file(self, oid: str) -> Path:
        return self.storage / f"lfs-{oid}"

    # Faults.

    def refuse(self, place: str, status: int, message: str = "", *, times: int = FOR_EVER) -> None:
        self._faults[place] = Fault(times, status=status, message=message)

    def drop(self, place: str, *, after: int = 0, skip: int = 0, times: int = FOR_EVER) -> None:
        """Cut the connection after so many bytes, but for the first `skip` requests."""
        self._faults[place] = Fault(times, after=after, skip=skip)

    def slow(self, place: str, *, seconds: float, times: int = FOR_EVER) -> None:
        self._faults[place] = Fault(times, seconds=seconds)

    def well(self) -> None:
        """No fault from now on."""
        self._faults.clear()

    def left(self, place: str) -> int:
        """How often the fault would still happen."""
        return self._faults[place].times

    def fault(self, place: str) -> Fault | None:
        fault = self._faults.get(place)
        if fault is None or fault.times <= 0:
            return None
        if fault.skip > 0:
            fault.skip -= 1
            return None
        fault.times -= 1
        return fault


def client_of(address: str, home: Path, token: str | None) -> dict[str, str]:
    """The environment of a client process: this Hub, this token, no cache of anybody else."""
    hub = {"HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_TOKEN": token or ""}
    quiet = {"HF_HUB_VERBOSITY": "error"}  # the screen keeps warnings in a file
    return {**hub, **quiet, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


_usual_port = 0


def _usual(handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    """At the address of the Hub before, unless that is still there."""
    global _usual_port
    try:
        server = ThreadingHTTPServer(("127.0.0.1", _usual_port), handler)
    except OSError:
        return ThreadingHTTPServer(("127.0.0.1", 0), handler)
    _usual_port = server.server_address[1]
    return server


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        cut_after: int | None = None

        def do_GET(self) -> None:
            self.route()

        do_HEAD = do_POST = do_PUT = do_GET

        def route(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            for verb, pattern, action in ROUTES:
                found = re.fullmatch(pattern, path)
                if found is None or self.command not in verb.split("|"):
                    continue
                fault = hub.fault(action.__name__)
                self.cut_after = None
                if fault and fault.status:
                    return self.error(fault.status, fault.message)
                if fault and fault.seconds:
                    time.sleep(fault.seconds)
                elif fault:
                    self.cut_after = fault.after
                if self.token() and self.account() is None:
                    return self.error(401, "Invalid credentials in Authorization header")
                if self.cut_after is not None and action.__name__ not in ("lfs_put", "resolve"):
                    return self.hang_up()
                return action(self, **found.groupdict())
            return self.error(404, f"no route {self.command} {path}")

        # ---- answers

        def home(self) -> None:
            self.send(200, b"hub")

        def whoami(self) -> None:
            account = self.account()
            if account is None:
                return self.error(401, "Invalid username or password.")
            token = {"role": account.get("role", "write"), "fineGrained": account.get("fineGrained", {})}
            self.json({"name": account["name"], "orgs": account.get("orgs", []), "auth": {"accessToken": token}})

        def search(self, kind: str) -> None:
            asked = parse_qs(urlsplit(self.path).query)
            words, most = asked.get("search", [""])[0].lower(), int(asked.get("limit", ["100"])[0])
            found = [(name, repo) for name, repo in hub.of(kind).items() if words in name.lower() and not repo.private]
            found.sort(key=lambda entry: -entry[1].downloads)
            self.json([repo.info(name) for name, repo in found[:most]])

        def create(self) -> None:
            wanted = json.loads(self.body())
            account = self.account()
            if account is None or account.get("role") == "read":
                return self.error(403, "You don't have the rights to create a model under this namespace")
            name = f"{wanted.get('organization') or account['name']}/{wanted['name']}"
            if name in hub.repos:
                return self.error(409, "You already created this model repo")
            hub.add(name, private=wanted.get("visibility") == "private" or wanted.get("private") is True)
            self.json({"url": f"{hub.address}/{name}"})

        def validate_yaml(self) -> None:
            text = json.loads(self.body())["content"]
            self.json({"errors": [] if text.startswith("---\n") else [{"message": "no metadata"}], "warnings": []})

        def info(self, kind: str, repo: str, revision: str | None = None) -> None:
            found = self.readable(kind, repo, revision)
            if found:
                self.json(found.info(repo))

        def auth_check(self, kind: str, repo: str, write: str | None) -> None:
            if write and not self.may_write(repo):
                return self.error(403, "Forbidden: you cannot write to this repository")
            if self.readable(kind, repo, content=True):
                self.json({})

        def tree(self, kind: str, repo: str, revision: str, below: str | None = None) -> None:
            found = self.readable(kind, repo, revision)
            if found:
                self.json(found.entries(below or ""))

        def paths_info(self, kind: str, repo: str, revision: str) -> None:
            wanted = json.loads(self.body()).get("paths", [])
            found = self.readable(kind, repo, revision)
            if found:
                self.json([entry for entry in found.entries() if entry["path"] in wanted])

        def resolve(self, repo: str, revision: str, file: str, kind: str | None = None) -> None:
            found = self.readable("dataset" if kind else "model", repo, revision, content=True)
            if not found:
                return
            if file not in found.files:
                return self.error(404, "Entry not found", code="EntryNotFound")
            content = found.files[file]
            headers = {"X-Repo-Commit": found.commits[-1], "ETag": f'"{hashlib.sha256(content).hexdigest()}"', "Accept-Ranges": "bytes"}
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if wanted:
                start, end = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
                headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
                return self.send(206, content[start : end + 1], headers)
            self.send(200, content, {**headers, "X-Linked-Size": str(len(content))})

        def preupload(self, kind: str, repo: str, revision: str) -> None:
            if not self.may_write(repo):
                return self.error(403, "Forbidden: pass a token with write access")
            files = json.loads(self.body())["files"]
            modes = [{"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular"} for file in files]
            self.json({"files": [{**mode, "shouldIgnore": False, "oid": hub.repos[repo].oid(mode["path"])} for mode in modes]})

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
            if self.cut_after is not None:
                hub.uploads.append((oid, len(self.rfile.read(min(self.cut_after, int(self.headers.get("Content-Length") or 0))))))
                return self.hang_up()
            content = self.body()
            hub.uploads.append((oid, len(content)))
            if hashlib.sha256(content).hexdigest() != oid:
                return self.error(400, "the content is not what was announced")
            hub.large_file(oid).write_bytes(content)
            self.send(200, b"")

        def commit(self, kind: str, repo: str, revision: str) -> None:
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

        # ---- rights

        def token(self) -> str:
            return self.headers.get("Authorization", "").removeprefix("Bearer ").strip()

        def account(self) -> dict[str, Any] | None:
            return hub.tokens.get(self.token())

        def owns(self, repo: str) -> bool:
            account = self.account()
            return account is not None and repo.partition("/")[0] in (account["name"], *(org["name"] for org in account.get("orgs", [])))

        def may_write(self, repo: str) -> bool:
            return repo in hub.repos and self.owns(repo) and (self.account() or {}).get("role") != "read"

        def readable(self, kind: str, name: str, revision: str | None = None, *, content: bool = False) -> Repo | None:
            """The repository, or None after a refusal; everybody sees the facts of a gated one, its owner the content."""
            found = hub.of(kind).get(name)
            if found is None or (found.private and not self.owns(name)):
                self.error(404 if self.account() else 401, "Repository not found", code="RepoNotFound")
            elif revision not in (None, "main", *found.commits):
                self.error(404, "Invalid rev id", code="RevisionNotFound")
            elif content and found.gated and not self.owns(name):
                self.error(403 if self.account() else 401, f"Access to {kind} {name} is restricted", code="GatedRepo")
            else:
                return found
            return None

        # ---- plumbing

        def hang_up(self) -> None:
            self.close_connection = True
            self.connection.close()

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
            most = len(content) if self.cut_after is None else min(self.cut_after, len(content))
            try:
                for start in range(0, most if self.command != "HEAD" else 0, PART):
                    hub.sent += self.wfile.write(content[start : min(start + PART, most)])
            except ConnectionError:  # the reader has enough
                self.close_connection = True
            if most < len(content):
                self.hang_up()

        def log_message(self, *_: object) -> None:
            pass

    ROUTES = [
        ("GET|HEAD", "/", Handler.home),
        ("GET", "/api/whoami-v2", Handler.whoami),
        ("GET", "/api/(?P<kind>model|dataset)s", Handler.search),
        ("POST", "/api/repos/create", Handler.create),
        ("POST", "/api/validate-yaml", Handler.validate_yaml),
        ("GET", rf"{API}(/revision/(?P<revision>.+))?", Handler.info),
        ("GET", rf"{API}/auth-check(?P<write>/write)?", Handler.auth_check),
        ("GET", rf"{API}/tree/(?P<revision>[^/]+)(/(?P<below>.*))?", Handler.tree),
        ("POST", rf"{API}/paths-info/(?P<revision>[^/]+)", Handler.paths_info),
        ("POST", rf"{API}/preupload/(?P<revision>.+)", Handler.preupload),
        ("POST", rf"{API}/commit/(?P<revision>.+)", Handler.commit),
        ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", Handler.lfs_batch),
        ("PUT", r"/lfs/(?P<oid>\w+)", Handler.lfs_put),
        ("GET|HEAD", rf"/((?P<kind>datasets)/)?{REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", Handler.resolve),
    ]
    return Handler
