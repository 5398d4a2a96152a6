"""Cards: how a file was made, from what, and how to find its recipe again."""

import csv
import json
import platform
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import torch

from animatediff_ref.mini.cards import card_of
from animatediff_ref.weights.tensors import written_aside
from recipes.common.paths import ROOT

SOURCES = ("animatediff_ref", "data/recipes")


def data_hash(*paths: Path) -> str:
    """sha256 over the named files, in order: which data a set of weights has seen."""
    total = sha256()
    for path in paths:
        total.update(path.read_bytes())
    return total.hexdigest()[:16]


def git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, cwd=ROOT).stdout.strip()


def provenance(recipe: str) -> dict:
    """What finds a recipe again, by its ``__file__``: commit, whether files differed, command, hash of sources.

    The sources are those of the package and of the recipes; their hash is the same wherever they lie.
    """
    path = Path(recipe).resolve().relative_to(ROOT)
    module = ".".join(path.with_suffix("").parts[1:])
    sources = sorted(file for folder in SOURCES for file in (ROOT / folder).rglob("*.py"))
    return {
        "recipe": path.as_posix(),
        "commit": git("rev-parse", "--short", "HEAD") or "unknown",
        "clean": not git("status", "--porcelain", "--", *SOURCES),
        "command": " ".join(["python -m", module, *sys.argv[1:]]),
        "sources_sha256": data_hash(*sources),
    }


def machine(device: str) -> dict[str, str]:
    """What it was made on, and with."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {"device": name, "torch": torch.__version__, "python": platform.python_version()}


def rounded(found):
    """Every number of a table of tables to four significant digits."""
    if isinstance(found, dict):
        return {name: rounded(value) for name, value in found.items()}
    if isinstance(found, list | tuple):
        return [rounded(value) for value in found]
    return float(f"{found:.4g}") if isinstance(found, float) else found


def write_measured(path: Path, recipe: str, device: str, found: dict) -> None:
    """What a recipe has measured, as JSON with its provenance."""
    said = provenance(recipe)
    facts = {"made by": said.pop("recipe"), **said, **machine(device), **rounded(found)}
    with written_aside(path) as aside:
        aside.write_text(json.dumps(facts, indent=1) + "\n")


def write_card(path: Path, recipe: str, made: dict, data: str, device: str, **facts) -> None:
    """The card of a weight file that is there already, and its learning curve beside it.

    A card says how the file was made, from what, and how good it is.
    """
    curve = made.pop("curve")
    with open(path.with_suffix(".curve.csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, curve[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(curve)
    card = {**provenance(recipe), **made, **machine(device), "data_sha256": data, **facts}
    path.write_text(json.dumps(card, indent=2) + "\n")
    seal(path)


def seal(card: Path) -> None:
    """Write into a card the sha256 of each weight file that it speaks for, for ``animatediff-ref doctor``."""
    mine = [path for path in sorted(card.parent.rglob("*.safetensors")) if card_of(path) == card]
    sums = {path.relative_to(card.parent).as_posix(): sha256(path.read_bytes()).hexdigest() for path in mine}
    card.write_text(json.dumps({**json.loads(card.read_text()), "sha256": sums}, indent=2) + "\n")
