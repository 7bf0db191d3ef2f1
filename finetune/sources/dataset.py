"""Rows that somebody has written: files, a dataset of the Hub, or one that is built in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune.sources.base import Source

if TYPE_CHECKING:
    from finetune.data.prepare import PreparedData
    from finetune.data.rows import Origin
    from finetune.run_context import RunContext


class Dataset(Source):
    def data(self, context: RunContext) -> PreparedData:
        return prepared(context)


def prepared(context: RunContext, origin: Origin | None = None) -> PreparedData:
    """The rows of `dataset.source`, or those of an `origin` that is opened already: split and tokenised for a run."""
    from finetune.data.prepare import prepare_data

    return prepare_data(
        context.recipe.dataset,
        context.tokenizer,
        seed=context.recipe.seed,
        supervise=context.recipe.distillation.supervise if context.distils else "answers",
        runtime=context.runtime,
        reporter=context.reporter,
        origin=origin,
        routed_by=context.recipe.routed_by,
        deciding=context.decides_between,
        system=context.recipe.teacher.system if context.distils and context.recipe.teacher else None,
    )
