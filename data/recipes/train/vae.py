"""The mini world's autoencoder: 64x64 pixels to 16x16x4 latents, trained on the base's stills and on random shapes.

    python -m recipes.train.vae [--device cuda] [--steps 4600] [--polish 3000]

The shapes stand for what an autoencoder of the real world has seen beyond the looks of its base model: lines,
outlines, any colour. No personalised style is among them. One concept in twenty is held out; the card states the
reconstruction quality on those, and on styles that it never saw, in PSNR. In the end the decoder alone goes on, by
squared error, while the latents stay what they are: as Stable Diffusion's decoders were bettered after its release.
"""

from argparse import Namespace
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from einops import rearrange
from PIL import Image, ImageDraw

from animatediff_ref.clips.latents import decode_latents, encode_pixels
from animatediff_ref.training.loop import TrainConfig, fast_bfloat16
from recipes.art import world
from recipes.common.card import data_hash, write_card
from recipes.common.paths import DATA, MINI, arguments, sized
from recipes.common.run import fit

OUT = MINI / "vae"
HELD_OUT = 20  # every twentieth concept
STILLS, SHAPES = sized(9000, toy=40), sized(4500, toy=20)  # pictures in the bank
PROBE = sized(200, toy=8)  # pictures that its quality is measured on
CHUNK = 128  # pictures that are encoded at a time
UNSEEN = ("blob", "emojione", "flat", "ink", "openmoji", "pixel")


def stills(codes: list[str], count: int, seed: int, styles: tuple[str, ...] = world.BASE_STYLES) -> np.ndarray:
    """``count`` pictures of the given concepts, uint8 (n, 64, 64, 3)."""
    rng, places = np.random.default_rng(seed), list(world.BACKGROUNDS)
    pictures = np.empty((count, world.SIDE, world.SIDE, 3), np.uint8)
    for i in range(count):
        style, code = styles[rng.integers(len(styles))], codes[rng.integers(len(codes))]
        pictures[i] = np.asarray(world.picture(code, style, places[rng.integers(len(places))], rng))
    return pictures


def shapes(rng: np.random.Generator, side: int = 4 * world.SIDE) -> Image.Image:
    """Strokes, outlines and filled shapes on a plain or shaded ground; a third of the colours are black or white."""

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


def bank(codes: list[str]) -> np.ndarray:
    """What the autoencoder learns from, uint8 (n, 64, 64, 3)."""
    rng = np.random.default_rng(7)
    drawn = np.stack([np.asarray(shapes(rng)) for _ in range(SHAPES)])
    return np.concatenate([stills(codes, STILLS, seed=0), drawn])


def split() -> tuple[list[str], list[str]]:
    """The concepts that are shown, and those that are held out."""
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
        scaling_factor=1.0,  # until its latents' spread is known
    )


def edges(picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return picture.diff(dim=-1), picture.diff(dim=-2)


def difference(made: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of pixels and of their edges."""
    return (made - real).abs().mean() + sum((a - b).abs().mean() for a, b in zip(edges(made), edges(real)))


def through(vae: AutoencoderKL, pictures: np.ndarray) -> np.ndarray:
    """Pictures, uint8 (n, h, w, 3), as the autoencoder gives them back."""
    return decode_latents(vae, encode_pixels(vae, pictures, CHUNK), CHUNK)


def psnr(vae: AutoencoderKL, pictures: np.ndarray) -> float:
    """Mean PSNR in dB over pictures of their reconstruction."""
    error = np.square(through(vae, pictures).astype(float) - pictures).mean((1, 2, 3))
    return round(float((10 * np.log10(255**2 / error.clip(min=1e-3))).mean()), 2)


def scaled(pictures: np.ndarray, device: str) -> torch.Tensor:
    """Pictures, uint8 (n, h, w, 3), as the autoencoder reads them: float32 (n, 3, h, w), -1 to 1."""
    pixels = rearrange(torch.from_numpy(pictures), "n h w c -> n c h w").contiguous()
    return pixels.to(device).float() / 127.5 - 1


def half(config: TrainConfig, device: str) -> torch.autocast:
    """bfloat16 where the device has units for it; elsewhere it would be many times slower."""
    fast = config.autocast and fast_bfloat16(torch.device(device))
    return torch.autocast(torch.device(device).type, torch.bfloat16, fast)


def some(pictures: np.ndarray, config: TrainConfig, device: str, generator: torch.Generator) -> torch.Tensor:
    """A batch of random pictures; every second batch is mirrored."""
    picked = scaled(pictures[torch.randint(len(pictures), (config.batch_size,), generator=generator).numpy()], device)
    return picked.flip(-1) if torch.rand((), generator=generator) < 0.5 else picked


def loss_of(
    vae: AutoencoderKL, pictures: np.ndarray, config: TrainConfig, device: str, generator: torch.Generator
) -> torch.Tensor:
    """Of the whole autoencoder: absolute error of pixels and edges, squared error of pixels, a little of the prior."""
    real = some(pictures, config, device, generator)
    with half(config, device):
        latent = vae.encode(real).latent_dist
        noise = torch.randn(latent.mean.shape, generator=generator).to(device)
        made = vae.decode(latent.mean + latent.std * noise).sample.float()
    kl = 1e-6 * latent.kl().mean() / latent.mean[0].numel()
    return difference(made, real) + 4 * F.mse_loss(made, real) + kl


def decoder_loss_of(
    vae: AutoencoderKL, pictures: np.ndarray, config: TrainConfig, device: str, generator: torch.Generator
) -> torch.Tensor:
    """Of the decoder alone, mostly squared error."""
    real = some(pictures, config, device, generator)
    with half(config, device):
        with torch.no_grad():
            latents = vae.encode(real).latent_dist.mode()
        made = vae.decode(latents).sample.float()
    return 0.1 * difference(made, real) + 8 * F.mse_loss(made, real)


def trained(vae: AutoencoderKL, pictures: np.ndarray, args: Namespace) -> dict:
    """Train all of it, then its decoder; returns what the card needs, of both in a row."""
    options = {"warmup": 100, "anneal": True, "betas": (0.9, 0.99), "ema_decay": 0.999, "autocast": True, "seed": 0}
    config = TrainConfig(args.steps, args.batch, learning_rate=2e-3, **options)
    made = fit("vae", vae.parameters(), partial(loss_of, vae, pictures, config, args.device), config)
    decoder = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    plan = replace(config, steps=args.polish, learning_rate=1e-3)
    polished = fit("vae-decoder", decoder, partial(decoder_loss_of, vae, pictures, plan, args.device), plan)
    made["minutes"] += polished["minutes"]
    made["curve"] += [{**row, "step": row["step"] + args.steps} for row in polished["curve"]]
    return made


def save(vae: AutoencoderKL, pictures: np.ndarray) -> None:
    """Write it in half precision, with the factor that gives its latents a spread of one."""
    spread = encode_pixels(vae, pictures[:1000], CHUNK).std().item()
    vae.register_to_config(scaling_factor=round(1 / spread, 5))
    vae.half().save_pretrained(OUT)


def quality(vae: AutoencoderKL, unseen: list[str]) -> dict:
    """PSNR on concepts that were held out, and on styles that were."""
    base = [row["code"] for row in world.concepts() if row["base"]]
    drawn = {style: [code for code in base if code in world.sprites(world.art(style))] for style in UNSEEN}
    return {
        "psnr_held_out_db": psnr(vae, stills(unseen, PROBE, seed=1)),
        "held_out_stills": PROBE,
        "psnr_unseen_styles_db": {s: psnr(vae, stills(codes, PROBE, 1, (s,))) for s, codes in drawn.items()},
    }


def main() -> None:
    defaults = {"steps": sized(4600, toy=2), "polish": sized(3000, toy=2), "batch": sized(24, toy=4)}
    args = arguments(**defaults).parse_args()
    torch.manual_seed(0)
    seen, unseen = split()
    pictures, vae = bank(seen), model().to(args.device)
    made = trained(vae, pictures, args)
    save(vae, pictures)
    facts = {"parameters": sum(p.numel() for p in vae.parameters()), **quality(vae.float(), unseen)}
    data = data_hash(*map(world.sheet, world.BASE_STYLES), DATA / "concepts.csv")
    write_card(OUT / "card.json", __file__, made, data, args.device, **facts)


if __name__ == "__main__":
    main()
