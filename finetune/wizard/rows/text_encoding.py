"""The question how the bytes of a text file become letters, where the guess was wrong.

draft = ask(draft, prompter, "-2", "cp1252")        # dataset.encoding, another than cp1252
"""

from __future__ import annotations

from finetune.errors import FinetuneError
from finetune.wizard.asking.prompter import Choice, Prompter
from finetune.wizard.draft import Draft, put

ENCODINGS = {
    "utf-8": "everything",
    "cp1252": "western Europe",
    "cp1250": "central Europe",
    "cp1251": "Cyrillic",
    "cp1253": "Greek",
    "cp1254": "Turkish",
    "cp1255": "Hebrew",
    "cp1256": "Arabic",
    "cp1257": "Baltic",
    "cp1258": "Vietnamese",
    "cp874": "Thai",
    "cp932": "Japanese",
    "gb18030": "Chinese",
    "big5": "Chinese",
    "euc_kr": "Korean",
    "koi8_r": "Cyrillic, older Unix",
    "euc_jp": "Japanese, older Unix",
    "utf-16": "everything",
    "mac_roman": "older Macs",
    "cp850": "DOS, western Europe",
    "cp437": "DOS, English",
    "cp852": "DOS, central Europe",
    "cp866": "DOS, Cyrillic",
}


def is_wrong(seen: object) -> bool:
    """Whether reading data ended at letters that the encoding does not have."""
    return isinstance(seen, FinetuneError) and "dataset.encoding=" in (seen.hint or "")


def ask(draft: Draft, prompter: Prompter, number: str, found: str = "utf-8") -> Draft:
    """Another encoding than the one that was found; `number` tells this question from the one before."""
    choices = [Choice(name, name, script) for name, script in ENCODINGS.items() if name != found]
    return put(draft, "dataset.encoding", prompter.select(f"dataset.encoding{number}", "Encoding", choices, default=choices[0].value))
