"""Hand a training to workers: its context and model as JSON and files, and the same context made from them in a worker.

    give(order, places)                  # the parent: what it has found and made, written down
    order = take(places, reporter)       # each worker: models loaded, the method attached, weights as they were

Nothing is decided here: dtype, data, revisions, students and the teachers' answers are those of the parent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import torch

from finetune.distillation.caches.on_disk import TeacherCache
from finetune.distillation.prepare import DistillationSetup
from finetune.distillation.teachers.model_or_cache import Teacher
from finetune.engines.workplace import Workplace
from finetune.errors import TrainingError
from finetune.events import Fanout
from finetune.hardware.kernels import use_fast_kernels
from finetune.hardware.machine import Machine, torch_dtype
from finetune.models.kind import auto_class, try_text_alone
from finetune.recipe import Recipe
from finetune.run.loading import attach_method, each_teacher, load_base, quantised, self_teacher
from finetune.run.train_model import Order
from finetune.run_context import RunContext
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions
from finetune.system.storage import check_room, write_whole
from finetune.training.checkpoints import Checkpoint, Checkpoints
from finetune.training.head import causal_lm
from finetune.training.saved_tensors import weights_of


def give(order: Order, places: Workplace) -> None:
    """Write down everything that a worker needs; order.json last, so that it is there when all is. Raises DiskFull."""
    context, weights = order.context, _weights(order.context, order.model)
    check_room("What the processes begin with", sum(tensor.nbytes for tensor in weights.values()), order.folder.run, "train in one process")
    places.folder.mkdir(parents=True)
    torch.save({name: tensor.cpu() for name, tensor in weights.items()}, places.weights)
    if context.student_is_made:
        causal_lm(order.model).config.save_pretrained(places.student)
    told = {
        **context_told(context),
        "folder": str(order.folder.output_dir.absolute()),
        "start": str(order.start.folder.name) if order.start else None,
        "made_with": dict(order.made_with),
        "cut": order.cut,
        "teachers": _told(order.setup) if order.setup else None,
    }
    write_whole(places.order, json.dumps(told, indent=1))


def take(places: Workplace) -> tuple[Order, int]:
    """The training, and the threads of each worker on a CPU. Raises what loading raises, and TrainingError for rows that are others here.

    A model that is to be cut is in main memory, as pages of files that all workers read: each takes its part of it onto its device.
    Its reporter is empty at first: the parent has reported all that was done before.
    """
    told = json.loads(places.order.read_text(encoding="utf-8"))
    context = context_of(told)
    model = _student(context, places) if context.student_is_made else load_base(context)
    quantised(context, model)
    weights = torch.load(places.weights, map_location="cpu", weights_only=True, mmap=told["cut"])
    if told["cut"]:
        # Processes share the memory of a mapped file: before, what a method would make 32 bits of in each of them, then what it adds.
        _set(model, weights)
        model = attach_method(context, model)
        _set(model, weights)
    else:
        model = attach_method(context, model)
        with torch.no_grad():
            for name, tensor in _weights(context, model).items():
                tensor.copy_(weights[name])
    folder = RunFolder(told["folder"])
    setup = _setup(context, model, told["teachers"]) if told["teachers"] else None
    return Order(context, model, folder, setup, _start(folder, told["start"]), told["made_with"], told["cut"]), told["threads"]


def context_told(context: RunContext) -> dict[str, Any]:
    """What the parent has resolved, and the threads of each worker on a CPU."""
    return {
        "recipe": context.recipe.model_dump(mode="json"),
        "runtime": {**context.runtime.to_dict(), "cache_dir": str(context.runtime.cache_dir.absolute())},
        "machine": asdict(context.machine),
        "threads": max(1, torch.get_num_threads() // context.processes),
        "rows": context.data.fingerprint,
    }


def context_of(told: Mapping[str, Any]) -> RunContext:
    """The same context in a worker; raises TrainingError for rows that are others here. Its reporter is empty at first."""
    context = RunContext(Recipe.from_layers(told["recipe"]), RuntimeOptions.from_dict(told["runtime"]), Fanout())
    machine = Machine(**told["machine"])
    context = context.beside(machine=machine, whole_on="cpu" if told.get("cut") else machine.device)
    if context.data.fingerprint != told["rows"]:
        raise TrainingError("The rows on this node differ from those on the first.", hint="All nodes need the same files and cache.")
    return context


def _set(model: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """Have parameters of a model in main memory be the tensors of their names."""
    for name, parameter in model.named_parameters():
        if name in weights:
            parameter.data = weights[name]


def _weights(context: RunContext, model: Any) -> dict[str, torch.Tensor]:
    return weights_of(model, everything=context.student_is_made)


def _told(setup: DistillationSetup) -> dict[str, Any]:
    """What a student learns from, but for the models; caches by their folders."""
    plain = {each.name: getattr(setup, each.name) for each in fields(setup) if each.name not in ("spec", "teachers", "reporter")}
    return {**plain, "caches": [str(each.cache.folder.absolute()) if each.cache else None for each in setup.teachers]}


def _setup(context: RunContext, student: Any, told: dict[str, Any]) -> DistillationSetup:
    caches = [TeacherCache.open(folder) if folder else None for folder in told.pop("caches")]
    models: list[Any] = [None] * len(caches)
    if not all(caches):
        alone = context.teaches_itself and not context.copies_itself
        models = [self_teacher(context, student)] if alone else list(each_teacher(context, []))
    teachers = [Teacher(*each) for each in zip(models, caches, context.teacher_tokenizers, strict=True)]
    return DistillationSetup(context.recipe.distillation, teachers, **told)


def _student(context: RunContext, places: Workplace) -> Any:
    """A student that was made from its teacher, from its configuration alone: its weights are set afterwards."""
    from transformers import AutoConfig

    home = context.located.home
    config = AutoConfig.from_pretrained(places.student, trust_remote_code=home.remote_code)
    kind = auto_class(config, home)
    model: Any = kind.from_config(config, dtype=torch_dtype(context.machine), trust_remote_code=home.remote_code)
    use_fast_kernels(model)
    model = model.to(context.whole_on).eval()
    if config.get_text_config(decoder=True) is not config:
        try_text_alone(model)
    return model


def _start(folder: RunFolder, name: str | None) -> Checkpoint | None:
    """The checkpoint of that name."""
    return next((each for each in Checkpoints(folder.checkpoints).all() if each.folder.name == name), None) if name else None
