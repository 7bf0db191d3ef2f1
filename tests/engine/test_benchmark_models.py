"""Losses, answers and the teacher comparison against plain transformers and float64, on models built here."""

import math
import tempfile

import evaluate
import pytest
import torch
from letters import gpt2, held_out, llama, tokenizer

from finetune import registry
from finetune.benchmark.perplexity import Perplexity, answer_losses
from finetune.benchmark.rouge import Rouge
from finetune.benchmark.scoring import benchmark_model
from finetune.benchmark.teacher_agreement import TeacherStates
from finetune.errors import BenchmarkError, OutOfMemory
from finetune.events import Recorder
from finetune.recipe import BenchmarkSpec
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
    own, load = {"rouge": Rouge, "perplexity": OnDisk}, registry.load
    monkeypatch.setattr(registry, "load", lambda kind, name: own.get(name) or load(kind, name))
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


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), torch.OutOfMemoryError()])
def test_memory_that_runs_out_in_a_benchmark_is_one_sentence_on_every_device(monkeypatch, error):
    def runs_out(*args, **options):
        raise error

    monkeypatch.setattr("finetune.benchmark.scoring.answer_losses", runs_out)
    with pytest.raises(OutOfMemory, match="not enough memory to run the benchmark"):
        benchmark_model(llama(), tokenizer(), held_out(tokenizer(), PAIRS), SPEC, seed=0, **quiet())
