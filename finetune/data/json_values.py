"""JSON as it is in files and in cells: numbers keep their spelling, because most of them become text.

DECODER.decode('{"price": 1.50}')  ->  {"price": Number("1.50")}
parsed("[{'role': 'user'}]")       ->  [{"role": "user"}]: what pandas writes into a cell of CSV is Python, not JSON
plain({"a": Number("1")})          ->  {"a": 1}, for what is no text: the arguments of a tool, token ids
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from itertools import pairwise
from typing import Any

from finetune.system import python_source


class Number(str):
    """A number as the file spells it (1.50 stays 1.50)."""

    __slots__ = ()


DECODER = json.JSONDecoder(parse_float=Number, parse_int=Number, strict=False)  # a bare tab or NUL in a string stays one


PRINTED = re.compile(r"\s*[\[{]\s*(?:[\[{'\"(]|array\(|-?\d)")  # how a list or an object begins that Python or numpy printed
NO_COMMA = re.compile(r"['\"}\])\d]\s+['\"\[{(\d-]")  # numpy prints none between items; may also be inside a text
PIECE = re.compile(  # of lists and objects as they are printed; Python's own parser takes more, and nested deeply that can end the process
    r"""(?<!\w)'(?:[^'\\]|\\[\\'"nrtxuU])*'|(?<!\w)"(?:[^"\\]|\\[\\'"nrtxuU])*"|(?<![\w.])-?\d+(?:\.\d*)?(?:e[+-]?\d+)?"""
    r"""|None|True|False|array(?=\()|dtype=\w*|(?:(?<=array)|(?<![\w)\]}'"]))[\[({]|[\])},:]"""
)
LONGEST_PRINTED = 1_000_000  # characters; Python's parser takes up to 500 bytes for each
BLANK = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def parsed(value: Any) -> Any:
    """The list or object in a cell of text, which is all that CSV can hold, in JSON or as Python prints it; anything else as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return DECODER.decode(value.strip())
    except (ValueError, RecursionError):
        pass
    if len(value) > LONGEST_PRINTED or not PRINTED.match(value) or PIECE.sub("", value).strip():
        return value
    try:
        (statement,) = python_source.parsed(_with_commas(value) if NO_COMMA.search(value) else value.strip()).body
        found = ast.literal_eval(_Lists().visit(statement.value)) if isinstance(statement, ast.Expr) else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, tokenize.TokenError):
        return value
    return found if isinstance(found, list | dict) else value


class _Lists(ast.NodeTransformer):
    """array(['a'], dtype=object) of numpy as the list that it was made from."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        is_array = isinstance(node.func, ast.Name) and node.func.id == "array" and len(node.args) == 1
        return self.visit(node.args[0]) if is_array else node


def _with_commas(text: str) -> str:
    """What numpy printed with commas, because two strings side by side are one in Python."""
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text.strip()).readline) if token.type not in BLANK]
    parts = [token.string for token in tokens[:1]]
    for one, other in pairwise(tokens):
        ends = one.type in (tokenize.STRING, tokenize.NUMBER) or one.string in ("}", "]", ")")
        begins = other.type in (tokenize.STRING, tokenize.NUMBER) or other.string in ("{", "[", "(", "-")
        parts += [",", other.string] if ends and begins else [other.string]
    return " ".join(parts)


def plain(value: Any) -> Any:
    """The same value with numbers that can be counted with, however nested."""
    if isinstance(value, Number):
        return number(value)
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def number(spelled: str) -> int | float | str:
    """What a spelled number is; the text itself if it is none, or has more digits than Python reads."""
    for kind in (int, float):
        try:
            return kind(spelled)
        except ValueError:
            continue
    return spelled


def without_nulls(value: Any) -> Any:
    """Nested values without their empty fields: a table gives every object all the fields that any of them has."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list | tuple) else value
