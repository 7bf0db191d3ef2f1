"""Talk to the model of an output folder: several turns, answers as they come, nothing printed and nothing asked from here.

    chat("./finetuned_model", RuntimeOptions(), ask=lambda: input("> "), show=lambda text: print(text, end="", flush=True))

`ask` returns a message, or "/exit"; EOFError or KeyboardInterrupt from it end the talk too. Ctrl-C during an answer ends that answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from finetune.benchmark.generation import context_length, padding_id, stop_ids
from finetune.events import Recorder, Reporter
from finetune.models.load import load_model, load_tokenizer
from finetune.models.machine import inspect
from finetune.models.sources import locate
from finetune.runtime import RuntimeOptions

LONGEST_ANSWER = 512
EXIT = "/exit"
Turn = dict[str, str]


def chat(
    output_dir: str | Path,
    runtime: RuntimeOptions,
    ask: Callable[[], str],
    show: Callable[[str], None],
    *,
    reporter: Reporter | None = None,
) -> None:
    """Ask and answer until /exit; raises ModelError if the folder (an adapter or a whole model) cannot be loaded."""
    located = locate(str(output_dir), runtime, reporter or Recorder())
    talk = Talk(load_model(located, inspect(runtime)), load_tokenizer(located))
    while (message := _next(ask)) is not None:
        talk.answer(message, show)
        show("\n")


class Talk:
    """A model, its tokenizer and what was said so far."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.stops = stop_ids(model, tokenizer)
        self.room = min(LONGEST_ANSWER, context_length(model) // 2)  # the other half at least is for what was said
        self.turns: list[Turn] = []

    def answer(self, message: str, show: Callable[[str], None]) -> None:
        """Show the answer piece by piece; a KeyboardInterrupt ends it, and what was said so far is remembered."""
        self.turns.append({"role": "user", "content": message})
        ids = self._prompt()
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        stopped, said = threading.Event(), ""
        with ThreadPoolExecutor(1) as pool:
            work = pool.submit(self._generate, ids, streamer, stopped)
            try:
                for piece in _pieces(streamer):
                    said += piece
                    show(piece)
            except KeyboardInterrupt:
                pass
            finally:
                stopped.set()
            self.turns.append({"role": "assistant", "content": said.strip()})
            work.result()

    def _prompt(self) -> torch.Tensor:
        """Token ids [1, length] of the turns; the oldest are forgotten if they no longer fit the context."""
        while True:
            ids = self._ids(self.turns)
            if len(ids) + self.room <= context_length(self.model) or len(self.turns) == 1:
                return torch.tensor([ids[-(context_length(self.model) - self.room) :]], device=next(self.model.parameters()).device)
            del self.turns[:2]

    def _ids(self, turns: list[Turn]) -> list[int]:
        """The turns as the model was trained to see them: its chat template, or questions and answers line by line."""
        if self.tokenizer.chat_template:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=False)
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        end = self.tokenizer.eos_token or ""
        return list(self.tokenizer("".join(turn["content"] + ("\n" if turn["role"] == "user" else end) for turn in turns))["input_ids"])

    def _generate(self, ids: torch.Tensor, streamer: TextIteratorStreamer, stopped: threading.Event) -> None:
        try:
            self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self.room,
                eos_token_id=self.stops or None,
                pad_token_id=padding_id(self.tokenizer, self.stops),
                streamer=streamer,
                stopping_criteria=StoppingCriteriaList([_Until(stopped)]),
            )
        finally:
            streamer.text_queue.put(None)  # also after an error: the reader must not wait for ever


class _Until(StoppingCriteria):
    """Stops before the next token once an event is set."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)


def _pieces(streamer: TextIteratorStreamer) -> Iterator[str]:
    """What the streamer gets; waits in short steps, for a wait without end cannot be interrupted on Windows."""
    while True:
        try:
            piece = streamer.text_queue.get(timeout=0.1)
        except Empty:
            continue
        if piece is None:
            return
        if piece:
            yield piece


def _next(ask: Callable[[], str]) -> str | None:
    """The next message that is not blank, or None at the end."""
    while True:
        try:
            message = ask().strip()
        except (EOFError, KeyboardInterrupt):
            return None
        if message == EXIT:
            return None
        if message:
            return message
