"""Whether a teacher and a student share the same tokens, and how many ids they share."""

from __future__ import annotations

from typing import Any

from finetune.errors import VocabularyMismatch

PROBE = "Ümläut, 数字 and {code: [1, 23, 456]}\n\tdef f(x): return x ** 2  # don't\n"
PAIRS = (
    "Pairs that share one: gpt2-medium -> gpt2, Qwen2.5-1.5B -> Qwen2.5-0.5B, Llama-3.2-3B -> Llama-3.2-1B, SmolLM2-360M -> SmolLM2-135M."
)
WAY_OUT = (
    "Choose a student from the teacher's model family, make one from the teacher (--set model.from_teacher.size=0.75), or compare "
    f"the two where they have read the same text (--set distillation.across_tokenizers=projected). {PAIRS}"
)


def shared_vocabulary(student: int, teacher: int, student_tokenizer: Any = None, teacher_tokenizer: Any = None) -> int:
    """How many leading token ids mean the same to both models, given the sizes of their heads.

    Heads of one tokenizer may be padded to different sizes; the surplus is cut. Raises VocabularyMismatch if the tokenizers differ, or
    if the sizes differ and no tokenizers are given to explain it.
    """
    if student_tokenizer is None or teacher_tokenizer is None:
        if student != teacher:
            raise VocabularyMismatch(
                f"The student's head has {student} tokens and the teacher's {teacher}; without tokenizers nothing shows that they agree.",
                hint="Pass both tokenizers (processing_class= and teacher_tokenizer=). " + WAY_OUT,
            )
        return student
    if what := difference(student_tokenizer, teacher_tokenizer):
        raise VocabularyMismatch(f"Teacher and student do not share a tokenizer: {what}.", hint=WAY_OUT)
    ours, theirs = student_tokenizer.get_vocab(), teacher_tokenizer.get_vocab()
    # What only the teacher's tokenizer knows stands in the student's head as padding, if at all.
    return min(student, teacher) if len(ours) == len(theirs) else min(student, teacher, max(ours.values()) + 1)


def difference(student_tokenizer: Any, teacher_tokenizer: Any) -> str | None:
    """How the tokens of two tokenizers differ, or None where those of the student are the teacher's."""
    ours, theirs = student_tokenizer.get_vocab(), teacher_tokenizer.get_vocab()
    strange = [token for token, index in ours.items() if theirs.get(token) != index]
    if strange:
        return f"{len(strange):,} of {len(ours):,} tokens differ (such as {strange[0]!r})"
    same_splits = student_tokenizer(PROBE)["input_ids"] == teacher_tokenizer(PROBE)["input_ids"]
    return None if same_splits else "they split text differently"
