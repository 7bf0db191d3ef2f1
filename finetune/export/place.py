"""Where an export goes, and from which runs there can be one.

check_finished(run)
check_place(Path("./finetuned_model-gguf"))
"""

from __future__ import annotations

from pathlib import Path

from finetune.errors import BadInput
from finetune.publish.merged import check_target
from finetune.run_folder import BENCHMARK, TRAINING, RunFolder
from finetune.system.shell import quoted

ELSEWHERE = "name a folder on another disk: --to-dir"
OURS = (".gguf", ".onnx", ".data", ".json", ".jinja", ".model", ".txt")


def check_finished(run: RunFolder) -> None:
    """Raises BadInput for a run whose model is not there yet, or whose record of exports is damaged."""
    if run.progress.is_file() and run.stage in (TRAINING, BENCHMARK):
        raise BadInput(
            f"The run in {run.output_dir} is not finished, so there is nothing to export yet.",
            hint=f"Finish it first: finetune-cli resume {quoted(run.output_dir)}",
        )
    _ = run.exports  # which is to be added to, after minutes


def check_place(to: Path) -> None:
    """Raises as `check_target` does; what an export that was killed left behind is no obstacle."""
    check_target(to, option="--to-dir", leftover=_is_ours)


def _is_ours(part: Path) -> bool:
    """Whether a folder that is named like an unfinished export holds nothing but what exports write."""
    inside = [place for place in part.rglob("*") if not place.is_dir()] if part.is_dir() and not part.is_symlink() else [part]
    return all(place.name == "Modelfile" or place.suffix in OURS for place in inside)


def name_of(run: RunFolder) -> str:
    """What the run's folder is called, also for ".": the beginning of file names."""
    return run.output_dir.resolve().name or "model"
