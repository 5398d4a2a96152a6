"""A ControlNet for the mini world's base: it draws what a picture of edges shows (paper section 5.4).

    python -m recipes.train.controlnet [--device cuda] [--steps N]

Needs the base (train/base.py). It learns from stills alone, by the base's own objective, while the base is frozen. So it
knows nothing of motion.
"""

import copy
from argparse import Namespace
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, StableDiffusionPipeline

import animatediff_ref as ar
from animatediff_ref.clips.latents import encode_pixels
from animatediff_ref.method.objective import timestep_weight
from animatediff_ref.weights.tensors import written_aside
from recipes.art import world
from recipes.common.card import data_hash, write_card
from recipes.common.paths import DATA, MINI, RUNS, arguments, sized
from recipes.common.run import fit
from recipes.train.base import WORDING, captions, padded, pictures, worded

OUT = MINI / "controlnet"
THRESHOLDS = (100, 200)  # of Canny's edges
CHANNELS = (16, 32, 64)  # of the layers that bring 64 pixels down to the latents' 16
ROUNDS = sized(2, toy=1)  # pictures of every thing, style and background
BATCHES = sized(30, toy=1)  # of pictures that are placed anew, to measure the error with


def edges(pictures: np.ndarray) -> np.ndarray:
    """White lines on black where the colour of pictures jumps, uint8 (n, h, w, 3) to the same."""
    return np.stack([cv2.Canny(picture, *THRESHOLDS) for picture in pictures])[..., None].repeat(3, -1)


class Bank(NamedTuple):
    """Latents (n, 4, 16, 16), edges (n, 64, 64) as 0 and 1, and captions in four wordings (n, 4, 16)."""

    latents: torch.Tensor
    lines: torch.Tensor
    captions: torch.Tensor


def shown(pipe: StableDiffusionPipeline, name: str, rounds: int, seed: int) -> Bank:
    """Things on grounds, cached in runs/."""
    if not (cache := RUNS / f"{name}.pt").exists():
        RUNS.mkdir(parents=True, exist_ok=True)
        made, about = pictures(world.BASE_STYLES, rounds, seed, "taught")
        with written_aside(cache) as aside:
            latents = encode_pixels(pipe.vae, made, at_once=128).half()
            torch.save((latents, torch.from_numpy(edges(made)[..., 0] > 0), torch.from_numpy(about)), aside)
    latents, lines, about = torch.load(cache, weights_only=True)
    phrases = [row["phrase"] for row in world.concepts() if row["base"]]
    return Bank(latents, lines, captions(pipe.tokenizer, phrases, world.BASE_STYLES)[tuple(about.T)])


def loss_of(
    pipe: StableDiffusionPipeline, controlnet: ControlNetModel | None, bank: Bank, batch: int,
    generator: torch.Generator,
) -> torch.Tensor:  # fmt: skip
    """The denoising loss (paper Eq. 2) of a random batch, weighted by min-SNR, with its edges or without a ControlNet."""
    rows = torch.randint(len(bank.latents), (batch,), generator=generator)
    ids = worded(bank.captions[rows], WORDING, padded(pipe.tokenizer, [""]), generator)
    t, clean = torch.randint(1000, (batch,), generator=generator), bank.latents[rows].float()
    noise, plan, device = torch.randn(clean.shape, generator=generator), ar.motion_scheduler(), pipe.device
    with torch.no_grad():
        states = pipe.text_encoder(ids.to(device)).last_hidden_state
    inputs, residuals = (plan.add_noise(clean, noise, t).to(device), t.to(device), states), {}
    if controlnet is not None:
        picture = bank.lines[rows].float()[:, None].expand(-1, 3, -1, -1).to(device)
        down, middle = controlnet(*inputs, picture, return_dict=False)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    guess = pipe.unet(*inputs, **residuals).sample
    error = F.mse_loss(guess, noise.to(device), reduction="none").mean((1, 2, 3))
    return (error * timestep_weight(plan, t, "min-snr").to(device)).mean()


@torch.no_grad()
def held_out(pipe: StableDiffusionPipeline, controlnet: ControlNetModel | None, bank: Bank) -> float:
    """The loss on pictures that were placed anew, with the same noise each time."""
    chance = torch.Generator().manual_seed(1)
    return round(float(np.mean([loss_of(pipe, controlnet, bank, 32, chance).item() for _ in range(BATCHES)])), 5)


def asked() -> Namespace:
    return arguments(steps=sized(1500, toy=2), batch=sized(16, toy=2)).parse_args()


def main() -> None:
    args = asked()
    torch.manual_seed(0)
    pipe = ar.load_base("mini").to(args.device)
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        part.requires_grad_(False)
    bank, apart = shown(pipe, "controlnet", ROUNDS, 7), shown(pipe, "controlnet-apart", 1, 8)
    controlnet = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=CHANNELS).train()
    controlnet.requires_grad_(True)
    options = {"warmup": 100, "anneal": True, "betas": (0.9, 0.99), "ema_decay": 0.99, "weighting": "min-snr"}
    config = ar.TrainConfig(args.steps, args.batch, learning_rate=1e-3, seed=0, **options)
    objective = partial(loss_of, pipe, controlnet, bank, args.batch)
    made = fit("controlnet", controlnet.parameters(), objective, config)
    errors = {"base": held_out(pipe, None, apart), str(args.steps): held_out(pipe, controlnet, apart)}

    half = copy.deepcopy(controlnet).half().cpu()
    half.register_to_config(_name_or_path="")  # else the folder it was read from is written into the file
    half.save_pretrained(OUT)
    data = data_hash(*map(world.sheet, world.BASE_STYLES), DATA / "concepts.csv", MINI / "card.json")
    parameters = sum(p.numel() for p in controlnet.parameters())
    facts = {"parameters": parameters, "thresholds": THRESHOLDS, "pictures": len(bank.latents), "held_out_loss": errors}
    write_card(OUT / "card.json", __file__, made, data, args.device, **facts)


if __name__ == "__main__":
    main()
