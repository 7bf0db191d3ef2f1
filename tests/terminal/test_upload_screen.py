"""STEP 6 against a Hub on this machine: asked last, shown first, private by default, no token on screen."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from screen import CTRL_C, DOWN, ENTER, ROOT, TAB, UP, Terminal
from test_whole_run import RUN_SECONDS, answer, up_to_the_review

sys.path.insert(0, str(ROOT / "tests" / "engine"))
from hub_server import HubServer

TOKEN = "hf_writesWritesWritesWrites"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    storage = tmp_path / "hub"
    storage.mkdir()
    with HubServer(storage, tokens={TOKEN: {"name": "ada"}}) as server:
        yield server


def train(terminal: Terminal) -> None:
    """A whole model: an adapter of a model that only exists here is refused."""
    up_to_the_review(terminal, method="Full")
    terminal.press(ENTER)
    terminal.wait_for("? Upload to the Hugging Face Hub?", RUN_SECONDS)


@pytest.mark.long
def test_enter_uploads_nothing(hub: HubServer, workplace: Path) -> None:
    with Terminal(folder=workplace, env=hub.environment(TOKEN)) as terminal:
        train(terminal)
        terminal.press(ENTER)
        assert terminal.wait_for_end() == 0
        assert "upload finetuned_model --repo finetuned_model" in terminal.text().replace("\n", "")
    assert hub.repos == {}


def test_yes_shows_where_it_goes_and_keeps_it_private(hub: HubServer, workplace: Path) -> None:
    with Terminal(folder=workplace, env=hub.environment(TOKEN)) as terminal:
        train(terminal)
        terminal.press("y", ENTER)
        answer(terminal, "Repository")
        answer(terminal, "Who can see it?")
        terminal.wait_for("? Upload this now?")
        shown = terminal.text()
        assert "model.safetensors (" in shown
        assert "Not uploaded  checkpoints, data, held-out rows, logs" in shown
        for fact in (
            "User          ada",
            "Repository    ada/finetuned_model (new)",
            "Visibility    private",
            f"Endpoint      {hub.address}",
        ):
            assert fact in shown
        assert hub.repos == {}, "nothing is sent before it is agreed to"
        terminal.press(ENTER)
        terminal.wait_for("Uploaded: ", RUN_SECONDS)
        assert terminal.wait_for_end() == 0
        assert TOKEN not in terminal.raw.decode(errors="replace")
    repo = hub.repos["ada/finetuned_model"]
    assert repo.private
    assert "model.safetensors" in repo.files
    assert not any("debug.log" in name or "checkpoint" in name for name in repo.files)


def test_without_a_token_the_wizard_offers_to_sign_in_and_hides_what_is_typed(hub: HubServer, workplace: Path) -> None:
    with Terminal(folder=workplace, env=hub.environment(None)) as terminal:
        train(terminal)
        terminal.press("y", ENTER)
        answer(terminal, "Repository", "mine")
        answer(terminal, "Who can see it?")
        terminal.wait_for("not signed in")
        answer(terminal, "Sign in?", DOWN)
        answer(terminal, "Token", TOKEN)
        terminal.wait_for("Repository    ada/mine (new)")
        assert TOKEN not in terminal.raw.decode(errors="replace")
        answer(terminal, "Upload this now?", "n")
        assert terminal.wait_for_end() == 0
    assert hub.repos == {}


def test_a_public_repository_is_not_filled_with_private_work_and_another_name_is_asked_for(hub: HubServer, workplace: Path) -> None:
    hub.add("ada/finetuned_model", {"README.md": b"mine"})
    with Terminal(folder=workplace, env=hub.environment(TOKEN)) as terminal:
        train(terminal)
        terminal.press("y", ENTER)
        answer(terminal, "Repository")
        answer(terminal, "Who can see it?")
        terminal.wait_for("exists and is public")
        answer(terminal, "Where should it go instead?")
        terminal.wait_for("finetuned_model-2")
        answer(terminal, "Repository")
        terminal.wait_for("Repository    ada/finetuned_model-2 (new)")
        terminal.wait_for("Visibility    private")
        terminal.press(ENTER)
        terminal.wait_for("Uploaded: ", RUN_SECONDS)
        assert terminal.wait_for_end() == 0
    assert hub.repos["ada/finetuned_model"].files == {"README.md": b"mine"}
    assert hub.repos["ada/finetuned_model-2"].private


def test_models_and_data_sets_are_searched_while_typing_and_described_before_they_are_fetched(hub: HubServer, workplace: Path) -> None:
    card = "---\nlicense: mit\ndataset_info:\n  splits:\n  - {name: train, num_examples: 7473}\n---\n"
    hub.add("ada/tiny-poems", workplace / "pico", downloads=12)
    hub.add("ada/tiny-rows", {"README.md": card.encode(), "train.jsonl": (workplace / "rows.jsonl").read_bytes()}, kind="dataset")
    with Terminal(folder=workplace, env=hub.environment(None)) as terminal:
        answer(terminal, "What would")
        answer(terminal, "Model", UP)
        terminal.wait_for("? Name or folder")
        terminal.press(*"poems")
        terminal.wait_for("ada/tiny-poems")
        assert hub.requests.count("GET /api/models") == 1, "one search for five letters"
        terminal.press(TAB, ENTER)
        terminal.wait_for("open, 12 downloads a month.")
        assert not [request for request in hub.requests if "resolve" in request], "nothing was fetched yet"
        answer(terminal, "Dataset", UP, UP)
        terminal.wait_for("? Dataset name")
        terminal.press(*"tiny")
        terminal.wait_for("ada/tiny-rows")
        terminal.press(TAB, ENTER)
        terminal.wait_for("rows: train 7,473")
        terminal.press(CTRL_C)
        assert terminal.wait_for_end() == 130
