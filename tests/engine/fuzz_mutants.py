"""Damage of all kinds to the content of a file, the same for the same seed.

mutant(b'{"layers": 2}', random.Random(7), "json")
"""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any

NUMBERS = [0, 1, 2, 7, 127, 128, 255, 256, 2**15, 2**16 - 1, 10**5, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 10**7, 2**62, 2**63 - 1, 2**64 - 1]
VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        "",
        "auto",
        "x" * 5000,
        "../../etc/passwd",
        "org/code",
        "\ud800",
        "\x1b[2J",
        [],
        {},
        [[]],
        {"": None},
        [None] * 300,
    ),
    *NUMBERS,
    *(-1, -(2**63), 0.5, -0.0, 1e308, float("inf"), float("nan"), 10**40, "(a+)+$", "null", "2024-13-45", "1e999"),
]
SNIPPETS = [
    *("{{ 1 // 0 }}", "{{ 'a' * 10**10 }}", "{{ 2 ** 10000000000 }}", "{{ 'x' | center(10**9) }}", "{{ messages[99].content.x }}"),
    *("{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}", "{{ messages | tojson }}", "{% break %}"),
    "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{% set n = namespace(t='ab') %}{% for a in range(64) %}{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t }}",
    *(
        "{% for turn in messages %}",
        "{% endfor %}",
        "{{ turn.content }}",
        "{{ turn.role }}",
        "{% if false %}",
        "{% endif %}",
        "{%",
        "}}",
        "{#",
    ),
    *("{{ ([messages[0].content * 9999] * 99999) | tojson }}", "{{ ('a' * 9999999) | urlize }}", "{{ '{0}{0}' | format('b' * 9999999) }}"),
    "{% set t = 'a' * 9999999 %}{% for a in range(9999) %}{{ t }}{% endfor %}",
    *("{{ (1).__class__ }}", "{{ '%0999999999d' % 1 }}", "{{ raise_exception('no') }}", "{{ strftime_now('%' * 99) }}", "{{ loop }}"),
]
YAML = [
    "&a [*a]",
    "2024-02-31",
    "!!python/object:os.system",
    "9" * 5000,
    "[" * 2000,
    "{? {}: 1}",
    "!!binary ####",
    "*b",
    "|",
    "\t",
    "1_0",
    "0x",
    ".inf",
]


def mutant(content: bytes, numbers: random.Random, kind: str) -> bytes:
    """One to four changes: of bytes, and in formats that are known, of their parts."""
    changes = {"json": json_part, "template": template_part, "yaml": yaml_part, "text": text_part}.get(kind)
    for _ in range(numbers.choice((1, 1, 2, 4))):
        change = changes if changes is not None and numbers.random() < 0.75 else numbers.choice(BYTES)
        content = change(content, numbers)
    return content


def flip(content: bytes, numbers: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(numbers.choice((1, 2, 8))):
        if damaged:
            damaged[numbers.randrange(len(damaged))] ^= 1 << numbers.randrange(8)
    return bytes(damaged)


def number(content: bytes, numbers: random.Random) -> bytes:
    """A number where lengths, offsets and counts may be; mostly near the beginning."""
    packed = struct.pack(numbers.choice(("<Q", ">Q")), numbers.choice(NUMBERS))[: numbers.choice((1, 2, 4, 8))]
    at = numbers.randrange(min(len(content), numbers.choice((64, 1024, len(content) + 1))) + 1)
    return content[:at] + packed + content[at + len(packed) :]


def cut(content: bytes, numbers: random.Random) -> bytes:
    return content[: numbers.randrange(len(content) + 1)]


def remove(content: bytes, numbers: random.Random) -> bytes:
    start, end = _span(content, numbers)
    return content[:start] + content[end:]


def repeat(content: bytes, numbers: random.Random) -> bytes:
    start, end = _span(content, numbers)
    return content[:end] + content[start:end] * numbers.choice((1, 2, 50)) + content[end:]


def swap(content: bytes, numbers: random.Random) -> bytes:
    (start, end), at = _span(content, numbers), numbers.randrange(len(content) + 1)
    return content[:at] + content[start:end] + content[at:]


BYTES: list[Callable[[bytes, random.Random], bytes]] = [flip, flip, number, number, cut, remove, repeat, swap]


def _span(content: bytes, numbers: random.Random) -> tuple[int, int]:
    start = numbers.randrange(len(content) + 1)
    return start, min(len(content), start + numbers.choice((1, 4, 16, 200)))


def json_part(content: bytes, numbers: random.Random) -> bytes:
    """Another value, another key, or none, somewhere in a JSON document."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return numbers.choice(BYTES)(content, numbers)
    places = list(_places(document))
    if not places:
        return json.dumps(numbers.choice(VALUES)).encode()
    holder, key = numbers.choice(places)
    what = numbers.random()
    if what < 0.7:
        holder[key] = _value(numbers)
    elif what < 0.85:
        del holder[key]
    elif isinstance(holder, dict):
        holder[numbers.choice(("auto_map", "attn_implementation", "r", "quantization_config", str(key) + "s"))] = _value(numbers)
    else:
        holder.append(_value(numbers))
    try:
        return json.dumps(document).encode()
    except RecursionError:  # two deep values, one in the other
        return content


def _value(numbers: random.Random) -> Any:
    if numbers.random() < 0.03:
        deep: Any = []
        for _ in range(numbers.choice((50, 500, 900))):
            deep = [deep]
        return deep
    return numbers.choice(VALUES)


def _places(document: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Every holder of a value with its key; of long lists only the first ones."""
    keys = list(document) if isinstance(document, dict) else range(min(20, len(document))) if isinstance(document, list) else ()
    for key in keys:
        yield document, key
        if depth < 20:
            yield from _places(document[key], depth + 1)


def template_part(content: bytes, numbers: random.Random) -> bytes:
    ends = [found.end() for found in re.finditer(rb"[%}]}", content)]
    at = numbers.choice([0, *ends]) if numbers.random() < 0.8 else numbers.randrange(len(content) + 1)
    return content[:at] + numbers.choice(SNIPPETS).encode() + content[at + numbers.choice((0, 0, 0, 0, 5, 40)) :]


def yaml_part(content: bytes, numbers: random.Random) -> bytes:
    lines = content.split(b"\n")
    at = numbers.randrange(len(lines))
    key, colon, _ = lines[at].partition(b":")
    value = numbers.choice(YAML) if numbers.random() < 0.5 else json.dumps(numbers.choice(VALUES))
    lines[at] = key + b": " + value.encode() if colon else value.encode()
    return b"\n".join(lines)


def text_part(content: bytes, numbers: random.Random) -> bytes:
    at = numbers.randrange(len(content) + 1)
    piece = numbers.choice(
        (
            b'"',
            b"\n",
            b"\r",
            b",",
            b";",
            b"\t",
            b"\0",
            b"\xff\xfe",
            b"[" * 3000,
            b'{"a":' * 2000,
            b"9" * 5000,
            b'\\ud800"',
            b"# " + b" " * 3000,
        )
    )
    return content[:at] + piece + content[at:]
