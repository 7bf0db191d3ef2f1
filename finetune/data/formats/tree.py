"""A conversation as a tree of messages, as ChatGPT exports it (conversations.json, column mapping): an answer asked for again is a branch.

branch({"a": {"message": None, "parent": None, "children": ["b"]}, "b": {"message": {...}, "parent": "a", "children": []}})
    ->  [{"role": "user", "content": {"content_type": "text", "parts": ["Hi"]}}]
"""

from __future__ import annotations

from typing import Any

NODE = {"message", "parent", "children"}
UNSEEN = ("thoughts", "reasoning_recap", "user_editable_context", "model_editable_context")  # kinds of content beside what is said


def is_tree(value: Any) -> bool:
    """Whether an object has the nodes of a tree by their names."""
    return isinstance(value, dict) and bool(value) and all(isinstance(node, dict) and node.keys() >= NODE for node in value.values())


def branch(nodes: dict[Any, Any]) -> list[dict[str, Any]]:
    """The turns that a person sees, from the first to the last: of several at one place the newest.

    A call of a tool has the tool's name as its role: it is no answer to learn.
    """
    return [_turn(message) for message in _newest(nodes) if not _is_unseen(message)]


def others(nodes: dict[Any, Any]) -> list[Any]:
    """What the other messages say: those of older branches, and thoughts."""
    shown = [message for message in _newest(nodes) if not _is_unseen(message)]
    left = [node["message"] for node in nodes.values() if not any(node["message"] is each for each in shown)]
    contents = [message.get("content") for message in left if isinstance(message, dict)]
    return [content.get("parts", content) for content in contents if isinstance(content, dict)]


def _newest(nodes: dict[Any, Any]) -> list[dict[str, Any]]:
    here = next((node for node in nodes.values() if node["parent"] not in nodes), None)
    messages = []
    for _ in nodes:  # a tree with a circle has an end too
        if here is None:
            break
        if isinstance(here["message"], dict):
            messages.append(here["message"])
        children = here["children"]
        here = nodes.get(children[-1]) if isinstance(children, list) and children else None
    return messages


def _turn(message: dict[str, Any]) -> dict[str, Any]:
    author, to = message.get("author"), message.get("recipient")
    role = author.get("role") if isinstance(author, dict) else author
    return {"role": role if to in (None, "all") else to, "content": message.get("content")}


def _is_unseen(message: dict[str, Any]) -> bool:
    """Whether a message is hidden from the conversation, or says nothing."""
    about, content = message.get("metadata"), message.get("content")
    if isinstance(about, dict) and about.get("is_visually_hidden_from_conversation"):
        return True
    return isinstance(content, dict) and (content.get("content_type") in UNSEEN or content.get("parts") in ([""], []))
