"""Uploads to a real HTTP server by the unmodified huggingface_hub client in processes of their own."""

import json
import os
from pathlib import Path

import pytest
import warm
from finished_run import base_folder, finished_run
from hub_client import WRITES, client, upload
from hub_server import COMMIT
from huggingface_hub import ModelCard

from finetune.errors import UploadError
from finetune.publish.upload import _contents
from finetune.recipe import Recipe


def test_an_adapter_is_uploaded_privately_and_loads_from_the_hub_as_it_was(hub, run):
    done = upload(hub, WRITES, run)
    assert done["repo"] == "ada/letters"
    assert done["private"] is True
    assert "uploaded" in done["events"]
    repo = hub.repos["ada/letters"]
    assert repo.private
    assert len(repo.commits) == 2  # all files in one commit
    assert {"adapter_model.safetensors", "tokenizer.json"} <= repo.large
    again = client(
        hub,
        WRITES,
        run.output_dir,
        code="""
import sys, json, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar, set_verbosity_error
disable_progress_bar(); set_verbosity_error()
ids = AutoTokenizer.from_pretrained("ada/letters")("what is it?", return_tensors="pt")
there, here = (AutoModelForCausalLM.from_pretrained(name)(**ids).logits for name in ("ada/letters", sys.argv[1]))
base = AutoModelForCausalLM.from_pretrained("org/base")(**ids).logits
print(json.dumps({"equal": bool(torch.equal(there, here)), "base": bool(torch.equal(there, base))}))
""",
    )
    assert again == {"equal": True, "base": False}


def test_only_model_files_card_recipe_and_scores_leave_and_nothing_in_them_is_private(hub, run):
    upload(hub, WRITES, run)
    files = hub.repos["ada/letters"].files
    assert set(files) == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "run/benchmark.json",
        "run/recipe.yaml",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    for name, content in files.items():
        for secret in (WRITES, str(run.output_dir.parent), str(Path.home()), "secret noise"):
            assert secret.encode() not in content, (name, secret)
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "org/base"


@pytest.mark.skipif(os.name == "nt", reason="links of Unix")
def test_a_link_out_of_the_folder_is_not_followed(base, tmp_path):
    run = finished_run(tmp_path / "given", base, Recipe.from_layers({"model": "org/base"}))
    for name in ("merges.txt", "generation_config.json"):
        (run.output_dir / name).symlink_to(tmp_path / "id_ed25519")
        with pytest.raises(UploadError, match=f"{name} is a link to .*id_ed25519"):
            _contents(run, "ada/letters", gguf=False)
        (run.output_dir / name).unlink()


@pytest.mark.parametrize("data", ["letters.jsonl", "letters"])
def test_rows_of_the_users_own_files_stay_at_home(hub, base, tmp_path, data):
    """A path, and the name of a folder that is not below the one the upload is made from."""
    source = str(tmp_path / data) if "." in data else data
    own = finished_run(tmp_path / "own", base, Recipe.from_layers({"model": "org/base", "dataset": {"source": source}}))
    upload(hub, WRITES, own)
    files = hub.repos["ada/letters"].files
    assert "generations" in json.loads(own.benchmark.read_text())
    assert "generations" not in json.loads(files["run/benchmark.json"])
    for name in ("README.md", "run/benchmark.json", "run/recipe.yaml"):
        assert b"what is a cat" not in files[name]
        assert str(tmp_path).encode() not in files[name]
    assert f"source: private-data{Path(data).suffix}\n".encode() in files["run/recipe.yaml"]
    assert b"letters.jsonl" not in b"".join(files[name] for name in ("README.md", "run/benchmark.json", "run/recipe.yaml"))
    assert b"datasets:" not in files["README.md"]


def test_a_whole_model_is_uploaded_and_its_card_works(hub, base, tmp_path):
    whole = finished_run(tmp_path / "whole", base, Recipe.from_layers({"model": "org/base", "method": "full"}), adapter=False)
    upload(hub, WRITES, whole, visibility="public")
    repo = hub.repos["ada/letters"]
    assert not repo.private
    assert {"model.safetensors", "config.json", "generation_config.json"} <= set(repo.files)
    assert "base_model_relation: finetune" in repo.files["README.md"].decode()


def test_a_merged_model_of_more_than_ten_megabytes_is_uploaded_and_loads_with_equal_logits(hub, tmp_path):
    """The base is fetched from the Hub, merged with the run's adapter, uploaded, and loaded from there without peft."""
    shape = {"hidden_size": 256, "intermediate_size": 1024, "layers": 3}
    hub.add("org/big", base_folder(tmp_path / "big", **shape))
    recipe = Recipe.from_layers({"model": f"org/big@{COMMIT}", "dataset": {"source": f"org/rows@{COMMIT}"}})
    tuned = finished_run(tmp_path / "tuned", tmp_path / "big", recipe, **shape)
    equal = client(
        hub,
        WRITES,
        tuned.output_dir,
        tmp_path / "plain",
        code="""
import json, sys, torch
from pathlib import Path
from finetune.events import Recorder
from finetune.publish.merged import Merged
from finetune.publish.upload import upload_folder
from finetune.recipe import UploadSpec
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar, set_verbosity_error
disable_progress_bar(); set_verbosity_error()
Merged.export(RunFolder.of(sys.argv[1]), Path(sys.argv[2]), RuntimeOptions(device="cpu"), Recorder())
upload_folder(sys.argv[2], UploadSpec(repo="plain"), Recorder())
ids = AutoTokenizer.from_pretrained("ada/plain")("what is it?", return_tensors="pt")
there, here = (AutoModelForCausalLM.from_pretrained(name)(**ids).logits for name in ("ada/plain", sys.argv[2]))
base = AutoModelForCausalLM.from_pretrained("org/big")(**ids).logits
print(json.dumps({"equal": bool(torch.equal(there, here)), "base": bool(torch.equal(there, base))}))
""",
    )
    assert equal == {"equal": True, "base": False}
    repo = hub.repos["ada/plain"]
    assert len(repo.files["model.safetensors"]) > 10_000_000
    assert "model.safetensors" in repo.large
    assert not [name for name in repo.files if name.startswith("adapter")]
    card = ModelCard(repo.files["README.md"].decode()).data
    assert (card.base_model, card.to_dict()["base_model_relation"], card.datasets) == ("org/big", "merge", ["org/rows"])


def test_the_four_lines_of_the_card_run_as_they_are(hub, run, tmp_path):
    upload(hub, WRITES, run)
    lines = hub.repos["ada/letters"].files["README.md"].decode().partition("```python\n")[2].partition("```")[0]
    assert len(lines.strip().splitlines()) == 4
    quiet = (
        "from transformers.utils.logging import disable_progress_bar, set_verbosity_error\ndisable_progress_bar(); set_verbosity_error()\n"
    )
    done = warm.run(["-c", quiet + lines], tmp_path, {**os.environ, **hub.environment(WRITES)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_plan_says_who_where_and_how_much_and_changes_nothing(hub, run):
    plan = client(hub, WRITES, "plan", run.output_dir, "letters", "private")
    assert (plan["user"], plan["repo"], plan["visibility"], plan["exists"]) == ("ada", "ada/letters", "private", False)
    assert plan["endpoint"] == hub.address
    assert plan["bytes"] == sum(plan["files"].values())
    assert plan["files"]["adapter_model.safetensors"] == (run.output_dir / "adapter_model.safetensors").stat().st_size
    assert list(hub.repos) == ["org/base"]
    upload(hub, WRITES, run)
    assert {name: len(content) for name, content in hub.repos["ada/letters"].files.items()} == plan["files"]


def test_an_organisation_of_the_account_may_be_the_owner_and_a_stranger_may_not(hub, run):
    assert upload(hub, WRITES, run, "society/letters")["repo"] == "society/letters"
    refused = upload(hub, WRITES, run, "stranger/letters")
    assert refused["error"] == "UploadError"
    assert refused["message"] == "You are ada and cannot write to stranger."
    assert "ada, society" in refused["hint"]


@pytest.mark.parametrize(
    ("token", "error", "said"),
    [
        (None, "NotSignedIn", "not signed in to 127.0.0.1"),
        ("hf_of_somebody_else", "NotSignedIn", "does not accept your token, which comes from HF_TOKEN"),
        ("hf_only_reads_things", "ReadOnlyToken", "has no write access to ada/letters"),
        ("hf_fine_for_nothing", "ReadOnlyToken", "has no write access to ada/letters"),
    ],
)
def test_without_the_right_to_write_nothing_happens_and_the_command_to_finish_is_named(hub, run, token, error, said):
    refused = upload(hub, token, run)
    assert (refused["error"], refused["code"]) == (error, 1)
    assert said in refused["message"]
    assert f"python finetune_cli.py upload '{run.output_dir}' --repo ada/letters" in refused["hint"]
    assert token is None or token not in json.dumps(refused)
    assert list(hub.repos) == ["org/base"]


def test_a_fine_grained_token_with_write_access_is_enough(hub, run):
    assert upload(hub, "hf_fine_for_writing", run)["repo"] == "ada/letters"


def test_a_public_repository_is_never_used_when_private_was_asked_for(hub, run):
    hub.add("ada/letters", {"README.md": b"mine"})
    refused = upload(hub, WRITES, run)
    assert refused["error"] == "RepoExists"
    assert "--public" in refused["hint"]
    assert hub.repos["ada/letters"].files == {"README.md": b"mine"}


def test_a_private_repository_of_ones_own_takes_a_second_upload_and_stays_private(hub, run):
    upload(hub, WRITES, run)
    assert upload(hub, WRITES, run, visibility="public")["private"] is True
    assert hub.repos["ada/letters"].private


def test_a_new_model_in_an_old_repository_leaves_no_part_of_the_old_model_behind(hub, run, base, tmp_path):
    upload(hub, WRITES, run)
    hub.repos["ada/letters"].files["notes.txt"] = b"mine"
    whole = finished_run(tmp_path / "whole", base, Recipe.from_layers({"model": "org/base", "method": "full"}), adapter=False)
    plan = client(hub, WRITES, "plan", whole.output_dir, "letters", "private")
    assert plan["removed"] == ["adapter_config.json", "adapter_model.safetensors"], "which is said before"
    upload(hub, WRITES, whole)
    files = hub.repos["ada/letters"].files
    assert not {"adapter_config.json", "adapter_model.safetensors"} & set(files)
    assert {"model.safetensors", "config.json", "notes.txt"} <= set(files)


def test_before_training_the_way_out_is_another_run_and_not_an_upload(hub):
    checked = """
import json
from finetune.errors import FinetuneError
from finetune.hub.account import check_upload
from finetune.recipe import UploadSpec
try:
    print(json.dumps({"repo": check_upload(UploadSpec(repo="letters")).repo}))
except FinetuneError as error:
    print(json.dumps({"error": type(error).__name__, "hint": error.hint}))
"""
    assert client(hub, WRITES, code=checked) == {"repo": "ada/letters"}
    refused = client(hub, "hf_only_reads_things", code=checked)
    assert refused["error"] == "ReadOnlyToken"
    assert "Nothing was trained yet" in refused["hint"]
    assert "/settings/tokens and set HF_TOKEN to it." in refused["hint"], "signing in would not replace what a variable has"


def test_a_file_that_cannot_be_read_is_no_lost_connection() -> None:
    from finetune.errors import UploadError
    from finetune.hub.account import upload_errors

    with pytest.raises(UploadError) as refused, upload_errors("the command"):
        raise PermissionError(13, "Permission denied", "mine/model.safetensors")
    assert refused.value.message == "mine/model.safetensors cannot be read: Permission denied."
    assert refused.value.hint == "Then finish with: the command"


def test_a_connection_that_the_storage_client_lost_is_tried_again(monkeypatch) -> None:
    from finetune.hub import retry

    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    answers = [ConnectionError("IO Error: broken pipe"), "sent"]

    def ask():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert retry.with_retries(ask) == "sent"


def test_hf_home_is_where_a_token_is_looked_for(hub, run, tmp_path):
    (tmp_path / "signed-in").mkdir()
    (tmp_path / "signed-in" / "token").write_text(WRITES)
    assert upload(hub, None, run, HF_HOME=str(tmp_path / "signed-in"))["repo"] == "ada/letters"


def test_a_reader_of_an_organisation_is_told_before_anything_happens(hub, run):
    hub.tokens[WRITES] = {"name": "ada", "orgs": [{"name": "society", "roleInOrg": "read"}]}
    assert upload(hub, WRITES, run, "society/letters")["message"] == "You have only read access to society."


def test_an_adapter_of_a_model_that_only_exists_here_is_refused(hub, base, tmp_path):
    local = finished_run(tmp_path / "local", base, Recipe.from_layers({"model": str(base)}))
    refused = upload(hub, WRITES, local)
    assert refused["error"] == "UploadError"
    assert "exists only on this machine" in refused["message"]
    assert "finetune-cli merge" in refused["hint"]
    assert "ada/letters" not in hub.repos


def test_an_adapter_on_an_earlier_run_is_not_published_as_one_of_the_model_below(hub, run, base, tmp_path):
    """It needs the earlier run's adapter too, which no Hub id names."""
    second = finished_run(tmp_path / "second", base, Recipe.from_layers({"model": str(run.output_dir)}))
    assert "exists only on this machine" in upload(hub, WRITES, second)["message"]
    assert "ada/letters" not in hub.repos
