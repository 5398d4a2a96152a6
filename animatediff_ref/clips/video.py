"""Video files. A clip is RGB, uint8 (f, h, w, 3). PyAV reads films and Pillow animated pictures, without a separate ffmpeg.

Frames are what a player shows: turned and mirrored as the file says, with square pixels, transparent parts on white (but
for WebM, whose transparency FFmpeg leaves out).
"""

import math
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from io import BytesIO
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
from PIL import Image, ImageOps

from animatediff_ref.generate.pictures import as_seen
from animatediff_ref.weights.tensors import written_aside

WRITTEN_SUFFIXES = (".mp4", ".gif", ".webp")
FILM_SUFFIXES = (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".ts", ".mpg", ".mpeg", ".wmv", ".flv")
ANIMATION_SUFFIXES = (".gif", ".webp", ".png", ".apng")  # pictures that may move
FRAME_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")  # of the pictures in a folder of frames
NO_FILM = (  # what reading may raise: PyAV, also for a file without a video stream; Pillow; OpenCV
    av.FFmpegError,
    IndexError,
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
    cv2.error,
)
JUMP = 60.0  # seconds from which a gap between two frames is a fault of the film's clock
BACK = 0.5  # seconds by which frames may go back where a container has no times for frames stored out of order


class UnusableClip(ValueError):
    """A video cannot be read, or is too short."""


class Shown(NamedTuple):
    """A frame of a film: from when to when it is shown, in seconds, and how to get its pixels, uint8 (h, w, 3)."""

    start: float
    end: float
    pixels: Callable[[], np.ndarray]


def read_clip(
    path: str | Path, num_frames: int | None = None, stride: int = 1, size: int | None = None, fps: float | None = None
) -> np.ndarray:
    """Every ``stride``-th frame of a video, ``num_frames`` of them or all: uint8 (f, h, w, 3).

    With ``fps``, the frames are first those shown at 0, 1 / fps, 2 / fps ... seconds, whatever rate the film has and
    whether it varies. With ``size``, the square in the centre of each frame, resized to ``size`` pixels; frames are cut
    as they are decoded, so memory holds the result alone. ``path`` may be a folder of pictures, a frame each. In an
    animated picture a frame that stays longer than others counts as often as it fills their time.

    ``ValueError`` if the file cannot be read as video or holds too few frames, and for numbers that cannot be.
    """
    check_reading(stride, num_frames, size, fps)
    if fps and Path(path).expanduser().is_dir():
        raise UnusableClip(f"{path} is a folder of pictures, which have no clock: read it without fps")
    end = None if num_frames is None else stride * num_frames
    try:
        shown = played(path)
        chosen = islice(_at_rate(shown, fps) if fps else shown, 0, end, stride)
        frames = [_centre_square(frame.pixels(), size) if size else frame.pixels() for frame in chosen]
    except NO_FILM as error:
        raise UnusableClip(f"{path} cannot be read as video: {error}") from error
    if len(frames) < (needed := num_frames or 1):
        by_time = f" and {fps:g} a second" if fps else ""
        raise UnusableClip(f"{path} has {len(frames)} frames at stride {stride}{by_time}, but {needed} are needed")
    height, width = frames[0].shape[:2]  # a stream may change its size on the way; players keep the window
    return np.stack([f if f.shape == frames[0].shape else cv2.resize(f, (width, height)) for f in frames])


def check_reading(
    stride: int = 1, num_frames: int | None = None, size: int | None = None, fps: float | None = None
) -> None:
    """``ValueError`` if no clip can be read so."""
    counts = [count for count in (stride, num_frames, size) if count is not None]
    if any(not hasattr(count, "__index__") or count < 1 for count in counts):
        given = f"stride={stride!r}, num_frames={num_frames!r}, size={size!r}"
        raise ValueError(f"a clip needs whole numbers of at least 1 for stride, num_frames and size, got {given}")
    if fps is not None:
        rate(fps)


def rate(fps: float) -> Fraction:
    """Frames a second as a fraction. ``ValueError`` for what is no positive number."""
    try:
        exact = Fraction(float(fps)).limit_denominator(1001)  # 30000/1001 is the rate of television
    except (TypeError, ValueError, OverflowError):
        exact = Fraction(0)
    if exact <= 0 or isinstance(fps, str):
        raise ValueError(f"fps, frames a second, is a positive number, got {fps!r}")
    return exact


def played(path: str | Path) -> Iterator[Shown]:
    """The frames of a film, an animated picture or a folder of pictures, one after another."""
    path = Path(path).expanduser()
    if path.is_dir():
        return _frames_in(path)
    return _animation(path) if path.suffix.lower() in ANIMATION_SUFFIXES else _film(path)


def _film(path: Path) -> Iterator[Shown]:
    # "file:" because a name such as a:b.mp4 would be taken for a protocol
    with av.open(f"file:{path}", metadata_errors="replace") as film:
        stream = film.streams.video[0]
        step, offset, last, lasts, matrix = float(1 / (stream.average_rate or 25)), None, 0.0, 0.0, None
        for i, frame in enumerate(film.decode(stream)):
            if i == 0:  # a frame that is asked for it stays in memory until Python's garbage collector comes
                matrix = _display_matrix(frame)
            start = last + lasts
            if frame.time is not None:
                # the first frame is at 0; a clock that goes back, or far ahead, as in joined films, goes on from here
                if offset is None or not last - BACK <= frame.time + offset < start + JUMP:
                    offset = start - frame.time
                start = max(last, frame.time + offset)
            lasts = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else step
            if stream.codec_context.has_b_frames:  # then the lengths are those of other frames
                lasts = min(lasts, step)
            yield Shown(start, start + lasts, partial(_pixels, frame, stream.sample_aspect_ratio, matrix))
            last = start


def _display_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    """How a film says that it is to be turned: (a, b, c, d) of its display matrix, if it has one."""
    told = frame.side_data.get("DISPLAYMATRIX")
    return None if told is None else np.frombuffer(told, np.int32)[[0, 1, 3, 4]]


def _pixels(frame: av.VideoFrame, aspect: Fraction | None, matrix: np.ndarray | None) -> np.ndarray:
    """A decoded frame as a player shows it."""
    if any(part.is_alpha for part in frame.format.components) or frame.format.name == "pal8":
        pixels = np.asarray(as_seen(Image.fromarray(frame.to_ndarray(format="rgba"))))
    else:
        pixels = frame.to_ndarray(format="rgb24")
    if aspect and aspect != 1:
        pixels = cv2.resize(pixels, (max(1, round(pixels.shape[1] * aspect)), pixels.shape[0]))
    return pixels if matrix is None else _turned(pixels, matrix)


def _turned(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Turn and mirror by a display matrix (a, b, c, d), which takes (x, y) to (a x + c y, b x + d y), in quarter turns."""
    a, b, c, d = matrix.astype(int)
    right, down = a, d
    if abs(b) > abs(a):
        pixels, right, down = pixels.swapaxes(0, 1), c, b
    pixels = pixels[:, ::-1] if right < 0 else pixels
    return np.ascontiguousarray(pixels[::-1] if down < 0 else pixels)


def _animation(path: Path) -> Iterator[Shown]:
    """The frames of an animated picture, each as often as it fills the time of those that stay shortest."""
    with Image.open(path) as picture:
        first = int(getattr(picture, "default_image", False))  # of an APNG, for programs that cannot play it
        durations = []
        for i in range(first, getattr(picture, "n_frames", 1)):
            picture.seek(i)
            picture.load()
            told = picture.info.get("duration") or 0  # ms
            durations.append(told / 1000 if told > 10 else 0.1)  # as browsers do
        short = [lasts for lasts in durations if lasts < 1.5 * min(durations)]
        step, count = sum(short) / len(short), 0
        for i, lasts in enumerate(durations, first):
            picture.seek(i)
            pixels = np.asarray(as_seen(picture))
            for _ in range(max(1, round(lasts / step))):
                yield Shown(count * step, (count + 1) * step, partial(np.copy, pixels))
                count += 1


def _frames_in(folder: Path) -> Iterator[Shown]:
    """Pictures of a folder by name, as if each were shown for a second."""
    for i, file in enumerate(frame_files(folder)):
        yield Shown(i, i + 1, partial(_picture, file))


def frame_files(folder: Path) -> list[Path]:
    """The pictures of a folder of frames in the order of the numbers in their names."""
    files = [f for f in folder.iterdir() if f.suffix.lower() in FRAME_SUFFIXES and not f.name.startswith(".")]
    return sorted(files, key=lambda file: _numbered(file.stem))


def _numbered(name: str) -> list[str | int]:
    """What sorts ``"frame10"`` after ``"frame9"``: text and numbers in turn."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]


def _picture(file: Path) -> np.ndarray:
    # from bytes: where Pillow maps a .tiff into memory, one that is to be turned comes out scrambled
    source = BytesIO(file.read_bytes()) if file.suffix.lower() in (".tif", ".tiff") else file
    try:
        with Image.open(source) as picture:
            return np.asarray(as_seen(ImageOps.exif_transpose(picture)))
    except NO_FILM as error:
        raise UnusableClip(f"{file.name}: {error}") from error


EARLY = 0.1  # of a frame, by which one may come early: clocks of files round, that of a GIF to 0.01 s


def count_at_rate(seconds: float, fps: float) -> int:
    """How many frames ``read_clip`` takes at a rate from a film of so many seconds."""
    return math.ceil(seconds * fps - EARLY)


def _at_rate(frames: Iterator[Shown], fps: float) -> Iterator[Shown]:
    """The frames that are shown at 0, 1 / fps, 2 / fps ... seconds."""
    count, shown, early = 0, None, EARLY / fps
    for frame in frames:
        while shown and count / fps < frame.start - early:
            yield shown
            count += 1
        shown = frame
    while shown and count / fps < shown.end - early:
        yield shown
        count += 1


def _centre_square(frame: np.ndarray, size: int) -> np.ndarray:
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image = Image.fromarray(frame[top : top + side, left : left + side])
    return np.asarray(image if side == size else image.resize((size, size), Image.LANCZOS))


def check_clip(clip: np.ndarray) -> np.ndarray:
    """``clip`` as an array, uint8 (f, h, w, 3) with at least one frame; ``ValueError`` for anything else."""
    clip = np.asarray(clip)
    if clip.ndim != 4 or clip.shape[-1] != 3 or clip.dtype != np.uint8 or not clip.size:
        raise ValueError(f"a clip is uint8 of shape (frames, height, width, 3), got {clip.dtype} of shape {clip.shape}")
    return clip


def check_suffix(path: str | Path) -> Path:
    """``path``, if its suffix is one of ``WRITTEN_SUFFIXES``; ``ValueError`` if not."""
    if Path(path).suffix not in WRITTEN_SUFFIXES:
        raise ValueError(f"a clip is written as one of {', '.join(WRITTEN_SUFFIXES)}, got {Path(path).name!r}")
    return Path(path)


def write_clip(clip: np.ndarray, path: str | Path, fps: float = 8, crf: int = 20) -> None:
    """Write a clip, uint8 (f, h, w, 3), as .mp4 (H.264), .gif or .webp, by the suffix; whole or not at all.

    GIF and WebP loop, and hold frames that are equal once, for a longer time; ``read_clip`` gives them back. An .mp4 loses
    the last row or column of an odd number. ``fps`` is frames a second, at most 50 in a GIF; ``crf`` the quality of .mp4,
    from 0 (no loss) to 51 (worst). ``ValueError`` for what is not a clip, a suffix, a rate or a quality.
    """
    clip, path, fps = check_clip(clip), check_suffix(path), rate(fps)
    if not (hasattr(crf, "__index__") and 0 <= crf <= 51):
        raise ValueError(f"crf, the quality of .mp4, goes from 0 (no loss) to 51 (worst), got {crf!r}")
    if path.suffix == ".gif" and fps > 50:
        raise ValueError(f"browsers show a GIF at no more than 50 frames a second, got fps={float(fps):g}")
    if path.suffix == ".mp4" and min(clip.shape[1:3]) < 2:
        raise ValueError(f"an .mp4 needs frames of at least 2x2 pixels, got {clip.shape[2]}x{clip.shape[1]}")
    with written_aside(path) as aside:
        if path.suffix == ".mp4":
            _write_mp4(clip, aside, fps, crf)
        else:
            _write_pictures(clip, aside, fps)


def _write_pictures(clip: np.ndarray, path: Path, fps: Fraction) -> None:
    if len(clip) > 1 and (clip == clip[0]).all():
        clip = clip.copy()
        clip[1:, -1, -1] ^= 8  # nobody sees it: one frame for all would be a still picture, which has no duration
    first, *others = [Image.fromarray(frame) for frame in clip]
    options = {"quality": 90} if path.suffix == ".webp" else {}
    clock = 10 if path.suffix == ".gif" else 1  # ms; the end of each frame is rounded, so errors do not add up
    ends = [round(i * 1000 / fps / clock) * clock for i in range(len(clip) + 1)]
    durations = [end - start for start, end in pairwise(ends)]
    options |= {"duration": durations if others else durations[0], "loop": 0}
    first.save(path, save_all=True, append_images=others, **options)


def _write_mp4(clip: np.ndarray, path: Path, fps: Fraction, crf: int) -> None:
    # every player reads 4:2:0 colour, and that needs even sides
    height, width = clip.shape[1] // 2 * 2, clip.shape[2] // 2 * 2
    with av.open(f"file:{path}", "w", options={"movflags": "+faststart"}) as video:
        options = {"crf": str(crf), "preset": "slow", "threads": "1"}  # one: the same bytes on every machine
        stream = video.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in clip[:, :height, :width]:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        video.mux(stream.encode())
