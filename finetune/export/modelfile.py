"""Ollama's Modelfile: where the weights are, how a chat is written, where an answer ends, how it is sampled.

text = modelfile("model-Q8_0.gguf", tokenizer, home=Path("./finetuned_model"), licence="apache-2.0")

Ollama writes chats by a template in Go's language. It is given for the forms below, if they write exactly what the model's own template
writes; for others Ollama looks for a form that resembles the template inside the file.
Format: https://docs.ollama.com/modelfile
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.errors import ModelError
from finetune.export.probes import CHATS, Turns
from finetune.model_folder import read_json
from finetune.models.chat_template import answer_ends, render_chat
from finetune.models.spelling import ends_of

GENERATION = "generation_config.json"
SAMPLING = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p", "repetition_penalty": "repeat_penalty"}


@dataclass(frozen=True)
class Form:
    """What stands before and behind each turn; `names` are roles that have another name."""

    before: str
    behind: str
    names: dict[str, str] = field(default_factory=dict)

    def opened(self, role: str) -> str:
        return self.before.format(role=self.names.get(role, role))

    def written(self, turns: Turns) -> str:
        return "".join(f"{self.opened(turn['role'])}{turn['content']}{self.behind}" for turn in turns) + self.opened("assistant")

    @property
    def template(self) -> str:
        """In Go's language."""
        role = "{{ .Role }}"
        for ours, theirs in self.names.items():
            role = f'{{{{ if eq .Role "{ours}" }}}}{theirs}{{{{ else }}}}{role}{{{{ end }}}}'
        turn = f"{self.before.format(role=role)}{{{{ .Content }}}}{self.behind}"
        return f"{{{{ range .Messages }}}}{turn}{{{{ end }}}}{self.opened('assistant')}"


FORMS = (
    Form("<|im_start|>{role}\n", "<|im_end|>\n"),  # ChatML: Qwen, SmolLM
    Form("<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>"),  # Llama 3
    Form("<start_of_turn>{role}\n", "<end_of_turn>\n", {"assistant": "model"}),  # Gemma
    Form("<|{role}|>\n", "<|end|>\n"),  # Phi 3
    Form("<|{role}|>\n", "</s>\n"),  # Zephyr
)


def modelfile(name: str, tokenizer: Any, home: Path, licence: str | None) -> str:
    """The text for the .gguf file called `name` beside it, made from the model in `home`."""
    lines = [f"FROM ./{name}"]
    form, system = form_of(tokenizer)
    if form:
        lines.append(f'TEMPLATE """{form.template}"""')
    if system:
        lines.append(f'SYSTEM """{system}"""')
    lines += [f"PARAMETER {key} {value}" for key, value in _sampling(home).items()]
    ends = [*answer_ends(tokenizer), *(str(tokenizer.convert_ids_to_tokens(each)) for each in ends_of(home))]
    lines += [f'PARAMETER stop "{end}"' for end in dict.fromkeys(ends)]
    if licence:
        lines.append(f'LICENSE """{licence}"""')
    return "\n".join(lines) + "\n"


def form_of(tokenizer: Any) -> tuple[Form | None, str | None]:
    """The form that writes what the chat template writes, and the system prompt that the template begins with where none is given."""
    if not tokenizer.chat_template:
        return None, None
    for form in FORMS:
        system = None
        if (first := _written(tokenizer, CHATS[0])) is not None and first.startswith(opened := form.opened("system")):
            system = first[len(opened) :].partition(form.behind)[0]
        if all(_agrees(form, system, tokenizer, turns) for turns in CHATS) and '"""' not in (system or ""):
            return form, system
    return None, None


def _agrees(form: Form, system: str | None, tokenizer: Any, turns: Turns) -> bool:
    """Also where the template refuses such turns: there nothing is promised. Many templates trim what people say."""
    trimmed = [{**turn, "content": turn["content"].strip()} for turn in turns]
    theirs = _written(tokenizer, trimmed)
    ours = [{"role": "system", "content": system}, *trimmed] if system and trimmed[0]["role"] != "system" else trimmed
    return theirs is None or theirs == form.written(ours)


def _written(tokenizer: Any, turns: Turns) -> str | None:
    """Without the token that begins every text, which Ollama adds by itself."""
    begins = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    try:
        text = render_chat(tokenizer, turns, add_generation_prompt=True)
    except ModelError:
        return None
    return text.removeprefix(tokenizer.bos_token) if begins else text


def _sampling(home: Path) -> dict[str, Any]:
    """What the model's own generation_config.json asks for, in Ollama's words."""
    asked = read_json(home / GENERATION) if (home / GENERATION).is_file() else {}
    if asked.get("do_sample") is False:
        return {"temperature": 0}
    return {theirs: asked[ours] for ours, theirs in SAMPLING.items() if isinstance(asked.get(ours), int | float)}
