"""The report page in a real Chromium: no error, no request, nothing wider than a phone, dark, printed, and usable by everyone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lengths import few
from written_run import RANKS, written_run

from finetune.benchmark.report import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONES = (320, 360)
MEDIA: list[dict[str, Any]] = [{"color_scheme": "light"}, {"color_scheme": "dark"}, {"media": "print"}]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield made
        made.close()


@pytest.fixture(scope="module", params=["fine-tuning", "distillation"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = written_run(
        tmp_path_factory.mktemp("runs") / "a_model_with_quite_a_long_name_of_its_own",
        teacher=request.param == "distillation",
        ranks=RANKS,
    )
    write_report(folder)
    return folder.run / "report.html"


class Opened:
    """A page with everything it complained about and asked for."""

    def __init__(self, browser: Any, report: Path, width: int = 1000) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 800})
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(report.as_uri())

    def colours(self) -> tuple[float, float]:
        """How light the letters and the paper are, 0 to 255."""
        letters, paper = self.page.evaluate("(style => [style.color, style.backgroundColor])(getComputedStyle(document.body))")
        return tuple(sum(map(int, colour.strip("rgb()").split(","))) / 3 for colour in (letters, paper))  # type: ignore[return-value]


def test_it_opens_without_a_word_on_the_console_and_asks_nobody(browser: Any, report: Path) -> None:
    opened = Opened(browser, report)
    assert opened.said == []
    assert opened.asked == [report.as_uri()]
    assert opened.page.title() == "a_model_with_quite_a_long_name_of_its_own - report"
    opened.page.locator("summary").click()
    assert opened.page.locator("details article").last.is_visible()
    assert (opened.said, len(opened.asked)) == ([], 1)


@pytest.mark.parametrize("width", PHONES)
def test_nothing_is_wider_than_a_phone_or_too_small_to_read(browser: Any, report: Path, width: int, tmp_path: Path) -> None:
    page = Opened(browser, report, width).page
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    outside = """width => [...document.querySelectorAll('main *:not(.hidden, .hidden *)')]
        .filter(part => part.getBoundingClientRect().right > width + 0.5).map(part => part.outerHTML.slice(0, 120))"""
    assert page.evaluate(outside, width) == []
    smallest = "() => Math.min(...[...document.querySelectorAll('main *')].map(part => parseFloat(getComputedStyle(part).fontSize)))"
    assert page.evaluate(smallest) >= 12
    picture = page.screenshot(full_page=True, path=tmp_path / "phone.png")
    assert int.from_bytes(picture[16:20], "big") == width  # the width in the header of a PNG


def test_it_is_light_by_day_dark_at_night_and_black_on_white_on_paper(browser: Any, report: Path) -> None:
    opened = Opened(browser, report)
    found = []
    for media in MEDIA:
        opened.page.emulate_media(**media)
        found.append(opened.colours())
    (ink, paper), (night_ink, night_paper), printed = found
    assert ink < 60 < 240 < paper
    assert night_paper < 40 < 200 < night_ink
    assert printed == (0, 255)


def test_at_night_it_is_printed_black_on_white_too(browser: Any, report: Path) -> None:
    opened = Opened(browser, report)
    opened.page.emulate_media(color_scheme="dark", media="print")
    assert opened.colours() == (0, 255)
    paper = opened.page.pdf(format="A4")
    assert paper.startswith(b"%PDF")
    assert len(paper) > 10_000


@pytest.mark.parametrize("media", MEDIA, ids=["light", "dark", "print"])
@pytest.mark.parametrize("width", few([360, 1000], 360))
def test_axe_finds_nothing_that_keeps_anyone_out(browser: Any, report: Path, media: dict[str, Any], width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = Opened(browser, report, width).page
    page.emulate_media(**media)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    found = axe.run(page).response
    assert len(found["passes"]) > 10
    assert [(rule["id"], [node["html"][:100] for node in rule["nodes"][:3]]) for rule in found["violations"]] == []
