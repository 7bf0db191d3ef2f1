"""The probe of the Hub: one answer in at most two seconds, which every library then goes by."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from finetune.hub import reachability

ASK = (
    "import json, sys, time\n"
    "import huggingface_hub.constants, datasets.config\n"
    "from finetune.hub.reachability import endpoint_host, hub_reachable, offline_reason\n"
    "began = time.perf_counter(); answers = [hub_reachable()]; first = time.perf_counter() - began\n"
    "began = time.perf_counter(); answers.append(hub_reachable()); second = time.perf_counter() - began\n"
    "from huggingface_hub import is_offline_mode\n"
    "import os\n"
    "print(json.dumps({'answers': answers, 'first': first, 'second': second, 'why': offline_reason(), 'host': endpoint_host(),\n"
    "  'offline': [is_offline_mode(), datasets.config.HF_HUB_OFFLINE, os.environ.get('HF_HUB_OFFLINE') == '1']}))\n"
)


def ask(**environment: str) -> dict:
    clean = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_ENDPOINT")}
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True, env={**clean, **environment})
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_closed_port_puts_every_library_into_offline_mode_at_once() -> None:
    seen = ask(HF_ENDPOINT="http://127.0.0.1:9")
    assert seen["answers"] == [False, False]
    assert seen["first"] < 1
    assert seen["second"] < 0.01
    assert seen["offline"] == [True, True, True]
    assert seen["why"] == "127.0.0.1:9 is not reachable"


@pytest.mark.slow
def test_an_address_that_never_answers_costs_two_seconds_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the system accepts the connection, nobody ever writes
        seen = ask(HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert seen["answers"] == [False, False]
    assert 1.9 < seen["first"] < 2.5
    assert seen["second"] < 0.01


@pytest.mark.slow
def test_offline_mode_asked_for_by_the_user_is_honoured_without_a_probe() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        seen = ask(HF_HUB_OFFLINE="1", HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert seen["answers"] == [False, False]
    assert seen["first"] < 0.5
    assert "HF_HUB_OFFLINE" in seen["why"]


@pytest.mark.slow
def test_a_password_in_the_endpoint_is_never_shown() -> None:
    seen = ask(HF_ENDPOINT="http://somebody:hunter2@127.0.0.1:9")
    assert seen["host"] == "127.0.0.1:9"
    assert "hunter2" not in seen["why"]


LATER = (
    "import json, sys, time\n"
    "import datasets.config\n"
    "import finetune\n"
    "from finetune.hub import reachability as hub\n"
    "from test_hub_reachability import listening\n"
    "answers = [hub.hub_reachable()]\n"
    "hub.ask_again(); answers.append(hub.hub_reachable())\n"  # too early
    "with listening(int(sys.argv[1])):\n"
    "    answers.append(hub.hub_reachable())\n"
    "    hub.ASKED_AGAIN = 0\n"
    "    finetune.LLMFineTuner(model='x/y'); answers.append(hub.hub_reachable())\n"
    "from huggingface_hub import is_offline_mode\n"
    "import os\n"
    "print(json.dumps([answers, is_offline_mode(), datasets.config.HF_HUB_OFFLINE, 'HF_HUB_OFFLINE' in os.environ]))\n"
)


class Answering(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def listening(port: int) -> Iterator[None]:
    server = HTTPServer(("127.0.0.1", port), Answering)
    Thread(target=server.serve_forever, daemon=True).start()
    yield
    server.shutdown()


@pytest.mark.slow
def test_a_connection_that_comes_back_is_used_by_the_next_run() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    clean = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    here = f"{Path(__file__).parent}{os.pathsep}{clean.get('PYTHONPATH', '')}"
    told = {**clean, "HF_ENDPOINT": f"http://127.0.0.1:{port}", "PYTHONPATH": here}
    done = subprocess.run([sys.executable, "-c", LATER, str(port)], capture_output=True, text=True, check=True, env=told)
    assert json.loads(done.stdout) == [[False, False, False, True], False, False, False]


def test_offline_mode_that_a_person_asked_for_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(reachability, "ASKED_AGAIN", 0)
    reachability.ask_again()
    assert not reachability.hub_reachable()


@pytest.mark.parametrize("asked", ["1", "0", None])
def test_a_library_that_was_imported_offline_is_then_as_a_person_set_it(asked: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HF_HUB_OFFLINE": None, "HF_DATASETS_OFFLINE": asked}.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    for name in reachability.FLAGS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(reachability, "_before", {})
    monkeypatch.setattr(reachability, "ASKED_AGAIN", 0)
    reachability.go_offline()
    datasets = SimpleNamespace(HF_HUB_OFFLINE=True, HF_DATASETS_OFFLINE=True)
    monkeypatch.setitem(sys.modules, "datasets.config", datasets)
    reachability.ask_again()
    assert datasets.HF_HUB_OFFLINE is datasets.HF_DATASETS_OFFLINE is (asked == "1")


def test_who_was_offline_is_not_told_of_a_variable_that_nobody_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(reachability, "_before", {})
    monkeypatch.setattr(reachability, "ASKED_AGAIN", 0)
    reachability._answers.cache_clear()
    assert "HF_HUB_OFFLINE is set" in reachability.offline_reason()
    reachability.go_offline()
    reachability.ask_again()
    assert reachability.offline_reason() == "huggingface.co is not reachable"
