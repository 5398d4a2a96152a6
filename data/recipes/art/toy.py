"""A toy world: fourteen things of the artwork, in a folder of their own in which every recipe runs in minutes.

It is there to show that the recipes run, from the autoencoder to the gallery. What they make in it is good for
nothing else.
"""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from recipes.art import artwork, world
from recipes.common.paths import DATA

THINGS = ("grinning face", "ghost", "robot", "red heart", "fox", "cat face", "bat", "baby chick", "penguin", "frog",
          "octopus", "birthday cake", "rocket", "snowman")  # fmt: skip
COPIED = ("README.md", "taught.txt", "watermark.png", "stills/pip.webp")
FRAMES, SIDE = 6, 256  # of an animation


def lay_out(folder: Path) -> None:
    """Make, or make good, the artwork of a toy world. ``ValueError`` if a folder is there that is none."""
    if folder.exists() and not (folder / "TOY").exists():
        raise ValueError(f"{folder} is there and is no toy world")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "TOY").write_text("In this folder every recipe runs at toy size.\n")
    rows = [row for row in world.concepts() if row["label"] in THINGS]
    write_table(folder / "concepts.csv", rows)
    for name in COPIED:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(DATA / name, folder / name)
    shutil.copytree(DATA / "backgrounds", folder / "backgrounds", dirs_exist_ok=True)
    for style in artwork.SETS:
        sprites, sheet = world.sprites(style), world.sheet(style).relative_to(DATA)
        artwork.write_sheet([sprites.get(row["code"], artwork.BLANK) for row in rows], folder / sheet, effort=0)
    copy_clips(folder, {row["code"] for row in rows})
    animate(folder.parent / artwork.CACHE.relative_to(DATA.parent), rows)


def write_table(path: Path, rows: list[dict]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def copy_clips(folder: Path, codes: set[str]) -> None:
    with open(DATA / "clips.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["videoid"] in codes]
    write_table(folder / "clips.csv", rows)
    (folder / "clips").mkdir(exist_ok=True)
    for row in rows:
        name = f"{row['videoid']}.mp4"
        shutil.copy(DATA / "clips" / name, folder / "clips" / name)


def animate(cache: Path, rows: list[dict]) -> None:
    """Stand-ins for the downloads: each thing sways, and is called what the table calls it."""
    first, *others = (cache / artwork.unpacked(name).name / "package" for name in artwork.ANIMATED)
    for folder in (first, *others):
        folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        frames = swaying(world.sprites("noto")[row["code"]])
        options = {"save_all": True, "append_images": frames[1:], "lossless": True, "quality": 0, "method": 0}
        frames[0].save(first / f"{row['code']}.webp", **options)
    texts = {
        "meta/groups.json": {"groups": {"0": "things"}},
        "en/data.json": [{"hexcode": row["code"], "label": row["label"], "group": 0} for row in rows],
    }
    for name, found in texts.items():
        path = cache / artwork.unpacked(artwork.LABELS).name / "package" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found))


def swaying(sprite: Image.Image) -> list[Image.Image]:
    large, frames = sprite.resize((SIDE, SIDE), Image.NEAREST), []
    for turn in np.sin(np.linspace(0, 2 * np.pi, FRAMES, endpoint=False)):
        frames.append(large.rotate(15 * turn))
    return frames
