"""What pages show: the markup of a gallery. How it looks and works in a browser is in test_book.py."""

import numpy as np
import pytest

import animatediff_ref as ar


@pytest.fixture
def shown(monkeypatch):
    """The markup of what was displayed last."""
    kept = []
    for module in ("gallery", "show", "slider"):
        monkeypatch.setattr(f"animatediff_ref.notebook.{module}.display_html", kept.append)
    return lambda: kept[-1]


def pictures(*keys):
    return {key: np.full((8, 8, 3), 40 * i, np.uint8) for i, key in enumerate(keys)}


def test_a_gallery_has_a_button_for_every_value_and_a_rule_for_every_button(shown):
    ar.show_gallery(pictures(("ink", "a cat"), ("ink", "a dog"), ("flat", "a cat")), by=("style", "prompt"))
    markup = shown()
    assert markup.count("<figure") == 3
    assert markup.count('type="radio"') == 2 * (1 + 2)  # all, and two values, of two properties
    assert markup.count("display:none") == 4
    assert '-1-2:checked) [data-1]:not([data-1="2"])' in markup  # "a dog" hides what is no dog
    assert markup.count('class="line"') == 2  # one for each style
    assert markup.index("<span>ink</span>") < markup.index('alt="ink, a dog"') < markup.index("<span>flat</span>")
    assert markup.count('data-0="1" data-1="1"') == markup.count('data-0="2" data-1="1"') == 1
    assert 'alt="ink, a dog"' in markup


def test_two_galleries_of_a_page_do_not_mix(shown):
    names = []
    for _ in range(2):
        ar.show_gallery(pictures(("ink",)), by=("style",))
        names.append(shown().split('id="')[1].split('"')[0])
    assert names[0] != names[1]


def test_words_of_a_gallery_are_not_markup(shown):
    ar.show_gallery(pictures(("<sepia>",)), by=("style",))
    assert "<sepia>" not in shown()
    assert "&lt;sepia&gt;" in shown()


def test_a_gallery_says_what_is_wrong_with_a_key(shown):
    with pytest.raises(ValueError, match="2 values \\(style, prompt\\), got \\('ink',\\)"):
        ar.show_gallery(pictures(("ink",)), by=("style", "prompt"))
    with pytest.raises(ValueError, match="uint8"):
        ar.show_gallery({("ink",): np.zeros((8, 8, 3))}, by=("style",))


def clip(grey=40):
    return np.full((4, 16, 16, 3), grey, np.uint8)


def test_a_clip_is_a_button_with_words_and_no_bar(shown):
    ar.show(clip(), "A <cat>", alt='a "cat" walks', width=32)
    assert 'aria-label="a &quot;cat&quot; walks. Press to pause or play."' in shown()
    assert "<figcaption>A &lt;cat&gt;</figcaption>" in shown()
    assert "controls" not in shown() and 'width="32"' in shown()


def test_a_slider_shows_one_step_and_names_all(shown):
    ar.show_slider({0.0: clip(), 0.5: clip(), 1.0: clip()}, "alpha", start=0.5, alt="a cat at", width=32)
    assert shown().count('class="step" hidden') == 2 and shown().count("<video") == 3
    assert 'max="2" step="1" value="1" aria-valuetext="0.5"' in shown() and "<output>0.5</output>" in shown()
    assert 'data-names="[&quot;0&quot;, &quot;0.5&quot;, &quot;1&quot;]"' in shown()
    assert 'aria-label="a cat at alpha 0.5. Press' in shown()


def test_a_slider_moves_whole_grids(shown):
    ar.show_slider({"off": {"cat": clip(), "dog": clip()}, "on": {"cat": clip(), "dog": clip()}}, "adapter", width=32)
    assert shown().count("clip-grid") == 2 and shown().count("<figcaption>dog</figcaption>") == 2
    assert shown().count('class="step" hidden') == 1


def test_a_slider_says_what_it_needs():
    with pytest.raises(ValueError, match=r"got start=None, steps \[\]"):
        ar.show_slider({}, "alpha")
    with pytest.raises(ValueError, match=r"start=2, steps \[0.0\]"):
        ar.show_slider({0.0: clip()}, "alpha", start=2)


def test_plots_have_no_ground_and_readable_ink():
    import matplotlib

    with matplotlib.rc_context():
        ar.plot_style()
        assert matplotlib.rcParams["figure.facecolor"] == matplotlib.rcParams["axes.facecolor"] == "none"
        ink = np.array(matplotlib.colors.to_rgb(matplotlib.rcParams["text.color"]))
    light = np.where(ink <= 0.04045, ink / 12.92, ((ink + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
    dark = 0.0091  # of the theme's dark ground, #14181e
    assert 1.05 / (light + 0.05) > 4 and (light + 0.05) / (dark + 0.05) > 4
