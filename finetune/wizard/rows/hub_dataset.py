"""A dataset of the Hub: its name, searched for while it is typed, and its configuration if it has several.

name, config = ask(prompter, here)
absent(DatasetSpec(source=name, config=config), here)      # why it cannot be had without the Hub, or None
"""

from __future__ import annotations

from finetune.data.files import looks_local
from finetune.errors import DatasetError, DatasetNotFound
from finetune.formatting import strip_control_chars
from finetune.hub.facts import HubDataset
from finetune.recipe import DatasetSpec
from finetune.wizard.asking import suggest
from finetune.wizard.asking.prompter import Prompter
from finetune.wizard.draft import problem
from finetune.wizard.host import HostInfo
from finetune.wizard.rows.data_preview import look

EXAMPLES = "For example HuggingFaceH4/no_robots or openai/gsm8k"
LONGEST_HELP = 70  # characters


def ask(prompter: Prompter, here: HostInfo, again: str = "") -> tuple[str, str | None]:
    """The name and the configuration; `again` ends the keys of questions that are asked once more."""
    name = prompter.text(
        f"dataset.name{again}",
        "Dataset name",
        default="",
        check=lambda text: _name_problem(text, here),
        help=f"Type to search. {EXAMPLES}" if here.hub else "One that is on this machine already: the Hub is not in reach.",
        complete=lambda text: suggest.datasets(text, here.hub),
    )
    facts = _facts(name, here)
    configs: tuple[str, ...] = ()
    if isinstance(facts, HubDataset):
        prompter.note([("class:quiet", f"{facts.name}: {strip_control_chars(str(facts))}.")])
        configs = facts.configs
    config = prompter.text(
        f"dataset.config{again}",
        "Configuration",
        default=configs[0] if len(configs) > 1 else "none",
        help=f"One of: {strip_control_chars(', '.join(configs))}"[:LONGEST_HELP] if len(configs) > 1 else "Only some datasets have one.",
        complete=(lambda text: [config for config in configs if text.lower() in config.lower()]) if configs else None,
    )
    return name, None if config == "none" else config


def absent(spec: DatasetSpec, here: HostInfo) -> DatasetNotFound | None:
    """Why a dataset cannot be had, where the Hub could not say it while its name was typed."""
    seen = None if here.hub else look(spec, here.runtime)
    return seen if isinstance(seen, DatasetNotFound) else None


def _facts(name: str, here: HostInfo) -> HubDataset | DatasetError | None:
    """What the Hub says about a dataset; its refusal, or None without the Hub."""
    from finetune.hub.datasets import look_up, parse

    try:
        return look_up(*parse(name)) if here.hub else None
    except DatasetError as error:
        return error


def _name_problem(text: str, here: HostInfo) -> str | None:
    if not text or any(space in text for space in " \t"):
        return "Type a dataset name such as openai/gsm8k."
    if wrong := problem({}, "dataset.source", text):
        return wrong
    if looks_local(text):
        return f"{text} is the name of a file: go back and choose a file or folder."
    found = _facts(text, here)
    return found.message if isinstance(found, DatasetError) else None
