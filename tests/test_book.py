"""The built book in a real browser: desktop and phone, light and dark. `make test` builds it first."""

import functools
import http.server
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

import animatediff_ref as ar

HTML = Path(__file__).resolve().parents[1] / "_build" / "html"
CHROMIUM = os.environ.get("CHROME") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
]
PAGES = (
    "welcome",
    "start",
    "mini_world",
    "03_domain_adapter",
    "04_inflation",
    "05_temporal_transformer",
    "06_in_the_unet",
    "07_training",
    "08_animating",
    "pipelines",
    "files",
    "troubleshooting",
    "references",
)
CLIPS = {"welcome": 6, "mini_world": 4, "06_in_the_unet": 3, "07_training": 6, "08_animating": 7}  # at least
FORMULAS = {"05_temporal_transformer": 4, "06_in_the_unet": 1, "07_training": 2}  # at least

pytestmark = pytest.mark.skipif(
    not (CHROMIUM or os.environ.get("CI")), reason="needs Chromium (apt install chromium, or set CHROME)"
)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture(scope="module")
def address():
    assert (HTML / "index.html").exists(), "the book is not built: make book"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=HTML))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


@pytest.fixture
def visit(browser, address):
    """Open a page; what it logs as an error or asks of other hosts fails the test."""
    wrong, contexts = [], []

    def go(name, width=1280, theme="light", **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on(
            "request", lambda asked: wrong.append(asked.url) if not asked.url.startswith((address, "data:")) else None
        )
        page.goto(f"{address}/book/{name}.html", wait_until="load")
        page.wait_for_timeout(400)
        return page

    yield go
    for context in contexts:
        context.close()
    assert not wrong


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_pages_fit_and_say_nothing_wrong(visit, name, width, theme):
    page = visit(name, width, theme)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    assert "Traceback" not in page.inner_text("main")
    assert page.locator("mjx-container").count() >= FORMULAS.get(name, 0)


@pytest.mark.parametrize("name", CLIPS)
def test_clips_move_and_are_described(visit, name):
    page = visit(name)
    clips = page.locator("figure.clip video")
    assert clips.count() >= CLIPS[name]
    for i in range(clips.count()):
        clip = clips.nth(i)
        clip.scroll_into_view_if_needed()
        assert len(clip.locator("..").get_attribute("aria-label")) > 40
        assert clip.get_attribute("poster").startswith("data:image/webp")
    moved = clips.first.evaluate(
        """async (video) => {
            const look = () => { const c = document.createElement("canvas"); c.width = video.videoWidth; c.height = video.videoHeight;
                const p = c.getContext("2d"); p.drawImage(video, 0, 0); return p.getImageData(0, 0, c.width, c.height).data; };
            const at = (t) => new Promise((done) => { video.onseeked = () => done(look()); video.currentTime = t; });
            video.pause(); const [a, b] = [await at(0.05), await at(1.05)];
            return a.reduce((sum, value, i) => sum + Math.abs(value - b[i]), 0) / a.length; }"""
    )
    assert moved > 0.5
    assert page.locator("figure.clip figcaption").count() == clips.count()


def test_gallery_buttons_choose(visit):
    page = visit("mini_world")
    gallery = page.locator("div.gallery")
    shown = lambda: gallery.locator("figure:visible").count()  # noqa: E731
    every = shown()
    gallery.get_by_text("ink", exact=True).click()
    assert 0 < shown() < every
    gallery.locator("fieldset").last.locator("label").nth(1).click()
    assert shown() == 1
    assert "ink" in gallery.locator("figure:visible img").get_attribute("alt")


def test_a_clip_pauses_and_plays_by_mouse_and_keyboard(visit):
    page = visit("welcome")
    clip = page.locator("figure.clip video").first
    paused = lambda: clip.evaluate("video => video.paused")  # noqa: E731
    before = paused()
    clip.click()
    assert paused() != before
    page.keyboard.press("Enter")
    page.wait_for_timeout(100)
    assert paused() == before
    assert clip.get_attribute("controls") is None


def test_a_slider_answers_to_keys(browser, monkeypatch):
    """Of clips made here: no page has one yet."""
    shown = []
    monkeypatch.setattr("animatediff_ref.notebook.slider.display_html", shown.append)
    clip = np.full((4, 16, 16, 3), 40, np.uint8)
    ar.show_slider({0.0: clip, 0.5: clip, 1.0: clip}, "alpha", start=0.5)
    page = browser.new_page()
    page.set_content(shown[0])
    for key, value, said in (("ArrowRight", 2, "1"), ("ArrowLeft", 1, "0.5"), ("Home", 0, "0")):
        page.locator("input[type=range]").press(key)
        assert page.evaluate("[...document.querySelectorAll('.step')].map((s) => s.offsetParent !== null)") == [
            i == value for i in range(3)
        ]
        assert page.locator("output").inner_text() == said
    page.close()


def test_clips_wait_for_readers_who_ask_for_less_motion(visit):
    page = visit("welcome", reduced_motion="reduce")
    assert page.evaluate("[...document.querySelectorAll('figure.clip video')].every((video) => video.paused)")


@pytest.mark.parametrize("name", PAGES)
def test_pictures_are_described(visit, name):
    bare = visit(name).evaluate(
        "[...document.querySelectorAll('.cell_output img')].filter((i) => !i.alt || i.alt.includes('_build') || i.alt.includes('.png')).length"
    )
    assert bare == 0


def test_solutions_are_folded_until_asked_for(visit):
    page = visit("05_temporal_transformer")
    solutions = page.locator("div.solution")
    assert solutions.count() == 2
    assert page.locator("div.solution.dropdown, details.toggle-details, .toggle").count() >= 2
