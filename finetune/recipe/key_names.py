"""The recipe key that somebody means by another name: a misspelt one, or what Trainer, TRL, Axolotl and LLaMA-Factory call it.

meant("training.lr", known)            # " Did you mean training.learning_rate?"
meant("trainings.epochs", known)       # " Did you mean training.epochs?"
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches

CLOSE = 0.6  # of two names; with less, `temp` would be `keep`
ELSEWHERE = {
    "model": "model_name_or_path model_name model_id base_model",
    "teacher": "teacher_model teacher_model_name_or_path",
    "seed": "random_seed random_state",
    "output_dir": "out_dir output output_path",
    "dataset.source": "path file train_file data_path data_files_path dataset_name dataset_path",
    "dataset.samples": "max_samples num_samples max_train_samples",
    "dataset.max_length": "max_seq_length max_seq_len sequence_len sequence_length cutoff_len",
    "dataset.held_out": "val_set_size val_size test_size validation_split",
    "training.epochs": "num_train_epochs num_epochs n_epochs",
    "training.learning_rate": "lr",
    "training.batch_size": "per_device_train_batch_size micro_batch_size train_batch_size",
    "training.gradient_accumulation": "gradient_accumulation_steps grad_accum accumulate_grad_batches",
    "training.scheduler": "lr_scheduler lr_scheduler_type",
    "training.warmup": "warmup_ratio warmup_steps",
    "training.activation_checkpointing": "gradient_checkpointing",
    "training.evaluate_every": "eval_steps",
    "training.save_every": "save_steps",
    "training.patience": "early_stopping_patience",
    "training.keep": "load_best_model_at_end",
    "method.r": "rank lora_r lora_rank",
    "method.alpha": "lora_alpha",
    "method.dropout": "lora_dropout",
    "method.target_modules": "lora_target lora_target_modules",
    "method.dora": "use_dora peft_use_dora",
    "method.rslora": "use_rslora peft_use_rslora",
    "distillation.temperature": "temp",
    "distillation.objective": "loss loss_type",
    "upload.repo": "hub_model_id",
}
OWN = {name: key for key, names in ELSEWHERE.items() for name in names.split()}


def meant(path: str, known: Collection[str]) -> str:
    """' Did you mean KEY?' of the `known` keys, or nothing."""
    found = _nearest(path, known)
    return f" Did you mean {found}?" if found else ""


def possible(path: str, known: Collection[str]) -> str:
    """The keys that can stand where `path` does, or all."""
    siblings = [key for key in known if key.rpartition(".")[0] == path.rpartition(".")[0]]
    return f"Possible keys: {', '.join(siblings or known)}."


def _nearest(path: str, known: Collection[str]) -> str | None:
    parent, _, last = path.rpartition(".")
    elsewhere = [key for key in known if key.rpartition(".")[2] == last]  # epochs, for training.epochs
    if len(elsewhere) == 1:
        return elsewhere[0]
    if OWN.get(last) in known:
        return OWN[last]
    siblings = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == parent}
    if siblings:  # the beginnings are the same, and would make every two of them similar
        return _close(last, siblings)
    return _close(path, {key: key for key in known})


def _close(name: str, keys: Mapping[str, str]) -> str | None:
    found = get_close_matches(name, list(keys), n=1, cutoff=CLOSE)
    return keys[found[0]] if found else None
