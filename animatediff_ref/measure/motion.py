"""How much moves in a clip, where, and how steadily (the paper shows pictures; these are numbers)."""

from itertools import pairwise

import cv2
import numpy as np

from animatediff_ref.clips.video import check_clip

FLOW_SIDE = 64  # pixels that the shorter side is resized to before flow is estimated
WINDOW, GRAIN = 15, 4.0  # of the flow: pixels that move alike; grey levels of the grain


def motion_amount(clip: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean absolute difference of successive frames, 0 to 1, inside ``mask``, bool (f, h, w), or everywhere.

    A pixel counts for a pair of frames where either has it in the mask. A frozen clip scores 0; so does a clip with an
    empty mask. It does not tell motion from flicker: read it beside a row of unrelated frames.
    """
    clip = check_clip(clip).astype(np.float32) / 255
    change = np.abs(np.diff(clip, axis=0)).mean(-1)
    if mask is None:
        return float(change.mean()) if change.size else 0.0
    inside = mask[1:] | mask[:-1]
    return float(change[inside].mean()) if inside.any() else 0.0


def flicker(clip: np.ndarray) -> float:
    """How much of a clip's change goes back and forth: mean absolute second over mean absolute first difference.

    About 0 for a steady fade, :math:`\\sqrt{3}` = 1.73 for independent normal noise, 2 for frames that alternate; the mini
    world's real clips have about 1.5. It tells flicker from motion, which ``motion_amount`` does not, and says nothing
    of how much there is of either. A frozen clip scores 0. ``ValueError`` for what is no clip of at least three frames.
    """
    if len(clip := check_clip(clip)) < 3:
        raise ValueError(f"flicker needs a clip of at least three frames, got {len(clip)}")
    first = np.diff(clip.astype(np.float32), axis=0)
    change = np.abs(first).mean()
    return float(np.abs(np.diff(first, axis=0)).mean() / change) if change else 0.0


def object_mask(clip: np.ndarray, background: np.ndarray, threshold: float = 0.12) -> np.ndarray:
    """Where a clip differs from its background, uint8 (h, w, 3): bool (f, h, w). For clips whose background is known."""
    clip = check_clip(clip).astype(np.float32) / 255
    return np.abs(clip - np.asarray(background, np.float32) / 255).max(-1) > threshold


def optical_flow(clip: np.ndarray) -> np.ndarray:
    """Where each pixel goes in the next frame: float32 (f - 1, h, w, 2), pixels to the right and down.

    Farneback's method (2003, by OpenCV) on grey frames resized to 64 pixels on the shorter side, so that clips of any
    size are measured alike; no background need be known. All frames get the same faint grain, without which even
    surfaces, as flat artwork is full of them, show motion that is not there. Flow reaches some pixels beyond what
    moves. ``data/footage.json`` compares it with true motion and with other methods. ``ValueError`` for what is no clip
    of at least two frames.
    """
    if len(clip := check_clip(clip)) < 2:
        raise ValueError(f"flow needs a clip of at least two frames, got {len(clip)}")
    height, width = clip.shape[1:3]
    scale = FLOW_SIDE / min(height, width)
    size = round(width * scale), round(height * scale)
    grey = [cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA) for frame in clip]
    grain = np.random.default_rng(0).normal(0, GRAIN, grey[0].shape)
    grainy = [np.round(frame + grain).clip(0, 255).astype(np.uint8) for frame in grey]
    flow = [farneback(*pair) - farneback(pair[0], pair[0]) for pair in pairwise(grainy)]  # at edges the latter is not 0
    return np.stack([cv2.resize(one, (width, height)) for one in flow]) / np.float32(scale)


def farneback(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Flow from one grey picture, uint8 (h, w), to the next: (h, w, 2), pixels."""
    return cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 4, WINDOW, 3, 5, 1.1, 0)


def flow_amount(clip: np.ndarray, mask: np.ndarray | None = None) -> float:
    """How far what moves goes from frame to frame, in shares of the picture's shorter side: 0.01 is 0.64 pixels of 64.

    The mean length of ``optical_flow`` inside ``mask``, bool (f, h, w), each pair of frames by the first one's; without
    a mask, the mean of each pair weighted by the length itself, which stands for what moves, however small, and needs
    nothing known of it. A frozen clip scores 0, and so does an empty mask. Unlike ``motion_amount`` it hardly depends
    on contrast; like it, it finds motion in unrelated frames. ``ValueError`` as of ``optical_flow``, and for a mask of
    another shape.
    """
    if mask is not None and np.shape(mask) != np.shape(clip)[:3]:
        raise ValueError(f"a mask has the shape {np.shape(clip)[:3]} of its clip's frames, got {np.shape(mask)}")
    return amount_of(optical_flow(clip), mask)


def amount_of(flow: np.ndarray, mask: np.ndarray | None = None) -> float:
    """What ``flow_amount`` says of a clip whose flow, (f - 1, h, w, 2), is known."""
    length = np.linalg.norm(flow, axis=-1) / min(flow.shape[1:3])
    if mask is not None:
        inside = np.asarray(mask, bool)[:-1]
        return float(length[inside].mean()) if inside.any() else 0.0
    total = length.sum((1, 2))
    return float((np.square(length).sum((1, 2)) / np.where(total > 0, total, 1)).mean())
