"""Axolotl's YAML: https://docs.axolotl.ai/docs/config-reference.html

base_model: org/name
datasets: [{path: org/rows, type: alpaca}]
adapter: lora
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune.importing.adapters import kind_of, of_adapter, target_modules
from finetune.importing.axolotl_data import datasets, pretraining, test_datasets
from finetune.importing.lines import (
    MAPPED,
    MISSING,
    SAME,
    Config,
    Line,
    Refused,
    Rule,
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
from finetune.importing.trainer_keys import ALL_DEVICES, BY_LOSS, BY_TRACKER, NOT_TRACKED, TRAINER, held_out, optimizer, scheduler

PACKED = (
    "rows are not packed: a step here has that many examples, where a packed step had as many as fit into sequence_len tokens; "
    "raise `training.batch_size` until memory is used"
)
TEXT_ALONE = "only the text part of a model trains, no vision or audio"
PREFERENCES = "{} asks for training from preferences or rewards, which this program does not do."
CHOSEN = "To learn the chosen answers alone, leave the key out: columns called chosen and rejected are recognised."
HARMLESS_PLUGINS = ("cut_cross_entropy", "liger", "kernels")


def base_model(config: Config, name: str, value: Any) -> Iterator[Line]:
    if not is_off(config.get("lora_model_dir")):
        yield Line(name, SAME, "the adapter under lora_model_dir names its own base")
        return
    revision = config.get("revision_of_model") or config.get("model_revision")
    yield Line(name, MAPPED, "with its revision" if revision else "", {"model": f"{value}@{revision}" if revision else str(value)})


def adapter(config: Config, name: str, value: Any) -> Iterator[Line]:
    """The method; a name that is one of this program's methods too is that method."""
    yield Line(name, MAPPED, keys={"method.kind": kind(config)})


def kind(config: Config) -> str:
    """What trains: an adapter beside a model, in 4 bits or not, or every weight."""
    return kind_of(config.get("adapter"), in_4_bits=not is_off(config.get("load_in_4bit")))


def layers(config: Config, name: str, value: Any) -> Iterable[Line]:
    if is_off(config.get("lora_target_linear")):
        return target_modules(config, name, value)
    return [Line(name, SAME, "every linear layer is adapted, as lora_target_linear says")]


def in_4_bits(config: Config, name: str, value: Any) -> Iterator[Line]:
    if kind(config) == "qlora":
        yield Line(name, MAPPED, keys={"method.kind": "qlora"})
    else:
        yield Line(name, MISSING, "a model in 4 bits needs LoRA: --set method.kind=qlora")


def checkpointing(config: Config, name: str, value: Any) -> Iterator[Line]:
    yield Line(name, MAPPED, keys={"training.activation_checkpointing": not is_off(value)})
    if isinstance(value, str) and value.startswith("offload"):
        yield Line(name, MISSING, "activations are recomputed, not moved to the CPU")


def chat_template(config: Config, name: str, value: Any) -> Iterator[Line]:
    if str(value).startswith("tokenizer_default"):
        yield Line(name, SAME, "the model's own chat template is used; a model without one gets a plain one")
    else:
        instead = "put another one into its tokenizer_config.json"
        yield Line(name, MISSING, f"the model's own chat template is used, whatever {shown(value)} is there; {instead}")


def special_tokens(config: Config, name: str, value: Any) -> Iterator[Line]:
    others = [key for key in value if key != "pad_token"] if isinstance(value, Mapping) else [name]
    if others:
        yield Line(name, MISSING, f"the tokenizer's own tokens are used ({', '.join(map(shown, others))})")
    if isinstance(value, Mapping) and "pad_token" in value:
        yield Line(f"{name}.pad_token", SAME, "padding has no loss and is never read, so its token does not matter")


def plugins(config: Config, name: str, value: Any) -> Iterator[Line]:
    for plugin in value if isinstance(value, list) else [value]:
        if "integrations.kd" in str(plugin):
            raise Refused(
                f"`{name}: {shown(plugin)}` learns from a teacher's stored probabilities, which cannot be read here.",
                hint="Name the teacher itself in a recipe of your own: `approach: distillation` and `teacher: MODEL`.",
            )
        if any(f"integrations.{part}" in str(plugin) for part in HARMLESS_PLUGINS):
            yield Line(name, SAME, "the loss never holds the logits of a batch; kernels are chosen for the machine")
        else:
            yield Line(name, MISSING, f"no plugins are loaded: {shown(plugin).rpartition('.')[2]}")


def tracker(named: str) -> Rule:
    return sets("training.report_to", lambda _: [named], f"{named} reads project and name from its own variables")


def excess_length(config: Config, name: str, value: Any) -> Iterator[Line]:
    if value == "truncate":
        yield Line(name, SAME, "longer rows are truncated here too")
    else:
        yield Line(name, MISSING, "longer rows are truncated, and the report says how many")


SAME_HERE = {
    "it follows the name of the model, after an @": "revision_of_model model_revision",
    "the model's own files say what it is": (
        "model_type type_of_model tokenizer_type tokenizer_use_fast tokenizer_legacy "
        "tokenizer_use_mistral_common is_llama_derived_model is_mistral_derived_model is_falcon_derived_model "
        "is_qwen_derived_model"
    ),
    "embeddings keep their size": "resize_token_embeddings_to_32x mean_resizing_embeddings shrink_embeddings",
    TEXT_ALONE: "processor_type processor_kwargs freeze_mm_modules image_size image_resize_algorithm",
    "the ends of answers come from the chat template, and are learned": "eot_tokens",
    "it belongs to packing, and rows are not packed": (
        "eval_sample_packing sample_packing_eff_est sample_packing_group_size sample_packing_bin_size "
        "sample_packing_sequentially sample_packing_seq_len_multiplier multipack_real_batches "
        "total_num_tokens total_supervised_tokens pad_to_multiple_of pretrain_multipack_attn "
        "pretrain_multipack_buffer_size streaming_multipack_buffer_size"
    ),
    "prepared rows are kept in a cache that knows its contents": (
        "dataset_prepared_path dataset_processes dataset_num_proc dataset_keep_in_memory skip_prepare_dataset "
        "num_dataset_shards_to_save push_dataset_to_hub preprocess_iterable"
    ),
    "rows are shuffled by `seed`": "shuffle_merged_datasets shuffle_before_merging_datasets",
    "of a Hub dataset only `dataset.samples` rows are fetched": "streaming",
    "peft decides by the type of layer": "lora_fan_in_fan_out",
    "it is decided while loading": "peft_autocast_adapter_dtype lora_on_cpu qlora_sharded_model_loading peft_ensure_weight_tying",
    "afterwards: finetune-cli merge OUTPUT_DIR": "merge_lora merge_method",
    "where memory runs out, fewer rows at a time make the same step": "auto_find_batch_size",
    "checkpoints are written by the clock, at a cost of a few percent": "saves_per_epoch save_first_step",
    "afterwards: finetune-cli resume OUTPUT_DIR": "auto_resume_from_checkpoints",
    "the report shows answers before and after": "eval_table_size eval_max_new_tokens generate_samples num_generation_samples",
    "training stops by itself when the loss is NaN or infinite": "loss_watchdog_threshold loss_watchdog_patience",
    "PyTorch's fused attention is used, as transformers sets it up": (
        "attn_implementation flash_attention sdp_attention xformers_attention flex_attention eager_attention "
        "sage_attention flash_attn_cross_entropy flash_attn_rms_norm flash_attn_fuse_mlp flash_optimum "
        "flex_attn_compile_kwargs s2_attention"
    ),
    "the loss never holds the logits of a batch": (
        "cut_cross_entropy chunked_cross_entropy chunked_cross_entropy_num_chunks liger_fused_linear_cross_entropy liger_cross_entropy"
    ),
    "it changes speed and memory, not the result": (
        "liger_rope liger_rms_norm liger_rms_norm_gated liger_layer_norm liger_glu_activation liger_swiglu "
        "lora_mlp_kernel lora_qkv_kernel lora_o_kernel lora_embedding_kernel use_kernels use_scattermoe "
        "use_sonicmoe experts_implementation fused_attn_kernel tiled_mlp"
    ),
    "the device is chosen when the model is loaded: see --device": (
        "low_cpu_mem_usage device device_map max_memory gpu_memory_limit experimental_skip_move_to_device "
        "gc_steps gc_collect_steps torch_empty_cache_steps torch_compile_backend torch_compile_mode strict "
        "debug"
    ),
    BY_TRACKER: (
        "wandb_entity wandb_name wandb_watch wandb_log_model wandb_run_id wandb_mode mlflow_tracking_uri "
        "mlflow_run_name hf_mlflow_log_artifacts trackio_run_name trackio_space_id"
    ),
    "tokens a second and memory are measured in every run": "include_tkps include_tokens_per_second profiler_steps profiler_steps_start",
}

MISSING_HERE = {
    "everything comes from the model's own files": "base_model_config tokenizer_config cls_model_config base_model_ignore_patterns",
    "the model's own config.json is used as it is": "model_config overrides_of_model_config model_kwargs",
    "the tokenizer stays as it is: new ones are `dataset.add_tokens`": "added_tokens_overrides",
    "the model's own chat template is used as it is": "chat_template_jinja chat_template_kwargs",
    "give the rows a column called system": "default_system_message",
    "rows are shuffled by `seed`": "curriculum_sampling",
    "equal rows stay among those for training, and are counted; none of them is held out": "dataset_exact_deduplication",
    "limit rows with `dataset.samples`": "dataset_shard_num dataset_shard_idx",
    "rows have one limit, `dataset.max_length`": "min_sample_len max_prompt_len eval_sequence_len",
    "with LoRA the model stays in 16 bits; if that does not fit: --set method.kind=qlora": "load_in_8bit",
    "only the adapter trains, embeddings and head stay": "lora_modules_to_save peft_trainable_token_indices",
    "experts are found by `target_modules: auto`": "lora_target_parameters",
    "every layer has the same rank: AdaLoRA finds ranks by itself": "lora_rank_pattern lora_alpha_pattern",
    "adapters go to every layer; name kinds of layers in `method.target_modules`": "peft_layers_to_transform peft_layers_pattern",
    "LoRA starts as peft starts it: one matrix of zeros": "peft peft_init_lora_weights peft_layer_replication",
    "both matrices of LoRA have the same learning rate": "loraplus_lr_ratio loraplus_lr_embedding",
    "every weight trains, or an adapter: `method.freeze: head` keeps embeddings and head": "unfrozen_parameters",
    "a GPTQ model cannot take an adapter here: name the original": "gptq gptq_groupsize gptq_model_v1 gptq_disable_exllama",
    "4 bits are NF4 with doubly quantised scales": "bnb_config_kwargs",
    "linear layers are quantised, as bitsandbytes does it": "quantize_moe_experts",
    "LoRA is not merged and restarted": "relora relora_prune_ratio relora_cpu_offload jagged_restart_steps jagged_restart_warmup_steps",
    "every weight trains at every step, or an adapter: `method`": "lisa_n_layers lisa_step_interval lisa_layers_attribute",
    "a step has `training.batch_size` times `training.gradient_accumulation` rows": "batch_size",
    "the schedule falls to zero along its usual curve": (
        "lr_scheduler_kwargs cosine_min_lr_ratio cosine_constant_lr_ratio lr_quadratic_warmup lr_div_factor eta_min"
    ),
    "all weights have one learning rate": "lr_groups embedding_lr embedding_lr_scale",
    "AdamW has its usual settings here": "optim_args optim_target_modules adam_beta3 adam_epsilon2 torchdistx_path",
    "activations are kept, or computed again (`training.activation_checkpointing`)": (
        "activation_offloading layer_offloading selective_checkpointing"
    ),
    f"{BY_LOSS}; in between with `training.evaluate_every`": "evals_per_epoch do_causal_lm_eval eval_causal_lm_metrics",
    f"the model is not split by this key: {ALL_DEVICES}": (
        "fsdp_version dp_shard_size dp_replicate_size tensor_parallel_size context_parallel_size expert_parallel_size"
    ),
    f"rows are not split: {ALL_DEVICES}": "sequence_parallel_degree heads_k_stride ring_attn_func deepcompile",
    "Ray is not used by this key: see --on ray": "use_ray ray_num_workers ray_run_name resources_per_worker",
    "here a class is an answer in words": "num_labels",
    "it belongs to training from preferences": (
        "trl vllm ebft rl_beta dpo_beta dpo_label_smoothing orpo_alpha cpo_alpha simpo_gamma "
        "kto_desirable_weight kto_undesirable_weight center_rewards_coefficient precompute_ref_log_probs"
    ),
    "a model is trained for few bits by `distillation.quantize`: q4_0, q8_0 or nf4": "qat quantization",
    "the loss is plain cross-entropy": "use_eaft eaft_alpha eaft_k",
    "the model is loaded as transformers loads it": (
        "llmcompressor use_onebitllms model_quantization_config model_quantization_config_kwargs"
    ),
    NOT_TRACKED: "use_comet comet_project_name comet_workspace comet_mode use_swanlab swanlab_project use_otel_metrics",
}

KEYS: dict[str, Rule] = {
    **TRAINER,
    **table(SAME_HERE, MISSING_HERE),
    "base_model": base_model,
    "lora_model_dir": sets("model", str, "an adapter to train further"),
    "special_tokens": special_tokens,
    "tokens": sets("dataset.add_tokens", list),
    "reinit_weights": refuses("{} starts from random weights, and this program trains models that know something.", "Leave it out."),
    "datasets": datasets,
    "pretraining_dataset": pretraining,
    "test_datasets": test_datasets,
    "val_set_size": held_out,
    "sequence_len": sets("dataset.max_length", whole),
    "excess_length_strategy": excess_length,
    "chat_template": chat_template,
    "train_on_inputs": switch(missing("prompts are never learned; of plain text every token is"), same("only answers are learned")),
    **each("sample_packing batch_flattening", switch(missing(PACKED), same("rows are not packed here either"))),
    "pad_to_sequence_len": same("a batch is as long as its longest row"),
    "adapter": adapter,
    "load_in_4bit": switch(in_4_bits, same("the model is loaded in the machine's precision")),
    "lora_r": of_adapter(kind, sets("method.r", whole)),
    "lora_alpha": of_adapter(kind, sets("method.alpha", whole)),
    "lora_dropout": of_adapter(kind, sets("method.dropout", float)),
    "lora_target_modules": of_adapter(kind, layers),
    "lora_target_linear": of_adapter(
        kind, switch(sets("method.target_modules", lambda _: "auto", "every linear layer"), same("lora_target_modules decides"))
    ),
    "peft_use_dora": of_adapter(kind, sets("method.dora", lambda value: not is_off(value)), only=("lora", "qlora")),
    "peft_use_rslora": of_adapter(kind, sets("method.rslora", lambda value: not is_off(value)), only=("lora", "qlora")),
    "micro_batch_size": sets("training.batch_size", whole, "of one GPU; a step here has the same rows on any number of GPUs"),
    "num_epochs": sets("training.epochs", float),
    "lr_scheduler": scheduler,
    "optimizer": optimizer,
    "gradient_checkpointing": checkpointing,
    "bfloat16": dtype("bfloat16"),
    "float16": dtype("float16"),
    "float32": dtype("float32"),
    "plugins": plugins,
    "rl": refuses(PREFERENCES, CHOSEN),
    **each("reward_model process_reward_model", refuses(PREFERENCES, "There is nothing like it here.")),
    "diffusion": refuses("{} trains a diffusion model, which this program does not do.", "There is nothing like it here."),
    "use_wandb": switch(tracker("wandb"), same("off there, and off here unless asked for")),
    "wandb_project": tracker("wandb"),
    "use_tensorboard": switch(tracker("tensorboard"), same("off there, and off here unless asked for")),
    "use_mlflow": switch(tracker("mlflow"), same("off there, and off here unless asked for")),
    "mlflow_experiment_name": tracker("mlflow"),
    "use_trackio": switch(tracker("trackio"), same("off there, and off here unless asked for")),
    "trackio_project_name": tracker("trackio"),
}


class Axolotl:
    title = "Axolotl"
    defaults = {"num_epochs": 1.0, "micro_batch_size": 1, "sequence_len": 512, "val_set_size": 0.0, "adapter": "", "lora_dropout": 0.0}
    keys = KEYS

    def beside(self, config: Config, folder: Path) -> Config:
        return config
