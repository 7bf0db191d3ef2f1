"""Run a GGUF file in llama.cpp, in a process of its own: tokens, rendered chats, probabilities, speed.

found = asked(path, Questions(texts, chats, prompts, vocabulary=49152, threads=2), progress)
found.tokens[0], found.log_probabilities[0].shape, found.tokens_per_second
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np

from finetune.errors import FinetuneError
from finetune.export.prompt_format import Turns
from finetune.formatting import strip_control_chars
from finetune.system.children import end, python_child

AS_IT_IS = "Nothing was kept. Use the folder itself: transformers, vLLM and MLX load it."


@dataclass(frozen=True)
class Questions:
    """`texts` get the beginning that the file states, as chats do; `prompts` and `timed` are token ids."""

    texts: Sequence[str]
    chats: Sequence[Turns]
    prompts: Sequence[list[int]]
    vocabulary: int
    threads: int
    timed: Sequence[int] = ()

    @property
    def context(self) -> int:
        return max(map(len, (*self.prompts, self.timed))) + 128


@dataclass
class Answers:
    """`log_probabilities` [vocabulary] of the token after each prompt; `load_seconds` with the file in the system's cache."""

    load_seconds: float = 0.0
    tokens: list[list[int]] = field(default_factory=list)
    rendered: list[str] = field(default_factory=list)
    log_probabilities: list[np.ndarray[Any, Any]] = field(default_factory=list)
    tokens_per_second: float | None = None


def asked(path: Path, questions: Questions, progress: Callable[[int, int], None]) -> Answers:
    """Raises FinetuneError if llama.cpp cannot load the file, or ends in the middle of it."""
    answers = Answers()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        order = {
            "path": str(path.absolute()),
            "folder": folder,
            "context": questions.context,
            "threads": questions.threads,
            "texts": questions.texts,
            "chats": questions.chats,
            "prompts": questions.prompts,
            "vocabulary": questions.vocabulary,
            "timed": list(questions.timed),
        }
        log = stack.enter_context((Path(folder) / "log").open("w+", encoding="utf-8", errors="replace"))
        process = python_child(["finetune.export.llama_child"], Path(folder), stdin=PIPE, stdout=PIPE, stderr=log)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with suppress(BrokenPipeError):  # of a process that has ended already: its log says why
                process.stdin.write(json.dumps(order) + "\n")
                process.stdin.close()
            for line in process.stdout:
                _take(json.loads(line), answers, Path(folder))
                progress(len(answers.log_probabilities), len(questions.prompts))
            if process.wait():
                log.seek(0)
                last = [line for line in map(str.strip, log) if line][-1:] or [f"exit code {process.returncode}"]
                raise FinetuneError(f"llama.cpp ended while it ran {path.name}: {strip_control_chars(last[0])[:200]}.", hint=AS_IT_IS)
        finally:
            end(process)
    return answers


def _take(said: dict[str, Any], answers: Answers, folder: Path) -> None:
    if "problem" in said:
        raise FinetuneError(said["problem"], hint=AS_IT_IS)
    answers.load_seconds = said.get("loaded", answers.load_seconds)
    answers.tokens = said.get("tokens", answers.tokens)
    answers.rendered = said.get("rendered", answers.rendered)
    answers.tokens_per_second = said.get("speed", answers.tokens_per_second)
    if "prompt" in said:
        answers.log_probabilities.append(np.load(folder / f"{said['prompt']}.npy"))
