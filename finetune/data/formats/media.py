"""Pictures and sound, which a language model alone cannot learn from: fields that hold them, and the places in a text where they belong.

media_field({"id": 1, "images": ["a.jpg"]})        ->  "images"
placeholder("<image>\\nWhat is on the sign?")       ->  "<image>"
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from finetune.data.formats.cells import is_missing

WHAT = "image|img|picture|photo|pixel_value|audio|speech|sound|wav|video|frame"
FIELD = re.compile(
    rf"(?:{WHAT})s?(?:[-_ ]?(?:path|file|file_?name|url|uri|bytes|base64|data|input|list|clip|embed|embedding|feature|grid_thw|\d+))?s?"
)
FILE = re.compile(r"(?:file|path|media)(?:[-_ ]?(?:name|path|url))?s?")  # of pictures only where the file is one
FIELD_OF = re.compile(rf"(?:input|inline|media|path_to|mm|multi_?modal)[-_ ]?(?:{WHAT}|data)s?")
PICTURE = re.compile(r".*\.(?:jpe?g|png|gif|bmp|webp|tiff?|heic|wav|mp3|flac|ogg|opus|m4a|mp4|avi|mov|mkv|webm)", re.IGNORECASE)
NONE = {"", "[]", "{}", "null", "none", "nan", "true", "false", "yes", "no", "0", "1"}
# Tokens of multimodal tokenizers stand for nothing else; words in brackets are also HTML and code, so their place decides.
TOKEN = re.compile(
    r"<\|(?:vision|image|img|audio|video|speech)[a-z_0-9]*\|>|<(?:start_of_image|image_soft_token|audio_soft_token|image_placeholder"
    r"|im_patch|im_start_image|imagehere|image[ _-]?\d+)>|\[IMG\]|<(img|image|audio|video)>[^<>\n]{1,300}\.[a-z0-9]{2,5}</\1>",
    re.IGNORECASE,
)
WORD = re.compile(
    r"(?:\A|(?<=[\n>]))[ \t]*<(?:image|img|audio|video|picture|speech|sound)>|<(?:image|img|audio|video)>\s*\Z", re.IGNORECASE
)


def media_field(fields: Mapping[str, Any]) -> str | None:
    """The first field called after pictures or sound that has any."""
    for name, value in fields.items():
        kind = _kind(name)
        if kind == "media" and has_media(value):
            return name
        if kind == "file" and isinstance(value, str) and PICTURE.fullmatch(value.strip()):
            return name
    return None


@lru_cache(maxsize=4096)
def _kind(name: str) -> str | None:
    name = name.strip().lower() if isinstance(name, str) else ""
    return "media" if FIELD.fullmatch(name) or FIELD_OF.fullmatch(name) else "file" if FILE.fullmatch(name) else None


def has_media(value: Any) -> bool:
    """Whether there is a path, bytes, numbers or an object in a cell, however nested; yes, no and a text of words are none."""
    if isinstance(value, list | tuple):
        return any(map(has_media, value))
    if isinstance(value, dict):
        return any(map(has_media, value.values()))
    if isinstance(value, str):
        text = value.strip()
        return text.lower() not in NONE and (len(text.split()) == 1 or bool(PICTURE.fullmatch(text)) or text[:1] in "[{/")
    return not is_missing(value) and not isinstance(value, bool)


def placeholder(text: str, *, given: bool = True) -> str | None:
    """What stands in a text for a picture or sound; a word in brackets only where it is `given`, on its own, and never closed."""
    if "<" not in text and "[IMG]" not in text:
        return None
    if found := TOKEN.search(text):
        return found.group()[:40]
    found = WORD.search(text) if given else None
    if found is None:
        return None
    word = found.group().strip()
    return None if f"</{word[1:]}" in text else word
