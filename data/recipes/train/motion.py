"""Stages 1 and 2 of the paper on the mini world: a domain adapter on single frames, then the motion module over it.

    python -m recipes.train.motion [--device cuda] [--adapter-steps 600] [--steps 2300]

Needs the base and the clips. One clip in twelve is held out. Everything here is the package's own training, as a
reader calls it. The error on held-out clips is measured after each stage, and again with their frames in random
order: only a model that knows how things move minds that.
"""

from argparse import Namespace
from dataclasses import replace

import torch
from diffusers import StableDiffusionPipeline

import animatediff_ref as ar
from animatediff_ref.weights.tensors import written_aside
from recipes.art.footage import HELD_OUT
from recipes.common.card import data_hash, rounded, write_card
from recipes.common.paths import DATA, MINI, RUNS, arguments, sized
from recipes.common.run import follow

RANK = 16
COMMON = {"betas": (0.9, 0.99), "anneal": True, "autocast": True, "seed": 0, "save_every": 100}


def config() -> ar.MotionConfig:
    """The official v3 semantics at the mini UNet's widths."""
    return replace(ar.MotionConfig.v3(), norm_groups=16)


def encoded(pipe: StableDiffusionPipeline) -> ar.LatentClips:
    """All clips, encoded once, cached in runs/."""
    if not (cache := RUNS / "clips.pt").exists():
        clips = ar.encode_clips(pipe, ar.list_clips(DATA / "clips.csv", DATA / "clips"))
        with written_aside(cache) as aside:
            torch.save({"latents": clips.latents, "text": clips.text, "empty": clips.empty}, aside)
    return ar.LatentClips(**torch.load(cache, weights_only=True))


def subset(clips: ar.LatentClips, rows: list[int]) -> ar.LatentClips:
    return ar.LatentClips([clips.latents[i] for i in rows], clips.text[rows], clips.empty)


def build(device: str) -> tuple[StableDiffusionPipeline, ar.LatentClips, ar.LatentClips]:
    """The base, the clips that are learnt from, and those that are held out."""
    pipe = ar.load_base("mini").to(device)
    pipe.set_progress_bar_config(disable=True)
    every = encoded(pipe)
    taught = [i for i in range(len(every)) if i % HELD_OUT]
    return pipe, subset(every, taught), subset(every, list(range(0, len(every), HELD_OUT)))


def errors(unet: torch.nn.Module, clips: ar.LatentClips) -> tuple[float, float]:
    """On held-out clips: their frames in order, and in random order."""
    batches = sized(40, toy=1)
    return tuple(ar.held_out_error(unet, clips, batches=batches, shuffled=shuffled) for shuffled in (False, True))


def train_adapter(unet: torch.nn.Module, clips: ar.LatentClips, args: Namespace) -> dict:
    """Stage 1; leaves the adapter in ``unet``."""
    plan = ar.TrainConfig(args.adapter_steps, args.frames, learning_rate=1e-3, warmup=20, ema_decay=0.98, **COMMON)
    options = {"rank": RANK, "convolutions": True, "checkpoints": RUNS / "adapter"}
    records = ar.train_domain_adapter(unet, clips, plan, **options)
    return follow("adapter", records, plan, 50)


def train_motion(unet: torch.nn.Module, motion: ar.MotionModule, clips: ar.LatentClips, args: Namespace) -> dict:
    """Stage 2; leaves the motion module in ``unet``."""
    options = {"warmup": 50, "ema_decay": 0.998, "weighting": "debiased", **COMMON}
    plan = ar.TrainConfig(args.steps, args.batch, learning_rate=1e-3, **options)
    return follow("motion", ar.train_motion_module(unet, motion, clips, plan, checkpoints=RUNS / "motion"), plan, 50)


def save_card(name: str, made: dict, device: str, found: dict[str, tuple[float, float]], **facts) -> None:
    """The card of a stage, with the held-out errors until now, by what was measured."""
    data = data_hash(DATA / "clips.csv", *sorted((DATA / "clips").glob("*.mp4")))
    for i, key in enumerate(("held_out_loss", "held_out_loss_shuffled")):
        facts[key] = rounded({model: pair[i] for model, pair in found.items()})
    write_card(MINI / f"{name}.json", __file__, made, data, device, **facts)


def main() -> None:
    defaults = {"adapter_steps": sized(600, toy=2), "steps": sized(2300, toy=2)}
    args = arguments(**defaults, frames=sized(48, toy=4), batch=sized(3, toy=1)).parse_args()
    torch.manual_seed(0)
    pipe, taught, held_out = build(args.device)
    found = {"base": errors(pipe.unet, held_out)}

    made = train_adapter(pipe.unet, taught, args)
    found["base + adapter"] = errors(pipe.unet, held_out)
    ar.save_domain_adapter(pipe.unet, MINI / "domain_adapter.safetensors", "diffusers")
    count = sum(p.numel() for name, p in pipe.unet.named_parameters() if "lora_" in name)
    save_card("domain_adapter", made, args.device, found, parameters=count, rank=RANK, convolutions=True)

    pipe.unet.fuse_lora()  # the same numbers, in fewer steps
    motion = ar.MotionModule(config(), pipe.unet).to(args.device)
    made = train_motion(pipe.unet, motion, taught, args)
    found["base + adapter + motion"] = errors(pipe.unet, held_out)
    ar.save_motion_module(motion.half(), MINI / "motion_module.safetensors")
    facts = {
        "parameters": sum(p.numel() for p in motion.parameters()),
        "clips": len(taught),
        "held_out_clips": len(held_out),
    }
    save_card("motion_module", made, args.device, found, **facts)


if __name__ == "__main__":
    main()
