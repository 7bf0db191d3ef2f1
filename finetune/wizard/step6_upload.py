"""STEP 6: the Hugging Face Hub, asked last, default no, private unless said otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import NotSignedIn, UploadError
from finetune.recipe import UploadSpec
from finetune.screen.console import people
from finetune.screen.quiet import quiet
from finetune.screen.reporter import reporter_for
from finetune.screen.upload import upload_picture
from finetune.screen.words import command_name
from finetune.wizard.draft import problem
from finetune.wizard.here import Here
from finetune.wizard.prompter import Choice, Fragments, Prompter, hint

if TYPE_CHECKING:
    from finetune.hub.upload import UploadPlan

AGAIN, TOKEN, LATER = "again", "token", "later"


def ask(output_dir: Path, prompter: Prompter, here: Here) -> None:
    """Offer the upload of a finished folder, show what would go where, and do it."""
    prompter.step(6, "Upload")
    command = f"{command_name()} upload {output_dir} --repo {output_dir.name}"
    later: Fragments = [("class:quiet", "Any time later:\n"), ("class:command", command)]
    if not here.hub:
        prompter.note([("class:quiet", "huggingface.co does not answer from here. "), *later])
        return
    if not prompter.confirm("upload", "Upload to the Hugging Face Hub?", default=False, help="The model stays on this machine too."):
        prompter.note(later)
        return
    spec = _where(output_dir, prompter)
    planned = _plan(output_dir, spec, prompter)
    if planned is None:
        prompter.note(later)
        return
    prompter.show(upload_picture(planned))
    if prompter.confirm("upload.now", "Upload this now?", default=True):
        _upload(output_dir, spec, prompter)
    else:
        prompter.note(later)


def _where(output_dir: Path, prompter: Prompter) -> UploadSpec:
    repo = prompter.text(
        "upload.repo",
        "Repository",
        default=output_dir.resolve().name,
        validate=lambda text: problem({}, "upload", {"repo": text}),
        help="A name of your own, or organisation/name.",
    )
    visibility = prompter.select(
        "upload.private",
        "Who may see it?",
        [Choice("private", "Only you", "private"), Choice("public", "Everyone", "public")],
        default="private",
    )
    return UploadSpec(repo=repo, private=visibility == "private")


def _plan(output_dir: Path, spec: UploadSpec, prompter: Prompter) -> UploadPlan | None:
    """What would be uploaded, after signing in if the person wants that; None to leave it."""
    from finetune.hub.upload import upload_plan

    while True:
        try:
            with prompter.busy("Asking the Hub"), quiet(None):
                return upload_plan(output_dir, spec)
        except NotSignedIn as error:
            prompter.note([("class:warning", error.message)])
            if not _sign_in(prompter):
                return None
        except UploadError as error:
            prompter.note([("class:warning", error.message), *hint(error)])
            return None


def _sign_in(prompter: Prompter) -> bool:
    """Whether it is worth another try. A token goes straight to huggingface_hub and nowhere else."""
    choice = prompter.select(
        "sign_in",
        "Sign in?",
        [
            Choice(AGAIN, "I have signed in now", "in another window: hf auth login"),
            Choice(TOKEN, "Type a token", "it is not shown, and kept by huggingface_hub only"),
            Choice(LATER, "Not now"),
        ],
        default=AGAIN,
    )
    if choice == TOKEN:
        from huggingface_hub import login

        token = prompter.secret("sign_in.token", "Token", help="From huggingface.co/settings/tokens, with write access.")
        try:
            with quiet(None):
                login(token=token)
        except (ValueError, OSError):
            prompter.note([("class:warning", "The Hub does not accept this token.")])
    return choice != LATER


def _upload(output_dir: Path, spec: UploadSpec, prompter: Prompter) -> None:
    from finetune.hub.upload import upload_folder

    console = people()
    try:
        with reporter_for(console, brief="Uploading") as reporter, quiet(None):
            done = upload_folder(output_dir, spec, reporter)
    except UploadError as error:
        prompter.note([("class:problem", error.message), *hint(error)])
        return
    prompter.note([("class:done", "Uploaded: "), ("", f"{done.url} ({'private' if done.private else 'public'})")])
