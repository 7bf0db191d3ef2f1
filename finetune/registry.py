"""Names to things: `load("methods", "lora")` imports one method when it is first needed.

Built-ins are lazy "module:attribute" lines, each the name of a class. Other packages add theirs with entry points in the groups
`finetune_cli.methods`, `.objectives`, `.formats`, `.sources`, `.metrics`, `.trackers`, `.engines`, `.importers` and `.exporters`;
docs/extending.md has one of each main kind. A way to make students and a term need a recipe key too: a field of FromTeacher or of
FeaturesSpec, in finetune/recipe/.
"""

from __future__ import annotations

import hashlib
import sys
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from finetune.errors import RecipeError

BUILT_IN: dict[str, dict[str, str]] = {
    "methods": {
        "lora": "finetune.methods.lora:LoRA",
        "qlora": "finetune.methods.qlora:QLoRA",
        "adalora": "finetune.methods.adalora:AdaLoRA",
        "full": "finetune.methods.full:Full",
    },
    "objectives": {
        "forward_kl": "finetune.distillation.objectives.forward_kl:ForwardKL",
        "reverse_kl": "finetune.distillation.objectives.reverse_kl:ReverseKL",
        "forward_reverse_kl": "finetune.distillation.objectives.forward_reverse_kl:ForwardReverseKL",
        "jsd": "finetune.distillation.objectives.jsd:GeneralisedJSD",
        "skew_forward_kl": "finetune.distillation.objectives.skew_forward_kl:SkewForwardKL",
        "skew_reverse_kl": "finetune.distillation.objectives.skew_reverse_kl:SkewReverseKL",
        "tvd": "finetune.distillation.objectives.tvd:TotalVariation",
        "taid": "finetune.distillation.objectives.taid:TAID",
    },
    "signals": {  # cheapest first: a run takes the first that is valid for it and fits
        "spans": "finetune.distillation.signals.spans:Spans",
        "gradient": "finetune.distillation.signals.gradient:Gradient",
        "hidden": "finetune.distillation.signals.hidden:Hidden",
        "top_k": "finetune.distillation.signals.top_k:TopK",  # of a server alone
    },
    "terms": {  # their names are keys of FeaturesSpec
        "last": "finetune.distillation.terms.last_state:LastState",
        "layers": "finetune.distillation.terms.inner_layers:InnerLayers",
        "relations": "finetune.distillation.terms.relations:Relations",
    },
    "students": {
        "layers": "finetune.distillation.students.layers:Layers",
        "ffn": "finetune.distillation.students.ffn:FeedForward",
        "heads": "finetune.distillation.students.heads:Heads",
        "size": "finetune.distillation.students.size:Size",
    },
    "grids": {
        "q4_0": "finetune.distillation.grids.q4_0:Q4_0",
        "q8_0": "finetune.distillation.grids.q8_0:Q8_0",
        "nf4": "finetune.distillation.grids.nf4:NF4",
    },
    "engines": {
        "here": "finetune.engines.here:Here",
        "torchrun": "finetune.engines.torchrun:Torchrun",
        "ray": "finetune.engines.on_ray:Ray",
    },
    "formats": {
        "tokenized": "finetune.data.formats.tokenized:Tokenized",
        "preference": "finetune.data.formats.preference:Preference",
        "messages": "finetune.data.formats.messages:Messages",
        "multiple_choice": "finetune.data.formats.choices:MultipleChoice",
        "prompt_completion": "finetune.data.formats.prompt_completion:PromptCompletion",
        "instruction": "finetune.data.formats.instruction:Instruction",
        "question_answer": "finetune.data.formats.question_answer:QuestionAnswer",
        "rendered": "finetune.data.formats.rendered:Rendered",
        "text": "finetune.data.formats.text:Text",
    },
    "sources": {
        "dataset": "finetune.sources.dataset:Dataset",
        "generated": "finetune.sources.generated:Generated",
        "answered": "finetune.sources.answered:Answered",
    },
    "metrics": {
        "rouge": "finetune.benchmark.rouge:Rouge",
        "perplexity": "finetune.benchmark.perplexity:Perplexity",
        "accuracy": "finetune.benchmark.right_answers:Accuracy",
        "exact_match": "finetune.benchmark.right_answers:ExactMatch",
        "last_number": "finetune.benchmark.right_answers:LastNumber",
        "json": "finetune.benchmark.json_answers:JsonAnswers",
    },
    "trackers": {
        "tensorboard": "finetune.training.trackers:TensorBoard",
        "wandb": "finetune.training.trackers:WeightsAndBiases",
        "mlflow": "finetune.training.trackers:MLflow",
        "trackio": "finetune.training.trackers:Trackio",
    },
    "importers": {
        "axolotl": "finetune.importing.axolotl:Axolotl",
        "llama-factory": "finetune.importing.llama_factory:LlamaFactory",
    },
    "exporters": {
        "merged": "finetune.publish.merged:Merged",
        "gguf": "finetune.export.to_gguf:GGUF",
        "onnx": "finetune.export.to_onnx:ONNX",
    },
}
OBJECTS = (
    "methods",
    "signals",
    "terms",
    "students",
    "engines",
    "grids",
    "exporters",
    "sources",
    "importers",
)  # they keep nothing between calls, so one of each is enough
# With titles and summaries; their files import no torch until they are used.
DESCRIBED = ("methods", "objectives", "terms", "students", "grids", "formats")


def names(kind: str) -> list[str]:
    """All known names of one kind, built-ins first."""
    return [*BUILT_IN.get(kind, {}), *sorted(set(_outside(kind)) - set(BUILT_IN.get(kind, {})))]


def load(kind: str, name: str) -> Any:
    """The object of one of the kinds in OBJECTS, the class of anything else; raises RecipeError for an unknown name or a broken package."""
    check_name(kind, name)
    target = BUILT_IN.get(kind, {}).get(name) or _outside(kind)[name]
    module, _, attribute = target.partition(":")
    try:
        found = getattr(import_module(module), attribute)
        return _object(found) if kind in OBJECTS else found
    except Exception as error:  # code of another package, which may raise anything
        why = error if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
        raise RecipeError(
            f"The {kind.removesuffix('s')} {name!r} ({target}) cannot be loaded: {why}.",
            hint="Fix or uninstall the package that provides it.",
        ) from error


def code_of(kind: str, name: str) -> str:
    """A hash of the Python files of another package that has something, for the keys of caches that hold what it made.

    "" for what is built in: its caches have a version.
    """
    if name in BUILT_IN.get(kind, {}):
        return ""
    return _code(load(kind, name).__module__) or hashlib.sha256(name.encode()).hexdigest()  # of a class, a function, an object's class


def _code(module: str) -> str:
    """Of the outermost package that the module is in, or of the module itself; "" where there are no files."""
    parts = module.split(".")
    above = (sys.modules.get(".".join(parts[:depth])) for depth in range(1, len(parts) + 1))
    found = next((Path(file) for each in above if (file := getattr(each, "__file__", None))), None)
    if found is None or not found.is_file():
        return ""
    files = sorted(found.parent.rglob("*.py")) if found.name == "__init__.py" else [found]
    said = hashlib.sha256()
    for file in files:
        said.update(f"{file.relative_to(found.parent).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return said.hexdigest()


def choices(kind: str) -> list[tuple[str, str, str]]:
    """(name, title, summary) of everything of one of the kinds in DESCRIBED, for people to choose from."""
    return [(name, title(kind, name), str(getattr(load(kind, name), "summary", ""))) for name in names(kind)]


def check_name(kind: str, name: str) -> None:
    """Raises RecipeError if nothing is called `name`; imports nothing."""
    known = names(kind)
    if name not in known:
        raise RecipeError(
            f"There is no {kind.removesuffix('s')} {name!r}.{did_you_mean(name, known)}", hint=f"Choose from {', '.join(known)}."
        )


def title(kind: str, name: str) -> str:
    """What people read: the thing's own `title`, or its name if it has none or is not known here."""
    return str(getattr(load(kind, name), "title", name)) if name in names(kind) else name


def did_you_mean(name: str, known: list[str]) -> str:
    """' Did you mean X?' or nothing."""
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else ""


@cache
def _object(made_by: Any) -> Any:
    return made_by()


@cache
def _outside(kind: str) -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=f"finetune_cli.{kind}")}
