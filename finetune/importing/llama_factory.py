"""LLaMA-Factory's YAML: https://llamafactory.readthedocs.io

model_name_or_path: org/name
stage: sft
finetuning_type: lora
dataset: my_rows            # a name in data/dataset_info.json, which is read from next to the file or from here
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.importing.adapters import kind_of, of_adapter, target_modules
from finetune.importing.lines import (
    MAPPED,
    MISSING,
    SAME,
    Config,
    Line,
    Refused,
    Rule,
    converted,
    dtype,
    each,
    is_off,
    missing,
    refuses,
    same,
    sets,
    shown,
    switch,
    table,
    whole,
)
from finetune.importing.llama_factory_data import DESCRIBED, FOLDER, describe, descriptions, read_together
from finetune.importing.trainer_keys import ALL_DEVICES, NOT_TRACKED, TRAINER, held_out, optimizer, scheduler
from finetune.registry import names

STAGES = {"dpo": "preferences", "kto": "preferences", "rm": "preferences", "ppo": "rewards"}
TEXT_ALONE = "only the text part of a model trains, no vision or audio"
GENERATION = "answers are written word by word, always the most likely one, in the benchmark"
OTHER_OPTIMIZERS = "AdamW is used; a learning rate for another optimizer may not suit it"
PREFERENCES = "it belongs to training from preferences"
MERGED = "finetune-cli merge OUTPUT_DIR"


def model(config: Config, name: str, value: Any) -> Iterator[Line]:
    if not is_off(config.get("adapter_name_or_path")):
        yield Line(name, SAME, "the adapter under adapter_name_or_path names its own base")
        return
    revision = config.get("model_revision")
    revision = None if revision == "main" else revision
    yield Line(name, MAPPED, "with its revision" if revision else "", {"model": f"{value}@{revision}" if revision else str(value)})


def adapters(config: Config, name: str, value: Any) -> Iterator[Line]:
    """One adapter is trained further; several would have to be merged first."""
    first, *others = [part.strip() for part in str(value).split(",")]
    yield Line(name, MAPPED, "an adapter to train further", {"model": first})
    if others:
        yield Line(name, MISSING, f"one adapter at a time: merge the first into its base ({MERGED}), then start from the result")


def stage(config: Config, name: str, value: Any) -> Iterator[Line]:
    if goal := STAGES.get(str(value)):
        raise Refused(
            f"`stage: {value}` asks for training from {goal}, which this program does not do.",
            hint="To learn the chosen answers alone, write `stage: sft`: columns called chosen and rejected are recognised.",
        )
    if value == "pt":
        yield Line(name, SAME, "of plain text every token is learned")
    elif value == "sft":
        yield Line(name, SAME, "answers are learned, prompts are not")
    else:
        raise Refused(f"`stage: {shown(value)}` is not a stage that is known here.", hint="Choose from sft, pt.")


def kind(config: Config) -> str:
    """What trains; LoRA where nothing is said, as there."""
    return kind_of(
        {"full": None}.get(str(config.get("finetuning_type")), config.get("finetuning_type", "lora")),
        in_4_bits=str(config.get("quantization_bit")) == "4",
    )


def finetuning_type(config: Config, name: str, value: Any) -> Iterator[Line]:
    yield Line(name, MAPPED, keys={"method.kind": kind(config)})


def bits(config: Config, name: str, value: Any) -> Iterator[Line]:
    if str(value) == "4" and kind(config) == "qlora":
        yield Line(name, MAPPED, keys={"method.kind": "qlora"})
    else:
        yield Line(name, MISSING, "with an adapter the model has 4 bits (--set method.kind=qlora) or the machine's precision")


def rank(config: Config, name: str, value: Any) -> Iterator[Line]:
    """The rank, and LLaMA-Factory's scale of twice the rank where none is given."""
    yield from sets("method.r", whole)(config, name, value)
    if is_off(config.get("lora_alpha")):
        yield Line(name, MAPPED, "lora_alpha is twice the rank there", {"method.alpha": 2 * converted(name, value, whole)})


def training_only(config: Config, name: str, value: Any) -> Iterator[Line]:
    """A file that only merges, predicts or chats is no training."""
    if is_off(config.get("do_train")) and is_off(config.get("dataset")):
        raise Refused(
            f"`{name}: {shown(value)}` without `do_train` is not a training run.",
            hint=f"Here that is: {MERGED}, finetune-cli benchmark OUTPUT_DIR, or finetune-cli chat OUTPUT_DIR",
        )
    yield Line(name, SAME, "every run is measured before and after training; files for others: finetune-cli merge or export")


def checkpointing(config: Config, name: str, value: Any) -> Iterator[Line]:
    yield Line(name, MAPPED, keys={"training.activation_checkpointing": is_off(value)})


def samples(config: Config, name: str, value: Any) -> Iterator[Line]:
    """LLaMA-Factory counts them for each dataset, a recipe all that are read together."""
    together = max(1, len(read_together(config)))
    number = converted(name, value, whole) * together
    yield Line(name, MAPPED, f"{shown(value)} of each dataset there, {number} in all" if together > 1 else "", {"dataset.samples": number})


def template(config: Config, name: str, value: Any) -> Iterator[Line]:
    yield Line(
        name, MISSING, f"the model's own chat template is used, whatever {shown(value)} is there; a model without one gets a plain one"
    )


SAME_HERE = {
    "it follows the name of the model, after an @": "model_revision",
    "files are found by their names: see the variable FINETUNE_CLI_CACHE": "adapter_folder cache_dir offload_folder",
    "a recipe holds no token: sign in with `hf auth login`": "hf_hub_token ms_hub_token om_hub_token",
    "loading is set up to suit the machine": "use_fast_tokenizer low_cpu_mem_usage device_map print_param_status",
    "control tokens that somebody wrote into a message stay text": "split_special_tokens",
    "PyTorch's fused attention is used, as transformers sets it up": "flash_attn",
    "it changes speed and memory, not the result": "use_unsloth use_unsloth_gc enable_liger_kernel use_v1_kernels",
    "the loss is computed in full precision from states in the machine's": "upcast_layernorm upcast_lmhead_output",
    "recomputation is set up to suit the method": "use_reentrant_gc",
    "it belongs to loading and chatting": "use_kv_cache infer_backend infer_dtype block_diag_attn model_max_length compute_dtype",
    "of a Hub dataset only `dataset.samples` rows are fetched": "streaming",
    "rows are shuffled by `seed`": "buffer_size disable_shuffling",
    "prepared rows are kept in a cache that knows its contents": (
        "overwrite_cache preprocessing_batch_size preprocessing_num_workers tokenized_path data_shared_file_system"
    ),
    "padding has no loss": "ignore_pad_token_for_loss",
    "tools and calls are written by the model's own chat template": "tool_format",
    "reasoning goes where the model's own chat template puts it": "enable_thinking preserve_thinking",
    TEXT_ALONE: (
        "media_dir freeze_vision_tower freeze_multi_modal_projector image_max_pixels image_min_pixels "
        "image_do_pan_and_scan video_max_pixels video_min_pixels video_fps video_maxlen use_audio_in_video "
        "audio_sampling_rate crop_to_patches"
    ),
    "finetune-cli run trains": "do_train",
    "4 bits are NF4 with doubly quantised scales": "quantization_type double_quantization quantization_device_map",
    "activations are recomputed if memory runs out (`training.activation_checkpointing: auto`)": "gradient_checkpointing",
    "every run has a report page with its curve, and its tokens a second": "plot_loss include_effective_tokens_per_second",
    "hub_model_id says where to": "push_to_hub",
    "machines meet by --rdzv alone": "master_addr master_port resources_per_worker placement_strategy",
    f"afterwards: {MERGED}": "export_size export_device export_legacy_format export_hub_model_id export_quantization_bit",
    "afterwards: finetune-cli export OUTPUT_DIR --to gguf:q4_0": (
        "export_quantization_dataset export_quantization_nsamples export_quantization_maxlen"
    ),
    GENERATION: (
        "do_sample temperature top_p top_k num_beams max_length repetition_penalty length_penalty eval_num_beams skip_special_tokens"
    ),
}

MISSING_HERE = {
    "the tokenizer stays as it is": "resize_vocab add_special_tokens new_special_tokens_config init_special_tokens",
    "the model's own config.json is used as it is": "rope_scaling mixture_of_depths shift_attn",
    "experts are balanced by the coefficient in the model's config.json": "moe_aux_loss_coef",
    "held-out rows are measured together": "eval_on_each_dataset",
    "give the rows a column called system": "default_system",
    "only the adapter trains, embeddings and head stay": "additional_target",
    f"an adapter is trained further: to begin another, merge it first ({MERGED})": "create_new_adapter",
    "LoRA starts as peft starts it: one matrix of zeros": "pissa_init pissa_iter pissa_convert",
    "both matrices of LoRA have the same learning rate": "loraplus_lr_ratio loraplus_lr_embedding",
    "there is no OFT: use lora": "oft_rank oft_block_size oft_target module_dropout",
    "every weight trains, or an adapter: `method.freeze: head` keeps embeddings and head": (
        "freeze_trainable_layers freeze_trainable_modules freeze_extra_modules use_llama_pro"
    ),
    "the text part of a model is what trains": "freeze_language_model",
    "the schedule falls to zero along its usual curve": "lr_scheduler_kwargs",
    "AdamW has its usual settings here": "optim_args",
    OTHER_OPTIMIZERS: (
        "use_galore use_apollo use_badam use_adam_mini use_muon galore_target galore_rank "
        "galore_update_interval galore_scale galore_proj_type galore_layerwise apollo_target apollo_rank "
        "apollo_update_interval apollo_scale apollo_proj apollo_proj_type apollo_scale_type apollo_layerwise "
        "apollo_scale_front badam_mode badam_start_block badam_switch_mode badam_switch_interval "
        "badam_update_ratio badam_mask_mode badam_verbose"
    ),
    "the loss is plain cross-entropy": "use_dft_loss use_asft_loss asft_alpha use_eaft_loss eaft_alpha",
    f"benchmark.metrics can be {', '.join(names('metrics'))}; accuracy is of whole answers, not of tokens": "compute_accuracy",
    "Ray is not used by this key: see --on ray": "use_ray ray_num_workers ray_run_name ray_init_kwargs ray_storage_path ray_num_nodes",
    "a GPU trains in bfloat16 or float16: see --dtype": "fp8_backend fp8_enable_fsdp_float8_all_gather",
    "seconds of each stage are in run/events.jsonl": "enable_torch_profiler profiler_output_dir",
    f"the model is not split by this key: {ALL_DEVICES}": (
        "use_kt kt_config kt_weight_path use_mca use_megatron_bridge use_hyper_parallel tensor_model_parallel_size"
    ),
    PREFERENCES: (
        "pref_beta pref_ftx pref_bco_weight pref_loss dpo_label_smoothing kto_chosen_weight "
        "kto_rejected_weight simpo_gamma ld_alpha ref_model ref_model_adapters ref_model_quantization_bit "
        "reward_model reward_model_adapters reward_model_type ppo_buffer_size ppo_epochs ppo_score_norm "
        "ppo_target ppo_whiten_rewards"
    ),
    NOT_TRACKED: ("use_swanlab swanlab_project swanlab_workspace swanlab_run_name swanlab_mode swanlab_api_key swanlab_logdir"),
}

KEYS: dict[str, Rule] = {
    **TRAINER,
    **table(SAME_HERE, MISSING_HERE),
    "model_name_or_path": model,
    "adapter_name_or_path": adapters,
    "train_from_scratch": refuses("{} starts from random weights, and this program trains models that know something.", "Leave it out."),
    "disable_gradient_checkpointing": checkpointing,
    "dataset": describe("dataset"),
    "eval_dataset": describe("eval_dataset"),
    DESCRIBED: lambda config, name, value: (),
    FOLDER: same("where dataset_info.json and the files are: they are named in full here"),
    "template": template,
    "cutoff_len": sets("dataset.max_length", whole),
    "max_samples": switch(samples, sets("dataset.samples", lambda _: None, "all rows")),
    "val_size": held_out,
    "train_on_prompt": switch(missing("prompts are never learned; of plain text every token is"), same("only answers are learned")),
    "mask_history": switch(
        missing("every answer of a conversation is learned; mark turns with `train: false` that are not to be"),
        same("every answer of a conversation is learned"),
    ),
    "packing": switch(
        missing("rows are not packed: raise `training.batch_size` until memory is used"), same("rows are not packed here either")
    ),
    "neat_packing": switch(missing("rows are not packed: raise `training.batch_size`"), same("rows are not packed here either")),
    **each("mix_strategy interleave_probs", switch(missing("files are read one after another, and their rows shuffled"), same("off"))),
    "stage": stage,
    "finetuning_type": finetuning_type,
    "quantization_bit": bits,
    "quantization_method": switch(
        lambda config, name, value: (
            same("bitsandbytes is used here too")(config, name, value)
            if value in ("bnb", "bitsandbytes")
            else missing("only bitsandbytes quantises here")(config, name, value)
        ),
        same("off"),
    ),
    "lora_rank": of_adapter(kind, rank),
    "lora_alpha": of_adapter(kind, sets("method.alpha", whole)),
    "lora_dropout": of_adapter(kind, sets("method.dropout", float)),
    "lora_target": of_adapter(kind, target_modules),
    "use_dora": of_adapter(kind, sets("method.dora", lambda value: not is_off(value)), only=("lora", "qlora")),
    "use_rslora": of_adapter(kind, sets("method.rslora", lambda value: not is_off(value)), only=("lora", "qlora")),
    "per_device_train_batch_size": sets("training.batch_size", whole, "of one GPU; a step here has the same rows on any number of GPUs"),
    "num_train_epochs": sets("training.epochs", float),
    "lr_scheduler_type": scheduler,
    "optim": optimizer,
    "pure_bf16": dtype("bfloat16"),
    **each("do_predict predict_with_generate export_dir", training_only),
    "early_stopping_steps": sets("training.patience", whole),
    "add_tokens": sets("dataset.add_tokens", lambda value: [token.strip() for token in str(value).split(",")]),
    **each("max_new_tokens generation_max_length", sets("benchmark.max_new_tokens", whole)),
}


class LlamaFactory:
    title = "LLaMA-Factory"
    defaults = {
        "finetuning_type": "lora",
        "lora_rank": 8,
        "lora_dropout": 0.0,
        "cutoff_len": 2048,
        "val_size": 0.0,
        "max_samples": None,
        "per_device_train_batch_size": 8,
        "learning_rate": 5e-5,
        "num_train_epochs": 3.0,
        "lr_scheduler_type": "linear",
        "warmup_ratio": 0.0,
        "eval_strategy": "no",
        "push_to_hub": False,
    }
    keys = KEYS

    def beside(self, config: Config, folder: Path) -> Config:
        """With the descriptions of its datasets, where dataset_info.json is found. Raises Refused for the files of version 1."""
        if is_off(config.get("model_name_or_path")) and (named := config.get("model")):
            raise Refused(
                f"`model: {shown(named)}` is how version 1 of LLaMA-Factory begins, whose files are not read here.",
                hint="Files with `model_name_or_path` are. Or begin with one of ours: finetune-cli recipes",
            )
        return {**config, DESCRIBED: descriptions(config, folder)}
