"""What is known about a condition in a chat template before it runs, for every turn that could be filled in.

class Values(Conditions): ...           # which tells the kind of an expression
values.truth(condition)                 # False for `message.role == 'tool'`: such turns are never filled in; None where more decides
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum
from typing import Any

from jinja2 import nodes

ROLES = {"system", "user", "assistant"}  # of turns that are filled in; they have a content that is not blank, and nothing else
TYPES = {"defined", "undefined", "none", "string", "mapping", "iterable", "sequence", "number", "boolean", "callable", "true", "false"}


class Kind(Enum):
    """What a value has of the turns.

    PLAIN nothing, TEXT the text of one, MAYBE that or nothing, MIXED text joined with other text, ITEMS a list that has the text alone,
    TURN a turn, TURNS several, OTHER one of these that is good for nothing but a condition.
    """

    PLAIN, TEXT, MAYBE, MIXED, ITEMS, TURN, TURNS, OTHER = range(8)


class Unproven(Exception):
    """The text of a turn may decide something."""


class Conditions(ABC):
    """`kinds` are those of the variables: each has one, wherever and whenever it is set."""

    def __init__(self) -> None:
        self.kinds: dict[str, Kind] = {"messages": Kind.TURNS}
        self.nothing: set[str] = set()  # variables that are None

    @abstractmethod
    def kind_of(self, node: nodes.Node) -> Kind | None:
        """The kind of an expression; None where the text of a turn could decide something in it."""

    def truth(self, node: nodes.Node | None) -> bool | None:
        """The truth of a condition for every turn that is filled in; None where it depends on more than that."""
        if isinstance(node, nodes.Const):
            return bool(node.value)
        if isinstance(node, nodes.Name) and node.name in self.nothing:
            return False
        if isinstance(node, nodes.Not):
            inner = self.truth(node.node)
            return None if inner is None else not inner
        if isinstance(node, nodes.And | nodes.Or):
            known = {self.truth(node.left), self.truth(node.right)}
            decisive = isinstance(node, nodes.Or)
            return decisive if decisive in known else None if None in known else not decisive
        if isinstance(node, nodes.Test):
            return self._truth_of_test(node)
        if isinstance(node, nodes.Compare) and len(node.ops) == 1:
            return self._truth_of_comparison(node.expr, node.ops[0])
        if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) and node.node.attr in ("startswith", "endswith"):
            return False if self.kind_of(node.node.node) is Kind.TEXT else None
        if isinstance(node, nodes.Getattr | nodes.Getitem):
            return {"content": True, "absent": False}.get(self._field(node) or "")
        return None

    def _truth_of_test(self, node: nodes.Test) -> bool | None:
        field = self._field(node.node)
        if isinstance(node.node, nodes.Name) and node.node.name in self.nothing and node.name in TYPES:
            return {"none": True, "defined": True}.get(node.name, False)
        if field == "content":
            return {"string": True, "defined": True, "iterable": True, "sequence": True}.get(node.name, False)
        return {"defined": False, "undefined": True}.get(node.name) if field == "absent" else None

    def _truth_of_comparison(self, expr: nodes.Node, operand: nodes.Operand) -> bool | None:
        key, other = constant(expr), operand.expr
        if operand.op in ("in", "notin"):
            kind = self.kind_of(other)
            if isinstance(key, str) and (kind is Kind.TEXT or (kind is Kind.TURN and key not in ("role", "content"))):
                return operand.op == "notin"
            listed = {constant(item) for item in other.items} if isinstance(other, nodes.List | nodes.Tuple) else {None}
            return operand.op == "notin" if self._field(expr) == "role" and None not in listed and not listed & ROLES else None
        for one, two in ((expr, other), (other, expr)):
            said = constant(two)
            if self._field(one) == "role" and isinstance(said, str) and said not in ROLES and operand.op in ("eq", "ne"):
                return operand.op == "ne"
        return None

    def _field(self, node: nodes.Node | None) -> str | None:
        """For a field of a turn: "role", "content", or "absent"."""
        if not isinstance(node, nodes.Getattr | nodes.Getitem) or self.kind_of(node.node) is not Kind.TURN:
            return None
        key = key_of(node)
        return None if not isinstance(key, str) or hasattr(dict, key) else key if key in ("role", "content") else "absent"

    def _text_by_name(self, test: nodes.Node) -> str | None:
        """The variable of a test whether it is a string, if it is always the text of a turn where it is set at all."""
        if isinstance(test, nodes.Test) and test.name == "string" and isinstance(test.node, nodes.Name):
            return test.node.name if self.kinds.get(test.node.name) is Kind.TEXT else None
        return None


def key_of(node: nodes.Getattr | nodes.Getitem) -> Any:
    return node.attr if isinstance(node, nodes.Getattr) else constant(node.arg)


def constant(node: nodes.Node | None) -> Any:
    return node.value if isinstance(node, nodes.Const) else None


def number(node: nodes.Node) -> Any:
    return -constant(node.node) if isinstance(node, nodes.Neg) and isinstance(constant(node.node), int) else constant(node)


def named(node: nodes.Node, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.name == name
