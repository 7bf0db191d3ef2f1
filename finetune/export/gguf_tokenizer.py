"""A tokenizer in the keys of a GGUF header: tokens, merges, special tokens, where texts begin and answers end.

    header = tokenizer_header(asked, "finetuned_model", vocabulary=49152, model="my_model")
    header.facts["tokenizer.ggml.pre"]         # "smollm"

llama.cpp has two tokenizers that matter here: byte-level BPE (GPT-2, Llama 3, Qwen) and SentencePiece (Llama 2, Mistral, Gemma), which it
steers by a score for each token instead of a list of merges.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from finetune.errors import ModelError
from finetune.export.pretokenizers import WAYS, pre_of
from finetune.export.prompt_format import PromptFormat
from finetune.models.gguf_architectures import NEXT
from finetune.models.templates.chat_template import answer_end_ids

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
NEVER_MERGED = -1e9  # the score of a token that no merge makes
# llama.cpp looks for these names in what a file calls itself: under "phi-3", all marks but three swallow the blanks after them.
TAKEN = re.compile(r"(phi)-?(3)|(modern)-(bert)", re.IGNORECASE)
# And for these in the vocabulary: whatever they are to the model, an answer ends with them.
ENDS = {"</s>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|endoftext|>", "<|end_of_text|>", "<|end|>", "<|im_end|>", "<|eot_id|>"}
ENDS |= {"<|eom_id|>", "<end_of_turn>", "<end_of_utterance>", "<turn|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>"}
PHI_3, NOT_STRIPPED = "Phi-3", {"<unk>", "<s>", "<|endoftext|>"}


@dataclass(frozen=True)
class TokenizerHeader:
    """`facts` are keys of the file's header: texts, numbers, truths, and lists of one of them; `note` is what llama.cpp reads otherwise."""

    facts: dict[str, Any]
    note: str | None


def tokenizer_header(asked: PromptFormat, name: str, *, vocabulary: int, model: str) -> TokenizerHeader:
    """`name` is what the file is to be called, `vocabulary` how many tokens the model has.

    Raises ModelError for a tokenizer that llama.cpp has not, or one token too many.
    """
    tokenizer = asked.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"The tokenizer of {model} has no tokenizer.json, from which it is exported.", hint=NEXT)
    described = json.loads(backend.to_str())
    made = described["model"]
    if made["type"] != "BPE":
        raise ModelError(f"The tokenizer of {model} is {made['type']}, which cannot be exported to GGUF.", hint=NEXT)
    tokens, types = _tokens(described, vocabulary, model)
    facts = {"general.name": _called(name, described), "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    facts |= _sentence_piece(described, tokens, types, opens=asked.opens) if made["byte_fallback"] else _byte_level(described, model)
    ends = sorted(token for token, type in zip(tokens, types, strict=True) if token in ENDS and type == NORMAL)
    note = f"llama.cpp ends an answer at {', '.join(ends)}, which is ordinary text to the model." if ends else None
    return TokenizerHeader(facts | _ends(asked) | _template(tokenizer), note)


def _called(name: str, described: dict[str, Any]) -> str:
    """What the file calls itself, so that llama.cpp cuts texts at marks as the tokenizer does."""
    strips = {each["content"]: bool(each["rstrip"]) for each in described["added_tokens"]}
    phi_3 = {"</s>", *NOT_STRIPPED} <= strips.keys() and all(strips[mark] is (mark not in NOT_STRIPPED) for mark in strips)
    free = TAKEN.sub(lambda found: " ".join(filter(None, found.groups())), name)
    return f"{free} ({PHI_3})" if phi_3 else free


def _tokens(described: dict[str, Any], vocabulary: int, model: str) -> tuple[list[str], list[int]]:
    """Every id of the model has an entry, also where the embeddings were rounded up."""
    known = dict(described["model"]["vocab"])
    added = {each["content"]: each for each in described["added_tokens"]}
    ids = {**known, **{content: each["id"] for content, each in added.items()}}
    if max(ids.values()) >= vocabulary:
        raise ModelError(
            f"The tokenizer of {model} has more tokens than the model, {max(ids.values()) + 1:,} and {vocabulary:,}.", hint=NEXT
        )
    tokens, types = [f"[PAD{number}]" for number in range(vocabulary)], [UNUSED] * vocabulary
    for content, number in ids.items():
        tokens[number] = content
        special = added[content]["special"] if content in added else None
        types[number] = NORMAL if special is None else CONTROL if special else USER_DEFINED
    unknown = described["model"].get("unk_token")
    if unknown in added:  # llama.cpp reads such a token in texts too
        types[ids[unknown]] = UNKNOWN
    return tokens, types


def _byte_level(described: dict[str, Any], model: str) -> dict[str, Any]:
    way, normalizer = pre_of(described), described.get("normalizer")
    if normalizer is not None and normalizer["type"] != "NFC":
        raise ModelError(f"The tokenizer of {model} changes texts first ({normalizer['type']}), which llama.cpp does not do.", hint=NEXT)
    if way is None:
        raise ModelError(
            f"The tokenizer of {model} cuts texts in a way that is not known to be one of llama.cpp's (tokenizer.ggml.pre); "
            f"these are known: {', '.join(WAYS)}.",
            hint=NEXT,
        )
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": way,
        "tokenizer.ggml.merges": [" ".join(_pair(each)) for each in _merges(described)],
    }


def _sentence_piece(described: dict[str, Any], tokens: list[str], types: list[int], *, opens: bool) -> dict[str, Any]:
    """A token's score is the place of its first merge: the earlier, the higher."""
    scores = dict.fromkeys(tokens, NEVER_MERGED)
    for place, each in enumerate(_merges(described)):
        made = "".join(_pair(each))
        if scores.get(made) == NEVER_MERGED:
            scores[made] = -float(place + 1)
    for number, token in enumerate(tokens):
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            types[number] = BYTE
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": [scores[token] for token in tokens],
        "tokenizer.ggml.add_space_prefix": opens,
    }


def _merges(described: dict[str, Any]) -> list[Any]:
    return list(described["model"]["merges"])


def _pair(merge: Any) -> list[str]:
    """Two tokens; older files write them as one text."""
    return merge.split(" ") if isinstance(merge, str) else list(merge)


def _ends(asked: PromptFormat) -> dict[str, Any]:
    """What begins a text, what ends an answer (a second end is the end of a turn), and what is added to a text without being asked."""
    tokenizer = asked.tokenizer
    others = [each for each in answer_end_ids(tokenizer) if each != tokenizer.eos_token_id]
    named = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "eot": others[0] if others else None,
        "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
    }
    return {
        **{f"tokenizer.ggml.{name}_token_id": number for name, number in named.items() if number is not None},
        "tokenizer.ggml.add_bos_token": bool(asked.lead),
        "tokenizer.ggml.add_eos_token": False,
    }


def _template(tokenizer: Any) -> dict[str, Any]:
    return {"tokenizer.chat_template": tokenizer.get_chat_template()} if tokenizer.chat_template else {}
