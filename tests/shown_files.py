"""Films and pictures as cameras, editors and programs write them, with random properties; and a script that tries many.

    python tests/shown_files.py 10000

A scene of four fields, each of one colour and its own brightness in every frame, is written with properties that change
what a player shows: codec and pixel format, colour matrix and range, pixels that are not square, turns and mirrors,
transparency, a late start, frames of unequal length; or as pictures of a random mode. Read here, it must show the fields
where a player shows them, as many frames as it should. The script prints how many files of which kind were tried.
"""

import random
import struct
import sys
import tempfile
from collections import Counter
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import av
import numpy as np
from PIL import Image

import animatediff_ref as ar

CODECS = [  # suffix, codec, pixel formats, by how much a colour may be off
    (".mp4", "libx264", ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le"), 12),
    (".mov", "libx264", ("yuv420p", "yuv444p"), 12),
    (".mp4", "libx265", ("yuv420p", "yuv420p10le", "gbrp"), 12),
    (".mkv", "ffv1", ("yuv420p", "yuv444p", "yuv410p", "bgr0", "bgra", "yuva444p"), 8),
    (".webm", "libvpx-vp9", ("yuv420p", "yuv444p"), 16),
    (".avi", "mpeg4", ("yuv420p",), 24),
    (".avi", "libx264", ("yuv420p",), 12),
    (".avi", "mjpeg", ("yuvj420p", "yuvj444p"), 24),
    (".mpg", "mpeg2video", ("yuv420p",), 24),
    (".wmv", "wmv2", ("yuv420p",), 24),
    (".flv", "flv", ("yuv420p",), 24),
    (".mov", "qtrle", ("rgb24", "argb"), 1),
    (".mov", "png", ("rgb24", "rgba", "gray", "ya8", "rgb48be"), 2),
    (".mov", "prores_ks", ("yuv422p10le", "yuva444p10le"), 12),
]
LOSSLESS = {"libx264": {"qp": "0"}, "libx265": {"x265-params": "log-level=none:lossless=1"}, "mpeg4": {"qscale": "2"}}
LOSSLESS |= {"libvpx-vp9": {"lossless": "1"}}
MATRICES = {(1, 0, 0, 1): (0, False), (0, 1, -1, 0): (-1, False), (0, -1, 1, 0): (1, False), (-1, 0, 0, -1): (2, False)}
MATRICES |= {(-1, 0, 0, 1): (0, True), (1, 0, 0, -1): (2, True), (0, 1, 1, 0): (1, True), (0, -1, -1, 0): (-1, True)}
COLOURS = {5: (0.299, 0.114), 1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}  # FFmpeg's number -> shares of red and blue
STRETCHED = (
    "libx264",
    "libx265",
    "mpeg4",
    "prores_ks",
    "qtrle",
    "png",
)  # with these PyAV writes pixels that are not square
PICTURES = [  # suffix, modes that Pillow writes there
    (".png", ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "L key", "RGB key", "P key")),
    (".jpg", ("L", "RGB", "CMYK")),
    (".webp", ("RGB", "RGBA")),
    (".tiff", ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16")),
    (".bmp", ("1", "L", "P", "RGB")),
]
TURNS = {
    1: (0, False),
    2: (0, True),
    3: (2, False),
    4: (2, True),
    5: (1, True),
    6: (-1, False),
    7: (-1, True),
    8: (1, False),
}


class Drawn(random.Random):
    """What a seed draws."""

    def scene(self, grey: bool = False, clear: bool = False) -> np.ndarray:
        """Frames of four fields: float (f, 2, 2, 4), red, green, blue and opacity from 0 to 255."""
        fields = np.array([[self.randrange(40, 250) for _ in range(3)] for _ in range(4)], float)
        fields = fields[:, :1].repeat(3, 1) if grey else fields
        light = np.array([[self.uniform(0.5, 1) for _ in range(4)] for _ in range(self.randrange(3, 9))])
        opacity = [self.choice((0, 128, 255)) if clear else 255 for _ in range(4)]
        colours = light[..., None] * fields
        alpha = np.broadcast_to(np.array(opacity, float)[:, None], (*light.shape, 1))
        return np.concatenate([colours, alpha], -1).round().reshape(-1, 2, 2, 4)


def enlarged(fields: np.ndarray, height: int, width: int) -> np.ndarray:
    return fields.repeat(height // 2, -3).repeat(width // 2, -2)


def on_white(fields: np.ndarray) -> np.ndarray:
    share = fields[..., 3:] / 255
    return fields[..., :3] * share + 255 * (1 - share)


def turned(frames: np.ndarray, quarters: int, mirrored: bool) -> np.ndarray:
    """Frames (f, h, w, c), mirrored left to right and then turned, counterclockwise."""
    return np.rot90(frames[:, :, ::-1] if mirrored else frames, quarters, (1, 2))


def seen_fields(clip: np.ndarray) -> np.ndarray:
    """The colours in the middle of the four fields of each frame, (f, 2, 2, 3): edges may blur."""
    height, width = clip.shape[1:3]
    return np.stack(
        [
            np.stack([clip[:, y - 1 : y + 2, x - 1 : x + 2].mean((1, 2)) for x in (width // 4, 3 * width // 4)], 1)
            for y in (height // 4, 3 * height // 4)
        ],
        1,
    )


def yuv(rgb: np.ndarray, colours: int, full: bool) -> np.ndarray:
    """Pixels uint8 (h, w, 3) as yuv444p, (3, h, w), by the definition of the colour matrices."""
    red, blue = COLOURS[colours]
    r, g, b = np.moveaxis(rgb / 255.0, -1, 0)
    y = red * r + (1 - red - blue) * g + blue * b
    u, v = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
    parts = (255 * y, 255 * u + 128, 255 * v + 128) if full else (219 * y + 16, 224 * u + 128, 224 * v + 128)
    return np.stack(parts).round().clip(0, 255).astype(np.uint8)


def frame_of(pixels: np.ndarray, form: str, colours: int, full: bool) -> av.VideoFrame:
    """A frame in a pixel format; YUV without opacity by the definition, all else as FFmpeg converts it."""
    if form.startswith("yuv") and not form.startswith("yuva"):
        frame = av.VideoFrame.from_ndarray(yuv(pixels[..., :3], colours, full), format="yuv444p")
        options = {"src_colorspace": colours, "dst_colorspace": colours}
        frame = frame.reformat(format=form, **options, src_color_range=1 + full, dst_color_range=1 + full)
        frame.colorspace, frame.color_range = colours, 1 + full
        return frame
    return av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format=form)


def write_film(path: Path, codec: str, form: str, clip: np.ndarray, told: dict) -> None:
    """``clip`` is uint8 (f, h, w, 4); ``told`` the other properties."""
    with av.open(str(path), "w") as film:
        stream = film.add_stream(codec, rate=told["rate"], options=LOSSLESS.get(codec, {}))
        stream.height, stream.width, stream.pix_fmt = *clip.shape[1:3], form
        if codec in ("mpeg4", "mjpeg", "mpeg2video", "wmv2", "flv"):
            stream.codec_context.qmin, stream.codec_context.qmax = 1, 3
        if told["aspect"] != 1:
            stream.codec_context.sample_aspect_ratio = told["aspect"]
        if told["tagged"]:
            stream.codec_context.colorspace, stream.codec_context.color_range = told["colours"], 1 + told["full"]
        stream.codec_context.time_base = stream.time_base = told["clock"]
        for pixels, at in zip(clip, told["times"]):
            frame = frame_of(pixels, form, told["colours"], told["full"])
            frame.pts, frame.time_base = at, told["clock"]
            film.mux(stream.encode(frame))
        film.mux(stream.encode())


def display_matrix(path: Path, matrix: tuple[int, ...]) -> None:
    """Write a display matrix into the track header of an .mp4 or .mov, as phones do."""
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 44
    rows = (*(n * 0x10000 for n in matrix[:2]), 0, *(n * 0x10000 for n in matrix[2:]), 0, 0, 0, 0x40000000)
    data[at : at + 36] = struct.pack(">9i", *rows)
    path.write_bytes(data)


FORMS = [(suffix, codec, form, apart) for suffix, codec, forms, apart in CODECS for form in forms]


def try_film(draw: Drawn, folder: Path, kind: tuple[str, str, str, int]) -> str:
    """Write a film of one of ``FORMS``, read it, compare; returns what it is."""
    suffix, codec, form, apart = kind
    height, width = draw.choice((32, 48, 64)), draw.choice((32, 64, 96))
    fields = draw.scene(
        form in ("gray", "ya8"), clear=form in ("bgra", "yuva444p", "argb", "rgba", "ya8", "yuva444p10le")
    )
    by_clock = suffix in (".mkv", ".mp4", ".mov", ".webm") and draw.random() < 0.4
    rate = draw.choice((8, 10, 25, Fraction(30000, 1001)))
    lengths = [draw.choice((40, 80, 200)) if by_clock else 1 for _ in fields]
    start = draw.choice((0, 0, 500 if by_clock else 7))
    tagged = codec in ("libx264", "ffv1") and form.startswith("yuv4") and draw.random() < 0.6
    told = {
        "rate": rate,
        "clock": Fraction(1, 1000) if by_clock else 1 / Fraction(rate),
        "times": [start + at for at in accumulate(lengths, initial=0)],
        "aspect": draw.choice((1, 1, Fraction(2), Fraction(1, 2), Fraction(4, 3))) if codec in STRETCHED else 1,
        "colours": draw.choice(list(COLOURS)) if tagged else 5,
        "full": (tagged and draw.random() < 0.5) or "j" in form,
        "tagged": tagged,
    }
    path = folder / f"film{suffix}"
    write_film(path, codec, form, enlarged(fields, height, width).astype(np.uint8), told)
    matrix = draw.choice(list(MATRICES)) if suffix in (".mp4", ".mov") else (1, 0, 0, 1)
    if matrix != (1, 0, 0, 1):
        display_matrix(path, matrix)
    wanted = turned(on_white(fields), *MATRICES[matrix])
    case = f"{suffix} {codec} {form} {told} {matrix}"
    whole = ar.read_clip(path)
    shape = [height, max(1, round(width * told["aspect"]))]
    assert whole.shape == (len(wanted), *(shape[::-1] if matrix[1] else shape), 3), (case, whole.shape)
    gap = np.abs(seen_fields(whole) - wanted).max()
    assert gap <= apart, f"{case}: colours are off by {gap:.0f}"
    size = draw.choice((16, 32))
    if by_clock:
        fps = draw.choice((5, 12.5, 25))
        found, ends = ar.read_clip(path, fps=fps, size=size), np.cumsum(lengths[:-1])
        at = [int(np.searchsorted(ends, 1000 * k / fps, "right")) for k in range(len(found))]
        longest = ends[-1] + max(*lengths, 1000 / rate)  # how long the last stays, not every file says
        assert int(ends[-1] * fps / 1000) < len(found) <= longest * fps / 1000 + 1, case
        wanted = wanted[at]
    else:
        stride = draw.choice((1, 2))
        found, wanted = ar.read_clip(path, stride=stride, size=size), wanted[::stride]
    assert found.shape == (len(wanted), size, size, 3), (case, found.shape)
    gap = np.abs(seen_fields(found) - wanted).max()
    assert gap <= apart, f"{case}: of squares, colours are off by {gap:.0f}"
    return f"{suffix} {codec}"


def picture_of(fields: np.ndarray, mode: str) -> tuple[Image.Image, np.ndarray, dict]:
    """A picture of a mode, what of the fields it can show, and how it is to be saved."""
    options, (kind, *key) = {}, mode.split()
    if kind in ("1", "L", "LA", "I;16"):
        fields = np.concatenate([fields[..., :1].repeat(3, -1), fields[..., 3:]], -1)
    if kind == "1":
        fields[..., :3] = np.where(fields[..., :3] > 128, 255, 0)
    if kind not in ("LA", "RGBA"):
        fields[..., 3] = 255
    whole = Image.fromarray(enlarged(fields, 32, 48).astype(np.uint8), "RGBA")
    if kind == "I;16":
        return Image.fromarray(np.asarray(whole)[..., 0].astype(np.uint16) * 257), fields, {}
    picture = whole.convert("RGB").quantize(8) if kind == "P" else whole.convert(kind)
    if key:  # one value is transparent, wherever it is
        clear = picture.getpixel((0, 0))
        options["transparency"] = clear
        same = (fields[..., :3] == fields[0, 0, :3]).all(-1)
        fields[..., 3] = np.where(same, 0, 255)
    return picture, fields, options


def try_pictures(draw: Drawn, folder: Path) -> str:
    """Write a folder of numbered pictures, each of its own mode, read it as a clip, compare."""
    scene, turn = draw.scene(clear=True), draw.choice(list(TURNS))
    place, wanted = folder / "frames", []
    place.mkdir()
    for i, fields in enumerate(scene):
        suffix, modes = draw.choice(PICTURES)
        picture, fields, options = picture_of(fields.copy(), draw.choice(modes))
        if suffix in (".jpg", ".png", ".webp", ".tiff"):
            exif = Image.Exif()
            exif[0x0112] = turn
            options["exif"] = exif
            wanted.append(turned(on_white(fields)[None], *TURNS[turn])[0])
        else:
            wanted.append(on_white(fields))
        options |= {"quality": 95} if suffix == ".jpg" else {"lossless": True} if suffix == ".webp" else {}
        picture.save(place / f"{i}{suffix}", **options)
    for i, (file, fields) in enumerate(zip(sorted(place.iterdir(), key=lambda f: int(f.stem)), wanted)):
        with Image.open(file) as picture:
            case = f"{file.suffix} {picture.mode} {picture.info.keys()} turn {turn}"
        found = seen_fields(ar.read_clip(place, size=32)[i : i + 1])[0]
        gap = np.abs(found - fields).max()
        assert gap <= (30 if "CMYK" in case else 8), f"{case}: colours are off by {gap:.0f}"
    return "folder of pictures"


def try_one(seed: int, folder: Path) -> str:
    draw = Drawn(seed)
    return try_pictures(draw, folder) if draw.random() < 0.3 else try_film(draw, folder, draw.choice(FORMS))


def main(count: int) -> None:
    found, wrong = Counter(), Counter()
    for seed in range(count):
        with tempfile.TemporaryDirectory() as folder:
            try:
                found[try_one(seed, Path(folder))] += 1
            except Exception as error:
                wrong[seed] += 1
                print(seed, str(error)[:400], flush=True)
    print(f"{count} tried, {len(wrong)} wrong; by kind:", dict(sorted(found.items())))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main(int(sys.argv[1]))
