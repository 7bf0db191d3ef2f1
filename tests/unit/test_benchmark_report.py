"""The report page tells everything the run wrote down, is complete in itself and well formed, and shows text as text."""

import json
import re
from html.parser import HTMLParser

import pytest
from written_run import ENVIRONMENT, RANKS, STEPS, events, written_run

from finetune.benchmark.report import ranks_in_words, write_report
from finetune.benchmark.report.charts import bars, curve, scale_of, thinned, ticks
from finetune.benchmark.report.html import duration
from finetune.benchmark.report.records import read_records
from finetune.run.history import read_run
from finetune.run_folder import RunFolder

VOID = {"meta", "link"}


class Page(HTMLParser):
    """Checks that tags are balanced; keeps them, and the text a person sees."""

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.attributes, self.pieces = [], [], [], []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.pieces.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.pieces).split())


def page_of(folder):
    write_report(folder)
    return Page((folder.run / "report.html").read_text(encoding="utf-8"))


def test_it_says_what_was_asked_and_done_on_what_and_how_to_repeat_it(tmp_path):
    text = page_of(written_run(tmp_path / "my model", ranks=RANKS)).text
    for said in (
        "LoRA fine-tuning of HuggingFaceTB/SmolLM2-135M-Instruct on shop/questions.jsonl · 21 September 2026",
        "Better: ROUGE-L.",
        "No evidence of a change: Perplexity.",
        "LoRA: r 16, alpha 32",
        "60 in 2 min 27 s, 2.5 s each",
        "53,837 read, 4,659 of them supervised",
        "366 tokens/s",
        "Peak memory 2.5 GB",
        "and continued after step 30",
        "Step 12 did not fit <into> memory.",
        "250 read: 221 to train on, 24 held out, 3 skipped, 2 blank",
        "agent (4 % of the text), ticket",
        "questions.jsonl, line 80: it has no completion",
        "a CPU, 2 cores",
        "revision abc123",
        "torch 2.13.0",
    ):
        assert said in text, said
    recipe, again = tmp_path / "my model" / "run" / "recipe.yaml", tmp_path / "my model-2"
    assert f"finetune-cli run '{recipe}' --output-dir '{again}'" in text


@pytest.mark.parametrize(
    ("machine", "training", "promised"),
    [
        ({"device": "cpu", "threads": 2}, {}, "On the same machine with 2 threads and the same versions the same recipe gives"),
        ({"device": "cpu"}, {}, "On the same machine the same recipe gives the same scores."),
        ({"device": "cuda", "threads": 2}, {}, "A GPU adds numbers in any order, so the scores of a repetition can differ a little."),
        (
            {"device": "cpu", "threads": 2},
            {"steps_with_fewer_threads": 1},
            "Other programs kept cores busy while this run trained, so its scores can differ a little from those of a quiet repetition.",
        ),
    ],
)
def test_no_more_is_promised_of_a_repetition_than_holds(machine, training, promised, tmp_path):
    folder = written_run(tmp_path / "model")
    folder.write_json(folder.environment, {**ENVIRONMENT, "machine": {**ENVIRONMENT["machine"], **machine}})
    *before, last, finished = events()
    lines = [*before, {**last, **training}, finished]
    folder.events.write_text("".join(json.dumps(event) + "\n" for event in lines), encoding="utf-8")
    text = page_of(folder).text
    assert promised in text
    assert ("fewer in 1 step, because other programs kept cores busy" in text) == bool(training)


@pytest.mark.parametrize(
    ("change", "headline", "listed"),
    [
        ({"teacher": "org/a"}, "org/a distilled into org/small", "distillation of org/a into org/small"),
        (
            {"teacher": None, "teachers": [{"source": "org/a"}, {"source": "org/b"}]},
            "org/a and org/b distilled into org/small",
            "distillation of org/a + org/b into org/small",
        ),
        (
            {"teacher": {"server": "http://localhost:8000/v1", "model": "qwen"}},
            "qwen at localhost:8000 distilled into org/small",
            "distillation of qwen at localhost:8000 into org/small",
        ),
        ({"teacher": "self"}, "org/small distilled from itself", "distillation of org/small from itself"),
    ],
)
def test_teachers_of_every_kind_are_named(change, headline, listed, tmp_path):
    folder = written_run(tmp_path / "run", teacher=True, change={"model": "org/small", **change})
    assert f" {headline} on shop/questions.jsonl" in page_of(folder).text
    assert read_run(folder.output_dir).what == listed


def test_every_score_has_its_interval_and_a_teacher_stands_beside_its_student(tmp_path):
    text = page_of(written_run(tmp_path / "model", teacher=True)).text
    assert "Keeps 93 % [85 %, 102 %] of its teacher: usable. The same size, the same speed, the same memory." in text
    assert "Better: ROUGE-L." not in text, "than before is not the first thing to know of a student"
    assert "ROUGE-L -0.050 worse +0.150 better Teacher" in text
    assert "Perplexity -53.8 no evidence Teacher 10.2 [8.16, 12.2] Before 66.1 [52.9, 79.3] After 12.3 [9.84, 14.8]" in text
    assert "Weights on disk 360 MB 360 MB 1.00" in text
    assert "ROUGE-L kept 93 % [85 %, 102 %]" in text
    assert "Perplexity: 1.21 times the teacher's, 12.3 against 10.2: the student predicts these answers less well." in text
    assert "forward kl at temperature 2, 50 % of the loss is from the text" in text
    assert "Student and teacher compared" not in page_of(written_run(tmp_path / "other")).text


def test_answers_go_from_the_best_row_to_the_worst_and_none_is_lost(tmp_path):
    folder = written_run(tmp_path / "model")
    page = page_of(folder)
    scored = list(map(float, re.findall(r"Row \d+ · ROUGE-L (\d\.\d+)", page.text)))
    assert len(scored) == 24
    assert scored[:6] == sorted(scored[:6], reverse=True)
    assert (scored[0], scored[5]) == (max(scored), min(scored))
    assert scored[6:11] == [score for score in sorted(scored) if score not in scored[:6]][:5], "those that are not shown already"
    assert scored[11:] == sorted(scored[11:])
    assert "(nothing)" in page.text
    assert "The other 13 answers, worst first" in page.text
    assert page.text.index("Sample answers") < page.text.index("The worst answers") < page.text.index("On 24 held-out rows")
    texts = [value for name, value in page.attributes if name == "class" and "words" in value.split()]
    shown = [value for value in texts if "quiet" not in value]  # not "(nothing)"
    assert page.attributes.count(("dir", "auto")) == page.attributes.count(("lang", "")) == len(shown) > 0, "Arabic begins on the right"


def test_of_answers_that_are_all_alike_none_is_called_the_worst(tmp_path):
    text = page_of(written_run(tmp_path / "model", shift=1.0)).text  # all of them at 1
    assert "All rows have the same ROUGE-L." in text
    assert "More answers" in text
    assert "worst" not in text.lower()


def test_a_number_that_is_missing_is_named_beside_the_answer_and_counted(tmp_path):
    folder = written_run(tmp_path / "model", tokens_counted="all")
    scores = folder.read_json(folder.benchmark)
    scores["generations"][3] |= {"reference": "Order 4711 costs 12.50.", "after": "Order 4712 costs 12.50."}
    counted = {"codes": [0, 0, 0, 2] + [0] * 20, "codes_copied": [0, 0, 0, 1] + [0] * 20}
    values = {side: {**scores[side], "copied": share} for side, share in (("before", 0.0), ("after", 0.5))}
    folder.write_json(folder.benchmark, {**scores, **values, "per_row": {**scores["per_row"], **counted}})
    text = page_of(folder).text
    assert re.search(r"Row 4 · ROUGE-L \d\.\d+ · missing: 4711", text)
    assert "Codes copied: 1 of 2 numbers and codes of the references (before: 0), in 1 row: too few to judge." in text
    assert "Perplexity counts every token of the rows, prompts too." in text


def test_of_too_few_rows_the_page_says_that_and_shows_no_interval(tmp_path):
    none = {"difference": 0.15, "low": None, "high": None, "verdict": "too few rows"}
    folder = written_run(tmp_path / "model", rows=4)
    few = {"intervals": {"before": {}, "after": {}}, "change": {"rougeL": none}}
    folder.write_json(folder.benchmark, folder.read_json(folder.benchmark) | few)
    text = page_of(folder).text
    assert "Too few rows to judge: 4 rows; 8 would do." in text
    assert "+0.150 too few rows" in text
    assert not re.search(r"\[\d", text)


def test_text_of_models_and_data_is_shown_and_never_run(tmp_path):
    page = page_of(written_run(tmp_path / "<b>model"))
    assert "<script>alert(1)</script>" in page.text
    assert "script" not in page.tags
    assert "<b>model" in page.text
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_the_page_asks_nobody_for_anything(tmp_path):
    folder = written_run(tmp_path / "model")
    page = page_of(folder)
    assert "default-src 'none'" in dict(page.attributes)["content"]
    assert not re.search(r"https?:|src=|@import|url\(", (folder.run / "report.html").read_text())
    assert [value for name, value in page.attributes if name in ("href", "src")] == ["data:,"]


def test_a_run_that_wrote_down_little_has_a_page_all_the_same(tmp_path):
    folder = RunFolder(tmp_path / "model")
    folder.run.mkdir(parents=True)
    scores = {"rows": 3, "before": {"perplexity": 3.0}, "after": {"perplexity": 2.0}, "teacher": None, "generations": []}
    folder.write_json(folder.benchmark, scores)
    folder.events.write_text(json.dumps({"event": "step", "step": 1, "loss": 4.0, "tokens_per_second": 1.0}) + '\n{"event": "st')
    text = page_of(folder).text
    assert "On 3 held-out rows" in text
    for absent in ("Sample answers", "Training loss", "Recipe", "The data", "Final ranks"):
        assert absent not in text


def test_steps_made_again_after_an_interruption_count_once(tmp_path):
    steps = read_records(written_run(tmp_path / "model")).steps
    assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
    assert max(step["loss"] for step in steps) < 10


def test_the_curve_stays_inside_its_picture_and_goes_up_with_the_loss():
    drawn = curve("Loss", [(1, 3.5), (5, 2.0), (9, 9.0)], number=str, smooth=False)
    points = [tuple(map(float, point.split(","))) for point in re.search(r'points="([^"]+)"', drawn).group(1).split()]
    assert [x for x, _ in points] == [0, 50, 100]
    assert points[2][1] < points[0][1] < points[1][1]
    assert all(0 <= y <= 100 for _, y in points)
    assert "Loss from 3.5 to 9.0 over steps 1 to 9" in drawn
    assert "nan" not in curve("Loss", [(1, 2.0), (2, 2.0), (3, float("nan"))], number=str)
    assert curve("Loss", [(1, 2.0)], number=str) == ""


@pytest.mark.parametrize(("low", "high"), [(0, 1), (2.1, 3.9), (250, 410), (1e-6, 3e-6), (5, 5), (-3, 2)])
def test_ticks_are_few_and_reach_from_end_to_end(low, high):
    marks = ticks(low, high)
    assert 2 <= len(marks) <= 6
    assert marks[0] <= low
    assert marks[-1] >= high


def test_long_curves_are_thinned_to_what_can_be_seen():
    kept = thinned([(step, 1.0) for step in range(100_000)])
    assert len(kept) <= 400
    assert kept[-1] == (99_999, 1.0)


def test_scores_that_lie_far_apart_are_both_to_be_seen():
    place = scale_of([12.0, 50_000.0])
    assert 0.02 < place(12.0) < place(50_000.0) <= 1
    near = scale_of([0.2, 0.4])
    assert near(0.2) == near(0.4) / 2


def test_bars_are_as_high_as_their_rows_are_many():
    drawn = bars("Tokens", [{"tokens": 8, "rows": 5}, {"tokens": 16, "rows": 10}, {"tokens": 24, "rows": 0}])
    assert re.findall(r"height:([\d.]+)%", drawn) == ["50.0", "100.0", "0.0"]
    assert "5 with up to 8; 10 with up to 16" in drawn


@pytest.mark.parametrize(("seconds", "said"), [(0.44, "0.4 s"), (12, "12 s"), (147, "2 min 27 s"), (11_100, "3 h 5 min")])
def test_times_are_said_as_people_say_them(seconds, said):
    assert duration(seconds) == said


def test_ranks_that_moved_are_shown_layer_by_layer_and_summed_up(tmp_path):
    ranks = {f"model.layers.{layer}.{kind}": rank + layer for layer in (0, 1) for kind, rank in (("q_proj", 1), ("v_proj", 9))}
    assert ranks_in_words(ranks) == "1 to 10 per layer, 5.5 on average; most in v_proj (9.5), least in q_proj (1.5)"
    text = page_of(written_run(tmp_path / "model", ranks=ranks)).text
    assert "least in q_proj (1.5). Rank of each adapted matrix, by block block q v 0 1 9 1 2 10" in text
