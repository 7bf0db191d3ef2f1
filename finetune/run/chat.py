"""Talk to the model of an output folder: several turns, answers as they come, nothing printed and nothing asked from here.

    chat("./finetuned_model", RuntimeOptions(), ask=lambda: input("> "), show=lambda text: print(text, end="", flush=True))

`ask` returns a message or one of COMMANDS; EOFError or KeyboardInterrupt from it end the chat too. Ctrl-C during an answer ends that
answer; SIGTERM and SIGHUP end the program. A model that was trained on single questions gets each message by itself: earlier turns would be
unlike anything it has seen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from finetune import registry
from finetune.data.formats.cells import Message
from finetune.data.tokens.encoder import Encoder, cut_prompt
from finetune.data.tool_calls import named
from finetune.errors import BadInput, FinetuneError
from finetune.events import Recorder, Reporter
from finetune.hardware.machine import inspect
from finetune.models.load import load_model, load_tokenizer
from finetune.models.location import LocatedModel, locate
from finetune.publish.merged import base_changed
from finetune.recipe import Recipe
from finetune.registry import did_you_mean
from finetune.run_folder import TRAINING, RunFolder
from finetune.runtime import RuntimeOptions
from finetune.system.library_warnings import hush
from finetune.system.stopping import until_ctrl_c
from finetune.training.decoding import greedy, stop_ids
from finetune.training.head import causal_lm, context_length, padding_id

LONGEST_ANSWER = 512
LONGEST_SHOWN = 200  # characters of a system prompt
EXIT, BOTH, NEW, REMEMBER, SYSTEM, HELP = "/exit", "/both", "/new", "/remember", "/system", "/help"
SAME = {"/quit": EXIT, "/reset": NEW, "/clear": NEW, "/?": HELP}
COMMANDS = {
    NEW: "start a new chat: what was said is forgotten (/reset does the same)",
    REMEMBER: "switch on or off whether the model sees what was said before",
    SYSTEM: "set the system prompt to the text after it; without a text: none",
    BOTH: "switch on or off whether the model it came from answers too",
    HELP: "this list",
    EXIT: "end the chat",
}
SINGLE = "It was trained on single questions, so it sees each message alone. /remember shows it the earlier ones too."
STOPPED = "Its training was stopped before its end; resume continues it."
TOLD = "All rows it was trained on had this system prompt, so it has it here too (/system changes it): {}"
TOOLS = "All rows it was trained on had these tools, so it can call them here too; a call is shown and not made: {}"
OPENING = "All questions it was trained on began with these words, and yours should too: {}"
OWN_SYSTEMS = "The rows it was trained on did not all have the same system prompt. It has none here; /system TEXT gives it one."
SAMPLED = {"temperature": 100, "top_k": 10**6, "top_p": 1, "min_p": 1, "typical_p": 1, "repetition_penalty": 10}  # and the largest of each
MANY_TURNS = ("messages", "preference")  # formats whose rows may have several answers
Turn = dict[str, str]


def _nothing(text: str) -> None:
    """Where nobody listens."""


def chat(
    output_dir: str | Path,
    runtime: RuntimeOptions,
    ask: Callable[[], str],
    show: Callable[[str], None],
    *,
    both: bool = False,
    side: Callable[[str], None] = _nothing,
    say: Callable[[str], None] = _nothing,
    reporter: Reporter | None = None,
) -> None:
    """Ask and answer until /exit; with `both`, or from /both on, the model it came from answers the same messages beside it.

    `side` is told whose answer follows ("base", "tuned", in a distillation "teacher", "student") and "" after the two; `say` takes remarks.
    Raises ModelError if the folder (an adapter or a whole model) cannot be loaded, BadInput if it does not say what it came from.
    """
    hush()
    reporter = reporter or Recorder()
    located = locate(str(output_dir), runtime, reporter)
    tuned = Talk(
        load_model(located, inspect(runtime)),
        load_tokenizer(located),
        thinking=asked_to_think(output_dir),
        remembers=not single_turn(output_dir),
        system=told_of(output_dir, "system_prompt") or "",
        tools=tools_of(output_dir),
    )
    other: tuple[Origin, Talk] | None = None
    if (folder := RunFolder(output_dir)).stage == TRAINING:
        say(STOPPED)
    if changed := base_changed(folder, located):
        say(changed)
    if tuned.system:
        say(TOLD.format(shown(tuned.system)))
    elif told_of(output_dir, "system_prompt") is None:
        say(OWN_SYSTEMS)
    if tuned.tools:
        say(TOOLS.format(named(tuned.tools)))
    if opening := told_of(output_dir, "opening"):
        say(OPENING.format(shown(opening)))
    if not tuned.remembers:
        say(SINGLE)
    talking = False
    while True:
        if both and other is None:
            try:
                origin = origin_of(output_dir, located)
                say(f"Loading the {origin.name}, {origin.source} ...")
                other = origin, origin.talk(runtime, reporter, tuned)
            except FinetuneError as error:
                if not talking:
                    raise
                say(f"{error.message} So the trained model answers alone.")  # the conversation goes on
                both = False
        message, talking = _next(ask), True
        if message is None:
            return
        if message.startswith("/"):
            talks = [tuned, *([other[1]] if other else [])]
            both = _command(message, talks, say, both=both)
        elif both and other:
            origin, base = other
            _answer_both(message, [(origin.name, base), (origin.result, tuned)], show, side)
        else:
            tuned.answer(message, show)
            show("\n")


def _command(message: str, talks: list[Talk], say: Callable[[str], None], *, both: bool) -> bool:
    """Do what a line that begins with / asks for; it never goes to a model. Whether both models answer from now on."""
    word = SAME.get(message, message)
    if word == BOTH:
        say("Only the trained model answers from now on." if both else "Both models answer from now on.")
        return not both
    if message.split()[0] == SYSTEM:
        system = message.removeprefix(SYSTEM).strip()
        for talk in talks:
            talk.system = system
        say(f"The system prompt from now on: {shown(system)}" if system else "No system prompt from now on.")
    elif word == NEW:
        for talk in talks:
            talk.turns.clear()
        say("A new chat: what was said is forgotten.")
    elif word == REMEMBER:
        remembers = not talks[0].remembers
        for talk in talks:
            talk.remembers = remembers
        say("The model sees what was said before." if remembers else "The model sees each message alone.")
    elif word == HELP:
        say("\n".join(f"{name:<10} {does}" for name, does in COMMANDS.items()))
    else:
        name = message.split()[0]
        say(f"There is no command {name}.{did_you_mean(name, [*COMMANDS, *SAME])} {HELP} lists them. The model has not seen this line.")
    return both


def told_of(output_dir: str | Path, name: str) -> str | None:
    """The text `name` of a run's data report; "" where it is not known."""
    folder = RunFolder(output_dir)
    found = folder.known(folder.data_report).get(name, "")
    return found if isinstance(found, str | None) else ""


def tools_of(output_dir: str | Path) -> list[dict[str, Any]]:
    """The tools that every row of a run had; none where it is not known."""
    folder = RunFolder(output_dir)
    found = folder.known(folder.data_report).get("tools")
    return found if isinstance(found, list) and all(isinstance(tool, dict) for tool in found) else []


def shown(system: str) -> str:
    """A system prompt in one line, and not all of a long one."""
    text = " ".join(system.split())
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


def single_turn(output_dir: str | Path) -> bool:
    """Whether every row that a run trained on had one answer; False where that is not known."""
    folder = RunFolder(output_dir)
    report = folder.known(folder.data_report)
    if report.get("format") in MANY_TURNS:
        return report.get("most_answers") == 1
    return bool(report.get("format"))


def _answer_both(message: str, sides: list[tuple[str, Talk]], show: Callable[[str], None], side: Callable[[str], None]) -> None:
    """One after the other: two models at once would only share the processor."""
    try:
        for name, talk in sides:
            side(name)
            talk.answer(message, show)
    finally:
        side("")


@dataclass(frozen=True)
class Origin:
    """The model that a result came from: `name` says what it was to it, `result` what the result is to it."""

    name: str
    result: str
    source: str
    load_in: str | None = None

    def talk(self, runtime: RuntimeOptions, reporter: Reporter, beside: Talk) -> Talk:
        """Asked as the one `beside` it."""
        located = locate(self.source, runtime, reporter, load_in=self.load_in)
        model = load_model(located, inspect(runtime), load_in=self.load_in)
        tokenizer = load_tokenizer(located)
        tools = beside.tools if tokenizer.chat_template == beside.tokenizer.chat_template else []
        return Talk(model, tokenizer, thinking=beside.thinking, remembers=beside.remembers, system=beside.system, tools=tools)


def origin_of(output_dir: str | Path, located: LocatedModel) -> Origin:
    """By the recipe of its run, else the base of an adapter; raises BadInput for a model that tells neither."""
    folder = RunFolder(output_dir)
    if folder.recipe.is_file():
        recipe: Any = Recipe.load(folder.recipe)
        if recipe.all_teachers and not recipe.teaches_itself:
            teacher = recipe.all_teachers[recipe.main_teacher]
            return Origin("teacher", "student", teacher.source, teacher.load_in)
        return Origin("base", "tuned", str(recipe.model), registry.load("methods", recipe.method.kind).load_in(recipe.method))
    if located.adapter_base:
        return Origin("base", "tuned", located.adapter_base)
    raise BadInput(f"{output_dir} does not name the model it came from.", hint="Name the output folder of a run.")


def asked_to_think(output_dir: str | Path) -> bool:
    """Whether the run that made this model asked it to think before it answers; no where no run says so."""
    folder = RunFolder(output_dir)
    return folder.known(folder.data_report).get("thinking") is True


class Talk:
    """A model, its tokenizer and what was said so far, which the model sees if it `remembers`.

    It is asked to think or not, and with a `system` prompt and `tools` or none, as in training.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        thinking: bool = False,
        remembers: bool = True,
        system: str = "",
        tools: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.model, self.tokenizer, self.thinking, self.remembers, self.system = model, tokenizer, thinking, remembers, system
        self.tools = list(tools)
        self.encoder = Encoder(tokenizer, max_length=context_length(model), supervise="answers", thinking=thinking)
        self.stops = stop_ids(model, tokenizer)
        self.room = min(LONGEST_ANSWER, context_length(model) // 2)  # the other half at least is for what was said
        self.turns: list[Message] = []

    def answer(self, message: str, show: Callable[[str], None]) -> None:
        """Show the answer piece by piece; a KeyboardInterrupt ends it, and what was said so far is remembered."""
        if not self.remembers:
            self.turns.clear()
        self.turns.append({"role": "user", "content": message})
        ids = self._prompt()
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        stopped, said = threading.Event(), ""
        with ThreadPoolExecutor(1) as pool:
            work = pool.submit(self._generate, ids, streamer, stopped)
            try:
                with until_ctrl_c():
                    for piece in _pieces(streamer):
                        said += piece
                        show(piece)
            finally:
                stopped.set()
            self.turns.append({"role": "assistant", "content": said.strip()})
            work.result()

    def _prompt(self) -> torch.Tensor:
        """Token ids [1, length] of the turns; the oldest are forgotten if they no longer fit the context."""
        told: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        while True:
            ids = self.encoder.prompt([*told, *self.turns], self.tools)
            most = context_length(self.model) - self.room
            if len(ids) <= most or len(self.turns) == 1:
                return torch.tensor([cut_prompt(ids, most, self.tokenizer)], device=next(self.model.parameters()).device)
            del self.turns[:2]

    def _generate(self, ids: torch.Tensor, streamer: TextIteratorStreamer, stopped: threading.Event) -> None:
        inner, pad = causal_lm(self.model), padding_id(self.tokenizer, self.model)
        try:
            with greedy(inner, self.stops, pad=pad, max_new_tokens=self.room, **_sampled(inner.generation_config)):
                until = StoppingCriteriaList([_Until(stopped)])
                inner.generate(ids, attention_mask=torch.ones_like(ids), streamer=streamer, stopping_criteria=until)
        finally:
            streamer.text_queue.put(None)  # also after an error: the reader must not wait for ever


def _sampled(own: Any) -> dict[str, Any]:
    """How a model's generation_config chooses the next token, as far as that makes sense.

    Beams and lengths are no way to talk, and other ways of writing need more programs or tokenizers.
    """
    asked = {key: value for key, most in SAMPLED.items() if isinstance(value := getattr(own, key, None), int | float) and 0 < value <= most}
    return {**asked, "do_sample": getattr(own, "do_sample", None) is True and getattr(own, "temperature", None) != 0}


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
        message = EXIT
        with until_ctrl_c(), suppress(EOFError):
            message = ask().strip()
        if SAME.get(message, message) == EXIT:
            return None
        if message:
            return message
