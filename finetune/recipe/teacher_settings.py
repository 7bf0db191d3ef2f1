"""Settings of a teacher: one model, one of several, or a server that writes rows or grades them.

TeacherSpec(source="self", system="Answer in one short sentence.")
part_of(OneTeacherSpec(source="./docs_expert", weight=0.7))         # "weight 0.7"
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from finetune.recipe.settings import Spec, cell_text

SELF = "self"
TOP_K = 20  # tokens that a server is asked for; the most that vLLM tells unless it is started with more (--max-logprobs)
OF_SERVER = ("model", "key", "budget_tokens", "top_k")


class TeacherSpec(Spec):
    """The model to imitate; `load_in` quantises it through bitsandbytes. Or a `server` with a `model` that writes rows or grades them."""

    source: str = Field(
        "", title="Teacher", description="A Hub id, a folder, an earlier run or a .gguf file; self: the model before this run."
    )
    load_in: Literal["8bit", "4bit"] | None = Field(None, description="Load the teacher in fewer bits: less memory; needs bitsandbytes.")
    system: str | None = Field(
        None, min_length=1, title="System prompt", description="For the teacher alone; the student learns to answer as if it had it too."
    )
    server: str | None = Field(
        None, min_length=1, description="Address of an OpenAI-compatible server, up to /v1: it writes rows, or grades them."
    )
    model: str | None = Field(None, min_length=1, title="Model on the server", description="What the server calls the model.")
    key: str | None = Field(None, min_length=1, description="Environment variable that has the server's key; the key itself stays there.")
    budget_tokens: int | None = Field(
        None,
        ge=1,
        description="The most tokens that one start of a run may use on the server; no limit if left out.",
    )

    top_k: int | None = Field(
        None,
        ge=1,
        title="Likeliest tokens",
        description=f"How many likeliest tokens the server returns for each token of a row that it grades; {TOP_K} if left out.",
    )

    @property
    def likeliest(self) -> int:
        """How many tokens a server is asked for."""
        return self.top_k or TOP_K

    @property
    def is_self(self) -> bool:
        """Whether the teacher is the model that trains, as it was before the run."""
        return self.source == SELF

    @model_validator(mode="after")
    def _loaded_once(self) -> TeacherSpec:
        if self.is_self and self.load_in:
            raise ValueError("is the model itself, whose bits are those of its method: leave out `load_in`")
        return self

    @model_validator(mode="after")
    def _one_place(self) -> TeacherSpec:
        if bool(self.source) == bool(self.server):
            raise ValueError("must name a model, or a `server` and its `model`" + (", not both" if self.server else ""))
        others = [name for name in OF_SERVER if getattr(self, name) is not None]
        if self.server is None:
            if others:
                raise ValueError(f"has `{others[0]}`, which is for a teacher on a `server`")
            return self
        if not re.fullmatch(r"https?://[^/@\s]+(/[^@\s]*)?", self.server):
            raise ValueError("has a `server` that is not an address such as http://localhost:8000/v1, without a password in it")
        if self.key and not re.fullmatch(r"[A-Za-z_]\w*", self.key):  # it is not repeated: it may be the key itself
            raise ValueError("has a `key` that is not the name of an environment variable")
        if self.model is None or self.load_in:
            raise ValueError(f"has a `server`, {'which loads its model itself' if self.load_in else 'which needs a `model`'}")
        return self


class TeacherRows(Spec):
    """The rows that one of several teachers teaches: those with this value in a column of the data."""

    column: str = Field(min_length=1, description="The column that says whose row it is.")
    equals: str = Field(description="The value of the rows of this teacher.")

    @field_validator("equals", mode="before", json_schema_input_type=str | int | float | bool)
    @classmethod
    def _as_text(cls, equals: Any) -> Any:
        return cell_text(equals) if isinstance(equals, int | float) else equals


class OneTeacherSpec(TeacherSpec):
    """One of several teachers."""

    weight: float | None = Field(None, gt=0, description="Its share of the mixture, relative to the others; equal if left out.")
    rows: TeacherRows | None = Field(None, description="The rows that it teaches alone; without it all teachers teach every row.")


def problem_of_several(teachers: Sequence[OneTeacherSpec]) -> str | None:
    """Why these are not teachers of one student: some rows would have no teacher, or two, or be seen in two ways."""
    if any(each.is_self for each in teachers):
        return "of which one is the model itself: it can only be the one `teacher`"
    if any(each.system for each in teachers):
        return "of which one has a `system` prompt: only the one `teacher` can have it"
    rows = [each.rows for each in teachers if each.rows]
    if not rows:
        return None
    if len(rows) < len(teachers):
        return "of which some have `rows` and others have none: either all of them teach rows of their own, or none"
    if any(each.weight is not None for each in teachers):
        return "with both `rows` and `weight`: a teacher is alone with its own rows, so give one of the two"
    if len({each.column for each in rows}) > 1:
        return "whose `rows` name different columns, so a row could have two teachers: use one column"
    values = [each.equals for each in rows]
    twice = next((value for value in values if values.count(value) > 1), None)
    return None if twice is None else f"of which two have the rows where {rows[0].column} is {twice}: a row has one teacher"


def part_of(spec: OneTeacherSpec) -> str:
    """What one of several teachers teaches, in words: its rows, or its weight beside the others'."""
    if spec.rows:
        return f"rows where {spec.rows.column} is {spec.rows.equals}"
    return f"weight {1.0 if spec.weight is None else spec.weight:g}"


def grading_words(likeliest: int) -> str:
    """What a server tells of the rows that it grades."""
    return (
        f"its {likeliest} likeliest tokens, the rest as one, which is approximate"
        if likeliest > 1
        else ("its likeliest token, the rest as one, which is approximate")
    )


def host_of(address: str) -> str:
    """`localhost:8000` of http://localhost:8000/v1."""
    return address.partition("://")[2].partition("/")[0]


def teachers_of(recipe: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The teachers of a recipe that is plain data, all of several or the one; an empty one if it has none."""
    return recipe.get("teachers") or [recipe.get("teacher") or {}]


def name_of(teacher: Mapping[str, Any]) -> str:
    """What people call a teacher of a recipe that is plain data: its source, or `qwen at localhost:8000`."""
    server = teacher.get("server")
    return f"{teacher.get('model', '')} at {host_of(server)}" if server else str(teacher.get("source", ""))
