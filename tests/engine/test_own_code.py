"""Tokenizers of others: Python code of their own runs with --trust-remote-code alone, and their settings can neither flood nor crash."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from finished_run import base_folder

from finetune.data.tokens.tokenise import Tokeniser
from finetune.errors import ModelError
from finetune.events import Recorder
from finetune.models.load import load_tokenizer
from finetune.models.location import locate
from finetune.runtime import RuntimeOptions

OWN = "from transformers import PreTrainedTokenizerFast\n\n\nclass OwnTokenizer(PreTrainedTokenizerFast):\n    it_is_mine = True\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder = base_folder(tmp_path / "with_own_tokenizer")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "own.py").write_text(OWN)
    return folder


def test_the_flag_reaches_the_code_of_a_tokenizer(folder: Path, tmp_path: Path) -> None:
    allowed = RuntimeOptions(cache_dir=tmp_path / "cache", trust_remote_code=True)
    located = locate(str(folder), allowed, Recorder())
    assert (located.remote_code, located.tokenizer_code) == (False, True)
    assert load_tokenizer(located).it_is_mine


def test_without_the_flag_it_does_not_run(folder: Path, tmp_path: Path) -> None:
    careful = RuntimeOptions(cache_dir=tmp_path / "cache")
    with pytest.raises(ModelError, match="needs its own Python code") as caught:
        locate(str(folder), careful, Recorder())
    assert "--trust-remote-code" in str(caught.value.hint)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "PreTrainedTokenizerFast"}))
    located = locate(str(folder), careful, Recorder())
    assert not located.tokenizer_code


def test_settings_of_a_tokenizer_that_make_no_sense_are_refused_when_it_is_loaded(folder: Path, tmp_path: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["auto_map"]
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": "long"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    located = locate(str(folder), RuntimeOptions(cache_dir=tmp_path / "cache"), Recorder())
    with pytest.raises(ModelError, match="with_own_tokenizer cannot be loaded"):
        load_tokenizer(located)


def _changed(folder: Path, **settings: object) -> Path:
    path = base_folder(folder) / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return folder


def test_a_pattern_that_gives_up_on_a_row_is_a_sentence(tmp_path: Path) -> None:
    """The library panics, which is no Exception of Python."""
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    folder = _changed(tmp_path / "slow", pre_tokenizer=split)
    tokeniser = Tokeniser(load_tokenizer(locate(str(folder), RuntimeOptions(cache_dir=tmp_path / "cache"), Recorder())))
    with pytest.raises(ModelError, match="slow cannot tokenise the rows"):
        tokeniser._texts(["a" * 40 + "b"])
