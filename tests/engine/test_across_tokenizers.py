"""Two tokenizers read the same text: the bytes of their tokens, where they meet, and which student token begins a teacher's."""

from __future__ import annotations

from typing import Any

import pytest
from bytes_tokenizer import CORPUS, byte_level, sentence_piece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from finetune.distillation.across_tokenizers.alignment import NOWHERE, Alignment, Share
from finetune.distillation.across_tokenizers.byte_strings import byte_strings
from finetune.errors import VocabularyMismatch


def small_merges(vocabulary: int = 275, **names: str) -> Any:
    """Byte-level BPE with few merges: most of its tokens are shorter than those of `byte_level`."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=["<end>"], initial_alphabet=alphabet))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", **names)


TOKENIZERS = {"byte-level": byte_level(), "with a beginning": byte_level(bos=True), "pieces": sentence_piece(), "short": small_merges()}
PAIRS = [(ours, theirs) for ours in TOKENIZERS for theirs in TOKENIZERS]
ALIGNMENTS = {pair: Alignment(*(TOKENIZERS[name] for name in pair)) for pair in PAIRS}
PARTS = ["the answer", " question", "\n\n", "stays", "ü", "数字", " ", "</s>", "🙂"]
WORDS = st.one_of(st.text(), st.lists(st.sampled_from(PARTS)).map("".join))


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """A text of a row, in which the names of special tokens are text, as in rows that data are prepared to."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.encode_special_tokens = True
    return list(backend.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=WORDS)
def test_aligned_tokens_have_read_the_same_bytes_and_all_that_have_are_aligned(pair: tuple[str, str], text: str) -> None:
    alignment = ALIGNMENTS[pair]
    ours, theirs = alignment.ours.strings, alignment.theirs.strings
    ids = text_ids(TOKENIZERS[pair[0]], text)
    row = alignment.row(ids)
    written = b"".join(ours[token] or b"" for token in ids)
    read = b"".join(theirs[token] or b"" for token in row.ids)
    ahead = len(read) - len(written)  # a SentencePiece teacher writes a space before the text
    assert read[ahead:] == written
    assert read[:ahead] in (b"", b" ")
    assert ahead == 0 or pair[1] == "pieces"
    edges = {len(b"".join(theirs[token] or b"" for token in row.ids[: end + 1])) - ahead for end in range(len(row.ids))}
    can_say = set(alignment.target.tolist())
    for place, at in enumerate(row.places):
        end = len(b"".join(ours[token] or b"" for token in ids[: place + 1]))
        if at != NOWHERE:
            assert b"".join(theirs[token] or b"" for token in row.ids[: at + 1])[ahead:] == written[:end]
        else:
            assert end not in edges or ids[place + 1] not in can_say


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=25, deadline=None)
@given(text=WORDS)
def test_a_tokenizer_aligns_with_itself_everywhere(name: str, text: str) -> None:
    ids = text_ids(TOKENIZERS[name], text)
    row = ALIGNMENTS[name, name].row(ids)
    lead = ALIGNMENTS[name, name].lead
    if name != "pieces":  # it writes a second space before a text that begins with one
        assert row.ids == lead + ids
        assert row.places == [len(lead) + place for place in range(len(ids))]
    assert NOWHERE not in row.places[-1:]


def test_rows_with_special_tokens_align_behind_them() -> None:
    ours, theirs = TOKENIZERS["byte-level"], TOKENIZERS["with a beginning"]
    ids = ours("<|im_start|>user\nthe question<|im_end|>\n", add_special_tokens=False)["input_ids"]
    row = Alignment(ours, theirs).row(ids)
    assert row.ids == [1, *ids]  # <s>, which the teacher's tokenizer writes
    assert row.places == list(range(1, len(ids) + 1))


def test_the_beginning_that_both_write_is_read_once() -> None:
    tokenizer = TOKENIZERS["with a beginning"]
    ids = tokenizer("the answer")["input_ids"]
    assert Alignment(tokenizer, tokenizer).row(ids).ids == ids
    assert Alignment(tokenizer, tokenizer).row([1, *ids]).ids == [1, *ids]


def test_ends_of_text_are_each_others_and_an_unknown_special_token_is_text() -> None:
    ours, theirs = TOKENIZERS["byte-level"], TOKENIZERS["short"]
    alignment = Alignment(ours, theirs)
    end, mark = ours.eos_token_id, ours.convert_tokens_to_ids("<|im_end|>")
    ids = [*text_ids(ours, "the"), mark, *text_ids(ours, " rest"), end]
    row = alignment.row(ids)
    assert row.ids[-1] == theirs.eos_token_id
    assert theirs.decode(row.ids[:-1]) == "the<|im_end|> rest"
    assert alignment.target[theirs.eos_token_id] == end
    assert row.places[ids.index(mark) - 1] == NOWHERE  # the teacher cannot say that token
    assert row.places[-2] == len(row.ids) - 2  # but the end


def test_a_row_that_is_cut_inside_a_character_aligns_up_to_the_cut_and_behind_it() -> None:
    ours, theirs = TOKENIZERS["short"], TOKENIZERS["byte-level"]
    ids = text_ids(ours, "🙂the answer to 🙂")[1:-1]
    row = Alignment(ours, theirs).row(ids)
    assert b"".join(byte_strings(theirs).strings[token] for token in row.ids) == "🙂the answer to 🙂".encode()[1:-1]
    assert row.places[2] != NOWHERE
    assert row.places[-1] == len(row.ids) - 1


def test_a_teacher_that_changes_the_text_is_aligned_up_to_there() -> None:
    theirs = small_merges()
    theirs.backend_tokenizer.normalizer = normalizers.Replace("question", "?")
    ours = TOKENIZERS["short"]
    ids = text_ids(ours, "the question")
    row = Alignment(ours, theirs).row(ids)
    before = len(text_ids(ours, "the "))
    assert NOWHERE not in row.places[: before - 1]
    assert set(row.places[before:]) == {NOWHERE}


def test_a_teacher_token_stands_for_the_first_student_token_of_its_bytes() -> None:
    ours, theirs = TOKENIZERS["short"], TOKENIZERS["byte-level"]
    alignment = Alignment(ours, theirs)
    (answer,) = text_ids(theirs, " answer")
    assert alignment.target[answer] == text_ids(ours, " answer")[0]
    same = Alignment(theirs, theirs)
    assert [same.target[token] for token in range(len(theirs))] == list(range(len(theirs)))


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_no_teacher_token_stands_for_other_bytes(pair: tuple[str, str]) -> None:
    alignment = ALIGNMENTS[pair]
    for token, string in enumerate(alignment.theirs.strings):
        if string:
            begun = alignment.ours.strings[alignment.target[token]]
            assert begun
            assert string.startswith(begun)


def test_the_share_counts_supervised_tokens() -> None:
    ours, theirs = TOKENIZERS["byte-level"], TOKENIZERS["short"]
    ids = text_ids(ours, "the answer to the question")
    row = {"input_ids": ids, "labels": [-100, -100, *ids[2:]]}
    same = Alignment(ours, ours).measure([row, row])
    assert (same.aligned, same.tokens, same.rows, same.value, same.longest) == (2 * (len(ids) - 2), 2 * (len(ids) - 2), 2, 1, len(ids))
    alignment = Alignment(ours, theirs)
    other = alignment.measure([row])
    assert other.tokens == len(ids) - 2
    assert other.aligned == sum(place != NOWHERE for place in alignment.row(ids).places[1:-1])
    assert str(other).startswith(f"{round(100 * other.value)} % of the supervised tokens align")
    Share(5, 10, 1, 9).check()
    with pytest.raises(VocabularyMismatch, match=r"^Only 49 % of the supervised tokens align with the teacher's tokens") as error:
        Share(49, 100, 3, 9).check()
    assert "make the student from the teacher" in str(error.value.hint)


def word_piece() -> Any:
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "the": 1, "##m": 2, "</s>": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")


def lower_case() -> Any:
    made = small_merges()
    made.backend_tokenizer.normalizer = normalizers.Lowercase()
    return made


@pytest.mark.parametrize(
    ("tokenizer", "why"), [(word_piece(), "decodes with WordPiece"), (lower_case(), "does not return a text as it was")]
)
def test_tokens_that_are_no_byte_strings_are_refused(tokenizer: Any, why: str) -> None:
    with pytest.raises(VocabularyMismatch, match=f"(?m)^The teacher's tokens are not byte strings: its tokenizer {why}.$") as error:
        Alignment(TOKENIZERS["short"], tokenizer)
    assert "SentencePiece" in str(error.value.hint)
    with pytest.raises(VocabularyMismatch, match=r"^The student's tokens"):
        Alignment(tokenizer, TOKENIZERS["short"])
