"""What a terminal types for a file that is dropped into it: a path in quotes, with backslashes, or as a file: URL.

dropped("'/data/my rows.jsonl'")     # "/data/my rows.jsonl"
"""

from __future__ import annotations

import os
import re
import shlex

from finetune.errors import BadInput
from finetune.system.paths import typed_path

QUOTED = re.compile(r"""'([^']*)'|"([^"]*)"|(\S+)""")  # Windows: a backslash separates folders


def dropped(text: str) -> str:
    """The path that is meant; several that are all there, with commas between them. Other text, and what is there as typed, stays."""
    escaped = os.name != "nt" and re.search(r"\\[^A-Za-z0-9]", text)
    if not (text.startswith(("'", '"', "file:")) or escaped) or _is_there(text):
        return text
    try:
        words = shlex.split(text) if os.name != "nt" else ["".join(found) for found in QUOTED.findall(text)]
    except ValueError:  # a quote without its partner
        return text
    paths = [_of_url(word) for word in words]
    if len(paths) == 1:
        return paths[0]
    return ", ".join(paths) if paths and all(map(_is_there, paths)) else text


def _of_url(word: str) -> str:
    if not word.startswith("file:"):
        return word
    from urllib.parse import urlsplit
    from urllib.request import url2pathname  # slow to import

    return url2pathname(urlsplit(word).path)


def _is_there(text: str) -> bool:
    try:
        return typed_path(text).exists()
    except (BadInput, OSError):
        return False
