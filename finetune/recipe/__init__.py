"""A run as one value: the recipe, its settings with their limits, and where they come from (files, layers, examples)."""

from __future__ import annotations

from finetune.recipe.distillation_settings import DistillationSpec
from finetune.recipe.layers import dotted, merge, nested, parse_override, read_yaml
from finetune.recipe.recipe import STARTER, Recipe, is_self, known_fields, known_keys
from finetune.recipe.settings import BenchmarkSpec, ColumnsSpec, DatasetSpec, MethodSpec, StudentSpec, TrainingSpec, UploadSpec
from finetune.recipe.teacher_settings import TeacherSpec

__all__ = ["STARTER", "Recipe", "dotted", "is_self", "known_fields", "known_keys", "merge", "nested", "parse_override", "read_yaml"]
__all__ += ["BenchmarkSpec", "ColumnsSpec", "DatasetSpec", "DistillationSpec", "MethodSpec", "StudentSpec", "TeacherSpec", "TrainingSpec"]
__all__ += ["UploadSpec"]
