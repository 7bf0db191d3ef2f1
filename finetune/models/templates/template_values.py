"""What an expression in a chat template has of the turns.

values = Values()
values.kind(expression)         # Kind.TEXT; raises Unproven where the text of a turn could decide something
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from jinja2 import nodes

from finetune.models.templates.template_truth import TYPES, Conditions, Kind, Unproven, constant, key_of, named, number

SEARCHES = {"split", "startswith", "endswith", "replace", "find", "count"}  # methods of a text, by a fixed string
STRIPS = {"strip", "lstrip", "rstrip"}
LOOP = {"index", "index0", "first", "last", "length", "revindex", "revindex0", "depth", "depth0"}
MACHINERY = {"loop", "caller", "varargs", "kwargs", "lipsum", "self", "super"}


class Values(Conditions):
    """Kinds of expressions, and what the template searches for on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.macros: dict[str, nodes.Macro] = {}
        self.loops: list[Kind] = []  # what the loops go over, the innermost last
        self.marks: set[str] = set()
        self.trims = False

    def kind(self, node: nodes.Node | None) -> Kind:
        """What a value has of the turns; raises Unproven where that could decide something."""
        if node is None or isinstance(node, nodes.Const | nodes.TemplateData):
            return Kind.PLAIN
        read = EXPRESSIONS.get(type(node))
        if read is None:
            raise Unproven
        return read(self, node)

    def _name(self, node: nodes.Name) -> Kind:
        inside = any(name.startswith(f"{node.name}.") and kind is not Kind.PLAIN for name, kind in self.kinds.items())
        if node.name in MACHINERY or inside:  # a namespace with text of turns: only its parts are of a kind
            raise Unproven
        return self.kinds.get(node.name, Kind.PLAIN)

    def _attribute(self, node: nodes.Getattr | nodes.Getitem) -> Kind:
        key = key_of(node)
        if isinstance(node.node, nodes.Name) and isinstance(key, str):
            name = node.node.name
            if name == "loop":
                return self._of_loop(key)
            if f"{name}.{key}" in self.kinds:
                return self.kinds[f"{name}.{key}"]
        kind = self.kind(node.node)
        if isinstance(node, nodes.Getitem) and not isinstance(key, str):
            return self._item(kind, node.arg)
        if kind is Kind.PLAIN or (kind is Kind.TURN and not hasattr(dict, str(key))):
            return Kind.TEXT if kind is Kind.TURN and key == "content" else Kind.PLAIN
        raise Unproven

    def _of_loop(self, key: str) -> Kind:
        if key in ("previtem", "nextitem") and self.loops:
            return Kind.TURN if self.loops[-1] is Kind.TURNS else Kind.PLAIN
        if key in LOOP:
            return Kind.PLAIN
        raise Unproven

    def _item(self, kind: Kind, at: nodes.Node) -> Kind:
        if isinstance(at, nodes.Slice):
            self.all_plain([part for part in (at.start, at.stop, at.step) if part is not None])
        else:
            self.all_plain([at])
        if kind in (Kind.PLAIN, Kind.TURNS):
            whole = kind is Kind.PLAIN or isinstance(at, nodes.Slice)
            return kind if whole else Kind.TURN
        if kind is Kind.ITEMS and number(at) in (0, -1):
            return Kind.MAYBE
        raise Unproven

    def _filter(self, node: nodes.Filter) -> Kind:
        if node.node is None or node.dyn_args or node.dyn_kwargs or node.name == "random":
            raise Unproven
        kind, given = self.kind(node.node), [*node.args, *(pair.value for pair in node.kwargs)]
        self.all_plain(given)
        if kind is Kind.PLAIN:
            return kind
        if kind in (Kind.TEXT, Kind.MAYBE, Kind.MIXED):
            if node.name in ("trim", "string") and not given:
                return kind
            if node.name in ("default", "d"):
                return joined(kind, Kind.PLAIN)
            if node.name == "replace":
                return self._searched(node.args[:1], kind)
        elif kind is Kind.ITEMS and node.name in ("first", "last", "length"):
            return Kind.PLAIN if node.name == "length" else Kind.MAYBE
        elif kind is Kind.TURNS:
            attribute = node.args[0].value if node.args and isinstance(node.args[0], nodes.Const) else None
            if node.name in ("selectattr", "rejectattr") and isinstance(attribute, str) and "content" not in attribute:
                return kind
            mapped = {str(pair.key): constant(pair.value) for pair in node.kwargs}
            if node.name == "map" and not node.args and mapped == {"attribute": "role"}:
                return Kind.PLAIN
            simple = {"list": kind, "reverse": kind, "first": Kind.TURN, "last": Kind.TURN, "length": Kind.PLAIN, "count": Kind.PLAIN}
            if node.name in simple and not given:
                return simple[node.name]
        raise Unproven

    def _call(self, node: nodes.Call) -> Kind:
        if node.dyn_args or node.dyn_kwargs:
            raise Unproven
        called, given = node.node, [*node.args, *(pair.value for pair in node.kwargs)]
        if isinstance(called, nodes.Getattr):
            return self._method(called, node.args, given)
        if isinstance(called, nodes.Name) and called.name in self.macros:
            return self._macro_call(self.macros[called.name], node)
        if named(called, "raise_exception"):
            for value in given:
                self.kind(value)
            return Kind.PLAIN
        self.all_plain([called, *given])
        return Kind.PLAIN

    def _macro_call(self, macro: nodes.Macro, node: nodes.Call) -> Kind:
        names = [parameter.name for parameter in macro.args]
        if len(node.args) > len(names) or any(pair.key not in names for pair in node.kwargs):
            raise Unproven
        for name, value in [*zip(names, node.args, strict=False), *((pair.key, pair.value) for pair in node.kwargs)]:
            self.note(name, self.kind(value))
        return self.kinds.get(f"{macro.name}()", Kind.PLAIN)

    def _method(self, called: nodes.Getattr, args: list[nodes.Expr], given: list[nodes.Expr]) -> Kind:
        kind, name = self.kind(called.node), called.attr
        if kind is Kind.TURN and name in ("get", "keys"):
            key = constant(args[0]) if args else ""
            self.all_plain(given)
            if not isinstance(key, str):
                raise Unproven
            return Kind.TEXT if key == "content" else Kind.PLAIN
        self.all_plain(given)
        if kind is Kind.PLAIN:
            return kind
        if kind in (Kind.TEXT, Kind.MAYBE, Kind.MIXED):
            if name in STRIPS and not (given and (len(given) > 1 or str(constant(given[0]) or "x").strip())):
                self.trims = self.trims or name != "strip" or bool(given)
                return kind
            if name in SEARCHES:
                found = self._searched(args[:1], kind)
                return {"split": Kind.ITEMS, "replace": found}.get(name, Kind.PLAIN)
        raise Unproven

    def _test(self, node: nodes.Test) -> Kind:
        kind = self.kind(node.node)
        self.all_plain(node.args)
        if kind is not Kind.PLAIN and node.name not in TYPES:
            raise Unproven
        return Kind.PLAIN

    def _compare(self, node: nodes.Compare) -> Kind:
        kinds = [self.kind(part) for part in (node.expr, *(operand.expr for operand in node.ops))]
        if all(kind is Kind.PLAIN for kind in kinds):
            return Kind.PLAIN
        if len(kinds) == 2:
            (one, other), operand = kinds, node.ops[0]
            if operand.op in ("in", "notin") and one is Kind.PLAIN and other in (Kind.TEXT, Kind.MAYBE, Kind.MIXED):
                self._searched([node.expr], other)
                return Kind.PLAIN
            if operand.op in ("in", "notin") and other is Kind.TURN and isinstance(constant(node.expr), str):
                return Kind.PLAIN
            fixed = operand.expr if other is Kind.PLAIN else node.expr
            known = isinstance(fixed, nodes.Const) and not (isinstance(fixed.value, str) and fixed.value.strip())
            if operand.op in ("eq", "ne") and Kind.PLAIN in kinds and known:  # no text is a number, and none is blank
                return Kind.PLAIN
        raise Unproven

    def _either(self, node: nodes.And | nodes.Or) -> Kind:
        one, decided = self.kind(node.left), self.truth(node.left)
        if decided is isinstance(node, nodes.Or):
            return one
        other = self.kind(node.right)
        try:
            return joined(one, other)
        except Unproven:
            return Kind.OTHER

    def _not(self, node: nodes.Not) -> Kind:
        self.kind(node.node)
        return Kind.PLAIN

    def _choice(self, node: nodes.CondExpr) -> Kind:
        self.kind(node.test)
        decided = self.truth(node.test)
        if decided is not None:
            return self.kind(node.expr1 if decided else node.expr2)
        return joined(self.kind(node.expr1), self.kind(node.expr2))

    def _concatenation(self, node: nodes.Concat | nodes.Add) -> Kind:
        parts = node.nodes if isinstance(node, nodes.Concat) else [node.left, node.right]
        return mixed(self.kind(part) for part in parts)

    def _plain_only(self, node: nodes.Node) -> Kind:
        self.all_plain(node.iter_child_nodes())
        return Kind.PLAIN

    def kind_of(self, node: nodes.Node) -> Kind | None:
        try:
            return self.kind(node)
        except Unproven:
            return None

    # Notes.

    def set_kind(self, target: nodes.Node, kind: Kind) -> None:
        if isinstance(target, nodes.Name):
            self.note(target.name, kind)
        elif isinstance(target, nodes.NSRef):
            self.note(f"{target.name}.{target.attr}", kind)
        elif isinstance(target, nodes.Tuple) and kind is Kind.PLAIN:
            for item in target.items:
                self.set_kind(item, kind)
        else:
            raise Unproven

    def note(self, name: str, kind: Kind) -> None:
        self.kinds[name] = joined(self.kinds[name], kind) if name in self.kinds else kind

    def _searched(self, what: list[nodes.Expr], kind: Kind) -> Kind:
        mark = constant(what[0]) if what else None
        if not isinstance(mark, str) or not mark or kind is Kind.MIXED:  # where two texts meet, a mark may come about
            raise Unproven
        self.marks.add(mark)
        return kind

    def all_plain(self, parts: Iterable[nodes.Node]) -> None:
        if any(self.kind(part) is not Kind.PLAIN for part in parts):
            raise Unproven


def mixed(kinds: Iterable[Kind]) -> Kind:
    """What a text has that is joined from such values."""
    found = set(kinds)
    if not found <= {Kind.PLAIN, Kind.TEXT, Kind.MAYBE, Kind.MIXED}:
        raise Unproven
    return Kind.PLAIN if found <= {Kind.PLAIN} else Kind.MIXED


def joined(one: Kind, other: Kind) -> Kind:
    """What a value has that may be either."""
    if one is other:
        return one
    if {one, other} <= {Kind.PLAIN, Kind.TEXT, Kind.MAYBE}:
        return Kind.MAYBE
    if {one, other} <= {Kind.PLAIN, Kind.TEXT, Kind.MAYBE, Kind.MIXED}:
        return Kind.MIXED
    raise Unproven


EXPRESSIONS: dict[type, Callable[[Values, Any], Kind]] = {
    nodes.Name: Values._name,
    nodes.Getattr: Values._attribute,
    nodes.Getitem: Values._attribute,
    nodes.Filter: Values._filter,
    nodes.Call: Values._call,
    nodes.Test: Values._test,
    nodes.Compare: Values._compare,
    nodes.And: Values._either,
    nodes.Or: Values._either,
    nodes.Not: Values._not,
    nodes.CondExpr: Values._choice,
    nodes.Concat: Values._concatenation,
    nodes.Add: Values._concatenation,
    **dict.fromkeys((nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow, nodes.Neg, nodes.Pos), Values._plain_only),
    **dict.fromkeys((nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair), Values._plain_only),
}
