"""Keys of Hugging Face's Trainer, which Axolotl and LLaMA-Factory both hand through under the Trainer's own names.

TRAINER["learning_rate"]({}, "learning_rate", "2e-5")     # training.learning_rate: 2.0e-05
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from finetune.importing.lines import (
    MAPPED,
    MISSING,
    SAME,
    Config,
    Line,
    Rule,
    converted,
    dtype,
    each,
    fixed,
    is_off,
    missing,
    option,
    same,
    sets,
    shown,
    switch,
    table,
    whole,
)
from finetune.registry import names

SCHEDULERS = ("cosine", "linear", "constant", "constant_with_warmup")
ADAMW = re.compile(r"adamw(_hf|_torch|_torch_fused|_torch_npu_fused|_apex_fused|_anyprecision)?|optimi_adamw|flash_adamw")
IN_FEWER_BITS = re.compile(r"(paged_)?(ao_)?adamw_(bnb_)?(torch_)?(\dbit|32bit|fp8)|paged_adamw")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
NOT_TRACKED = "its values are in run/events.jsonl; trackers here: tensorboard, wandb, mlflow, trackio (`training.report_to`)"
BY_TRACKER = "the tracker reads its own variables of the environment, such as WANDB_PROJECT"
ALL_DEVICES = "every GPU trains with a copy of the model, or with a part of it where that does not fit; see --nproc and --shard"
BY_LOSS = "the loss of held-out rows is measured before and after training"


def scheduler(config: Config, name: str, value: Any) -> Iterator[Line]:
    """One of the four that there are; cosine replaces another, with a line about it."""
    if value in SCHEDULERS:
        yield Line(name, MAPPED, keys={"training.scheduler": value})
    else:
        others = ", ".join(SCHEDULERS[1:])
        yield Line(name, MISSING, f"there is no {shown(value)} here; cosine is used (also: {others})", {"training.scheduler": "cosine"})


def optimizer(config: Config, name: str, value: Any) -> Iterator[Line]:
    text = str(value).lower()
    if ADAMW.fullmatch(text):
        yield Line(name, SAME, "AdamW is used here too")
    elif IN_FEWER_BITS.fullmatch(text):
        yield Line(name, MISSING, "AdamW is used with a state in 32 bits: as good or better, with 8 bytes for each trained weight")
    else:
        yield Line(name, MISSING, f"AdamW is used, not {shown(value)}; a learning rate for another optimizer may not suit it")


def warmup_steps(config: Config, name: str, value: Any) -> Iterator[Line]:
    """A share, or a number of steps, which is a share only where all steps are known; no steps leave it to warmup_ratio."""
    number, every, shares = converted(name, value, float), config.get("max_steps"), not is_off(config.get("warmup_ratio"))
    if number == 0 and shares:
        yield Line(name, SAME, "warmup_ratio decides")
    elif number < 1:
        yield Line(name, MAPPED, keys={"training.warmup": number})
    elif _some_of(every, number):
        said = f"{number:g} of {every} steps: right for a run of that many; see max_steps"
        yield Line(name, MAPPED, said, {"training.warmup": round(number / every, 4)})
    else:
        kept = {} if shares else {"training.warmup": 0.03}
        yield Line(name, MISSING, "a recipe has a share of all steps, whose number is not known yet", kept)


def warmup_ratio(config: Config, name: str, value: Any) -> Iterator[Line]:
    """A share, unless warmup_steps says one: steps go before a share."""
    steps = converted("warmup_steps", config.get("warmup_steps") or 0, float)
    if 0 < steps < 1 or _some_of(config.get("max_steps"), steps):
        yield Line(name, SAME, "warmup_steps takes precedence")
    else:
        yield from sets("training.warmup", float)(config, name, value)


def _some_of(every: Any, steps: float) -> bool:
    return isinstance(every, int) and 0 < steps < every


def save_steps(config: Config, name: str, value: Any) -> Iterator[Line]:
    number = converted(name, value, float)
    if number >= 1:
        yield Line(name, MAPPED, keys={"training.save_every": converted(name, value, whole)})
    else:
        yield Line(name, SAME, "checkpoints are written by the clock, at a cost of a few percent")


def eval_steps(config: Config, name: str, value: Any) -> Iterator[Line]:
    number = converted(name, value, float)
    strategies = [config[key] for key in ("eval_strategy", "evaluation_strategy") if key in config]
    no_rows = is_off(config.get("val_set_size", "unknown")) and is_off(config.get("test_datasets"))
    if no_rows or (strategies and all(map(is_off, strategies))):
        yield Line(name, SAME, "not measured while it trains there either")
    elif number >= 1:
        yield Line(name, MAPPED, "on rows of their own", {"training.evaluate_every": converted(name, value, whole)})
    else:
        yield Line(name, MISSING, "a number of steps is needed: `training.evaluate_every`")


def eval_strategy(config: Config, name: str, value: Any) -> Iterable[Line]:
    """Steps are those of eval_steps; epochs are not counted."""
    if str(value).lower() == "steps" and not is_off(config.get("eval_steps")):
        return [Line(name, SAME, "eval_steps decides")]
    return missing(f"{BY_LOSS}; in between with `training.evaluate_every`")(config, name, value)


def best_by(config: Config, name: str, value: Any) -> Iterator[Line]:
    """What says which checkpoint is the best: here the loss of held-out rows."""
    if is_off(config.get("load_best_model_at_end")):
        yield Line(name, SAME, "it only matters where checkpoints are compared")
    elif str(value).removeprefix("eval_") == "loss":
        yield Line(name, SAME, "the loss of held-out rows says here too which checkpoint is the best")
    else:
        yield Line(name, MISSING, "the loss of held-out rows says which checkpoint is the best")


def max_steps(config: Config, name: str, value: Any) -> Iterator[Line]:
    """A recipe counts passes over rows; what it would have to say is worked out."""
    steps = converted(name, value, whole)
    if steps <= 0:
        yield Line(name, SAME, "no limit")
        return
    sizes = [config.get(key) for key in ("micro_batch_size", "per_device_train_batch_size", "gradient_accumulation_steps")]
    rows = steps * math.prod(size for size in sizes if isinstance(size, int))
    instead = f"--set training.epochs=1 --set dataset.samples={math.ceil(rows / 0.9)} trains for about that many, if there are enough rows"
    yield Line(name, MISSING, f"a recipe counts passes over the rows, not steps: {instead}")


def held_out(config: Config, name: str, value: Any) -> Iterator[Line]:
    """A share of the rows; the proof needs some, so none becomes the usual tenth."""
    number = converted(name, value, float)
    if 0 < number < 1:
        yield Line(name, MAPPED, keys={"dataset.held_out": number})
    elif number == 0:
        yield Line(name, MAPPED, "none there; a tenth is kept here, to measure the result", {"dataset.held_out": 0.1})
    else:
        yield Line(name, MISSING, f"{number:g} rows there, a share of the rows here: --set dataset.held_out=0.1 is the default")


def upload(config: Config, name: str, value: Any) -> Iterator[Line]:
    """A repository of the Hub, private unless the file says otherwise."""
    if not REPOSITORY.fullmatch(str(value)):
        yield Line(name, MISSING, "it is not USER/NAME; afterwards: finetune-cli upload OUTPUT_DIR --repo USER/NAME")
    elif "push_to_hub" in config and is_off(config["push_to_hub"]):
        yield Line(name, SAME, "nothing is uploaded there: push_to_hub is off")
    else:
        private = not is_off(config.get("hub_private_repo", True))
        yield Line(name, MAPPED, "once, at the end", {"upload.repo": str(value), "upload.private": private})


def trackers(config: Config, name: str, value: Any) -> Iterator[Line]:
    """Every named tracker that there is."""
    wanted = [str(tracker).strip().lower() for tracker in (value if isinstance(value, list) else str(value).split(","))]
    wanted = [tracker for tracker in wanted if not is_off(tracker)]
    known = [tracker for tracker in wanted if tracker in names("trackers")]
    if known:
        yield Line(name, MAPPED, keys={"training.report_to": known})
    elif not wanted:
        yield Line(name, SAME, "off there, and off here unless asked for")
    for other in wanted:
        if other not in known:
            yield Line(name, MISSING, f"{shown(other)}: {NOT_TRACKED}")


def bf16(config: Config, name: str, value: Any) -> Iterable[Line]:
    if str(value).lower() == "auto":
        return [Line(name, SAME, "the machine decides here too")]
    return dtype("bfloat16")(config, name, value)


SAME_HERE = {
    "beside hub_model_id: an upload is private unless this is false": "hub_private_repo",
    "PyTorch's default for the machine is used": "tf32",
    "it belongs to metric_for_best_model": "greater_is_better",
    "recomputation is set up to suit the method": "gradient_checkpointing_kwargs",
    "every step is recorded in run/events.jsonl": "logging_steps logging_strategy logging_first_step include_num_input_tokens_seen",
    "checkpoints are written by the clock, or every `training.save_every` steps": "save_strategy",
    "the last two checkpoints and the best are kept, and deleted after a finished run": "save_total_limit",
    "checkpoints are complete, the result holds weights as safetensors": "save_only_model save_safetensors",
    "rows are tokens on disk before training starts, so nothing loads them beside it": (
        "dataloader_num_workers dataloader_pin_memory dataloader_prefetch_factor dataloader_drop_last dataloader_persistent_workers"
    ),
    "processes are started and connected by --nproc alone": (
        "ddp ddp_timeout ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers local_rank world_size accelerator_config"
    ),
    "`seed` decides all of it": "data_seed full_determinism",
    "the benchmark chooses how many rows it reads at a time": "per_device_eval_batch_size eval_batch_size eval_accumulation_steps",
    "it is about the Trainer's own housekeeping": "remove_unused_columns ignore_data_skip",
    BY_TRACKER: "run_name logging_dir",
    "the result is uploaded once, when the run is finished": "hub_strategy hub_revision hub_always_push",
    "a recipe holds no token: sign in with `hf auth login`": "hub_token push_to_hub_token hf_use_auth_token",
    "an output folder with other work is never overwritten: choose another --output-dir": "overwrite_output_dir",
}

MISSING_HERE = {
    "a GPU trains in bfloat16 or float16: see --dtype": "fp8",
    "no noise is added to embeddings": "neftune_noise_alpha",
    "the loss is plain cross-entropy; a teacher's distribution does more: `approach: distillation`": "label_smoothing_factor",
    "the model is not compiled; the loss never holds the logits of a batch, which saves as much memory": "torch_compile",
    "checkpoints of other programs cannot be continued: name the model they hold as `model`": "resume_from_checkpoint",
    f"nothing is sharded by DeepSpeed: {ALL_DEVICES}": "deepspeed",
    f"nothing is sharded by this key: {ALL_DEVICES}": "fsdp",
    f"it belongs to fsdp: {ALL_DEVICES}": "fsdp_config fsdp_transformer_layer_cls_to_wrap",
    f"{BY_LOSS}; in between with `training.evaluate_every`": "do_eval",
}

TRAINER: dict[str, Rule] = {
    **table(SAME_HERE, MISSING_HERE),
    "learning_rate": sets("training.learning_rate", float),
    "gradient_accumulation_steps": sets("training.gradient_accumulation", whole),
    "warmup_ratio": warmup_ratio,
    "warmup_steps": warmup_steps,
    "max_steps": max_steps,
    "seed": sets("seed", whole),
    "output_dir": sets("output_dir", str),
    "save_steps": save_steps,
    "eval_steps": eval_steps,
    **each("eval_strategy evaluation_strategy", eval_strategy),
    "load_best_model_at_end": switch(sets("training.keep", lambda value: "best"), same("the result is the model after the last step")),
    "metric_for_best_model": best_by,
    "early_stopping_patience": sets("training.patience", whole),
    "report_to": trackers,
    "hub_model_id": upload,
    "weight_decay": fixed(0, "AdamW has no weight decay here"),
    "max_grad_norm": fixed(1, "gradients are always clipped at the same norm"),
    "adam_beta1": fixed(0.9, "AdamW's first beta cannot be changed"),
    "adam_beta2": fixed(0.999, "AdamW's second beta cannot be changed"),
    "adam_epsilon": fixed(1e-8, "AdamW's epsilon cannot be changed"),
    "bf16": bf16,
    "fp16": dtype("float16"),
    "use_cpu": option("--device cpu"),
    "trust_remote_code": option("--trust-remote-code", "runs the code of the model: only if you trust it"),
    "group_by_length": switch(
        same("rows of similar length always go together"), same("rows of similar length go together here, at no cost")
    ),
}
