"""Passwords and tokens: in no message, no notice and no log."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from finetune.errors import FinetuneError, without_secrets
from finetune.events import Fanout, Notice, Recorder
from finetune.screen.quiet import STDERR, quiet

TOKEN = "hf_abcdefghijABCDEFGHIJabcdefghij1234"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://ada:s3cret@mirror.example/x", "https://mirror.example/x"),
        (f"the token {TOKEN}.", "the token (hidden)."),
        ("{'Authorization': 'Bearer abc.def-ghi'}", "{'Authorization': 'Bearer (hidden)'}"),
        ("authorization: Basic YWRhOnMzY3JldA==", "authorization: Basic (hidden)"),
        ("GET /a?X-Amz-Signature=0123456789abcdef&part=1", "GET /a?X-Amz-Signature=(hidden)&part=1"),
        ("the key is wandb0123456789", "the key is (hidden)"),
        ("hf_hub_download(token=None) of basic configuration", "hf_hub_download(token=None) of basic configuration"),
        ("bearer of news", "bearer of news"),
        ("café: 0123456789abcdef0123456789abcdef01234567", "café: 0123456789abcdef0123456789abcdef01234567"),
    ],
)
def test_secrets_are_hidden_and_nothing_else(text: str, clean: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "wandb0123456789")
    monkeypatch.setenv("SOME_TOKEN", "of")  # too short to be one
    assert without_secrets(text) == clean
    assert len(clean) <= len(text)
    assert FinetuneError(text).message == clean


def test_a_notice_reaches_every_reporter_without_secrets() -> None:
    heard = Recorder()
    Fanout(heard).report(Notice(f"The library says {TOKEN}."))
    assert [event.text for event in heard.of(Notice)] == ["The library says (hidden)."]


@pytest.mark.parametrize("fails", [False, True])
def test_the_log_of_a_run_has_no_secrets_and_everything_else(tmp_path: Path, fails: bool) -> None:
    log = tmp_path / "run" / "debug.log"
    log.parent.mkdir()
    (log.parent / "recipe.yaml").touch()
    log.write_text(f"from an earlier start, which was killed: {TOKEN}\n")
    try:
        with quiet(log, streams=(STDERR,)):
            os.write(STDERR, b"GET https://ada:s3cret@mirror.example/x\nplain \xff bytes\n")
            if fails:
                raise ValueError(f"401 for {TOKEN}")
            os.write(STDERR, b"the end")
    except ValueError:
        pass
    said = log.read_bytes()
    assert said.startswith(b"from an earlier start, which was killed: (hidden)\nGET https://mirror.example/x\nplain \xff bytes\n")
    assert said.endswith(b"ValueError: 401 for (hidden)\n" if fails else b"\nthe end")
