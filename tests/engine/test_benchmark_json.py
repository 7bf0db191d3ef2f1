"""benchmark.json and what goes into it: plain scores, paired changes, the same rows for every model, scores that are kept."""

import json

import datasets
import evaluate
import numpy as np
import pytest
from letters import held_out, llama, parrot, tokenizer
from test_benchmark_models import PAIRS, SPEC, quiet

from finetune import registry
from finetune.benchmark.names import endless
from finetune.benchmark.scoring import Cost, Scores, base_key, benchmark_json, benchmark_model, load_base_scores, save_base_scores
from finetune.errors import BenchmarkError
from finetune.events import Progress, Recorder
from finetune.recipe import BenchmarkSpec
from finetune.runtime import RuntimeOptions

COSTS = {"teacher": Cost(2.0, None)}


def test_benchmark_json_holds_plain_scores_intervals_changes_and_texts():
    made, rows = tokenizer(), held_out(tokenizer(), PAIRS)
    teacher = benchmark_model(llama(seed=1), made, rows, SPEC, seed=0, as_teacher=True, **quiet())
    before, after = (
        benchmark_model(llama(seed=seed, layers=1), made, rows, SPEC, seed=0, teacher=teacher.states, **quiet()) for seed in (2, 3)
    )
    found = json.loads(json.dumps(benchmark_json(before, after, teacher, bytes_on_disk={"after": 123}, costs=COSTS), allow_nan=False))
    assert found["rows"] == 8
    assert set(found["before"]) == {"rouge1", "rougeL", "accuracy", "perplexity", "kl", "agreement"}, "labels have no ROUGE-2"
    assert set(found["teacher"]) == {"rouge1", "rougeL", "accuracy", "perplexity"}
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
    measured = {"tokens_per_second": 2.0, "peak_memory_bytes": None, "threads": None}
    assert found["speed"] == {"teacher": measured}, "what was measured, and nothing else"
    assert (found["tokens_counted"], found["max_new_tokens"]) == ("answers", 12)
    beside = found["against_teacher"]["perplexity"]["difference"]
    assert beside == pytest.approx(found["after"]["perplexity"] - found["teacher"]["perplexity"])
    assert found["generations"][0] == {
        "prompt": PAIRS[0][0],
        "reference": PAIRS[0][1],
        "before": before.texts[0],
        "after": after.texts[0],
        "teacher": teacher.texts[0],
        "ended": {"before": before.ended[0], "after": after.ended[0], "teacher": teacher.ended[0]},
    }


def test_answers_that_do_not_end_are_counted_where_their_references_do():
    made, few = tokenizer(), SPEC.model_copy(update={"metrics": ["rouge"]})
    rows = held_out(made, [("who? ", "a" * length) for length in (1, 4, 11, 12)])
    ends, repeats = (benchmark_model(parrot(made, cycle), made, rows, few, seed=0, **quiet()) for cycle in (["a", "</s>"], ["a", "b"]))
    assert (ends.ended, ends.endless) == ([True] * 4, 0)
    assert (repeats.ended, repeats.endless) == ([False] * 4, 3), "12 tokens have no room for the end of 12 letters"
    text = benchmark_model(parrot(made, ["a", "b"]), made, [{**row, "is_text": True} for row in rows], few, seed=0, **quiet())
    assert (text.ended, text.endless) == ([False] * 4, 0), "a block of plain text goes on"
    found = benchmark_json(ends, repeats)
    assert found["endless"] == {"before": 0, "after": 3}
    assert [row["ended"] for row in found["generations"]] == [{"before": True, "after": False}] * 4
    assert endless(found) == "3 of 4 answers (before: 0) did not end within 12 tokens, though their references do."
    older = Scores.from_dict({key: value for key, value in ends.to_dict().items() if key not in ("ended", "endless")})
    beside = benchmark_json(older, repeats)
    assert [row["ended"] for row in beside["generations"]] == [{"after": False}] * 4
    assert endless(beside) == "3 of 4 answers did not end within 12 tokens, though their references do."
    assert "ended" not in benchmark_json(older, older)["generations"][0]


def test_a_share_of_a_teacher_that_scores_nothing_is_left_out():
    made, rows = tokenizer(), held_out(tokenizer(), [(prompt, "zz") for prompt, _ in PAIRS])
    scores = benchmark_model(parrot(made, ["a"]), made, rows, SPEC, seed=0, **quiet())
    assert scores.values["rougeL"] == 0
    assert set(benchmark_json(scores, scores, scores)["retention"]) == set()


def test_without_a_teacher_there_is_nothing_retained():
    made, rows = tokenizer(), held_out(tokenizer(), PAIRS)
    scores = benchmark_model(llama(), made, rows, SPEC, seed=0, **quiet())
    found = benchmark_json(scores, scores)
    assert (found["teacher"], found["retention"], found["against_teacher"]) == (None, None, None)
    assert {change["verdict"] for change in found["change"].values()} == {"no evidence"}


def test_numbers_of_the_references_are_a_score_where_there_are_any():
    made = tokenizer()
    rows = held_out(made, [(prompt, "a a a a a 1" if number % 2 else "a a a a a a") for number, (prompt, _) in enumerate(PAIRS)])
    scores = benchmark_model(parrot(made, ["1"]), made, rows, SPEC, seed=0, **quiet())
    assert scores.per_row["codes"] == [0, 1] * 4
    assert scores.values["copied"] == sum(scores.per_row["codes_copied"]) / 4
    assert "copied" not in benchmark_model(llama(), made, held_out(made, PAIRS), SPEC, seed=0, **quiet()).values


def test_which_tokens_count_is_known():
    made, rows = tokenizer(), held_out(tokenizer(), PAIRS)
    whole = [{**row, "labels": list(row["input_ids"])} for row in rows]
    assert [benchmark_model(llama(), made, part, SPEC, seed=0, **quiet()).counted for part in (rows, whole)] == ["answers", "all"]


def test_scores_of_different_rows_are_never_compared():
    made = tokenizer()
    one, other = (benchmark_model(llama(), made, held_out(made, part), SPEC, seed=0, **quiet()) for part in (PAIRS[:4], PAIRS[4:]))
    with pytest.raises(BenchmarkError, match="different rows"):
        benchmark_json(one, other)


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
    key = base_key("gpt2@abc", "data", SPEC, seed=0, digits={"dtype": "float32"})
    assert load_base_scores(runtime, key) is None
    scores = benchmark_model(llama(), tokenizer(), held_out(tokenizer(), PAIRS), SPEC, seed=0, as_teacher=True, **quiet())
    save_base_scores(runtime, key, scores)
    back = load_base_scores(runtime, key)
    assert isinstance(back, Scores)
    assert benchmark_json(back, back) == benchmark_json(scores, scores)
    others = [("gpt2@abd", "data", SPEC, 0, "float32"), ("gpt2@abc", "data", SPEC, 1, "float32"), ("gpt2@abc", "data", SPEC, 0, "bfloat16")]
    assert key not in {base_key(name, data, spec, seed=seed, digits={"dtype": dtype}) for name, data, spec, seed, dtype in others}
    without_speed = SPEC.model_copy(update={"speed": not SPEC.speed})
    assert base_key("gpt2@abc", "data", without_speed, seed=0, digits={"dtype": "float32"}) == key, "speed is no score"
    file = next(tmp_path.rglob("*.json"))
    file.write_text(file.read_text()[:100])
    assert load_base_scores(runtime, key) is None
    file.unlink()
    file.mkdir()
    assert load_base_scores(runtime, key) is None, "out of reach"


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
    found = benchmark_json(scores, scores)
    assert found["after"]["length"] == scores.values["length"]
    assert set(found["intervals"]["after"]) == {"perplexity"}  # nothing is known about its rows


def test_scores_are_kept_for_one_processor_and_one_version_of_the_libraries(tmp_path, monkeypatch):
    """Speed is not kept at all; answers may differ in their digits on another machine that shares the cache."""
    from workshop import Workshop

    from finetune.hardware import arithmetic
    from finetune.planning import known_scores

    context = Workshop(tmp_path).tuner(Workshop(tmp_path).layer()).context
    found = [known_scores.key_of(context, "model", None) for _ in range(2)]
    assert found[0] == found[1]
    for name, other in (("cpu_name", lambda: "another processor"), ("version", lambda library: "9.9")):
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(arithmetic, name, other)
            found.append(known_scores.key_of(context, "model", None))
    assert len(set(found)) == 3
