"""What was exported, as the screen, the card and the report page say it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from finetune.benchmark.report.page import exported_files
from finetune.export.record import Exported, Speed
from finetune.publish.card import model_card
from finetune.publish.run_facts import RunFacts
from finetune.recipe import Recipe
from finetune.screen.exported import commands, exported_picture, in_words
from finetune.wizard.asking.prompter import drawn

GATE = {"tensors": 272, "texts": 43, "chats": 3, "prompts": 20, "difference": 0.1234, "kl": 0.00214, "same_top": 19, "limit": 0.05}
Q8 = Exported(
    to="gguf",
    type="q8_0",
    folder="/somewhere/out-gguf",
    file="out-Q8_0.gguf",
    bytes=150_000_000,
    sha256="",
    gate=GATE,
    notes=["A note."],
    commands={"Ollama": "ollama create out -f Modelfile"},
    original=Speed(600_000_000, 1.5, 10.0),
    exported=Speed(150_000_000, 0.25, 31.0),
    threads=2,
)
UNPROVEN = replace(Q8, file="out-Q4_0.gguf", gate={"tensors": 272, "texts": 43, "kl": None, "prompts": None}, exported=None)
GRAPH = replace(Q8, to="onnx", type="f32", file="model.onnx", gate={"logits": 1.3e-5, "same_top": 20, "prompts": 20, "limit": 1e-4})


def test_size_and_speed_in_words() -> None:
    assert in_words(Q8) == "4.0x smaller, 3.1x faster than the original, measured here."
    assert in_words(UNPROVEN) == "4.0x smaller than the original, measured here."
    assert in_words(replace(Q8, bytes=599_000_000, exported=Speed(1, 1.0, 5.0))) == "2.0x slower than the original, measured here."
    assert in_words(replace(UNPROVEN, bytes=600_000_000)) == ""


@pytest.mark.parametrize("width", [40, 80])
def test_the_screen_shows_what_was_proven_and_fits(width: int) -> None:
    shown = drawn(exported_picture(Q8), width)
    assert max(map(len, shown.splitlines())) <= width
    words = " ".join(shown.split())
    for fact in (
        "272 tensors, bit for bit",
        "equal in 43 texts",
        "KL divergence 0.0021",
        "19 of 20 prompts",
        "Q8_0 150 MB 0.25 s 31 4.0x smaller",
        "A note.",
    ):
        assert fact in words
    assert "Logits differ by at most 1e-05 of the largest" in " ".join(drawn(exported_picture(GRAPH), width).split())
    assert "Probabilities, chats not proven" in " ".join(drawn(exported_picture(UNPROVEN), width).split())
    assert commands(Q8, width).plain.splitlines()[-1].endswith("  ollama create out -f Modelfile")


def test_the_card_and_the_report_have_a_row_for_each_file_and_no_folders() -> None:
    files = [each.to_dict() for each in (Q8, UNPROVEN, GRAPH)]
    facts = RunFacts(adapter=False, training={}, data={}, environment={}, exports=files)
    card, page = model_card(Recipe.from_layers({"model": "org/base"}), facts, {}), str(exported_files(files))
    assert "| out-Q8_0.gguf | 150 MB | 4.0 times | 3.1 times | 0.0021 | 19 of 20 prompts |" in card
    assert "| out-Q4_0.gguf | 150 MB | 4.0 times | not measured | not measured | not measured |" in card
    assert "| model.onnx | 150 MB | 4.0 times | 3.1 times | logits within 1e-05 of the largest | 20 of 20 prompts |" in card
    for fact in ("31 tokens/s", "10 tokens/s", "0.0021", "logits within 1e-05", "out-Q4_0.gguf"):
        assert fact in page
    assert "/somewhere" not in card + page
    assert str(exported_files([])) == ""
