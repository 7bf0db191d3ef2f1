"""Check the tokenizer of a GGUF file without llama.cpp: it is built from the file alone and compared with ours.

check_words(path, probes)           # raises FinetuneError if a text becomes other tokens than the model's own
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from finetune.export.gguf_gate import check_tokens
from finetune.export.gguf_tokenizer import CONTROL, NEVER_MERGED, NOT_STRIPPED, PHI_3, UNKNOWN, USER_DEFINED
from finetune.export.pretokenizers import WAYS
from finetune.export.probes import Probes

SPACE = "▁"


def check_words(path: Path, probes: Probes) -> None:
    """Part two of the gate without llama.cpp."""
    import gguf

    fields = gguf.GGUFReader(path).fields
    stated = {key: field.contents() for key, field in fields.items() if key.startswith(("tokenizer.ggml.", "general.name"))}
    tokenizer = _tokenizer(stated)
    begin = [stated["tokenizer.ggml.bos_token_id"]] if stated["tokenizer.ggml.add_bos_token"] else []
    check_tokens(probes.texts, [[*begin, *tokenizer.encode(text).ids] for text in probes.texts], probes.ids)


def _tokenizer(stated: dict[str, Any]) -> Tokenizer:
    tokens, types = stated["tokenizer.ggml.tokens"], stated["tokenizer.ggml.token_type"]
    made = _sentence_piece(stated) if stated["tokenizer.ggml.model"] == "llama" else _byte_level(stated)
    marks = [(token, type) for token, type in zip(tokens, types, strict=True) if type in (CONTROL, USER_DEFINED, UNKNOWN)]
    strips = PHI_3 in stated["general.name"]
    made.add_tokens(
        [
            AddedToken(token, special=type != USER_DEFINED, normalized=False, rstrip=strips and token not in NOT_STRIPPED)
            for token, type in marks
        ]
    )
    return made


def _byte_level(stated: dict[str, Any]) -> Tokenizer:
    steps, whole = WAYS[stated["tokenizer.ggml.pre"]]
    merges = [tuple(each.split(" ")) for each in stated["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE(_numbered(stated), merges, ignore_merges=whole))
    made.pre_tokenizer = pre_tokenizers.Sequence([_step(each) for each in steps])
    return made


def _step(name: str) -> Any:
    if name == "digits":
        return pre_tokenizers.Digits(individual_digits=True)
    if name.startswith("bytes"):
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name == "bytes by words")
    return pre_tokenizers.Split(Regex(name), "isolated")


def _sentence_piece(stated: dict[str, Any]) -> Tokenizer:
    """Whatever two tokens become a third may merge, and the third with the highest score comes first."""
    known, found = _numbered(stated), []
    for token, score in zip(stated["tokenizer.ggml.tokens"], stated["tokenizer.ggml.scores"], strict=True):
        parts = ((token[:at], token[at:]) for at in range(1, len(token))) if score > NEVER_MERGED else ()
        found += [(-score, pair) for pair in parts if pair[0] in known and pair[1] in known]
    types = stated["tokenizer.ggml.token_type"]
    unknown = next((token for token, type in zip(stated["tokenizer.ggml.tokens"], types, strict=True) if type == UNKNOWN), None)
    made = Tokenizer(models.BPE(known, [pair for _, pair in sorted(found)], byte_fallback=True, unk_token=unknown))
    opened = [normalizers.Prepend(SPACE)] if stated["tokenizer.ggml.add_space_prefix"] else []
    made.normalizer = normalizers.Sequence([*opened, normalizers.Replace(" ", SPACE)])
    return made


def _numbered(stated: dict[str, Any]) -> dict[str, int]:
    return {token: number for number, token in enumerate(stated["tokenizer.ggml.tokens"])}
