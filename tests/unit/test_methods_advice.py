"""Which method the wizard proposes, from the model's numbers and the machine's memory alone."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune import registry
from finetune.formatting import size
from finetune.hardware.machine import Glance
from finetune.planning.memory import adapter_parameters, memory_parts
from finetune.runtime import RuntimeOptions
from finetune.screen.plan_table import fit_line
from finetune.wizard import step3_config
from finetune.wizard.asking.prompter import Question, ScriptedPrompter
from finetune.wizard.host import HostInfo
from finetune.wizard.method_memory import options, recommended

GB = 10**9
SMALL = {"lora": 3 * GB, "qlora": 1 * GB, "full": 9 * GB}
GPT2 = {"parameters": 124_439_808, "layers": 12, "hidden": 768, "linear": 84_934_656}


@pytest.fixture(autouse=True)
def _nothing_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("finetune.wizard.defaults.version", lambda _: "2.13.0+cpu")


def machine(free: float, folder: Path) -> HostInfo:
    glance = Glance("a processor", 4, round(2 * free * GB), round(free * GB), 10**12, None, 0)
    return HostInfo(glance, False, RuntimeOptions(cache_dir=folder))


class Listens(ScriptedPrompter):
    """Keeps what the method question says."""

    def ask(self, question: Question) -> str | bool:
        if question.key == "method.kind":
            self.help, self.more, self.notes = question.help, question.more, {choice.value: choice.note for choice in question.choices}
        return super().ask(question)


@pytest.mark.parametrize(
    ("chosen", "free", "line"),
    [
        ("lora", 11, "fits: LoRA 3.0 GB of 11.0 GB; QLoRA would need 1.0 GB"),
        ("lora", 2, "does not fit: LoRA 3.0 GB of 2.0 GB; QLoRA would need 1.0 GB"),
        ("qlora", 2, "fits: QLoRA 1.0 GB of 2.0 GB; LoRA would need 3.0 GB"),
    ],
)
def test_one_line_says_what_fits_and_what_another_would_need(chosen: str, free: int, line: str) -> None:
    assert fit_line(chosen, SMALL, free * GB) == line


@pytest.mark.parametrize(("free", "method"), [(11, "lora"), (2, "qlora"), (0.5, "qlora")])
def test_lora_where_it_fits_then_qlora(free: float, method: str) -> None:
    assert recommended(SMALL, round(free * GB)) == method


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_the_wizard_proposes_what_fits(method: str, tmp_path: Path) -> None:
    prompter = Listens({}, otherwise_default=True)
    draft = {"approach": "fine-tuning", "model": "HuggingFaceTB/SmolLM2-1.7B-Instruct", "output_dir": "out"}
    needed = options(draft, machine(64, tmp_path)).needed
    assert needed["qlora"] < needed["lora"] < needed["full"]
    free = 1.01 * needed[method] / GB
    found = options(draft, machine(free, tmp_path))
    assert step3_config.ask(draft, prompter, machine(free, tmp_path))["method"]["kind"] == method
    assert f"its: {registry.title('methods', method)} up to {size(found.needed[method])} of " in prompter.help


def test_on_a_gpu_only_what_nobody_else_has_taken_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.wizard.defaults.version", lambda _: "2.13.0+cu130")
    shared = replace(machine(64, tmp_path).glance, gpu="a GPU", gpu_memory_bytes=80 * GB, free_gpu_memory_bytes=7 * GB)
    draft = {"approach": "fine-tuning", "model": "HuggingFaceTB/SmolLM2-1.7B-Instruct", "output_dir": "out"}
    assert options(draft, HostInfo(shared, False, RuntimeOptions(cache_dir=tmp_path))).free == 7 * GB


def test_what_was_chosen_before_stays_the_default(tmp_path: Path) -> None:
    draft = {"approach": "fine-tuning", "model": "gpt2", "output_dir": "out", "method": {"kind": "full"}}
    assert step3_config.ask(draft, Listens({}, otherwise_default=True), machine(64, tmp_path))["method"]["kind"] == "full"


def test_a_model_nobody_knows_yet_gets_no_numbers(tmp_path: Path) -> None:
    prompter = Listens({}, otherwise_default=True)
    step3_config.ask({"approach": "fine-tuning", "model": "someone/unheard-of", "output_dir": "out"}, prompter, machine(4, tmp_path))
    assert prompter.help == "Which weights are trained."


def test_what_is_missing_is_said_beside_the_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.methods.qlora.find_spec", lambda name: None)
    prompter = Listens({}, otherwise_default=True)
    draft = {"approach": "fine-tuning", "model": "gpt2", "output_dir": "out"}
    step3_config.ask(draft, prompter, machine(0.5, tmp_path))
    assert "qlora" not in prompter.notes, "what cannot work is not offered"
    assert "Not possible here: QLoRA (QLoRA needs the package bitsandbytes" in prompter.more
    assert "QLoRA" not in prompter.help


def test_a_student_made_from_its_teacher_is_offered_no_adapter(tmp_path: Path) -> None:
    draft = {"approach": "distillation", "model": {"from_teacher": {"layers": 6}}, "teacher": "gpt2-medium", "output_dir": "out"}
    found = options(draft, machine(64, tmp_path))
    methods = {name: registry.load("methods", name) for name in registry.BUILT_IN["methods"]}
    adapters = {name for name, method in methods.items() if method.footprint(method.Spec()).adapter}
    assert set(found.refused) == adapters
    assert set(found.needed) == methods.keys() - adapters
    assert found.needed["full"] > 12 * 355_000_000


@pytest.mark.parametrize(("kind", "default"), [("LORA", "lora"), ("IA3", "full"), (None, "full")])
def test_an_earlier_adapter_is_offered_what_can_train_it_further(kind: str | None, default: str, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    (earlier / "adapter_config.json").write_text(json.dumps({"peft_type": kind, "r": 4}))
    (earlier / "adapter_model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    draft = {"approach": "fine-tuning", "model": str(earlier), "output_dir": "out"}
    prompter = Listens({}, otherwise_default=True)
    assert step3_config.ask(draft, prompter, machine(64, tmp_path))["method"]["kind"] == default
    if default == "full":  # the only one that works is told, not asked
        assert "method.kind" not in prompter.asked
        assert any(line.startswith("Method: Full") and "merge" in line for line in prompter.shown)
    else:
        assert "adalora" not in prompter.notes, "what cannot work is not offered"
        assert "merge" in prompter.more


def test_the_size_of_an_adapter_from_the_shape_alone_is_that_of_the_starter() -> None:
    assert adapter_parameters(rank=16, linear=106_168_320, layers=30, hidden=576) == 4_884_480


def test_memory_by_method_has_the_order_that_people_know() -> None:
    from finetune.methods.base import NF4_BITS, Footprint

    situation: dict[str, Any] = {"tokens": 512, "narrow": 2, "on_cpu": False, "checkpointed": False, **GPT2}
    lora = memory_parts(Footprint(adapter=True, rank=16), trainable=2_359_296, **situation)
    qlora = memory_parts(replace(Footprint(adapter=True, rank=16), bits=NF4_BITS), trainable=2_359_296, **situation)
    full = memory_parts(Footprint(adapter=False), trainable=GPT2["parameters"], **situation)
    assert qlora["weights"] == pytest.approx((GPT2["parameters"] - GPT2["linear"]) * 2 + GPT2["linear"] * 0.5159, rel=1e-3)
    assert qlora["weights"] < lora["weights"] < full["weights"]
    assert full["optimizer"] == 8 * GPT2["parameters"]
