"""Fetch the emoji artwork and write it as 64-pixel sprite sheets and looping clips of sprites.

    python -m recipes.art.artwork             # needs npm; 740 MB of downloads, kept in .cache/

Writes ``data/concepts.csv`` (the concepts that the base styles draw, with what we know of each) and one lossless
sheet a style, a grid of 64x64 RGBA sprites in the order of the CSV: of every ``still`` for the base styles, of every
``base`` concept for the personalised ones. What is ShareAlike goes into a folder of its own.
"""

import csv
import json
import re
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from resvg_py import svg_to_bytes

from recipes.art.world import BASE_STYLES, COLUMNS, SPRITE, sheet
from recipes.common.paths import DATA

CACHE = DATA.parent / ".cache" / "artwork"
BASE_SETS = {"noto": "@iconify-json/noto@1.2.9", "twemoji": "@iconify-json/twemoji@1.2.5"}
PERSONAL_SETS = {
    "blob": "@iconify-json/noto-v1@1.2.5",
    "emojione": "@iconify-json/emojione@1.2.3",
    "flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "ink": "@iconify-json/fluent-emoji-high-contrast@1.2.6",
    "openmoji": "@iconify-json/openmoji@1.2.29",
}
SETS = BASE_SETS | PERSONAL_SETS
INK = "#17171f"  # the colour of sets that leave it to the page
ANIMATED = [f"@lobehub/fluent-emoji-anim-{part}@1.0.0" for part in (1, 2, 3, 4)]
LABELS = "emojibase-data@17.0.0"
# Animated by the re-packager but absent from the openly licensed originals (data/LICENSES.md).
NOT_OPEN = {"1f46a", "1f48f", "1f491", "1f46b", "1f46c", "1f46d"}
BLANK = Image.new("RGBA", (SPRITE, SPRITE))  # where a style does not draw a concept
SKIN_TONES, FLAGS = "1f3f[b-f]", "1f1[ef]"
CORE = (*BASE_STYLES, "blob")  # a concept is one that these draw
# The judge and the styles draw every concept that is animated, and these everyday things that are not.
BASE_ALSO = """balloon, banana, basketball, bicycle, cactus, camera, castle, crown, doughnut, guitar, hamburger, house, ice cream, key,
light bulb, mushroom, pineapple, pizza, red apple, rose, soccer ball, strawberry, sunflower, trumpet, tulip, volcano, watermelon"""
NO_ARTICLE = ("hearts", "hands", "prints", "notes", "mugs", "glasses", "drops", "points", "eyes", "ears", "fire", "fog")


def unpacked(name: str) -> Path:
    """Where an npm package ``@scope/name@version`` lies once it is downloaded."""
    stem, version = name.rsplit("@", 1)
    return CACHE / f"{re.sub('[@/]+', '-', stem).strip('-')}-{version}"


def package(name: str) -> Path:
    """The unpacked folder of an npm package, downloaded once."""
    if not (folder := unpacked(name)).exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        archive = folder.with_name(f"{folder.name}.tgz")
        if not archive.exists():
            subprocess.run(["npm", "pack", "--silent", name, "--pack-destination", str(CACHE)], check=True)
        with tarfile.open(archive) as tar:
            tar.extractall(aside := folder.with_suffix(".new"), filter="data")
        aside.rename(folder)
    return folder / "package"


def table(folder: Path, name: str):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def key(code_points: str) -> str:
    """The code points of an emoji as the packages compare them: lower case, no variation selector."""
    return "-".join(part for part in code_points.lower().replace("_", "-").split("-") if part != "fe0f")


def labels() -> dict[str, dict]:
    """CLDR label, group and tags of every emoji that is one thing: no joiners, skin tones, flags or keycaps."""
    groups = table(package(LABELS), "meta/groups.json")["groups"]
    rows = table(package(LABELS), "en/data.json")
    kept = {}
    for row in rows:
        code, group = key(row["hexcode"]), groups.get(str(row.get("group")), "")
        odd = "200d" in code or re.search(SKIN_TONES, code) or re.match(FLAGS, code) or "20e3" in code
        if group and group not in ("component", "flags") and not odd:
            kept[code] = {"label": row["label"], "group": group, "tags": row.get("tags", [])}
    return kept


def slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower().replace("’", "").replace("'", "")).strip("-")


def vectors(style: str, known: dict[str, dict]) -> dict[str, str]:
    """SVG text of each known code point in a style; sets without a code-point table are joined by label."""
    icons = table(package(SETS[style]), "icons.json")
    names = {key(code): name for code, name in table(package(SETS[style]), "chars.json").items()}
    found = {}
    for code, row in known.items():
        name = names.get(code, slug(row["label"]))
        name = icons.get("aliases", {}).get(name, {}).get("parent", name)
        if icon := icons["icons"].get(name):
            left, top = icon.get("left", 0), icon.get("top", 0)
            width = icon.get("width", icons.get("width", 16))
            height = icon.get("height", icons.get("height", 16))
            box = f"{left} {top} {width} {height}"
            found[code] = (
                f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}" color="{INK}">{icon["body"]}</svg>'
            )
    return found


def rasterise(svg: str, size: int = SPRITE) -> Image.Image:
    image = Image.open(BytesIO(bytes(svg_to_bytes(svg_string=svg, width=size, height=size)))).convert("RGBA")
    return image if image.size == (size, size) else image.resize((size, size), Image.LANCZOS)


def animations(known: dict[str, dict]) -> dict[str, Path]:
    """File of every openly licensed animation of a known emoji; the packages also hold stills, of one frame."""
    files = {key(path.stem): path for name in ANIMATED for path in package(name).rglob("*.webp")}
    open_ones = {code: path for code, path in files.items() if code in known and code not in NOT_OPEN}
    return {code: path for code, path in open_ones.items() if getattr(Image.open(path), "n_frames", 1) > 1}


def write_sheet(images: list[Image.Image], path: Path, effort: int = 6) -> None:
    """Write sprites as one picture without loss, smaller by more ``effort``, 0 to 6."""
    rows = -(-len(images) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * SPRITE, rows * SPRITE))
    for i, image in enumerate(images):
        sheet.paste(image, (i % COLUMNS * SPRITE, i // COLUMNS * SPRITE))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, lossless=True, quality=100 if effort else 0, method=effort)


def phrase(label: str) -> str:
    """A label as a caption says it: "a penguin", "an octopus", "paw prints"."""
    text = label.lower().replace("’", "'")
    plural = text.endswith(NO_ARTICLE) and " with " not in text
    return text if plural else f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def concepts() -> list[dict]:
    """One row for each concept that the core styles draw, or that has a clip, in the order of the labels' file."""
    known = labels()
    drawn = [vectors(style, known) for style in CORE]
    moving = animations(known)
    also = {label.strip() for label in BASE_ALSO.replace("\n", " ").split(",")}
    taught = (
        (DATA / "taught.txt").read_text().splitlines()
    )  # chosen by hand: easily told apart, animated, drawn in every style
    rows = []
    for code, row in known.items():
        still, clip = all(code in style for style in drawn), code in moving
        if still or clip:
            base = still and (clip or row["label"] in also)
            rows.append({"code": code, "label": row["label"], "phrase": phrase(row["label"]), "group": row["group"],
                         "still": int(still), "clip": int(clip), "base": int(base), "taught": int(phrase(row["label"]) in taught)})  # fmt: skip
    return rows


def main() -> None:
    rows = concepts()
    with open(DATA / "concepts.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    known = labels()
    for style in SETS:
        drawn = vectors(style, known)
        wanted = [row["code"] for row in rows if row["still" if style in BASE_STYLES else "base"]]
        write_sheet([rasterise(drawn[code]) if code in drawn else BLANK for code in wanted], sheet(style))
    counts = {name: sum(row[name] for row in rows) for name in ("still", "clip", "base", "taught")}
    print(f"{len(rows)} concepts: {counts}")


if __name__ == "__main__":
    main()
