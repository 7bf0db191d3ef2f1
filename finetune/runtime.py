"""How this machine does a run, as opposed to what the run is (`Recipe`): device, dtype, cache folder, permissions."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from finetune.errors import BadInput


def default_cache() -> Path:
    """$FINETUNE_CLI_CACHE, or the user's cache folder; raises BadInput for a user without a home folder."""
    override = os.environ.get("FINETUNE_CLI_CACHE")
    if override:
        return Path(os.path.expanduser(override))  # no shell has seen what a service file or `docker run --env` says
    try:
        found = user_cache_path("finetune-cli")
    except RuntimeError:  # of newer versions of platformdirs; older ones leave the ~
        found = Path("~")
    if "~" in found.parts[:1]:
        raise BadInput(
            "This user has no home folder, so there is no place for a cache.", hint="Set FINETUNE_CLI_CACHE or HOME to a folder of yours."
        )
    return found


@dataclass(frozen=True)
class RuntimeOptions:
    """Everything here may differ between two machines that run the same recipe."""

    device: str = "auto"  # auto | cpu | cuda | mps
    dtype: str = "auto"  # auto | float32 | bfloat16 | float16
    cache_dir: Path = field(default_factory=default_cache)
    trust_remote_code: bool = False
    processes: int | None = None  # that train on this machine; None is one for each GPU
    engine: str | None = None  # a name in the registry; None is the one that suits the number of processes
    nodes: int = 1  # machines that train together
    node_rank: int = 0  # of this machine; the others' commands only train
    rendezvous: str | None = None  # HOST:PORT of the first machine, where all of them meet
    shard: str = "auto"  # auto | yes | no: cut the weights into a part for each process, where a GPU has no room for all
    began_with: tuple[str, str, str] | None = None  # processor, device and dtype of the run that goes on: there `auto` is that dtype

    def __post_init__(self) -> None:
        object.__setattr__(self, "cache_dir", Path(self.cache_dir).expanduser())  # a caller may well give text
        if self.shard not in ("auto", "yes", "no"):
            raise BadInput(f"There is no way to shard called {self.shard!r}.", hint="It is auto, yes or no.")
        if self.nodes > 1 and not re.fullmatch(r".+:\d+", self.rendezvous or ""):
            raise BadInput("Several nodes need a rendezvous address.", hint="--rdzv HOST:PORT: the name and a free port of the first node")
        if self.nodes == 1 and self.rendezvous:
            raise BadInput("--rdzv is for several nodes.", hint="Say how many there are, for example --nodes 2, or leave --rdzv out.")
        if not 0 <= self.node_rank < self.nodes:
            raise BadInput(
                f"There is no node {self.node_rank} of {self.nodes}: they are counted from 0.", hint="--node-rank 0 is the first"
            )

    @property
    def asked(self) -> dict[str, Any]:
        """The options that decide the numbers of a run and are not left to the machine, by the names of the options."""
        chosen = {"device": self.device, "dtype": self.dtype, "nproc": self.processes}
        return {name: value for name, value in chosen.items() if value not in ("auto", None)}

    def as_begun(self, environment: Mapping[str, Any]) -> RuntimeOptions:
        """The same for a run that began in this `environment` (environment.json): what is still open is as it was then.

        On another processor the dtype stays open: it may be many times slower there.
        """
        if "machine" not in environment:
            return self
        machine, asked = environment["machine"], environment.get("asked", {})
        device = "cpu" if self.device == "auto" and asked.get("device") == "cpu" else self.device
        return replace(self, device=device, began_with=(machine["gpu"] or machine["cpu"], machine["device"], machine["dtype"]))

    def to_dict(self) -> dict[str, Any]:
        """For another process, as JSON can carry it."""
        return {**asdict(self), "cache_dir": str(self.cache_dir)}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> RuntimeOptions:
        return cls(**{**told, "began_with": tuple(told["began_with"]) if told.get("began_with") else None})


def settle_folders(runtime: RuntimeOptions) -> None:
    """Have libraries use the cache where there is no home or no place for temporary files."""
    cache = str(runtime.cache_dir.absolute())
    if os.path.expanduser("~") == "~":  # no home: libraries would make a folder of that name, or refuse to be imported
        os.environ["HOME"] = cache
    try:
        tempfile.gettempdir()
    except FileNotFoundError:  # a container in which only the cache can be written
        with suppress(OSError):  # what needs the cache will say so
            os.makedirs(cache, exist_ok=True)
        os.environ["TMPDIR"] = tempfile.tempdir = cache


def refuse_inside_torchrun() -> None:
    """Raises BadInput where a launcher has started this program several times: all of them would race for the folder."""
    if "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ:
        raise BadInput(
            "torchrun or another launcher has started this program, which starts the processes it needs itself.",
            hint="Start it once, with --nproc: finetune-cli run RECIPE --nproc 2",
        )
