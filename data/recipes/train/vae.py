"""The mini world's autoencoder: 64x64 pixels to 16x16x4 latents, trained on Noto and Twemoji stills and on random shapes.

    python data/recipes/train_vae.py [--device cuda] [--steps 4600] [--polish 3000]

The shapes stand for what an autoencoder of the real world has seen beyond the looks of its base model: lines, outlines, any
colour. No personalised style is among them. One concept in twenty is held out; the card states the reconstruction quality on
those, and on styles that it never saw, in PSNR. In the end the decoder alone goes on, by squared error, while the latents stay
what they are: as Stable Diffusion's decoders were bettered after its release.
"""

import argparse
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
import world
from diffusers import AutoencoderKL
from fit import DATA, data_hash, fit, write_card
from PIL import Image, ImageDraw

from animatediff_ref.training.loop import TrainConfig

OUT = DATA / "models" / "mini" / "vae"
HELD_OUT = 20  # every twentieth concept
STILLS, SHAPES = 9000, 4500  # pictures in the bank
UNSEEN = ("blob", "emojione", "flat", "ink", "openmoji", "pixel")


def stills(codes: list[str], count: int, seed: int, styles: tuple[str, ...] = world.BASE_STYLES) -> torch.Tensor:
    """``count`` pictures of the given concepts, uint8 (n, 3, 64, 64)."""
    rng = np.random.default_rng(seed)
    places = list(world.BACKGROUNDS)
    pictures = np.empty((count, 3, world.SIDE, world.SIDE), np.uint8)
    for i in range(count):
        style, code = styles[rng.integers(len(styles))], codes[rng.integers(len(codes))]
        made = world.picture(code, style, places[rng.integers(len(places))], rng)
        pictures[i] = np.asarray(made).transpose(2, 0, 1)
    return torch.from_numpy(pictures)


def shapes(rng: np.random.Generator, side: int = 4 * world.SIDE) -> Image.Image:
    """Some strokes, outlines and filled shapes in random colours, a third of them black or white, on a plain or shaded ground."""

    def colour() -> tuple[int, ...]:
        grey = rng.random() < 1 / 3
        return (int(rng.choice([0, 24, 255])),) * 3 if grey else tuple(rng.integers(0, 256, 3).tolist())

    ramp = Image.linear_gradient("L").resize((side, side)).rotate(int(rng.choice([0, 90, 180, 270])))
    ground = [Image.new("RGB", (side, side), colour()) for _ in range(2)]
    picture = Image.composite(*ground, ramp) if rng.random() < 0.5 else ground[0]
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.integers(3, 14)):
        points = (
            (rng.uniform(0, side) + rng.normal(0, side / 5, (rng.integers(2, 6), 2)) + [0, rng.uniform(-60, 60)])
            .ravel()
            .tolist()
        )
        box = [*np.sort([points[0], points[2]]), *np.sort([points[1], points[3]])]
        box, width = [box[0], box[2], box[1], box[3]], int(rng.integers(2, 14))
        filled = colour() if rng.random() < 0.5 else None
        match rng.integers(4):
            case 0:
                draw.line(points, colour(), width, joint="curve")
            case 1:
                draw.ellipse(box, filled, colour(), width)
            case 2:
                draw.rectangle(box, filled, colour(), width)
            case 3:
                draw.arc(box, rng.uniform(0, 180), rng.uniform(180, 360), colour(), width)
    return picture.resize((world.SIDE, world.SIDE), Image.BOX)


def bank(codes: list[str]) -> torch.Tensor:
    """What the autoencoder learns from, uint8 (n, 3, 64, 64)."""
    rng = np.random.default_rng(7)
    drawn = np.stack([np.asarray(shapes(rng)).transpose(2, 0, 1) for _ in range(SHAPES)])
    return torch.cat([stills(codes, STILLS, seed=0), torch.from_numpy(drawn)])


def split() -> tuple[list[str], list[str]]:
    codes = [row["code"] for row in world.concepts() if row["still"]]
    return [c for i, c in enumerate(codes) if i % HELD_OUT], codes[::HELD_OUT]


def model() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=world.SIDE,
        mid_block_add_attention=False,
    )


def edges(picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return picture.diff(dim=-1), picture.diff(dim=-2)


def difference(made: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of pixels and of their edges."""
    return (made - real).abs().mean() + sum((a - b).abs().mean() for a, b in zip(edges(made), edges(real)))


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
    ask.add_argument("--steps", type=int, default=4600)
    ask.add_argument("--polish", type=int, default=3000)
    ask.add_argument("--batch", type=int, default=24)
    args = ask.parse_args()
    torch.manual_seed(0)
    seen, unseen = split()
    pictures, held_out = bank(seen), stills(unseen, 200, seed=1)
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

    def real(generator: torch.Generator) -> torch.Tensor:
        picked = pictures[torch.randint(len(pictures), (args.batch,), generator=generator)]
        if torch.rand((), generator=generator) < 0.5:
            picked = picked.flip(-1)
        return picked.to(args.device).float() / 127.5 - 1

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        given = real(generator)
        with torch.autocast(args.device, torch.bfloat16, config.autocast):
            latent = vae.encode(given).latent_dist
            noise = torch.randn(latent.mean.shape, generator=generator).to(args.device)
            made = vae.decode(latent.mean + latent.std * noise).sample.float()
        kl = 1e-6 * latent.kl().mean() / latent.mean[0].numel()
        return difference(made, given) + 4 * F.mse_loss(made, given) + kl

    def decoder_loss_of(generator: torch.Generator) -> torch.Tensor:
        given = real(generator)
        with torch.autocast(args.device, torch.bfloat16, config.autocast):
            with torch.no_grad():
                latents = vae.encode(given).latent_dist.mode()
            made = vae.decode(latents).sample.float()
        return 0.1 * difference(made, given) + 8 * F.mse_loss(made, given)

    made = fit("vae", vae.parameters(), loss_of, config)
    decoder = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    polished = fit("vae-decoder", decoder, decoder_loss_of, replace(config, steps=args.polish, learning_rate=1e-3))
    made["minutes"] += polished["minutes"]
    made["curve"] += [{**row, "step": row["step"] + args.steps} for row in polished["curve"]]
    with torch.no_grad():
        spread = vae.encode(pictures[:1000].to(args.device).float() / 127.5 - 1).latent_dist.mode().std().item()
    vae.register_to_config(scaling_factor=round(1 / spread, 5))
    vae.half().save_pretrained(OUT)
    data = data_hash(*map(world.sheet, world.BASE_STYLES), DATA / "concepts.csv")
    vae.float()
    base = [row["code"] for row in world.concepts() if row["base"]]
    drawn = {style: [c for c in base if c in world.sprites(world.art(style))] for style in UNSEEN}
    quality = {
        "psnr_held_out_db": round(psnr(vae, held_out), 2),
        "held_out_stills": len(held_out),
        "psnr_unseen_styles_db": {s: round(psnr(vae, stills(codes, 200, 1, (s,))), 2) for s, codes in drawn.items()},
    }
    parameters = sum(p.numel() for p in vae.parameters())
    write_card(
        OUT / "card.json", "data/recipes/train_vae.py", made, data, args.device, parameters=parameters, **quality
    )


if __name__ == "__main__":
    main()
