"""Video files. A clip is RGB, uint8 (f, h, w, 3). PyAV reads and writes it, without a separate ffmpeg."""

from itertools import islice
from pathlib import Path

import av
import numpy as np
from PIL import Image

from animatediff_ref.weights.tensors import written_aside

WRITTEN_SUFFIXES = (".mp4", ".gif", ".webp")


def read_clip(path: str | Path, num_frames: int | None = None, stride: int = 1, size: int | None = None) -> np.ndarray:
    """Every ``stride``-th frame of a video, ``num_frames`` of them or all: uint8 (f, h, w, 3).

    With ``size``, the square in the centre of each frame, resized to ``size`` pixels. ``ValueError`` if the file cannot
    be read as video or holds too few frames.
    """
    if stride < 1 or (num_frames is not None and num_frames < 1):
        given = f"stride={stride}, num_frames={num_frames}"
        raise ValueError(f"a clip needs stride and num_frames of at least 1, got {given}")
    end = None if num_frames is None else stride * num_frames
    try:
        with av.open(str(path)) as video:
            frames = [frame.to_ndarray(format="rgb24") for frame in islice(video.decode(video=0), 0, end, stride)]
    except (av.FFmpegError, IndexError, OSError) as error:  # IndexError: a file without a video stream
        raise ValueError(f"{path} cannot be read as video: {error}") from error
    needed = num_frames or 1
    if len(frames) < needed:
        raise ValueError(f"{path} has {len(frames)} frames at stride {stride}, but {needed} are needed")
    return np.stack([_centre_square(frame, size) for frame in frames] if size else frames)


def _centre_square(frame: np.ndarray, size: int) -> np.ndarray:
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image = Image.fromarray(frame[top : top + side, left : left + side])
    return np.asarray(image if side == size else image.resize((size, size), Image.LANCZOS))


def check_clip(clip: np.ndarray) -> np.ndarray:
    """``clip`` as an array, uint8 (f, h, w, 3) with at least one frame; ``ValueError`` for anything else."""
    clip = np.asarray(clip)
    if clip.ndim != 4 or clip.shape[-1] != 3 or clip.dtype != np.uint8 or not len(clip):
        raise ValueError(f"a clip is uint8 of shape (frames, height, width, 3), got {clip.dtype} of shape {clip.shape}")
    return clip


def check_suffix(path: str | Path) -> Path:
    """``path``, if its suffix is one of ``WRITTEN_SUFFIXES``; ``ValueError`` if not."""
    if Path(path).suffix not in WRITTEN_SUFFIXES:
        raise ValueError(f"a clip is written as one of {', '.join(WRITTEN_SUFFIXES)}, got {Path(path).name!r}")
    return Path(path)


def write_clip(clip: np.ndarray, path: str | Path, fps: int = 8, crf: int = 20) -> None:
    """Write a clip, uint8 (f, h, w, 3), as .mp4 (H.264), .gif or .webp, by the suffix; whole or not at all.

    GIF and WebP loop. An .mp4 loses the last row or column of an odd number. ``fps`` is frames a second; ``crf`` the
    quality of .mp4, from 0 (no loss) to 51 (worst). ``ValueError`` for what is not a clip, a suffix or a quality.
    """
    clip, path = check_clip(clip), check_suffix(path)
    if not 0 <= crf <= 51:
        raise ValueError(f"crf, the quality of .mp4, goes from 0 (no loss) to 51 (worst), got {crf}")
    with written_aside(path) as aside:
        if path.suffix == ".mp4":
            _write_mp4(clip, aside, fps, crf)
        else:
            _write_pictures(clip, aside, fps)


def _write_pictures(clip: np.ndarray, path: Path, fps: int) -> None:
    first, *others = [Image.fromarray(frame) for frame in clip]
    options = {"quality": 90} if path.suffix == ".webp" else {}
    first.save(path, save_all=True, append_images=others, duration=round(1000 / fps), loop=0, **options)


def _write_mp4(clip: np.ndarray, path: Path, fps: int, crf: int) -> None:
    # every player reads 4:2:0 colour, and that needs even sides
    height, width = clip.shape[1] // 2 * 2, clip.shape[2] // 2 * 2
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as video:
        options = {"crf": str(crf), "preset": "slow", "threads": "1"}  # one: the same bytes on every machine
        stream = video.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in clip[:, :height, :width]:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        video.mux(stream.encode())
