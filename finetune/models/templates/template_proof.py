"""Whether a chat template only copies what the turns say; then their text can be filled into what was rendered once.

proof = prove("{% for turn in messages %}<|{{ turn.role }}|>{{ turn.content | trim }}{% endfor %}")
proof.marks, proof.trims        # what it looks for in a turn, and whether it cuts single blanks off; None for what is not proven

The program is read, not run. The text of a turn may be written, joined, trimmed and stored; it may be searched for fixed strings, for
without them the answer is known. Whatever else could depend on it (its length, its letters, a comparison of two turns, a filter) ends the
proof, and so does everything that is not named here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import Environment, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from finetune.models.templates.template_truth import Kind, Unproven, named
from finetune.models.templates.template_values import SEARCHES, Values, joined, mixed

MOST_ROUNDS = 12


class Proof(NamedTuple):
    """It holds for turns in which none of `marks` occurs, and, if it `trims` in ways of its own, without blanks at their ends."""

    marks: frozenset[str]
    trims: bool


@lru_cache(maxsize=8)
def prove(source: str) -> Proof | None:
    """None where nothing is proven."""
    try:
        walk = _Walk(_parsed(source))
        walk.settle()
    except (Unproven, TemplateError, RecursionError):
        return None
    return Proof(frozenset(walk.marks), walk.trims)


@lru_cache(maxsize=8)
def looked_for(source: str) -> frozenset[str]:
    """The fixed strings that the template searches for, in whatever it may be."""
    try:
        tree = _parsed(source)
    except (TemplateError, RecursionError):
        return frozenset()
    found: set[str] = set()
    for compare in tree.find_all(nodes.Compare):
        if isinstance(compare.expr, nodes.Const) and any(operand.op in ("in", "notin") for operand in compare.ops):
            found.add(str(compare.expr.value))
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr) and call.node.attr in SEARCHES:
            found |= {str(argument.value) for argument in call.args if isinstance(argument, nodes.Const)}
    return frozenset(found)


class _Generation(Extension):
    """{% generation %}, which transformers adds to the language."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def _parsed(source: str) -> nodes.Template:
    return Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]).parse(source)


class _Walk(Values):
    """Goes through the program until the kinds of all variables are known. A variable has one kind, wherever and whenever it is set."""

    def __init__(self, tree: nodes.Template) -> None:
        super().__init__()
        self.tree = tree
        self.nothing = {name for name in ("tools", "documents") if _is_nothing(name, tree)}  # rows that have them are not filled in
        self.written = Kind.PLAIN  # by the macro or block that is being read

    def settle(self) -> None:
        for _ in range(MOST_ROUNDS):
            before = dict(self.kinds)
            self._body(self.tree.body)
            if self.kinds == before:
                return
        raise Unproven

    # Statements.

    def _body(self, body: Iterable[nodes.Node]) -> None:
        for node in body:
            read = STATEMENTS.get(type(node))
            if read is None:
                raise Unproven
            read(self, node)

    def _output(self, node: nodes.Output) -> None:
        self.written = mixed([self.written, *map(self.kind, node.nodes)])

    def _if(self, node: nodes.If) -> None:
        for case in (node, *node.elif_):
            self.kind(case.test)
            decided = self.truth(case.test)
            if decided is not False:
                self._body(case.body)
            if decided:
                return
            name = self._text_by_name(case.test)
            if name is not None:  # from here on it is no text, and so it was never set
                with self._unset(name):
                    rest = node.elif_[node.elif_.index(case) + 1 :] if case is not node else node.elif_
                    self._if_rest(rest, node.else_)
                return
        self._body(node.else_)

    def _if_rest(self, cases: list[nodes.If], otherwise: list[nodes.Node]) -> None:
        if cases:
            self._if(nodes.If(cases[0].test, cases[0].body, cases[1:], otherwise))
        else:
            self._body(otherwise)

    def _for(self, node: nodes.For) -> None:
        kind = self.kind(node.iter)
        if node.recursive or kind not in (Kind.PLAIN, Kind.TURNS):
            raise Unproven
        self.set_kind(node.target, Kind.TURN if kind is Kind.TURNS else Kind.PLAIN)
        if node.test is not None:
            self.kind(node.test)
        self.loops.append(kind)
        self._body(node.body)
        self.loops.pop()
        self._body(node.else_)

    def _assign(self, node: nodes.Assign) -> None:
        call = node.node
        if isinstance(node.target, nodes.Name) and isinstance(call, nodes.Call) and named(call.node, "namespace"):
            for pair in call.kwargs:
                self.note(f"{node.target.name}.{pair.key}", self.kind(pair.value))
            self.all_plain(call.args)
            self.note(node.target.name, Kind.PLAIN)
        else:
            self.set_kind(node.target, self.kind(call))

    def _assign_block(self, node: nodes.AssignBlock) -> None:
        with self._apart() as written:
            self._body(node.body)
            kind = written()
        if node.filter is not None and kind is not Kind.PLAIN:
            raise Unproven
        self.set_kind(node.target, kind)

    def _macro(self, node: nodes.Macro) -> None:
        self.macros[node.name] = node
        for parameter, default in zip(reversed(node.args), reversed(node.defaults), strict=False):
            self.set_kind(parameter, self.kind(default))
        loops, self.loops = self.loops, []
        with self._apart() as written:
            self._body(node.body)
            self.note(f"{node.name}()", written())
        self.loops = loops

    def _with(self, node: nodes.With) -> None:
        for target, value in zip(node.targets, node.values, strict=True):
            self.set_kind(target, self.kind(value))
        self._body(node.body)

    @contextmanager
    def _apart(self) -> Iterator[Callable[[], Kind]]:
        """Reads a block whose text is kept and not written; what is yielded tells what it has of the turns."""
        outside, self.written = self.written, Kind.PLAIN
        yield lambda: self.written
        self.written = outside

    @contextmanager
    def _unset(self, name: str) -> Iterator[None]:
        known = self.kinds.pop(name)
        yield
        self.kinds[name] = joined(known, self.kinds[name]) if name in self.kinds else known


def _is_nothing(name: str, tree: nodes.Template) -> bool:
    """Whether a variable is None if it is given as None: the program sets it to nothing else."""
    stored = [found for found in tree.find_all(nodes.Name) if found.name == name and found.ctx != "load"]
    emptied = [
        assign.target
        for assign in tree.find_all(nodes.Assign)
        if isinstance(assign.target, nodes.Name) and assign.target.name == name
        if isinstance(assign.node, nodes.Const) and assign.node.value is None
    ]
    return len(stored) == len(emptied)


STATEMENTS: dict[type, Callable[[_Walk, Any], None]] = {
    nodes.Output: _Walk._output,
    nodes.If: _Walk._if,
    nodes.For: _Walk._for,
    nodes.Assign: _Walk._assign,
    nodes.AssignBlock: _Walk._assign_block,
    nodes.Macro: _Walk._macro,
    nodes.With: _Walk._with,
    nodes.Scope: lambda walk, node: walk._body(node.body),
    nodes.Break: lambda walk, node: None,
    nodes.Continue: lambda walk, node: None,
}
