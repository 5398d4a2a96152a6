"""The marks of stock footage in a clip: the watermark, and the look (paper section 4.1).

The domain adapter is there to keep both out of what is generated.
"""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from animatediff_ref.clips.video import check_clip
from animatediff_ref.measure.clip_scores import Judge, image_features
from animatediff_ref.mini.files import resolve

FINE = 32  # what is watched of a watermark is finer than this share of the picture's width
LIMIT = 8.0  # grey levels beyond which an edge counts no more


def watermark_score(clip: np.ndarray, watermark: np.ndarray | None = None) -> float:
    """How plainly a clip bears a watermark, -1 to 1: a matched filter.

    The normalised correlation of two grey pictures: the mean of the clip's frames, and the mark as it would lie on
    mid-grey. Both keep only what is finer than a thirty-second of the width, and edges of the clip's count up to eight
    grey levels, so that strong ones do not drown a faint mark. ``watermark`` is RGBA, uint8 (h, w, 4), as large as the
    picture that it was made for, and is resized to the clip's; by default it is the mini world's. A clip without it
    scores about 0; ``data/footage.json`` has the spread of marked and clean clips and the error rates. One frame is
    enough; a mark elsewhere than its place is not found. ``ValueError`` for what is no clip or no mark, and for a mark
    that shows nothing at the clip's size.
    """
    clip, mark = check_clip(clip), _mark(resolve("watermark", "mini")) if watermark is None else np.asarray(watermark)
    if mark.ndim != 3 or mark.shape[-1] != 4 or mark.dtype != np.uint8:
        raise ValueError(
            f"a watermark is uint8 of shape (height, width, 4), RGBA, got {mark.dtype} of shape {mark.shape}"
        )
    grey = (mark[..., :3].astype(np.float32).mean(-1) - 128) * (mark[..., 3] / np.float32(255))
    wanted = _fine(cv2.resize(grey, clip.shape[2:0:-1], interpolation=cv2.INTER_AREA))
    found = _fine(clip.mean((0, 3), dtype=np.float32)).clip(-LIMIT, LIMIT)
    if not wanted.std() > 0:
        raise ValueError(f"this watermark shows nothing at {clip.shape[2]}x{clip.shape[1]} pixels")
    return float(np.corrcoef(found.ravel(), wanted.ravel())[0, 1]) if found.std() > 0 else 0.0


def _mark(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGBA"))


def _fine(grey: np.ndarray) -> np.ndarray:
    return grey - cv2.GaussianBlur(grey, (0, 0), grey.shape[1] / FINE)


def look_score(judge: Judge, clip: np.ndarray, centroids: Mapping[str, np.ndarray] | None = None) -> float:
    """How much frames look like stock footage: 0 on average for clean art, 1 for footage; it has no bounds.

    The mean position of the frames' features on the line from the mean of the other centroids to that of ``"footage"``.
    The mini judge brings the centroids of its own training pictures; for any other, pass
    ``image_features(...).mean(0)`` by style.
    """
    centroids = judge.centroids if centroids is None else centroids
    if "footage" not in centroids or len(centroids) < 2:
        raise ValueError(
            f"a look needs the centroid of 'footage' and of another style, got {sorted(centroids) or 'none'}"
        )
    clean = np.mean([centroids[name] for name in centroids if name != "footage"], axis=0)
    line = centroids["footage"] - clean
    return float(((image_features(judge, clip) - clean) @ line).mean() / (line @ line))
