"""A conversation as a tree of messages, as ChatGPT and DeepSeek export it (column mapping): an answer asked for again is a branch.

branch({"a": {"message": None, "parent": None, "children": ["b"]}, "b": {"message": {...}, "parent": "a", "children": []}})
    ->  [{"role": "user", "content": {"content_type": "text", "parts": ["Hi"]}}]

Answers that rest on what the text does not have (a search, a program that was run, a picture, a file) are read, and not learned.
"""

from __future__ import annotations

from typing import Any

NODE = {"message", "parent", "children"}
UNSEEN = ("thoughts", "reasoning_recap", "user_editable_context", "model_editable_context", "system_error")  # kinds of content
SAID = ("text", "multimodal_text")
FRAGMENTS = ("REQUEST", "RESPONSE", "THINK")  # of DeepSeek; answers with others rest on a search
RESTS = "the answers rest on tools, pictures or files, which the text does not have"
REST = "Answers that rest on tools, pictures or files, which the text does not have, are read but not learned"


def is_tree(value: Any) -> bool:
    """Whether an object has the nodes of a tree by their names."""
    return isinstance(value, dict) and bool(value) and all(isinstance(node, dict) and node.keys() >= NODE for node in value.values())


def branch(nodes: dict[Any, Any]) -> list[dict[str, Any]]:
    """The turns that a person sees, from the first to the last: of several at one place the newest. Calls of tools and results are none."""
    turns: list[dict[str, Any]] = []
    tools = files = False  # of the question, and from here on
    for message in _newest(nodes):
        if _is_unseen(message):
            continue
        if _is_tools(message):
            tools = True
            for turn in reversed(turns):
                if turn["role"] == "user":
                    break
                turn["train"] = False  # "Let me look that up."
            continue
        turn = {"role": _role(message), "content": _words(message)}
        if thought := _said(message, ("THINK",)) or message.get("reasoning_content"):
            turn["reasoning_content"] = thought
        if turn["role"] == "user":
            tools, files = False, files or _has_files(message)
        elif tools or files or any(part.get("type") not in FRAGMENTS for part in _fragments(message)):
            turn["train"] = False
        turns.append(turn)
    return turns


def others(nodes: dict[Any, Any]) -> list[Any]:
    """What the other messages say: those of older branches, thoughts, and tools."""
    shown = [message for message in _newest(nodes) if not _is_unseen(message) and not _is_tools(message)]
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


def _role(message: dict[str, Any]) -> Any:
    if fragments := _fragments(message):
        return "user" if any(part.get("type") == "REQUEST" for part in fragments) else "assistant"
    author = message.get("author", message.get("role"))
    return author.get("role") if isinstance(author, dict) else str(author).lower() if author is not None else None


def _fragments(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Of a message of DeepSeek, which has no author."""
    parts = message.get("fragments")
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def _said(message: dict[str, Any], kinds: tuple[str, ...]) -> str:
    texts = [part.get("content") for part in _fragments(message) if part.get("type") in kinds]
    return "\n".join(text for text in texts if isinstance(text, str))


def _kind(message: dict[str, Any]) -> Any:
    content = message.get("content")
    return content.get("content_type", "text") if isinstance(content, dict) else "text"


def _is_tools(message: dict[str, Any]) -> bool:
    """Whether it is a call of a tool, its result, or what a tool shows."""
    return message.get("recipient") not in (None, "all") or _role(message) == "tool" or _kind(message) not in SAID


def _parts(message: dict[str, Any]) -> list[Any]:
    parts = message["content"].get("parts") if isinstance(message.get("content"), dict) else None
    return parts if isinstance(parts, list) else []


def _words(message: dict[str, Any]) -> Any:
    """The content; beside pictures and sound only the words, be they written or heard."""
    if _fragments(message):
        return _said(message, ("REQUEST", "RESPONSE"))
    if _kind(message) == "text":
        return message.get("content")
    words = [part.get("text") if isinstance(part, dict) else part for part in _parts(message)]
    return "\n".join(text for text in words if isinstance(text, str))


def _has_files(message: dict[str, Any]) -> bool:
    about = message.get("metadata")
    shown = [part for part in _parts(message) if isinstance(part, dict) and "audio" not in str(part.get("content_type"))]
    return bool(shown or message.get("files")) or (isinstance(about, dict) and bool(about.get("attachments")))


def _is_unseen(message: dict[str, Any]) -> bool:
    """Whether a message is hidden from the conversation, or says nothing."""
    about, content = message.get("metadata"), message.get("content")
    if isinstance(about, dict) and about.get("is_visually_hidden_from_conversation"):
        return True
    return isinstance(content, dict) and (content.get("content_type") in UNSEEN or content.get("parts") in ([""], []))
