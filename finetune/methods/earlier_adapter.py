"""An adapter that was trained before, as the start of a run: what it is, and whether a method can train it further.

    adapter = EarlierAdapter.of(located)                  # None for a whole model
    why_not(adapter, method, spec)                        # None, or "was trained by QLoRA, on 4-bit weights"
    settings_kept(adapter, spec)                          # {"r": 8, "alpha": 16}: its rank stays, whatever the recipe says

It stays one adapter on the same base. Its optimizer state is not there any more, so training begins with a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import registry
from finetune.errors import ModelError
from finetune.foreign import reading
from finetune.model_folder import AGAIN, adapter_load_in, is_adapter, read_json
from finetune.run_folder import RunFolder

if TYPE_CHECKING:
    from finetune.models.location import LocatedModel

KEPT = {"r": "r", "alpha": "lora_alpha", "rslora": "use_rslora", "dora": "use_dora"}  # in a recipe and in adapter_config.json
VARIANTS = {"rslora": "rsLoRA", "dora": "DoRA"}


@dataclass(frozen=True)
class EarlierAdapter:
    """`settings` are those of adapter_config.json, `load_in` how its base was loaded, which is known of runs of this program (`own`)."""

    name: str
    folder: Path
    settings: Mapping[str, Any]
    load_in: str | None
    own: bool

    @classmethod
    def of(cls, located: LocatedModel) -> EarlierAdapter | None:
        return None if located.base is None else cls.read(located.folder, located.name)

    @classmethod
    def read(cls, folder: Path, name: str) -> EarlierAdapter | None:
        """The adapter in a folder; None for a whole model."""
        if not is_adapter(folder):
            return None
        own = RunFolder(folder).recipe.is_file()
        return cls(name, folder, read_json(folder / "adapter_config.json"), adapter_load_in(folder), own)

    @property
    def kind(self) -> str | None:
        """What peft calls it: LORA, IA3 and others."""
        kind = self.settings.get("peft_type")
        return kind if isinstance(kind, str) else None

    @property
    def note(self) -> str:
        """What happens to it, for people."""
        return f"Training continues the adapter {self.name}: one adapter in the end, on the same base. Its optimizer state starts afresh."

    def attach(self, model: Any) -> Any:
        """The adapter's layers around a base model that has no weights yet, to count them."""
        from peft import PeftConfig, get_peft_model

        with reading(self.folder / "adapter_config.json", ModelError, hint=AGAIN):
            config = PeftConfig.from_pretrained(str(self.folder))
            config.inference_mode = config.init_lora_weights = False  # nothing is computed for a start that is not used
            return get_peft_model(model, config)


def settings_kept(adapter: EarlierAdapter, spec: Any) -> dict[str, Any]:
    """Where the adapter has other settings than `spec` asks for, its own: they decide the shape of its weights."""
    own = {ours: adapter.settings[theirs] for ours, theirs in KEPT.items() if theirs in adapter.settings}
    targets, asked = adapter.settings.get("target_modules"), spec.target_modules
    if isinstance(targets, list) and isinstance(asked, list) and {*targets} != {*asked}:
        own["target_modules"] = sorted(targets)
    return {key: value for key, value in own.items() if value != getattr(spec, key)}


def not_used(adapter: EarlierAdapter, spec: Any) -> str | None:
    """Which settings of `spec` are not used, in a sentence; None if all are."""
    kept = settings_kept(adapter, spec)
    if not kept:
        return None
    own, asked = (", ".join(f"{key} {values[key]}" for key in kept) for values in (kept, spec.model_dump()))
    return f"The adapter {adapter.name} keeps its own settings, {own}; the recipe's {asked} would need a new adapter."


def why_not(adapter: EarlierAdapter, method: Any, spec: Any) -> str | None:
    """Why `method` cannot train the adapter further, to be read after its name; None if it can."""
    if adapter.kind is None:
        return "does not say what kind of adapter it is"
    if adapter.kind != method.trains_further:
        return f"is {_a(adapter.kind)} adapter"
    wanted = method.load_in(spec)
    if adapter.own and adapter.load_in != wanted:
        return "was trained by QLoRA, on 4-bit weights" if adapter.load_in else "was trained on weights that are not in 4 bits"
    missing = [title for key, title in VARIANTS.items() if getattr(spec, key, False) and not adapter.settings.get(KEPT[key])]
    return f"is not {_a(missing[0])} adapter" if missing else None


def further(adapter: EarlierAdapter) -> str | None:
    """The method with its usual settings that trains the adapter further, or None."""
    for name in registry.names("methods"):
        method = registry.load("methods", name)
        if method.trains_further and why_not(adapter, method, method.Spec()) is None:
            return name
    return None


def _a(name: str) -> str:
    shown = {"LORA": "LoRA", "ADALORA": "AdaLoRA"}.get(name, name)
    return f"{'an' if shown[:1] in 'AEIO' else 'a'} {shown}"
