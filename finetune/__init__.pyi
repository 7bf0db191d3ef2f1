"""The public names for editors and type checkers; when they run, __init__.py imports each at its first use."""

from finetune.distillation.trainer import DistillationTrainer as DistillationTrainer
from finetune.errors import FinetuneError as FinetuneError
from finetune.recipe import Recipe as Recipe
from finetune.run.finetuner import LLMFineTuner as LLMFineTuner
from finetune.run.finetuner import RunResult as RunResult
from finetune.runtime import RuntimeOptions as RuntimeOptions
from finetune.screen.reporter import PlainReporter as PlainReporter

__version__: str
__all__ = ["DistillationTrainer", "FinetuneError", "LLMFineTuner", "PlainReporter", "Recipe", "RunResult", "RuntimeOptions"]
