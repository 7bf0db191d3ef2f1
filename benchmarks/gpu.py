"""What a GPU makes of the engine, beside Trainer + peft with and without Liger: one table, within nine minutes on one card.

    python benchmarks/gpu.py --log gpu.jsonl          # every section; needs a CUDA GPU; liger-kernel and bitsandbytes where installed
    python benchmarks/gpu.py --only loss,chunks       # sections, in this order
    python benchmarks/gpu.py --only training --like "Qwen3 0.6B, LoRA"        # parts with these words
    python benchmarks/gpu.py --seconds 300            # what there is no time for is listed
    python benchmarks/gpu.py --tiny                   # on any machine, in seconds: shows that the script works

Each line comes as soon as it is measured. A part that fails or takes too long says so in one line, and the table goes on. Twenty seconds
before the end no part is begun: those that are missing are listed. Last come the tables of docs/numbers.md, filled in; where the script was
ended before that, `python benchmarks/gpu_tables.py gpu.jsonl` makes them.

Models have random weights and the shapes of Llama-3.2-1B and Qwen3-0.6B. Each way of training makes two passes over the same rows, and
the second one counts: in the first, every new shape of a matrix loads its kernel. Liger changes classes of transformers for the rest of
the process, so whatever uses it comes last. Losses must agree: a way that is quick and learns something else would show.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import transformers
from gpu_bench import Bench
from gpu_loss import chunks, loss, loss_profile
from gpu_profile import Watch
from gpu_tables import tables
from timed_parts import DEVICE, GIB, SECONDS, Part, Parts, fresh, installed, peak, seconds, wait
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from finetune import registry
from finetune.data.tokens.collator import Collator
from finetune.distillation.caches.builder import build_cache
from finetune.distillation.trainer import DistillationTrainer
from finetune.methods.base import MethodContext
from finetune.planning.memory import memory_parts
from finetune.training.head import head_of
from finetune.training.trainer import SupervisedTrainer

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "liger-kernel", "triton")


def machine(bench: Bench) -> Parts:
    size = 512 if bench.tiny else 8192

    def product(dtype: torch.dtype) -> None:
        one, other = (torch.randn(size, size, device=DEVICE, dtype=dtype) for _ in range(2))
        bench.rate = 2 * size**3 / seconds(lambda: one @ other)
        bench.tell("product", str(dtype)[6:], TFLOPs=round(bench.rate / 1e12, 1))

    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        yield Part(str(dtype)[6:], partial(product, dtype), 20.0)


class Clock(TrainerCallback):
    """When the GPU was done with each pass of `steps` steps."""

    def __init__(self, steps: int) -> None:
        self.steps, self.marks = steps, list[float]()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.steps == 0:
            wait()
            self.marks.append(time.perf_counter())


def two_passes(bench: Bench, **more: Any) -> TrainingArguments:
    """Settings of a training that writes and draws nothing."""
    quiet: dict[str, Any] = {"report_to": [], "disable_tqdm": True, "save_strategy": "no"}
    return TrainingArguments(tempfile.mkdtemp(), per_device_train_batch_size=bench.batch, num_train_epochs=2, **quiet, **more)


def train(bench: Bench, what: str, model: Any, trainer: Any = SupervisedTrainer, *, predicted: int = 0, **settings: Any) -> float:
    """Tokens a second of the second pass over the rows."""
    rows = bench.rows(model.config.vocab_size)
    more = {name: settings.pop(name) for name in ("teacher_model", "cache", "temperature", "alpha") if name in settings}
    clock = Clock(bench.steps)
    arguments = two_passes(
        bench,
        logging_steps=bench.steps,
        train_sampling_strategy="sequential",
        use_cpu=DEVICE == "cpu",
        learning_rate=1e-5,
        **settings,
    )
    collator = Collator(0) if trainer is Trainer else None
    made = trainer(model=model, args=arguments, train_dataset=rows, data_collator=collator, callbacks=[clock], **more)
    made.remove_callback(PrinterCallback)  # whose lines would be in the table
    with fresh():
        made.train()
    first, last = clock.marks
    rate = sum(len(row["input_ids"]) for row in rows) / (last - first)
    found = {"tokens_per_s": round(rate), "GiB": round(peak() / GIB, 2)}
    if not getattr(model, "is_loaded_in_4bit", False):  # whose weights are packed two to a byte
        found["of_the_products'_rate"] = round(rate * operations(model) / bench.rate, 2)
    if predicted:
        found["planned_GiB"] = round(predicted / GIB, 2)
    if rows_at_a_time := getattr(getattr(made, "micro_batches", None), "rows", None):
        found["rows_at_a_time"] = rows_at_a_time
    losses = [round(float(line["loss"]), 3) for line in made.state.log_history if "loss" in line]
    bench.tell("training", what, **found, loss=losses[-1])
    return rate


def operations(model: Any) -> int:
    """Of a token's products, forward and backward, attention's own left out: four for each weight, and two more for one that trains."""
    return sum((6 if each.requires_grad else 4) * each.numel() for each in model.parameters() if each.ndim > 1)


def adapted(kind: str, model: Any, bench: Bench) -> Any:
    method = registry.load("methods", kind)
    return method.attach(model, method.Spec(), MethodContext(total_steps=2 * bench.steps))


def planned(kind: str, model: Any, bench: Bench) -> int:
    """What the plan says of memory."""
    method, config = registry.load("methods", kind), model.config
    parameters = sum(each.numel() for each in model.parameters())
    learn = sum(each.numel() for each in model.parameters() if each.requires_grad)
    linear = sum(each.weight.numel() for each in model.modules() if isinstance(each, nn.Linear)) - config.vocab_size * config.hidden_size
    sizes = {"parameters": parameters, "linear": linear, "trainable": learn, "layers": config.num_hidden_layers}
    widths = {"hidden": config.hidden_size, "tokens": bench.batch * bench.longest, "narrow": 2}
    return sum(memory_parts(method.footprint(method.Spec()), **sizes, **widths, on_cpu=DEVICE == "cpu", checkpointed=False).values())


def training(bench: Bench) -> Parts:
    """LoRA, QLoRA and every weight, ours and the Trainer's."""
    on_gpu = DEVICE == "cuda"

    def lora(what: str, shape: str, dtype: torch.dtype) -> None:
        model = adapted("lora", bench.model(shape, dtype), bench)
        train(bench, what, model, predicted=planned("lora", model, bench), fp16=dtype == torch.float16 and on_gpu)

    def full(what: str, shape: str) -> None:
        model = adapted("full", bench.model(shape, torch.float32), bench)
        train(bench, what, model, predicted=planned("full", model, bench), bf16=on_gpu)

    def qlora(what: str, shape: str) -> None:
        train(bench, what, adapted("qlora", rounded(bench, shape), bench))

    def theirs(what: str, shape: str, **more: Any) -> None:
        train(bench, what, bench.model(shape, torch.float32), Trainer, bf16=on_gpu, **more)

    def peft(what: str, shape: str, **more: Any) -> None:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM")
        train(bench, what, get_peft_model(bench.model(shape, torch.bfloat16), config), Trainer, **more)

    ways: list[tuple[str, str, Callable[..., None], dict[str, Any]]] = []
    for shape in bench.shapes:
        ways.append((shape, "LoRA in bfloat16: ours", lora, {"dtype": torch.bfloat16}))
        if shape == next(iter(bench.shapes)):
            ways.append((shape, "LoRA in float16: ours", lora, {"dtype": torch.float16}))
        ways += [(shape, "every weight: ours", full, {}), (shape, "every weight: Trainer", theirs, {})]
        if on_gpu and installed("bitsandbytes"):
            ways.append((shape, "QLoRA: ours", qlora, {}))
        ways.append((shape, "LoRA in bfloat16: Trainer + peft", peft, {}))
    if on_gpu and installed("liger-kernel"):
        ways += [(shape, "LoRA in bfloat16: Trainer + peft + Liger", peft, {"use_liger_kernel": True}) for shape in bench.shapes]
    for shape, way, work, more in ways:
        what = f"{shape}, {way}"
        yield Part(what, partial(work, what, shape, **more), 90.0 if work is qlora else 60.0)


def rounded(bench: Bench, shape: str) -> Any:
    """The model in 4 bits, as QLoRA loads it."""
    folder = tempfile.mkdtemp()
    bench.model(shape, torch.bfloat16).save_pretrained(folder)
    bits: Any = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map={"": 0}, quantization_config=bits)


def student_of(bench: Bench, shape: str) -> Any:
    """A student whose embeddings, and with them its head, are frozen."""
    made = bench.model(shape, torch.bfloat16)
    made.get_input_embeddings().requires_grad_(False)
    return made


def distil(bench: Bench) -> Parts:
    """A student as large as its teacher from each cache and online, against fine-tuning the same student."""
    shape = next(iter(bench.shapes))
    settings: dict[str, Any] = {"temperature": 2.0, "alpha": 0.5}

    @cache
    def teacher() -> Any:
        return bench.model(shape, torch.bfloat16)

    student = cache(partial(student_of, bench, shape))

    def cached(kind: str) -> None:
        more: dict[str, Any] = {"student_head": head_of(student()), "temperature": 2.0} if kind == "gradient" else {}
        rows = bench.rows(teacher().config.vocab_size)
        with fresh():
            wait()
            began = time.perf_counter()
            answers = build_cache(kind, teacher(), rows, tempfile.mkdtemp(), teacher_identity="benchmark", **more)
        took = time.perf_counter() - began
        sizes = {"bytes_per_token": round(answers.nbytes / answers.tokens), "GiB": round(peak() / GIB, 2)}
        bench.tell("cache", f"{shape}, {kind}", tokens_per_s=round(sum(len(row["input_ids"]) for row in rows) / took), **sizes)
        train(bench, f"{shape}, distilling from the {kind} cache", student(), DistillationTrainer, cache=answers, **settings)

    fine, online = f"{shape}, fine-tuning the student", f"{shape}, distilling online"
    yield Part(fine, lambda: train(bench, fine, student()))
    for kind in ("hidden", "gradient"):
        yield Part(f"{shape}, the {kind} cache", partial(cached, kind), 90.0)
    yield Part(online, lambda: train(bench, online, student(), DistillationTrainer, teacher_model=teacher(), **settings))


def memory(bench: Bench) -> Parts:
    """What happens with 60 % of the memory that a step needs."""
    if DEVICE != "cuda":
        return
    shape = next(iter(bench.shapes))

    def less() -> None:
        train(bench, f"{shape}, LoRA: all the memory it needs", adapted("lora", bench.model(shape, torch.bfloat16), bench))
        torch.cuda.set_per_process_memory_fraction(0.6 * peak() / torch.cuda.get_device_properties(0).total_memory)
        try:
            train(bench, f"{shape}, LoRA: 60 % of that", adapted("lora", bench.model(shape, torch.bfloat16), bench))
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)

    yield Part(f"{shape}, LoRA with less memory", less, 90.0)


def profile(bench: Bench) -> Parts:
    """Where the time of a step goes: LoRA, full training, a student alone and from a hidden cache; and of the head and its loss."""
    shape = next(iter(bench.shapes))

    def method(kind: str, dtype: torch.dtype) -> Trained:
        return SupervisedTrainer, adapted(kind, bench.model(shape, dtype), bench), {}

    def cached() -> Trained:
        teacher = bench.model(shape, torch.bfloat16)
        rows = bench.rows(teacher.config.vocab_size)
        answers = build_cache("hidden", teacher, rows, tempfile.mkdtemp(), teacher_identity="benchmark")
        return DistillationTrainer, student_of(bench, shape), {"cache": answers, "temperature": 2.0, "alpha": 0.5}

    steps: dict[str, Callable[[], Trained]] = {
        "lora": partial(method, "lora", torch.bfloat16),
        "full": partial(method, "full", torch.float32),
        "student": lambda: (SupervisedTrainer, student_of(bench, shape), {}),
        "hidden cache": cached,
    }
    for kind, make in steps.items():
        yield Part(f"a step of {kind}", partial(_profile, bench, kind, make), 60.0)
    yield from loss_profile(bench)


Trained = tuple[Any, Any, dict[str, Any]]  # a kind of Trainer, a model, and what the Trainer takes beside it


def _profile(bench: Bench, kind: str, make: Callable[[], Trained]) -> None:
    trainer, model, more = make()
    watch = Watch(bench.steps, bench.steps // 3)
    arguments = two_passes(
        bench, use_cpu=DEVICE == "cpu", bf16=next(model.parameters()).dtype == torch.float32 and DEVICE == "cuda", logging_strategy="no"
    )
    made = trainer(model=model, args=arguments, train_dataset=bench.rows(model.config.vocab_size), callbacks=[watch], **more)
    made.remove_callback(PrinterCallback)
    try:
        made.train()
    finally:
        watch.close()
    watch.kernels.tell(bench, kind)
    waits = watch.waits()
    bench.tell("waiting", f"{kind}: for the GPU, in a step", times=round(sum(waits.values()), 2))
    for line, often in waits.items():
        bench.tell("waiting", f"{kind}: {line}", times=round(often, 2))


SECTIONS = {
    "machine": machine,
    "loss": loss,
    "chunks": chunks,
    "distil": distil,
    "memory": memory,
    "profile": profile,
    "training": training,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="What a GPU makes of the engine.")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, with commas")
    parser.add_argument("--like", default="", help="words of the parts that are wanted")
    parser.add_argument("--tiny", action="store_true", help="shapes for a CPU")
    parser.add_argument("--log", type=Path, help="a file for one JSON object per line")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all of it")
    asked = parser.parse_args()
    if unknown := sorted({*asked.only.split(",")} - {*SECTIONS}):
        parser.error(f"There is no section called {', '.join(unknown)}: {', '.join(SECTIONS)}")
    bench = Bench(asked.log, tiny=asked.tiny, seconds=asked.seconds)
    print("| section | what | numbers |\n|---|---|---|", flush=True)
    here: dict[str, Any] = {package: installed(package) for package in PACKAGES}
    if DEVICE == "cuda":
        free, total = torch.cuda.mem_get_info()
        here |= {"CUDA": torch.version.cuda or torch.version.hip, "free_GiB": round(free / GIB, 1), "of_GiB": round(total / GIB, 1)}
    bench.tell("machine", torch.cuda.get_device_name(0) if DEVICE == "cuda" else "CPU", **here)
    for section in dict.fromkeys(["machine", *asked.only.split(",")]):
        parts = SECTIONS[section](bench)
        bench.section(section, (part for part in parts if section == "machine" or asked.like in part.what))
    for missing in bench.missing:
        bench.tell("missing", missing, begin_until=f"{bench.begin_until:.0f} s")
    bench.tell("machine", "done", seconds=round(bench.passed))
    print(tables(bench.told))
    return int(bench.failed)


if __name__ == "__main__":
    sys.exit(main())
