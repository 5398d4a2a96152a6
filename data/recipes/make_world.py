"""The whole mini world, from its artwork on: every model, every measure, every picture of it.

    PYTHONPATH=data python -m recipes.make_world [--device cuda]    # what is missing
    PYTHONPATH=data python -m recipes.make_world --force            # all of it, from nothing
    PYTHONPATH=data python -m recipes.make_world --smoke            # the same at toy size, in a folder of its own

The steps that are still to be taken stand in ``runs/world.txt``, so that a making that was interrupted goes on with
the same command (without ``--force``).
"""

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from animatediff_ref.mini.files import SHIPPED, STYLES
from recipes.art.toy import lay_out
from recipes.common.paths import DATA, RUNS, arguments

STEPS = {  # recipe with its options -> the last file that it writes
    "train.vae": "models/mini/vae/card.json",
    "train.base --things base": "models/mini/card.json",
    "train.base --things taught --start models/mini": "models/mini/card.json",
    "train.controlnet": "models/mini/controlnet/card.json",
    **{f"train.style {name}": Path(style.file).with_suffix(".json") for name, style in STYLES.items()},
    "train.judge": "models/judge/card.json",
    "train.motion": "models/mini/motion_module.json",
    **{f"train.camera {name}": Path(place).with_suffix(".json") for name, place in SHIPPED["MotionLoRA"].items()},
    "measure.footage": "footage.json",
    "measure.world": "measured.json",
    "measure.gallery": "gallery.webp",
    "measure.describe": "README.md",
}


def planned() -> list[str]:
    """The steps whose files are missing; if there are any, all measures too, which would be of another world."""
    missing = [step for step, made in STEPS.items() if not (DATA / made).exists()]
    return [step for step in STEPS if step in missing or (missing and step.startswith("measure"))]


def run(step: str, device: str) -> None:
    """A recipe as its command line runs it."""
    name, *options = step.split()
    recipe = import_module(f"recipes.{name}")
    sys.argv = [recipe.__file__, *options, "--device", device]
    print(f"--- {step}", flush=True)
    recipe.main()


def make(device: str, force: bool) -> None:
    """Take the steps that an interrupted making has left; else those that are missing, or with ``force`` all."""
    left = RUNS / "world.txt"
    if force:
        shutil.rmtree(RUNS, ignore_errors=True)
    steps = list(STEPS) if force else left.read_text().splitlines() if left.exists() else planned()
    RUNS.mkdir(parents=True, exist_ok=True)
    while steps:
        left.write_text("\n".join(steps))
        run(steps.pop(0), device)
    left.unlink(missing_ok=True)
    print(f"the mini world is made: {DATA}")


def make_toy(folder: Path, words: list[str]) -> None:
    """The same in a toy world, which another process is told to take for the data."""
    lay_out(folder)
    threads = {"OMP_NUM_THREADS": "1"}  # at toy size they would only wait for each other
    env = {**os.environ, "ANIMATEDIFF_REF_DATA": str(folder), **threads}
    subprocess.run([sys.executable, "-m", "recipes.make_world", *words], env=env, check=True)


def main() -> None:
    ask = arguments()
    ask.add_argument("--force", action="store_true", help="everything anew; empties runs/")
    ask.add_argument("--smoke", type=Path, nargs="?", const=RUNS / "smoke" / "data", help="at toy size, in this folder")
    args = ask.parse_args()
    if args.smoke:
        make_toy(args.smoke.resolve(), ["--device", args.device, *["--force"] * args.force])
    else:
        make(args.device, args.force)


if __name__ == "__main__":
    main()
