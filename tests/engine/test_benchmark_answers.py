"""Answers of the benchmark: each as the model gives it to its prompt alone, in batches or not, and where it ends."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from chat_templates import FAMILIES
from letters import VOCABULARY, gpt2, held_out, llama, parrot, tokenizer
from test_benchmark_models import PAIRS, quiet
from transformers import BltConfig, MambaConfig, MambaForCausalLM, RwkvConfig, RwkvForCausalLM
from zoo import build as pico

from finetune.benchmark.generation import SPEED_TOKENS, answer_budget, answer_lengths, generate_answers, generation_speed
from finetune.data.tokens.encoder import Encoder
from finetune.errors import BenchmarkError
from finetune.events import Notice, Progress, Recorder
from finetune.training.decoding import batches, key_value_bytes, stop_ids


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("build", [llama, gpt2])
def test_an_answer_is_what_the_model_says_to_its_prompt_alone(build):
    model, made, rows = build(seed=3), tokenizer(), held_out(tokenizer(), PAIRS)
    together = generate_answers(model, made, rows, max_new_tokens=12, **quiet())
    for row, text in zip(rows, together, strict=True):
        ids = list(row["prompt_ids"])
        for _ in range(12):  # greedy by hand: no cache, no padding, no generate()
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == made.eos_token_id:
                break
        assert text == (made.decode(ids[len(row["prompt_ids"]) :], skip_special_tokens=True).strip(), ids[-1] == made.eos_token_id)
    alone = [generate_answers(model, made, [row], max_new_tokens=12, **quiet())[0] for row in rows]
    assert together == alone


def test_padding_has_no_part_in_an_answer_even_if_its_id_has_no_embedding():
    model, made, rows = llama(seed=3), tokenizer(), held_out(tokenizer(), PAIRS)
    expected = generate_answers(model, made, rows, max_new_tokens=12, **quiet())
    made.add_special_tokens({"pad_token": "[PAD]"})
    assert made.pad_token_id == model.config.vocab_size
    model.config.pad_token_id = -1
    assert generate_answers(model, made, rows, max_new_tokens=12, **quiet()) == expected
    assert generation_speed(model, made, rows) > 0


def test_a_model_without_attention_answers_every_prompt_as_if_it_were_alone():
    torch.manual_seed(3)
    config = MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=8, initializer_range=0.3, eos_token_id=1)
    model, made, rows = MambaForCausalLM(config).eval(), tokenizer(), held_out(tokenizer(), PAIRS)
    together = generate_answers(model, made, rows, max_new_tokens=12, **quiet())
    assert len(set(together)) > 1
    assert together == [generate_answers(model, made, [row], max_new_tokens=12, **quiet())[0] for row in rows]
    assert generation_speed(model, made, rows) > 0


def test_a_model_that_reads_its_padding_answers_one_prompt_at_a_time_and_that_is_said():
    torch.manual_seed(2)
    config = RwkvConfig(vocab_size=VOCABULARY, hidden_size=32, attention_hidden_size=32, num_hidden_layers=2, context_length=128)
    model, made, recorder = RwkvForCausalLM(config).eval(), tokenizer(), Recorder()
    with torch.no_grad():
        for value in model.parameters():
            if value.dim() == 2:
                torch.nn.init.normal_(value, std=0.5)
    rows = held_out(made, PAIRS)
    alone = [generate_answers(model, made, [row], max_new_tokens=8, **quiet())[0] for row in rows]
    assert generate_answers(model, made, rows, max_new_tokens=8, reporter=recorder, stage="benchmark") == alone
    assert len(set(alone)) > 2
    assert [event.text for event in recorder.of(Notice)] == [
        "RwkvForCausalLM gives other answers with padding, so it answers one prompt at a time."
    ]
    assert recorder.of(Progress)[0].done == 1


@pytest.mark.parametrize("build", [llama, gpt2])
def test_other_models_keep_their_batches_and_nothing_is_said(build):
    recorder = Recorder()
    generate_answers(build(), tokenizer(), held_out(tokenizer(), PAIRS), max_new_tokens=4, reporter=recorder, stage="benchmark")
    assert recorder.of(Notice) == []
    assert len(recorder.of(Progress)) < len(PAIRS)


def test_speed_does_not_depend_on_when_a_model_stops():
    model, made, rows = llama(seed=3), tokenizer(), held_out(tokenizer(), PAIRS)
    counted = []
    model.register_forward_hook(lambda *_: counted.append(1))
    assert generation_speed(model, made, rows) > 0
    made.eos_token = made.convert_ids_to_tokens(int(model(torch.tensor([rows[0]["prompt_ids"]])).logits[0, -1].argmax()))
    steps = len(counted) - 1
    generation_speed(model, made, rows)
    assert len(counted) - 1 == 2 * steps


def test_answers_keep_the_order_of_the_rows_and_are_the_same_again():
    model, made, rows = llama(seed=3), tokenizer(), held_out(tokenizer(), PAIRS)
    forwards = generate_answers(model, made, rows, max_new_tokens=8, **quiet())
    backwards = generate_answers(model, made, rows[::-1], max_new_tokens=8, **quiet())
    assert forwards == backwards[::-1]
    assert len(set(forwards)) > 1


def test_a_frozen_head_gets_states_that_lie_together_and_keeps_no_hook():
    """Torch multiplies states that lie apart by one copy of a frozen head's weights for every row: a gigabyte where one row needs 50 MB."""
    made, model, seen = tokenizer(), llama(), []
    model.requires_grad_(False)
    model.lm_head.register_forward_hook(lambda _, given, __: seen.append(given[0].is_contiguous()))
    rows = held_out(made, [("what is it? ", "a cat"), ("who? ", "me"), ("why not? ", "so")])
    hooks = len(model.lm_head._forward_pre_hooks)
    generate_answers(model, made, rows, max_new_tokens=4, reporter=Recorder(), stage="x")
    generation_speed(model, made, rows)
    assert len(seen) > 4
    assert all(seen)
    assert len(model.lm_head._forward_pre_hooks) == hooks


def test_a_checkpoints_own_sampling_settings_do_not_touch_the_benchmark():
    made, rows = tokenizer(), held_out(tokenizer(), PAIRS)
    plain = generate_answers(llama(seed=3), made, rows, max_new_tokens=12, **quiet())
    model = llama(seed=3)
    model.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=9.0, no_repeat_ngram_size=1, min_new_tokens=12)
    assert generate_answers(model, made, rows, max_new_tokens=12, **quiet()) == plain


def test_the_end_of_a_turn_ends_an_answer_though_it_is_not_the_tokenizers_end_token():
    made = tokenizer(chat=True)
    model = parrot(made, ["a", "<|end|>"])
    model.generation_config.eos_token_id = None
    assert stop_ids(model, made) == sorted(made.convert_tokens_to_ids(["</s>", "<|end|>"]))
    found = generate_answers(model, made, held_out(made, [("who?", "a")]), max_new_tokens=12, **quiet())
    assert found == [("a", True)]


@pytest.mark.parametrize(("cycle", "text"), [(["a"], "東"), (["a", "<|end|>"], "東\ufffd")])
def test_half_a_letter_where_an_answer_is_cut_is_left_out(cycle, text, monkeypatch):
    made = tokenizer(chat=True)
    monkeypatch.setattr(made, "decode", lambda tokens, **_: "東\ufffd")
    (answer,) = generate_answers(parrot(made, cycle), made, held_out(made, PAIRS[:1]), max_new_tokens=4, **quiet())
    assert answer == (text, "\ufffd" in text), "what a model said itself stays"


def test_a_prompt_longer_than_the_context_keeps_its_end():
    model, made = gpt2(seed=1), tokenizer()
    rows = held_out(made, [("x" * 300 + PAIRS[0][0] * 8, "a")])
    assert model.config.n_positions == 128
    short = [{**rows[0], "prompt_ids": rows[0]["prompt_ids"][-116:]}]
    whole = generate_answers(model, made, rows, max_new_tokens=12, **quiet())
    assert whole == generate_answers(model, made, short, max_new_tokens=12, **quiet())
    with pytest.raises(BenchmarkError, match="context of 128"):
        generate_answers(model, made, rows, max_new_tokens=128, **quiet())


def test_a_prompt_longer_than_the_context_keeps_its_beginning_as_training_does():
    made = FAMILIES["llama2"].tokenizer
    model, seen = llama(vocabulary=len(made)), []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    asked = Encoder(made, max_length=10_000, supervise="answers").prompt([{"role": "user", "content": "word " * 300}])
    generate_answers(model, made, [{"prompt_ids": asked}], max_new_tokens=12, **quiet())
    generation_speed(model, made, [{"prompt_ids": asked}])
    for longest, ids in zip((256 - 12, 256 - SPEED_TOKENS), (first for first in seen if first.shape[1] > 1), strict=False):
        assert ids[0].tolist() == [made.bos_token_id, *asked[1 - longest :]]


def test_batches_hold_every_row_once_and_no_more_than_their_memory():
    lengths = np.random.default_rng(0).integers(1, 600, size=200).tolist()
    found = batches(lengths, new_tokens=64, bytes_per_token=46080)
    assert sorted(row for batch in found for row in batch) == list(range(200))
    for batch in found:
        assert len(batch) * (max(lengths[row] for row in batch) + 64) * 46080 <= 768 << 20
    assert [len(batch) for batch in batches([5000, 4000], new_tokens=64, bytes_per_token=1 << 20)] == [1, 1]


def test_a_new_batch_begins_where_padding_would_cost_more_than_its_steps():
    assert batches([10, 600, 590, 12, 11], new_tokens=16, bytes_per_token=1) == [[1, 2], [3, 4, 0]]
    assert batches([10, 600, 590, 12, 11], new_tokens=200, bytes_per_token=1) == [[1, 2, 3, 4, 0]]


def test_the_room_for_answers_follows_the_references():
    made = tokenizer()

    def budget(rows):
        return answer_budget(rows, answer_lengths(made, rows))

    assert budget([{"reference": "a" * 40}] * 20) == 41
    assert budget([{"reference": "a"}] * 20) == 16
    assert budget([{"reference": "a" * 999}] * 20) == 256
    assert budget([{"reference": "a" * 20}] * 9 + [{"reference": "a" * 90}]) == 91, "of ten rows none is too seldom"
    some = [{"reference": f'["{"a" * 20}"]'}] * 29
    assert budget([*some, {"reference": "a" * 90}]) == 25
    assert budget([*some, {"reference": f'["{"a" * 86}"]'}]) == 91, "half a list is no JSON"


def test_keys_and_values_are_counted_layer_by_layer() -> None:
    for name in ("gemma4_text", "llama", "gpt2"):
        model = pico(name)
        with torch.no_grad():
            kept = model(torch.arange(4, 11)[None], use_cache=True).past_key_values
        assert key_value_bytes(model) * 7 == sum(layer.keys.nbytes + layer.values.nbytes for layer in kept.layers)
    assert key_value_bytes(pico("mamba")) == 0
    assert key_value_bytes(Mock(config=BltConfig())) == 0, "it states no number of layers"
