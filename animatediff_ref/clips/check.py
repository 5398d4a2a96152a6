"""What is in a set of clips, and what is wrong with it, before hours of training: cuts, twins, what is short or broken."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from tqdm import tqdm

from animatediff_ref.clips.folders import ClipEntry
from animatediff_ref.clips.video import NO_FILM, count_at_rate, played

SIDE = 32  # pixels of the small pictures that are compared
CUT = 0.12  # mean change of brightness, of 1, from which a change may be a cut: several times that of quick motion
ABRUPT = 6.0  # and it is this many times the clip's usual change
TWIN = 0.02  # mean difference of brightness up to which two clips show the same


@dataclass(frozen=True)
class ClipReport:
    """What a clip is. ``fault`` says why it cannot be used, or is empty; the other entries are then as far as known."""

    entry: ClipEntry
    frames: int = 0
    seconds: float = 0.0
    size: tuple[int, int] = (0, 0)  # width, height
    cuts: tuple[int, ...] = ()  # frames that begin a new scene
    twin: ClipEntry | None = None  # an earlier clip that shows the same
    fault: str = ""

    @property
    def fps(self) -> float:
        return self.frames / self.seconds if self.seconds else 0.0


def check_clips(
    entries: Sequence[ClipEntry], num_frames: int = 16, stride: int = 1, fps: float | None = None
) -> list[ClipReport]:
    """A report for each clip, in order: every file is decoded once, and no film is held in memory.

    A clip is too short if a window of ``num_frames`` frames, every ``stride``-th, does not fit; with ``fps``, of those
    that are taken at this rate. A cut is a change between two frames that is large, and large beside the clip's other
    changes. Twins have nearly the same first, middle and last frame. ``ValueError`` for an empty set.
    """
    if not entries:
        raise ValueError("there are no clips to check")
    reports, looks = [], []
    for entry in tqdm(entries, desc="check", unit="clip"):
        report, look = _looked_at(entry, (num_frames - 1) * stride + 1, fps)
        same = [other for other, seen in looks if look is not None and np.abs(seen - look).mean() < TWIN]
        if same:
            report = replace(report, twin=same[0])
        elif look is not None:
            looks.append((entry, look))
        reports.append(report)
    return reports


def _looked_at(entry: ClipEntry, needed: int, fps: float | None) -> tuple[ClipReport, np.ndarray | None]:
    """The report of a clip, and its first, middle and last frame, small and grey."""
    small, size, end = [], (0, 0), 0.0
    try:
        for shown in played(entry.path):
            pixels = shown.pixels()
            size, end = size if small else (pixels.shape[1], pixels.shape[0]), shown.end
            grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
            small.append(cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
    except NO_FILM as error:
        return ClipReport(entry, len(small), end, size, fault=f"cannot be read: {error}"), None
    if not small:
        return ClipReport(entry, fault="has no frames"), None
    end = 0.0 if entry.path.is_dir() else end  # pictures have no clock
    clip = np.stack(small).astype(np.float32) / 255
    there, rate = (count_at_rate(end, fps), f" at {fps:g} a second") if fps else (len(small), "")
    short = f"has {there} frames{rate}, and {needed} are needed" if there < needed else ""
    if fps and not end:
        short = "is a folder of pictures, which have no clock: leave fps out"
    return ClipReport(entry, len(small), end, size, _cuts(clip), fault=short), clip[[0, len(clip) // 2, -1]]


def _cuts(clip: np.ndarray) -> tuple[int, ...]:
    """Frames of a clip (f, h, w) that begin a new scene."""
    change = np.abs(np.diff(clip, axis=0)).mean((1, 2))
    usual = np.median(change) if len(change) else 0.0
    return tuple(int(i) + 1 for i in np.flatnonzero((change > CUT) & (change > ABRUPT * usual)))
