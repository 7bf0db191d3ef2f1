"""Uploads by the unmodified huggingface_hub client in a process of its own, and what became of them.

done = upload(hub, WRITES, run)          # {"repo": "ada/letters", "private": True, ...}, or {"error": "NotSignedIn", ...}
"""

import json
import os
from pathlib import Path

import warm

ROOT = Path(__file__).parents[2]


def fine_grained(*permissions):
    return {"name": "ada", "role": "fineGrained", "fineGrained": {"scoped": [{"entity": {"name": "ada"}, "permissions": permissions}]}}


ACCOUNTS = {
    "hf_writes_everything": {"name": "ada", "orgs": [{"name": "society"}]},
    "hf_only_reads_things": {"name": "ada", "role": "read"},
    "hf_fine_for_nothing": fine_grained("repo.content.read"),
    "hf_fine_for_writing": fine_grained("repo.content.read", "repo.write"),
}
WRITES = "hf_writes_everything"
UPLOAD = """
import json, sys, time
time.sleep = lambda seconds: None  # pauses between tries; nothing else here sleeps
from finetune.errors import FinetuneError
from finetune.events import Notice, Progress, Recorder
from finetune.publish.upload import upload_folder, upload_plan
from finetune.recipe import UploadSpec
work, folder, repo, private = sys.argv[1:]
spec, recorder = UploadSpec(repo=repo, private=private == "private"), Recorder()
try:
    if work == "plan":
        print(json.dumps(upload_plan(folder, spec).to_dict()))
    else:
        done = upload_folder(folder, spec, recorder)
        said = {
            "events": [event.name for event in recorder.events],
            "notices": [event.text for event in recorder.of(Notice)],
            "progress": [event.done for event in recorder.of(Progress)],
        }
        print(json.dumps({"repo": done.repo, "url": done.url, "private": done.private, **said}))
except FinetuneError as error:
    print(json.dumps({"error": type(error).__name__, "message": error.message, "hint": error.hint, "code": error.exit_code}))
"""


def client(hub, token, *arguments, code=UPLOAD, **environment):
    done = warm.run(["-c", code, *map(str, arguments)], ROOT, {**os.environ, **hub.environment(token), **environment}, timeout=120)
    assert done.returncode == 0, done.stderr
    assert code != UPLOAD or done.stderr == ""  # the engine prints nothing, and neither do the libraries it calls
    return json.loads(done.stdout)


def upload(hub, token, run, repo="ada/letters", visibility="private", **environment):
    return client(hub, token, "upload", run.output_dir, repo, visibility, **environment)
