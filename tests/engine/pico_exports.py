"""Small models of every architecture that can be exported, as the output folders of runs, with tokenizers that can write any text.

run = run_of("gemma2", tmp_path)

Each has a chat template of the kind that is usual for it; what they have in common is that an export must not notice.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from bytes_tokenizer import CHATML, INST, THINKING, TRIMMED, byte_level, sentence_piece
from bytes_tokenizer import CORPUS as WORDS
from tokenizers import Tokenizer

from finetune.models.templates.template_facts import prompt_options
from finetune.recipe import Recipe
from finetune.run_folder import RunFolder

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {**SHAPE, "tie_word_embeddings": True}),
    "mistral": ("Mistral", {**SHAPE, "tie_word_embeddings": False}),
    "qwen2": ("Qwen2", {**SHAPE, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {**SHAPE, "tie_word_embeddings": False}),
    "gemma2": ("Gemma2", {**SHAPE, "query_pre_attn_scalar": 16, "sliding_window": 256}),
    "gemma3": ("Gemma3Text", {**SHAPE, "num_hidden_layers": 6, "query_pre_attn_scalar": 16, "sliding_window": 256}),
    "gpt2": ("GPT2", GPT2),
    "phi3": ("Phi3", {**SHAPE, "tie_word_embeddings": False}),
    "smollm3": ("SmolLM3", {**SHAPE, "num_hidden_layers": 4, "tie_word_embeddings": True}),
}
CORPUS = [*WORDS, *["in 1969 and 2024 it was 12345 or 123, 4242\n"] * 20]  # numbers become tokens, which ways of cutting treat differently
ROUNDED = 16  # embeddings are often a few more than tokens
SENTENCE_PIECE = ("mistral", "gemma2", "gemma3", "phi3")
BEGINS = ("qwen2", "smollm3")  # byte-level tokenizers that begin every text; the template of the second does not
OPENS = {"mistral": "always", "phi3": "first"}  # with a space, as transformers makes LlamaTokenizer of old and of new files
PHI = CHATML.replace("<|im_start|>' + turn.role + '", "<|' + turn.role + '|>").replace("<|im_start|>assistant", "<|assistant|>")
PHI = PHI.replace("<|im_end|>", "<|end|>")
PHI_MARKS = ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|user|>", "<|end|>")
CHATS = {"mistral": INST, "qwen2": TRIMMED, "qwen3": THINKING, "gemma2": TRIMMED, "gemma3": TRIMMED, "gpt2": None, "phi3": PHI}


def tokenizer_of(name: str) -> Any:
    """Its bytes are ordinary tokens, as in those that people use."""
    chats = CHATS.get(name, CHATML)
    if name not in SENTENCE_PIECE:
        return byte_level(chats, bos=name in BEGINS, corpus=CORPUS)
    made = sentence_piece(chats)
    described = json.loads(made.backend_tokenizer.to_str())
    described["added_tokens"] = [each for each in described["added_tokens"] if not each["content"].startswith("<0x")]
    if name == "phi3":
        _mark_as_phi(described)
    if name in OPENS:
        opened = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": OPENS[name], "split": False}
        described |= {"normalizer": None, "pre_tokenizer": opened}
    again = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(described)),
        clean_up_tokenization_spaces=False,
        pad_token="<|endoftext|>" if name == "phi3" else "<pad>",
        bos_token="<s>",
        eos_token="</s>",
    )
    again.chat_template = chats
    return again


def _mark_as_phi(described: dict[str, Any]) -> None:
    """Its marks swallow the blanks behind them, but for three."""
    renamed = {"<pad>": "<unk>", "<|im_start|>": "<|assistant|>", "<|im_end|>": "<|end|>"}
    known = {renamed.get(token, token): number for token, number in described["model"]["vocab"].items()}
    described["model"] |= {"vocab": known, "unk_token": "<unk>"}
    new = [mark for mark in PHI_MARKS if mark not in known]
    ids = {**known, **{mark: len(known) + number for number, mark in enumerate(new)}}
    usual = {"single_word": False, "lstrip": False, "normalized": False, "special": True}
    described["added_tokens"] = [
        {"id": ids[mark], "content": mark, "rstrip": mark not in ("<unk>", "<s>", "<|endoftext|>"), **usual}
        for mark in sorted(("<unk>", "<s>", "</s>", *PHI_MARKS), key=ids.__getitem__)
    ]


def model_of(name: str, vocabulary: int, *, seed: int = 0, **changes: Any) -> Any:
    """Norms and biases are no ones and zeros, so that one that is forgotten is seen."""
    family, shape = FAMILIES[name]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(**{**shape, "vocab_size": vocabulary, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def run_of(name: str, folder: Path, *, seed: int = 0, **changes: Any) -> RunFolder:
    """As a run of the method `full` leaves it."""
    tokenizer = tokenizer_of(name)
    out = folder / "out"
    model_of(name, len(tokenizer) + ROUNDED, seed=seed, **changes).save_pretrained(out)
    tokenizer.save_pretrained(out)
    run = RunFolder(out)
    run.run.mkdir(exist_ok=True)
    Recipe.from_layers({"model": "org/base", "method": "full", "output_dir": str(out)}).save(run.recipe)
    asked = {"template": "chat" if tokenizer.chat_template else "plain", "prompt_options": prompt_options(tokenizer, thinking=False)}
    run.write_json(run.data_report, {"format": "completion", "train": 4, "held_out": 1, "thinking": False, **asked})
    return run


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def hostile(count: int, *, seed: int = 0) -> list[str]:
    """Texts that nobody writes: rare letters, odd spaces, marks of the tokenizer, joined and broken anywhere. All in normal form C."""
    import random
    import unicodedata

    chance = random.Random(seed)
    alphabets = [
        "abc ABC",
        "0123456789",
        " \t\n\r\u00a0\u3000\u200b",
        ".,;!?'\"()[]{}<>/\\|@#$%^&*_+-=~`",
        "äöüßéñçøåž",
        "日本語中文한국어",
        "אבגדابتث",
    ]
    alphabets += ["😀👍🏽👩‍👩‍👧🇩🇪☕️", "αβγдежθ", "ไทยहिन्दी", "∑∞√≤→½²", "𝔘𝔫𐍈𒀀", "▁Ġ", "\ufeff\u200d\u0301"]
    words = [
        "<|im_start|>",
        "<|im_end|>",
        "</s>",
        "<s>",
        "<pad>",
        "'s",
        "I'LL",
        "http://",
        "def f():\n\t",
        "<0x41>",
        "  ",
        "\n\n",
        "2024",
        "4242",
    ]
    texts = []
    for _ in range(count):
        parts = [
            chance.choice(words) if chance.random() < 0.3 else "".join(chance.choices(chance.choice(alphabets), k=chance.randint(1, 8)))
            for _ in range(chance.randint(1, 10))
        ]
        texts.append(unicodedata.normalize("NFC", "".join(parts)))
    return texts
