"""Search while typing, and what is said before a download, against a real HTTP server: asked seldom, remembered, silent where it fails."""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import errors
from prompt_toolkit.buffer import Buffer

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from hub_server import COMMIT, HubServer

from finetune.cli import say
from finetune.errors import BadInput, DatasetNotFound, FinetuneError, ModelGated, ModelNotFound
from finetune.hub import models
from finetune.hub.datasets import look_up
from finetune.hub.facts import search
from finetune.hub.failures import one_sentence, said
from finetune.hub.reachability import endpoint_host, shown_endpoint
from finetune.wizard.asking import suggest
from finetune.wizard.asking.questions import PAUSE_SECONDS, Suggestions


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """This process talks to it; no token, and a cache of its own."""
    with HubServer(tmp_path / "hub", own_address=True) as server:
        for name, value in {"ENDPOINT": server.address, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": False}.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.chdir(tmp_path)
        for remembered in (models.facts, look_up):
            remembered.cache_clear()
        yield server


def asked(hub: HubServer, kind: str = "models") -> int:
    return hub.requests.count(f"GET /api/{kind}")


def weights(parameters: int) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [parameters], "data_offsets": [0, 4 * parameters]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * 4 * parameters


def test_the_hubs_own_search_is_behind_the_names_that_are_known_most_downloaded_first(hub: HubServer) -> None:
    for name, downloads in (("ada/tiny-poems", 10), ("ada/tiny-letters", 500), ("ada/secret-tiny-plan", 9000), ("ada/other", 1)):
        hub.add(name, downloads=downloads, private="secret" in name)
    hub.add("ada/tiny-rows", kind="dataset")
    assert suggest.models("tiny", hub=True) == ["TinyLlama/TinyLlama-1.1B-Chat-v1.0", "ada/tiny-letters", "ada/tiny-poems"]
    assert suggest.datasets("tiny", hub=True) == ["ada/tiny-rows"]


def test_the_address_of_a_server_is_not_sent_to_the_hub_while_it_is_typed(hub: HubServer) -> None:
    address = "http://models.example:8000/v1"
    assert [suggest.models(address[:length], hub=True) for length in range(5, len(address))] == [[]] * (len(address) - 5)
    assert asked(hub) == 0


def test_one_request_when_typing_pauses_and_none_for_a_text_that_was_asked_before(hub: HubServer) -> None:
    hub.add("ada/letters")
    buffer = Buffer()
    suggestions = Suggestions(lambda text: suggest.models(text, hub=True), buffer)

    def type_in(text: str) -> None:
        buffer.text = ""
        for letter in text:
            buffer.insert_text(letter)
            suggestions.refresh()
            time.sleep(PAUSE_SECONDS / 10)
        until = time.monotonic() + 5
        while not suggestions.found and time.monotonic() < until:
            time.sleep(0.01)

    type_in("letters")
    assert suggestions.found == ["ada/letters"]
    assert asked(hub) == 1
    type_in("letters")
    assert suggestions.found == ["ada/letters"]
    assert asked(hub) == 1


def test_keys_do_not_wait_for_a_slow_hub_and_its_late_answer_is_not_shown(hub: HubServer) -> None:
    hub.add("ada/letters")
    hub.slow("search", seconds=0.5)
    buffer = Buffer()
    suggestions = Suggestions(lambda text: suggest.models(text, hub=True), buffer)
    buffer.text = "letters"
    suggestions.refresh()
    assert suggestions.found == [], "it did not wait for the answer"
    while not asked(hub):
        time.sleep(0.01)
    buffer.text = "other"
    time.sleep(0.8)
    assert suggestions.found == []


@pytest.mark.parametrize("fault", ["401", "403", "429", "503", "cut", "gone"])
def test_a_search_that_fails_is_silent_and_asked_for_again(hub: HubServer, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    hub.add("ada/letters")
    hub.add("ada/letters", kind="dataset")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    if fault == "gone":
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    elif fault == "cut":
        hub.drop("search")
    else:
        hub.refuse("search", int(fault))
    assert suggest.models("letters", hub=True) == suggest.datasets("letters", hub=True) == []
    if fault != "gone":
        hub.well()
        assert suggest.models("letters", hub=True) == suggest.datasets("letters", hub=True) == ["ada/letters"]


def test_without_the_hub_what_is_on_this_machine_is_offered_and_nothing_is_asked(hub: HubServer, tmp_path: Path) -> None:
    model = tmp_path / "cache" / "models--ada--letters" / "snapshots" / COMMIT
    rows = tmp_path / "cache" / "datasets--ada--letter-rows" / "snapshots" / COMMIT
    for folder in (model, rows):
        folder.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    assert suggest.models("letters", hub=False) == ["ada/letters"]
    assert suggest.datasets("letter", hub=False) == ["ada/letter-rows"]
    assert hub.requests == []


def test_what_a_model_is_is_said_without_fetching_any_of_it(hub: HubServer) -> None:
    files = {"model.safetensors": weights(400_000), "config.json": b"{}", "tokenizer.json": b"{}", "pytorch_model.bin": b"x" * 10**6}
    hub.add("ada/letters", {**files, "README.md": b"---\nlicense: mit\n---\n"}, downloads=1_234_567)
    hub.add("ada/bare", {"model-00001-of-00002.safetensors": weights(100), "model-00002-of-00002.safetensors": weights(150)})
    found = models.facts("ada/letters", None)
    assert str(found) == "400k parameters, 2 MB to download, mit, tokenizer included, open, 1.2M downloads a month"
    assert found.bytes == len(files["model.safetensors"])
    bare = str(models.facts("ada/bare", COMMIT))
    assert bare == "250 parameters, 1 kB to download, no licence stated, no tokenizer of its own, open, 0 downloads a month"
    assert not [request for request in hub.requests if "resolve" in request]


def test_a_gated_or_unknown_model_is_found_out_before_a_download(hub: HubServer) -> None:
    hub.add("ada/closed", {"model.safetensors": weights(10)}, gated=True)
    with pytest.raises(ModelGated, match="accept its terms"):
        models.facts("ada/closed", None)
    with pytest.raises(ModelNotFound, match="no model ada/none"):
        models.facts("ada/none", None)


CARD = b"""---
license: [mit, cc0-1.0]
configs:
- config_name: poems
- config_name: letters
dataset_info:
- config_name: poems
  download_size: 1500000
  splits:
  - {name: train, num_examples: 7473}
  - {name: test, num_examples: 1319}
- config_name: letters
  download_size: 500000
  splits:
  - {name: train, num_examples: 26}
---
"""


def test_what_a_data_set_is_is_said_too(hub: HubServer) -> None:
    hub.add("ada/rows", {"README.md": CARD}, kind="dataset", downloads=98_765)
    hub.add("ada/plain", {"train.jsonl": b"x" * 5000}, kind="dataset")
    hub.add("ada/closed", kind="dataset", gated=True)
    found = look_up("ada/rows", None)
    assert str(found) == "rows in poems: train 7,473, test 1,319, 2 MB, mit, cc0-1.0, open, 99k downloads a month"
    assert found.configs == ("poems", "letters")
    assert str(look_up("ada/plain", None)) == "5 kB, no licence stated, open, 0 downloads a month"
    with pytest.raises(DatasetNotFound, match="is gated"):
        look_up("ada/closed", None)


def test_searching_for_nothing_in_particular_is_left_to_the_browser(hub: HubServer) -> None:
    hub.add("ada/letters")
    suggest.models("le", hub=True)
    suggest.models("./let", hub=True)
    assert asked(hub) == 0
    assert search("LETTERS ", "model") == ("ada/letters",)


@pytest.mark.parametrize(
    ("address", "shown", "host"),
    [
        ("https://ada:hushhush@mirror.example:8443/hub", "https://mirror.example:8443/hub", "mirror.example:8443"),
        ("https://ada:hush@hush/hush@mirror.example", "https://mirror.example", "mirror.example"),  # nobody quoted it
        ("ada:hushhush@mirror.example", "https://mirror.example", "mirror.example"),
        ("http://hushhush@[::1]:80/?key=hushhush", "http://[::1]:80/", "[::1]:80"),
    ],
)
def test_a_password_in_the_address_of_a_mirror_is_never_shown(address: str, shown: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    assert (shown_endpoint(), endpoint_host()) == (shown, host)
    assert "hush" not in said(OSError(f"404 for url: {address}/api/models/x (unfortunately)"))
    for error in (errors.GatedRepoError, errors.RepositoryNotFoundError, OSError):
        response = SimpleNamespace(headers={}, request=None, status_code=403)
        failure = OSError(f"no {address}") if error is OSError else error(f"no {address}", response=response)
        with pytest.raises(FinetuneError) as told, one_sentence("model", "ada/letters", None):
            raise failure
        assert "hush" not in f"{told.value} {told.value.hint}"


def test_no_error_shows_the_password_of_an_address(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever library it comes from: a proxy's address has one too."""
    error = BadInput("No answer: 'http://ada:hushhush@proxy:3128/x'", hint="curl https://ada:hushhush@mirror.example/x")
    assert (str(error), error.hint) == ("No answer: 'http://proxy:3128/x'", "curl https://mirror.example/x")
    say("Unexpected error: ValueError: https://ada:hushhush@mirror.example", "see https://hushhush@mirror.example, or ask ada@example.com")
    told = capsys.readouterr().err
    assert "hush" not in told
    assert "ada@example.com" in told
