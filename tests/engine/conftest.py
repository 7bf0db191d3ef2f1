"""For tests that ask: servers, a Hub here with a base model, a finished run of it, forked runs, a workshop, a working folder."""

from pathlib import Path

import pytest
from completions_server import CompletionsServer
from finished_run import base_folder, finished_run
from forks import Forks
from hub_client import ACCOUNTS
from hub_server import COMMIT, HubServer
from workshop import Workshop

from finetune.recipe import Recipe


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return base_folder(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def server():
    with CompletionsServer() as made:
        yield made


@pytest.fixture
def hub(tmp_path, base):
    with HubServer(tmp_path, tokens=ACCOUNTS) as server:
        server.add("org/base", base)
        yield server


@pytest.fixture(scope="module")
def run(tmp_path_factory, base):
    recipe = Recipe.from_layers({"model": f"org/base@{COMMIT}", "dataset": {"source": "builtin:python-docs"}})
    return finished_run(tmp_path_factory.mktemp("runs") / "my model", base, recipe)


@pytest.fixture(scope="session")
def forks() -> Forks:
    return Forks()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A file's workshop, unless the file furnishes its own."""
    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shop: Workshop) -> Path:
    """An empty working folder, the Hub switched off, and the cache of a file's workshop."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("FINETUNE_CLI_CACHE", str(shop.runtime.cache_dir))
    return tmp_path
