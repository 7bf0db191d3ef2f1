"""Ollama's Modelfile: where the weights are, how a chat is written, where an answer ends, how it is sampled, how much is read.

text = modelfile("model-Q8_0.gguf", asked, home=Path("./finetuned_model"), licence="apache-2.0")

Ollama writes chats by a template in Go's language. It is given for the forms below, if they write exactly what the model's own template
writes; for others Ollama looks for a form that resembles the template inside the file.
Format: https://docs.ollama.com/modelfile
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from finetune.errors import ModelError
from finetune.export.probes import CHATS
from finetune.export.prompt_format import PromptFormat, Turns
from finetune.model_folder import read_json
from finetune.models.saved_configs import ends_of
from finetune.models.templates.chat_template import answer_ends, render_chat

GENERATION = "generation_config.json"
READS = 2048  # tokens: what older versions of Ollama read if a Modelfile does not say; newer ones read 4096. They cut the rest, silently
NEWER = 4096  # as many as newer ones read; the Modelfile takes none away
SAMPLING = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p", "repetition_penalty": "repeat_penalty"}
USUAL = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "repetition_penalty": 1.0}  # where nothing is said; Ollama takes others then


@dataclass(frozen=True)
class Form:
    """What stands before and after each turn, and after the opened answer.

    `names` are roles that have another name, `answered` is what stands after an answer where that is not `after`.
    """

    before: str
    after: str
    names: dict[str, str] = field(default_factory=dict)
    answered: str | None = None
    opening: str = ""

    def opened(self, role: str) -> str:
        return self.before.format(role=self.names.get(role, role))

    def closed(self, role: str) -> str:
        return self.answered if self.answered is not None and role == "assistant" else self.after

    def written(self, turns: Turns) -> str:
        said = (f"{self.opened(turn['role'])}{turn['content']}{self.closed(turn['role'])}" for turn in turns)
        return "".join(said) + self.opened("assistant") + self.opening

    @property
    def template(self) -> str:
        """In Go's language."""
        role = "{{ .Role }}"
        for ours, theirs in self.names.items():
            role = f'{{{{ if eq .Role "{ours}" }}}}{theirs}{{{{ else }}}}{role}{{{{ end }}}}'
        after = self.after
        if self.answered is not None:
            after = f'{{{{ if eq .Role "assistant" }}}}{self.answered}{{{{ else }}}}{after}{{{{ end }}}}'
        turn = f"{self.before.format(role=role)}{{{{ .Content }}}}{after}"
        return f"{{{{ range .Messages }}}}{turn}{{{{ end }}}}{self.opened('assistant')}{self.opening}"


FORMS = (
    Form("<|im_start|>{role}\n", "<|im_end|>\n"),  # ChatML: Qwen, SmolLM
    Form("<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>"),  # Llama 3
    Form("<start_of_turn>{role}\n", "<end_of_turn>\n", {"assistant": "model"}),  # Gemma
    Form("<|{role}|>\n", "<|end|>\n"),  # Phi 3
    Form("<|{role}|>\n", "</s>\n"),  # Zephyr
)


def modelfile(name: str, asked: PromptFormat, home: Path, licence: str | None) -> str:
    """The text for the .gguf file called `name` beside it, made from the model in `home`."""
    tokenizer = asked.tokenizer
    lines = [f"FROM ./{name}"]
    form, system = form_of(asked)
    if form:
        lines.append(f'TEMPLATE """{form.template}"""')
    if system := _system(asked, form, usual=system):
        lines.append(f'SYSTEM """{system}"""')
    lines += [f"PARAMETER {key} {value}" for key, value in _sampling(home).items()]
    if asked.longest > READS:
        lines.append(f"PARAMETER num_ctx {max(NEWER, -(-asked.longest // 1024) * 1024)}")
    ends = [*answer_ends(tokenizer), *(str(tokenizer.convert_ids_to_tokens(each)) for each in ends_of(home))]
    # What could end its quotation marks could also begin lines of its own.
    lines += [f'PARAMETER stop "{end}"' for end in dict.fromkeys(ends) if not {'"', "\n"} & {*end}]
    if licence and '"""' not in licence:
        lines.append(f'LICENSE """{licence}"""')
    return "\n".join(lines) + "\n"


def _system(asked: PromptFormat, form: Form | None, *, usual: str | None) -> str | None:
    """The system prompt of the rows, where the template has a place for it and Ollama writes it as the template does."""
    turns = [{"role": "system", "content": asked.system}, *CHATS[0]]
    taken = asked.system.strip() in (_written(asked, turns) or "") and (form is None or _agrees(form, None, asked, turns))
    return asked.system if asked.system and taken and '"""' not in asked.system else usual


def form_of(asked: PromptFormat) -> tuple[Form | None, str | None]:
    """The form that writes what the chat template writes, and the system prompt that the template begins with where none is given."""
    first = _written(asked, CHATS[0]) if asked.tokenizer.chat_template else None
    if first is None:
        return None, None
    for form in (*FORMS, Form("", "\n", answered=str(asked.tokenizer.eos_token))):  # the last is the plain one
        system = None
        if (opened := form.opened("system")) and first.startswith(opened):
            system = first[len(opened) :].partition(form.after)[0]
        usual = form.written(_behind(system, CHATS[0]))
        form = replace(form, opening=first[len(usual) :] if first.startswith(usual) else "")  # such as an empty thought
        if all(_agrees(form, system, asked, turns) for turns in CHATS) and '"""' not in form.template + (system or ""):
            return form, system
    return None, None


def _agrees(form: Form, system: str | None, asked: PromptFormat, turns: Turns) -> bool:
    """Also where the template refuses such turns: there nothing is promised. Many templates trim what people say."""
    trimmed = [{**turn, "content": turn["content"].strip()} for turn in turns]
    theirs = _written(asked, trimmed)
    return theirs is None or theirs == form.written(_behind(system, trimmed))


def _behind(system: str | None, turns: Turns) -> Turns:
    return [{"role": "system", "content": system}, *turns] if system and turns[0]["role"] != "system" else turns


def _written(asked: PromptFormat, turns: Turns) -> str | None:
    """Without the token that begins every text, which Ollama adds by itself."""
    try:
        return render_chat(asked.tokenizer, turns, add_generation_prompt=True).removeprefix(asked.begin)
    except ModelError:
        return None


def _sampling(home: Path) -> dict[str, Any]:
    """What the model's own generation_config.json asks for, in Ollama's words: the likeliest token, if it does not ask for chance."""
    asked = read_json(home / GENERATION) if (home / GENERATION).is_file() else {}
    said = USUAL | {name: asked[name] for name in SAMPLING if isinstance(asked.get(name), int | float)}
    if not asked.get("do_sample"):
        said = {"temperature": 0, "repetition_penalty": said["repetition_penalty"]}
    return {theirs: f"{said[ours]:g}" for ours, theirs in SAMPLING.items() if ours in said}
