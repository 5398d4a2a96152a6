"""What the recipes share: the package's training engine over a run folder, and the card of the weights that come out.

Every ``train_*.py`` here is ``fit`` with a different loss. A run lives in ``runs/NAME`` (git-ignored), so a killed run
goes on from its last checkpoint with the same command.
"""

import csv
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import torch
from torch import nn

from animatediff_ref.mini.cards import card_of
from animatediff_ref.training.loop import StepRecord, TrainConfig, optimise

DATA = Path(__file__).resolve().parents[1]
RUNS = DATA.parent / "runs"


def fit(
    name: str,
    parameters: Iterable[nn.Parameter],
    loss_of: Callable[[torch.Generator], torch.Tensor],
    config: TrainConfig,
    every: int = 200,
) -> dict:
    """Train with the package's engine, print a line every so many steps; returns what the card needs."""
    return follow(name, optimise(parameters, loss_of, config, RUNS / name / "state.pt"), config, every)


def follow(name: str, records: Iterable[StepRecord], config: TrainConfig, every: int = 200) -> dict:
    """Run a training to its end, averaging the loss into a learning curve that survives interruptions."""
    history = RUNS / name / "curve.json"
    history.parent.mkdir(parents=True, exist_ok=True)
    curve = json.loads(history.read_text()) if history.exists() else []
    losses = []
    for record in records:
        losses.append(record.loss)
        if record.step % every == 0 or record.step == config.steps:
            row = {
                "step": record.step,
                "loss": round(sum(losses) / len(losses), 5),
                "minutes": round(record.seconds / 60, 2),
            }
            curve = [old for old in curve if old["step"] < record.step] + [row]
            history.write_text(json.dumps(curve))
            print(json.dumps(row), flush=True)
            losses = []
    return {"config": asdict(config), "minutes": curve[-1]["minutes"], "curve": curve}


def data_hash(*paths: Path) -> str:
    """sha256 over the named files, in order: which data a set of weights has seen."""
    total = sha256()
    for path in paths:
        total.update(path.read_bytes())
    return total.hexdigest()[:16]


def git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, cwd=DATA.parent).stdout.strip()


def provenance() -> dict:
    """What finds the recipe of a weight again: the commit, whether files differed from it, the command, and a hash of all sources.

    The sources are those of the package and of the recipes; their hash is the same wherever they lie.
    """
    sources = sorted([*(DATA.parent / "animatediff_ref").rglob("*.py"), *(DATA / "recipes").rglob("*.py")])
    changed = git("status", "--porcelain", "--", "animatediff_ref", "data/recipes", "data/concepts.csv")
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    return {
        "commit": git("rev-parse", "--short", "HEAD") or "unknown",
        "clean": not changed,
        "command": " ".join(["python", f"data/recipes/{command[0]}", *command[1:]]),
        "sources_sha256": data_hash(*sources),
    }


def write_card(path: Path, recipe: str, made: dict, data: str, device: str, **facts) -> None:
    """The card of a weight file that lies there already: how it was made, from what, and how good it is; its curve goes beside it."""
    curve = made.pop("curve")
    with open(path.with_suffix(".curve.csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, curve[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(curve)
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    card = {"recipe": recipe, **provenance(), **made, "device": name, "torch": torch.__version__}
    card |= {"python": platform.python_version(), "data_sha256": data, **facts}
    path.write_text(json.dumps(card, indent=2) + "\n")
    seal(path)


def seal(card: Path) -> None:
    """Write into a card the sha256 of each weight file that it speaks for, which ``animatediff-ref doctor`` compares."""
    mine = [path for path in sorted(card.parent.rglob("*.safetensors")) if card_of(path) == card]
    sums = {path.relative_to(card.parent).as_posix(): sha256(path.read_bytes()).hexdigest() for path in mine}
    card.write_text(json.dumps({**json.loads(card.read_text()), "sha256": sums}, indent=2) + "\n")
