"""Where a layer makes its queries, keys and values, which relations compare."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pico import NAMES, pico
from zoo import build

from finetune.distillation.students.cutting import layer_stack
from finetune.distillation.terms import internals
from finetune.distillation.terms.attention import last_head_width, projected, projection
from finetune.errors import ModelError

OTHERS = ["bloom", "gpt_bigcode"]


@pytest.mark.parametrize(("name", "changes"), [*((name, {}) for name in [*NAMES, *OTHERS]), ("gpt_bigcode", {"multi_query": False})])
def test_values_are_those_that_the_model_itself_keeps_for_later_tokens(name: str, changes: dict[str, Any]) -> None:
    """And keys, where no positions are mixed into them afterwards."""
    model = pico(name) if name in NAMES else build(name, **changes)
    for kind, place in (("v", 1), *((("k", 0),) if name in ("gpt2", "opt", "bloom") else ())):
        watched = {"it": [projection(model, layer_stack(model)[-1], kind)]}
        with internals.watching(watched) as seen, torch.no_grad():
            kept = model(torch.arange(4, 11)[None], use_cache=True).cache
        layer = kept.layers[-1]
        torch.testing.assert_close(seen["it"][0], (layer.keys, layer.values)[place].transpose(1, 2).flatten(2))


def test_widths_are_those_of_the_last_layer_where_layers_differ() -> None:
    model = build("gemma4_text")
    watched = {"it": [projection(model, layer_stack(model)[-1], kind) for kind in "qkv"]}
    with internals.watching(watched) as seen, torch.no_grad():
        model(torch.arange(4, 11)[None])
    assert [output.shape[-1] for output in seen["it"]] == [*projected(model.config).values()] == [64, 32, 32]
    assert last_head_width(model.config) == 16


def test_an_attention_that_is_not_known_is_refused_in_a_sentence() -> None:
    model = pico("phi3")
    layer = model.model.layers[-1]
    layer.self_attn.qkv_proj = torch.nn.Linear(24, 99)
    with pytest.raises(ModelError, match="Where a phi3 makes the values of its attention is not known here"):
        projection(model, layer, "v")
    for name, said in (("codegen", "Where a codegen makes the values"), ("mamba", "A mamba has no attention heads")):
        other = build(name)
        with pytest.raises(ModelError, match=said):
            projection(other, layer_stack(other)[-1], "v")
