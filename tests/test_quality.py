"""What the mini world is held to: ``data/bars.json`` has a bar, the value when it was last set down, and whether that meets it.

A better model passes. A worse one fails, and so does a bar whose status is not what its value says. No bar is lowered to pass.
"""

import json
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[1] / "data"
BARS = json.loads((DATA / "bars.json").read_text())


def off(value: float, bar: dict) -> float:
    """How far a value is from meeting its bar: 0 or less if it does."""
    return max(bar.get("at_least", value) - value, value - bar.get("at_most", value))


def measured(bar: dict) -> float:
    value = json.loads((DATA / bar["file"]).read_text())
    for key in bar["path"]:
        value = value[key]
    return value


@pytest.mark.parametrize("bar", BARS, ids=lambda bar: bar["what"])
def test_no_worse_than_set_down(bar):
    assert bar["status"] == ("missed" if off(bar["value"], bar) > 0 else "met")
    assert off(measured(bar), bar) <= max(0, off(bar["value"], bar)), "worse than before"


def test_a_worse_value_would_be_noticed():
    bar = {"at_least": 0.7, "at_most": 1.5}
    assert off(1.6, bar) == pytest.approx(0.1) and off(0.5, bar) == pytest.approx(0.2) and off(1.0, bar) <= 0
    assert off(2.0, bar) > off(1.9, bar) > 0


def test_styles_are_recognised_more_often_than_in_the_bases_own_pictures():
    for name, row in json.loads((DATA / "measured.json").read_text())["personalised"].items():
        assert row["style recognised_percent"]["mean"] > row["the base's recognised as it_percent"]["mean"], name


def test_the_judge_knows_real_renderings_and_controls_are_in_order():
    table = json.loads((DATA / "measured.json").read_text())
    assert all(row["real"]["top5_percent"]["mean"] >= 90 for row in table["text to image"].values())
    motion = table["motion"]["mean"]
    assert motion["frozen"]["mean"] == 0 < motion["generated"]["mean"] < motion["per-frame images"]["mean"]
