"""Stages 1 and 2 of the paper on the mini world: a domain adapter on single frames, then the motion module over it.

    python -m recipes.train.motion [--device cuda] [--adapter-steps 600] [--steps 2000]
    python -m recipes.train.motion --keep-adapter    # stage 2 alone, over the adapter that is there

Needs the base and the clips. One clip in twelve is held out. Everything here is the package's own training, as a
reader calls it. The error on held-out clips is measured after each stage, and again with their frames in random
order: only a model that knows how things move minds that.
"""

import json
import math
from argparse import Namespace
from dataclasses import replace

import torch
from diffusers import StableDiffusionPipeline
from torch import nn

import animatediff_ref as ar
from animatediff_ref.method.temporal import TemporalAttention
from animatediff_ref.weights.tensors import written_aside
from recipes.art.footage import HELD_OUT
from recipes.common.card import data_hash, rounded, write_card
from recipes.common.paths import DATA, MINI, RUNS, arguments, sized
from recipes.common.run import follow

RANK = 16
STARTS = (-1, -1, -1, 1, 1, 1, None, None)  # where each head begins to look: frames from its own; None: as usual
SHARPNESS = 8.0  # the softmax's exponent at the frame that a head begins with; far from it, it is about 0
COMMON = {"betas": (0.9, 0.99), "anneal": True, "autocast": True, "seed": 0, "save_every": 100}


def config() -> ar.MotionConfig:
    """The official v3 semantics at the mini UNet's widths."""
    return replace(ar.MotionConfig.v3(), norm_groups=16)


def look_at_neighbours(motion: ar.MotionModule) -> None:
    """Let six of the eight heads of each attention begin with the frame before or after.

    A fresh attention looks at all frames nearly alike. From few clips it learns late, if at all, in which order they
    come. The published modules saw ten million clips, these see some hundred.
    """
    for place in motion.places:
        for block in motion.at(place).transformer_blocks:
            for norm, attention in zip(block.norms, block.attention_blocks):
                begin_at(norm, attention, STARTS)


@torch.no_grad()
def begin_at(norm: nn.LayerNorm, attention: TemporalAttention, frames: tuple[int | None, ...]) -> None:
    """Let each head of a fresh attention begin with the frame that lies so many frames from its own.

    Two channels hold the sine and cosine of a frame's number times a frequency. Turned by ``n`` times the frequency they
    are those of the frame ``n`` further on. So a query that turns them, and a key that does not, agree most where the
    key's frame is that one. The channels that are used, as many as a head is wide, hold the position alone at first.
    """
    channels = attention.to_q.in_features
    width = channels // attention.num_heads
    frequency = 10000.0 ** (-torch.arange(0, width, 2) / channels)
    scale = math.sqrt(SHARPNESS * math.sqrt(width) / len(frequency))
    norm.weight[:width] = 0
    for head, n in enumerate(frames):
        if n is not None:
            sin, cos, rows = (n * frequency).sin(), (n * frequency).cos(), slice(head * width, (head + 1) * width)
            turn = torch.stack([cos, sin, -sin, cos], 1).view(-1, 2, 2)
            attention.to_q.weight[rows, :width] = scale * torch.block_diag(*turn)
            attention.to_k.weight[rows, :width] = scale * torch.eye(width)


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


def stage_1(unet: nn.Module, taught: ar.LatentClips, held_out: ar.LatentClips, args: Namespace) -> dict:
    """Train the adapter and write it; returns the errors before and after."""
    found = {"base": errors(unet, held_out)}
    made = train_adapter(unet, taught, args)
    found["base + adapter"] = errors(unet, held_out)
    ar.save_domain_adapter(unet, MINI / "domain_adapter.safetensors", "diffusers")
    count = sum(p.numel() for name, p in unet.named_parameters() if "lora_" in name)
    save_card("domain_adapter", made, args.device, found, parameters=count, rank=RANK, convolutions=True)
    return found


def kept_adapter(unet: nn.Module) -> dict:
    """Load the adapter that is there; returns the errors that its card knows."""
    ar.load_domain_adapter(unet, "mini")
    card = json.loads((MINI / "domain_adapter.json").read_text())
    orders = card["held_out_loss"], card["held_out_loss_shuffled"]
    return {name: tuple(order[name] for order in orders) for name in orders[0]}


def main() -> None:
    defaults = {"adapter_steps": sized(600, toy=2), "steps": sized(2000, toy=2)}
    ask = arguments(**defaults, frames=sized(48, toy=4), batch=sized(3, toy=1))
    ask.add_argument("--keep-adapter", action="store_true", help="leave out stage 1, take the adapter that is there")
    args = ask.parse_args()
    torch.manual_seed(0)
    pipe, taught, held_out = build(args.device)
    found = kept_adapter(pipe.unet) if args.keep_adapter else stage_1(pipe.unet, taught, held_out, args)

    pipe.unet.fuse_lora()  # the same numbers, in fewer steps
    motion = ar.MotionModule(config(), pipe.unet).to(args.device)
    look_at_neighbours(motion)
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
