"""Cameras made by cropping (paper section 4.3): a window that moves over larger frames is a camera that moves.

A path holds, for every frame, where the camera has got to since the first one: ``pan`` to the right and ``tilt`` upwards,
in shares of the first window's side; ``zoom``, the logarithm of the magnification; ``roll`` clockwise, in degrees. Moves
are named for what the camera does: in ``pan_left`` it turns left, so the picture drifts to the right.
"""

from collections.abc import Callable

import cv2
import numpy as np

from animatediff_ref.clips.video import check_clip

AXES = ("pan", "tilt", "zoom", "roll")  # the columns of a path
CAMERAS = {  # move -> axis and sign
    "zoom_in": ("zoom", 1),
    "zoom_out": ("zoom", -1),
    "pan_left": ("pan", -1),
    "pan_right": ("pan", 1),
    "tilt_up": ("tilt", 1),
    "tilt_down": ("tilt", -1),
    "roll_clockwise": ("roll", 1),
    "roll_anticlockwise": ("roll", -1),
}
AMOUNTS = {"pan": 0.25, "tilt": 0.25, "zoom": 0.3, "roll": 15.0}  # of a whole clip, unless told otherwise


def even(time: np.ndarray) -> np.ndarray:
    """The same speed throughout."""
    return time


def eased(time: np.ndarray) -> np.ndarray:
    """Slow at the start and at the end, as a hand moves a camera: the share of the way, 0 to 1, at each share of the time."""
    return time * time * (3 - 2 * time)


def ramped(time: np.ndarray) -> np.ndarray:
    """Faster and faster."""
    return time * time


def camera_path(
    move: str,
    num_frames: int = 16,
    *,
    amount: float | None = None,
    speed: Callable[[np.ndarray], np.ndarray] = eased,
) -> np.ndarray:
    """The path of one of the eight ``CAMERAS``, or of ``"still"`` or ``"shake"``: float64 (f, 4), columns ``AXES``.

    ``amount`` is how far it goes in the whole clip, at least 0, by default ``AMOUNTS`` of its axis; of a shake, the
    standard deviation of pan and tilt, by default 0.01. ``speed`` says how it gets there: ``eased``, ``even``, ``ramped``
    or any function of the share of the time. Paths add up: ``camera_path("zoom_in") + camera_path("pan_left")`` is a
    camera that does both.
    """
    if num_frames < 1 or (amount is not None and not 0 <= amount < np.inf):
        raise ValueError(
            f"a path needs at least 1 frame and an amount from 0, got {num_frames} frames, amount={amount}"
        )
    path = np.zeros((num_frames, len(AXES)))
    if move == "shake":
        steps = np.random.default_rng(0).normal(0, 0.01 if amount is None else amount, (num_frames, 2))
        path[:, :2] = steps - steps[0]
    elif move in CAMERAS:
        axis, sign = CAMERAS[move]
        way = speed(np.linspace(0, 1, num_frames))
        path[:, AXES.index(axis)] = sign * way * (AMOUNTS[axis] if amount is None else amount)
    elif move != "still":
        raise ValueError(f"a camera is one of {', '.join([*CAMERAS, 'still', 'shake'])}, got {move!r}")
    return path


def move_camera(clip: np.ndarray, path: np.ndarray, size: int) -> np.ndarray:
    """What a camera on ``path`` sees of a clip with larger frames: uint8 (f, size, size, 3) of (f, h, w, 3).

    The window is as large as the path allows without leaving the frames, and the path lies in their middle. A clip of one
    frame is held still under the moving camera. Nothing is mirrored. ``ValueError`` for a path of another length.
    """
    clip, path = check_clip(clip), np.asarray(path, float)
    if path.ndim != 2 or path.shape[1] != len(AXES) or len(clip) not in (1, len(path)) or not np.isfinite(path).all():
        raise ValueError(
            f"a path has a row of {', '.join(AXES)} for each of the {len(clip)} frames, got shape {path.shape}"
        )
    windows = _windows(path, *clip.shape[1:3])
    corners = np.array([[-0.5, -0.5], [size - 0.5, -0.5], [-0.5, size - 0.5]], np.float32)
    seen = []
    for i, window in enumerate(windows):
        frame = clip[min(i, len(clip) - 1)]
        side = np.linalg.norm(window[1] - window[0])
        if (scale := side / size) > 1:  # smooth what would be finer than the pixels of the result
            frame = cv2.GaussianBlur(frame, (0, 0), 0.5 * np.sqrt(scale**2 - 1))
        matrix = cv2.getAffineTransform(corners, window.astype(np.float32) - 0.5)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        seen.append(cv2.warpAffine(frame, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE))
    return np.stack(seen)


def _windows(path: np.ndarray, height: int, width: int) -> np.ndarray:
    """Three corners (top left, top right, bottom left) of the window of each frame, in pixels from the frame's corner."""
    pan, tilt, zoom, roll = path.T
    angle, side = np.radians(roll), np.exp(-zoom)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])  # (2, 2, f): y goes down
    unit = np.array([[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]])
    corners = np.einsum("ijf,kj,f->fki", turn, unit, side) + np.stack([pan, -tilt], -1)[:, None]
    low, high = corners.min((0, 1)), corners.max((0, 1))
    scale = (np.array([width, height]) / (high - low)).min()
    return ((corners - (low + high) / 2) * scale + np.array([width, height]) / 2)[:, :3]
