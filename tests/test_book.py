"""A walk over the built book in a real browser: desktop and phone, light and dark. `make test` builds it first."""

import contextlib
import functools
import http.server
import json
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
    "01_latent_diffusion",
    "02_lora",
    "03_domain_adapter",
    "04_inflation",
    "05_temporal_transformer",
    "06_in_the_unet",
    "07_training",
    "08_animating",
    "09_motion_lora",
    "10_composing",
    "11_baselines",
    "12_metrics",
    "13_adapter_scale",
    "14_motion_module",
    "15_motion_lora_size",
    "16_control",
    "stable_diffusion",
    "own_videos",
    "22_one_page",
    "paper_map",
    "glossary",
    "interface",
    "pipelines",
    "files",
    "troubleshooting",
    "references",
)
CLIPS = {
    "welcome": 6,
    "mini_world": 4,
    "06_in_the_unet": 3,
    "07_training": 6,
    "08_animating": 7,
    "09_motion_lora": 12,
    "10_composing": 3,
    "11_baselines": 10,
    "12_metrics": 10,
    "13_adapter_scale": 5,
    "14_motion_module": 19,
    "15_motion_lora_size": 18,
    "16_control": 12,
    "22_one_page": 6,
}  # at least
FORMULAS = {
    "01_latent_diffusion": 5,
    "02_lora": 2,
    "05_temporal_transformer": 4,
    "06_in_the_unet": 1,
    "07_training": 2,
    "09_motion_lora": 1,
    "10_composing": 1,
    "12_metrics": 2,
    "glossary": 14,
}  # at least
PATIENCE = 120_000  # milliseconds: a busy machine is not a fault of the book

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


@pytest.fixture(scope="module")
def window(browser):
    """One window for all pages: what they share is loaded once."""
    return browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")


@contextlib.contextmanager
def visit(window, address, name):
    """A page, opened; an error that it logs, a request that fails, and one to another host are faults."""
    wrong, page = [], window.new_page()
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("request", lambda asked: wrong.append(asked.url) if not asked.url.startswith((address, "data:")) else None)
    page.on("requestfailed", lambda asked: wrong.append(f"{asked.failure}: {asked.url[:200]}"))
    page.on("response", lambda got: wrong.append(f"{got.status}: {got.url}") if got.status >= 400 else None)
    page.goto(f"{address}/book/{name}.html", wait_until="load")
    yield page
    found = list(wrong)  # closing a page breaks off what it still asks for
    page.close()
    assert found == []


@pytest.fixture(scope="module", params=PAGES)
def page(request, window, address):
    """Each page in turn, loaded once for all tests of it. They leave it as it was, but with clips that rest."""
    with visit(window, address, request.param) as page:
        yield page


def name_of(page):
    return Path(page.url).stem


def test_pictures_are_described(page):
    bare = page.evaluate(
        "[...document.querySelectorAll('.cell_output img')].filter((i) => !i.alt || i.alt.includes('_build') || i.alt.includes('.png')).length"
    )
    assert bare == 0


# One clip after the other, so that a slow machine has one to show at a time. What comes back did not move in a minute.
STAND_STILL = """async () => {
    const clips = [...document.querySelectorAll("video")], still = [];
    clips.forEach((clip) => clip.pause());
    for (const clip of clips) {
        const from = clip.currentTime, end = Date.now() + 60000;
        clip.play();
        while (clip.currentTime === from && Date.now() < end) await new Promise((done) => setTimeout(done, 20));
        if (clip.currentTime === from) still.push(clip.parentNode.ariaLabel);
        clip.pause();
    }
    return still;
}"""
CHANGE = """async (video) => {
    const look = () => { const c = document.createElement("canvas"); c.width = video.videoWidth; c.height = video.videoHeight;
        const p = c.getContext("2d"); p.drawImage(video, 0, 0); return p.getImageData(0, 0, c.width, c.height).data; };
    const at = (t) => new Promise((done) => { video.onseeked = () => done(look()); video.currentTime = t; });
    video.pause(); const [a, first] = [await at(0.05), await at(1.05)], end = Date.now() + 60000;
    const change = (b) => a.reduce((sum, value, i) => sum + Math.abs(value - b[i]), 0) / a.length;
    let found = change(first);  // a busy browser may say that it has sought before it shows what it has found
    while (found === 0 && Date.now() < end) { await new Promise((done) => setTimeout(done, 50)); found = change(look()); }
    return found; }"""


def test_clips_move_and_are_described(page):
    assert page.evaluate(STAND_STILL) == []
    clips = page.locator("figure.clip video")
    assert clips.count() >= CLIPS.get(name_of(page), 0)
    assert page.locator("figure.clip figcaption").count() == clips.count()
    for clip in clips.all():
        assert len(clip.locator("..").get_attribute("aria-label")) > 40
        assert clip.get_attribute("poster").startswith("data:image/webp")
        assert clip.get_attribute("controls") is None
    assert clips.count() == 0 or clips.first.evaluate(CHANGE) > 0.5


def steps_shown(slider):
    return [i for i, step in enumerate(slider.locator(".step").all()) if step.is_visible()]


def slider_answers(slider):
    """To keys and to the mouse; what it says and what it shows go together."""
    handle, names = slider.locator("input"), json.loads(slider.get_attribute("data-names"))
    for act, value in (
        (lambda: handle.press("Home"), 0),
        (lambda: handle.press("ArrowRight"), 1),
        (lambda: handle.press("End"), len(names) - 1),
        (lambda: handle.press("ArrowLeft"), len(names) - 2),
        (lambda: handle.click(position={"x": 2, "y": 8}), 0),
    ):
        act()
        assert steps_shown(slider) == [value]
        assert slider.locator("output").inner_text() == handle.get_attribute("aria-valuetext") == names[value]


def button_answers(button, state):
    """To the mouse, and to keys, which undo what the mouse did."""
    before = state()
    button.click()
    assert state() != before
    button.press("Enter")
    assert state() == before


def test_what_is_on_a_page_answers(page):
    page.evaluate("document.querySelectorAll('video').forEach((clip) => clip.pause())")
    for button in page.locator("figure.clip button:visible").all():
        button_answers(button, lambda button=button: button.locator("video").evaluate("clip => clip.paused"))
    for fold in page.locator("main button.toggle-button").all():
        button_answers(fold, lambda fold=fold: fold.get_attribute("aria-expanded"))
    for fold in page.locator("main summary").all():
        button_answers(fold, lambda fold=fold: fold.evaluate("fold => fold.parentNode.open"))
    for row in page.locator(".gallery fieldset").all():
        first, second = (row.locator("input").nth(i) for i in (0, 1))
        first.press("ArrowRight")
        assert second.is_checked()
        row.locator("label").first.click()
        assert first.is_checked()
    for slider in page.locator(".clip-slider:visible").all():
        slider_answers(slider)


BOXES = "html, .bd-article :is(.cell_output, .cell_output *, pre, figure, table, div.math mjx-container)"
TOO_WIDE = """(boxes) => [...document.querySelectorAll(boxes)]
    .filter((box) => box.checkVisibility() && box.scrollWidth > box.clientWidth + 1)
    .map((box) => `${box.scrollWidth} px in ${box.clientWidth}: ${box.textContent.trim().slice(0, 80)}`)"""
# The theme lets keys into boxes that scroll some time after they begin to: it is waited for, however long that takes.
KEYS_REACH = "[...document.querySelectorAll('main :is(pre, .plots)')].every((box) => box.scrollWidth <= box.clientWidth || box.tabIndex === 0)"
UNFOLD = "document.querySelectorAll('main :is(.toggle-button-hidden, details:not([open]) > summary)').forEach((b) => b.click())"
# Of the words in one box of code that look alike, axe-core need weigh the contrast of only the first.
ALIKE = """() => {
    for (const box of document.querySelectorAll("main pre")) {
        const seen = new Set();
        for (const word of box.querySelectorAll("span:not(:has(*))")) {
            const own = getComputedStyle(word), ground = getComputedStyle(word.parentNode).backgroundColor;
            const look = [own.color, own.backgroundColor, own.opacity, own.fontSize, own.fontWeight, ground].join();
            word.toggleAttribute("data-alike", seen.has(look));
            if (word.textContent.trim()) seen.add(look);
        }
    }
}"""


def grave_faults(page):
    """What axe-core calls serious or critical."""
    page.evaluate(ALIKE)
    options = {"resultTypes": ["violations"], "preload": False}
    found = page.evaluate("(options) => axe.run({exclude: ['[data-alike]']}, options)", options)
    return [
        f"{rule['id']}: {node['html'][:200]} {node['failureSummary']}"
        for rule in found["violations"]
        for node in rule["nodes"]
        if rule["impact"] in ("serious", "critical")
    ]


def scroll_up(page):
    """A narrow page has a button for the way back to its top, which only scrolling up brings."""
    page.evaluate("window.onscroll = () => { window.scrolled = scrollY }")
    for y in (300, 200):
        page.evaluate("(y) => scrollTo({top: y, behavior: 'instant'})", y)
        page.wait_for_function("(y) => Math.abs(window.scrolled - y) < 2", arg=y)
    page.locator("#pst-back-to-top").wait_for()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_fit_and_say_nothing_wrong(page, theme):
    """With all that is folded unfolded. On a phone, code and printed tables scroll in their boxes."""
    from axe_playwright_python.sync_playwright import Axe

    page.emulate_media(color_scheme=theme)
    page.evaluate(UNFOLD)
    page.evaluate(f"window.axe || (() => {{ {Axe().axe_script} }})()")
    for width, boxes in ((390, "html"), (1280, BOXES)):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function(KEYS_REACH)
        if width == 390:
            scroll_up(page)
        assert page.evaluate(TOO_WIDE, boxes) == []
        assert grave_faults(page) == []
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    assert "Traceback" not in page.inner_text("main")
    assert page.locator("mjx-container").count() >= FORMULAS.get(name_of(page), 0)
    assert name_of(page) != "13_adapter_scale" or page.locator(".plots").count() == 1  # which a phone shows larger


@pytest.mark.parametrize("page", ["mini_world"], indirect=True)
def test_gallery_buttons_choose(page):
    gallery = page.locator("div.gallery")
    shown = lambda: gallery.locator("figure:visible").count()  # noqa: E731
    every = shown()
    gallery.locator("fieldset").get_by_text("ink", exact=True).click()
    assert 0 < shown() < every
    gallery.locator("fieldset").last.locator("label").nth(1).click()
    assert shown() == 1
    assert "ink" in gallery.locator("figure:visible img").get_attribute("alt")


@pytest.mark.parametrize("page", ["05_temporal_transformer"], indirect=True)
def test_solutions_are_folded_until_asked_for(page):
    assert page.locator("div.solution").count() == 2
    assert page.locator("div.solution.dropdown, details.toggle-details, .toggle").count() >= 2


def test_clips_wait_for_readers_who_ask_for_less_motion(browser, address):
    with visit(browser.new_context(reduced_motion="reduce"), address, "welcome") as page:
        assert page.evaluate("[...document.querySelectorAll('figure.clip video')].every((video) => video.paused)")


def test_the_header_answers(browser, address):
    with visit(browser.new_context(viewport={"width": 1280, "height": 900}), address, "welcome") as page:
        for menu in page.locator(".bd-header-article .dropdown-toggle").all():
            button_answers(menu, lambda menu=menu: menu.get_attribute("aria-expanded"))
        theme, modes = page.locator(".theme-switch-button:visible"), set()
        for act in (theme.click, lambda: theme.press("Enter"), theme.click):
            act()
            modes.add(page.evaluate("document.documentElement.dataset.mode"))
        assert modes == {"auto", "light", "dark"}
        page.set_viewport_size({"width": 390, "height": 900})
        for button, opened in (
            (".primary-toggle", "#pst-primary-sidebar-modal"),
            (".secondary-toggle", "#pst-secondary-sidebar-modal"),
            (".search-button", "#pst-search-dialog"),
        ):
            page.locator(f".bd-header-article {button}").press("Enter")
            page.locator(opened).wait_for()
            page.keyboard.press("Escape")
            page.locator(opened).wait_for(state="hidden")


def test_a_slider_answers(browser, monkeypatch):
    shown = []
    monkeypatch.setattr("animatediff_ref.notebook.slider.display_html", shown.append)
    clip = np.full((4, 16, 16, 3), 40, np.uint8)
    ar.show_slider({0.0: clip, 0.5: clip, 1.0: clip}, "alpha", start=0.5)
    page = browser.new_page()
    page.set_content(shown[0])
    slider = page.locator(".clip-slider")
    assert steps_shown(slider) == [1]
    slider_answers(slider)
    page.close()
