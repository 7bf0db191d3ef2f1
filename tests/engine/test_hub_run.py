"""A whole run against a Hub: checked before training, model and rows from there, the result there; and nothing of it holds the token."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import warm
import yaml
from finished_run import base_folder
from hub_server import COMMIT, HubServer

ROOT = Path(__file__).parents[2]
TOKEN = "hf_writesWritesWritesWrites"
READS = "hf_readsReadsReadsReads"
ACCOUNTS = {TOKEN: {"name": "ada"}, READS: {"name": "ada", "role": "read"}}
NAMES = ("cat", "dog", "bird", "fish")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = base_folder(tmp_path_factory.mktemp("models") / "base")
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\nlanguage: [en, la]\n---\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Any:
    rows = [{"prompt": f"say {at} {name}", "completion": f"{name} {name}"} for at in range(8) for name in NAMES]
    with HubServer(tmp_path_factory.mktemp("hub"), tokens=ACCOUNTS) as server:
        server.add("org/base", base)
        server.add("org/teacher", base)
        server.add("org/rows", {"train.jsonl": "\n".join(map(json.dumps, rows)).encode()}, kind="dataset")
        yield server


def recipe(**changes: Any) -> dict[str, Any]:
    small = {"training": {"epochs": 1, "batch_size": 8}, "benchmark": {"rows": 3, "max_new_tokens": 4}}
    data = {"source": "org/rows", "samples": 30, "max_length": 64}
    return {"model": "org/base@main", "dataset": data, **small, "upload": {"repo": "letters"}, **changes}


def command(hub: HubServer, token: str | None, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The program as a person starts it, in `folder`."""
    environment = {
        **os.environ,
        **hub.environment(token),
        "PYTHONPATH": str(ROOT),
        "FINETUNE_CLI_CACHE": str(folder / "cache"),
        **environment,
    }
    return warm.run(arguments, folder, environment)


def run(hub: HubServer, token: str | None, folder: Path, wanted: dict[str, Any], **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(wanted), encoding="utf-8")
    return command(hub, token, folder, "run", "recipe.yaml", **environment)


DISTILLATION = {"approach": "distillation", "teacher": "org/teacher", "method": "lora", "output_dir": "made"}


@pytest.fixture(scope="module")
def online(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A distillation, because it has all three: student, teacher and rows; and its folder."""
    folder = tmp_path_factory.mktemp("online")
    done = run(hub, TOKEN, folder, recipe(**DISTILLATION))
    assert done.returncode == 0, done.stderr
    return folder, done


def test_models_and_rows_are_pinned_the_result_is_uploaded_and_the_token_is_nowhere(
    hub: HubServer, online: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    folder, done = online
    output = folder / "made"
    written = yaml.safe_load((output / "run" / "recipe.yaml").read_text(encoding="utf-8"))
    assert written["model"] == f"org/base@{COMMIT}"
    assert written["teacher"]["source"] == f"org/teacher@{COMMIT}"
    assert written["dataset"]["source"] == f"org/rows@{COMMIT}"
    assert "cc-by-4.0, tokenizer included" in done.stderr, "said before it was fetched"
    repo = hub.repos["ada/letters"]
    assert repo.private
    card = yaml.safe_load(repo.files["README.md"].decode().split("---\n")[1])
    assert (card["license"], card["language"], card["datasets"]) == ("cc-by-4.0", ["en", "la"], ["org/rows"])
    assert not [name for name in repo.files if any(word in name for word in ("checkpoint", "held_out", "debug", "events", "data_report"))]
    kept = [path for path in [*output.rglob("*"), *(folder / "cache").rglob("*")] if path.is_file()]
    assert {output / "run" / "debug.log", output / "run" / "events.jsonl", output / "run" / "environment.json"} <= set(kept)
    places = {str(path): path.read_bytes() for path in kept} | {name: repo.files[name] for name in repo.files}
    places |= {"stdout": done.stdout.encode(), "stderr": done.stderr.encode()}
    assert [name for name, content in places.items() if TOKEN.encode() in content] == []
    assert json.loads((output / "run" / "progress.json").read_text(encoding="utf-8"))["stage"] == "finished"


READ_ELSEWHERE = """
import json, sys, torch
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar, set_verbosity_error
disable_progress_bar(); set_verbosity_error()
one, other = (AutoModelForCausalLM.from_pretrained(name)(torch.tensor([[6, 7, 8, 9]])).logits for name in sys.argv[1:])
print(float((one - other).abs().max()))
"""


def test_another_machine_loads_the_adapter_and_trains_it_further(
    hub: HubServer, online: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """It has neither the folders nor the caches of the first."""
    folder, _ = online
    shutil.copytree(folder / "made", tmp_path / "copied")
    settings = json.loads((tmp_path / "copied" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (settings["base_model_name_or_path"], settings["revision"]) == ("org/base", COMMIT)
    environment = {**os.environ, **hub.environment(TOKEN), "HF_HOME": str(tmp_path / "home")}
    read = warm.run(["-c", READ_ELSEWHERE, str(tmp_path / "copied"), "ada/letters"], tmp_path, environment)
    assert float(read.stdout) == 0.0
    done = run(
        hub, TOKEN, tmp_path, recipe(model="ada/letters", output_dir="further", upload={"repo": "more"}), HF_HOME=str(tmp_path / "home")
    )
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "further" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (made["base_model_name_or_path"], made["revision"]) == ("org/base", COMMIT)
    first, further = (json.loads((place / "run" / "benchmark.json").read_text()) for place in (folder / "made", tmp_path / "further"))
    assert further["before"]["rougeL"] == first["after"]["rougeL"]
    files = hub.repos["ada/more"].files
    record = json.loads(files["run/continued.json"])
    assert record["base"] == f"org/base@{COMMIT}"
    assert record["adapter"].startswith("ada/letters@")
    assert "continued the adapter [ada/letters]" in files["README.md"].decode()
    assert str(tmp_path).encode() not in b"".join(files.values())


REFUSED = {
    "not signed in": (None, {}),
    "does not accept your token": ("hf_mistypedMistyped", {}),
    "has no write access to ada/letters": (READS, {}),
    "cannot write to stranger": (TOKEN, {"upload": {"repo": "stranger/letters"}}),
    "is not a valid repository name": (TOKEN, {"upload": {"repo": "org--letters"}}),
    "exists and is public, but a private upload was asked for": (TOKEN, {"upload": {"repo": "taken"}}),
    "exists only on this machine": (TOKEN, {"model": "./base"}),
}
EACH = """
import json, os, sys
from pathlib import Path
from finetune.cli import main
for token, recipe in json.loads(sys.argv[1]):
    os.environ["HF_TOKEN"] = token or ""
    Path("recipe.yaml").write_text(json.dumps(recipe))
    print("exit", main(["run", "recipe.yaml"]), file=sys.stderr)
"""


def test_an_upload_that_cannot_work_is_found_before_anything_is_fetched(hub: HubServer, tmp_path: Path, base: Path) -> None:
    hub.add("ada/taken", {"README.md": b"mine"})
    hub.requests.clear()
    (tmp_path / "base").symlink_to(base)
    environment = {**os.environ, **hub.environment(None), "PYTHONPATH": str(ROOT), "FINETUNE_CLI_CACHE": str(tmp_path / "cache")}
    cases = json.dumps([(token, recipe(**changes)) for token, changes in REFUSED.values()])
    done = warm.run(["-c", EACH, cases], tmp_path, environment)
    answers = done.stderr.split("exit 1\n")
    assert answers.pop() == ""
    for (said, (token, _)), printed in zip(REFUSED.items(), answers, strict=True):
        assert said in printed
        assert "Traceback" not in printed
        assert token is None or token not in printed
    assert not (tmp_path / "finetuned_model").exists()
    assert not [request for request in hub.requests if "resolve" in request]
    assert hub.repos["ada/taken"].files == {"README.md": b"mine"}


def test_offline_the_run_works_and_the_upload_says_why_it_cannot(
    hub: HubServer, online: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    folder, _ = online
    offline = {"HF_HUB_OFFLINE": "1"}
    hub.requests.clear()
    wanted = {**DISTILLATION, "output_dir": "again"}
    local = run(hub, TOKEN, folder, recipe(**wanted, upload=None), **offline)
    assert local.returncode == 0, local.stderr
    later = command(hub, TOKEN, folder, "upload", "again", "--repo", "letters", **offline)
    assert later.returncode == 1
    assert "The Hub is not used (HF_HUB_OFFLINE is set), so nothing can be uploaded now." in later.stderr
    assert "upload again --repo letters" in later.stderr
    assert hub.requests == [], "nobody was asked"
    both = [yaml.safe_load((folder / name / "run" / "recipe.yaml").read_text(encoding="utf-8")) for name in ("made", "again")]
    for key in ("model", "teacher", "dataset"):
        assert both[0][key] == both[1][key], "what is pinned online and from the cache is the same"
