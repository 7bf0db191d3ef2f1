"""Write a teacher cache with several processes: the order as JSON and files, and what a process does with its share of the rows.

    give(asked, places)                  # the parent: which teacher, where its answers go, the student's head
    run(places, 1, 4, reporter)          # each worker: the second of four

They do not wait for each other: each writes shards of its own into the folder of the cache.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from finetune import registry
from finetune.distillation.caches import builder as cache_builder
from finetune.distillation.caches.on_disk import load_head, save_head
from finetune.distillation.caches.setup import CacheSetup, reading_for, rows_asked
from finetune.distillation.teachers.routes import rows_of, teacher_rows
from finetune.engines.order import context_of, context_told
from finetune.engines.workplace import Workplace
from finetune.events import Reporter
from finetune.run.loading import attach_method, load_base, load_teacher, quantised, self_teacher
from finetune.run.train_model import Asked
from finetune.run_context import RunContext
from finetune.system.storage import write_whole
from finetune.training.head import Head


def give(asked: Asked, places: Workplace) -> None:
    """Write down what a worker needs; asked.json last."""
    places.folder.mkdir(parents=True)
    needs_head = not registry.load("signals", asked.kind).keeps_head
    if needs_head:
        save_head(asked.head.detach(), places.folder)
    told = {
        **context_told(asked.context),
        "number": asked.number,
        "kind": asked.kind,
        "shard_bytes": cache_builder.SHARD_BYTES,
        "cache": str(asked.cache.absolute()),
        "head": None if needs_head else [*asked.head.weight.shape],
    }
    write_whole(places.asked, json.dumps(told, indent=1))


def run(places: Workplace, rank: int, size: int, reporter: Reporter) -> None:
    """Write the shards of process `rank` of `size`; raises what loading raises, and TrainingError for another teacher."""
    told = json.loads(places.asked.read_text(encoding="utf-8"))
    context, number = context_of(told), told["number"]
    torch.set_num_threads(told["threads"])
    device = context.machine.device
    # What does not depend on the weights of the student's head depends on its shape.
    head = Head(torch.empty(told["head"], device="meta")) if told["head"] else load_head(places.folder).each(lambda part: part.to(device))
    teacher = load_teacher(context, number) or _before(context)
    everything = rows_asked(context.recipe, context.data)
    rows = rows_of(number, everything, teacher_rows(context.recipe, everything))
    spec, ours, theirs = context.recipe.distillation, context.tokenizer, context.teacher_tokenizers[number]
    name, reading = context.teachers_located[number].identity, reading_for(spec, head, teacher, ours, theirs)
    asking = CacheSetup(spec, head, teacher, rows, name, (ours, theirs), reading, context.runtime, reporter)
    asking.share(told["kind"], Path(told["cache"]), (rank, size), told["shard_bytes"])


def _before(context: RunContext) -> Any:
    """The model of the run as its own teacher: as it is before the first step."""
    model = load_base(context, role="student")
    quantised(context, model)
    return self_teacher(context, attach_method(context, model))
