"""Video files: a clip is uint8 ``(f, h, w, 3)``, RGB. PyAV reads and writes, so no separate ffmpeg is needed."""

from itertools import islice
from pathlib import Path

import av
import numpy as np
from PIL import Image

from animatediff_ref.weights.tensors import written_aside

SUFFIXES = (".mp4", ".gif", ".webp")


def read_clip(path: str | Path, num_frames: int | None = None, stride: int = 1, size: int | None = None) -> np.ndarray:
    """Every ``stride``-th frame of a video, uint8 (f, h, w, 3), ``num_frames`` of them or all.

    ``size`` resizes the shorter side to it and crops the centre square. ``ValueError`` if the file cannot be read as
    video, holds no frame, or too few.
    """
    if stride < 1 or (num_frames is not None and num_frames < 1):
        raise ValueError(
            f"a clip needs stride and num_frames of at least 1, got stride={stride}, num_frames={num_frames}"
        )
    try:
        with av.open(str(path)) as video:
            picked = islice(video.decode(video=0), 0, stride * num_frames if num_frames else None, stride)
            frames = [frame.to_ndarray(format="rgb24") for frame in picked]
    except (av.FFmpegError, IndexError, OSError) as error:
        raise ValueError(f"{path} cannot be read as video: {error}") from error
    if len(frames) < (num_frames or 1):
        raise ValueError(f"{path} has {len(frames)} frames at stride {stride}, needed are {num_frames or 1}")
    return np.stack([_square(frame, size) for frame in frames] if size else frames)


def _square(frame: np.ndarray, size: int) -> np.ndarray:
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image = Image.fromarray(frame[top : top + side, left : left + side])
    return np.asarray(image if side == size else image.resize((size, size), Image.LANCZOS))


def check_clip(clip: np.ndarray) -> np.ndarray:
    """``clip`` as uint8 (f, h, w, 3), or a ``ValueError`` that says what came."""
    clip = np.asarray(clip)
    if clip.ndim != 4 or clip.shape[-1] != 3 or clip.dtype != np.uint8 or not len(clip):
        raise ValueError(f"a clip is uint8 of shape (frames, height, width, 3), got {clip.dtype} of shape {clip.shape}")
    return clip


def check_suffix(path: str | Path) -> Path:
    """``path``, if clips are written with such a suffix; else a ``ValueError``."""
    if Path(path).suffix not in SUFFIXES:
        raise ValueError(f"a clip is written as one of {', '.join(SUFFIXES)}, got {Path(path).name!r}")
    return Path(path)


def write_clip(clip: np.ndarray, path: str | Path, fps: int = 8, crf: int = 20) -> None:
    """Write a clip as .mp4 (H.264), .gif or .webp, by the suffix; GIF and WebP loop. The file appears whole or not at all.

    ``crf`` is the quality of .mp4, from 0 (no loss) to 51 (worst). ``ValueError`` for what is no clip, suffix or quality.
    """
    clip, path = check_clip(clip), check_suffix(path)
    if not 0 <= crf <= 51:
        raise ValueError(f"crf, the quality of .mp4, goes from 0 (no loss) to 51 (worst), got {crf}")
    with written_aside(path) as aside:
        if path.suffix == ".mp4":
            _write_mp4(clip, aside, fps, crf)
        else:
            pictures = [Image.fromarray(frame) for frame in clip]
            options = {"quality": 90} if path.suffix == ".webp" else {}
            pictures[0].save(
                aside, save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0, **options
            )


def _write_mp4(clip: np.ndarray, path: Path, fps: int, crf: int) -> None:
    height, width = (
        side - side % 2 for side in clip.shape[1:3]
    )  # 4:2:0 colour, which every player reads, needs even sides
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as video:
        options = {"crf": str(crf), "preset": "slow", "threads": "1"}  # one: the same bytes on every machine
        stream = video.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in clip[:, :height, :width]:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        video.mux(stream.encode())
