"""STEP 6: the Hugging Face Hub, asked last, default no, private unless said otherwise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import Interrupted, NotSignedIn, RepoExists, UploadError
from finetune.formatting import size
from finetune.hub.failures import BEFORE_STORED
from finetune.hub.reachability import ask_again, hub_reachable, offline_reason, shown_endpoint
from finetune.publish.exported_files import to_upload
from finetune.publish.usage import plain_name
from finetune.recipe import UploadSpec
from finetune.run_folder import RunFolder
from finetune.screen.console import people
from finetune.screen.quiet import quiet
from finetune.screen.reporter import working
from finetune.screen.upload import upload_picture
from finetune.screen.wording import command_name
from finetune.system.shell import quoted
from finetune.wizard.asking.prompter import Choice, Fragments, Prompter, hint
from finetune.wizard.draft import problem
from finetune.wizard.host import HostInfo

if TYPE_CHECKING:
    from finetune.publish.upload import UploadPlan

AGAIN, TOKEN, LATER = "again", "token", "later"
MOST_NAMES = 9
LONGEST_NAME = 90  # 96 are allowed, and a number may follow
OTHER_NAME, PUBLIC = "other", "public"


def ask(output_dir: Path, prompter: Prompter, here: HostInfo) -> None:
    """Offer the upload of a finished folder, show what would go where, and do it."""
    prompter.step(6, "Upload")
    command = f"{command_name()} upload {quoted(output_dir)} --repo {repository(output_dir)}"
    later: Fragments = [("class:quiet", "To upload later:\n"), ("class:command", command)]
    if not _reachable(here):
        prompter.note([("class:quiet", f"{offline_reason()}, so nothing can be uploaded now. "), *later])
        return
    if prompter.confirm("upload", "Upload to the Hugging Face Hub?", default=False, help="The model also stays on this machine."):
        gguf = _with_exported(output_dir, prompter)
        agreed = _agree(output_dir, prompter, gguf)
        if agreed and prompter.confirm("upload.now", "Upload this now?", default=True):
            return _upload(output_dir, agreed, prompter, gguf)
    prompter.note(later)


def _reachable(here: HostInfo) -> bool:
    """Whether the Hub answered at the start, or does by now: a run takes long enough for a connection to come back."""
    if not here.hub:
        ask_again()
    return here.hub or hub_reachable()


def repository(output_dir: Path) -> str:
    """A repository name made from the folder's."""
    return plain_name(output_dir.resolve().name, LONGEST_NAME)


def _with_exported(output_dir: Path, prompter: Prompter) -> bool:
    """Whether the .gguf files go along that were exported from the folder, if there are any."""
    files = {name: int(each["bytes"]) for name, each in to_upload(RunFolder(output_dir).exports).items()}
    if not files:
        return False
    named = ", ".join(f"{name} ({size(length)})" for name, length in files.items())
    help = f"{named}: people then run the model in Ollama or LM Studio without making the file themselves."
    return prompter.confirm("upload.gguf", f"Also the .gguf file{'s' if len(files) > 1 else ''}?", default=False, help=help)


def _agree(output_dir: Path, prompter: Prompter, gguf: bool) -> UploadSpec | None:
    """A place that the person can and wants to write to, after showing what would go there; None to leave it."""
    repo = _repo(output_dir, prompter)
    choices = [Choice("private", "Only you", "private"), Choice("public", "Everyone", "public")]
    visibility = prompter.select("upload.private", "Who can see it?", choices, default="private")
    spec = UploadSpec(repo=repo, private=visibility == "private")
    number = ""  # each question is its own
    for again in range(2, MOST_NAMES):
        try:
            planned = _plan(output_dir, spec, prompter, gguf)
        except RepoExists as error:
            prompter.note([("class:warning", error.message)])
            choices = [
                Choice(OTHER_NAME, "Another name", "private"),
                Choice(PUBLIC, f"Into {spec.repo}", "public: everyone will see it"),
                Choice(LATER, "Not now"),
            ]
            choice = prompter.select(f"upload.exists{number}", "Where should it go instead?", choices, default=OTHER_NAME)
            if choice == LATER:
                return None
            number = f"-{again}"
            spec = UploadSpec(repo=spec.repo, private=False) if choice == PUBLIC else UploadSpec(repo=_repo(output_dir, prompter, number))
        else:
            if planned:
                prompter.show(upload_picture(planned))
            return spec if planned else None
    return None


def _repo(output_dir: Path, prompter: Prompter, number: str = "") -> str:
    return prompter.text(
        f"upload.repo{number}",
        "Repository",
        default=repository(output_dir) + number,
        check=lambda text: problem({}, "upload", {"repo": text}),
        help="A name, or organisation/name.",
    )


def _plan(output_dir: Path, spec: UploadSpec, prompter: Prompter, gguf: bool) -> UploadPlan | None:
    """What would be uploaded, after signing in if the person wants that; None to leave it. Raises RepoExists."""
    from finetune.publish.upload import upload_plan

    while True:
        try:
            with prompter.busy("Checking with the Hub"), quiet(None):
                return upload_plan(output_dir, spec, gguf=gguf)
        except NotSignedIn as error:
            prompter.note([("class:warning", error.message)])
            if not _sign_in(prompter):
                return None
        except RepoExists:
            raise
        except UploadError as error:
            prompter.note([("class:warning", error.message), *hint(error)])
            return None


def _sign_in(prompter: Prompter) -> bool:
    """Whether it is worth another try. A token goes straight to huggingface_hub and nowhere else."""
    choices = [
        Choice(AGAIN, "I have signed in", "in another window: hf auth login"),
        Choice(TOKEN, "Type a token", "it is not shown; only huggingface_hub stores it"),
        Choice(LATER, "Not now"),
    ]
    choice = prompter.select("sign_in", "Sign in?", choices, default=AGAIN)
    if choice == TOKEN:
        from huggingface_hub import login

        token = prompter.secret("sign_in.token", "Token", help=f"From {shown_endpoint()}/settings/tokens, with write access.")
        try:
            with quiet(None):
                login(token=token)
            for name in BEFORE_STORED:
                os.environ.pop(name, None)
        except (ValueError, OSError):
            prompter.note([("class:warning", "The Hub rejected this token.")])
    return choice != LATER


def _upload(output_dir: Path, spec: UploadSpec, prompter: Prompter, gguf: bool) -> None:
    from finetune.publish.upload import upload_folder

    try:
        with working(people(), "Uploading") as reporter:
            done = upload_folder(output_dir, spec, reporter, gguf=gguf)
    except (UploadError, Interrupted) as error:
        prompter.note([("class:problem", error.message), *hint(error)])
        return
    prompter.note([("class:done", "Uploaded: "), ("", f"{done.url} ({'private' if done.private else 'public'})")])
