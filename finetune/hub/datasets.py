"""Datasets of the Hugging Face Hub: looked up, streamed or downloaded at a pinned commit, found again without a network.

    found = open_dataset(DatasetSpec(source="openai/gsm8k", config="main"), runtime)
    found.commit, next(iter(found))      # "e53f048...", {"question": "...", "answer": "..."}

With `samples` the split, or a slice of it such as train[:10%], is streamed: only what is needed is fetched, and the first usable rows
are used. Without a network the Hub's cache on this machine is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from finetune.errors import DatasetError, DatasetNotFound
from finetune.events import Notice, Reporter
from finetune.hub.cache import COMMIT
from finetune.hub.facts import HubDataset, dataset_facts
from finetune.hub.failures import one_sentence, said
from finetune.hub.reachability import endpoint_host, hub_reachable, offline_reason
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions
from finetune.system.storage import digest, write_whole

NAME = r"(?P<name>[\w-][\w.-]*(/[\w-][\w.-]*)?)"
SOURCE = re.compile(rf"{NAME}(@(?P<revision>[\w./-]+))?")
PINNED = re.compile(f"{NAME}@{COMMIT.pattern}")  # how a run writes down data of the Hub, and nothing else
SLICE = re.compile(r"(?P<split>[\w.-]+)(\[(?P<begin>\d*)(?P<begin_percent>%?):(?P<end>\d*)(?P<end_percent>%?)\])?")
SIGN_IN = "Sign in with `hf auth login`, and request access on its page if it is gated."


@dataclass(frozen=True)
class HubRecords:
    """The records of a dataset; `content` identifies them, `limit` is how many are enough if they are streamed.

    `restricted` is False only if the Hub said that everybody can read them.
    """

    name: str
    data: Iterable[dict[str, Any]]
    commit: str | None
    content: str
    limit: int | None
    restricted: bool

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Raises DatasetError if the connection breaks."""
        from huggingface_hub.errors import HTTPError

        given = 0
        try:
            for values in self.data:
                yield values
                given += 1
        except (HTTPError, OSError) as error:
            raise DatasetError(
                f"{self.name}: the connection to {endpoint_host()} was lost at row {given + 1}: {said(error)}", hint="Run it again."
            ) from None


def open_dataset(spec: DatasetSpec, runtime: RuntimeOptions, reporter: Reporter | None = None) -> HubRecords:
    """The records that `spec` asks for; raises DatasetNotFound or DatasetError."""
    name, revision = parse(spec.source)
    if not hub_reachable():
        data, commit, limit = _from_here(spec, name, revision, runtime)
        return HubRecords(name, data, commit, commit or data._fingerprint, limit, restricted=True)  # for all that is known here
    facts = look_up(name, revision)
    if reporter is not None:
        reporter.report(Notice(f"{name}: {facts}."))
    streamed = _streamed(spec, name, facts.commit) if spec.samples is not None else None
    data, limit = (_load(spec, name, facts.commit), None) if streamed is None else (streamed, spec.samples)
    with suppress(OSError):  # a full disk is reported where rows are written
        write_whole(_note(runtime, name, revision), facts.commit, shared=True)
    return HubRecords(name, data, facts.commit, facts.commit, limit, restricted=facts.private or facts.gated)


def parse(source: str) -> tuple[str, str | None]:
    """Name and revision; raises DatasetNotFound if it is not a valid name on the Hub."""
    parts = SOURCE.fullmatch(source)
    if parts is None:
        raise DatasetNotFound(
            f"{source!r} is neither a file nor a dataset name.",
            hint="Give a path such as ./rows.jsonl, a Hub name such as openai/gsm8k, or builtin:python-docs.",
        )
    return parts["name"], parts["revision"]


@lru_cache(maxsize=64)
def look_up(name: str, revision: str | None) -> HubDataset:
    """What the Hub says about a dataset, and the commit that a branch or tag points at; fetches nothing, asks once per process."""
    from huggingface_hub import HfApi

    with one_sentence("dataset", name, revision):
        found = dataset_facts(HfApi().dataset_info(name, revision=revision, timeout=10))
        if found.gated:  # its facts are public, its files are not
            HfApi().auth_check(name, repo_type="dataset")
        return found


def _from_here(spec: DatasetSpec, name: str, revision: str | None, runtime: RuntimeOptions) -> tuple[Any, str | None, int | None]:
    """Records, their commit, and how many are enough, without a network.

    Rows that were streamed once are in our own cache by their commit, and need no records."""
    wanted = revision if COMMIT.fullmatch(revision or "") else _remembered(runtime, name, revision)
    try:
        data = _load(spec, name, revision)
    except DatasetNotFound as error:
        if wanted is None:
            raise
        return _Absent(error), wanted, spec.samples
    found = _cached_commit(data) or revision
    if wanted == revision != found:  # the library uses whatever is in its cache
        other = DatasetNotFound(
            f"{offline_reason()}, and only another commit of the dataset {name} is on this machine: {found}.",
            hint=f"Check the network, or use that commit: --set dataset.source={name}@{found}",
        )
        return _Absent(other), wanted, spec.samples
    return data, found, None


class _Absent:
    """Records that are not on this machine: iterating over them raises why."""

    def __init__(self, error: DatasetNotFound) -> None:
        self._error = error

    def __iter__(self) -> Iterator[Any]:
        raise self._error


def _remembered(runtime: RuntimeOptions, name: str, revision: str | None) -> str | None:
    note = _note(runtime, name, revision)
    commit = note.read_text(encoding="ascii", errors="replace") if note.is_file() else ""
    return commit if COMMIT.fullmatch(commit) else None


def _note(runtime: RuntimeOptions, name: str, revision: str | None) -> Path:
    """Where the commit of a branch or tag is noted, for later without a network."""
    return runtime.cache_dir / "datasets" / f"commit-{digest([name, revision or 'main'])}"


def _cached_commit(data: Any) -> str | None:
    """The commit that cached rows were made from, read from their folder's path; None if it is not there."""
    parts = [part for file in data.cache_files for part in re.split(r"[/\\]", file["filename"])]
    return next((part for part in reversed(parts) if COMMIT.fullmatch(part)), None)


def _streamed(spec: DatasetSpec, name: str, commit: str | None) -> Any:
    """The split, or a slice of it, to be fetched row by row; None where the slice is only known from the complete split.

    That is so for sums of splits, slices counted from the end, and percentages of a split whose number of rows is not stated.
    """
    asked = SLICE.fullmatch(spec.split)
    if asked is None:
        return None
    data = _load(spec, name, commit, split=asked["split"], streamed=True)
    if asked["begin"] is None:
        return data
    told = (data.info.splits or {}).get(asked["split"])
    rows = told.num_examples if told is not None and told.num_examples else None
    edges = []
    for edge in ("begin", "end"):
        number, percent = asked[edge], asked[f"{edge}_percent"]
        if percent and rows is None:
            return None
        edges.append(None if not number else round(int(number) / 100 * (rows or 0)) if percent else int(number))
    begin, end = edges
    data = data.skip(begin) if begin else data
    return data.take(max(0, end - (begin or 0))) if end is not None else data


def _load(spec: DatasetSpec, name: str, commit: str | None, *, split: str | None = None, streamed: bool = False) -> Any:
    import datasets
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import HTTPError

    verbosity, bars = datasets.utils.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        part = {"name": spec.config, "split": split or spec.split, "data_files": spec.data_files, "revision": commit}
        return datasets.load_dataset(f"hf://datasets/{name}", **part, streaming=streamed)  # never a folder here of that name
    except (DatasetNotFoundError, HTTPError, OSError) as error:
        if not hub_reachable():
            raise DatasetNotFound(
                f"{offline_reason()}, and the dataset {name} is not on this machine.",
                hint="Check the network, use a file of your own, or builtin:python-docs.",
            ) from None
        raise DatasetNotFound(f"The dataset {name} cannot be loaded: {said(error)}", hint=f"Check its page. {SIGN_IN}") from None
    except (ValueError, RuntimeError, TypeError, KeyError, datasets.exceptions.DatasetsError) as error:
        # an unknown split or configuration, a loading script, an unknown kind of file: the library's message names it
        raise DatasetError(
            f"The dataset {name} cannot be loaded: {said(error)}",
            hint="Choose a configuration and a split: --set dataset.config=NAME --set dataset.split=NAME",
        ) from None
    finally:
        datasets.utils.logging.set_verbosity(verbosity)
        if not bars:
            datasets.enable_progress_bars()
