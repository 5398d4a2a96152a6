"""What the camera does in a clip, measured: pan, tilt, zoom and roll, whatever moves by itself in the picture."""

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from animatediff_ref.clips.camera import AXES
from animatediff_ref.clips.video import check_clip

SIDE = 256  # pixels that the shorter side is resized to: points are followed to a small part of a pixel
POINTS, QUALITY = 20, 0.05  # most corners of a cell, and how weak they may be against its strongest
CONTRAST = 1e-6  # of a corner (its smaller eigenvalue), below which it may be noise
NEAR = 1.0  # pixels of SIDE within which a point goes along with a motion
CELLS = 6  # of the picture, each way; those along its edge tell the camera, for things lie in the middle
NEEDED, EDGE = 8, 5  # points that must go along, and cells along the edge that they must lie in
LAYERS = 3  # motions that are looked for: the camera's, and those of things
# Before frames are laid over each other, slower shades go, and finer grain; pixels of SIDE, of a Gaussian and of a filter.
SHADE, SMOOTH = 32, 9


@dataclass(frozen=True)
class CameraEstimate:
    """What the camera does in a clip, as ``camera_path`` says it.

    ``path`` is (f, 4): pan, tilt, zoom and roll since the first frame; pan and tilt in shares of the shorter side. Where no
    camera can be seen, as on an even ground, ``seen`` is False and every number is NaN.
    """

    path: np.ndarray
    seen: bool

    @property
    def total(self) -> dict[str, float]:
        """The whole way by axis, from the first frame to the last."""
        return dict(zip(AXES, self.path[-1].tolist()))


def estimate_camera(clip: np.ndarray, *, whole: bool = False) -> CameraEstimate:
    """The camera's motion in a clip, uint8 (f, h, w, 3), by a robust similarity fit between successive frames.

    Corners are followed from frame to frame (Lucas-Kanade, there and back). Of the motions that explain many of them, the
    camera's is the one whose points lie in most places along the picture's edge: things that move by themselves lie in the
    middle. A thing that fills the picture is taken for the camera.

    Over a ground too even for corners, such as a plain sky, that sees nothing. ``whole=True`` lays one frame over the
    next as a whole instead, by the linear map that makes their grey values correlate best (ECC). It sees cameras there,
    too, by the things in the picture: the direction, and about how far. But things that move by themselves then count as
    camera, so compare with clips without one.

    ``ValueError`` for what is no clip of at least two frames.
    """
    if len(clip := check_clip(clip)) < 2:
        raise ValueError(f"a camera needs a clip of at least two frames, got {len(clip)}")
    scale = SIDE / min(clip.shape[1:3])
    size = round(clip.shape[2] * scale), round(clip.shape[1] * scale)
    grey = [cv2.resize(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_CUBIC) for f in clip]
    step_between = _laid_over if whole else _step
    steps = [step_between(before, after) for before, after in pairwise(grey)]
    if any(step is None for step in steps):
        return CameraEstimate(np.full((len(clip), len(AXES)), np.nan), False)
    pose, path = np.eye(3), [np.zeros(len(AXES))]
    for step in steps:
        pose = pose @ np.linalg.inv(step)
        path.append(_axes(pose, size))
    return CameraEstimate(np.array(path), True)


def _axes(pose: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pan, tilt, zoom and roll of a window's pose: what takes its pixels to those of the first frame."""
    middle = (np.array(size) - 1) / 2
    way = (pose[:2, :2] @ middle + pose[:2, 2] - middle) / min(size)
    side = np.sqrt(np.linalg.det(pose[:2, :2]))
    roll = np.arctan2(pose[1, 0] - pose[0, 1], pose[0, 0] + pose[1, 1])
    return np.array([way[0], -way[1], -np.log(side), np.degrees(roll)])


def _step(before: np.ndarray, after: np.ndarray) -> np.ndarray | None:
    """The similarity (3, 3) that takes what stands still from one grey frame to the next; None where nothing tells."""
    here, there = _followed(before, after)
    best, reach = None, 0
    for _ in range(LAYERS):
        if len(here) < NEEDED:
            break
        found, along = cv2.estimateAffinePartial2D(here, there, ransacReprojThreshold=NEAR, maxIters=4000)
        if found is None:
            break
        along = along.ravel().astype(bool)
        covered = _edge_cells(here[along], before.shape)
        if along.sum() >= NEEDED and covered > max(reach, EDGE - 1):
            best, reach = np.vstack([found, [0, 0, 1]]), covered
        here, there = here[~along], there[~along]
    return best


def _laid_over(before: np.ndarray, after: np.ndarray) -> np.ndarray | None:
    """The linear map (3, 3) that lays one grey frame over the next as a whole; None where none does."""
    start, enough = np.eye(2, 3, dtype=np.float32), (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-4)
    pair = [grey - cv2.GaussianBlur(grey, (0, 0), SHADE) for grey in map(np.float32, (before, after))]
    try:
        _, found = cv2.findTransformECC(*pair, start, cv2.MOTION_AFFINE, enough, None, SMOOTH)
    except cv2.error:  # it does not converge: there is nothing to see, or nothing alike
        return None
    return np.vstack([found, [0, 0, 1]]) if np.linalg.det(found[:, :2]) > 0 else None


def _followed(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of one frame and where they are in the next, each (n, 2), of those that are found there and back."""
    corners = _corners(before)
    if not len(corners):
        return corners, corners
    window = {"winSize": (21, 21), "maxLevel": 3}
    moved, found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, None, **window)
    back, again, _ = cv2.calcOpticalFlowPyrLK(after, before, moved, None, **window)
    good = (np.linalg.norm(back - corners, axis=-1) < 0.5) & (found == 1).ravel() & (again == 1).ravel()
    return corners[good], moved[good]


def _corners(frame: np.ndarray) -> np.ndarray:
    """The corners of a grey frame, float32 (n, 2), some from every cell: else those of one thing would crowd out the rest."""
    strength, found = cv2.cornerMinEigenVal(frame, 3), []
    rows, columns = (np.linspace(0, side, CELLS + 1).astype(int) for side in frame.shape)
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            cell = cv2.goodFeaturesToTrack(frame[top:bottom, left:right], POINTS, QUALITY, 4)
            if cell is not None:
                found.append(cell.reshape(-1, 2) + np.float32([left, top]))
    corners = np.concatenate(found) if found else np.zeros((0, 2), np.float32)
    x, y = corners.round().astype(int).T
    return corners[strength[y, x] > CONTRAST]


def _edge_cells(points: np.ndarray, shape: tuple[int, int]) -> int:
    """In how many of the cells along the picture's edge points lie."""
    cells = np.unique((points / np.array(shape[::-1]) * CELLS).astype(int).clip(0, CELLS - 1), axis=0)
    return int(((cells == 0) | (cells == CELLS - 1)).any(1).sum())
