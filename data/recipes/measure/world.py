"""How good the mini world is: data/measured.json, which the book shows and the tests check.

    python -m recipes.measure.world [--device cuda] [--force]

Each part is measured by itself and written at once. A part is kept if its models are still those that it was measured
of (``parts`` in the file says their hash and the commit); ``--force`` measures all of them anew.
"""

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from animatediff_ref.mini.files import PARTS, SHIPPED, STYLES
from recipes.common.card import data_hash, provenance, rounded, write_measured
from recipes.common.paths import DATA, JUDGE, MINI, arguments
from recipes.measure import stills
from recipes.measure.camera import WITHOUT, camera
from recipes.measure.motion import motion

OUT = DATA / "measured.json"
BASE = [*(MINI / part for part in PARTS["base"]), MINI / "tokenizer/tokenizer_config.json", JUDGE / "model.safetensors"]
MOTION = [MINI / "motion_module.safetensors", DATA / "watermark.png"]
ANIMATED = ("blob",)  # styles whose clips are measured; "base" is the base's own


class Part(NamedTuple):
    """One row of a section of the file: what it depends on, and how it is measured."""

    section: str
    name: str
    files: list[Path]
    measure: Callable[[], dict]

    @property
    def title(self) -> str:
        return f"{self.section}, {self.name}"


def parts(device: str) -> list[Part]:
    """Everything that is measured, in the order of the file."""

    @cache
    def examiner() -> stills.Examiner:
        return stills.Examiner(device)

    def part(section: str, name: str, measure: Callable[..., dict], *words: str, files: list[Path] = BASE) -> Part:
        return Part(section, name, files, lambda: measure(examiner(), *words))

    def file(name: str) -> list[Path]:
        return [DATA / STYLES[name].file] if name in STYLES else []

    cameras = {WITHOUT: [], **{name: [DATA / place] for name, place in SHIPPED["MotionLoRA"].items()}}

    return [
        *(part("choice of guidance", n, stills.choice_of_guidance, n, files=BASE + file(n)) for n in ("base", "blob")),
        *(part("text to image", n, stills.text_to_image, n) for n in ("taught pairs", "held-out pairs")),
        part("steering", "guidance", stills.guidance),
        part("steering", "negative prompt", stills.negative_prompt),
        *(part("personalised", n, stills.personalised, n, files=BASE + file(n)) for n in STYLES),
        *(Part("motion", n, BASE + MOTION + file(n), partial(motion, device, n)) for n in ANIMATED),
        *(Part("camera", n, BASE + MOTION + own, partial(camera, device, n)) for n, own in cameras.items()),
    ]


def measure_all(device: str, before: dict) -> None:
    """Measure every part that ``before``, an earlier file, does not have of these models; write the file after each."""
    todo, known = parts(device), before.get("parts", {})
    weights = {part.title: data_hash(*part.files) for part in todo}
    kept = [part for part in todo if known.get(part.title, {}).get("weights") == weights[part.title]]
    rows = {part.title: before[part.section][part.name] for part in kept}
    made = {title: known[title] for title in rows}
    for part in todo:
        if (title := part.title) not in rows:
            rows[title] = part.measure()
            made[title] = {"weights": weights[title], "commit": provenance(__file__)["commit"]}
            print(title, json.dumps(rounded(rows[title]))[:400], flush=True)
            write_measured(OUT, __file__, device, {"parts": made} | sections(todo, rows))


def sections(order: list[Part], rows: dict[str, dict]) -> dict[str, dict]:
    """The rows there are, by section and name, in the order of the parts."""
    table: dict[str, dict] = {}
    for part in order:
        if part.title in rows:
            table.setdefault(part.section, {})[part.name] = rows[part.title]
    return table


def main() -> None:
    ask = arguments()
    ask.add_argument("--force", action="store_true", help="measure every part anew")
    args = ask.parse_args()
    measure_all(args.device, json.loads(OUT.read_text()) if OUT.exists() and not args.force else {})


if __name__ == "__main__":
    main()
