"""Real servers on this machine, where they are installed: vLLM grades rows, others write them and are refused otherwise.

vLLM is found on the PATH, since it wants other versions than ours; `transformers serve` needs transformers[serving] beside us, llama.cpp's
server xllamacpp.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import torch
from letters import llama, parrot, tokenizer
from pico_exports import run_of, tokenizer_of

from finetune.distillation.caches.builder import build_cache
from finetune.distillation.caches.server import tokens_of
from finetune.errors import ModelError
from finetune.events import Recorder
from finetune.export.to_gguf import GGUF
from finetune.recipe.teacher_settings import TeacherSpec
from finetune.runtime import RuntimeOptions
from finetune.sources.grader import Grader
from finetune.sources.server import Server

SECONDS = 240  # until a server answers
SERVING = ("fastapi", "uvicorn", "openai")
SMALL = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@contextmanager
def serving(command: Sequence[str], log: Path) -> Iterator[str]:
    """The address of a server that is started with `--host` and `--port`, and ended afterwards."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with log.open("wb") as file:
        whole = [*command, "--host", "127.0.0.1", "--port", str(port)]
        process = subprocess.Popen(whole, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **SMALL}, start_new_session=True)
    try:
        for _ in range(SECONDS):
            try:
                with urlopen(f"{address}/health", timeout=5):
                    break
            except (URLError, OSError):
                assert process.poll() is None, log.read_text(errors="replace")[-2000:]
                time.sleep(1)
        yield f"{address}/v1"
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.skipif(shutil.which("vllm") is None, reason="no vLLM on the PATH")
def test_vllm_tells_what_the_model_says_here(tmp_path: Path) -> None:
    made, model = tokenizer(chat=True), llama(seed=3, hidden_size=128, num_attention_heads=2, num_key_value_heads=2)
    model.save_pretrained(tmp_path / "model")
    made.save_pretrained(tmp_path / "model")
    texts = ["say cat", "who are you? me, a hen.", "<|user|>dog<|end|><|assistant|>fish<|end|>"]
    rows = [{"input_ids": ids, "labels": [-100, *ids[1:]]} for ids in made(texts)["input_ids"]]
    options = ["--served-model-name", "talker", "--dtype", "float32", "--enforce-eager", "--max-model-len", "256"]
    with serving(["vllm", "serve", str(tmp_path / "model"), *options], tmp_path / "log") as address:
        server = Server(TeacherSpec(server=address, model="talker"), Recorder())
        grader = Grader(server, made, likeliest=20, vocabulary=tokens_of(made), budget=None)
        grader.check()
        told = grader.ask(rows, lambda tokens: None)
        with pytest.raises(ModelError) as refused:
            Grader(server, made, likeliest=25, vocabulary=tokens_of(made), budget=None).check()
    assert "greater than max allowed: 20" in refused.value.message
    assert "--set teacher.top_k=6" in (refused.value.hint or "")
    counts = [len(row["input_ids"]) - 1 for row in rows]
    values, ids = build_cache("top_k", model, rows, tmp_path / "here").read(range(len(rows)), counts)
    assert told["rows"].tolist() == counts
    assert ids is not None
    assert torch.equal(told["ids"], ids)
    torch.testing.assert_close(told["values"][:, :20], values[:, :20], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(told["values"][:, 20].exp(), values[:, 20].exp(), rtol=0, atol=1e-5)  # what 32 bits leave of a sum near one


@pytest.mark.skipif(not all(map(find_spec, SERVING)), reason="`transformers serve` needs transformers[serving]")
def test_transformers_serve_writes_and_is_refused_where_it_should_grade(tmp_path: Path) -> None:
    made, folder = tokenizer(chat=True), tmp_path / "model"
    parrot(made, ["h", "i", "</s>"]).save_pretrained(folder)
    made.save_pretrained(folder)
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), "--device", "cpu"]
    with serving(command, tmp_path / "log") as address:
        server = Server(TeacherSpec(server=address, model=str(folder)), Recorder())
        server.check()
        found = server.completions(
            [[{"role": "user", "content": f"say {word}"}] for word in ("cat", "dog", "hen")], most=8, seeds=[1, 2, 3]
        )
        assert [(each.text, each.ended) for each in found] == [("hi", True)] * 3
        assert all(each.tokens > 3 for each in found)
        with pytest.raises(ModelError, match="does not return log-probabilities of prompts, so it cannot grade rows"):
            Grader(server, made, likeliest=20, vocabulary=tokens_of(made), budget=None).check()


LLAMA = """
import sys, xllamacpp
given = xllamacpp.CommonParams()
given.model.path, given.n_ctx = sys.argv[1], 512
given.warmup = given.fit_params = given.ui = False
given.verbosity = 0
server = xllamacpp.Server(given)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not find_spec("xllamacpp"), reason="no xllamacpp")
def test_llama_cpps_server_writes_and_is_refused_where_it_should_grade(tmp_path: Path) -> None:
    run = run_of("llama", tmp_path)
    done = GGUF.export(run, tmp_path / "gguf", RuntimeOptions(device="cpu", dtype="float32"), Recorder())
    command = [sys.executable, "-c", LLAMA, str(tmp_path / "gguf" / done.file)]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdin=-1, stdout=-1, stderr=log, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, (tmp_path / "log").read_text(errors="replace")[-2000:]
        server = Server(TeacherSpec(server=f"{address}/v1", model="pico"), Recorder())
        server.check()
        chats = [[{"role": "user", "content": f"say {word}"}] for word in ("cat", "dog", "hen")]
        found = server.completions(chats, most=8, seeds=[1, 2, 3])
        assert all(each.text for each in found)
        assert all(3 < each.tokens <= 64 for each in found)
        assert len({each.text for each in server.completions([chats[0]] * 3, most=8, seeds=[1, 2, 3])}) == 3, "it samples, by the seed"
        tokens = tokenizer_of("llama")
        with pytest.raises(ModelError, match="does not return log-probabilities of prompts, so it cannot grade rows"):
            Grader(server, tokens, likeliest=20, vocabulary=tokens_of(tokens), budget=None).check()
        process.stdin.close()
