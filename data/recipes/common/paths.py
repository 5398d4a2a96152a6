"""Where things lie, at which size, and what every recipe can be asked."""

import argparse
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("ANIMATEDIFF_REF_DATA") or ROOT / "data").resolve()
RUNS = DATA.parent / "runs"
MINI, JUDGE = DATA / "models" / "mini", DATA / "models" / "judge"
TOY = (DATA / "TOY").exists()  # in a folder with this mark every recipe runs at toy size (make_world.py)


def sized(real: int, toy: int) -> int:
    """A number of steps or pictures: the real one, or the one that only shows that a recipe runs."""
    return toy if TOY else real


def arguments(**defaults: int | None) -> argparse.ArgumentParser:
    """``--device``, and an integer option for each keyword, ``--steps 600`` for ``steps``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    for name, default in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    return parser
