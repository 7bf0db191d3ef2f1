"""What is measured on a GPU: the shapes of the models, rows of tokens, and the table that they are measured into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from timed_parts import DEVICE, SECONDS, Table

LLAMA = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8}
QWEN = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8}
PICO = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
SHAPES = {
    "Llama 1B": ("Llama", {**LLAMA, "head_dim": 64, "vocab_size": 128_256}),
    "Qwen3 0.6B": ("Qwen3", {**QWEN, "head_dim": 128, "vocab_size": 151_936}),
}


class Bench(Table):
    """The table, and the sizes of what is measured."""

    def __init__(self, log: Path | None, *, tiny: bool, seconds: float = SECONDS) -> None:
        super().__init__(log, seconds=seconds)
        self.tiny = tiny
        self.shapes = {"pico": ("Llama", {**PICO, "head_dim": 16, "vocab_size": 512})} if tiny else SHAPES
        self.longest, self.batch, self.steps = (64, 4, 3) if tiny else (1024, 8, 12)
        self.rate = 1.0  # FLOP/s of a bfloat16 product

    def model(self, shape: str, dtype: torch.dtype) -> Any:
        family, sizes = self.shapes[shape]
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(**sizes, max_position_embeddings=4096, tie_word_embeddings=True, pad_token_id=0)
        with torch.device(DEVICE):
            return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()

    def rows(self, vocabulary: int) -> list[dict[str, Any]]:
        """Rows of random tokens, half to all of the longest, three quarters of each supervised."""
        draw = torch.Generator().manual_seed(0)
        made = []
        for _ in range(self.batch * self.steps):
            length = int(torch.randint(self.longest // 2, self.longest + 1, (1,), generator=draw))
            ids = torch.randint(3, vocabulary, (length,), generator=draw).tolist()
            made.append({"input_ids": ids, "labels": [-100] * (length // 4) + ids[length // 4 :], "length": length})
        return made
