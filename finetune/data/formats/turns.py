"""One conversation as the messages that a chat template takes, whoever wrote it: OpenAI, ShareGPT, Anthropic, Gemini, pairs, bare texts.

read_messages([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}], "conversations")
read_messages(["Hi", "Hello!"], "data")
    ->  [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, groupby, zip_longest
from typing import Any

from finetune.data.formats import flags
from finetune.data.formats.cells import Message, as_text, is_empty, joined, only_text
from finetune.data.formats.media import media_field
from finetune.data.formats.parts import Said, is_result, read_parts
from finetune.data.formats.tools import is_nothing, read_calls, result_text
from finetune.data.formats.tree import REST, branch, is_tree, others
from finetune.data.json_values import parsed
from finetune.data.rows import AFTER, ROLES_KNOWN, RowProblem

ROLES = {"system": "system", "developer": "system", "user": "user", "human": "user", "prompter": "user", "customer": "user"}
ROLES |= dict.fromkeys(
    ("assistant", "gpt", "model", "bot", "chatgpt", "chatbot", "ai", "llm", "bing", "bard", "claude", "agent"), "assistant"
)
CALLING = ("function_call", "function_calls", "tool_call", "tool_calls", "functioncall", "toolcall")  # roles whose text is a call
RESULTS = ["tool", "function", "ipython", "observation", "tool_response", "tool_result", "tool_results", "tool_output"]
RESULTS += ["function_response", "function_result", "function_output", "toolresponse", "environment"]
SPEAKER = ("role", "from", "speaker", "author", "sender")  # what a turn calls the one who speaks
TEXT = ("content", "value", "text", "parts", "message", "utterance", "body")
REASONING = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts", "thinking_content")
ASKED = ("user", "human", "input", "prompt", "question", "query", "instruction")  # of a turn that is a question and its answer
ANSWERED = ("assistant", "gpt", "bot", "output", "response", "answer", "completion")


def read_messages(value: Any, column: str) -> list[Message]:
    """The turns of a conversation; raises RowProblem for anything that cannot be learned from."""
    turns = turns_of(value)
    if not turns and isinstance(value, dict):
        as_text(value, column)  # which says what it has
    if not turns:
        raise RowProblem(f"column {column} has no list of messages")
    messages: list[Message] = []
    for turn in turns:
        if (bare := _bare(turn)) is not None:
            messages.append(bare)
        else:
            messages += _read_turn(turn, column)
    if not messages:
        raise RowProblem(f"column {column} has no list of messages")
    return messages


def _bare(turn: Any) -> Message | None:
    """The message of a turn that is a role and a text and nothing else, as nearly all are; a short way that saves most of the time."""
    if isinstance(turn, dict) and len(turn) == 2:
        said_by, text = (turn["role"], turn.get("content")) if "role" in turn else (turn.get("from"), turn.get("value"))
        if isinstance(text, str) and isinstance(said_by, str) and (role := ROLES.get(said_by)) is not None:
            return {"role": role, "content": str(text)}
    return None


def turns_of(value: Any) -> list[Any]:
    """The turns in a cell, each an object; none if there is no list. CSV has JSON text; `datasets` makes a column of every field."""
    value = parsed(value)
    if isinstance(value, dict) and value:
        if isinstance(inner := value.get("messages"), list):
            value = inner
        elif is_tree(value):
            value = branch(value)
        elif isinstance(inner := value.get("choices"), list) and len(inner) == 1 and isinstance(inner[0], dict) and "message" in inner[0]:
            value = [inner[0]["message"]]  # what an API of OpenAI's kind answers
        elif all(isinstance(cells, list) for cells in value.values()):
            value = [dict(zip(value, cells, strict=False)) for cells in zip_longest(*value.values())]
        elif _said_by(value) is not None or _pair(value):
            value = [value]
    if not isinstance(value, list):
        return []
    if value and are_texts(value):
        if all(isinstance(parsed(turn), dict) for turn in value):
            return [parsed(turn) for turn in value]
        return [{"role": role, "content": text} for role, text in zip(cycle(("user", "assistant")), value, strict=False)]
    return _resting_on_files(value)


def read_prompt(value: Any, column: str) -> list[Message]:
    """The turns before the answer: a list of messages, or a text that the user wrote."""
    return read_messages(value, column) if is_chat(value) else [user(as_text(value, column))]


def turns_alone(value: Any) -> bool:
    """Whether a cell, whatever it is called, is a conversation: objects that each say who speaks."""
    turns = turns_of(value)
    return bool(turns) and all(isinstance(turn, dict) and role_of(turn) is not None for turn in turns) and not are_texts(parsed(value))


def is_chat(value: Any) -> bool:
    """Whether a cell has messages: a list, an object, or a text that says as much; any other text is what somebody wrote."""
    return (isinstance(value, list | dict) and only_text(value) is None) or (isinstance(value, str) and turns_alone(value))


def written(value: Any) -> Any:
    """An object or a list of objects in which nobody speaks, such as the fields of an order, as JSON; any other cell as it is."""
    items = value if isinstance(value, list) and value else [value]
    if not all(isinstance(item, dict) for item in items):
        return value
    turns = [turn for turn in turns_of(value) if isinstance(turn, dict)] or items
    return value if any(map(_speaks, turns)) else result_text(value)


def with_json(row: dict[str, Any], *columns: str | None) -> dict[str, Any]:
    """A row in which objects of these columns are `written`."""
    nested = {name: written(row[name]) for name in columns if name is not None and isinstance(row.get(name), list | dict)}
    return {**row, **nested} if nested else row


def _speaks(turn: dict[str, Any]) -> bool:
    said = _first(turn, (*TEXT, "tool_calls", "function_call"))[0]
    if said == "body":
        return role_of(turn) is not None  # or it is a mail
    return (said is not None and (len(turn) == 1 or _said_by(turn) is not None)) or _pair(turn) is not None


def rest_of(prompt: str, part: str | None, sample: Sequence[dict[str, Any]]) -> str | None:
    """A column with a part of what is asked; None where either has messages, or where all prompts of the sample repeat it."""
    if part is None or any(is_chat(row.get(column)) for row in sample for column in (prompt, part)):
        return None
    repeated = [str(row[part]).strip() in str(row.get(prompt)) for row in sample if not is_empty(row.get(part))]
    return None if repeated and all(repeated) else part


def are_texts(value: Any) -> bool:
    """Whether a cell is a list of texts."""
    return isinstance(value, list) and all(isinstance(turn, str) for turn in value)


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def remarks(value: Any, column: str) -> Iterator[str]:
    """What a person should know about how the turns are learned."""
    said = turns_of(value)
    if is_tree(value) or any(map(_has_unread_files, said)):
        if any("train" in turn for turn in said):
            yield REST
        return
    for turn in said:
        if isinstance(turn, dict) and len(turn) > 2 and any(map(flags.is_flag, turn)):
            yield from flags.remarks(turn, column, answer=bool(_pair(turn)) or role_of(turn) in ("assistant", "call"))


def left_out(value: Any, column: str) -> Iterator[tuple[str, Any]]:
    """What of the turns reaches no message: fields that are not read, what follows the last answer, older branches, tools."""
    if is_tree(tree := parsed(value)):
        yield f"{column} in older branches, thoughts and tools", others(tree)
    answered = False
    for turn in reversed(turns_of(value)):
        if answered and _bare(turn) is not None:
            continue
        if isinstance(turn, dict):
            role = "assistant" if _pair(turn) else role_of(turn)
            answered = answered or role in ("assistant", "call")
            if not answered:
                yield f"{column} {AFTER}", _first(turn, TEXT)[1]
            read = _read_fields(turn, role)
            yield from ((f"{column}.{name}", inner) for name, inner in turn.items() if name not in read and not flags.is_flag(name))


def _read_fields(turn: dict[str, Any], role: str | None) -> set[str]:
    if pair := _pair(turn):
        return {*pair, "system"}
    read = {name for names in (SPEAKER, TEXT) for name in [_first(turn, names)[0]] if name}
    if role in ("assistant", "call"):
        read |= {"tool_calls", "function_call", _first(turn, REASONING)[0] or ""} | ({"name"} if role == "call" else set())
    beside = {"result": {"tool_call_id", "name"}, "system": {"tools"}, "user": {"attachments"} if _attached(turn) else set()}
    return read | beside.get(role or "", set())


def _first(turn: dict[str, Any], names: tuple[str, ...]) -> tuple[str | None, Any]:
    """The first of some fields that is there, with its value."""
    return next(((name, turn[name]) for name in names if turn.get(name) is not None), (None, None))


def role_of(turn: dict[str, Any]) -> str | None:
    """system, user, assistant, call or result; None for somebody else."""
    said_by = str(_said_by(turn)).strip().lower()
    known = said_by.replace("-", "_").replace(" ", "_")
    return ROLES.get(said_by) or ("call" if known in CALLING else "result" if known in RESULTS else None)


def _said_by(turn: dict[str, Any]) -> Any:
    _, found = _first(turn, SPEAKER)
    return found.get("role") if isinstance(found, dict) else found


def _by_whom(turn: dict[str, Any]) -> str:
    _, found = _first(turn, (*SPEAKER, "sender_name", "user", "name"))
    named = _first(found, ("role", "name"))[1] if isinstance(found, dict) else found
    return "without a role" if named is None else f"of {named!r}"


def _pair(turn: dict[str, Any]) -> tuple[str, str] | None:
    """The names of a question and its answer in a turn that is both: {"input": "Hi", "output": "Hello!"}."""
    asked, answered = (next((name for name in names if name in turn), None) for names in (ASKED, ANSWERED))
    return (asked, answered) if asked and answered and _said_by(turn) is None else None


def _read_turn(turn: Any, column: str) -> Iterator[Message]:
    if isinstance(turn, list | tuple) and len(turn) == 2 and all(isinstance(text, str) for text in turn):
        turn = {"input": turn[0], "output": turn[1]}  # as ChatGLM and LLaMA-Factory write a history
    if not isinstance(turn, dict):
        raise RowProblem(f"column {column} has a message that is not an object")
    if media := media_field(turn):
        raise RowProblem(f"column {column} has a message with images, audio or video ({media}); only text can be trained on")
    if pair := _pair(turn):
        yield from _read_pair(turn, *pair, column)
        return
    role = role_of(turn)
    if role is None:
        raise RowProblem(f"column {column} has a message {_by_whom(turn)}; {ROLES_KNOWN}")
    if role == "result":
        yield from _results(turn, column)
        return
    for part in _between_results(turn, role):
        yield from _said(part, role, column)


def _between_results(turn: dict[str, Any], role: str) -> list[dict[str, Any]]:
    """An answer that goes on after the results of its calls, as in the export of Claude, in pieces; any other turn as it is."""
    name, content = _first(turn, TEXT)
    runs = [list(run) for _, run in groupby(content, key=is_result)] if role == "assistant" and isinstance(content, list) else []
    if name is None or len(runs) < 2:
        return [turn]
    later = {key: value for key, value in turn.items() if key not in (*REASONING, "tool_calls", "function_call")}
    return [{**(later if number else turn), name: run} for number, run in enumerate(runs)]


def _has_unread_files(turn: Any) -> bool:
    """Whether a question came with files, such as pictures, of which the export of Claude has only the names."""
    files = turn.get("files") if isinstance(turn, dict) else None
    if not isinstance(files, list) or not files:
        return False
    texts = turn.get("attachments")
    read = {each.get("file_name") for each in texts if isinstance(each, dict)} if isinstance(texts, list) else set()
    return any(isinstance(each, dict) and each.get("file_name", "") not in {"", *read} for each in files)


def _resting_on_files(turns: list[Any]) -> list[Any]:
    """From the first question with such files on, answers are not learned."""
    first = next((number for number, turn in enumerate(turns) if _has_unread_files(turn)), len(turns))
    rest = [{**turn, "train": False} if isinstance(turn, dict) and role_of(turn) == "assistant" else turn for turn in turns[first:]]
    return [*turns[:first], *rest]


def _attached(turn: dict[str, Any]) -> list[str]:
    """The texts of files that a person gave with a question, in the export of Claude."""
    files = turn.get("attachments")
    texts = [each.get("extracted_content") for each in files if isinstance(each, dict)] if isinstance(files, list) else []
    return [text for text in texts if isinstance(text, str)]


def _read_pair(turn: dict[str, Any], asked: str, answered: str, column: str) -> Iterator[Message]:
    if not is_nothing(turn.get("system")):
        yield {"role": "system", "content": as_text(turn["system"], f"{column}.system")}
    if not is_nothing(turn[asked]):
        yield user(as_text(turn[asked], f"{column}.{asked}"))
    answer = assistant(as_text(turn[answered], f"{column}.{answered}"))
    if not flags.is_to_learn(turn, column):
        answer["learn"] = False
    yield answer


def _said(turn: dict[str, Any], role: str, column: str) -> Iterator[Message]:
    if role == "call":
        said, calls = Said(), _called(turn, column)
    else:
        said = read_parts(_first(turn, TEXT)[1], f"{column}.content")
        calls = [*said.calls, *read_calls(turn.get("tool_calls"), column), *read_calls(turn.get("function_call"), column)]
    yield from said.results
    thought = "\n".join([*said.reasoning, *_reasoning(turn, column)])
    text = said.text
    if role == "user" and (attached := _attached(turn)):
        text = joined(text or "", attached)
    if text is None and not calls and not thought.strip():
        if said.results:
            return
        if not isinstance(turn.get("text"), str):
            raise RowProblem(f"column {column}.content is missing")
        text = turn["text"]  # an answer of Claude that was stopped has no parts
    message: Message = {"role": "assistant" if role == "call" else role, "content": text or ""}
    if message["role"] == "assistant":
        if not flags.is_to_learn(turn, column):
            message["learn"] = False
        if thought.strip():
            message["reasoning_content"] = thought
        if calls:
            message["tool_calls"] = calls
    elif calls:
        raise RowProblem(f"column {column} has tool calls in a message of {_said_by(turn)!r}; only the assistant can call tools")
    yield message


def _called(turn: dict[str, Any], column: str) -> list[dict[str, Any]]:
    """The calls that a turn is, in its text or beside it; the name of the tool may be a field of its own. Raises RowProblem for a text."""
    given = next((parsed(turn[name]) for name in (*TEXT, "tool_calls", "function_call") if not is_nothing(turn.get(name))), None)
    if isinstance(turn.get("name"), str) and isinstance(given, dict) and "name" not in given:
        given = {"name": turn["name"], "arguments": given}
    calls = read_calls(given, column)
    if not calls:
        raise RowProblem(f"column {column} has a message of {_said_by(turn)!r} without a call")
    return calls


def _reasoning(turn: dict[str, Any], column: str) -> list[str]:
    given = next((turn[name] for name in REASONING if not is_nothing(turn.get(name))), None)
    return [] if given is None else [read_parts(given, f"{column}.reasoning").text or ""]


def _results(turn: dict[str, Any], column: str) -> Iterator[Message]:
    value = _first(turn, TEXT)[1]
    is_parts = isinstance(value, list) and value and all(isinstance(part, dict) and "type" in part for part in value)
    text = result_text(value) if not is_parts else None
    said = read_parts(value, f"{column}.content") if text is None else Said(text)
    yield from said.results
    if said.text is not None or not said.results:
        message: Message = {"role": "tool", "content": as_text(said.text, f"{column}.content")}
        if isinstance(turn.get("tool_call_id"), str):
            message["tool_call_id"] = turn["tool_call_id"]
        if isinstance(turn.get("name"), str):
            message["name"] = turn["name"]
        yield message
