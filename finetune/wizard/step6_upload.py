"""STEP 6: the Hugging Face Hub, asked last, default no."""

from __future__ import annotations

from pathlib import Path

from finetune.wizard.here import Here
from finetune.wizard.prompter import Prompter


def ask(output_dir: Path, prompter: Prompter, here: Here) -> None:
    """Upload the finished folder, if the person wants that."""
    prompter.step(6, "Upload")
    prompter.confirm("upload", "Upload to the Hugging Face Hub?", default=False, help="Private, under your name. The model stays here too.")
