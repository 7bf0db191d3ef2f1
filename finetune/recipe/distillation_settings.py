"""Settings of a distillation: the loss, the cache, and what else a student can learn from.

    DistillationSpec(temperature=2, features={"last": 0.1}, quantize="q4_0")

Raises RecipeError for a grid that nobody trains for, pydantic's ValidationError for what else cannot be.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from finetune import registry
from finetune.errors import RecipeError
from finetune.recipe.settings import Known, Spec, Usual

_K_QUANT = re.compile(r"(q\d_k|iq\d|tq\d)", re.IGNORECASE)  # of GGUF: blocks of blocks, searched for once and not step by step
LAYER_NUMBERS = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]


class OnPolicySpec(Spec):
    """Practice on the student's own answers, which the teacher reads; from the second epoch on."""

    share: float = Field(0.5, ge=0, le=1, title="Share of own answers", description="Share of the rows that the student writes itself.")
    tokens: int = Field(96, ge=1, title="Longest own answer", description="Tokens of an answer; longer ones are cut off.")
    refresh: int = Field(64, ge=1, title="Answers at once", description="Answers that the student writes before it trains on.")
    objective: Annotated[str, Known("objectives")] | None = Field(
        None, title="Objective of own answers", description="How the teacher is compared on them; as on the other rows if left out."
    )


class QuantizeSpec(Spec):
    """The student in few bits, while it learns and afterwards."""

    format: Annotated[str, Known("grids")] = Field(
        description="What the weights of linear layers are rounded to: q4_0 or q8_0 for llama.cpp and Ollama, nf4 for bitsandbytes."
    )
    head: Annotated[str, Known("grids")] | None = Field(
        None, description="What embeddings and output head are rounded to, once; q8_0 if left out, nothing with nf4."
    )

    @model_validator(mode="before")
    @classmethod
    def _usual_head(cls, given: Any) -> Any:
        """What programs that read the file have there."""
        if not isinstance(given, dict) or not isinstance(given.get("format"), str):
            return given
        name, known = given["format"].lower(), registry.names("grids")
        if _K_QUANT.match(name):
            raise RecipeError(
                f"distillation.quantize: {name} is made when a file is written, and cannot be trained for.",
                hint=f"Train for q4_0 or q8_0; any result can be exported: --to gguf:{name}",
            )
        if name not in known:
            raise RecipeError(
                f"distillation.quantize: there is no {name!r}.{registry.did_you_mean(name, known)}", hint=f"Choose from {', '.join(known)}."
            )
        given, grid = {**given, "format": name}, registry.load("grids", name)
        if grid.rounds_head:
            return {**given, "head": given.get("head") or "q8_0"}
        if given.get("head") is not None:
            raise ValueError(f"has `head`, which programs that read {grid.title} leave as it is")
        return given

    @model_validator(mode="after")
    def _head_in_a_file(self) -> QuantizeSpec:
        if self.head is not None and registry.load("grids", self.head).file_type is None:
            raise ValueError(f"has `head: {self.head}`, for which GGUF has no type: leave it out, or use q8_0 or q4_0")
        return self


class FeaturesSpec(Spec):
    """The internal states of the teacher that the student imitates besides its distribution: each has a weight in the loss; all are off."""

    last: float = Field(
        0.0, ge=0, title="Last states", description="Weight of the distance between the last hidden states; 0 leaves it out."
    )
    layers: Literal["none", "auto"] | list[int] = Field(
        "none",
        title="Inner layers",
        description="Layers of the student whose output is compared: none, auto (all from the first cut on), or numbers from 1.",
    )
    layers_weight: float = Field(1.0, gt=0, title="Weight of inner layers", description="Weight of the mean distance of the inner layers.")
    relations: list[Literal["q", "k", "v"]] = Field(
        [],
        title="Relations of tokens",
        description="What is compared in the last layer's attention: q (queries), k (keys), v (values), several with commas, or none.",
    )
    relations_weight: float = Field(
        1.0, gt=0, title="Weight of relations", description="Weight of the sum of the divergences of the relations."
    )

    @property
    def asked(self) -> list[str]:
        """What is compared, by its keys."""
        return [name for name in ("last", "layers", "relations") if getattr(self, name) not in (0, "none", [])]

    @field_validator("relations", mode="before", json_schema_input_type=list[Literal["q", "k", "v"]] | Literal["none", "q", "k", "v"])
    @classmethod
    def _one_relation(cls, relations: Any) -> Any:
        return [] if relations == "none" else [relations] if isinstance(relations, str) else relations

    @field_validator("layers", mode="before", json_schema_input_type=Literal["none", "auto"] | LAYER_NUMBERS)
    @classmethod
    def _layer_numbers(cls, layers: Any) -> Any:
        numbers = isinstance(layers, list) and layers and all(str(number).isdigit() and int(number) for number in layers)
        if not numbers and layers not in ("none", "auto"):
            raise ValueError("must be none, auto, or numbers of layers from 1, such as [5, 10]")
        return layers

    @field_validator("layers", "relations")
    @classmethod
    def _each_once(cls, values: Any) -> Any:
        if isinstance(values, list) and len(set(values)) < len(values):
            raise ValueError("must name each of them once")
        return values


class UntilSpec(Spec):
    """When rounds stop before the last."""

    retention: float = Field(
        gt=0, lt=1, title="Share to keep", description="Rounds stop at the first student that keeps less of its teacher's ROUGE-L."
    )
    step: int = Field(2, ge=1, title="Layers a round", description="Layers that each round leaves out, where the rounds are not listed.")


class DistillationSpec(Spec):
    task: Literal["compress", "chat", "summarise", "classify", "code", "reason"] | None = Field(
        None,
        title="What should it be good at?",
        description="What the student should be good at: fills in the loss, the practice and the metrics.",
    )
    temperature: float = Field(2.0, gt=0, description="Higher shows more of the teacher's second choices.", json_schema_extra=Usual(1, 5))
    alpha: float = Field(0.5, ge=0, le=1, description="0 to 1. The weight of the data; the rest is the weight of the teacher.")
    objective: Annotated[str, Known("objectives")] = Field("forward_kl", description="How student and teacher are compared.")
    cache: Literal["auto", "none", "hidden", "gradient"] = Field("auto", description="What is cached of the teacher's output on disk.")
    supervise: Literal["all", "answers"] = Field("all", description="Train on every token, or on answers only.")
    correct: float = Field(
        0.0,
        ge=0,
        le=1,
        title="Correct the teacher",
        description="Where the teacher's first choice is wrong, put the data's token ahead by this much; 0 leaves the teacher as it is.",
    )
    across_tokenizers: Literal["none", "projected", "spans"] = Field(
        "none", description="How a teacher with another tokenizer is compared; none: it is refused."
    )
    rounds: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)] | None = Field(
        None,
        title="Rounds",
        description="Layers to keep, round by round, such as [24, 20, 15]; each cuts the last student and trains it for all epochs.",
    )

    until: UntilSpec | None = Field(
        None, description="Stop after the last round whose student keeps enough, on rows that are neither trained on nor reported."
    )

    round_teacher: Literal["first", "previous"] = Field(
        "first", title="Teacher of a round", description="Who teaches from the second round on: the first teacher, or the last student."
    )

    on_policy: OnPolicySpec | None = Field(
        None, title="Own answers", description="Practice on answers that the student writes itself, after the first epoch."
    )

    @property
    def practice(self) -> OnPolicySpec | None:
        """How the student practises on its own answers, if it does."""
        return self.on_policy if self.on_policy and self.on_policy.share else None

    quantize: QuantizeSpec | None = Field(
        None,
        title="Quantisation-aware training",
        description="Train with the rounded weights of the file: q4_0 or q8_0 (GGUF), nf4 (bitsandbytes). Best after a distillation.",
    )

    @field_validator("quantize", mode="before", json_schema_input_type=Annotated[str, Known("grids")] | QuantizeSpec | None)
    @classmethod
    def _format_alone(cls, given: Any) -> Any:
        return {"format": given} if isinstance(given, str) else given

    features: FeaturesSpec = Field(FeaturesSpec(), description="Internal states of the teacher to imitate too; none by default.")

    @property
    def in_rounds(self) -> str | None:
        """The key that asks for several rounds, `rounds` or `until`, if one does."""
        return "rounds" if self.rounds else "until" if self.until else None

    @property
    def compares_other_layers(self) -> bool:
        """Whether each of several rounds compares other layers of the teacher, so that no cache serves them all."""
        return self.in_rounds is not None and self.features.layers != "none"

    @field_validator("rounds")
    @classmethod
    def _rounds_fall(cls, rounds: list[int] | None) -> list[int] | None:
        for before, after in pairwise(rounds or []):
            if after >= before:
                raise ValueError(f"must fall from round to round, and {after} follows {before}")
        return rounds
