"""An OpenAI-compatible server as a client sees it: chat completions, several at once, with retries and a budget.

    server = Server(TeacherSpec(server="http://localhost:8000/v1", model="smollm2"), Recorder())
    server.check()
    server.completions([[{"role": "user", "content": "Hi"}]], most=64, seeds=[1])      # [Completion("Hello!", ended=True)]
    server.grades([[504, 2365]], 20)[0].places[1]       # {29: Told(-0.87, "-"), ...} of the second token

The key comes from the environment variable that the recipe names, goes into the request's header, and nowhere else.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from finetune.errors import ModelError, ModelNotFound, RecipeError
from finetune.events import Notice, Reporter
from finetune.formatting import size, spoken
from finetune.hub.retry import WAITS, pause_after
from finetune.recipe.teacher_settings import TeacherSpec

AT_ONCE = 8  # requests
SECONDS = 300.0  # until an answer, or its next piece, arrives
LONGEST_SECONDS = 1200.0  # for a whole answer
LONGEST_ANSWER = 200_000_000  # bytes: a hundred likeliest tokens of 30,000
LONGEST_REASON = 200  # characters of what a server says
MOST_SHOWN = 10  # models in a hint
UNKNOWN_TOKENS = 3  # characters of a token, where a server does not count

Messages = Sequence[dict[str, str]]
NOT_AS_ASKED = (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError, RecursionError)

Given = TypeVar("Given")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Completion:
    """What a server wrote; `tokens` are those of prompt and answer together."""

    text: str
    ended: bool
    tokens: int


@dataclass(frozen=True)
class Told:
    """A token's log-probability, and how the server spells the token, if it does."""

    logprob: float
    text: str | None


@dataclass(frozen=True)
class Grades:
    """What a server tells of a text: at each place, but for the first, the likeliest tokens and the one that is there."""

    places: list[dict[int, Told]]
    tokens: int


class NoGrades(ModelError):
    """The server answers, but tells no log-probabilities of what it reads."""


class KeyRefused(ModelError):
    """The key is wrong, or there is none."""


class Server:
    """Raises ModelError for a server that cannot be reached or refuses, ModelNotFound for an unknown model, RecipeError without a key."""

    def __init__(self, spec: TeacherSpec, reporter: Reporter) -> None:
        import httpx2

        assert spec.server is not None
        self.address, self.model, self.key, self.reporter = spec.server.rstrip("/"), str(spec.model), spec.key, reporter
        headers = {"Authorization": f"Bearer {_key(spec.key)}"} if spec.key else {}
        self._client = httpx2.Client(headers=headers, timeout=httpx2.Timeout(SECONDS, connect=10.0))

    def check(self) -> None:
        """Whether the server answers, and knows the model; one that it does not list is asked for a word, since some load any model."""
        listed = self._ask("GET", "models", None).get("data")
        known = [str(model.get("id")) for model in listed if isinstance(model, dict)] if isinstance(listed, list) else []
        if self.model in known:
            return
        try:
            self._completion([{"role": "user", "content": "Hi"}], 1, 0)
        except KeyRefused:
            raise
        except ModelError as error:
            shown = f"It has: {', '.join(known[:MOST_SHOWN])}{' ...' if len(known) > MOST_SHOWN else ''}. " if known else ""
            hint = f"{shown}--set teacher.model=NAME"
            raise ModelNotFound(f"The server {self.address} has no model {self.model!r}: {_short(error.message)}.", hint=hint) from None

    def completions(self, chats: Sequence[Messages], *, most: int, seeds: Sequence[int]) -> list[Completion]:
        """An answer of at most `most` tokens to each chat, in order."""
        return _at_once(lambda asked: self._completion(asked[0], most, asked[1]), list(zip(chats, seeds, strict=True)))

    def grades(self, texts: Sequence[str | Sequence[int]], likeliest: int) -> list[Grades]:
        """What the model finds likeliest at each place of each text, in order (vLLM's `prompt_logprobs`); 0: of the token there alone.

        A text or its tokens. Raises NoGrades, too.
        """
        return _at_once(lambda text: self._grades(text, likeliest), texts)

    def _grades(self, text: str | Sequence[int], likeliest: int) -> Grades:
        prompt = text if isinstance(text, str) else list(text)
        asked = {"model": self.model, "prompt": prompt, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": likeliest}
        answer = self._ask("POST", "completions", asked)
        with self._understood():
            told = answer["choices"][0].get("prompt_logprobs")
            if not isinstance(told, list):
                raise NoGrades(f"The server {self.address} does not return log-probabilities of prompts, so it cannot grade rows.")
            places = [
                {int(token): Told(float(each["logprob"]), each.get("decoded_token")) for token, each in (place or {}).items()}
                for place in told
            ]
            if any(token < 0 for place in places for token in place):
                raise ValueError
            return Grades(places, _counted(answer) or len(places) + 1)

    def _completion(self, chat: Messages, most: int, seed: int) -> Completion:
        asked = {"model": self.model, "messages": list(chat), "max_tokens": most, "temperature": 1.0, "top_p": 0.9, "seed": seed}
        answer = self._ask("POST", "chat/completions", asked)
        with self._understood():
            choice = answer["choices"][0]
            text = str(choice["message"].get("content") or "").strip().encode("utf-8", "replace").decode()  # half a letter is no text
            written = sum(len(turn["content"]) for turn in chat) + len(text)
            return Completion(text, choice.get("finish_reason") != "length", _counted(answer) or written // UNKNOWN_TOKENS + 1)

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """A block that reads an answer; raises ModelError where it has not what such a server answers."""
        try:
            yield
        except NOT_AS_ASKED:
            raise ModelError(f"The server {self.address} answered, but not as an OpenAI-compatible server does.", hint=_HINT) from None

    def _ask(self, method: str, path: str, content: Any) -> dict[str, Any]:
        import httpx2

        for wait in (*WAITS, None):
            try:
                status, after, body = self._answered(method, path, content)
            except (httpx2.RequestError, httpx2.InvalidURL) as error:
                lasting = isinstance(error, httpx2.ConnectError | httpx2.InvalidURL | httpx2.UnsupportedProtocol)
                if wait is None or (lasting and method == "GET"):
                    raise ModelError(f"The server {self.address} cannot be reached: {_short(str(error))}.", hint=_HINT) from None
                self._pause(wait, "did not answer")
                continue
            pause = None if wait is None else pause_after(status, after, wait)
            if pause is None:
                return self._content(status, body)
            self._pause(pause, f"answered {status}")
        raise AssertionError("the last try returns or raises")

    def _answered(self, method: str, path: str, content: Any) -> tuple[int, str, bytes]:
        """The status, how long to wait with another try, and the answer: no more of it, and for no longer, than one can be."""
        import httpx2

        body, ends = bytearray(), time.monotonic() + LONGEST_SECONDS
        with self._client.stream(method, f"{self.address}/{path}", json=content) as response:
            for part in response.iter_bytes():
                body += part
                if len(body) > LONGEST_ANSWER:
                    raise ModelError(f"The server {self.address} answers with more than {size(LONGEST_ANSWER)}.", hint=_HINT)
                if time.monotonic() > ends:
                    raise httpx2.ReadTimeout(f"its answer does not end within {spoken(LONGEST_SECONDS)}")
            return response.status_code, response.headers.get("Retry-After", ""), bytes(body)

    def _content(self, status: int, body: bytes) -> dict[str, Any]:
        if status in (401, 403):
            which = f"the key in {self.key}" if self.key else "requests without a key"
            raise KeyRefused(f"The server {self.address} refuses {which} ({status}).", hint="Name the variable: --set teacher.key=VARIABLE")
        if status >= 300:
            known = ModelNotFound if status == 404 else ModelError
            raise known(f"The server {self.address} answered {status}: {_short(body.decode('utf-8', 'replace'))}.", hint=_HINT)
        with self._understood():
            found = json.loads(body)
            if not isinstance(found, dict):
                raise TypeError
            return found

    def _pause(self, seconds: float, what: str) -> None:
        self.reporter.report(Notice(f"The server {self.address} {what}; trying again in {seconds:.0f} s.", "warning"))
        time.sleep(seconds)


def _at_once(ask: Callable[[Given], Found], given: Sequence[Given]) -> list[Found]:
    """What comes of each, in order; after a failure or Ctrl-C nothing new is asked for."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            return list(pool.map(ask, given))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_HINT = "Check the address, which usually ends in /v1, and that the server is running: --set teacher.server=URL"


def _key(variable: str) -> str:
    """The key; it is read here and kept in no other place."""
    value = os.environ.get(variable, "").strip()
    if not value:
        raise RecipeError(
            f"The environment variable {variable}, which should have the server's key, is not set.", hint=f"export {variable}=..."
        )
    return value


def _counted(answer: dict[str, Any]) -> int:
    """The tokens that a server says it has read and written; 0 where it does not say."""
    return max(0, int((answer.get("usage") or {}).get("total_tokens") or 0))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return (text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]} ...").rstrip(".") or "no reason"
