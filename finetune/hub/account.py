"""Who is signed in, and can they write to the upload's repository? Checked before training, and again before uploading.

target = check_upload(UploadSpec(repo="my-model"))
target.repo, target.private, target.exists        # "ada/my-model", True, False
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from finetune.errors import NotSignedIn, ReadOnlyToken, RepoExists, UploadError
from finetune.foreign import printable
from finetune.hub.failures import cause_of, said, sign_in_again, status_of, token_refused, use_token
from finetune.hub.reachability import endpoint_host, hub_reachable, offline_reason, shown_endpoint
from finetune.hub.retry import with_retries
from finetune.recipe import UploadSpec

SIGN_IN = "Sign in with `hf auth login`, or set HF_TOKEN"
BEFORE_TRAINING = "Nothing was trained yet. Fix this and start again, or remove the upload from the recipe."


@dataclass(frozen=True)
class UploadTarget:
    """Where an upload goes: `repo` with its owner, `private` as it will turn out."""

    user: str
    repo: str
    private: bool
    exists: bool
    endpoint: str

    @property
    def url(self) -> str:
        """The page of the repository."""
        return f"{self.endpoint}/{self.repo}"


def check_upload(spec: UploadSpec, *, finish: str | None = None) -> UploadTarget:
    """Checks the name, the sign-in, write access, and that a private upload does not go to a public repository; changes nothing.

    `finish` is the command that hints suggest, None before training. Raises UploadError, NotSignedIn, ReadOnlyToken or RepoExists.
    """
    from huggingface_hub import HfApi, errors

    _check_name(spec.repo)
    if not hub_reachable():
        raise UploadError(f"{offline_reason()}, so nothing can be uploaded now.", hint=f"Try again when you are online. {_then(finish)}")
    api = HfApi()
    with upload_errors(finish):
        account = with_retries(api.whoami)
        repo = spec.repo if "/" in spec.repo else f"{account['name']}/{spec.repo}"
        _check_rights(account, repo, finish)
        try:
            private = bool(with_retries(lambda: api.model_info(repo)).private)
        except errors.RepositoryNotFoundError:
            return UploadTarget(account["name"], repo, spec.private, exists=False, endpoint=shown_endpoint())
        refuse_public(repo, asked_private=spec.private, private=private)
        with_retries(lambda: api.auth_check(repo, write=True))
        return UploadTarget(account["name"], repo, private, exists=True, endpoint=shown_endpoint())


def refuse_public(repo: str, *, asked_private: bool, private: bool) -> None:
    """Raises RepoExists if a private upload would go to a public repository."""
    if asked_private and not private:
        raise RepoExists(
            f"{repo} exists and is public, but a private upload was asked for.",
            hint=f"Choose another name, make {repo} private in its settings, or allow it with --public.",
        )


def _check_name(repo: str) -> None:
    """Raises UploadError if `repo` is not a valid repository name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise UploadError(
            f"{repo!r} is not a valid repository name.",
            hint="Use at most 96 letters, digits, '-', '_' and '.'; no '-' or '.' at either end or twice in a row: USER/my-model",
        ) from None


def _check_rights(account: dict[str, Any], repo: str, finish: str | None) -> None:
    """Raises ReadOnlyToken or UploadError if the account cannot own `repo` or its token cannot write there."""
    owner = repo.partition("/")[0]
    roles = {account["name"]: None, **{found["name"]: found.get("roleInOrg") for found in account.get("orgs", [])}}
    if owner not in roles:
        raise UploadError(f"You are {account['name']} and cannot write to {owner}.", hint=f"You can write to: {', '.join(roles)}.")
    if roles[owner] == "read":
        raise UploadError(f"You have only read access to {owner}.", hint=f"Ask an administrator of {owner}, or choose another owner.")
    token = account.get("auth", {}).get("accessToken", {})
    if token.get("role") == "read" or (token.get("role") == "fineGrained" and not _may_write(token.get("fineGrained", {}), repo)):
        raise ReadOnlyToken(
            f"Your token has no write access to {repo}.",
            hint=f"Make one with write access at {shown_endpoint()}/settings/tokens and {use_token()}. {_then(finish)}",
        )


def _may_write(granted: dict[str, Any], repo: str) -> bool:
    """Whether a fine-grained token names write access to the repository or to its owner."""
    owner = repo.partition("/")[0]
    return any(
        scope.get("entity", {}).get("name") in (owner, repo) and "repo.write" in scope.get("permissions", [])
        for scope in granted.get("scoped", [])
    )


def _then(finish: str | None) -> str:
    return f"Then: {finish}" if finish else BEFORE_TRAINING


@contextmanager
def upload_errors(finish: str | None) -> Iterator[None]:
    """Turns errors of huggingface_hub, its HTTP client and its storage client into ours; `finish` is what to do afterwards."""
    from huggingface_hub import errors

    try:
        yield
    except errors.LocalTokenNotFoundError:
        raise NotSignedIn(f"You are not signed in to {endpoint_host()}.", hint=f"{SIGN_IN}. {_then(finish)}") from None
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        raise _translated(cause_of(error), status_of(error), finish) from None


def _translated(error: BaseException, status: int | None, finish: str | None) -> UploadError:
    host = endpoint_host()
    if isinstance(error, OSError) and error.filename and error.strerror:  # a file of ours, and no connection
        again = f"Then finish with: {finish}" if finish else BEFORE_TRAINING
        return UploadError(f"{printable(error.filename)} cannot be read: {error.strerror}.", hint=again)
    answer = said(error)
    if status == 401:
        return NotSignedIn(token_refused(), hint=f"{sign_in_again(f'{SIGN_IN} to a new token.')} {_then(finish)}")
    if status == 403 and not re.search("storage|quota|limit|payment", answer, re.IGNORECASE):
        return ReadOnlyToken(f"{host} refused: {answer}", hint=f"Make a token with write access, and {use_token()}. {_then(finish)}")
    safe = f"The result is safe on this machine. Finish with: {finish}" if finish else BEFORE_TRAINING
    if status == 429:
        return UploadError(f"{host} limits requests: too many in a short time.", hint=f"Wait a few minutes. {safe}")
    if status is not None:
        return UploadError(f"{host} answered {status}: {answer}", hint=safe)
    return UploadError(f"The connection to {host} was lost: {answer}", hint=safe)
