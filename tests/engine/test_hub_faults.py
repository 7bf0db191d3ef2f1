"""Uploads to a Hub that is busy, cut off or unwilling: tried again where that helps, safe here and finished by the printed command."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import warm
from hub_client import WRITES, upload
from lengths import few

from finetune.run_folder import FINISHED, RunFolder
from finetune.run_folder import UPLOAD as LEFT

ROOT = Path(__file__).parents[2]


def test_a_connection_dropped_in_the_middle_of_a_file_is_tried_again(hub, run):
    hub.drop("lfs_put", after=1000, times=1)
    assert upload(hub, WRITES, run)["repo"] == "ada/letters"
    assert hub.left("lfs_put") == 0
    content = (run.output_dir / "adapter_model.safetensors").read_bytes()
    assert hub.repos["ada/letters"].files["adapter_model.safetensors"] == content


@pytest.mark.parametrize("place", few(["whoami", "create", "info", "preupload", "lfs_batch", "commit"], "lfs_batch", "commit"))
def test_a_busy_hub_and_a_cut_connection_are_asked_again(hub, run, place):
    hub.refuse(place, 503, times=1)
    done = upload(hub, WRITES, run)
    assert hub.left(place) == 0
    assert "uploaded" in done["events"]
    hub.drop(place, times=1)
    assert upload(hub, WRITES, run, "ada/others")["repo"] == "ada/others"
    assert hub.left(place) == 0


def test_a_hub_that_asks_for_a_pause_gets_it_and_the_person_hears_of_it(hub, run):
    hub.refuse("commit", 429, "slow down", times=2)
    done = upload(hub, WRITES, run)
    assert sum("limits requests; retrying in" in notice for notice in done["notices"]) == 2
    assert len(hub.repos["ada/letters"].commits) == 2


def test_progress_is_reported_in_bytes_inside_a_file_up_to_the_last(hub, run):
    progress = upload(hub, WRITES, run)["progress"]
    assert progress == sorted(progress)
    total = sum(len(content) for content in hub.repos["ada/letters"].files.values())
    assert progress[-1] == total
    assert len(progress) > len(hub.repos["ada/letters"].files), "more than one report for a file of several parts"


def test_what_broke_off_is_safe_here_and_the_printed_command_sends_only_what_is_missing(hub, run):
    """The first large file arrives, the second never does: what was printed is run as it is, and its bytes are counted at the server."""
    before = {path: path.read_bytes() for path in run.output_dir.rglob("*") if path.is_file()}
    small, large = sorted((run.output_dir / name).stat().st_size for name in ("adapter_model.safetensors", "tokenizer.json"))
    hub.drop("lfs_put", after=1000, skip=1)
    broken = upload(hub, WRITES, run)
    assert broken["error"] == "UploadError"
    assert "safe on this machine" in broken["hint"]
    assert hub.uploads[0][1] == large
    assert hub.repos["ada/letters"].files == {}, "what is not whole is not published"
    assert {path: path.read_bytes() for path in run.output_dir.rglob("*") if path.is_file()} == before
    hub.well()
    hub.uploads.clear()
    command = shlex.split(broken["hint"].partition("Finish with: ")[2])
    assert command[:2] == ["python", "finetune_cli.py"]
    finished = warm.run(command[2:], ROOT, {**os.environ, **hub.environment(WRITES)})
    assert finished.returncode == 0, finished.stderr
    assert "ada/letters (private)" in finished.stdout
    assert WRITES not in finished.stdout + finished.stderr
    assert hub.received == small
    assert {"adapter_model.safetensors", "tokenizer.json", "README.md"} <= set(hub.repos["ada/letters"].files)


def test_when_everything_arrived_but_the_commit_nothing_is_sent_twice(hub, run):
    hub.drop("commit")
    assert upload(hub, WRITES, run)["error"] == "UploadError"
    assert hub.repos["ada/letters"].files == {}
    hub.well()
    hub.uploads.clear()
    assert upload(hub, WRITES, run)["repo"] == "ada/letters"
    assert hub.received == 0


def test_a_slow_hub_is_waited_for(hub, run):
    for place in ("whoami", "info", "preupload", "lfs_put", "commit"):
        hub.slow(place, seconds=0.3, times=1)
    assert "uploaded" in upload(hub, WRITES, run)["events"]


def test_ctrl_c_during_an_upload_publishes_nothing_and_names_the_command_that_finishes_it(hub, run):
    hub.slow("lfs_put", seconds=1.0)
    line = [sys.executable, str(ROOT / "finetune_cli.py"), "upload", str(run.output_dir), "--repo", "letters"]
    started = subprocess.Popen(line, env={**os.environ, **hub.environment(WRITES)}, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not any(request.startswith("PUT") for request in hub.requests) and time.monotonic() < until:
        time.sleep(0.05)
    started.send_signal(signal.SIGINT)
    said = started.communicate(timeout=60)[1]
    assert started.returncode == 130, said
    assert "safe in" in said
    assert f"upload '{run.output_dir}' --repo letters" in said
    assert hub.repos["ada/letters"].files == {}


def test_a_run_whose_upload_was_left_is_finished_by_the_upload(hub, run, tmp_path):
    copied = RunFolder(shutil.copytree(run.output_dir, tmp_path / "copy"))
    copied.write_stage(LEFT)
    upload(hub, WRITES, copied)
    assert copied.stage == FINISHED


@pytest.mark.parametrize(
    ("place", "answer", "error", "said"),
    [
        ("preupload", (403, "Private repository storage limit reached"), "UploadError", "storage limit reached"),
        ("commit", (500, "Internal error"), "UploadError", "answered 500"),
        ("commit", (429, "Too many"), "UploadError", "limits requests"),
        ("create", (403, "You don't have the rights to create a model"), "ReadOnlyToken", "rights to create"),
    ],
)
def test_what_the_server_refuses_becomes_one_sentence(hub, run, place, answer, error, said):
    hub.refuse(place, *answer)
    refused = upload(hub, WRITES, run)
    assert refused["error"] == error
    assert said in refused["message"]
    assert "upload" in refused["hint"]


def test_without_the_hub_it_is_said(hub, run):
    refused = upload(hub, WRITES, run, HF_ENDPOINT="http://127.0.0.1:9")
    assert refused["error"] == "UploadError"
    assert "not reachable" in refused["message"]
    assert "upload" in refused["hint"]
