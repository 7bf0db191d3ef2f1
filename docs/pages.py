"""A hook of mkdocs: the documents above docs/ become pages too, links between documents work on the site, formulas become MathML.

    [the update](../DISTILLATION_UPDATE.md)     in docs/how.md: leads to a page on the site, and to the file where the repository is read
    [a script](../benchmarks/data.py)           no page: its text stays, without a link

A fence of the language `math` holds a formula in TeX, as code hosts draw it too. Browsers draw MathML by themselves: no script is needed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ABOVE = {  # documents that stay where people look for them
    "DISTILLATION_UPDATE.md": "distillation.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "README.md": "index.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"^```.*?^```\n?", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r"^```math\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Add the documents that lie above docs/."""
    from mkdocs.structure.files import File

    for document, page in ABOVE.items():
        if files.get_file_from_path(page) is None:
            files.append(File.generated(config, page, content=(ROOT / document).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Make links and formulas what a browser needs."""
    markdown = FORMULA.sub(lambda found: f"\n{drawn(found[1])}\n", markdown)
    place = page.file.src_uri
    pages = {file.src_uri for file in files}
    return outside_code(markdown, lambda text: LINK.sub(lambda found: linked(found, source_of(place), place, pages), text))


def source_of(page: str) -> str:
    """The document of a page, seen from the top of the project."""
    return next((document for document, made in ABOVE.items() if made == page and made != "index.md"), f"docs/{page}")


def linked(found: re.Match[str], document: str, page: str, pages: set[str]) -> str:
    """A link as it is on the site; what has no page there keeps its text alone."""
    picture, text, target, anchor = found[1], found[2], found[3], found[4] or ""
    path = os.path.normpath(os.path.join(os.path.dirname(document), target)).replace(os.sep, "/")
    there = ABOVE.get(path, path.removeprefix("docs/") if path.startswith("docs/") else path)
    if there not in pages:
        return text if "`" in text else f"`{text}`" if "/" in text else text
    return f"{picture}[{text}]({os.path.relpath(there, os.path.dirname(page) or '.').replace(os.sep, '/')}{anchor})"


def outside_code(markdown: str, change: Any) -> str:
    """The text with everything but its fences changed."""
    parts, at = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [change(markdown[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join([*parts, change(markdown[at:])])


def drawn(formula: str) -> str:
    """TeX as MathML in a block of its own, which a keyboard can scroll where it is wider than the screen."""
    from latex2mathml.converter import convert

    return (
        f'<div class="formula" tabindex="0" role="group" aria-label="formula">{convert(" ".join(formula.split()), display="block")}</div>'
    )


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Name the theme's search dialog, which screen readers would read without one."""
    return output.replace('data-md-component="search" role="dialog"', 'data-md-component="search" role="dialog" aria-label="Search"')
