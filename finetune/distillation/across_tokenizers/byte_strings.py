"""The bytes that each token of a tokenizer stands for: two tokenizers have nothing else in common.

    ours = byte_strings(tokenizer)
    ours.strings[262], ours.special         # b" the", {"<|im_end|>": 2}

Exact for byte-level BPE (GPT-2, Llama 3, Qwen) and for SentencePiece that spells what it does not know in bytes (Llama 2, Gemma).
Tokenizers that lose something of the text (WordPiece: white space; SentencePiece without bytes: unknown characters) have no byte strings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from finetune.distillation.vocabulary import PROBE
from finetune.errors import VocabularyMismatch

SPELLED = re.compile(r"<0x([0-9A-Fa-f]{2})>")
MARK = "▁"  # SentencePiece's space
HINT = "Byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM) and SentencePiece with byte fallback (Llama 2, Gemma) have byte strings."


@dataclass(frozen=True)
class ByteStrings:
    """`strings` by token id: None for special tokens and for ids without a text. `special` are ids by content."""

    strings: list[bytes | None]
    special: dict[str, int]
    spelled: frozenset[int]  # tokens that are a byte beside the same character as an ordinary token

    def joined(self, ids: Iterable[int]) -> bytes | None:
        """The bytes of some tokens; None if one of them has none."""
        found = [self.strings[token] for token in ids]
        return None if any(part is None for part in found) else b"".join(part for part in found if part is not None)

    def by_bytes(self) -> dict[bytes, int]:
        """The token of each byte string: the ordinary one where two have the same."""
        order = sorted(range(len(self.strings)), key=lambda token: (token not in self.spelled, token))
        return {string: token for token in order if (string := self.strings[token])}


def byte_strings(tokenizer: Any, whose: str = "teacher") -> ByteStrings:
    """The byte strings of a tokenizer's tokens; raises VocabularyMismatch if it has none, or does not give a text back as it was."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    steps = [] if backend is None or backend.decoder is None else _steps(json.loads(backend.decoder.__getstate__()))
    kinds = {step["type"] for step in steps}
    added = {number: (token.content, token.special) for number, token in tokenizer.added_tokens_decoder.items()} if backend else {}
    if "ByteLevel" in kinds:
        read, spells = _byte_level, False
    elif kinds & {"ByteFallback", "Metaspace"}:
        read, spells = _sentence_piece, "ByteFallback" in kinds
    else:
        what = (
            "its tokenizer has no fast version"
            if backend is None
            else f"its tokenizer decodes with {' and '.join(sorted(kinds)) or 'nothing'}"
        )
        raise VocabularyMismatch(f"The {whose}'s tokens are not byte strings: {what}.", hint=HINT)
    vocabulary = backend.get_vocab(with_added_tokens=True)
    strings: list[bytes | None] = [None] * (max(vocabulary.values()) + 1)
    spelled = set()
    for token, number in vocabulary.items():
        if spells and (match := SPELLED.fullmatch(token)):
            strings[number] = bytes.fromhex(match[1])
            spelled.add(number)
        elif number in added:
            content, special = added[number]
            strings[number] = None if special else content.encode()
        else:
            strings[number] = read(token)
    special_ids = {content: number for number, (content, special) in added.items() if special and number not in spelled}
    found = ByteStrings(strings, special_ids, frozenset(spelled))
    probe = found.joined(backend.encode(PROBE, add_special_tokens=False).ids)
    if probe not in (PROBE.encode(), b" " + PROBE.encode()):
        raise VocabularyMismatch(f"The {whose}'s tokens are not byte strings: its tokenizer does not return a text as it was.", hint=HINT)
    return found


def _steps(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    return [inner for step in decoder["decoders"] for inner in _steps(step)] if decoder["type"] == "Sequence" else [decoder]


def _byte_level(token: str) -> bytes | None:
    """GPT-2 writes each byte as a visible character."""
    return bytes(VISIBLE[letter] for letter in token) if all(letter in VISIBLE for letter in token) else None


def _sentence_piece(token: str) -> bytes:
    return token.replace(MARK, " ").encode()


def _visible() -> dict[str, int]:
    """The bytes by the characters that GPT-2 writes for them: printable ones stay, the others get the characters from 256 on."""
    stay = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in stay]
    return {**{chr(byte): byte for byte in stay}, **{chr(256 + place): byte for place, byte in enumerate(moved)}}


VISIBLE = _visible()
