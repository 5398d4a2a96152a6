"""Measures of clips, against clips of which the answer is known; and the footage, rebuilt."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import animatediff_ref as ar
from animatediff_ref.measure import statistics
from recipes.art import footage

DATA = Path(__file__).resolve().parents[1] / "data"


def textured(shifts: list[tuple[float, float]], side: int = 64) -> np.ndarray:
    """A picture of soft spots that lies at each shift, (right, down) in pixels, in turn: uint8 (f, side, side, 3)."""
    rng, clip = np.random.default_rng(0), []
    spots = [(rng.uniform(-20, side + 20, 2), rng.uniform(-1, 1)) for _ in range(80)]
    y, x = np.mgrid[:side, :side]
    for right, down in shifts:
        grey = sum(h * np.exp(-((x - a - right) ** 2 + (y - b - down) ** 2) / 32) for (a, b), h in spots)
        clip.append(np.repeat((128 + 100 * grey).clip(0, 255).astype(np.uint8)[..., None], 3, -1))
    return np.stack(clip)


@pytest.mark.parametrize("step", [(1, 0), (0, -2), (-1.5, 0.5)])
def test_flow_finds_direction_and_size(step):
    clip = textured([(i * step[0], i * step[1]) for i in range(4)])
    flow = ar.optical_flow(clip)
    assert flow.shape == (3, 64, 64, 2)
    assert np.abs(np.median(flow, (0, 1, 2)) - step).max() < 0.15
    assert ar.flow_amount(clip) == pytest.approx(np.hypot(*step) / 64, rel=0.1)


def test_flow_amount_is_of_what_moves_whatever_its_contrast_and_size():
    part, mask = np.full((4, 64, 64, 3), 90, np.uint8), np.zeros((4, 64, 64), bool)
    for i in range(4):
        part[i, 16:48, 12 + 2 * i : 44 + 2 * i] = textured([(0, 0)])[0, 16:48, 16:48]
        mask[i, 16:48, 12 + 2 * i : 44 + 2 * i] = True
    assert ar.flow_amount(part) == pytest.approx(2 / 64, rel=0.2)
    assert ar.flow_amount(part, mask) == pytest.approx(2 / 64, rel=0.2)
    faint = (64 + part // 3).astype(np.uint8)
    assert ar.flow_amount(faint) == pytest.approx(ar.flow_amount(part), rel=0.2)
    assert ar.motion_amount(faint) < 0.4 * ar.motion_amount(part)
    large = part.repeat(2, 1).repeat(2, 2)
    assert ar.flow_amount(large) == pytest.approx(ar.flow_amount(part), rel=0.05)


def test_nothing_moves():
    frozen = textured([(0, 0)] * 3)
    assert ar.flow_amount(frozen) == 0
    assert ar.flow_amount(textured([(0, 0), (2, 0)]), np.zeros((2, 64, 64), bool)) == 0


def test_flow_of_what_is_no_clip():
    clip = textured([(0, 0)] * 2)
    with pytest.raises(ValueError, match="at least two frames, got 1"):
        ar.optical_flow(clip[:1])
    with pytest.raises(ValueError, match="got float64"):
        ar.flow_amount(clip / 255)
    with pytest.raises(ValueError, match=r"the shape \(2, 64, 64\) of its clip's frames, got \(2, 32, 32\)"):
        ar.flow_amount(clip, np.ones((2, 32, 32), bool))


def under_the_mark(clip: np.ndarray) -> np.ndarray:
    mark = np.asarray(Image.open(DATA / "watermark.png").resize((64, 64), Image.BOX), float)
    alpha = mark[..., 3:] / 255
    return np.round(clip * (1 - alpha) + mark[..., :3] * alpha).astype(np.uint8)


def test_watermark_score_tells_marked_from_clean():
    clip = textured([(i, 0) for i in range(4)])
    assert abs(ar.watermark_score(clip)) < 0.1 < 0.3 < ar.watermark_score(under_the_mark(clip))
    assert ar.watermark_score(np.full((2, 64, 64, 3), 90, np.uint8)) == 0
    small = ar.read_clip(DATA / "clips/1f427.mp4", 8, size=64)
    large = ar.read_clip(DATA / "clips/1f427.mp4", 8)
    assert ar.watermark_score(small) == pytest.approx(ar.watermark_score(large), abs=0.1)
    assert ar.watermark_score(small) > 0.3


def test_watermark_of_ones_own():
    clip, mark = textured([(0, 0)] * 2), np.zeros((32, 32, 4), np.uint8)
    mark[4:8, 2:30] = 255
    marked = clip.copy()
    marked[:, 8:16, 4:60] = marked[:, 8:16, 4:60] // 2 + 127
    assert ar.watermark_score(clip, mark) < 0.1 < 0.3 < ar.watermark_score(marked, mark)


def test_watermarks_that_are_none():
    clip = textured([(0, 0)])
    with pytest.raises(ValueError, match=r"RGBA, got uint8 of shape \(8, 8, 3\)"):
        ar.watermark_score(clip, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="shows nothing at 64x64 pixels"):
        ar.watermark_score(clip, np.zeros((8, 8, 4), np.uint8))


def test_the_mark_is_what_the_recipe_draws():
    assert np.array_equal(footage.watermark(), Image.open(footage.MARK))


def test_ageing_takes_colour_and_contrast_and_leaves_a_mark():
    clip = textured([(0, 0)] * 2, 128)
    clip[..., 0] //= 2
    washed = footage.washed(clip)
    assert washed.std() < 0.9 * clip.std()
    assert washed.std(-1).mean() < 0.6 * clip.std(-1).mean()
    assert ar.watermark_score(washed) < 0.1 < 0.3 < ar.watermark_score(footage.marked(washed))


def test_each_clip_has_a_scene_of_its_own():
    scenes = [footage.scene(code) for code in ("1f427", "1f680", "2601")]
    assert scenes[0] == footage.scene("1f427")
    assert len(set(scenes)) == 3


def test_the_quality_of_mp4(tmp_path):
    for name, options in {"fine": {}, "coarse": {"crf": 45}}.items():
        ar.write_clip(textured([(i, 0) for i in range(4)]), tmp_path / f"{name}.mp4", **options)
    assert (tmp_path / "coarse.mp4").stat().st_size < 0.9 * (tmp_path / "fine.mp4").stat().st_size
    with pytest.raises(ValueError, match=r"from 0 \(no loss\) to 51 \(worst\), got 52"):
        ar.write_clip(textured([(0, 0)]), tmp_path / "none.mp4", crf=52)


def test_a_shipped_clip_is_rebuilt_byte_by_byte(tmp_path):
    if not (DATA.parent / ".cache/artwork/lobehub-fluent-emoji-anim-4-1.0.0").is_dir():
        pytest.skip("needs the artwork's downloads: python -m recipes.art.artwork")
    if f"av=={av.__version__}\n" not in (DATA.parent / "constraints.txt").read_text():
        pytest.skip("another encoder than the one that wrote the clip")
    clip, alpha = footage.clean("1f427")
    assert clip.shape == (32, 128, 128, 3) and 0 == alpha.min() < alpha.max() == 1
    ar.write_clip(footage.aged("1f427"), rebuilt := tmp_path / "clip.mp4", footage.FPS, crf=footage.CRF)
    assert rebuilt.read_bytes() == (DATA / "clips/1f427.mp4").read_bytes()
    assert ar.watermark_score(clip) < 0.1 < 0.3 < ar.watermark_score(ar.read_clip(rebuilt))


def test_flicker_on_clips_of_which_it_is_known():
    rng, steps = np.random.default_rng(0), np.arange(16)[:, None, None, None]
    noise = rng.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    fade = np.broadcast_to(steps * 10, (16, 8, 8, 3)).astype(np.uint8)
    alternating = np.broadcast_to(steps % 2 * 200, (16, 8, 8, 3)).astype(np.uint8)
    assert ar.flicker(fade) == 0
    assert ar.flicker(alternating) == pytest.approx(2)
    assert ar.flicker(noise) == pytest.approx(1.75, abs=0.02)  # of a uniform distribution
    normal = (128 + 20 * rng.standard_normal((16, 64, 64, 3))).clip(0, 255).astype(np.uint8)
    assert ar.flicker(normal) == pytest.approx(3**0.5, abs=0.02)
    assert ar.flicker(np.repeat(noise[:1], 16, 0)) == 0
    with pytest.raises(ValueError, match="at least three frames, got 2"):
        ar.flicker(noise[:2])


def test_statistics():
    rng = np.random.default_rng(1)
    found = statistics.interval(rng.normal(5, 2, 400))
    assert found["low"] < 5 < found["high"] and found["high"] - found["low"] == pytest.approx(4 * 1.96 / 20, rel=0.15)
    below = rng.uniform(1, 10, 50)
    double = statistics.ratio(2 * below, below)
    assert double == pytest.approx({"mean": 2, "low": 2, "high": 2})  # paired: the spread of prompts cancels
    assert statistics.auc(np.array([3, 4]), np.array([1, 2])) == 1
    assert statistics.auc(np.array([1, 2]), np.array([1, 2])) == 0.5
    with pytest.raises(ValueError, match=r"of one length if paired; got \[2, 3\]"):
        statistics.ratio(np.ones(2), np.ones(3))
