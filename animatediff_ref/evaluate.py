"""Measuring clips against known pictures: how much moves, and where (paper section 5.2 shows pictures; these are numbers)."""

import numpy as np

from animatediff_ref.clips import check_clip


def motion_amount(clip: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean absolute difference of successive frames, 0 to 1, inside ``mask``, bool (f, h, w), or everywhere.

    A pixel counts for a pair of frames where either has it in the mask. A frozen clip scores 0; so does a clip with an empty
    mask. It does not tell motion from flicker: read it beside a row of unrelated frames.
    """
    clip = check_clip(clip).astype(np.float32) / 255
    change = np.abs(np.diff(clip, axis=0)).mean(-1)
    if mask is None:
        return float(change.mean()) if change.size else 0.0
    inside = mask[1:] | mask[:-1]
    return float(change[inside].mean()) if inside.any() else 0.0


def object_mask(clip: np.ndarray, background: np.ndarray, threshold: float = 0.12) -> np.ndarray:
    """Where a clip differs from its background, uint8 (h, w, 3): bool (f, h, w). For clips whose background is known."""
    clip = check_clip(clip).astype(np.float32) / 255
    return np.abs(clip - np.asarray(background, np.float32) / 255).max(-1) > threshold
