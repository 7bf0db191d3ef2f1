"""Building blocks of the page. Each takes plain text and escapes it; text of the type Html is markup already.

facts([("Model", "SmolLM2"), ("Seed", "42")])
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from finetune.formatting import strip_control_chars


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def shown(content: str) -> Html:
    """Markup unchanged, anything else escaped; a character that HTML forbids becomes a question mark."""
    if isinstance(content, Html):
        return content
    return Html(escape(strip_control_chars(content)))


def element(name: str, *content: str, **attributes: str) -> Html:
    """`class_` is class, `aria_label` is aria-label."""
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{written}>{joined(content)}</{name}>")


def joined(parts: Iterable[str]) -> Html:
    return Html("".join(shown(part) for part in parts))


def section(title: str, *content: str, note: str = "") -> Html:
    """A section with a heading; empty if it has no content."""
    if not any(content):
        return Html()
    name = "".join(letter for letter in title.lower() if letter.isalnum() or letter == " ").replace(" ", "-")
    said = [element("p", note, class_="quiet")] if note else []
    return element("section", element("h2", title, id=name), *said, *content, aria_labelledby=name)


def subsection(title: str, content: str) -> Html:
    """The same one level lower."""
    return joined([element("h3", title), content]) if content else Html()


def bullets(items: Iterable[str]) -> Html:
    """A list of sentences; empty if there are none."""
    listed = [element("li", item) for item in items]
    return element("ul", *listed) if listed else Html()


def facts(rows: Sequence[tuple[str, str]]) -> Html:
    """A list of names and their values."""
    listed = [joined([element("dt", name), element("dd", fact)]) for name, fact in rows if fact]
    return element("dl", *listed) if listed else Html()


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> Html:
    """The first cell of each row is its heading."""
    top = element("tr", *(element("th", cell, scope="col") if cell else element("td") for cell in head))
    body = [element("tr", element("th", name, scope="row"), *(element("td", cell) for cell in cells)) for name, *cells in rows]
    return element("table", element("caption", caption, class_="hidden"), element("thead", top), element("tbody", *body))


def duration(seconds: float) -> str:
    """0.4 s, 12 s, 2 min 27 s, 3 h 5 min."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 9.5 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"
