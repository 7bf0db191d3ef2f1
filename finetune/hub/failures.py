"""Errors of huggingface_hub and its HTTP client about a model or a dataset, as one sentence of ours.

with one_sentence("dataset", "openai/gsm8k", None):
    HfApi().dataset_info("openai/gsm8k")        # DatasetNotFound: huggingface.co has no dataset ...
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from finetune.errors import DatasetError, DatasetNotFound, HardwareError, ModelError, ModelGated, ModelNotFound, without_secrets
from finetune.hub.catalogue import CATALOGUE
from finetune.hub.reachability import endpoint, endpoint_host, shown_endpoint
from finetune.registry import did_you_mean

NOT_HERE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
TOKEN = re.compile(r"\b(hf|api)_\w{8,}")
LONGEST = 300  # characters of somebody else's message
BEFORE_STORED = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # variables; signing in stores a token, and theirs is taken before it
KINDS = {"model": (ModelNotFound, ModelGated, ModelError), "dataset": (DatasetNotFound, DatasetNotFound, DatasetError)}


@contextmanager
def one_sentence(kind: Literal["model", "dataset"], name: str, revision: str | None) -> Iterator[None]:
    """Raises ModelNotFound, ModelGated or ModelError, for a dataset DatasetNotFound or DatasetError, instead of the libraries' errors."""
    from huggingface_hub import errors

    missing, gated, broken = KINDS[kind]
    try:
        yield
    except errors.GatedRepoError:
        page = f"{shown_endpoint()}/{'datasets/' if kind == 'dataset' else ''}{name}"
        raise gated(
            f"{name} is gated: you must accept its terms first.", hint=f"Request access at {page}, then sign in: hf auth login"
        ) from None
    except errors.RevisionNotFoundError:
        raise missing(f"The {kind} {name} has no revision {revision!r}.", hint="Leave out the revision to use the newest.") from None
    except errors.RepositoryNotFoundError:
        near = did_you_mean(name, [entry.id for entry in CATALOGUE]) if kind == "model" else ""
        raise missing(
            f"{endpoint_host()} has no {kind} {name}, or it is private and you have no access.{near}",
            hint=f"Check the spelling; for a private {kind} sign in first: hf auth login",
        ) from None
    except (errors.HTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        if isinstance(error, OSError) and error.filename and error.errno in NOT_HERE:
            raise HardwareError(
                f"{name} cannot be kept in the Hub's cache: {error.filename}: {error.strerror}.", hint="Set HF_HOME to a folder of yours."
            ) from None
        status = status_of(error)
        if status == 401:
            raise gated(token_refused(), hint=sign_in_again("Sign in again: hf auth login")) from None
        what = said(error) if status is None else f"it answered {status}."
        raise broken(
            f"{name} could not be loaded from {endpoint_host()}: {what}", hint="Try again later: completed files are kept."
        ) from None


def token_refused() -> str:
    """That the Hub does not accept the token, and which variable has it, if one has."""
    named = _variable_with_token()
    return f"{endpoint_host()} does not accept your token{f', which comes from {named}' if named else ''}."


def sign_in_again(usual: str) -> str:
    """What to do about it: the `usual`, unless a variable has the token, which signing in would not change."""
    named = _variable_with_token()
    return f"Correct {named}, or unset it." if named else usual


def use_token() -> str:
    """How another token is used: a variable that has one comes before what signing in stores."""
    named = _variable_with_token()
    return f"set {named} to it" if named else "sign in again (hf auth login --force)"


def _variable_with_token() -> str | None:
    return next(filter(os.environ.get, BEFORE_STORED), None)


def said(error: BaseException) -> str:
    """What an error says, on one line, at most LONGEST characters, without tokens and passwords."""
    text = " ".join(str(getattr(error, "server_message", None) or error).split()) or type(error).__name__
    return TOKEN.sub("(token)", without_secrets(text.replace(endpoint(), shown_endpoint())))[:LONGEST]


def cause_of(error: BaseException) -> BaseException:
    """The HTTP client's error: the LFS client wraps it in a RuntimeError."""
    return error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error


def status_of(error: BaseException) -> int | None:
    """The HTTP status of an error, None if there was no answer."""
    return getattr(getattr(cause_of(error), "response", None), "status_code", None)
