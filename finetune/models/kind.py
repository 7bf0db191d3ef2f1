"""What kind of model a configuration describes, and so which class of transformers loads it: models of text, and those that also see.

config = configuration(located)           # of the whole model, below any adapter
auto_class(config, located)               # AutoModelForCausalLM, AutoModelForImageTextToText, or a ModelError
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

from finetune.errors import ModelError
from finetune.foreign import reading
from finetune.model_folder import AGAIN
from finetune.models.location import LocatedModel

CHOOSE = "Choose a causal language model, such as gpt2 or HuggingFaceTB/SmolLM2-135M."
SEES_LATER = "it sees later tokens, as encoders do, so it cannot learn to generate text"


def configuration(located: LocatedModel) -> Any:
    """The configuration of a model, or of the whole model below its adapters; raises ModelError if it cannot be read."""
    from transformers import AutoConfig

    home = located.home
    with reading(home.name, ModelError, hint=AGAIN, what="cannot be loaded"):
        return AutoConfig.from_pretrained(home.folder, trust_remote_code=home.remote_code, local_files_only=True)


def auto_class(config: Any, located: LocatedModel) -> Any:
    """The class that loads a model of a configuration which continues text; of one that also sees pictures the text part is used.

    Raises ModelError for every other kind.
    """
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )

    if located.home.remote_code:
        return AutoModelForCausalLM
    name = located.home.name
    text = config.get_text_config(decoder=True)
    if config.is_encoder_decoder or text.is_encoder_decoder:
        raise ModelError(
            f"{name} is a {config.model_type}, which has an encoder and a decoder; it is not a causal language model.", hint=CHOOSE
        )
    generates = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if _is_encoder(config, text, generates):
        raise ModelError(f"{name} is a {config.model_type}: {SEES_LATER}.", hint=CHOOSE)
    if generates is not None:
        return AutoModelForCausalLM
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        listed = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
        if text is not config or str(getattr(listed, "__name__", "")).endswith("ForCausalLM"):
            return AutoModelForImageTextToText
    raise ModelError(f"{name} is a {config.model_type}, which is not a language model that reads and writes text.", hint=CHOOSE)


def _is_encoder(config: Any, text: Any, kind: Any) -> bool:
    """Whether a model such as BERT is set up to read in both directions, although its class could also generate; or always does so."""
    if getattr(text, "use_bidirectional_attention", None) in (True, "all"):  # PaliGemma, and models for embeddings made of Gemma
        return True
    kind = kind[0] if isinstance(kind, tuple) else kind
    return (
        kind is not None
        and getattr(config, "is_decoder", None) is False
        and "bidirectional" in inspect.getsource(sys.modules[kind.__module__])
    )


def try_text_alone(model: Any) -> None:
    """Run a model that sees pictures without one, for a few tokens: some cannot do that. Works without weights too."""
    import torch

    ids = torch.arange(4, device=model.get_input_embeddings().weight.device)[None]
    with torch.no_grad():
        model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
