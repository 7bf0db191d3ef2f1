"""Small and medium-sized open models that are known to work here, with what they need.

find("gpt2").parameters        # 124439808
"""

from __future__ import annotations

from dataclasses import dataclass

from finetune.recipe import STARTER


@dataclass(frozen=True)
class CatalogueEntry:
    """One recommended model: `context` is in tokens, `layers` and `hidden` are its depth and width."""

    id: str
    parameters: int
    licence: str
    context: int
    layers: int
    hidden: int
    vocabulary: int
    note: str

    @property
    def gated(self) -> bool:
        return "gated" in self.note

    @property
    def is_chat(self) -> bool:
        return "chat" in self.note


# All of them are on the Hub as safetensors and need no code of their own.
CATALOGUE: tuple[CatalogueEntry, ...] = (
    CatalogueEntry(STARTER, 134_515_008, "apache-2.0", 8192, 30, 576, 49152, "the starter: chat, also without the Hub"),
    CatalogueEntry("HuggingFaceTB/SmolLM2-360M-Instruct", 361_821_120, "apache-2.0", 8192, 32, 960, 49152, "chat"),
    CatalogueEntry("HuggingFaceTB/SmolLM2-1.7B-Instruct", 1_711_376_384, "apache-2.0", 8192, 24, 2048, 49152, "chat"),
    CatalogueEntry("distilbert/distilgpt2", 81_912_576, "apache-2.0", 1024, 6, 768, 50257, "plain text, English"),
    CatalogueEntry("openai-community/gpt2", 124_439_808, "mit", 1024, 12, 768, 50257, "plain text, English"),
    CatalogueEntry("openai-community/gpt2-medium", 354_823_168, "mit", 1024, 24, 1024, 50257, "plain text, English; teacher of gpt2"),
    CatalogueEntry("EleutherAI/pythia-160m", 162_322_944, "apache-2.0", 2048, 12, 768, 50304, "plain text; open training data"),
    CatalogueEntry("EleutherAI/pythia-410m", 405_334_016, "apache-2.0", 2048, 24, 1024, 50304, "plain text; teacher of pythia-160m"),
    CatalogueEntry("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768, "apache-2.0", 32768, 24, 896, 151936, "chat, many languages"),
    CatalogueEntry("Qwen/Qwen2.5-1.5B-Instruct", 1_543_714_304, "apache-2.0", 32768, 28, 1536, 151936, "chat, many languages"),
    CatalogueEntry("Qwen/Qwen3-0.6B", 596_049_920, "apache-2.0", 40960, 28, 1024, 151936, "chat with optional thinking"),
    CatalogueEntry("TinyLlama/TinyLlama-1.1B-Chat-v1.0", 1_100_048_384, "apache-2.0", 2048, 22, 2048, 32000, "chat, English"),
    CatalogueEntry("meta-llama/Llama-3.2-1B-Instruct", 1_235_814_400, "llama3.2", 131072, 16, 2048, 128256, "chat; gated"),
)


def find(name: str) -> CatalogueEntry | None:
    """The entry called `name`; old names without an organisation, such as gpt2, work too."""
    return next((entry for entry in CATALOGUE if name in (entry.id, entry.id.partition("/")[2])), None)
