"""Models that read letters: a tokenizer with one token a letter, two architectures of a few thousand parameters, held-out rows.

model, made = llama(seed=3), tokenizer(chat=True)
rows = held_out(made, [("who? ", "me")])
"""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHAT = (
    "{% for turn in messages %}<|{{ turn.role }}|>{{ turn.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LETTERS = "abcdefghijklmnopqrstuvwxyz .,?"
SPECIAL = ["<pad>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
VOCABULARY = len(SPECIAL) + len(LETTERS)


def tokenizer(*, chat: bool = False) -> PreTrainedTokenizerFast:
    """With `chat`, a template whose turns end with <|end|>."""
    backend = Tokenizer(models.WordLevel({piece: place for place, piece in enumerate([*SPECIAL, *LETTERS])}, unk_token="."))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")
    made.add_special_tokens({"additional_special_tokens": SPECIAL[2:]})
    made.chat_template = CHAT if chat else None
    return made


def llama(seed: int = 0, *, layers: int = 2, vocabulary: int = VOCABULARY, **config: Any) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
    ends = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=vocabulary, num_hidden_layers=layers, max_position_embeddings=256, **ends, **{**shape, **config})
    ).eval()


def parrot(made: PreTrainedTokenizerFast, cycle: list[str]) -> LlamaForCausalLM:
    """A model that says the tokens of `cycle` over and over, beginning with the first after any token that is not one of them."""
    model = llama(layers=1, hidden_size=64)
    ids = made.convert_tokens_to_ids(cycle)
    follows = dict(zip(ids, [*ids[1:], ids[0]], strict=True))
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(VOCABULARY, 64))
        model.lm_head.weight.zero_()
        for token in range(VOCABULARY):
            model.lm_head.weight[follows.get(token, ids[0]), token] = 1
    return model


def gpt2(seed: int = 0) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.3}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=1, **shape)).eval()


def held_out(made: PreTrainedTokenizerFast, pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Rows as the data stage gives them: labels on the answer and its end token."""
    rows = []
    for prompt, answer in pairs:
        asked = made(prompt)["input_ids"]
        told = [*made(answer)["input_ids"], made.eos_token_id]
        labels = [-100] * len(asked) + told
        rows.append({"input_ids": asked + told, "labels": labels, "prompt_ids": asked, "prompt": prompt, "reference": answer})
    return rows
