"""The process that runs a GGUF file in llama.cpp and returns tokens, probabilities, rendered chats and speed.

python -m finetune.export.llama_child       # one order as JSON on stdin; finetune/export/llama_cpp.py gives it

llama.cpp ends its process where it does not like a file, so it runs in one of its own. xllamacpp is llama.cpp's server inside Python, which
answers over HTTP on this machine only.
"""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

from finetune.errors import FinetuneError
from finetune.run.child import Say, answer

TIMED_TOKENS = 64
FORCE = 1e6  # added to a logit when a token is chosen, after the probabilities were taken


def work(order: dict[str, Any], say: Say) -> None:
    """Answers with `loaded`, `tokens`, `rendered`, `prompt` for each that is done, and `speed`, in this order."""
    import numpy as np
    import xllamacpp

    given = xllamacpp.CommonParams()
    given.model.path = order["path"]
    given.n_ctx = order["context"]
    given.n_parallel = 1
    given.warmup = given.fit_params = given.ui = False
    given.verbosity = 0
    given.cpuparams.n_threads = given.cpuparams_batch.n_threads = order["threads"]
    began = time.perf_counter()
    try:
        server = xllamacpp.Server(given)
    except RuntimeError as error:
        raise FinetuneError(f"llama.cpp cannot load the file: {error}") from error
    say(loaded=time.perf_counter() - began)
    address = server.listening_address
    say(tokens=[_ask(address, "tokenize", {"content": text, "add_special": True})["tokens"] for text in order["texts"]])
    say(rendered=[_ask(address, "apply-template", {"messages": turns})["prompt"] for turns in order["chats"]])
    vocabulary = order["vocabulary"]
    letter = _ask(address, "tokenize", {"content": "a"})["tokens"][0]
    # The answer is "a", whatever is likeliest: of a token that ends the text, or is half a letter, the server tells no probabilities.
    forced = {"n_predict": 1, "n_probs": vocabulary, "logit_bias": [[letter, FORCE]], "temperature": 0, "cache_prompt": False}
    for number, prompt in enumerate(order["prompts"]):
        (said,) = _ask(address, "completion", {"prompt": prompt, **forced})["completion_probabilities"]
        values = np.full(vocabulary, -np.inf, dtype=np.float32)
        for token in said["top_logprobs"]:
            values[token["id"]] = token["logprob"]
        np.save(Path(order["folder"]) / f"{number}.npy", values)
        say(prompt=number)
    if order["timed"]:
        asked = {"prompt": order["timed"], "n_predict": TIMED_TOKENS, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        say(speed=_ask(address, "completion", asked)["timings"]["predicted_per_second"])


def _ask(address: str, what: str, content: dict[str, Any]) -> dict[str, Any]:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy of the company would be asked for this machine
    request = urllib.request.Request(f"{address}/{what}", json.dumps(content).encode(), {"Content-Type": "application/json"})
    try:
        with direct.open(request) as found:
            answered: dict[str, Any] = json.load(found)
    except OSError as error:
        raise FinetuneError(f"llama.cpp does not answer /{what}: {error}") from error
    return answered


if __name__ == "__main__":
    answer(work)
