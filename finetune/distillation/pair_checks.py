"""The checks before the first step of a distillation: each is one sentence with a number; problems come with a fix.

findings = examine(student, teacher, rows, held_out, tokenizer=tokenizer, teacher_tokenizer=teacher_tokenizer)
stop_on_problem(findings)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Any, Literal

import torch
from torch import nn

from finetune.data.tokens.labels import NO_LOSS, labels_of, learned
from finetune.data.tokens.system_prompt import as_teacher_sees
from finetune.distillation.across_tokenizers.alignment import Share
from finetune.distillation.across_tokenizers.projected import Reading
from finetune.distillation.loss import Distillation
from finetune.distillation.objectives.forward_kl import ForwardKL
from finetune.distillation.vocabulary import shared_vocabulary
from finetune.errors import TrainingError
from finetune.formatting import percent
from finetune.training.batches import Supervised
from finetune.training.head import causal_lm, context_length, head_of, hidden_states, token_ids
from finetune.training.loop import parameters_of, trainable
from finetune.training.loss.chunked import ChunkLogits, CrossEntropy, chunked_loss
from finetune.training.loss.workspace import Workspace

ALIGNS_WELL = 0.8  # share of the supervised tokens
FINITE_ROWS, LEVEL_ROWS, AGREEMENT_ROWS = 2, 4, 8  # how many are read: broken weights show at once, a better teacher soon
LOGIT_ROWS = 64  # whose logits are in memory at once
PROMPTED_ROWS, HARDLY_MOVED = 4, 0.02  # KL per token: a prompt that is followed moves a model by ten times as much and more
AGREED = 0.5  # of two teachers' most likely tokens; models that learned from like texts share more


@dataclass(frozen=True)
class Finding:
    """`level` "ok" and "warning" are for reading; a "problem" must stop the run. `hint` says what to do."""

    level: Literal["ok", "warning", "problem"]
    text: str
    hint: str | None = None


def stop_on_problem(findings: Sequence[Finding]) -> None:
    """Raise TrainingError with the first problem, if there is one."""
    for finding in findings:
        if finding.level == "problem":
            raise TrainingError(finding.text, hint=finding.hint)


def examine(
    student: nn.Module,
    teacher: nn.Module | None,
    rows: Any,
    held_out: Any = None,
    *,
    tokenizer: Any = None,
    teacher_tokenizer: Any = None,
    reading: Reading | None = None,
) -> list[Finding]:
    """Run both models on a few rows; without a teacher (there is a gradient cache) only the student is checked.

    Raises VocabularyMismatch if the two do not share a tokenizer, and there is no `reading` across the two.
    """
    findings = [*_about_rows(rows, tokenizer), *_about_student(student, rows)]
    if teacher is None:
        return findings
    findings += about_alignment(reading.measure(rows)) if reading else _about_tokens(student, teacher, tokenizer, teacher_tokenizer)
    findings += _about_teacher(teacher, _read(reading, rows) if reading else rows)
    if not any(finding.level == "problem" for finding in findings):
        compared = rows if held_out is None else held_out
        findings += _about_level(student, teacher, _whole(compared) if reading else compared, reading)
    return findings


def about_alignment(share: Share) -> Iterator[Finding]:
    """How much of the text the teacher can say something about."""
    text = f"The teacher has another tokenizer: {share}."
    if share.value >= ALIGNS_WELL:
        yield Finding("ok", text)
    else:
        yield Finding("warning", text, "The others learn from the data alone; a teacher with a more similar tokenizer teaches more.")


def _whole(rows: Any) -> list[dict[str, Any]]:
    """The first rows, with a label for every token: losses of two tokenizers are compared on a whole text."""
    return [{"input_ids": list(row["input_ids"]), "labels": list(row["input_ids"])} for row in islice(iter(rows), LEVEL_ROWS)]


def _read(reading: Reading, rows: Any) -> list[dict[str, Any]]:
    """The same in the teacher's tokens."""
    read = (reading.alignment.row(row["input_ids"]).ids for row in _whole(rows))
    return [{"input_ids": ids, "labels": ids} for ids in read]


def _about_rows(rows: Any, tokenizer: Any) -> Iterator[Finding]:
    supervised = [learned(row) for row in rows]
    tokens, total = sum(map(len, supervised)), sum(len(row["input_ids"]) for row in rows)
    if not tokens:
        yield Finding(
            "problem", f"None of the {total:,} tokens is supervised.", "Use --set distillation.supervise=all, or rows with answers."
        )
        return
    yield Finding("ok", f"{tokens:,} of {total:,} tokens are supervised ({percent(tokens / total)}).")
    ends = _end_ids(tokenizer)
    if ends and not any(labels[-1] in ends for labels in supervised if labels):
        yield Finding(
            "warning",
            f"The end-of-answer token is supervised in 0 of {len(supervised):,} rows: the student will not learn to end its answers.",
            "Raise dataset.max_length so that answers are not cut away.",
        )


def _end_ids(tokenizer: Any) -> set[int]:
    """Tokens that can end an answer: the end of text, and the template's end mark, which is another special token for many chat models."""
    special = {number for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items() if token.special}
    return special | ({tokenizer.eos_token_id} if getattr(tokenizer, "eos_token_id", None) is not None else set())


def _about_student(student: nn.Module, rows: Any) -> Iterator[Finding]:
    learning, total = trainable(student), parameters_of(student)
    if not learning:
        yield Finding("problem", f"None of the student's {total:,} parameters is trainable.", "Choose method: full or lora.")
    else:
        yield Finding("ok", f"{learning:,} of the student's {total:,} parameters are trainable.")
    yield from _finite("student", student, rows)


def _about_tokens(student: nn.Module, teacher: nn.Module, ours: Any, theirs: Any) -> Iterator[Finding]:
    sizes = head_of(student).vocabulary, head_of(teacher).vocabulary
    shared = shared_vocabulary(*sizes, ours, theirs)
    yield Finding(
        "ok", f"Teacher and student share {shared:,} tokens." + (f" Heads: {sizes[1]:,} and {sizes[0]:,}." if sizes[0] != sizes[1] else "")
    )
    if ours is None or theirs is None:
        return
    if ours.eos_token_id != theirs.eos_token_id:
        yield Finding(
            "warning",
            f"The end tokens differ: the teacher ends with {theirs.eos_token!r}, the student with {ours.eos_token!r}.",
            "Check that answers end as they should.",
        )
    if getattr(ours, "chat_template", None) != getattr(theirs, "chat_template", None):
        yield Finding(
            "warning",
            "The chat templates differ; the student's template is used for all rows.",
            "Use a student with the same chat template, or plain text rows.",
        )


def _about_teacher(teacher: nn.Module, rows: Any) -> Iterator[Finding]:
    longest, context = max(len(row["input_ids"]) for row in rows), context_length(causal_lm(teacher))
    if longest > context:
        yield Finding(
            "problem",
            f"The longest row has {longest:,} tokens and the teacher's context is {context:,}.",
            f"--set dataset.max_length={context}",
        )
    yield from _finite("teacher", teacher, rows)


def _about_level(student: nn.Module, teacher: nn.Module, rows: Any, reading: Reading | None = None) -> Iterator[Finding]:
    looked_at, sizes = list(islice(iter(rows), LEVEL_ROWS)), [head_of(model).vocabulary for model in (student, teacher)]
    sizes = sizes if reading else [min(sizes)] * 2
    ours, tokens = _loss(student, looked_at, sizes[0])
    theirs, _ = _loss(teacher, _read(reading, looked_at) if reading else looked_at, sizes[1])
    if not tokens:
        return
    losses = f"loss {theirs / tokens:.2f} against the student's {ours / tokens:.2f} on {tokens:,} tokens"
    if theirs < ours:
        yield Finding("ok", f"The teacher is better than the student: {losses}.")
    else:
        yield Finding(
            "warning",
            f"The teacher is no better than the student: {losses}.",
            "Fine-tune the teacher on this data first, or choose another.",
        )


@torch.no_grad()
def top_tokens(model: nn.Module, rows: Any) -> torch.Tensor:
    """The most likely token [n] at each supervised position of a few rows."""
    head, found = head_of(model).detach(), []
    for states, _ in _supervised(model, islice(iter(rows), AGREEMENT_ROWS)):
        found += [head.logits(part).argmax(-1).cpu() for part in states.split(LOGIT_ROWS)]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.long)


def contradictions(names: Sequence[str], first_choices: Sequence[torch.Tensor]) -> list[Finding]:
    """Pairs of mixed teachers that want different tokens on the same rows, by what `top_tokens` found of each."""
    findings = []
    for (one, ours), (other, theirs) in combinations(zip(names, first_choices, strict=False), 2):
        if not len(ours):
            continue
        alike = float((ours == theirs).float().mean())
        text = f"{one} and {other} have the same most likely token for {percent(alike)} of {len(ours):,} tokens"
        if alike >= AGREED:
            findings.append(Finding("ok", f"{text}."))
        else:
            hint = "Give each teacher its own rows (teachers: rows), or leave one out."
            findings.append(Finding("warning", f"{text}: they contradict each other, so a student of their mixture follows neither.", hint))
    return findings


@torch.no_grad()
def about_prompt(teacher: nn.Module, rows: Any) -> Finding:
    """From the answers of a few rows: KL(after the prompt || without it), the mean over their tokens."""
    head, total, tokens = head_of(teacher).detach(), 0.0, 0
    for row in islice(iter(rows), PROMPTED_ROWS):
        told, bare = _answer_states(teacher, as_teacher_sees(row)), _answer_states(teacher, row)
        labels = torch.zeros(len(bare), dtype=torch.long, device=bare.device)
        total += float(chunked_loss(bare, head, Distillation(labels, ChunkLogits("teacher", told, head, 1.0), ForwardKL(), 0.0, 1.0)))
        tokens += len(bare)
    moved = total / max(1, tokens)
    if moved >= HARDLY_MOVED:
        return Finding("ok", f"The system prompt moves the teacher by a KL of {moved:.2f} per token.")
    return Finding(
        "warning",
        f"The system prompt hardly changes what the teacher says (a KL of {moved:.3f} per token): there is little to learn from it.",
        "Say it more plainly, or choose a teacher that follows it.",
    )


def _answer_states(model: nn.Module, row: Any) -> torch.Tensor:
    states = hidden_states(model, token_ids(model, list(row["input_ids"])))[0, :-1]
    return states[torch.tensor(row["labels"][1:], device=states.device) != NO_LOSS]


@torch.no_grad()
def _loss(model: nn.Module, rows: Sequence[Any], vocabulary: int) -> tuple[float, int]:
    """The summed loss in nats of the supervised tokens over the first `vocabulary` ids, and how many tokens there are."""
    head, workspace, total, tokens = head_of(model).detach().first(vocabulary), Workspace(), 0.0, 0
    for states, labels in _supervised(model, rows):
        total += float(chunked_loss(states, head, CrossEntropy(labels), workspace=workspace))
        tokens += len(labels)
    return total, tokens


def _supervised(model: nn.Module, rows: Iterable[Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Of each row the states [n, d] that predict its supervised tokens, and these [n]."""
    for row in rows:
        states = hidden_states(model, token_ids(model, list(row["input_ids"])))[0]
        supervised = Supervised.of(torch.tensor([list(labels_of(row))], device=states.device))
        yield states[supervised.index], supervised.labels


@torch.no_grad()
def _finite(role: str, model: nn.Module, rows: Any) -> Iterator[Finding]:
    """Whether the logits are finite in the dtype the model runs in."""
    head, seen = head_of(model), 0
    dtype = str(head.weight.dtype).removeprefix("torch.")
    context = context_length(causal_lm(model))
    for row in islice(iter(rows), FINITE_ROWS):
        ids = list(row["input_ids"])[:context]
        seen += len(ids)
        if not head.logits(hidden_states(model, token_ids(model, ids))[:, -16:]).isfinite().all():
            yield Finding(
                "problem",
                f"The {role}'s logits are not finite in {dtype} within the first {seen:,} tokens.",
                "Use bfloat16 or float32: its weights or activations overflow float16." if dtype == "float16" else "Check its weights.",
            )
            return
    yield Finding("ok", f"The {role}'s logits are finite in {dtype} on {seen:,} tokens.")
