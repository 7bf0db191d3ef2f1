"""GGUF: one file for llama.cpp, Ollama and LM Studio, kept only if llama.cpp answers with it as our model does.

    done = GGUF.export(RunFolder.of("./finetuned_model"), Path("./out"), RuntimeOptions(), reporter, type="q4_k_m")
    done.file, done.gate["kl"], done.faster

An adapter is merged into its base in 32 bits first. The folder appears when everything in it is proven.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune import registry
from finetune.errors import BadInput
from finetune.events import Progress, Reporter, stage
from finetune.export.gguf_gate import Verdict, judge
from finetune.export.gguf_tokenizer import tokenizer_header
from finetune.export.gguf_types import BLOCK, DEFAULT, KINDS, KL, TRAINED_LIMIT, Kind, kind_of
from finetune.export.gguf_writer import Planned, check_read_back, plan, take_weights, write
from finetune.export.modelfile import modelfile
from finetune.export.place import ELSEWHERE, check_finished, check_place, name_of
from finetune.export.probes import Probes
from finetune.export.prompt_format import PromptFormat
from finetune.export.quantising import INSTALL, has_llama_cpp, needs_llama_cpp
from finetune.export.record import Exported, Speed, keep
from finetune.formatting import percent, size
from finetune.hardware.machine import inspect
from finetune.models.gguf_architectures import Architecture, architecture_of, is_tied, long_texts, tensors
from finetune.models.kind import configuration
from finetune.models.load import load_model, load_tokenizer
from finetune.models.location import locate
from finetune.planning.stages import FEWEST_PARAMETERS
from finetune.publish.card import licence_of
from finetune.publish.merged import base_changed
from finetune.publish.usage import gguf_commands
from finetune.recipe import Recipe
from finetune.recipe.distillation_settings import QuantizeSpec
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions
from finetune.system.storage import check_room, disk_may_fill, file_hash, whole_folder
from finetune.training.decoding import greedy
from finetune.training.head import padding_id

TIMED_TOKENS = 64
HEADER_BYTES = 30_000_000  # more than the tokens and merges of the largest vocabularies


class GGUF:
    """A .gguf file of a finished run, with a Modelfile for Ollama."""

    title = "GGUF"
    summary = "one file for llama.cpp, Ollama and LM Studio"
    types = tuple(KINDS)
    ending = "-gguf"

    @staticmethod
    def export(
        run: RunFolder, to: Path, runtime: RuntimeOptions, reporter: Reporter, *, type: str | None = None, limit: float | None = None
    ) -> Exported:
        """Write `to`; `limit` is the gate's, in place of the type's own.

        Raises BadInput for what cannot be exported, OutputExists, DiskFull, or FinetuneError for a file that would answer differently.
        """
        kind = kind_of(type or DEFAULT)
        if needs_llama_cpp(kind.format) and not has_llama_cpp():
            raise BadInput(f"{kind.name} is made by llama.cpp, which is not installed.", hint=f"Install it: {INSTALL}")
        check_finished(run)
        check_place(to)
        with run.claimed():
            return _export(run, to, runtime, reporter, kind, limit)


def _export(run: RunFolder, to: Path, runtime: RuntimeOptions, reporter: Reporter, kind: Kind, limit: float | None) -> Exported:
    located = locate(str(run.output_dir), runtime, reporter)
    config = configuration(located)
    known = architecture_of(config, located.name)
    asked = PromptFormat.of(run, load_tokenizer(located))
    text = config.get_text_config(decoder=True)
    header = tokenizer_header(asked, name_of(run), vocabulary=text.vocab_size, model=located.name)
    probes = Probes.of(run, asked)
    machine = replace(inspect(replace(runtime, device="cpu", dtype="float32")), why_dtype="for exporting")
    with stage(reporter, "export", "Loading the model") as done:
        began = time.perf_counter()
        model: Any = load_model(located, machine)
        load_seconds = time.perf_counter() - began
        done(f"{size(located.bytes)}, as transformers has it")
    stated = known.facts(text)
    said = (base_changed(run, located), *asked.notes, header.note, *long_texts(text, stated))
    learned, trained = _learned_in(run, kind)
    ends = {"ends": trained.head.upper()} if trained and trained.head else {}
    shapes = ((name, tuple(values.shape)) for name, values in tensors(model, known))
    planned = plan(shapes, kind, layers=stated["block_count"], tied=is_tied(model), **ends)
    limit = TRAINED_LIMIT if trained and limit is None else limit
    needed = sum(tensor.bytes for tensor in planned.values()) + HEADER_BYTES
    check_room("The exported file", needed, to.parent, ELSEWHERE)
    file = f"{name_of(run)}-{kind.name.upper()}.gguf"
    licence = licence_of(run)
    with whole_folder(to) as part, disk_may_fill("The exported file", needed, to.parent, ELSEWHERE):
        with stage(reporter, "export", f"Writing {kind.name.upper()}") as done:
            facts = _facts(stated, known, kind, licence) | header.facts
            more = {"exact": trained is not None}
            meant = write(part / file, known.name, facts, planned, tensors(model, known), _progress(reporter, "bytes"), **more)
            written = (part / file).stat().st_size
            done(size(written))
        with stage(reporter, "export", "Checking the file") as done:
            check_read_back(part / file, meant)
            verdict, exported = _judged(part / file, kind, known, probes, model, limit, reporter, len(meant))
            done(_in_short(verdict))
        (part / "Modelfile").write_text(modelfile(file, asked, run.output_dir, licence), encoding="utf-8", newline="\n")
        sha256 = file_hash(part / file)
    made = Exported(
        to="gguf",
        type=kind.name,
        folder=str(to),
        file=file,
        bytes=written,
        sha256=sha256,
        gate=asdict(verdict) | ({"exact": True} if trained else {}),
        notes=[*filter(None, said), *_rounded_again(learned, trained, kind), *_notes(planned, verdict)],
        commands=gguf_commands(to / file, name_of(run)),
        original=Speed(located.bytes, load_seconds, _our_speed(model, asked.tokenizer, probes) if exported else None),
        exported=exported,
        threads=torch.get_num_threads(),
    )
    keep(run, made)
    return made


def _learned_in(run: RunFolder, kind: Kind) -> tuple[str | None, QuantizeSpec | None]:
    """The type of file that the model learned to be, if it learned in few bits; and how, if it is this one."""
    spec = Recipe.load(run.recipe).distillation.quantize
    type: str | None = registry.load("grids", spec.format).file_type if spec else None
    return type, spec if type == kind.name else None


def _rounded_again(learned: str | None, trained: QuantizeSpec | None, kind: Kind) -> list[str]:
    """What is lost of a model that learned in other few bits."""
    if learned is None or trained or BLOCK[kind.format] == 1:
        return []
    return [f"The model learned to be {learned.upper()}, and {kind.name.upper()} rounds it once more: --to gguf:{learned} loses nothing."]


def _judged(
    path: Path, kind: Kind, known: Architecture, probes: Probes, model: Any, limit: float | None, reporter: Reporter, count: int
) -> tuple[Verdict, Speed | None]:
    """All four parts with llama.cpp, else the first two. The model has the weights of the file afterwards."""
    if not has_llama_cpp():
        from finetune.export.gguf_tokenizer_check import check_words

        check_words(path, probes)
        return Verdict(count, len(probes.texts)), None
    ours = _log_probabilities(model, probes.prompts)
    rounded = None
    if kind.measure == KL:
        take_weights(path, model, known)
        rounded = _log_probabilities(model, probes.prompts)
    timed = probes.prompts[0] if model.num_parameters() >= FEWEST_PARAMETERS else []
    verdict, answers = judge(
        path,
        kind,
        probes,
        ours,
        rounded=rounded,
        tensors=count,
        threads=torch.get_num_threads(),
        timed=timed,
        limit=limit,
        progress=_progress(reporter, "prompts"),
    )
    return verdict, Speed(path.stat().st_size, answers.load_seconds, answers.tokens_per_second)


@torch.inference_mode()
def _log_probabilities(model: Any, prompts: list[list[int]]) -> list[np.ndarray[Any, Any]]:
    """[vocabulary] of the token after each prompt, in 32 bits."""
    return [model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float().log_softmax(-1).numpy() for ids in prompts]


@torch.inference_mode()
def _our_speed(model: Any, tokenizer: Any, probes: Probes) -> float | None:
    """Tokens per second of one answer, in this process, as transformers makes it."""
    if model.num_parameters() < FEWEST_PARAMETERS:
        return None
    ids = torch.tensor([probes.prompts[0]])
    seconds = []
    for tokens in (1, 1 + TIMED_TOKENS):
        with greedy(model, [], pad=padding_id(tokenizer, model), max_new_tokens=tokens):
            began = time.perf_counter()
            model.generate(ids, attention_mask=torch.ones_like(ids))
            seconds.append(time.perf_counter() - began)
    return TIMED_TOKENS / (seconds[1] - seconds[0])


def _facts(stated: dict[str, Any], known: Architecture, kind: Kind, licence: str | None) -> dict[str, Any]:
    import gguf

    general = {"general.type": "model", "general.file_type": kind.file_type}
    general |= {"general.quantization_version": gguf.GGML_QUANT_VERSION} | ({"general.license": licence} if licence else {})
    return general | {f"{known.name}.{key}": value for key, value in stated.items()}


def _notes(planned: dict[str, Planned], verdict: Verdict) -> list[str]:
    """What is not as the type's name says, and what was not proven."""
    notes, total = [], sum(tensor.bytes for tensor in planned.values())
    instead: dict[tuple[str, str], int] = {}
    for tensor in planned.values():
        if tensor.instead:
            instead[tensor.instead, tensor.format] = instead.get((tensor.instead, tensor.format), 0) + tensor.bytes
    for (wanted, given), taken in instead.items():
        notes.append(
            f"{percent(taken / total)} of the file is {given} instead of {wanted}, as llama.cpp does where rows are not whole blocks."
        )
    if verdict.kl is None:
        notes.append(f"Not proven: probabilities and rendered chats, for which llama.cpp is needed. Install it: {INSTALL}")
    return notes


def _in_short(verdict: Verdict) -> str:
    if verdict.kl is None:
        return f"{verdict.tensors} tensors, {verdict.texts} texts"
    return f"KL {verdict.kl:.2g}, same top token {verdict.same_top} of {verdict.prompts}"


def _progress(reporter: Reporter, unit: str) -> Callable[[int, int], None]:
    return lambda done, total: reporter.report(Progress("export", done, total, unit))
