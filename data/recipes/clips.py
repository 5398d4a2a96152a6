"""The video set: 523 openly licensed animated emoji, in a look that no still style has, on backgrounds, as H.264 mp4.

    python data/recipes/clips.py              # needs the artwork's downloads (artwork.py)

Writes ``data/clips/CODE.mp4`` (128x128, 8 fps, 32 frames: the animations loop, so each goes round until it is full) and the
WebVid-style table ``data/clips.csv``.
"""

import csv

import numpy as np
import world
from artwork import animations, labels
from PIL import Image

from animatediff_ref.clips import write_clip

SIDE, FRAMES, FPS = 128, 32, 8
STRIDE = 3  # the animations run at 24 frames a second


def frames(image: Image.Image) -> list[Image.Image]:
    """Every third frame of an animation, RGBA, going round until there are 32."""
    loop = []
    for i in range(0, image.n_frames, STRIDE):
        image.seek(i)
        loop.append(image.convert("RGBA").crop((0, 0, 256, 256)))
    return [loop[i % len(loop)] for i in range(FRAMES)]


def composed(sprites: list[Image.Image], backdrop: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """Sprites on a backdrop, all at one random place and size; uint8 (f, h, w, 3)."""
    size = round(SIDE * rng.uniform(*world.SCALE))
    x, y = np.round((SIDE - size) / 2 + SIDE * rng.uniform(-world.SHIFT, world.SHIFT, 2)).astype(int)
    clip = []
    for sprite in sprites:
        picture = backdrop.convert("RGBA")
        picture.alpha_composite(sprite.resize((size, size), Image.LANCZOS), (max(x, 0), max(y, 0)))
        clip.append(np.asarray(picture.convert("RGB")))
    return np.stack(clip)


def main() -> None:
    places, known = animations(labels()), {row["code"]: row for row in world.concepts() if row["clip"]}
    folder, table = world.DATA / "clips", []
    for number, (code, row) in enumerate(known.items()):
        rng = np.random.default_rng([3, number])
        place = list(world.BACKGROUNDS)[rng.integers(len(world.BACKGROUNDS))]
        clip = composed(frames(Image.open(places[code])), world.background(place, SIDE), rng)
        write_clip(clip, folder / f"{code}.mp4", FPS)
        table.append({"videoid": code, "name": world.caption(row["phrase"], place), "page_dir": ""})
    with open(world.DATA / "clips.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, table[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    print(f"{len(table)} clips")


if __name__ == "__main__":
    main()
