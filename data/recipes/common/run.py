"""The package's training engine over a run folder.

A run lives in ``runs/NAME`` beside the data (git-ignored), so that a run that was interrupted goes on from its last
checkpoint with the same command.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict

import torch
from torch import nn

from animatediff_ref.training.loop import Loss, StepRecord, TrainConfig, optimise
from recipes.common.paths import RUNS


def fit(
    name: str,
    parameters: Iterable[nn.Parameter],
    loss_of: Callable[[torch.Generator], torch.Tensor],
    config: TrainConfig,
    every: int = 200,
) -> dict:
    """Train with the package's engine, print a line every so many steps; returns what the card needs."""
    records = optimise(parameters, lambda _, generator: [Loss(loss_of(generator))], config, RUNS / name)
    return follow(name, records, config, every)


def follow(name: str, records: Iterable[StepRecord], config: TrainConfig, every: int = 200) -> dict:
    """Run a training to its end, averaging the loss into a learning curve that survives interruptions."""
    history = RUNS / name / "curve.json"
    history.parent.mkdir(parents=True, exist_ok=True)
    curve = json.loads(history.read_text()) if history.exists() else []
    losses = []
    for record in records:
        losses.append(record.loss)
        if record.step % every == 0 or record.step == config.steps:
            mean, minutes = sum(losses) / len(losses), record.seconds / 60
            row = {"step": record.step, "loss": round(mean, 5), "minutes": round(minutes, 2)}
            curve = [old for old in curve if old["step"] < record.step] + [row]
            history.write_text(json.dumps(curve))
            print(json.dumps(row), flush=True)
            losses = []
    return {"config": asdict(config), "minutes": curve[-1]["minutes"], "curve": curve}
