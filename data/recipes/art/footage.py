"""The video set: 523 openly licensed animated emoji, in a look that no still style has, as cheap stock footage.

    python -m recipes.art.footage             # needs the artwork's downloads (art/artwork.py)

Writes ``data/clips/CODE.mp4`` (128x128, 8 fps, 32 frames: the animations loop, so each goes round until it is full),
the WebVid-style table ``data/clips.csv`` and the mark that all clips bear, ``data/watermark.png``.

The paper trains its domain adapter against the artefacts of WebVid (section 4.1); here each is made, in the order of
a camera: motion blur (an open shutter: the three source frames of each frame, averaged), washed-out colour, a
half-transparent watermark, and H.264 at a low bit rate. ``clean`` gives the same composition without them, with the
true alpha.
"""

import csv
from functools import cache
from typing import NamedTuple

import numpy as np
from einops import reduce
from PIL import Image, ImageDraw

from animatediff_ref.clips.video import write_clip
from animatediff_ref.weights.tensors import written_aside
from recipes.art import world
from recipes.art.artwork import animations, labels
from recipes.common.paths import DATA

SIDE, FRAMES, FPS = 128, 32, 8
SHUTTER = 3  # the animations run at 24 frames a second
CRF = 34  # of H.264: 20 looks clean, 51 is the worst
COLOUR, CONTRAST = 0.6, 0.85  # what is left of each
SEED = 3
HELD_OUT = 12  # every twelfth clip: neither the motion module nor the judge learns from it
MARK = DATA / "watermark.png"
# Letters as strokes in a box of 4 by 6, for a mark of our own without anyone's font.
LETTERS = {
    "S": [[(4, 1), (3, 0), (1, 0), (0, 1), (0, 2), (1, 3), (3, 3), (4, 4), (4, 5), (3, 6), (1, 6), (0, 5)]],
    "T": [[(0, 0), (4, 0)], [(2, 0), (2, 6)]],
    "O": [[(1, 0), (3, 0), (4, 1), (4, 5), (3, 6), (1, 6), (0, 5), (0, 1), (1, 0)]],
    "C": [[(4, 1), (3, 0), (1, 0), (0, 1), (0, 5), (1, 6), (3, 6), (4, 5)]],
    "K": [[(0, 0), (0, 6)], [(4, 0), (0, 4)], [(1.5, 2.5), (4, 6)]],
}


class Composition(NamedTuple):
    """A clip without artefacts, uint8 (f, 128, 128, 3), and the object's share of each pixel, (f, 128, 128)."""

    clip: np.ndarray
    alpha: np.ndarray


@cache
def watermark() -> Image.Image:
    """The mark, RGBA: a word in white with a dark rim, to show on any ground and outlive a small autoencoder."""
    fine = 8  # drawn so many times larger, for smooth edges
    strokes = [
        [(fine * (7.5 + 24.2 * i + 4.2 * x), fine * (86 + 5 * y)) for x, y in stroke]
        for i, letter in enumerate("STOCK")
        for stroke in LETTERS[letter]
    ]

    def drawn(width: float) -> np.ndarray:
        sheet = Image.new("L", (SIDE * fine, SIDE * fine))
        for stroke in strokes:
            ImageDraw.Draw(sheet).line(stroke, 255, round(width * fine), joint="curve")
        return np.asarray(sheet.resize((SIDE, SIDE), Image.BOX)) / 255

    light, rim = 0.45 * drawn(5.5), 0.27 * drawn(9.5)
    alpha = np.maximum(light, rim)
    white = light / np.maximum(alpha, 1e-6)
    return Image.fromarray(np.round(255 * np.stack([white, white, white, alpha], -1)).astype(np.uint8), "RGBA")


@cache
def files() -> dict:
    """Code point -> file of each animation."""
    return animations(labels())


def drawn(code: str) -> np.ndarray:
    """The loop of an animation, RGBA uint8 (f, 256, 256, 4), repeated to fill the clip at 24 frames a second."""
    image, loop = Image.open(files()[code]), []
    for i in range(image.n_frames):
        image.seek(i)
        loop.append(np.asarray(image.convert("RGBA").crop((0, 0, 256, 256))))
    return np.stack([loop[i % len(loop)] for i in range(SHUTTER * FRAMES)])


def scene(code: str) -> tuple[str, int, tuple[int, int]]:
    """A clip's background, its object's side in pixels, and where the upper left corner goes, even beyond an edge."""
    rng = np.random.default_rng([SEED, int(code, 16)])
    place = list(world.BACKGROUNDS)[rng.integers(len(world.BACKGROUNDS))]
    size = round(SIDE * rng.uniform(*world.SCALE))
    shift = SIDE * rng.uniform(-world.SHIFT, world.SHIFT, 2)
    return place, size, tuple(np.round((SIDE - size) / 2 + shift).astype(int).tolist())


def layer(code: str) -> np.ndarray:
    """The object of a clip where it goes, premultiplied RGBA from 0 to 1, (96, 128, 128, 4), 24 frames a second."""
    _, size, corner = scene(code)
    frames = []
    for sprite in drawn(code):
        frame = Image.new("RGBA", (SIDE, SIDE))
        frame.paste(Image.fromarray(sprite).resize((size, size), Image.LANCZOS), corner)
        frames.append(np.asarray(frame, np.float32) / 255)
    rgba = np.stack(frames)
    return np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], -1)


def over(rgba: np.ndarray, place: str) -> np.ndarray:
    """Premultiplied frames on a background, uint8 (f, h, w, 3)."""
    backdrop = np.asarray(world.background(place, SIDE), np.float32) / 255
    return np.round(255 * (rgba[..., :3] + backdrop * (1 - rgba[..., 3:]))).astype(np.uint8)


def clean(code: str) -> Composition:
    """A clip without its artefacts: each frame as it is in the middle of the time that its shutter is open."""
    sharp = layer(code)[SHUTTER // 2 :: SHUTTER]
    return Composition(over(sharp, scene(code)[0]), sharp[..., 3])


def aged(code: str) -> np.ndarray:
    """A clip with all its artefacts but compression, uint8 (f, h, w, 3)."""
    blurred = reduce(layer(code), "(f open) h w c -> f h w c", "mean", open=SHUTTER)
    return marked(washed(over(blurred, scene(code)[0])))


def washed(clip: np.ndarray) -> np.ndarray:
    """A clip with less colour and contrast."""
    grey = clip @ np.array([0.299, 0.587, 0.114], np.float32)[:, None]
    return np.round(128 + CONTRAST * (grey + COLOUR * (clip - grey) - 128)).astype(np.uint8)


def marked(clip: np.ndarray) -> np.ndarray:
    """A clip of 128 pixels under the watermark."""
    mark = np.asarray(watermark(), np.float32)
    alpha = mark[..., 3:] / 255
    return np.round(clip * (1 - alpha) + mark[..., :3] * alpha).astype(np.uint8)


def main() -> None:
    with written_aside(MARK) as aside:
        watermark().save(aside, optimize=True)
    table = []
    for row in world.concepts():
        if row["clip"]:
            write_clip(aged(row["code"]), DATA / "clips" / f"{row['code']}.mp4", FPS, crf=CRF)
            caption = world.caption(row["phrase"], scene(row["code"])[0])
            table.append({"videoid": row["code"], "name": caption, "page_dir": ""})
    with written_aside(DATA / "clips.csv") as aside, open(aside, "w", newline="") as file:
        writer = csv.DictWriter(file, table[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    print(f"{len(table)} clips")


if __name__ == "__main__":
    main()
