"""The mini world's autoencoder: 64x64 pixels to 16x16x4 latents, trained on Noto and Twemoji stills alone.

    python data/recipes/train_vae.py [--device cuda] [--steps 3800]

One concept in twenty is held out; the card states the reconstruction quality on those, in PSNR.
"""

import argparse

import numpy as np
import torch
import world
from diffusers import AutoencoderKL
from fit import DATA, data_hash, fit, write_card

from animatediff_ref.training import TrainConfig

OUT = DATA / "models" / "mini" / "vae"
HELD_OUT = 20  # every twentieth concept
BANK = 9000  # composed pictures


def stills(codes: list[str], count: int, seed: int, styles: tuple[str, ...] = ("noto", "twemoji")) -> torch.Tensor:
    """``count`` composed pictures of the given concepts, uint8 (n, 3, 64, 64)."""
    rng = np.random.default_rng(seed)
    places = [world.background(name) for name in world.BACKGROUNDS]
    pictures = np.empty((count, 3, world.SIDE, world.SIDE), np.uint8)
    for i in range(count):
        sprite = world.sprites(styles[rng.integers(len(styles))])[codes[rng.integers(len(codes))]]
        pictures[i] = np.asarray(world.compose(sprite, places[rng.integers(len(places))], rng)).transpose(2, 0, 1)
    return torch.from_numpy(pictures)


def split() -> tuple[list[str], list[str]]:
    codes = [row["code"] for row in world.concepts() if row["still"]]
    return [c for i, c in enumerate(codes) if i % HELD_OUT], codes[::HELD_OUT]


def model() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=world.SIDE,
        mid_block_add_attention=False,
    )


def edges(picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return picture.diff(dim=-1), picture.diff(dim=-2)


def psnr(vae: AutoencoderKL, pictures: torch.Tensor) -> float:
    """Mean PSNR in dB over pictures, uint8 (n, 3, h, w), of their reconstruction rounded to 8 bits."""
    device = next(vae.parameters()).device
    real = pictures.to(device).float()
    with torch.no_grad():
        made = vae.decode(vae.encode(real / 127.5 - 1).latent_dist.mode()).sample
    made = ((made.clamp(-1, 1) + 1) * 127.5).round()
    return (10 * torch.log10(255**2 / (made - real).square().mean((1, 2, 3)).clamp(min=1e-3))).mean().item()


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument("--device", default="cpu")
    ask.add_argument("--steps", type=int, default=3800)
    ask.add_argument("--batch", type=int, default=24)
    args = ask.parse_args()
    torch.manual_seed(0)
    seen, unseen = split()
    bank, held_out = stills(seen, BANK, seed=0), stills(unseen, 200, seed=1)
    vae = model().to(args.device)

    config = TrainConfig(
        args.steps,
        args.batch,
        learning_rate=2e-3,
        warmup=100,
        anneal=True,
        betas=(0.9, 0.99),
        ema_decay=0.999,
        autocast=True,
        seed=0,
    )

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        picked = bank[torch.randint(len(bank), (args.batch,), generator=generator)]
        if torch.rand((), generator=generator) < 0.5:
            picked = picked.flip(-1)
        real = picked.to(args.device).float() / 127.5 - 1
        with torch.autocast(args.device, torch.bfloat16, config.autocast):
            latent = vae.encode(real).latent_dist
            noise = torch.randn(latent.mean.shape, generator=generator).to(args.device)
            made = vae.decode(latent.mean + latent.std * noise).sample.float()
        shapes = sum((a - b).abs().mean() for a, b in zip(edges(made), edges(real)))
        return (made - real).abs().mean() + shapes + 1e-6 * latent.kl().mean() / latent.mean[0].numel()

    made = fit("vae", vae.parameters(), loss_of, config)
    with torch.no_grad():
        spread = vae.encode(bank[:1000].to(args.device).float() / 127.5 - 1).latent_dist.mode().std().item()
    vae.register_to_config(scaling_factor=round(1 / spread, 5))
    vae.half().save_pretrained(OUT)
    data = data_hash(*(DATA / "stills" / f"{style}.webp" for style in ("noto", "twemoji")), DATA / "concepts.csv")
    quality = {"psnr_held_out_db": round(psnr(vae.float(), held_out), 2), "held_out_stills": len(held_out)}
    parameters = sum(p.numel() for p in vae.parameters())
    write_card(
        OUT / "card.json", "data/recipes/train_vae.py", made, data, args.device, parameters=parameters, **quality
    )


if __name__ == "__main__":
    main()
