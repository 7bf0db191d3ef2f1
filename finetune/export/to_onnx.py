"""ONNX: the model as a graph for onnxruntime, kept only if its logits are those of our model.

done = ONNX.export(RunFolder.of("./finetuned_model"), Path("./out"), RuntimeOptions(), reporter)

The graph is made by transformers' own exporter, which calls itself experimental: hence the check, at lengths that it was not traced with.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.data.tokens.plain_in_jinja import template_for_others
from finetune.errors import BadInput, FinetuneError
from finetune.events import Reporter, stage
from finetune.export.place import ELSEWHERE, check_finished, check_place
from finetune.export.probes import Probes
from finetune.export.prompt_format import PromptFormat
from finetune.export.record import Exported, Speed, keep
from finetune.foreign import reading
from finetune.formatting import size
from finetune.hardware.machine import inspect
from finetune.hardware.matmul import use_plain_linear
from finetune.models.load import load_model, load_tokenizer
from finetune.models.location import locate
from finetune.models.tokenizer_files import save_tokenizer
from finetune.publish.merged import base_changed
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions
from finetune.system.storage import check_room, disk_may_fill, file_hash, whole_folder

NEEDS = ("onnx", "onnxruntime", "onnxscript")
INSTALL = "pip install onnx onnxscript onnxruntime"
FILE = "model.onnx"
LIMIT = 1e-4  # of the largest logit: deep models round by more than that in absolute numbers
NO_CACHE = "It computes the logits of a whole text, without a cache of keys and values: good for scoring, slow for long answers."


class ONNX:
    """model.onnx of a finished run, with its weights in model.onnx.data and its tokenizer."""

    title = "ONNX"
    summary = "a graph for onnxruntime"
    ending = "-onnx"

    @staticmethod
    def export(run: RunFolder, to: Path, runtime: RuntimeOptions, reporter: Reporter, *, limit: float | None = None) -> Exported:
        """Write `to`; `limit` is the largest difference of a logit, as a share of the largest logit.

        Raises BadInput for what cannot be exported, OutputExists, DiskFull, or FinetuneError if the logits would differ.
        """
        if missing := [name for name in NEEDS if find_spec(name) is None]:
            raise BadInput(f"Exporting to ONNX needs {', '.join(missing)}.", hint=f"Install it: {INSTALL}")
        check_finished(run)
        check_place(to)
        with run.claimed():
            return _export(run, to, runtime, reporter, LIMIT if limit is None else limit)


def _export(run: RunFolder, to: Path, runtime: RuntimeOptions, reporter: Reporter, limit: float) -> Exported:
    located = locate(str(run.output_dir), runtime, reporter)
    tokenizer = load_tokenizer(located)
    prompts = Probes.of(run, PromptFormat.of(run, load_tokenizer(located))).prompts
    machine = replace(inspect(replace(runtime, device="cpu", dtype="float32")), why_dtype="for exporting")
    with stage(reporter, "export", "Loading the model") as done:
        began = time.perf_counter()
        model: Any = load_model(located, machine)
        loaded = time.perf_counter() - began
        done(size(located.bytes))
    needed = 4 * sum(parameter.numel() for parameter in model.parameters())
    check_room("The exported model", needed, to.parent, ELSEWHERE)
    ours = [_logits(model, ids) for ids in prompts]
    with whole_folder(to) as part, disk_may_fill("The exported model", needed, to.parent, ELSEWHERE):
        with stage(reporter, "export", "Writing ONNX") as done:
            _trace(model, prompts, part, located.name)
            template = template_for_others(run.known(run.data_report), tokenizer)
            save_tokenizer(tokenizer, run.output_dir, part, template=template)
            files = [file for file in part.iterdir() if file.name.startswith(FILE)]
            written = sum(file.stat().st_size for file in files)
            done(size(written))
        with stage(reporter, "export", "Checking the graph") as done:
            began = time.perf_counter()
            theirs = _run(part / FILE, prompts)
            seconds = time.perf_counter() - began
            largest = max(float(np.abs(one).max()) for one in ours)
            difference = max(float(np.abs(one - other).max()) for one, other in zip(ours, theirs, strict=True)) / largest
            if not difference <= limit:
                raise FinetuneError(
                    f"The exported graph was refused: a logit differs by {difference:.2g} of the largest, and {limit:g} is the limit; "
                    "nothing was kept.",
                    hint=f"Accept it with a higher limit: --limit {2 * difference:.1g}",
                )
            done(f"logits differ by at most {difference:.0e} of the largest")
        sha256 = file_hash(part / FILE)
    same = sum(int(one[-1].argmax() == other[-1].argmax()) for one, other in zip(ours, theirs, strict=True))
    gate = {"logits": difference, "same_top": same, "prompts": len(prompts), "limit": limit}
    made = Exported(
        to="onnx",
        type="f32",
        folder=str(to),
        file=FILE,
        bytes=written,
        sha256=sha256,
        gate=gate,
        notes=[*filter(None, [base_changed(run, located)]), NO_CACHE],
        commands={"Python": f'onnxruntime.InferenceSession("{to / FILE}")'},
        original=Speed(located.bytes, loaded, None),
        exported=Speed(written, seconds, None),
        threads=torch.get_num_threads(),
    )
    keep(run, made)
    return made


def _trace(model: Any, prompts: Sequence[list[int]], part: Path, name: str) -> None:
    """Traced with two rows, so that neither their number nor their length is taken for fixed."""
    from transformers.exporters.configs import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    ids = torch.tensor([max(prompts, key=len)] * 2)
    model.config.use_cache = False
    use_plain_linear(model)
    given: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    failed: OSError | None = None
    with reading(name, FinetuneError, hint="Export it to GGUF, or use the folder as it is.", what="cannot be exported to ONNX"):
        made = OnnxExporter().export(model, given, config=OnnxConfig(dynamic=True))
        try:
            made.save_pretrained(part)
        except OSError as error:
            failed = error
    if failed:  # the disk's fault, not the model's
        raise failed
    gc.collect()


@torch.inference_mode()
def _logits(model: Any, ids: list[int]) -> np.ndarray[Any, Any]:
    """[length, vocabulary], in 32 bits."""
    found: np.ndarray[Any, Any] = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float().numpy()
    return found


def _run(path: Path, prompts: Sequence[list[int]]) -> list[np.ndarray[Any, Any]]:
    """The same by onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = []
    for ids in prompts:
        given = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), dtype=np.int64)}
        found.append(session.run(["logits"], given)[0][0])
    return found
