"""What pages show: the markup of a gallery. How it looks and works in a browser is in test_book.py."""

import numpy as np
import pytest

import animatediff_ref as ar


@pytest.fixture
def shown(monkeypatch):
    """The markup of what was displayed last."""
    kept = []
    monkeypatch.setattr("animatediff_ref.notebook.gallery.display_html", kept.append)
    return lambda: kept[-1]


def pictures(*keys):
    return {key: np.full((8, 8, 3), 40 * i, np.uint8) for i, key in enumerate(keys)}


def test_a_gallery_has_a_button_for_every_value_and_a_rule_for_every_button(shown):
    ar.show_gallery(pictures(("ink", "a cat"), ("ink", "a dog"), ("flat", "a cat")), by=("style", "prompt"))
    markup = shown()
    assert markup.count("<figure") == 3
    assert markup.count('type="radio"') == 2 * (1 + 2)  # all, and two values, of two properties
    assert markup.count("display:none") == 4
    assert '-1-2:checked) figure:not([data-1="2"])' in markup  # "a dog" hides what is no dog
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
