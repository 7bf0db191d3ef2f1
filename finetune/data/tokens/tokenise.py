"""Text to token ids: piece by piece where that gives the same tokens, else the whole text, cut by character offsets.

tokeniser = Tokeniser(tokenizer)
tokeniser.rows([[Piece("Hi\n", False), Piece("Hello!", True)]])     # [[[5, 6], [7, 8]]]: the ids of each piece
lead_ids(tokenizer)                                              # [1]: what the tokenizer puts before every text
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finetune.data.tokens.control_tokens import divided, unused, with_cuts
from finetune.data.tokens.pieces import Piece
from finetune.errors import ModelError
from finetune.foreign import reading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Tokeniser:
    """`unbroken` counts control tokens in pieces that this tokenizer does not read as text even though they are broken."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.unbroken = 0
        self.control = set(getattr(tokenizer, "added_tokens_decoder", {}))
        self.backend: Any = getattr(tokenizer, "backend_tokenizer", None) if tokenizer.is_fast else None
        if self.backend is not None:
            # An earlier call may have left its settings behind. Undone here, once: a change while another thread reads the tokenizer is an
            # error.
            self.backend.no_truncation()
            self.backend.no_padding()
        apart = self._texts(["Question:\n", "Answer", "Question:\nAnswer"])
        self.separable = apart[0] + apart[1] == apart[2] or not tokenizer.is_fast

    def rows(self, rows: Sequence[Sequence[Piece]]) -> list[list[list[int]]]:
        """The ids of every piece of every row."""
        if not self.separable:
            return self._together(rows)
        texts = list(dict.fromkeys(piece.text for row in rows for piece in row if not piece.cuts))  # prompts often repeat
        known = dict(zip(texts, self._texts(texts), strict=True))
        return [[self._broken(piece) if piece.cuts else known[piece.text] for piece in row] for row in rows]

    def _texts(self, texts: list[str]) -> list[list[int]]:
        if self.backend is not None:
            return [encoding.ids for encoding in self._encoded(self.backend.encode_batch_fast, texts)]
        found: list[list[int]] = self._encoded(self.tokenizer, texts, verbose=False)["input_ids"] if texts else []
        return found

    def _encoded(self, encode: Any, texts: list[str], **options: Any) -> Any:
        """Raises ModelError where a tokenizer gives up on a text, for example because its patterns take too long on it."""
        with reading(str(self.tokenizer.name_or_path or "The tokenizer"), ModelError, what="cannot tokenise the rows"):
            return encode(texts, add_special_tokens=False, **options)

    def _broken(self, piece: Piece) -> list[int]:
        """The ids of a piece with control tokens that are text."""
        if self.backend is None:  # it does not say which token came from where: what is not one text cannot become one token
            parts = divided(piece.text, piece.cuts)
            return [token for ids in self._texts([part for part in parts if part]) for token in ids]
        ((ids,),) = self._together([[piece]])
        return ids

    def _together(self, rows: Sequence[Sequence[Piece]]) -> list[list[list[int]]]:
        """The whole text of each row at once, also for tokenizers that mark the start of every text (SentencePiece)."""
        cuts = [unused([piece.text for piece in row])[0] if any(piece.cuts for piece in row) else "" for row in rows]
        texts = [[with_cuts(piece.text, piece.cuts, cut) for piece in row] for row, cut in zip(rows, cuts, strict=True)]
        encodings = self._encoded(self.backend.encode_batch, list(map("".join, texts)))
        return [self._divided(encoding, parts, cut) for encoding, parts, cut in zip(encodings, texts, cuts, strict=True)]

    def _divided(self, encoding: Any, parts: list[str], cut: str) -> list[list[int]]:
        """Tokens to parts by where they start; a token across a border counts to the part before it, and one that is only a cut to none."""
        ids, offsets = encoding.ids, encoding.offsets
        dropped = self._dropped(encoding, "".join(parts), cut) if cut else set()
        found: list[list[int]] = []
        position = end = 0
        for part in parts:
            end += len(part)
            first = position
            while position < len(ids) and offsets[position][0] < end:
                position += 1
            found.append([ids[at] for at in range(first, position) if at not in dropped] if dropped else ids[first:position])
        if position < len(ids):  # zero-width tokens at the end
            found[-1] = found[-1] + ids[position:]
        return found

    def _dropped(self, encoding: Any, text: str, cut: str) -> set[int]:
        """The tokens that are nothing but a cut; counts those that continue over one, as a token of the whole text would."""
        dropped = set()
        for at, (start, end) in enumerate(encoding.offsets):
            if start < end and text[start:end].strip(cut) == "":
                dropped.add(at)
            elif cut in text[start:end]:
                self.unbroken += encoding.ids[at] in self.control
        return dropped


def lead_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens this tokenizer puts before every text, such as a beginning-of-text token."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    return next((full[:start] for start in range(len(full)) if full[start : start + len(bare)] == bare), [])
