"""The kinds of files from elsewhere: small valid ones of each, and how the program reads them.

kind = make("gguf", Path("workplace"))
kind.read(mutant)        # nothing, or the FinetuneError that a person would read
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from fuzz_data import DATA, Kind, data

from finetune.events import Recorder
from finetune.runtime import RuntimeOptions


def make(name: str, workplace: Path) -> Kind:
    workplace.mkdir(parents=True, exist_ok=True)
    if name in DATA:
        return data(name, workplace)
    return {
        "gguf": gguf_header,
        "gguf-model": gguf_model,
        "safetensors": safetensors_header,
        "recipe": recipe,
        "run": run_folder,
        "config": model_folder,
        "weights": weights,
        "adapter": adapter,
        "tokenizer": tokenizer,
        "template": template,
        "checkpoint": checkpoint,
    }[name](workplace)


LIGHT = ("gguf", "safetensors", "recipe", "run", *DATA)
HEAVY = ("config", "weights", "adapter", "tokenizer", "template", "gguf-model", "checkpoint")


def gguf_header(workplace: Path) -> Kind:
    from finetune.models.facts import look_up
    from finetune.models.gguf_file import read_header

    path = workplace / "model.gguf"

    def read(_: str, content: bytes) -> None:
        path.write_bytes(content)
        read_header(path)
        look_up(str(path), RuntimeOptions(cache_dir=workplace / "cache"))

    return Kind({path.name: (_gguf(path), "bytes")}, read)


def _gguf(path: Path) -> bytes:
    from test_models_load import write_gguf

    write_gguf(path)
    return path.read_bytes()


def gguf_model(workplace: Path) -> Kind:
    from finetune.models.location import locate

    path, runtime = workplace / "model.gguf", RuntimeOptions(cache_dir=workplace / "cache")

    def read(_: str, content: bytes) -> None:
        path.write_bytes(content)
        try:
            locate(str(path), runtime, Recorder())
        finally:
            shutil.rmtree(runtime.cache_dir, ignore_errors=True)

    return Kind({path.name: (_gguf(path), "bytes")}, read)


def safetensors_header(workplace: Path) -> Kind:
    from finetune.model_folder import fingerprint, tensor_places
    from finetune.models.facts import describe
    from finetune.models.location import locate

    (workplace / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 16, "vocab_size": 30}))
    header = {name: {"dtype": "F32", "shape": [4, 4], "data_offsets": [64 * at, 64 * at + 64]} for at, name in enumerate("abc")}
    text = json.dumps(header).encode()
    path, runtime = workplace / "model.safetensors", RuntimeOptions(cache_dir=workplace / "cache")

    def read(_: str, content: bytes) -> None:
        if content[:1] == b"{":
            content = len(content).to_bytes(8, "little") + content + bytes(192)
        path.write_bytes(content)
        tensor_places(path)
        fingerprint(workplace, "mine")
        describe(locate(str(workplace), runtime, Recorder()))

    whole = len(text).to_bytes(8, "little") + text + bytes(192)
    return Kind({path.name: (whole, "bytes"), "header": (text, "json")}, read)


def recipe(workplace: Path) -> Kind:
    from finetune.recipe import Recipe

    path = workplace / "recipe.yaml"
    Recipe.from_layers({"method": "adalora", "upload": "ada/model"}).save(path)

    def read(_: str, content: bytes) -> None:
        path.write_bytes(content)
        Recipe.load(path, overrides=["training.epochs=1"])

    return Kind({path.name: (path.read_bytes(), "yaml")}, read)


def run_folder(workplace: Path) -> Kind:
    from rich.console import Console
    from written_run import written_run

    from finetune.benchmark.report.page import write_report
    from finetune.errors import FinetuneError
    from finetune.publish.card import write_card
    from finetune.run.comparison import compare
    from finetune.run.history import find_runs, read_run
    from finetune.run.resume import find, unfinished_runs
    from finetune.screen.comparison import comparison_picture
    from finetune.screen.console import AS_IT_IS, THEME
    from finetune.screen.run_list import runs_picture

    folder = written_run(workplace / "runs" / "one", teacher=True)
    other = written_run(workplace / "other", teacher=True)
    console = Console(file=io.StringIO(), width=80, theme=THEME, **AS_IT_IS)
    named = {
        path.name: path
        for path in (folder.recipe, folder.benchmark, folder.progress, folder.environment, folder.data_report, folder.events)
    }
    manifest = {"version": 1, "step": 4, "total_steps": 8, "saved_at": 1.0, "seconds": 2.0, "files": {"a": {"bytes": 1, "sha256": "0"}}}
    named["manifest.json"] = folder.checkpoints / "step-00000004" / "manifest.json"
    named["manifest.json"].parent.mkdir(parents=True)
    named["manifest.json"].write_text(json.dumps(manifest))
    named["stage"] = folder.progress
    valid = {name: path.read_bytes() for name, path in named.items()} | {"stage": b'{"stage": "training"}'}

    def read(name: str, content: bytes) -> None:
        if name == "manifest.json":
            folder.progress.write_bytes(valid["stage"])
        named[name].write_bytes(content)
        try:
            runs = find_runs(workplace / "runs")
            json.dumps([run.to_dict() for run in runs])
            console.print(runs_picture(runs, "."))
            unfinished_runs(workplace / "runs")
            for work in (
                lambda: find(folder.output_dir),
                lambda: write_card(folder),
                lambda: write_report(folder),
                lambda: console.print(comparison_picture(compare(runs[0], read_run(other.output_dir)), 80)),
            ):
                with suppress(FinetuneError):
                    work()
        finally:
            for each in (name, "progress.json"):
                named[each].write_bytes(valid[each])

    damage = {"recipe.yaml": "yaml"}
    return Kind({name: (content, damage.get(name, "json")) for name, content in valid.items()}, read)


def _base(folder: Path) -> Path:
    from finished_run import base_folder

    return base_folder(folder)


def _loaded(folder: Path, runtime: RuntimeOptions) -> Any:
    from finetune.hardware.machine import Machine, inspect
    from finetune.models.facts import describe
    from finetune.models.load import load_model, load_tokenizer
    from finetune.models.location import locate

    located = locate(str(folder), runtime, Recorder())
    describe(located)
    machine: Machine = inspect(runtime)
    return load_tokenizer(located), load_model(located, machine)


def model_folder(workplace: Path) -> Kind:
    from finetune import registry
    from finetune.models.location import locate
    from finetune.planning.shape import what_learns
    from finetune.recipe import Recipe
    from finetune.training.decoding import stop_ids

    folder, runtime = _base(workplace / "base"), _cpu(workplace)
    names = ("config.json", "generation_config.json")
    valid = {name: (folder / name).read_bytes() for name in names}
    method = Recipe.from_layers({}).method

    def read(name: str, content: bytes) -> None:
        (folder / name).write_bytes(content)
        try:
            made, model = _loaded(folder, runtime)
            stop_ids(model, made)
            what_learns(locate(str(folder), runtime, Recorder()), registry.load("methods", "lora"), method)
        finally:
            (folder / name).write_bytes(valid[name])

    return Kind({name: (content, "json") for name, content in valid.items()}, read)


def _cpu(workplace: Path) -> RuntimeOptions:
    return RuntimeOptions(cache_dir=workplace / "cache", device="cpu", dtype="float32")


def weights(workplace: Path) -> Kind:
    folder, runtime = _base(workplace / "base"), _cpu(workplace)
    path = folder / "model.safetensors"

    def read(_: str, content: bytes) -> None:
        path.write_bytes(content)
        _loaded(folder, runtime)

    return Kind({path.name: (path.read_bytes(), "bytes")}, read)


def adapter(workplace: Path) -> Kind:
    from finished_run import finished_run

    from finetune.recipe import Recipe

    base = _base(workplace / "base")
    run = finished_run(workplace / "run", base, Recipe.from_layers({"model": str(base)}))
    folder, runtime = run.output_dir, _cpu(workplace)
    names = ("adapter_config.json", "adapter_model.safetensors")
    valid = {name: (folder / name).read_bytes() for name in names}

    def read(name: str, content: bytes) -> None:
        (folder / name).write_bytes(content)
        try:
            _loaded(folder, runtime)
        finally:
            (folder / name).write_bytes(valid[name])

    return Kind({name: (content, "json" if name.endswith(".json") else "bytes") for name, content in valid.items()}, read)


def tokenizer(workplace: Path) -> Kind:
    from bytes_tokenizer import CHATML, byte_level

    from finetune.models.load import load_tokenizer
    from finetune.models.location import locate

    folder, runtime = _base(workplace / "base"), _cpu(workplace)
    byte_level(CHATML).save_pretrained(folder)
    names = [name for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json") if (folder / name).is_file()]
    valid = {name: (folder / name).read_bytes() for name in names}

    def read(name: str, content: bytes) -> None:
        (folder / name).write_bytes(content)
        try:
            _encoded(load_tokenizer(locate(str(folder), runtime, Recorder())), folder)
        finally:
            (folder / name).write_bytes(valid[name])

    return Kind({name: (content, "json") for name, content in valid.items()}, read)


def _encoded(tokenizer: Any, folder: Path) -> None:
    from finetune.data.rows import RowProblem
    from finetune.data.tokens.encoder import Encoder
    from finetune.models.templates.chat_template import render_chat

    turns = [{"role": "user", "content": "Hello there!"}, {"role": "assistant", "content": "The answer is 42."}]
    encoder = Encoder(tokenizer, max_length=64, supervise="answers")
    for _, found in encoder.encode([[{"messages": turns}, {"messages": [*turns, *turns]}]]):
        assert isinstance(found, RowProblem | list)
    if tokenizer.chat_template:
        render_chat(tokenizer, turns[:1], add_generation_prompt=True)


def template(workplace: Path) -> Kind:
    from bytes_tokenizer import TEMPLATES, byte_level

    made = byte_level(TEMPLATES["chatml"])

    def read(_: str, content: bytes) -> None:
        made.chat_template = content.decode("utf-8", "replace")
        if made.chat_template:
            _encoded(made, workplace)

    return Kind({name: (text.encode(), "template") for name, text in TEMPLATES.items()}, read)


def checkpoint(workplace: Path) -> Kind:
    """Files with the right hashes and the wrong content: what somebody else's checkpoint may be."""
    from letters import llama
    from letters import tokenizer as letters_tokenizer
    from test_training_loop import rows

    from finetune.hardware.machine import inspect
    from finetune.recipe import Recipe
    from finetune.training.checkpoints import MANIFEST, Checkpoints
    from finetune.training.loop import train

    recipe = Recipe.from_layers({"method": "full", "training": {"save_every": 2, "epochs": 1, "batch_size": 4, "gradient_accumulation": 1}})
    machine, tokens, few = inspect(_cpu(workplace)), letters_tokenizer(chat=True), rows().select(range(12))
    train(llama(), tokens, few, recipe, machine, Recorder(), folder=workplace / "first")
    source = Checkpoints(workplace / "first").all()[-1].folder
    valid = {path.name: path.read_bytes() for path in source.iterdir()}
    folder = workplace / "second" / source.name
    shutil.rmtree(folder.parent, ignore_errors=True)
    shutil.copytree(source, folder)

    def read(name: str, content: bytes) -> None:
        (folder / name).write_bytes(content)
        try:
            if name != MANIFEST:
                manifest = json.loads(valid[MANIFEST])
                manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                (folder / MANIFEST).write_text(json.dumps(manifest))
            start = Checkpoints(folder.parent).newest(lambda _: None)
            if start is not None:
                train(llama(), tokens, few, recipe, machine, Recorder(), folder=workplace / "third", start=start)
        finally:
            shutil.rmtree(folder.parent)
            shutil.copytree(source, folder)
            shutil.rmtree(workplace / "third", ignore_errors=True)

    return Kind({name: (content, "json" if name.endswith(".json") else "bytes") for name, content in valid.items()}, read)


def chosen(kind: Kind, numbers: random.Random) -> tuple[str, bytes, str]:
    """One of the valid files, with its name and the way to damage it."""
    name = numbers.choice(sorted(kind.files))
    return name, *kind.files[name]
