"""Upload the output folder to a Hub repository: private by default, model files only, published in one commit.

    plan = upload_plan("./finetuned_model", UploadSpec(repo="my-model"))      # who, where, how much: to be shown first
    done = upload_folder("./finetuned_model", UploadSpec(repo="my-model"), reporter)

Large files go first, one by one; the commit that makes them visible comes last. So an interrupted upload publishes nothing, and running
it again sends only what is missing. Temporary failures (a busy Hub, a lost connection) are retried.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import Interrupted, UploadError
from finetune.events import Notice, Progress, Reporter, Uploaded, stage
from finetune.foreign import leads_out, reading
from finetune.hub.account import UploadTarget, check_upload, refuse_public, upload_errors
from finetune.hub.retry import with_retries
from finetune.model_folder import CONFIGS, INDEX, SAFETENSORS, TOKENIZER, is_adapter, weight_files
from finetune.publish.card import card_of
from finetune.publish.exported_files import to_upload
from finetune.publish.redaction import adapters_base, base_model, public_benchmark, public_config, public_continued, public_recipe
from finetune.recipe import Recipe, UploadSpec
from finetune.run_folder import FINISHED, REMADE, UPLOAD, RunFolder
from finetune.system.shell import joined, quoted
from finetune.system.storage import changed

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

STAGE = "upload"


@dataclass(frozen=True)
class UploadPlan:
    """Everything to show before an upload: `files` maps names in the repository to bytes, `removed` are those of a model there before."""

    target: UploadTarget
    files: dict[str, int]
    removed: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(self.files.values())

    def to_dict(self) -> dict[str, Any]:
        target = asdict(self.target)
        visibility = "private" if target.pop("private") else "public"
        return {**target, "visibility": visibility, "files": self.files, "bytes": self.bytes, "removed": self.removed}


def upload_plan(output_dir: str | Path, spec: UploadSpec, *, gguf: bool = False) -> UploadPlan:
    """What `upload_folder` would do; changes nothing. Raises as `check_upload` does, ModelError for an unfinished folder, FolderInUse."""
    folder, finish = RunFolder.of(output_dir), command(output_dir, spec, gguf=gguf)
    folder.check_unclaimed()
    target = check_upload(spec, finish=finish)
    contents = _contents(folder, target.repo, gguf)
    with upload_errors(finish):
        removed = _left_behind(target.repo, contents) if target.exists else []
    return UploadPlan(target, {name: _size(content) for name, content in contents.items()}, removed)


def check_before_training(recipe: Recipe, *, adapter: bool, go_on: Path | None = None) -> None:
    """Raises an error if the result could not be uploaded as `recipe.upload` says; `adapter` is whether the result will be one.

    `go_on` is the folder of an interrupted run that is being resumed.
    """
    if recipe.upload is None:
        return
    check_upload(recipe.upload, finish=f"finetune-cli resume {quoted(go_on)}" if go_on else None)
    if adapter and adapters_base(recipe) is None:
        raise UploadError(
            "The adapter would need a base model that exists only on this machine, so nobody else could load it.",
            hint="Remove the upload from the recipe, then `finetune-cli merge` the result and upload that. Or --set method.kind=full",
        )


def upload_folder(output_dir: str | Path, spec: UploadSpec, reporter: Reporter, *, gguf: bool = False) -> Uploaded:
    """Publish a finished run, with `gguf` also its exported .gguf files.

    Raises UploadError, NotSignedIn, ReadOnlyToken or RepoExists, each with the command that finishes it, and Interrupted after Ctrl-C.
    """
    folder, finish = RunFolder.of(output_dir), command(output_dir, spec, gguf=gguf)
    with stage(reporter, STAGE, "Uploading") as done:
        try:
            uploaded = _upload(folder, spec, reporter, finish, gguf)
        except KeyboardInterrupt:
            raise Interrupted(
                f"The upload was stopped; the result is safe in {folder.output_dir}.",
                hint=f"Finish with: {finish}",
                saved=folder.output_dir,
            ) from None
        if folder.stage == UPLOAD:
            folder.write_stage(FINISHED)
        done(f"{uploaded.url} ({'private' if uploaded.private else 'public'})")
    reporter.report(uploaded)
    return uploaded


def _upload(folder: RunFolder, spec: UploadSpec, reporter: Reporter, finish: str, gguf: bool) -> Uploaded:
    from huggingface_hub import CommitOperationDelete, HfApi

    target = check_upload(spec, finish=finish)
    contents = _contents(folder, target.repo, gguf)
    api = HfApi()
    with upload_errors(finish), _silent_bars():
        if not target.exists:
            with_retries(lambda: api.create_repo(target.repo, private=spec.private, exist_ok=True), reporter)
        # Read back: `private` is ignored if the repository has been created meanwhile.
        private = bool(with_retries(lambda: api.model_info(target.repo), reporter).private)
        refuse_public(target.repo, asked_private=spec.private, private=private)
        if private and not spec.private:
            reporter.report(Notice(f"{target.repo} is private and stays private; you can make it public in its settings."))
        total, sent = sum(map(_size, contents.values())), 0
        additions = []
        for name, content in contents.items():
            addition = _addition(name, content, partial(_report, reporter, sent, total))
            additions.append(addition)
            if isinstance(content, Path):
                with_retries(partial(api.preupload_lfs_files, target.repo, [addition]), reporter)
            sent += _size(content)
            _report(reporter, sent, total, 0)
        stale = [CommitOperationDelete(name) for name in _left_behind(target.repo, contents, reporter)]
        message = "Upload a model made with finetune-cli"
        with_retries(lambda: api.create_commit(target.repo, [*stale, *additions], commit_message=message), reporter)
    return Uploaded(target.repo, target.url, private)


def _left_behind(repo: str, contents: Mapping[str, Path | bytes], reporter: Reporter | None = None) -> list[str]:
    """The files of an earlier model in a repository that would be loaded together with the new ones."""
    from huggingface_hub import HfApi

    there = with_retries(lambda: HfApi().list_repo_files(repo), reporter)
    return [name for name in there if is_ours(name) and name not in contents]


def _report(reporter: Reporter, before: int, total: int, part: int) -> None:
    reporter.report(Progress(STAGE, before + part, total, "bytes"))


def _addition(name: str, content: Path | bytes, report: Callable[[int], None]) -> CommitOperationAdd:
    """A file to commit that reports how many of its bytes were read for sending."""
    from huggingface_hub import CommitOperationAdd

    class Reported(CommitOperationAdd):
        @contextmanager
        def as_file(self, with_tqdm: bool = False) -> Iterator[Any]:
            with super().as_file() as file:
                if with_tqdm:  # read for sending, not for hashing

                    def read(size: int = -1, *, plain: Callable[[int], bytes] = file.read) -> bytes:
                        part = plain(size)
                        report(file.tell())
                        return part

                    file.read = read  # type: ignore[method-assign]
                yield file

    return Reported(name, str(content) if isinstance(content, Path) else content)


def is_ours(name: str) -> bool:
    """Whether a repository's file is a model file; a leftover of an earlier upload would be loaded together with the new ones."""
    return name in (INDEX, *CONFIGS, *TOKENIZER) or ("/" not in name and name.endswith(SAFETENSORS))


def command(output_dir: str | Path, spec: UploadSpec, *, gguf: bool = False) -> str:
    """The command that starts, repeats or finishes an upload."""
    options = [*([] if spec.private else ["--public"]), *(["--gguf"] if gguf else [])]
    return joined(["python", "finetune_cli.py", "upload", str(output_dir), "--repo", spec.repo, *options])


def _contents(folder: RunFolder, repo: str, gguf: bool) -> dict[str, Path | bytes]:
    """Maps names in the repository, largest files first, to files of the folder or to texts without private parts.

    They are what from_pretrained reads, the card, the recipe and the scores, with `gguf` also the exported files that passed the gate and
    are still as they were then; everything else stays on this machine.
    """
    home, recipe = folder.output_dir, Recipe.load(folder.recipe)
    continued = folder.known(folder.continued)
    base = adapters_base(recipe, home) if is_adapter(home) else base_model(recipe, continued)
    if base is None and is_adapter(home):
        raise UploadError(
            "This adapter needs a base model that exists only on this machine, so nobody else could load it.",
            hint=f"Merge the two and upload the result: finetune-cli merge {quoted(home)}",
        )
    with reading(folder.run, hint=REMADE):
        files = [*weight_files(home, home.name), home / INDEX, *(home / name for name in TOKENIZER)]
        if linked := next((file for file in (*files, *(home / name for name in CONFIGS)) if leads_out(file)), None):
            raise UploadError(f"{linked} is a link to {linked.resolve()}, which may be private.", hint="Put the file itself in its place.")
        files += _exported(folder) if gguf else []
        contents: dict[str, Path | bytes] = {file.name: file for file in sorted(files, key=_size, reverse=True) if file.is_file()}
        for name in CONFIGS:
            if (home / name).is_file():
                contents[name] = public_config((home / name).read_text(encoding="utf-8"), base).encode()
        contents["README.md"] = card_of(folder, repo=repo, gguf=gguf).encode()
        contents["run/recipe.yaml"] = public_recipe(recipe).to_yaml().encode()
        if continued and base:
            contents["run/continued.json"] = (json.dumps(public_continued(continued, base), indent=2) + "\n").encode()
        if folder.benchmark.is_file():
            data = folder.known(folder.data_report)
            scores = public_benchmark(folder.read_json(folder.benchmark), recipe, data)
            contents["run/benchmark.json"] = (json.dumps(scores, indent=2, ensure_ascii=False) + "\n").encode()
        return contents


def _exported(folder: RunFolder) -> list[Path]:
    """The .gguf files in the run's records; raises UploadError if there are none, or if one is not what was checked."""
    found = to_upload(folder.exports)
    if not found:
        raise UploadError(
            f"No .gguf file was exported from {folder.output_dir}.",
            hint=f"Make one first: finetune-cli export {quoted(folder.output_dir)} --to gguf",
        )
    files = []
    for name, each in found.items():
        path = Path(each["folder"]) / name
        if (wrong := changed(path, each["bytes"], each["sha256"])) is not None:
            raise UploadError(f"{path} {wrong}.", hint="Export it again, or upload without --gguf.")
        files.append(path)
    return files


def _size(content: Path | bytes) -> int:
    if isinstance(content, bytes):
        return len(content)
    return content.stat().st_size if content.is_file() else 0


@contextmanager
def _silent_bars() -> Iterator[None]:
    """huggingface_hub draws progress bars; we report events instead."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            enable_progress_bars()
