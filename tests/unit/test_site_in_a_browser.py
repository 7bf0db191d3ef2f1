"""Every page of the site in a real Chromium: no error, no other server asked, no wider than a phone, usable by day and at night."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from documents import ROOT
from test_report_in_a_browser import CHROMIUM
from test_report_in_a_browser import browser as browser

PHONE, DESK = 390, 1280
EXAMINED = (".", "settings", "own-data", "extending", "scale", "how")  # the languages, tables and formulas of all pages
COLOURS = "[getComputedStyle(document.querySelector('.md-typeset')).color, getComputedStyle(document.body).backgroundColor]"
PICTURES = "Math.min(...[...document.querySelectorAll('article img')].map(each => each.getBoundingClientRect().width))"  # of the narrowest
READABLE = 480  # pixels of 80 columns
SERIOUS = ("serious", "critical")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here (Debian: apt-get install chromium)"),
]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    """The address of the built site, and its pages."""
    pytest.importorskip("material", reason='there is no mkdocs-material here: pip install ".[docs]"')
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, capture_output=True, timeout=300, check=True)
    pages = sorted(path.parent.relative_to(folder).as_posix() for path in folder.rglob("index.html"))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", pages
        server.shutdown()


def lightness(colour: str) -> float:
    """Of rgb(...) or rgba(...), 0 to 255."""
    return sum(float(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]) / 3


def faults(page: Any, axe: Any, address: str, name: str, *, dark: bool) -> list[str]:
    """What is wrong with one page of the site; the browser's page stays open for the next."""
    said: list[str] = []
    heard = [
        ("console", lambda message: message.type in ("error", "warning") and said.append(f"console: {message.text}")),
        ("pageerror", lambda error: said.append(f"error: {error}")),
        ("request", lambda request: request.url.startswith((address, "data:", "blob:")) or said.append(f"asks {request.url}")),
    ]
    for event, hear in heard:
        page.on(event, hear)
    page.goto(f"{address}/{name}/")
    width = page.evaluate("document.documentElement.scrollWidth")
    if width > page.viewport_size["width"]:
        said.append(f"{width} pixels wide")
    if page.evaluate(PICTURES) < READABLE:
        said.append("a picture that is too small to read")
    letters, paper = (lightness(colour) for colour in page.evaluate(COLOURS))
    if not (paper < 70 < 170 < letters if dark else letters < 90 < 240 < paper):
        said.append(f"letters {letters:.0f} on {paper:.0f}")
    if name in EXAMINED:  # axe takes a second a page
        only = None if dark else {"runOnly": ["color-contrast"]}  # nothing else depends on the colours
        found = [rule for rule in axe.run(page, options=only).response["violations"] if rule["impact"] in SERIOUS]
        said += [f"axe: {rule['id']} {node['html'][:90]}" for rule in found for node in rule["nodes"]]
    for event, hear in heard:
        page.remove_listener(event, hear)
    return said


@pytest.mark.parametrize(("scheme", "width"), [("dark", PHONE), ("light", DESK)])
def test_every_page_can_be_read_by_everyone_everywhere(scheme: str, width: int, browser: Any, site: tuple[str, list[str]]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    address, pages = site
    assert len(pages) > 20
    page = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800}).new_page()
    looked_at = pages if scheme == "dark" else EXAMINED  # by day only the colours are others
    found = {name: said for name in looked_at if (said := faults(page, axe, address, name, dark=scheme == "dark"))}
    assert found == {}


def test_the_search_finds_a_setting(browser: Any, site: tuple[str, list[str]]) -> None:
    page = browser.new_page(viewport={"width": DESK, "height": 800})
    page.goto(f"{site[0]}/")
    page.locator("input.md-search__input").click()
    page.keyboard.type("learning_rate")
    page.wait_for_selector(".md-search-result__link", timeout=20_000)
    assert page.locator(".md-search-result__link").count() > 0
