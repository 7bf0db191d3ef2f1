"""How a byte-level tokenizer cuts a text before it merges, and what llama.cpp calls that way (`tokenizer.ggml.pre`).

pre_of(json.loads(tokenizer.backend_tokenizer.to_str()))       # "qwen2", or None for one that llama.cpp does not have

llama.cpp has each way as code, chosen by this name alone; under a wrong name it would cut texts differently and say nothing.
"""

from __future__ import annotations

from typing import Any

LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
BEFORE, ENDINGS = r"[^\r\n\p{L}\p{N}]?", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
REST_TOO = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# The steps of each way, and whether a piece that is a token as a whole is taken without merging.
WAYS: dict[str, tuple[tuple[str, ...], bool]] = {
    "gpt-2": (("bytes by words",), False),
    "smollm": (("digits", "bytes by words"), False),
    "qwen2": ((rf"{LETTERS}|\p{{N}}{REST}", "bytes"), False),
    "llama-bpe": ((rf"{LETTERS}|\p{{N}}{{1,3}}{REST}", "bytes"), True),
    "dbrx": ((rf"{LETTERS}|\p{{N}}{{1,3}}{REST}", "bytes"), False),
    "tekken": ((rf"{BEFORE}{UPPER}*{LOWER}+|{BEFORE}{UPPER}+{LOWER}*|\p{{N}}{REST_TOO}", "bytes"), True),
    "gpt-4o": ((rf"{BEFORE}{UPPER}*{LOWER}+{ENDINGS}|{BEFORE}{UPPER}+{LOWER}*{ENDINGS}|\p{{N}}{{1,3}}{REST_TOO}", "bytes"), False),
}


def pre_of(described: dict[str, Any]) -> str | None:
    """The name for a tokenizer as tokenizer.json describes it."""
    way = (_steps(described.get("pre_tokenizer")), bool(described["model"].get("ignore_merges")))
    return next((name for name, known in WAYS.items() if known == way), None)


def _steps(given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    if given["type"] == "Sequence":
        return tuple(step for each in given["pretokenizers"] for step in _steps(each))
    if given["type"] == "ByteLevel" and not given["add_prefix_space"]:
        return ("bytes by words" if given["use_regex"] else "bytes",)
    if given["type"] == "Digits" and given["individual_digits"]:
        return ("digits",)
    if given["type"] == "Split" and given["behavior"] == "Isolated" and not given["invert"] and "Regex" in given["pattern"]:
        return (str(given["pattern"]["Regex"]),)
    return (f"another {given['type']}",)
