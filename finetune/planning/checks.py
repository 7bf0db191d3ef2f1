"""Checks before the long work: rows too long, too few steps, an adapter that nobody could load.

check_data(context)                                  # raises RecipeError
adapter_problem(context, method, method.Spec())      # why this method cannot train the run's model, or None
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune.distillation.teachers.routes import teacher_rows
from finetune.errors import ModelError, RecipeError
from finetune.methods.earlier_adapter import EarlierAdapter, further, not_used, why_not
from finetune.models.facts import describe
from finetune.models.location import LocatedModel
from finetune.models.new_tokens import new_tokens_of
from finetune.models.quantised import stored_as, training_problem
from finetune.planning.practice import check_practice
from finetune.run_context import RunContext
from finetune.run_folder import beside
from finetune.system.shell import quoted
from finetune.training.step_count import rows_of_step, steps_of


def check_data(context: RunContext) -> None:
    """Raises RecipeError for rows or answers longer than a model can read, rows without the teacher or the prompts that they need, or too
    few optimizer steps.

    Prepares the data.
    """
    _check_lengths(context)
    check_practice(context)
    teacher_rows(context.recipe, context.data.train)
    teacher_rows(context.recipe, context.data.held_out, held_out=True)
    context.method.check_steps(context.recipe.method, steps_of(context.recipe.training, len(context.data.train)))


def _check_lengths(context: RunContext) -> None:
    models = [describe(located) for located in [context.located, *_of_the_same_tokens(context)]]
    known = [(model.context, model.name) for model in models if model.context]
    if not known:
        return
    limit, name = min(known)
    data = context.data
    told = [len(ids) for rows in (data.train, data.held_out) for ids in _told(rows)]
    deciding = data.deciding["length"][:] if data.deciding is not None else []
    longest = max([int(data.report.length["max"]), *data.held_out["length"][:], *deciding, *told])
    if longest > limit:
        raise RecipeError(
            f"The longest row has {longest:,} tokens, but the context of {name} is {limit:,}.",
            hint=f"Cut the rows: --set dataset.max_length={limit}, or choose a model with a longer context.",
        )
    answers = context.recipe.benchmark.max_new_tokens
    if answers != "auto" and answers >= limit:
        raise RecipeError(
            f"benchmark.max_new_tokens is {answers:,}, but the context of {name} is {limit:,} tokens, prompts included.",
            hint="Use the length of the answers in the data: --set benchmark.max_new_tokens=auto",
        )


def _told(rows: Any) -> Any:
    """What a teacher with a system prompt sees of rows; nothing where it has none."""
    from finetune.data.tokens.system_prompt import TEACHER_IDS, is_prompted

    return rows[TEACHER_IDS][:] if is_prompted(rows) else []


def _of_the_same_tokens(context: RunContext) -> list[LocatedModel]:
    """The teachers that read the student's tokens; for others see finetune/planning/across_tokenizers.py."""
    pairs = zip(context.teachers_located, context.alignments, strict=True) if context.has_other_teacher else ()
    return [located for located, alignment in pairs if alignment is None]


def check_tokens(context: RunContext, embeddings: int) -> list[str]:
    """Raises ModelError if rows use a token that has no embedding; sentences about such tokens that no row uses.

    `embeddings` is how many rows the embeddings of the model have; those of a teacher are as many as its configuration says.
    """
    sizes = {context.located.name: embeddings}
    for teacher in _of_the_same_tokens(context)[context.student_is_made :]:
        sizes[teacher.name] = describe(teacher).vocabulary or embeddings
    vocabulary, notes = context.tokenizer.get_vocab(), list[str]()
    for number in new_tokens_of(context.tokenizer):
        found = _rows_with(context.data.train, number)
        text = context.tokenizer.convert_ids_to_tokens(number)
        notes.append(f"The new token {text!r} is in {found:,} of the rows to train on{'' if found else ': it learns nothing'}.")
    for name, rows in sizes.items():
        beyond = {number: token for token, number in vocabulary.items() if number >= rows}
        if not beyond:
            continue
        compared = f"The tokenizer has {max(vocabulary.values()) + 1:,} tokens and the embeddings of {name} have {rows:,} rows"
        parts = [part for part in (context.data.held_out, context.data.deciding) if part is not None]
        used = max(_largest(context.data.train, "input_ids"), *(_largest(part, "input_ids", "prompt_ids") for part in parts))
        if used >= rows:
            raise ModelError(
                f"{compared}: the data uses {beyond.get(used, str(used))!r}, which has none.",
                hint="Give it one with model.resize_token_embeddings(len(tokenizer)) of transformers, save both, and name that folder.",
            )
        unusable = ", ".join(beyond[number] for number in sorted(beyond)[:3])
        notes.append(f"{compared}: {unusable} cannot be used, and no row uses it.")
    return notes


def _rows_with(rows: Any, token: int) -> int:
    """How many token rows have a token."""
    import pyarrow.compute as pc

    found = 0
    for batch in rows.with_format("arrow").select_columns("input_ids").iter(10_000):
        where = pc.filter(pc.list_parent_indices(batch["input_ids"]), pc.equal(pc.list_flatten(batch["input_ids"]), token))
        found += len(pc.unique(where))
    return found


def _largest(rows: Any, *columns: str) -> int:
    """The largest token id in columns of token rows, -1 if there is none."""
    import pyarrow.compute as pc

    table = rows.with_format("arrow")
    found = [-1]
    for column in set(columns) & set(rows.column_names):
        for batch in table.select_columns(column).iter(10_000):
            highest = pc.max(pc.list_flatten(batch[column])).as_py()
            found.append(-1 if highest is None else highest)
    return max(found)


def quantised_problem(context: RunContext, method: Any, spec: Any) -> RecipeError | None:
    """Why a method cannot train the files of the model because they are quantised, or None."""
    home = context.located.home
    stored = stored_as(home.folder)
    if stored is not None and context.student_is_made:
        return RecipeError(
            f"A student cannot be made from {home.name}: its weights are stored {stored.title}.",
            hint="Name the model that it was made from.",
        )
    return training_problem(home.name, stored, adapter=method.footprint(spec).adapter, load_in=method.load_in(spec))


def adapter_problem(context: RunContext, method: Any, spec: Any) -> RecipeError | None:
    """Why `method` cannot train the model of this run: its adapter would belong to weights that are in no file; None if it can.

    An earlier adapter is trained further by the method that made it, and by no other.
    """
    if not method.footprint(spec).adapter:
        return None
    if context.student_is_made:
        return RecipeError(
            f"{method.title} cannot train a student made from its teacher: the adapter alone does not contain the student's layers.",
            hint="--set method.kind=full, or name a ready-made student: --set model=MODEL",
        )
    earlier = EarlierAdapter.of(context.located)
    reason = why_not(earlier, method, spec) if earlier else None
    if earlier is None or reason is None:
        return None
    way = further(earlier)
    instead = f"Train it further: --set method.kind={way}. Or merge" if way and way != method.Spec().kind else "Merge"
    return RecipeError(
        f"{earlier.name} {reason}: {method.title} cannot train it further.",
        hint=f"{instead} it into its base first: {merge_first(context.located)}",
    )


def merge_first(located: LocatedModel) -> str:
    """How an adapter becomes a whole model that every method can train."""
    if located.source.path is None:
        to = Path(f"{located.name.rpartition('/')[2]}-merged")
        return f"finetune-cli merge {located.name}, then --set model=./{quoted(to)}"
    return f"finetune-cli merge {quoted(located.source.path)}, then --set model={quoted(beside(located.source.path, '-merged'))}"


def device_notes(context: RunContext) -> list[str]:
    """Why not all GPUs train, where nobody has asked for a number."""
    gpus, spec = context.machine.gpus, context.recipe.training
    if context.runtime.processes or context.processes == gpus:
        return []
    if context.alone:
        return [f"1 of {gpus} GPUs trains: {context.alone[0][0].lower()}{context.alone[0][1:]} in one process."]
    why = f"{context.processes} of {gpus} GPUs train: more cannot share the {rows_of_step(spec)} rows of a step equally."
    return [f"{why} All of them could with --set training.batch_size={gpus}, which changes the steps."]


def text_notes(context: RunContext) -> list[str]:
    """What plain text does not teach a model that people chat with."""
    if context.distils or context.data.report.format != "text" or not context.tokenizer.chat_template:
        return []
    return [
        "The rows are plain text: the model learns to continue such texts, and not to answer questions about them or to know their facts. "
        "For that, give it questions with answers."
    ]


def start_notes(context: RunContext) -> list[str]:
    """What happens to an adapter that the run starts from, a sentence each."""
    if context.student_is_made or context.located.base is None:
        return []
    if context.earlier is None:
        return [f"The adapter {context.located.name} is merged into its base first, and the result is a whole model."]
    return [note for note in (context.earlier.note, not_used(context.earlier, context.asked)) if note]
