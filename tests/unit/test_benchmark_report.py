"""The report page is complete in itself, well formed, and shows text as text."""

import json
import re
from html.parser import HTMLParser

from finetune.benchmark.report import curve, ranks_in_words, report_page, write_report
from finetune.run_folder import RunFolder

SCORES = {
    "rows": 40,
    "before": {"rougeL": 0.165, "perplexity": 30.0},
    "after": {"rougeL": 0.37, "perplexity": 12.5},
    "teacher": {"rougeL": 0.4, "perplexity": 10.0},
    "retention": {"rougeL": {"value": 0.93, "low": 0.85, "high": 1.02}},
    "intervals": {side: {"rougeL": [0.1, 0.2], "perplexity": [10, 40]} for side in ("before", "after", "teacher")},
    "change": {"rougeL": {"difference": 0.205, "low": 0.1, "high": 0.3, "verdict": "better"}},
    "speed": {"after": {"tokens_per_second": 123.4, "peak_memory_bytes": 2_000_000_000}},
    "size": {
        "teacher": {"parameters": 134_515_008, "bytes_on_disk": None},
        "after": {"parameters": 90_000_000, "bytes_on_disk": 360_000_000},
    },
    "generations": [{"prompt": "<script>alert(1)</script>", "reference": "a & b", "teacher": "t", "before": "b", "after": "a"}],
}
VOID = {"meta", "line", "polyline"}


class Balance(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen = [], set()

    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def test_every_number_is_there_with_its_interval_and_every_tag_is_closed():
    page = report_page("my model", SCORES, [(1, 3.5), (2, 2.5), (3, 1.25)])
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    for shown in (
        "0.37 <small>[0.1, 0.2]",
        "+0.205 better",
        "93% <small>[85%, 102%]",
        "134,515,008",
        "360,000,000",
        "123",
        "2,000,000,000",
    ):
        assert shown in page, shown


def test_text_of_models_and_data_is_shown_and_never_run():
    parser = Balance()
    parser.feed(report_page("<b>", SCORES, []))
    assert "script" not in parser.seen
    assert "b" not in parser.seen


def test_the_page_asks_nobody_for_anything():
    page = report_page("my model", SCORES, [(1, 3.5), (2, 2.5)])
    assert not re.search(r"https?:|src=|@import|url\(", page)


def test_the_curve_stays_inside_its_picture():
    drawn = curve([(1, 3.5), (5, 2.0), (9, 9.0)])
    points = [tuple(map(float, point.split(","))) for point in re.search(r'points="([^"]+)"', drawn).group(1).split()]
    assert points[0][0] < points[1][0] < points[2][0]
    assert points[2][1] < points[0][1] < points[1][1]  # up on the page is a higher loss
    assert all(0 <= x <= 720 and 0 <= y <= 240 for x, y in points)
    assert "nan" not in curve([(1, 2.0), (2, 2.0)])


def test_it_is_written_from_the_files_of_a_run(tmp_path):
    folder = RunFolder(tmp_path / "model")
    folder.run.mkdir(parents=True)
    folder.write_json(folder.benchmark, {**SCORES, "teacher": None, "retention": None, "generations": []})
    folder.events.write_text(
        "\n".join(json.dumps({"event": "step", "step": step, "loss": 4.0 / step}) for step in (1, 2, 3)) + '\n{"event": "st'
    )
    write_report(folder)
    page = (folder.run / "report.html").read_text(encoding="utf-8")
    assert "<h1>model</h1>" in page
    assert "loss from 4.000 to 1.333 over 3 steps" in page
    assert "Answers" not in page


RANKS = {f"model.layers.{layer}.{kind}": rank + layer for layer in (0, 1) for kind, rank in (("q_proj", 1), ("v_proj", 9))}


def test_ranks_that_moved_are_shown_layer_by_layer_and_summed_up() -> None:
    assert ranks_in_words(RANKS) == "1 to 10 a layer, 5.5 on average; most in v_proj (9.5), least in q_proj (1.5)"
    page = report_page("a run", {**SCORES, "ranks": RANKS}, [])
    assert "1 to 10 a layer" in page
    assert "<td>q_proj</td><td>1 2</td>" in page
    assert "Final ranks" not in report_page("a run", SCORES, [])
