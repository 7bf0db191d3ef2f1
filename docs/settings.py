"""A hook of mkdocs: the page of all settings is filled in from the schema of a recipe, so it cannot be out of date.

python docs/settings.py        # prints what the page gets
"""

from __future__ import annotations

from typing import Any

import yaml

from finetune import registry
from finetune.recipe.schema import keys_of_names, recipe_keys, recipe_schema

MARK = "<!-- every setting -->"
LIMITS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}", "minItems": "{} or more"}
KINDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true` or `false`", "object": "a mapping"}
HEAD = "| key | values | default | meaning |\n|---|---|---|---|\n"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fill in the page that has the mark."""
    return markdown.replace(MARK, settings()) if MARK in markdown else markdown


def settings() -> str:
    """Markdown: a section for each part of a recipe, one for each method, and the names that keys can take."""
    keys = recipe_keys()
    parts = [key for key in keys if "." not in key]
    alone = [key for key in parts if key == "method" or not any(known.startswith(f"{key}.") for known in keys)]
    sections = [f"## The run\n\n{table({key: keys[key] for key in alone})}"]
    for part in parts:
        if part not in alone:
            within = {key: about for key, about in keys.items() if key == part or key.startswith(f"{part}.")}
            sections.append(f"## `{part}`\n\n{table(within)}")
        if part == "teacher":
            sections.append(f"## `teachers`\n\n{several()}")
    sections += [f"## `method: {name}`\n\n{method(name)}" for name in registry.names("methods")]
    return "\n".join([*sections, "## Names\n", *names()])


def several() -> str:
    """What each of several teachers can be told beside what one can."""
    parts = recipe_schema()["$defs"]
    one, all_of_it, rows = (parts[name]["properties"] for name in ("TeacherSpec", "OneTeacherSpec", "TeacherRows"))
    own = {f"teachers.{key}": about for key, about in all_of_it.items() if key not in one}
    own |= {f"teachers.rows.{key}": about for key, about in rows.items()}
    return f"A list. Each teacher has the keys of `teacher`, and these:\n\n{table(own)}"


def method(name: str) -> str:
    """What one method can be told."""
    about = recipe_schema()["$defs"][name]
    own = {f"method.{key}": found for key, found in about["properties"].items() if key != "kind"}
    return f"{registry.title('methods', name)}: {about['description']}.\n\n{table(own)}"


def names() -> list[str]:
    """A table for each kind of thing that a key names, with what the program calls it."""
    kinds: dict[str, list[str]] = {}
    for key, kind in keys_of_names().items():
        if kind in registry.DESCRIBED:
            kinds.setdefault(kind, []).append(key)
    return [
        f"### {', '.join(f'`{key}`' for key in keys)}\n\n| name | title | what it is |\n|---|---|---|\n"
        + "".join(f"| `{name}` | {title} | {cell(summary)} |\n" for name, title, summary in registry.choices(kind))
        for kind, keys in kinds.items()
    ]


def table(keys: dict[str, dict[str, Any]]) -> str:
    return HEAD + "".join(
        f"| `{key}` | {cell(values(about))} | {default(about)} | {cell(about.get('description', ''))} |\n" for key, about in keys.items()
    )


def default(about: dict[str, Any]) -> str:
    """As YAML; nothing where there is none, and a part of its own has the defaults of its keys."""
    known = about.get("default")
    if known in (None, "") or isinstance(known, dict):
        return ""
    return f"`{yaml.safe_dump(known, default_flow_style=True).removesuffix('...' + chr(10)).strip()}`"


def values(about: dict[str, Any]) -> str:
    """What a key can be, in words."""
    if "anyOf" in about:
        ways = [values(way) for way in about["anyOf"] if way.get("type") != "null"]
        return " or ".join(dict.fromkeys(way for way in ways if way))
    if "$ref" in about or "allOf" in about:
        return "a mapping"
    if "const" in about:
        return f"`{about['const']}`"
    if "enum" in about:
        return ", ".join(f"`{name}`" for name in about["enum"])
    limits = " and ".join(words.format(about[name]) for name, words in LIMITS.items() if name in about)
    if about.get("type") == "array":
        inner = values(about["items"]) if about.get("items") else "any"
        return f"a list ({inner}{f'; {limits}' if limits else ''})"
    return f"{KINDS.get(str(about.get('type')), '')} {limits}".strip()


def cell(text: str) -> str:
    """Text that does not end its cell, nor begin a tag."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


if __name__ == "__main__":
    print(settings())
