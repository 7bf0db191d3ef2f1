"""A run as one frozen, validated value. Prompts, flags, YAML and Python only fill it; `LLMFineTuner` only executes it.

    recipe = Recipe.from_layers({"training": {"epochs": 1}})      # later layers win
    recipe = Recipe.load("recipe.yaml", overrides=["training.epochs=1"])
    recipe.save("again.yaml")                                     # every default filled in

Nothing here touches disk beyond the recipe file itself, nor network, nor GPU. A recipe never holds a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, SerializeAsAny, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

from finetune import registry
from finetune.errors import RecipeError
from finetune.foreign import reading
from finetune.recipe.contradictions import contradiction
from finetune.recipe.distillation_settings import DistillationSpec
from finetune.recipe.explain import explained
from finetune.recipe.layers import in_full, merge, parse_override, read_yaml
from finetune.recipe.settings import (
    NOT_EMPTY,
    BenchmarkSpec,
    DatasetSpec,
    MethodSpec,
    Spec,
    StudentSpec,
    TrainingSpec,
    UploadSpec,
    fields_of,
)
from finetune.recipe.task_settings import filled as with_task
from finetune.recipe.teacher_settings import SELF, OneTeacherSpec, TeacherSpec
from finetune.system import storage

STARTER = "HuggingFaceTB/SmolLM2-135M-Instruct"
IN_FEW_BITS = 5e-5  # the learning rate where weights are rounded; measured in benchmarks/quantised.py
HEADER = "# To run it: finetune-cli run THIS_FILE. To run it again: add --output-dir NEW_FOLDER\n"

_TEACHERS = Annotated[list[NOT_EMPTY | OneTeacherSpec], Field(min_length=2)] | None  # as they may be written


class Recipe(Spec):
    """Everything that decides what a run produces. Raises RecipeError through `from_layers` and `load`."""

    approach: Literal["fine-tuning", "distillation"] = Field("fine-tuning", description="Learn from data, or from a larger model.")
    model: str | StudentSpec = Field(
        STARTER, description="A Hub id, a folder, an earlier run or a .gguf file; or a student made from the teacher."
    )
    teacher: TeacherSpec | None = Field(None, description="The model that the student imitates.")
    teachers: Annotated[list[OneTeacherSpec], Field(min_length=2)] | None = Field(
        None, description="Several teachers instead of one: mixed by weight, or each for its own rows."
    )
    output_dir: str = Field("./finetuned_model", min_length=1, title="Output folder", description="Folder for the model and all records.")
    dataset: DatasetSpec = Field(DatasetSpec(), description="The rows to learn from.")
    method: SerializeAsAny[MethodSpec] = Field(description="Which weights learn, and how; left out: lora, or full for a student.")
    distillation: DistillationSpec = Field(DistillationSpec(), description="How the student learns from its teacher.")
    training: TrainingSpec = Field(TrainingSpec(), description="How long and how fast the model learns.")
    benchmark: BenchmarkSpec = Field(BenchmarkSpec(), description="How the result is measured.")
    upload: UploadSpec | None = Field(None, description="Where the result is published; if left out, nothing leaves this machine.")
    seed: int = Field(42, ge=0, lt=2**32, description="The same seed gives the same run.")

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_approach(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            raise ValueError("must be a mapping of recipe keys")
        filled = dict(given)
        if filled.get("approach") == "distillation":
            if filled.get("teacher") is None and filled.get("teachers") is None:
                filled["teacher"] = STARTER
            itself = is_self(filled.get("teacher"))
            if filled.get("model") is None:
                filled["model"] = STARTER if itself else {"from_teacher": {"layers": _last_layers(filled.get("distillation"))}}
            if isinstance(filled["model"], Mapping | StudentSpec) and isinstance(training := filled.get("training", {}), Mapping):
                filled["training"] = {"learning_rate": "auto", **training}
            if itself or _has_system(filled.get("teacher")):
                filled["distillation"] = _answers_only(filled.get("distillation"))
            if isinstance(spec := filled.get("distillation"), Mapping) and spec.get("quantize") is not None:
                filled |= _in_few_bits(spec, filled.get("training", {}))
            filled = with_task({"output_dir": "./distilled_model", **filled})
        kind = "full" if filled.get("approach") == "distillation" and not itself else "lora"
        method = filled.get("method", {})
        if isinstance(method, Mapping) and "kind" not in method:
            filled["method"] = {"kind": kind, **method}
        return filled

    @field_validator("teacher", "dataset", "upload", mode="before")
    @classmethod
    def _one_in_full(cls, given: Any, info: ValidationInfo) -> Any:
        return in_full(str(info.field_name), given)

    @field_validator("teachers", mode="before", json_schema_input_type=_TEACHERS)
    @classmethod
    def _each_in_full(cls, given: Any) -> Any:
        return [in_full("teacher", each) for each in given] if isinstance(given, list) else given

    @field_validator("method", mode="before")
    @classmethod
    def _method_of_its_kind(cls, method: Any) -> Any:
        method = in_full("method", method)
        if not isinstance(method, Mapping):
            return method
        kind = method.get("kind", "lora")
        registry.check_name("methods", str(kind))
        spec = getattr(registry.load("methods", str(kind)), "Spec", None)
        if not (isinstance(spec, type) and issubclass(spec, MethodSpec)):
            what = f"The Spec of the method {str(kind)!r} is not a MethodSpec of finetune.recipe."
            raise RecipeError(what, hint="Fix or uninstall the package that provides it.")
        return spec.model_validate(method)

    @model_validator(mode="after")
    def _keys_agree(self) -> Recipe:
        if said := contradiction(self):
            raise ValueError(said)
        return self

    @property
    def named_teachers(self) -> list[TeacherSpec]:
        """Every teacher that is loaded here: those of a student, or the one that only writes rows."""
        return [*self.teachers] if self.teachers else [self.teacher] if self.teacher and not self.teacher.server else []

    @property
    def all_teachers(self) -> list[TeacherSpec]:
        """The teacher, or all of several, that a student is distilled from; none when fine-tuning."""
        return self.named_teachers if self.approach == "distillation" else []

    @property
    def grader(self) -> TeacherSpec | None:
        """The teacher on a server that a student is distilled from, if it is there."""
        return self.teacher if self.teacher and self.teacher.server and self.approach == "distillation" else None

    @property
    def teaches_itself(self) -> bool:
        """Whether the teacher is the model that trains, as it was before the run."""
        return self.approach == "distillation" and self.teacher is not None and self.teacher.is_self

    @property
    def head_settled(self) -> bool:
        """Whether the head is what it will be before the training: the teacher's, or rounded for good."""
        return isinstance(self.model, StudentSpec) or self.distillation.quantize is not None

    @property
    def main_teacher(self) -> int:
        """Of several teachers the number of the one that a student is set beside: the heaviest, or the first."""
        weights = [1.0 if each.weight is None else each.weight for each in self.teachers or []]
        return weights.index(max(weights)) if weights else 0

    @property
    def routed_by(self) -> str | None:
        """The column that says whose row it is, where teachers have rows of their own."""
        rows = self.teachers[0].rows if self.teachers else None
        return rows.column if rows else None

    def __init__(self, **keys: Any) -> None:
        """The same in Python: raises RecipeError naming the key."""
        try:
            super().__init__(**keys)
        except ValidationError as error:
            raise explained(error, known_fields()) from None

    # For pydantic: validation need not go through __init__.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def from_layers(cls, *layers: Mapping[str, Any]) -> Recipe:
        """Merge layers (later ones win, key by key) over the defaults; raises RecipeError naming the key."""
        merged: dict[str, Any] = {}
        for layer in layers:
            for named, other in (("teacher", "teachers"), ("teachers", "teacher")):
                if layer.get(named) is not None and layer.get(other) is None:
                    merged.pop(other, None)  # one teacher takes the place of several, and the other way round
            merged = merge(merged, layer)
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            raise explained(error, known_fields()) from None

    @classmethod
    def load(cls, path: str | Path, *, overrides: Sequence[str] = (), layers: tuple[Mapping[str, Any], ...] = ()) -> Recipe:
        """Read a YAML file, then apply `layers` and `KEY.PATH=VALUE` overrides."""
        return cls.loader(path, layers)(overrides)

    @classmethod
    def loader(cls, path: str | Path, layers: tuple[Mapping[str, Any], ...] = ()) -> Callable[[Sequence[str]], Recipe]:
        """The same for any overrides: the file is read once, for it may be a pipe, which is empty the second time."""
        content = read_yaml(Path(path))

        def load(overrides: Sequence[str]) -> Recipe:
            with reading(path, RecipeError, hint="A recipe has lines such as `seed: 42`.", what="is not a recipe"):
                return cls.from_layers(content, *layers, *map(parse_override, overrides))

        return load

    def with_changes(self, *layers: Mapping[str, Any]) -> Recipe:
        """The same recipe with some keys changed, validated again."""
        return Recipe.from_layers(self.model_dump(), *layers)

    def to_yaml(self) -> str:
        return HEADER + yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)

    def save(self, path: str | Path) -> None:
        storage.write_whole(Path(path), self.to_yaml())


def _last_layers(distillation: Any) -> Any:
    """The layers that rounds end with, as they were given; they are checked with the other keys. Half at least where none are listed."""
    given = distillation if isinstance(distillation, Mapping) else {name: getattr(distillation, name, None) for name in ("rounds", "until")}
    rounds = given.get("rounds")
    if isinstance(rounds, list) and rounds and isinstance(rounds[-1], int) and rounds[-1] > 0:
        return rounds[-1]
    return 0.5 if given.get("until") else 0.67


def is_self(teacher: Any) -> bool:
    """Whether a teacher is the model that trains, whichever way it is written."""
    return bool((teacher.get("source") if isinstance(teacher, Mapping) else getattr(teacher, "source", teacher)) == SELF)


def _has_system(teacher: Any) -> bool:
    return bool(teacher.get("system") if isinstance(teacher, Mapping) else getattr(teacher, "system", None))


def _answers_only(distillation: Any) -> Any:
    """Of a model that learns from itself, or from a teacher with a system prompt: its prompts are not learned."""
    return {"supervise": "answers", **distillation} if isinstance(distillation, Mapping) else distillation or {"supervise": "answers"}


def _in_few_bits(distillation: Mapping[str, Any], training: Any) -> dict[str, Any]:
    """What suits a student that only has to get used to rounded weights: small steps, and the teacher alone (arXiv 2601.20088)."""
    rate = {"learning_rate": IN_FEW_BITS, **training} if isinstance(training, Mapping) else training
    return {"distillation": {"temperature": 1.0, "alpha": 0.0, **distillation}, "training": rate}


def known_fields() -> Iterator[tuple[str, FieldInfo]]:
    """Every dotted key a recipe can have, such as training.epochs, and its field; those of methods can have one name."""
    yield from fields_of(Recipe)
    for method in registry.names("methods"):
        yield from fields_of(registry.load("methods", method).Spec, "method.")


def known_keys() -> list[str]:
    """Every dotted key a recipe can have."""
    return [key for key, _ in known_fields()]
