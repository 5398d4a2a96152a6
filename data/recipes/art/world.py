"""The mini world's pictures: sprites on backgrounds, and the captions that describe them.

    python -m recipes.art.world               # draws data/backgrounds/*.png (128 pixels a side)

Everything here is deterministic from a ``numpy`` generator, so a data set is its seed.
"""

import csv
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from resvg_py import svg_to_bytes

from recipes.common.paths import DATA

SPRITE, COLUMNS = 64, 32  # of a sheet: pixels a side, sprites in a row
BASE_STYLES = ("noto", "twemoji")
SIDE = 64  # pixels a side of a still
SCALE = (0.55, 0.85)  # width of the object as a share of the picture's
SHIFT = 0.10  # largest shift of the object from the middle, as a share of the picture's side
TILT = 8.0  # largest rotation, degrees
SHARE_ALIKE = ("openmoji",)  # styles under CC BY-SA, which lie in a folder of their own
POSES = ("standing", "waving", "looking", "walking", "jumping", "sleeping")  # of pip, the character (character.py)


def _sky(top: str, bottom: str) -> str:
    stops = f'<stop offset="0" stop-color="{top}"/><stop offset="1" stop-color="{bottom}"/>'
    return f'<defs><linearGradient id="g" x2="0" y2="1">{stops}</linearGradient></defs><rect width="64" height="64" fill="url(#g)"/>'


def _dots(points: list[tuple[float, float, float]], colour: str) -> str:
    return "".join(f'<circle cx="{x}" cy="{y}" r="{r}" fill="{colour}"/>' for x, y, r in points)


STARS = [
    (5, 6, 0.7),
    (14, 15, 0.5),
    (9, 30, 0.6),
    (22, 5, 0.5),
    (33, 9, 0.7),
    (45, 4, 0.5),
    (57, 9, 0.8),
    (60, 24, 0.5),
    (4, 45, 0.5),
    (58, 40, 0.6),
]
FLAKES = [
    (6, 8, 1.2),
    (17, 4, 0.9),
    (11, 22, 1.0),
    (28, 6, 1.1),
    (42, 5, 0.9),
    (53, 12, 1.2),
    (60, 27, 1.0),
    (4, 36, 0.9),
    (48, 20, 0.8),
]
BACKGROUNDS = {
    "white background": '<rect width="64" height="64" fill="#fff"/>',
    "night sky": _sky("#0b1238", "#2b3a78") + _dots(STARS, "#fff6cf"),
    "blue sky": _sky("#6db7f2", "#d4ecfb") + _dots([(9, 12, 4), (14, 10, 5), (19, 12, 4), (50, 20, 4), (55, 18, 5), (59, 20, 4)], "#ffffff"),
    "meadow": _sky("#a9dcf5", "#e6f5df") + '<path d="M0 44 Q16 38 32 43 T64 42 V64 H0Z" fill="#7cc35a"/><path d="M0 54 Q20 48 40 53 T64 52 V64 H0Z" fill="#5ca843"/>',
    "beach": _sky("#8fd3f4", "#dff4fb") + '<rect y="34" width="64" height="12" fill="#2f9ac4"/><path d="M0 46 Q20 42 40 46 T64 45 V64 H0Z" fill="#f2d9a0"/>',
    "sunset": _sky("#7b3f8c", "#ffb066") + '<circle cx="48" cy="42" r="8" fill="#ffe08a"/><rect y="46" width="64" height="18" fill="#5b2d5e"/>',
    "snow": _sky("#9fb8cf", "#dbe7f1") + '<path d="M0 48 Q18 42 36 47 T64 45 V64 H0Z" fill="#fbfdff"/>' + _dots(FLAKES, "#ffffff"),
    "desert": _sky("#f6c98a", "#fdecc8") + '<path d="M0 46 Q14 36 30 45 T64 41 V64 H0Z" fill="#d9a05b"/><path d="M0 56 Q24 48 64 55 V64 H0Z" fill="#c4854a"/>',
}  # fmt: skip


@cache
def concepts() -> list[dict]:
    with open(DATA / "concepts.csv") as file:
        flags = ("still", "clip", "base", "taught")
        return [{**row, **{name: int(row[name]) for name in flags}} for row in csv.DictReader(file)]


def sheet(style: str) -> Path:
    """Where a style's sprites lie."""
    return DATA / ("share-alike" if style in SHARE_ALIKE else "stills") / f"{style}.webp"


@cache
def sprites(style: str) -> dict[str, Image.Image]:
    """Code points -> 64x64 RGBA sprite of a style, of every concept that it draws; of pip, poses -> sprite."""
    drawn = Image.open(sheet(style)).convert("RGBA")
    column = "still" if style in BASE_STYLES else "base"
    codes = POSES if style == "pip" else [row["code"] for row in concepts() if row[column]]
    corners = ((i % COLUMNS * SPRITE, i // COLUMNS * SPRITE) for i in range(len(codes)))
    found = {code: drawn.crop((x, y, x + SPRITE, y + SPRITE)) for code, (x, y) in zip(codes, corners)}
    return {code: sprite for code, sprite in found.items() if sprite.getbbox()}


@cache
def background(name: str, side: int = SIDE) -> Image.Image:
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">{BACKGROUNDS[name]}</svg>'
    return Image.open(BytesIO(bytes(svg_to_bytes(svg_string=svg, width=side, height=side)))).convert("RGB")


def resized(clip: np.ndarray, side: int = SIDE) -> np.ndarray:
    """The frames of a square clip at another size."""
    return np.stack([np.asarray(Image.fromarray(frame).resize((side, side), Image.LANCZOS)) for frame in clip])


def caption(phrase: str, place: str, style: str | None = None) -> str:
    return ", ".join(part for part in (phrase, place, style and f"{style} style") if part)


def compose(sprite: Image.Image, backdrop: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Put a sprite on a backdrop at a random place, size and slight tilt; returns RGB of the backdrop's size."""
    side = backdrop.width
    size = round(side * rng.uniform(*SCALE))
    turned = sprite.rotate(rng.uniform(-TILT, TILT), Image.BICUBIC).resize((size, size), Image.LANCZOS)
    x, y = np.round((side - size) / 2 + side * rng.uniform(-SHIFT, SHIFT, 2)).astype(int).tolist()
    picture = backdrop.copy()
    picture.paste(turned, (x, y), turned)
    return picture


def art(style: str) -> str:
    """The set of sprites that a style is made from."""
    return "noto" if style in ("pixel", "sepia") else style


def paper(backdrop: Image.Image) -> Image.Image:
    """A backdrop as ink on paper has it: grey, and light enough for black to show."""
    return backdrop.convert("L").point(lambda grey: 110 + grey * 145 // 255).convert("RGB")


def pixelated(picture: Image.Image) -> Image.Image:
    """A picture in blocks of two by two pixels and six levels a colour."""
    small = picture.resize((picture.width // 2, picture.height // 2), Image.BOX)
    return small.point(lambda level: round(level / 51) * 51).resize(picture.size, Image.NEAREST)


def browned(picture: Image.Image) -> Image.Image:
    """A picture as an old photograph: one scale of browns, from near black to cream."""
    return ImageOps.colorize(picture.convert("L"), black=(36, 20, 8), mid=(150, 104, 62), white=(250, 236, 206))


def picture(code: str, style: str, place: str, rng: np.random.Generator) -> Image.Image:
    """A concept (of pip, a pose) in a style on a background, 64x64 RGB, placed at random."""
    backdrop = paper(background(place)) if style == "ink" else background(place)
    made = compose(sprites(art(style))[code], backdrop, rng)
    treat = {"pixel": pixelated, "sepia": browned}.get(style)
    return treat(made) if treat else made


def shown_together(concept: int, place: int) -> bool:
    """Whether training ever shows a concept on a background, by their numbers: one in eight pairs is held out."""
    return (concept + place) % len(BACKGROUNDS) != 0


def main() -> None:
    (DATA / "backgrounds").mkdir(exist_ok=True)
    for name in BACKGROUNDS:
        background(name, 128).save(DATA / "backgrounds" / f"{name.replace(' ', '_')}.png", optimize=True)


if __name__ == "__main__":
    main()
