"""Cameras made by cropping, and cameras measured: the estimate against paths that are known."""

from itertools import cycle

import cv2
import numpy as np
import pytest

import animatediff_ref as ar
from animatediff_ref.clips.camera import AMOUNTS, AXES, CAMERAS, _windows, even, ramped

DEGREES_OF_A_SIDE = np.array(
    [1, 1, 1, np.degrees(1)]
)  # rolls beside shares of a side: by what the picture's edge moves


def ground(kind: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """A picture to move a camera over, uint8 (side, side, 3)."""
    if kind == "shapes":
        picture = np.full((side, side, 3), 128, np.uint8)
        for _ in range(40):
            middle, radius = rng.integers(0, side, 2).tolist(), int(rng.integers(side // 40, side // 12))
            cv2.circle(picture, middle, radius, rng.integers(0, 255, 3).tolist(), -1, cv2.LINE_AA)
        return picture
    blur = side / {"texture": 40, "gradients": 20}[kind]
    smooth = cv2.GaussianBlur(rng.normal(0, 1, (side, side, 3)), (0, 0), blur)
    return (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)


def with_a_thing(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A patch of its own, half as wide as the picture, that goes its own way in the middle."""
    clip, size = clip.copy(), clip.shape[1]
    thing, way = ground("shapes", size // 2, rng), rng.uniform(-0.12, 0.12, 2) * size
    for i, share in enumerate(np.linspace(0, 1, len(clip))):
        x, y = (size / 4 + way * share).astype(int)
        clip[i, y : y + size // 2, x : x + size // 2] = thing
    return clip


def moves(count: int = 200) -> list[tuple]:
    """Every camera over every ground, with and without a thing, in several sizes and amounts, in turn."""
    kinds, sizes, things, rng = (
        cycle(("texture", "gradients", "shapes")),
        cycle((64, 96, 128, 160)),
        cycle((0, 1, 0)),
        0,
    )
    return [(move, next(kinds), next(sizes), next(things), rng + i) for i, move in zip(range(count), cycle(CAMERAS))]


def seen_by(move: str, kind: str, size: int, thing: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The true path, and a clip of it."""
    rng = np.random.default_rng(seed)
    axis, _ = CAMERAS[move]
    path = ar.camera_path(move, 8, amount=AMOUNTS[axis] * rng.uniform(0.4, 1.2))
    clip = ar.move_camera(ground(kind, 2 * size, rng)[None], path, size)
    return path, with_a_thing(clip, rng) if thing else clip


def test_two_hundred_moves_are_measured():
    """The direction right in all of them, the size within 15 %, at most 10 % of it on another axis."""
    wrong = []
    for asked in moves():
        path, clip = seen_by(*asked)
        found, axis = ar.estimate_camera(clip), AXES.index(CAMERAS[asked[0]][0])
        ratio = found.path[-1] / DEGREES_OF_A_SIDE / (path[-1, axis] / DEGREES_OF_A_SIDE[axis])
        if not (found.seen and abs(ratio[axis] - 1) < 0.15 and np.abs(np.delete(ratio, axis)).max() < 0.1):
            wrong.append((asked, ratio.round(2)))
    assert not wrong


def over_a_plain_sky(move: str, size: int = 64) -> np.ndarray:
    """What a camera sees of one thing on a ground without corners."""
    side = 2 * size
    down = np.linspace(90, 160, side, dtype=np.uint8)[:, None, None]
    frame = np.broadcast_to(down, (side, side, 3)).copy()
    middle = slice(3 * side // 8, 5 * side // 8)
    frame[middle, middle] = ground("shapes", side // 4, np.random.default_rng(3))
    return ar.move_camera(frame[None], ar.camera_path(move, 8), size)


@pytest.mark.parametrize("move", CAMERAS)
def test_laid_over_as_a_whole_a_camera_is_seen_over_a_plain_ground(move):
    clip, (axis, sign) = over_a_plain_sky(move), CAMERAS[move]
    assert not ar.estimate_camera(clip).seen
    share = ar.estimate_camera(clip, whole=True).path[-1] / [AMOUNTS[axis] for axis in AXES] * sign
    own, others = share[AXES.index(axis)], np.abs(np.delete(share, AXES.index(axis))).max()
    assert 0.8 < own < 1.2 and others < 0.05


def test_laid_over_as_a_whole_what_is_still_is_still_and_nothing_is_seen_in_nothing():
    still = over_a_plain_sky("still")
    assert np.abs(ar.estimate_camera(still, whole=True).path).max() < 1e-3
    for nothing in (np.full_like(still, 90), np.random.default_rng(0).integers(0, 255, still.shape, dtype=np.uint8)):
        found = ar.estimate_camera(nothing, whole=True)
        assert not found.seen and np.isnan(found.path).all()


def test_two_moves_at_once_and_the_way_between():
    path = ar.camera_path("zoom_in", 12) + ar.camera_path("pan_left", 12) + ar.camera_path("shake", 12)
    clip = ar.move_camera(ground("texture", 200, np.random.default_rng(0))[None], path, 96)
    assert (np.abs(ar.estimate_camera(clip).path - path) / DEGREES_OF_A_SIDE).max() < 0.005
    assert set(ar.estimate_camera(clip).total) == set(AXES)


@pytest.mark.parametrize("picture", ["even", "noise", "stripes"])
def test_where_no_camera_can_be_seen_it_says_so(picture):
    rng = np.random.default_rng(0)
    clip = np.full((6, 64, 64, 3), 90, np.uint8)
    if picture == "noise":
        clip = rng.integers(0, 255, clip.shape, dtype=np.uint8)
    if picture == "stripes":  # along which a camera may move unseen
        clip[:, ::8] = 200
    if picture == "even":  # and a thing that moves
        for i in range(6):
            clip[i, 20:40, 20 + 2 * i : 40 + 2 * i] = ground("shapes", 20, np.random.default_rng(1))
    found = ar.estimate_camera(clip)
    assert not found.seen and np.isnan(found.path).all() and found.path.shape == (6, 4)


def test_a_still_camera_is_still():
    clip = ar.move_camera(ground("texture", 128, np.random.default_rng(0))[None], ar.camera_path("still", 8), 64)
    assert len(clip) == 8 and np.ptp(clip, axis=0).max() == 0
    assert np.abs(ar.estimate_camera(with_a_thing(clip, np.random.default_rng(2))).path).max() < 0.005


def test_moves_are_named_for_what_the_camera_does():
    """A dot in the middle: when the camera turns left it goes right, when it looks up it goes down, and so on."""
    frame = np.zeros((200, 200, 3), np.uint8)
    cv2.circle(frame, (100, 100), 6, (255, 255, 255), -1)
    cv2.circle(frame, (100, 60), 6, (0, 0, 255), -1)  # above it, blue
    after = {}
    for move in CAMERAS:
        first, last = ar.move_camera(frame[None], ar.camera_path(move, 2), 100)[[0, -1]]
        after[move] = [np.argwhere(one[..., c] > 128).mean(0) for one in (first, last) for c in (0, 2)]
    ways = {move: white_last - white for move, (white, _, white_last, _) in after.items()}
    assert ways["pan_left"][1] > 5 > -5 > ways["pan_right"][1]
    assert ways["tilt_up"][0] > 5 > -5 > ways["tilt_down"][0]
    apart = {move: [np.linalg.norm(a - b) for a, b in (p[:2], p[2:])] for move, p in after.items()}
    assert apart["zoom_in"][1] > 1.2 * apart["zoom_in"][0] and apart["zoom_out"][1] < apart["zoom_out"][0] / 1.2
    assert after["roll_clockwise"][3][1] < after["roll_clockwise"][1][1], "the picture turns the other way"
    assert after["roll_anticlockwise"][3][1] > after["roll_anticlockwise"][1][1]


@pytest.mark.parametrize("move", [*CAMERAS, "shake"])
def test_a_window_stays_inside_the_frames_and_is_as_large_as_it_can_be(move):
    corners = _windows(ar.camera_path(move) + ar.camera_path("zoom_out", amount=0.1), height=90, width=160)
    fourth = corners[:, 1] + corners[:, 2] - corners[:, 0]
    every = np.concatenate([corners, fourth[:, None]], 1)
    assert every.min() > -1e-9 and (every[..., 0].max() < 160 + 1e-9) and (every[..., 1].max() < 90 + 1e-9)
    assert np.isclose(np.ptp(every[..., 1]), 90) or np.isclose(np.ptp(every[..., 0]), 160)


def test_speeds():
    ways = {
        name: ar.camera_path("pan_right", 9, amount=1.0, speed=speed)[:, 0]
        for name, speed in (("even", even), ("ramped", ramped))
    }
    ways["eased"] = ar.camera_path("pan_right", 9, amount=1.0)[:, 0]
    assert all(way[0] == 0 and way[-1] == 1 and (np.diff(way) > 0).all() for way in ways.values())
    assert np.allclose(np.diff(ways["even"]), 1 / 8)
    assert np.diff(ways["ramped"])[-1] == np.diff(ways["ramped"]).max() > np.diff(ways["ramped"])[0]
    assert np.diff(ways["eased"]).argmax() in (3, 4)


def test_what_cameras_refuse():
    clip = np.zeros((4, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match=r"one of zoom_in, .*, still, shake, got 'dolly'"):
        ar.camera_path("dolly")
    for wrong in ({"num_frames": 0}, {"amount": -1.0}, {"amount": float("nan")}):
        with pytest.raises(ValueError, match="at least 1 frame and an amount from 0"):
            ar.camera_path("zoom_in", **wrong)
    with pytest.raises(
        ValueError, match=r"a row of pan, tilt, zoom, roll for each of the 4 frames, got shape \(16, 4\)"
    ):
        ar.move_camera(clip, ar.camera_path("zoom_in"), 16)
    with pytest.raises(ValueError, match="at least two frames, got 1"):
        ar.estimate_camera(clip[:1])
