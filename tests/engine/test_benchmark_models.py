"""Losses, answers and the teacher comparison against plain transformers and float64, on models built here."""

import json
import math
import tempfile

import datasets
import evaluate
import numpy as np
import pytest
import torch
from letters import VOCABULARY, gpt2, held_out, llama, parrot, tokenizer
from transformers import MambaConfig, MambaForCausalLM

from finetune import registry
from finetune.benchmark.generation import answer_budget, batches, generate_answers, generation_speed, stop_ids
from finetune.benchmark.perplexity import Perplexity, answer_losses
from finetune.benchmark.rouge import Rouge
from finetune.benchmark.scoring import Scores, base_key, benchmark_json, benchmark_model, load_base_scores, save_base_scores
from finetune.benchmark.teacher_agreement import TeacherStates
from finetune.errors import BenchmarkError, OutOfMemory
from finetune.events import Progress, Recorder
from finetune.recipe import BenchmarkSpec
from finetune.runtime import RuntimeOptions
from finetune.training.head import head_of

PAIRS = [
    ("what is a cat? ", "an animal"),
    ("b? ", "see."),
    ("say something long about nothing at all, please. ", "no"),
    ("a, b, c", "d, e, f, g, h"),
    ("who? ", "me"),
    ("why not? ", "because"),
    ("where is it? ", "here or there"),
    ("when? ", "now"),
]
SPEC = BenchmarkSpec(rows=8, max_new_tokens=12)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def quiet():
    return {"reporter": Recorder(), "stage": "benchmark"}


@pytest.mark.parametrize("build", [llama, gpt2])
def test_the_loss_of_a_row_is_that_of_transformers_on_its_labels(build):
    model, rows = build(), held_out(tokenizer(), PAIRS)
    found = answer_losses(model, rows, **quiet())
    for row, loss, tokens in zip(rows, found.sums, found.tokens, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]])).logits[0].double()
        labelled = [place for place, label in enumerate(row["labels"]) if label != -100]
        chances = [logits[place - 1].log_softmax(-1)[row["labels"][place]].item() for place in labelled]
        assert tokens == len(labelled)
        assert loss == pytest.approx(-sum(chances), rel=1e-5)


def test_perplexity_is_a_metric_weighted_by_tokens():
    assert Perplexity().compute(predictions=[2.0, 30.0], references=[2, 10])["perplexity"] == pytest.approx(math.exp(32 / 12))


def test_labels_on_every_token_leave_out_the_first_which_nothing_predicts():
    model, rows = llama(), held_out(tokenizer(), PAIRS[:1])
    rows[0]["labels"] = list(rows[0]["input_ids"])
    assert answer_losses(model, rows, **quiet()).tokens == [len(rows[0]["input_ids"]) - 1]


def test_a_model_with_broken_weights_is_an_error_and_not_a_score():
    model, rows = llama(), held_out(tokenizer(), PAIRS[:2])
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(BenchmarkError, match="row 1 is NaN"):
        answer_losses(model, rows, **quiet())


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
        assert text == made.decode(ids[len(row["prompt_ids"]) :], skip_special_tokens=True).strip()
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
    assert found == ["a"]


def test_a_prompt_longer_than_the_context_keeps_its_end():
    model, made = gpt2(seed=1), tokenizer()
    rows = held_out(made, [("x" * 300 + PAIRS[0][0] * 8, "a")])
    assert model.config.n_positions == 128
    short = [{**rows[0], "prompt_ids": rows[0]["prompt_ids"][-116:]}]
    whole = generate_answers(model, made, rows, max_new_tokens=12, **quiet())
    assert whole == generate_answers(model, made, short, max_new_tokens=12, **quiet())
    with pytest.raises(BenchmarkError, match="context of 128"):
        generate_answers(model, made, rows, max_new_tokens=128, **quiet())


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
    assert answer_budget(made, [{"reference": "a" * 40}] * 20) == 41
    assert answer_budget(made, [{"reference": "a"}] * 20) == 16
    assert answer_budget(made, [{"reference": "a" * 999}] * 20) == 256


def naive_kl(teacher, student, row, vocabulary):
    with torch.no_grad():
        taught, learnt = (
            model(torch.tensor([row["input_ids"]])).logits[0, :-1, :vocabulary].double().log_softmax(-1) for model in (teacher, student)
        )
    kept = torch.tensor(row["labels"][1:]) != -100
    divergence = (taught.exp() * (taught - learnt)).sum(-1)[kept]
    return divergence.sum().item(), int((taught.argmax(-1) == learnt.argmax(-1))[kept].sum())


@pytest.mark.parametrize("wider", [0, 7])
def test_divergence_and_agreement_are_those_of_float64_also_where_vocabularies_are_padded(wider):
    vocabulary = llama().config.vocab_size
    teacher, student = llama(seed=1, vocabulary=vocabulary + wider), llama(seed=2, layers=1)
    rows = held_out(tokenizer(), PAIRS)
    states = TeacherStates(head_of(teacher))
    answer_losses(teacher, rows, remember=states, **quiet())
    found = answer_losses(student, rows, teacher=states, **quiet())
    for place, row in enumerate(rows):
        divergence, agreed = naive_kl(teacher, student, row, vocabulary)
        assert found.divergences[place] == pytest.approx(divergence, rel=1e-4)
        assert found.agreed[place] == agreed


def test_metrics_need_no_cache_of_evaluates_and_leave_nothing(tmp_path, monkeypatch):
    class OnDisk(Perplexity):
        def __init__(self):
            super().__init__(keep_in_memory=False)

    (tmp_path / "file").touch()
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "file" / "metrics")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(registry, "load", lambda kind, name: {"rouge": Rouge, "perplexity": OnDisk}[name])
    made, rows = tokenizer(), held_out(tokenizer(), PAIRS)
    assert set(benchmark_model(llama(), made, rows, SPEC, seed=0, **quiet()).values) >= {"rougeL", "perplexity"}
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert evaluate.config.HF_METRICS_CACHE.parent.name == "file"


def test_a_teacher_is_zero_nats_from_itself_and_agrees_everywhere():
    model, made, rows = llama(seed=1), tokenizer(), held_out(tokenizer(), PAIRS)
    states = benchmark_model(model, made, rows, SPEC, seed=0, as_teacher=True, **quiet()).states
    again = benchmark_model(model, made, rows, SPEC, seed=0, teacher=states, **quiet())
    assert again.values["kl"] == pytest.approx(0, abs=1e-6)
    assert again.values["agreement"] == 1.0


def test_a_teacher_that_was_measured_on_other_rows_is_refused():
    model, made, rows = llama(seed=1), tokenizer(), held_out(tokenizer(), PAIRS)
    states = benchmark_model(model, made, rows[:4], SPEC, seed=0, as_teacher=True, **quiet()).states
    with pytest.raises(BenchmarkError, match="different rows"):
        benchmark_model(model, made, rows, SPEC, seed=0, teacher=states, **quiet())


def test_benchmark_json_holds_plain_scores_intervals_changes_and_texts():
    made, rows = tokenizer(), held_out(tokenizer(), PAIRS)
    teacher = benchmark_model(llama(seed=1), made, rows, SPEC, seed=0, as_teacher=True, **quiet())
    before, after = (
        benchmark_model(llama(seed=seed, layers=1), made, rows, SPEC, seed=0, teacher=teacher.states, **quiet()) for seed in (2, 3)
    )
    found = json.loads(json.dumps(benchmark_json(before, after, teacher, seed=0, bytes_on_disk={"after": 123}), allow_nan=False))
    assert found["rows"] == 8
    assert set(found["before"]) == {"rouge1", "rouge2", "rougeL", "perplexity", "kl", "agreement"}
    assert set(found["teacher"]) == {"rouge1", "rouge2", "rougeL", "perplexity"}
    for side in ("before", "after", "teacher"):
        for metric, value in found[side].items():
            low, high = found["intervals"][side][metric]
            assert low <= value <= high
    assert found["change"]["perplexity"]["difference"] == pytest.approx(found["after"]["perplexity"] - found["before"]["perplexity"])
    assert set(found["retention"]) <= {"rougeL"}, "only where more is better"
    for retained in found["retention"].values():
        assert retained["value"] == pytest.approx(found["after"]["rougeL"] / found["teacher"]["rougeL"])
        assert retained["low"] <= retained["value"] <= retained["high"]
    assert found["size"]["after"] == {"parameters": llama(layers=1).num_parameters(), "bytes_on_disk": 123}
    assert found["speed"]["teacher"]["tokens_per_second"] > 0
    assert {side["peak_memory_bytes"] for side in found["speed"].values()} == {None}, "a CPU does not count what belongs to a model"
    assert found["generations"][0] == {
        "prompt": PAIRS[0][0],
        "reference": PAIRS[0][1],
        "before": before.texts[0],
        "after": after.texts[0],
        "teacher": teacher.texts[0],
    }


def test_a_share_of_a_teacher_that_scores_nothing_is_left_out():
    made, rows = tokenizer(), held_out(tokenizer(), [(prompt, "zz") for prompt, _ in PAIRS])
    scores = benchmark_model(parrot(made, ["a"]), made, rows, SPEC, seed=0, **quiet())
    assert scores.values["rougeL"] == 0
    assert set(benchmark_json(scores, scores, scores, seed=0)["retention"]) == set()


def test_without_a_teacher_there_is_nothing_retained():
    made, rows = tokenizer(), held_out(tokenizer(), PAIRS)
    scores = benchmark_model(llama(), made, rows, SPEC, seed=0, **quiet())
    found = benchmark_json(scores, scores, seed=0)
    assert (found["teacher"], found["retention"]) == (None, None)
    assert {change["verdict"] for change in found["change"].values()} == {"no evidence"}


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), torch.OutOfMemoryError()])
def test_memory_that_runs_out_in_a_benchmark_is_one_sentence_on_every_device(monkeypatch, error):
    def runs_out(*args, **options):
        raise error

    monkeypatch.setattr("finetune.benchmark.scoring.answer_losses", runs_out)
    with pytest.raises(OutOfMemory, match="not enough memory to run the benchmark"):
        benchmark_model(llama(), tokenizer(), held_out(tokenizer(), PAIRS), SPEC, seed=0, **quiet())


def test_scores_of_different_rows_are_never_compared():
    made = tokenizer()
    one, other = (benchmark_model(llama(), made, held_out(made, part), SPEC, seed=0, **quiet()) for part in (PAIRS[:4], PAIRS[4:]))
    with pytest.raises(BenchmarkError, match="different rows"):
        benchmark_json(one, other, seed=0)


def test_a_seed_draws_the_same_rows_for_every_model_and_another_seed_others():
    made, rows = tokenizer(), held_out(tokenizer(), PAIRS)
    few = BenchmarkSpec(rows=3, metrics=["perplexity"])
    drawn = {
        seed: [benchmark_model(llama(model), made, rows, few, seed=seed, **quiet()).references for model in (0, 1)] for seed in range(6)
    }
    assert all(first == second and len(first) == 3 for first, second in drawn.values())
    assert len({tuple(first) for first, _ in drawn.values()}) > 1


def test_no_held_out_rows_is_an_error_with_a_way_out():
    with pytest.raises(BenchmarkError, match="no held-out rows"):
        benchmark_model(llama(), tokenizer(), [], SPEC, seed=0, **quiet())


def test_progress_reaches_its_total_for_both_parts():
    recorder = Recorder()
    benchmark_model(llama(), tokenizer(), held_out(tokenizer(), PAIRS), SPEC, seed=0, reporter=recorder, stage="before")
    for unit in ("answers", "rows scored"):
        last = [event for event in recorder.of(Progress) if event.unit == unit][-1]
        assert (last.stage, last.done, last.total) == ("before", 8, 8)


def test_base_scores_come_back_as_they_were_and_a_damaged_file_is_measured_again(tmp_path):
    runtime = RuntimeOptions(cache_dir=tmp_path)
    key = base_key("gpt2@abc", "data", SPEC, seed=0, dtype="float32")
    assert load_base_scores(runtime, key) is None
    scores = benchmark_model(llama(), tokenizer(), held_out(tokenizer(), PAIRS), SPEC, seed=0, as_teacher=True, **quiet())
    save_base_scores(runtime, key, scores)
    back = load_base_scores(runtime, key)
    assert isinstance(back, Scores)
    assert benchmark_json(back, back, seed=0) == benchmark_json(scores, scores, seed=0)
    others = [("gpt2@abd", "data", SPEC, 0, "float32"), ("gpt2@abc", "data", SPEC, 1, "float32"), ("gpt2@abc", "data", SPEC, 0, "bfloat16")]
    assert key not in {base_key(name, data, spec, seed=seed, dtype=dtype) for name, data, spec, seed, dtype in others}
    file = next(tmp_path.rglob("*.json"))
    file.write_text(file.read_text()[:100])
    assert load_base_scores(runtime, key) is None


def test_a_model_fresh_from_training_is_measured_without_its_dropout():
    made, rows = tokenizer(), held_out(tokenizer(), PAIRS)
    model = llama(seed=3, attention_dropout=0.9)
    calm = benchmark_model(model, made, rows, SPEC, seed=0, **quiet())
    model.train()
    fresh = benchmark_model(model, made, rows, SPEC, seed=0, **quiet())
    assert (fresh.values, fresh.texts) == (calm.values, calm.texts)
    assert model.training


class Shouts(evaluate.Metric):
    """A metric of somebody else's package: knows nothing about this project."""

    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references):
        return {"length": sum(map(len, predictions)) / len(predictions)}


def test_a_metric_from_another_package_is_reported_beside_the_built_in_ones(monkeypatch):
    monkeypatch.setitem(registry.BUILT_IN["metrics"], "shouts", f"{__name__}:Shouts")
    spec = BenchmarkSpec(rows=8, metrics=["shouts", "perplexity"], max_new_tokens=12)
    scores = benchmark_model(llama(seed=3), tokenizer(), held_out(tokenizer(), PAIRS), spec, seed=0, **quiet())
    assert list(scores.values) == ["length", "perplexity"]
    assert scores.values["length"] == pytest.approx(np.mean([len(text) for text in scores.texts]))
    found = benchmark_json(scores, scores, seed=0)
    assert found["after"]["length"] == scores.values["length"]
    assert set(found["intervals"]["after"]) == {"perplexity"}  # nothing is known about its rows
