"""The peak of a block is what it needs: pages that the system can take back are not in it."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

from finetune.hardware.peak_memory import PeakMemory

SIZE = 64 * 2**20
LITTLE = 24 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say which file a page is of")
@pytest.mark.parametrize(("name", "counts"), [("train.arrow", False), ("shard-00000000.safetensors", False), ("model.safetensors", True)])
def test_pages_of_rows_and_of_a_teachers_answers_are_not_counted_and_those_of_a_model_are(tmp_path: Path, name: str, counts: bool) -> None:
    (tmp_path / name).write_bytes(b"1" * SIZE)
    with PeakMemory("cpu") as peak:
        before = peak.highest()
        with (tmp_path / name).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            assert set(content[::4096]) == {*b"1"}  # every page was read
            grown = peak.highest() - before
    assert (grown > SIZE - LITTLE) == counts
    assert (grown < LITTLE) != counts


def test_the_peak_is_of_what_was_already_let_go() -> None:
    with PeakMemory("cpu") as peak:
        before = peak.highest()
        del (some := bytearray(b"1") * SIZE)[:]
        peak.highest()
    assert some == b""
    assert peak.bytes - before > SIZE - LITTLE


def test_a_block_inside_another_hides_no_peak_of_it() -> None:
    with PeakMemory("cpu") as outer:
        before = outer.highest()
        del (some := bytearray(b"1") * SIZE)[:]
        with PeakMemory("cpu") as inner:
            small = inner.highest()
            del (more := bytearray(b"1") * 2 * SIZE)[:]
    assert (some, more) == (b"", b"")
    assert outer.bytes == inner.bytes
    assert small - before < LITTLE
    assert outer.bytes - before > 2 * SIZE - LITTLE
