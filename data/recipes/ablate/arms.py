"""The arms of an ablation: motion modules trained alike but for one thing, at a budget that two cores can pay.

Base, clips, their order, noise and budget are the same for all arms of a seed. So are the weights that a motion module
begins with, where it has the same layers and the arm is trained over the domain adapter.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

import animatediff_ref as ar
from animatediff_ref.mini.files import PARTS
from recipes.common.paths import DATA, MINI, RUNS, sized
from recipes.common.run import follow
from recipes.train import motion as stages

STEPS, CLIPS, FRAMES = sized(500, toy=2), sized(2, toy=1), 16  # of a training, of a step, of a clip
EVERY = sized(25, toy=1)  # steps to a point of a learning curve
SEEDS = range(sized(2, toy=1))
BUDGET = {"steps": STEPS, "clips a step": CLIPS, "frames": FRAMES, "seeds": list(SEEDS)}
WEIGHTS = [*(MINI / part for part in PARTS["base"]), MINI / "domain_adapter.safetensors", DATA / "clips.csv"]


@dataclass(frozen=True)
class Arm:
    """How a motion module is trained. The defaults are the recipe's own."""

    adapter: bool = True  # over the domain adapter of stage 1
    settings: dict = field(default_factory=dict)  # of its MotionConfig
    weighting: str = "debiased"
    betas: str = "linear"


BASELINE = Arm()


@cache
def clips() -> tuple[ar.LatentClips, ar.LatentClips]:
    """Those that are learnt from, and those that are held out."""
    _, taught, held_out = stages.build("cpu")
    return taught, held_out


def folder(name: str, seed: int) -> Path:
    return RUNS / "ablate" / f"{name}-{seed}-{STEPS}x{CLIPS}".replace(" ", "-")


def pipeline(adapter: bool, betas: str, device: str) -> StableDiffusionPipeline:
    """The base under a schedule of noise, with the domain adapter merged into it, or without."""
    pipe = ar.load_base("mini").to(device)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(ar.motion_scheduler().config, beta_schedule=betas)
    if adapter:
        ar.load_domain_adapter(pipe.unet, "mini")
        pipe.unet.fuse_lora()
    return pipe


def trained(name: str, arm: Arm, seed: int, device: str) -> ar.MotionModule:
    """The motion module of an arm, trained if it is not there; a training that was interrupted goes on."""
    weights = folder(name, seed) / "motion.safetensors"
    if not weights.exists():
        print(f"training: {name}, seed {seed}", flush=True)
        train(name, arm, seed, device)
    return ar.load_motion_module(weights)


def plan(arm: Arm, seed: int) -> ar.TrainConfig:
    """Stage 2 by the recipe of the one that ships, but shorter."""
    options = {**stages.COMMON, "seed": seed, "warmup": 50, "ema_decay": 0.99, "weighting": arm.weighting}
    return ar.TrainConfig(STEPS, CLIPS, num_frames=FRAMES, learning_rate=1e-3, **options)


def started(
    arm: Arm, seed: int, device: str, checkpoints: Path | None = None
) -> tuple[ar.MotionModule, Iterator[ar.StepRecord]]:
    """A fresh motion module, and the records of its training, which goes on as they are taken."""
    torch.manual_seed(seed)
    pipe = pipeline(arm.adapter, arm.betas, device)
    motion = ar.MotionModule(replace(stages.config(), **arm.settings), pipe.unet)
    options = {"scheduler": pipe.scheduler, "checkpoints": checkpoints}
    return motion, ar.train_motion_module(pipe.unet, motion, clips()[0], plan(arm, seed), **options)


def train(name: str, arm: Arm, seed: int, device: str) -> None:
    """Train an arm to its end, and write its learning curve and its motion module."""
    out = folder(name, seed)
    out.mkdir(parents=True, exist_ok=True)
    motion, records = started(arm, seed, device, out / "checkpoints")
    follow(out.relative_to(RUNS).as_posix(), records, plan(arm, seed), EVERY)
    ar.save_motion_module(motion, out / "motion.safetensors")


def curve(name: str, seed: int) -> dict[int, float]:
    """The losses of a training that has ended, by step."""
    rows = json.loads((folder(name, seed) / "curve.json").read_text())
    return {row["step"]: row["loss"] for row in rows}
