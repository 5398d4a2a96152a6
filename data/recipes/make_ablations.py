"""All ablations, one sweep after another; what an interrupted one has finished stays.

PYTHONPATH=data python -m recipes.make_ablations [--device cuda]
PYTHONPATH=data python -m recipes.make_ablations --smoke       # at toy size, in the toy world of make_world --smoke
"""

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from recipes.common.paths import RUNS, arguments

SWEEPS = ("adapter", "motion_module", "first_steps", "motion_lora", "composing", "methods", "control")


def run(sweep: str, device: str) -> None:
    """A sweep as its command line runs it."""
    recipe = import_module(f"recipes.ablate.{sweep}")
    sys.argv = [recipe.__file__, "--device", device]
    print(f"--- {sweep}", flush=True)
    recipe.main()


def make_toy(folder: Path, device: str) -> None:
    """All sweeps anew in a toy world, which is made first where there is none."""
    if not (folder / "measured.json").exists():
        subprocess.run([sys.executable, "-m", "recipes.make_world", "--smoke", folder, "--device", device], check=True)
    for made in (folder / "results", folder.parent / "runs" / "ablate"):
        shutil.rmtree(made, ignore_errors=True)
    env = {**os.environ, "ANIMATEDIFF_REF_DATA": str(folder), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "recipes.make_ablations", "--device", device], env=env, check=True)


def main() -> None:
    ask = arguments()
    ask.add_argument("--smoke", type=Path, nargs="?", const=RUNS / "smoke" / "data", help="at toy size, in this folder")
    args = ask.parse_args()
    if args.smoke:
        make_toy(args.smoke.resolve(), args.device)
    else:
        for sweep in SWEEPS:
            run(sweep, args.device)


if __name__ == "__main__":
    main()
