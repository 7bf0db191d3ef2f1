"""Who writes the rows of a fine-tuning, or the answers to its prompts: another model on this machine, or one on a server.

draft = ask(draft, prompter, here)      # with a `teacher`
"""

from __future__ import annotations

from finetune.hub.catalogue import find
from finetune.wizard import which_model
from finetune.wizard.asking.prompter import Prompter, Question
from finetune.wizard.distilling import served_teacher
from finetune.wizard.draft import Draft, get
from finetune.wizard.host import HostInfo

ITSELF = "This is the model that learns: it learns nothing new from what it wrote itself."
MORE = (
    "A chat model that is better than yours at what you want. It writes before the training begins, and yours learns its text; so the two "
    "need not have the same tokens, and nothing else of it is used. Its licence may say what can be done with what it writes.\n"
    f"{which_model.MORE}\n"
    "A model on a server (vLLM, llama.cpp, Ollama, a hosted one) is named by the server's address, such as http://localhost:8000/v1."
)
MORE_MODEL = "The server is asked for chat completions, and your model learns the text. The review says how many tokens that may take."


def ask(draft: Draft, prompter: Prompter, here: HostInfo) -> Draft:
    """The draft with that model; in a distillation the teacher is the one, and nothing is asked."""
    if draft["approach"] != "fine-tuning":
        return draft
    own = str(get(draft, "model"))
    known = find(own)
    larger = [each for each in which_model.fitting(here) if each.is_chat and each.parameters > (known.parameters if known else 0)]
    runs = [run for run in which_model.earlier_runs() if run.value != own]
    offered = [*runs, *map(which_model.entry_choice, larger)][: which_model.MOST_OFFERED]
    default = offered[0].value if offered else ""
    question = Question("teacher", "Which model writes?", default, offered, help="Not the one that learns, but a better one.", more=MORE)
    name = which_model.ask(prompter, here, question, refused={own: ITSELF}, served=True)
    return {**draft, "teacher": served_teacher.ask(prompter, name, MORE_MODEL) if served_teacher.is_address(name) else {"source": name}}
