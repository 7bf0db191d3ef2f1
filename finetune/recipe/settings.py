"""Every setting of a recipe: its type and limits, its label, what it does, and its usual range.

    field = TrainingSpec.model_fields["epochs"]
    label("epochs", field), help_of(field)      # "Epochs", "Passes over the training rows. Usually 1 to 3."

The wizard's questions, the JSON schema and the trainers all read this. The settings of a method are in its own `Spec`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from finetune import registry


class Spec(BaseModel):
    """A part of a recipe: frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class MethodSpec(Spec):
    """What the `Spec` of every method is; there `kind` is a Literal, the method's name in the registry."""

    kind: str = Field(title="Method", description="Which weights are trained.")


@dataclass(frozen=True)
class Usual:
    """The usual range of a number, as `json_schema_extra` of its field; the recipe itself may allow more."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{_short(self.low)} to {_short(self.high)}"

    def __call__(self, schema: dict[str, Any]) -> None:
        schema["description"] = f"{schema.get('description', '')} Usually {self}.".strip()


@dataclass(frozen=True)
class Known:
    """Of a name, or of each in a list: the registry must have a thing of this kind by that name."""

    kind: str

    def check(self, named: Any) -> Any:
        for name in [named] if isinstance(named, str) else named:
            registry.check_name(self.kind, name)
        return named

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        made: dict[str, Any] = handler(schema)
        for way in made.get("anyOf", [made]):
            if way["type"] != "null":
                way.get("items", way)["enum"] = registry.names(self.kind)
        return made


def label(name: str, field: FieldInfo) -> str:
    """What people call a setting: its title, or its key in words."""
    return field.title or name.replace("_", " ").capitalize()


def help_of(field: FieldInfo) -> str:
    """What a setting does, and its usual values."""
    found = usual(field)
    return f"{field.description or ''}{f' Usually {found}.' if found else ''}".strip()


def usual(field: FieldInfo) -> Usual | None:
    """The usual values of a setting, where they are stated."""
    return field.json_schema_extra if isinstance(field.json_schema_extra, Usual) else None


def _short(number: float) -> str:
    return f"{number:.0e}".replace("e-0", "e-") if 0 < number < 1e-3 else f"{number:g}"


METRICS = "What is measured: words in common, perplexity, or answers that are right (exact_match: to the letter; json: its fields)."
OF_RATE = "Size of each update of the weights"
COUNT_OR_SHARE = [{"type": "integer", "minimum": 1}, {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}]
NOT_EMPTY = Annotated[str, Field(min_length=1)]
AUTO_EPOCHS = 3.0  # of a few hundred rows, whatever they are; see docs/log.md
ANSWERED = "answered"  # in the registry, rows whose answers the teacher writes
TEACHER = "teacher"  # `dataset.answers` where the teacher's take the place of the data's
GENERATED = "generated"  # `dataset.source` where the teacher writes the rows
OF_FILES = ("config", "split", "data_files", "columns", "text_as", "encoding", "eval_split", "answers")  # keys that say how rows are read
OF_GENERATED = ("topic", "examples")
AutoOrCount = Literal["auto"] | Annotated[int, Field(ge=1)]


Amount = Annotated[Annotated[int | float, Field(gt=0)] | None, WithJsonSchema({"anyOf": [*COUNT_OR_SHARE, {"type": "null"}]})]


class FromTeacher(Spec):
    """A student made from the teacher: what it keeps of each, as a count (20) or as a share of the teacher's (0.67)."""

    layers: Amount = Field(None, title="Layers to keep", description="A count such as 20, or a share of the teacher's such as 0.67.")
    ffn: Amount = Field(
        None,
        title="Width to keep",
        description="Channels of each layer's feed-forward part: a count, or a share of the teacher's such as 0.75.",
    )
    heads: Amount = Field(
        None, title="Heads to keep", description="Attention heads of each layer: a count, or a share of the teacher's such as 0.67."
    )
    size: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        title="Size",
        description="Share of the teacher's parameters such as 0.75; layers and width are chosen by measuring.",
    )

    def amounts(self) -> list[tuple[str, float]]:
        """What is asked for, in the order in which it is done."""
        return [(name, amount) for name, amount in self if amount is not None]

    @model_serializer(mode="wrap")
    def _what_is_asked_for(self, given: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: amount for name, amount in given(self).items() if amount is not None}

    @field_validator("layers", "ffn", "heads")
    @classmethod
    def _count_or_share(cls, amount: int | float | None) -> int | float | None:
        if amount is None:
            return None
        if amount != int(amount) and amount > 1:
            raise ValueError("must be a whole number, or a share between 0 and 1")
        return float(amount) if amount < 1 else int(amount)

    @model_validator(mode="after")
    def _something_is_left_out(self) -> FromTeacher:
        if not self.amounts():
            raise ValueError("must name what the student keeps: `layers`, `ffn`, `heads` or `size`")
        if self.size is not None and len(self.amounts()) > 1:
            raise ValueError("has `size`, which chooses layers and width itself: leave out the other keys")
        return self


class StudentSpec(Spec):
    from_teacher: FromTeacher = Field(description="The student is the teacher with less of something.")


def cell_text(value: Any) -> str:
    """A cell as a person would write it in a recipe: true, 3, docs; nothing where there is none."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


class ColumnsSpec(Spec):
    """Which columns contain what; leave out what the data does not have."""

    SHAPES: ClassVar[tuple[set[str], ...]] = ({"text"}, {"prompt", "completion"}, {"messages"})

    text: str | None = Field(None, description="Column with plain text; the model learns all of it.")
    prompt: str | None = Field(None, description="Column with the prompt.")
    completion: str | None = Field(None, description="Column with the answer that the model learns.")
    messages: str | None = Field(None, description="Column with chats: lists of messages, or texts with markers.")

    @model_validator(mode="after")
    def _one_shape(self) -> ColumnsSpec:
        given = {name for name, column in self if column is not None}
        if given not in self.SHAPES:
            raise ValueError("must name `text`, or `prompt` and `completion`, or `messages`")
        return self


class DatasetSpec(Spec):
    source: str = Field(
        "builtin:python-docs",
        min_length=1,
        title="Dataset",
        description="A Hub id, a file, a folder or a pattern, several with commas; or generated: the teacher writes the rows.",
    )
    config: str | None = Field(None, title="Configuration", description="Configuration of a Hub dataset. Only some have one.")
    split: str = Field("train", description="Part of the dataset to train on.")
    data_files: str | list[str] | None = Field(
        None, description="Which files of a folder, an archive or a Hub dataset to read, by name or pattern."
    )
    samples: int | None = Field(1000, ge=2, title="Rows to use", description="Number of rows to read; null reads all.")
    columns: ColumnsSpec | None = Field(None, description="Which columns contain what; detected if left out.")
    text_as: Literal["auto", "line", "document"] = Field(
        "auto", description="What one row of a text file is; auto: a piece of it, cut between paragraphs."
    )
    encoding: str | None = Field(None, description="Encoding of text files, such as utf-8; detected if left out.")
    bad_rows: float = Field(0.01, ge=0, le=1, description="Share of unusable rows to skip; more is an error.")
    max_length: int = Field(512, ge=8, description="Longest row in tokens; longer rows are truncated.")
    held_out: float = Field(0.1, gt=0, lt=1, description="Share of rows kept from training for the benchmark.")
    eval_split: str | None = Field(None, description="Split to use for the benchmark, instead of held-out rows.")
    answers: Literal["data", "teacher"] = Field(
        "data", description="Whose answers are learned: those of the data, or text that the teacher writes to the same prompts."
    )
    add_tokens: list[NOT_EMPTY] = Field(
        [], title="New tokens", description="Texts that become one token each, with a row of the embeddings that is trained."
    )
    topic: str | None = Field(None, min_length=1, description="Of generated rows: what they are about, in a few words or a sentence.")
    examples: str | None = Field(None, min_length=1, description="Of generated rows: a file with a few rows of the kind that is wanted.")

    @property
    def kind(self) -> str:
        """The name of this source in the registry."""
        if self.answers == TEACHER:
            return ANSWERED
        return self.source if self.source != ANSWERED and self.source in registry.names("sources") else "dataset"

    @model_validator(mode="after")
    def _fits_its_source(self) -> DatasetSpec:
        generated = self.source == GENERATED
        for name in OF_FILES if generated else OF_GENERATED:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"has `{name}`, which is for {'rows that are read' if generated else '`source: generated`'}")
        if self.answers == TEACHER and self.source != ANSWERED and self.source in registry.names("sources"):
            raise ValueError("has `answers: teacher`, which is for files, datasets of the Hub and built-in ones")
        if generated and self.samples is None:
            raise ValueError("has `samples: null`: say how many rows the teacher is to write")
        return self

    @field_validator("source", mode="before", json_schema_input_type=NOT_EMPTY | Annotated[list[NOT_EMPTY], Field(min_length=1)])
    @classmethod
    def _several_files(cls, source: Any) -> Any:
        return ", ".join(source) if isinstance(source, list) and all(isinstance(name, str) for name in source) else source

    @field_validator("add_tokens", mode="before", json_schema_input_type=list[NOT_EMPTY] | NOT_EMPTY)
    @classmethod
    def _one_token(cls, tokens: Any) -> Any:
        return [tokens] if isinstance(tokens, str) else tokens

    @field_validator("add_tokens")
    @classmethod
    def _each_once(cls, tokens: list[str]) -> list[str]:
        if len({*tokens}) < len(tokens) or any(token != token.strip() for token in tokens):
            raise ValueError("must name each token once, without spaces at its ends")
        return tokens

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, encoding: str | None) -> str | None:
        if encoding is not None:
            try:
                "".encode(encoding)
            except LookupError:
                raise ValueError("must name a text encoding such as utf-8 or cp1252") from None
        return encoding


class TrainingSpec(Spec):
    epochs: Literal["auto"] | Annotated[float, Field(gt=0)] = Field(
        3,
        description="Passes over the training rows; auto: enough for a good model, more where rows are few.",
        json_schema_extra=Usual(1, 3),
    )
    batch_size: int = Field(4, ge=1, description="Rows per step. Lower it if memory runs out.")
    gradient_accumulation: int = Field(1, ge=1, description="Batches per step; their gradients are accumulated.")
    learning_rate: Literal["auto"] | Annotated[float, Field(gt=0, lt=1)] = Field(
        2.0e-4,
        description=f"{OF_RATE}; auto: by the method, or by how close a student starts.",
        json_schema_extra=Usual(1e-5, 5e-4),
    )
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = Field(
        "cosine", description="How the learning rate changes during training."
    )
    warmup: float = Field(0.03, ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    activation_checkpointing: Literal["auto"] | bool = Field("auto", description="Less memory, a third slower; auto: if memory runs out.")
    save_every: AutoOrCount = Field("auto", description="Steps between two checkpoints; auto: by the clock, at a cost of a few percent.")
    keep_checkpoints: bool = Field(False, description="Keep the checkpoints of a run that reached its end.")
    evaluate_every: AutoOrCount = Field(
        "auto", description="Steps between two measurements of the held-out loss; auto: ten in all, and none if nothing needs them."
    )
    keep: Literal["last", "best"] = Field(
        "last",
        title="Weights to keep",
        description="Which weights are the result: of the last step, or of the step with the lowest held-out loss.",
    )
    patience: int | None = Field(
        None, ge=1, description="Stop after this many measurements without a lower held-out loss; null: train to the end."
    )
    report_to: Annotated[list[str], Known("trackers")] = Field([], title="Trackers", description="Experiment trackers that get every step.")

    @property
    def passes(self) -> float:
        """Epochs as a number; `auto` counts as AUTO_EPOCHS until the rows are known."""
        return AUTO_EPOCHS if self.epochs == "auto" else self.epochs

    @property
    def evaluates(self) -> bool:
        """Whether the held-out loss is measured while it trains, on rows that are taken from those to train on."""
        return self.keep == "best" or self.patience is not None or self.evaluate_every != "auto"

    @property
    def rate(self) -> float:
        """The learning rate, which is a number once a run trains."""
        assert self.learning_rate != "auto"
        return self.learning_rate

    @field_validator("report_to", mode="before", json_schema_input_type=list[str] | str | None)
    @classmethod
    def _one_tracker(cls, trackers: Any) -> Any:
        return [trackers] if isinstance(trackers, str) else [] if trackers is None else trackers


class BenchmarkSpec(Spec):
    rows: int = Field(50, ge=1, title="Rows to test on", description="Held-out rows, answered before and after training.")
    metrics: Annotated[list[str], Known("metrics")] = Field(["rouge", "perplexity"], min_length=1, description=METRICS)
    tasks: list[NOT_EMPTY] = Field([], description="Also tasks of lm-evaluation-harness: names such as hellaswag, or task files (.yaml).")
    task_rows: Annotated[int, Field(ge=1)] | None = Field(
        None, title="Rows of each task", description="Only the first rows of each task; null takes all, as published numbers do."
    )
    max_new_tokens: AutoOrCount = Field("auto", description="Longest answer in tokens; auto fits the data.")
    speed: bool = Field(
        True, title="Speed and memory", description="Measure speed and memory of both models, each in its own process; takes half a minute."
    )

    @field_validator("tasks", mode="before", json_schema_input_type=list[NOT_EMPTY] | NOT_EMPTY | None)
    @classmethod
    def _one_task(cls, tasks: Any) -> Any:
        return [] if tasks in (None, "none") else [tasks] if isinstance(tasks, str) else tasks


class UploadSpec(Spec):
    repo: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$", title="Repository", description="USER/NAME on the Hugging Face Hub.")
    private: bool = Field(True, description="Visible to you alone.")


def fields_of(spec: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every dotted key under `prefix` that the spec and those inside it have, and its field."""
    for name, field in spec.model_fields.items():
        yield prefix + name, field
        for part in getattr(field.annotation, "__args__", None) or (field.annotation,):
            if isinstance(part, type) and issubclass(part, Spec) and part is not Spec:
                yield from fields_of(part, f"{prefix}{name}.")
