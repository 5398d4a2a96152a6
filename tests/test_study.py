"""A user study: what its page hides, a participant in a real browser, and numbers known in advance."""

import base64
import json
import re
import warnings
from hashlib import sha256
from itertools import pairwise

import numpy as np
import pytest
from test_book import CHROMIUM, FLAGS
from typer.testing import CliRunner

import animatediff_ref as ar
from animatediff_ref.cli import app
from animatediff_ref.measure.study import ASPECTS, kendalls_w

GREYS = {"AnimateDiff": 40, "Text2Video-Zero": 120, "Tune-A-Video": 200}  # of the clips of each method
PROMPTS = ["a penguin", "a fox </script>", "a cat"]


def clip(grey: int, number: int = 0, frames: int = 4) -> np.ndarray:
    """A grey clip; ``number`` makes it differ from those of other prompts."""
    made = np.full((frames, 16, 16, 3), grey, np.uint8)
    made[:, :4, :4] = 10 * number
    return made


def items(prompts=PROMPTS) -> dict:
    return {p: {name: clip(grey, i) for name, grey in GREYS.items()} for i, p in enumerate(prompts)}


@pytest.fixture
def study(tmp_path):
    """The folder of a study, and its key."""
    ar.write_study(tmp_path / "study", items(), repeats=2)
    return tmp_path / "study", json.loads((tmp_path / "study" / "key.json").read_text())


def content(folder) -> dict:
    """What a page is made of."""
    text = (folder / "study.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="study">(.*?)</script>', text, re.DOTALL)[1])


def answers(key: dict, participant: str, likes) -> dict:
    """A file's content: ``likes(prompt, aspect, repeat)`` gives the methods from best to worst."""
    given = {}
    for name, item in key["items"].items():
        letter = {method: letter for letter, method in item["letters"].items()}
        given[name] = {
            aspect: [letter[method] for method in likes(item["prompt"], aspect, item["repeat"])]
            for aspect in key["aspects"]
        }
    return {"study": key["study"], "participant": participant, "order": list(given), "answers": given}


def written(folder, *several: dict):
    folder.mkdir(exist_ok=True)
    for number, one in enumerate(several):
        (folder / f"{number}.json").write_text(json.dumps(one))
    return folder


def in_order(*methods):
    return lambda prompt, aspect, repeat: methods


FORTH, BACK = list(GREYS), list(GREYS)[::-1]


def test_the_page_tells_no_method(study):
    folder, key = study
    page = (folder / "study.html").read_bytes()
    assert sha256(page).hexdigest() == key["sha256"]
    assert not [name for name in GREYS if name.encode() in page]
    assert b"http" not in page and b"repeat" not in json.dumps(content(folder)).encode()
    assert sorted(p.name for p in folder.iterdir()) == ["key.json", "study.html"]


def grey_of(source: str, tmp_path) -> int:
    (tmp_path / "clip.mp4").write_bytes(base64.b64decode(source.partition("base64,")[2]))
    film = ar.read_clip(tmp_path / "clip.mp4")
    assert film.shape == (4, 256, 256, 3)
    return film[:, 200:].mean()


def test_a_letter_shows_the_clip_that_the_key_says(study, tmp_path):
    folder, key = study
    shown = content(folder)
    assert sorted(shown["items"]) == sorted(key["items"]) and len(shown["clips"]) == 9  # those that come twice once
    for name, item in key["items"].items():
        assert shown["items"][name]["prompt"] == item["prompt"]
        for place, method in zip(shown["items"][name]["clips"], item["letters"].values()):
            assert grey_of(shown["clips"][place], tmp_path) == pytest.approx(GREYS[method], abs=4)


def test_letters_differ_from_prompt_to_prompt_and_when_it_comes_again(study):
    _, key = study
    once = [item["letters"] for item in key["items"].values() if not item["repeat"]]
    assert all(len({letters[place] for letters in once}) == 3 for place in "ABC")  # each method at each letter
    again = {item["prompt"]: item["letters"] for item in key["items"].values() if item["repeat"]}
    assert len(again) == 2
    for item in key["items"].values():
        if item["prompt"] in again and not item["repeat"]:
            assert not [a for a in "ABC" if item["letters"][a] == again[item["prompt"]][a]]


def test_the_seed_decides(tmp_path):
    pages = [ar.write_study(tmp_path / str(i), items(), seed=seed).read_bytes() for i, seed in enumerate((0, 0, 1))]
    assert pages[0] == pages[1] != pages[2]
    assert ar.write_study(tmp_path / "0", items()).read_bytes() == pages[0]
    with pytest.raises(ValueError, match="holds another study"):
        ar.write_study(tmp_path / "0", items(), seed=1)
    assert (tmp_path / "0" / "study.html").read_bytes() == pages[0]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"items": {}}, "needs prompts and aspects, got 0 and 3"),
        ({"aspects": {}}, "needs prompts and aspects, got 3 and 0"),
        ({"items": {"a": {"one": clip(0)}}}, "compares 2 to 26 methods, got one"),
        (
            {"items": {"a": {"one": clip(0), "two": clip(0)}, "b": {"one": clip(0), "six": clip(0)}}},
            "'a' and 'b' need the same methods, and differ in six, two",
        ),
        ({"items": {"a": {"one": clip(0), "two": clip(0, frames=5)}}}, r"one shape.*two \(5, 16, 16, 3\)"),
        ({"items": {"a": {"one": clip(0), "two": np.zeros((4, 16, 16, 3))}}}, "a clip is uint8"),
        ({"references": {"a fox": clip(0)}}, "references are needed for every prompt"),
        ({"repeats": 4}, "repeats goes from 0 to the number of prompts, 3, got 4"),
    ],
)
def test_what_makes_no_study_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        ar.write_study(tmp_path, **({"items": items()} | change))
    assert not list(tmp_path.iterdir())


def test_known_rankings_give_known_numbers(study, tmp_path):
    """Three like it one way round and one the other: 2.5, 2 and 1.5. In another aspect all agree; in the third nobody."""
    folder, key = study

    def likes(number):
        def of(prompt, aspect, repeat):
            if aspect == "text":
                return FORTH
            if aspect == "domain":
                return BACK if number == 3 else FORTH
            return FORTH[number % 2 * 2 :: -1 if number % 2 else 1]  # two forth, two back

        return of

    found = written(tmp_path / "in", *(answers(key, f"p{number}", likes(number)) for number in range(4)))
    rows = ar.read_study(folder / "key.json", found)
    assert len(rows) == 4 * 5 * 3 * 3 and {row["prompt"] for row in rows} == set(PROMPTS)
    assert {sum(r["points"] for r in rows if r["participant"] == "p0" and r["aspect"] == a) for a in ASPECTS} == {5 * 6}
    scores = ar.average_user_ranking(rows)
    means = {aspect: [of["mean"] for of in scores[aspect].points.values()] for aspect in scores}
    methods = list(scores["text"].points)
    assert [dict(zip(methods, means["text"]))[name] for name in GREYS] == [3, 2, 1]
    assert [dict(zip(methods, means["domain"]))[name] for name in GREYS] == [2.5, 2, 1.5]
    assert means["smooth"] == [2, 2, 2]
    assert [scores[aspect].agreement for aspect in scores] == pytest.approx([1, 0.25, 0])
    assert [scores[aspect].repeated for aspect in scores] == [1, 1, 1]
    assert scores["text"].points["AnimateDiff"] == {"mean": 3, "low": 3, "high": 3}
    assert scores["domain"].points["AnimateDiff"]["low"] == 1.5 and scores["domain"].participants == 4


def test_kendalls_w():
    assert kendalls_w(np.array([[3, 2, 1], [3, 2, 1]])) == 1
    assert kendalls_w(np.array([[3, 2, 1], [1, 2, 3]])) == 0
    assert kendalls_w(np.array([[4, 3, 2, 1], [4, 3, 1, 2]])) == pytest.approx(0.9)  # sums 8, 6, 3, 3: 18 of 20
    assert np.isnan(kendalls_w(np.array([[3, 2, 1]])))


def test_a_participant_who_turns_round_is_seen(study, tmp_path):
    folder, key = study
    turning = answers(key, "turns", lambda prompt, aspect, repeat: BACK if repeat else FORTH)
    half = answers(key, "half", lambda prompt, aspect, repeat: FORTH[1::-1] + FORTH[2:] if repeat else FORTH)
    found = written(tmp_path / "in", answers(key, "same", in_order(*FORTH)), turning, half)
    rows = ar.read_study(folder / "key.json", found)
    assert ar.self_agreement(rows) == pytest.approx({"same": 1, "turns": 0, "half": 2 / 3})
    scores = ar.average_user_ranking(rows)["smooth"]
    assert scores.repeated == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert scores.points["AnimateDiff"]["mean"] == 3  # what comes again does not count


def test_without_repeats_nothing_is_said_of_them(tmp_path):
    ar.write_study(tmp_path, items(), repeats=0)
    key = json.loads((tmp_path / "key.json").read_text())
    rows = ar.read_study(tmp_path / "key.json", written(tmp_path / "in", answers(key, "one", in_order(*FORTH))))
    assert ar.self_agreement(rows) == {}
    scores = ar.average_user_ranking(rows)["text"]
    assert np.isnan(scores.repeated) and np.isnan(scores.agreement)  # nor of agreement, by one participant


def test_intervals_hold_the_truth_though_one_person_ranks_alike(study):
    """Each participant has one ranking for all of eight prompts, drawn at random: the truth is 2 for every method."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(60):
        rows = []
        for who in range(20):
            points = rng.permutation(3) + 1
            rows += [
                {"participant": who, "prompt": p, "aspect": "text", "method": m, "points": points[m], "repeat": False}
                for p in range(8)
                for m in range(3)
            ]
        of = ar.average_user_ranking(rows)["text"].points[0]
        held += of["low"] <= 2 <= of["high"]
    assert held / 60 > 0.85


BAD = {
    "not JSON": lambda key, good: "{",
    "not a JSON object": lambda key, good: "[1]",
    "lacks a participant or answers": lambda key, good: json.dumps({"study": key["study"]}),
    "of another study (0123; the key is of": lambda key, good: json.dumps(good | {"study": "0123"}),
    "not complete: page-2 has no whole ranking by 'text'": lambda key, good: json.dumps(
        good | {"answers": {name: of for name, of in good["answers"].items() if name != "page-2"}}
    ),
    "not complete: page-1 has no whole ranking by 'smooth'": lambda key, good: changed(good, ["A", None, "B"]),
    "needs each of A, B, C once: page-1 has ['A', 'A', 'B'] by 'smooth'": lambda key, good: changed(
        good, ["A", "A", "B"]
    ),
    "needs each of A, B, C once: page-1 has ['A', 1, {}]": lambda key, good: changed(good, ["A", 1, {}]),
    "is of participant good, as 0.json is": lambda key, good: json.dumps(good | {"participant": "good"}),
}


def changed(good: dict, ranking: list) -> str:
    good = json.loads(json.dumps(good))
    good["answers"]["page-1"]["smooth"] = ranking
    return json.dumps(good)


@pytest.mark.parametrize("message", BAD)
def test_bad_files_are_left_out_and_named(study, tmp_path, message):
    folder, key = study
    found = written(tmp_path / "in", answers(key, "good", in_order(*FORTH)))
    (found / "9.json").write_text(BAD[message](key, answers(key, "bad", in_order(*FORTH))))
    with pytest.warns(ar.SkippedAnswersWarning) as said:
        rows = ar.read_study(folder / "key.json", found)
    assert {row["participant"] for row in rows} == {"good"}
    assert str(said[0].message).startswith("1 of 2 files are left out:\n  ") and "9.json: " in str(said[0].message)
    assert message in str(said[0].message)


def test_no_answers_and_no_key_are_errors(study, tmp_path):
    folder, key = study
    with pytest.raises(ValueError, match="no answers to use among 0 files"):
        ar.read_study(folder / "key.json", folder)  # the key lies there, and is no file of answers
    with pytest.raises(ValueError, match=r"no answers to use among 1 files\n.*none.json"):
        ar.read_study(folder / "key.json", [tmp_path / "none.json"])
    with pytest.raises(ValueError, match=r"study.html is not the key of a study: it is not JSON"):
        ar.read_study(folder / "study.html", folder)
    good = written(tmp_path / "in", answers(key, "good", in_order(*FORTH)))
    with pytest.raises(ValueError, match="is not the key of a study: it lacks aspects, methods, items"):
        ar.read_study(good / "0.json", good)
    rows = ar.read_study(folder / "key.json", str(good / "0.json"))
    with pytest.raises(ValueError, match="needs every prompt ranked by every participant, by 'text'"):
        ar.average_user_ranking(rows[9:] + [row | {"participant": "new"} for row in rows])
    with pytest.raises(ValueError, match="got none"):
        ar.average_user_ranking([])


# ---- a participant in a browser


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("needs Chromium (apt install chromium, or set CHROME)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


def rank(page, key, likes) -> str:
    """Fill in the page that is shown, by the keyboard alone, and go on; what its title says."""
    title = page.locator("h1").inner_text()
    shown = json.loads(page.evaluate("JSON.stringify(state.order[state.at])"))
    letter = {method: letter for letter, method in key["items"][shown]["letters"].items()}
    for box in page.locator("fieldset").all():
        for row, method in zip(box.locator("[role=radiogroup]").all(), likes):
            row.locator(f"input[value={letter[method]}]").press("Space")
        assert box.locator(".fault").inner_text() == ""
    page.get_by_role("button", name="Next").press("Enter")
    return title


def take_part(context, folder, key, likes, tmp_path):
    """One participant from beginning to end; the file that they download."""
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: wrong.append(asked.url) if not asked.url.startswith(("file:", "data:")) else None)
    page.goto((folder / "study.html").as_uri())
    page.get_by_role("button", name="Begin").press("Enter")
    titles = [rank(page, key, likes) for _ in key["items"]]
    assert titles == [f"Page {i + 1} of {len(titles)}" for i in range(len(titles))]
    assert wrong == []  # a file to download comes from the page itself
    with page.expect_download() as told:
        page.get_by_role("link", name="Download").press("Enter")
    told.value.save_as(tmp_path / "in" / told.value.suggested_filename)
    copied = json.loads(page.locator("textarea").input_value())
    assert copied == json.loads((tmp_path / "in" / told.value.suggested_filename).read_text())
    page.close()
    return copied


def test_participants_in_a_browser(browser, study, tmp_path):
    folder, key = study
    people = [take_part(browser.new_context(), folder, key, likes, tmp_path) for likes in (FORTH, FORTH, FORTH, BACK)]
    assert len({one["participant"] for one in people}) == 4
    for one in people:
        prompts = [key["items"][name]["prompt"] for name in one["order"]]
        assert sorted(one["order"]) == sorted(key["items"]) and all(a != b for a, b in pairwise(prompts))
    assert len({tuple(one["order"]) for one in people}) > 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = ar.average_user_ranking(ar.read_study(folder / "key.json", tmp_path / "in"))
    for ranking in scores.values():
        assert [ranking.points[name]["mean"] for name in GREYS] == [2.5, 2, 1.5] and ranking.repeated == 1


def test_the_page_says_what_is_missing_and_goes_on_where_it_was(browser, study):
    folder, _ = study
    page = browser.new_context().new_page()
    page.goto((folder / "study.html").as_uri())
    page.get_by_role("button", name="Begin").click()
    box, after = page.locator("fieldset").first, page.get_by_role("button", name="Next")
    after.click()
    assert box.locator(".fault").inner_text() == "Missing: best, 2nd, worst."
    assert page.evaluate("document.activeElement.closest('fieldset') === document.querySelector('fieldset')")
    for row, letter in zip(box.locator("[role=radiogroup]").all(), "BBA"):
        row.locator(f"input[value={letter}]").check()
    assert box.locator(".fault").inner_text() == "B stands in two places."
    after.click()
    assert page.locator("h1").inner_text() == "Page 1 of 5"
    clips = page.locator("video")
    assert clips.count() == 3 and all(video.evaluate("v => v.loop && v.muted") for video in clips.all())
    page.wait_for_function("[...document.querySelectorAll('video')].every((v) => v.currentTime > 0)")
    page.get_by_role("button", name="Pause the clips").click()
    assert all(video.evaluate("v => v.paused") for video in clips.all())
    page.get_by_role("button", name="Play the clips").wait_for()
    before = page.evaluate("state.participant")
    page.reload()
    assert page.locator("h1").inner_text() == "Page 1 of 5" and page.evaluate("state.participant") == before
    assert page.locator("fieldset").first.locator("input:checked").count() == 3
    page.get_by_role("button", name="Back").click()
    assert page.locator("h1").inner_text() == "Which clip is best?"
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_can_be_read_by_all(browser, tmp_path, theme):
    from axe_playwright_python.sync_playwright import Axe

    ar.write_study(tmp_path, items(PROMPTS[:1]), repeats=0, references={PROMPTS[0]: clip(90, frames=2)})
    page = browser.new_context(color_scheme=theme, reduced_motion="reduce").new_page()
    page.goto((tmp_path / "study.html").as_uri())
    for width, at in ((390, -1), (390, 0), (1280, 0), (390, 1)):
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate("(at) => go(at)", at)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        found = Axe().run(page).response["violations"]
        assert [f"{rule['id']}: {rule['nodes'][0]['html'][:200]}" for rule in found] == []
        assert page.evaluate("[...document.querySelectorAll('video')].every((v) => v.paused)")
        assert page.locator("img").count() == (2 if at == 0 else 0)
    page.close()


# ---- the commands


def invoke(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def folders(tmp_path):
    for name, grey in GREYS.items():
        for i, prompt in enumerate(("a_fox", "a_cat")):
            (tmp_path / name).mkdir(exist_ok=True)
            ar.write_clip(clip(grey, i), tmp_path / name / f"{prompt}.mp4")
    (tmp_path / "AnimateDiff" / "a_cat.txt").write_text("a cat, asleep")
    return [f"--method={name}={tmp_path / name}" for name in GREYS]


def test_make_and_read(tmp_path, folders):
    done = invoke("study", "make", tmp_path / "out", *folders, "--aspect", "liked=Which one do you like?")
    assert done.exit_code == 0, done.output
    assert "2 prompts, 1 of them twice, 3 methods" in done.output
    key = json.loads((tmp_path / "out" / "key.json").read_text())
    assert {item["prompt"] for item in key["items"].values()} == {"a fox", "a cat, asleep"}
    assert key["aspects"] == {"liked": "Which one do you like?"}
    found = written(tmp_path / "in", *(answers(key, f"p{i}", in_order(*FORTH)) for i in range(2)))
    (found / "9.json").write_text("{}")
    done = invoke("study", "read", tmp_path / "out" / "key.json", found)
    assert done.exit_code == 0, done.output
    assert "liked: 2 participants, agreement 1.00, repeated 100%" in done.output
    places = [
        done.output.index(f"{points}.000 ({points}.000 to {points}.000)  {name}")
        for points, name in zip((3, 2, 1), FORTH)
    ]
    assert places == sorted(places)
    assert "warning: 1 of 3 files are left out" in done.output


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda at: (at / "Tune-A-Video" / "a_cat.mp4").unlink(), "differ in a_cat"),
        (lambda at: (at / "Tune-A-Video" / "a_cat.txt").write_text("a dog"), "several prompts: a cat, asleep, a dog"),
        (
            lambda at: (at / "AnimateDiff" / "a_cat.txt").write_text("a fox"),
            "two clips of a method have the prompt 'a fox'",
        ),
        (
            lambda at: ar.write_clip(clip(0, frames=5), at / "Tune-A-Video" / "a_cat.mp4"),
            "clips of one prompt need one shape",
        ),
    ],
)
def test_make_says_what_is_wrong(tmp_path, folders, change, message):
    change(tmp_path)
    done = invoke("study", "make", tmp_path / "out", *folders)
    assert done.exit_code == 2 and done.output.startswith("error: ") and message in done.output
    assert not (tmp_path / "out").exists()


def test_commands_name_bad_words(tmp_path, folders):
    for words, message in (
        (["--method", "AnimateDiff"], "--method is NAME=VALUE, got 'AnimateDiff'"),
        ([folders[0], folders[0]], "a name of --method comes twice"),
        ([*folders, "--references", tmp_path], "has no picture called a_cat"),
    ):
        done = invoke("study", "make", tmp_path / "out", *words)
        assert done.exit_code == 2 and message in done.output
    done = invoke("study", "read", tmp_path / "none.json", tmp_path)
    assert done.exit_code == 2 and done.output.startswith("error: ")
