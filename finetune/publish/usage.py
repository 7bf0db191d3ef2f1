"""How to use a result on another machine: a whole model as it is, an adapter with its base, or merged with it.

adapter_of("./finetuned_model")         # what can be merged, and where to
base_of(recipe, continued).kind         # "hub": downloaded when the adapter is loaded; "starter"; "here": only on this machine
in_short(Path("./finetuned_model"), "finetune-cli")      # [("Elsewhere", "copy the folder; it loads as it is")]
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetune.errors import ModelError
from finetune.hub.cache import cached
from finetune.model_folder import is_adapter, read_json
from finetune.models.location import parse
from finetune.models.starter import REVISION
from finetune.publish.redaction import adapters_base, hub_model
from finetune.recipe import Recipe
from finetune.run_folder import RunFolder, beside
from finetune.system.shell import quoted

LONGEST_IN_OLLAMA = 80


@dataclass(frozen=True)
class Base:
    """The base of an adapter; `name` is its Hub id, for one that is only on this machine that of the model it came from, if any."""

    kind: Literal["hub", "starter", "here"]
    name: str | None


def adapter_of(named: str) -> tuple[RunFolder, Path]:
    """The folder of a run, or of any adapter, and what it is called once it is merged; an adapter of the Hub that is here may be named too.

    Raises BadInput for a folder that is neither.
    """
    folder = RunFolder(named)
    if not (folder.recipe.is_file() or is_adapter(folder.output_dir)):
        with suppress(ModelError):
            source = parse(named)
            here = cached(source.name, source.revision) if source.kind == "hub" else None
            if here and is_adapter(here):
                return folder, Path(f"{source.name.rpartition('/')[2]}-merged")
        folder = RunFolder.of(named)
    return folder, beside(folder.output_dir, "-merged")


def base_of(recipe: Recipe, continued: Mapping[str, Any]) -> Base:
    """By the recipe of the run, or by the continued.json of one that trained an earlier adapter further."""
    text = str(continued["base"]) if continued else str(recipe.model)
    if text.endswith(f"@{REVISION}"):
        return Base("starter", hub_model(text))
    exact = adapters_base(Recipe.from_layers({"model": text}))
    return Base("hub", exact) if exact else Base("here", hub_model(text))


def in_short(home: Path, command: str) -> list[tuple[str, str]]:
    """Rows for the end of a run whose output folder is `home`: a name, and words or a command that can be copied."""
    if not is_adapter(home):
        return [("Elsewhere", "copy the folder; it loads as it is")]
    folder = RunFolder(home)
    continued = folder.known(folder.continued)
    base = base_of(Recipe.load(folder.recipe), continued)
    if base.kind == "hub":
        return [("Elsewhere", f"copy the folder; {base.name} is downloaded when it is loaded")]
    return [("Merge", f"{command} merge {quoted(home)}"), ("Elsewhere", "merge it first, then copy the merged folder")]


def plain_name(name: str, longest: int) -> str:
    """The name in letters, digits, single dots and hyphens, as the Hub and Ollama take it."""
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r"[.-]{2,}", "-", re.sub(r"[^\w.-]", "-", letters)).strip(".-")
    if not name.isascii() and not re.search("[A-Za-z]", plain):
        plain = f"model-{plain}"  # of a name in other letters at most a number is left
    return plain[:longest].strip(".-") or "model"


def gguf_commands(file: Path, name: str) -> dict[str, str]:
    """How each program takes an exported file that has a Modelfile beside it; `name` is what it is called there, as far as it may be."""
    there = plain_name(name, LONGEST_IN_OLLAMA)
    return {
        "Ollama": f"cd {quoted(file.parent)} && ollama create {there} -f Modelfile && ollama run {there}",
        "LM Studio": f"lms import {quoted(file)}",
        "llama.cpp": f"llama-server -m {quoted(file)}",
    }


def folder_commands(home: Path) -> dict[str, str]:
    """How programs that read the folder of a whole model take it; one without a chat template cannot be chatted with there."""
    settings = home / "tokenizer_config.json"
    chats = (home / "chat_template.jinja").is_file() or (settings.is_file() and bool(read_json(settings).get("chat_template")))
    if chats:
        return {"vLLM": f"vllm serve {quoted(home)}", "MLX": f"mlx_lm.chat --model {quoted(home)}"}
    return {
        "vLLM": f"vllm serve {quoted(home)}",
        "MLX": f"mlx_lm.generate --model {quoted(home)} --prompt TEXT",
        "Ask": "there is no chat template: both complete text (in vLLM /v1/completions), so end a question with a line break",
    }


def snippet(base: Base) -> str:
    """For the card of an adapter that stays in its folder: what another machine needs."""
    if base.kind == "hub":
        return f"It works on any machine: its base model, {base.name}, is downloaded when it is loaded."
    if base.kind == "here":
        origin = f", which was made from [{base.name}](https://huggingface.co/{base.name})" if base.name else ""
        return (
            f"It needs its base model{origin}; that exists only on the machine where this adapter was trained. To use it elsewhere, "
            "merge the two there, and copy the merged folder: `finetune-cli merge .`"
        )
    return f"""On another machine, where the starter model is not unpacked, load the original from the Hub and put this adapter on it:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
model = AutoModelForCausalLM.from_pretrained({base.name!r}, dtype="float32")
model.load_adapter(".")
generate = pipeline("text-generation", model, tokenizer=AutoTokenizer.from_pretrained("."))
```

The adapter was trained on weights that were once rounded to 4 bits, and the Hub's were not, so answers differ slightly. For exactly the
same model, merge the two here and copy the merged folder: `finetune-cli merge .`"""
