"""Links in a folder that somebody has given away: nothing is written, cut or published through one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from finetune.errors import BadInput, HardwareError
from finetune.events import JsonLines, Notice
from finetune.foreign import leads_out
from finetune.run_folder import RunFolder
from finetune.screen.quiet import quiet
from finetune.sources.written import Batch, Written
from finetune.system.storage import write_whole

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links of Unix")
OWN = "a file of this person"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".bashrc").write_text(OWN)
    return tmp_path / "home" / ".bashrc"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "given")
    folder.run.mkdir(parents=True)
    folder.recipe.write_text("model: gpt2\n")
    return folder


def test_what_is_written_whole_does_not_go_through_a_link_with_its_unfinished_name(run: RunFolder, own: Path) -> None:
    for path in (run.benchmark, run.card):
        path.with_name(f".{path.name}.part").symlink_to(own)
        write_whole(path, "of the run")
        assert not path.is_symlink()
        assert path.read_text() == "of the run"
    assert own.read_text() == OWN


@pytest.mark.parametrize("name", ["events.jsonl", "debug.log"])
def test_a_run_adds_nothing_to_what_a_link_leads_to(run: RunFolder, own: Path, name: str) -> None:
    (run.run / name).symlink_to(own)
    with pytest.raises(BadInput, match=f"{name} is a link"):
        run.claim()
    JsonLines(run.events).report(Notice("$(of somebody)"))
    if name == "debug.log":
        with pytest.raises(BadInput, match=r"debug\.log is a link"), quiet(run.debug_log):
            pass
    assert own.read_text() == OWN


def test_rows_of_a_shared_cache_are_not_added_to_what_a_link_leads_to(tmp_path: Path, own: Path) -> None:
    (tmp_path / "rows.jsonl").symlink_to(own)
    with pytest.raises(OSError, match="is a link"), Written.open(tmp_path / "rows.jsonl"):
        pass
    with pytest.raises(HardwareError, match="is a link"):
        Written(tmp_path / "rows.jsonl").add(Batch(tried=1, asked=["a"], rows=[], thrown={}))
    assert own.read_text() == OWN


def test_a_link_within_a_folder_or_into_the_files_of_the_hubs_cache_leads_not_out(tmp_path: Path, own: Path) -> None:
    snapshot = tmp_path / "models--org--name" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (tmp_path / "another disk").mkdir()
    (snapshot.parents[1] / "blobs").symlink_to(tmp_path / "another disk")
    (snapshot / "config.json").symlink_to("../../blobs/4567")
    (snapshot / "tokenizer.json").symlink_to("config.json")
    (snapshot / "merges.txt").symlink_to(own)
    (snapshot / "vocab.json").write_text("{}")
    assert [path.name for path in sorted(snapshot.iterdir()) if leads_out(path)] == ["merges.txt"]
