"""An adapter and its base as one plain model, checked to give the same answers, or not written at all.

    merged = Merged.export(RunFolder.of("./finetuned_model"), Path("./plain"), RuntimeOptions(), reporter)
    merged.dtype, merged.difference        # "bfloat16", 0.004

The sum is computed in 32 bits and rounded once, to the dtype that the base is stored in; if that rounding loses what the adapter
learned, the model is written in 32 bits. The check loads the written folder again.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.data.tokens.plain_in_jinja import template_for_others
from finetune.errors import BadInput, FinetuneError, OutputExists
from finetune.events import Notice, Recorder, Reporter
from finetune.foreign import reading, reason
from finetune.formatting import percent
from finetune.hardware.machine import inspect
from finetune.model_folder import SAFETENSORS
from finetune.models.kind import configuration
from finetune.models.load import load_model, load_tokenizer, untie_adapted
from finetune.models.location import LocatedModel, locate
from finetune.models.saved import complete
from finetune.publish.card import write_card
from finetune.run_folder import REMADE, RunFolder, check_can_be_made, free_name
from finetune.runtime import RuntimeOptions
from finetune.system.shell import quoted
from finetune.system.storage import check_room, disk_may_fill, part_of, whole_folder
from finetune.training.head import padding_id

PROMPTS = (
    "The capital of France is",
    "def add(a, b):\n    return",
    "Once upon a time there was a",
    "Write one sentence about the sea.",
    "1, 2, 3, 4,",
)
MOST_PROMPTS, MOST_TOKENS = 6, 256
# Largest difference of a logit, as a share of the largest logit. Each layer rounds its output to the dtype, with a relative error of half
# its epsilon (2^-8 in bfloat16, 2^-11 in float16, 2^-24 in float32), and the errors of a few dozen layers add up.
ALLOWED = {torch.bfloat16: 0.05, torch.float16: 0.01, torch.float32: 1e-3}
# The largest share of the adapter's change that rounding may lose, by root mean square of the logits.
MAY_BE_LOST = 0.5
ELSEWHERE = "name a folder on another disk: --to"
RECORDS = ("recipe.yaml", "continued.json", "environment.json", "data_report.json", "events.jsonl", "benchmark.json", "report.html")


@dataclass(frozen=True)
class Merging:
    """What was written where; `difference` is the largest change of a logit, as a share of the largest logit; at most `allowed`."""

    folder: str
    adapter: str
    base: str
    dtype: str
    prompts: int
    difference: float
    allowed: float
    bytes: int
    rounded_base: bool


class Merged:
    """A plain model folder from a run whose result is an adapter, or from any adapter."""

    title = "Merged"
    summary = "adapter and base model in one folder that needs no peft"

    @staticmethod
    def export(run: RunFolder, to: Path, runtime: RuntimeOptions, reporter: Reporter) -> Merging:
        """Write `to`; raises BadInput if there is nothing, OutputExists, FolderInUse, DiskFull; FinetuneError if answers differ."""
        run.check_unclaimed()
        check_target(to)
        located = locate(str(run.output_dir), runtime, reporter)
        if located.base is None:
            raise BadInput(
                f"{run.output_dir} contains a complete model, not an adapter; there is nothing to merge.", hint="Use the folder directly."
            )
        if located.base_load_in:
            reporter.report(
                Notice("The adapter was trained on 4-bit weights; it is merged into those dequantised weights, not into the original ones.")
            )
        if said := base_changed(run, located):
            reporter.report(Notice(said, "warning"))
        machine = replace(inspect(runtime), dtype="float32", why_dtype="for adding up")
        tokenizer = load_tokenizer(located)
        inputs = _inputs(run, tokenizer)
        adapted = load_model(located, machine, merge=False)
        wanted = _logits(adapted, inputs)
        with adapted.disable_adapter():  # type: ignore[operator]
            unadapted = _logits(adapted, inputs)
        stored = _stored_dtype(located.base)
        plain = _merge(adapted)
        del adapted
        needed = plain.num_parameters() * stored.itemsize
        check_room("The merged model", needed, to.parent, ELSEWHERE)
        with whole_folder(to) as part, disk_may_fill("The merged model", needed, to.parent, ELSEWHERE):
            for dtype in dict.fromkeys((stored, torch.float32)):
                shutil.rmtree(part)
                _write(plain, dtype, part)
                again = load_model(locate(str(part), runtime, Recorder()), machine)
                difference = _difference(_logits(again, inputs), wanted, unadapted)
                del again
                gc.collect()
                if difference <= ALLOWED[dtype]:
                    break
            else:
                raise _not_the_same(run, dtype, difference)
            if dtype != stored:
                reporter.report(
                    Notice(f"In {_name(stored)} the merged model would give different answers, so it is saved in {_name(dtype)}.")
                )
            report = run.known(run.data_report)
            asked: dict[str, Any] = {"chat": report.get("template") == "chat", "template": template_for_others(report, tokenizer)}
            complete(part, tokenizer, source=located, base=None, pad=padding_id(tokenizer, plain), **asked)
            merging = Merging(
                folder=str(to),
                adapter=str(run.output_dir),
                base=located.base.pinned,
                dtype=_name(dtype),
                prompts=len(inputs),
                difference=difference,
                allowed=ALLOWED[dtype],
                bytes=sum(file.stat().st_size for file in part.glob(f"*{SAFETENSORS}")),
                rounded_base=located.base_load_in is not None,
            )
            _records(run, RunFolder(part), merging)
        return merging


def base_changed(run: RunFolder, located: LocatedModel) -> str | None:
    """What people should know of an adapter whose base is not what it was when the run began, or where that is not known."""
    if located.base is None or not run.environment.is_file():
        return None
    try:
        with reading(run.environment):
            recorded = run.read_json(run.environment).get("model") or {}
            known = str(recorded.get("identity") or "").rpartition(" on ")[2]  # of an adapter's own base, where it continued one
    except BadInput as error:
        return f"Whether {located.home.pinned} has changed since the adapter was trained on it is not known: {error.message}"
    if known in ("", located.home.identity):
        return None
    return f"{located.home.pinned} has changed since the adapter was trained on it: the two were never measured together."


def check_target(to: Path, *, option: str = "--to", leftover: Callable[[Path], bool] = lambda part: False) -> None:
    """Raises OutputExists if `to` exists, or what it is called while it is written; BadInput if it cannot be created.

    `option` names the folder on the command line, `leftover` whether the second may be taken for ours, left by a process that was killed.
    """
    if os.path.lexists(to):
        raise OutputExists(
            f"{to} exists already, and nothing is overwritten.", hint=f"Choose another one, for example {option} {quoted(free_name(to))}"
        )
    if os.path.lexists(part_of(to)) and not leftover(part_of(to)):
        raise OutputExists(
            f"{part_of(to)} exists already: it is yours, or left by a process that was killed.",
            hint=f"Remove it, or choose another name, for example {option} {quoted(free_name(to))}",
        )
    check_can_be_made(to)


def _inputs(run: RunFolder, tokenizer: Any) -> list[Tensor]:
    """Token ids [1, length] of a few prompts of the run's own benchmark, or of fixed ones if there are none."""
    with reading(run.benchmark, hint=REMADE):
        rows = run.known(run.benchmark).get("generations", [])
        prompts = [row["prompt"] + row.get("after", "") for row in rows][:MOST_PROMPTS] or list(PROMPTS)
    inputs = [tokenizer(prompt, return_tensors="pt")["input_ids"][:, :MOST_TOKENS] for prompt in prompts]
    return [ids for ids in inputs if ids.shape[1]]


@torch.no_grad()
def _logits(model: Any, inputs: list[Tensor]) -> list[Tensor]:
    """Logits [length, vocabulary] for each prompt, in 32 bits on the CPU."""
    device = next(model.parameters()).device
    return [model(input_ids=ids.to(device), use_cache=False).logits[0].float().cpu() for ids in inputs]


def _merge(adapted: Any) -> Any:
    untie_adapted(adapted)
    try:
        return adapted.merge_and_unload(safe_merge=True)  # refuses weights that are NaN or infinite
    except ValueError as error:
        raise FinetuneError(f"The adapter cannot be merged: {reason(error)}.", hint="Train it again.") from error


def _stored_dtype(base: LocatedModel) -> torch.dtype:
    """The dtype of the base model's own files."""
    dtype = configuration(base).dtype
    return dtype if dtype in ALLOWED else torch.float32


def _write(plain: Any, dtype: torch.dtype, part: Path) -> None:
    """Save the model in `dtype`; in memory it keeps its own."""
    kept = {name: parameter.data for name, parameter in plain.named_parameters()}
    for parameter in plain.parameters():
        parameter.data = parameter.data.to(dtype)
    plain.config.dtype = dtype
    plain.save_pretrained(part)
    for name, parameter in plain.named_parameters():
        parameter.data = kept[name]


def _difference(logits: list[Tensor], wanted: list[Tensor], unadapted: list[Tensor]) -> float:
    """The largest difference from `wanted`, as a share of the largest logit; infinite if the adapter's change is lost."""
    if not all(torch.isfinite(row).all() for row in logits):
        return float("inf")
    largest = max(float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in zip(logits, wanted, strict=True))
    lost, learnt = _distance(logits, wanted), _distance(unadapted, wanted)
    return float("inf") if lost > MAY_BE_LOST * learnt and lost > ALLOWED[torch.float32] else largest


def _distance(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Root mean square of the differences of all logits, as a share of that of `theirs`."""
    one, other = torch.cat(ours), torch.cat(theirs)
    return float((one - other).square().mean().sqrt() / other.square().mean().sqrt())


def _not_the_same(run: RunFolder, dtype: torch.dtype, difference: float) -> FinetuneError:
    how = "the adapter's change is lost" if difference == float("inf") else f"logits differ by {percent(difference, 1)} of the largest"
    return FinetuneError(
        f"The merged model of {run.output_dir} does not match the adapter ({how}, {percent(ALLOWED[dtype], 1)} allowed in "
        f"{_name(dtype)}); nothing was written.",
        hint="Use the adapter unmerged: it loads with from_pretrained.",
    )


def _records(run: RunFolder, made: RunFolder, merging: Merging) -> None:
    """Copies the run's recipe and scores, so that the folder is a run of its own, and writes its card."""
    made.run.mkdir()
    for name in RECORDS:
        if (run.run / name).is_file():
            shutil.copy(run.run / name, made.run / name)
    made.write_json(made.run / "merge.json", asdict(merging))
    if made.recipe.is_file():  # else it is an adapter that no run of ours made
        write_card(made)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
