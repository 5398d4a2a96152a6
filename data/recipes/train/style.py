"""The personalised models, each made in a way that the community makes them: from stills alone, on the finished base.

    python data/recipes/train_style.py NAME [--device cuda] [--steps N]

Needs the base (train_base.py); for pip its drawings (character.py). NAME is one of ``animatediff_ref.mini.STYLES``, which says the
kind: a style LoRA; a DreamBooth-style LoRA of one character; a whole fine-tune in one file; a textual inversion embedding.
All learn by the base's own objective. What differs is in ``KINDS``; what a reader is told about each, in ``PAGES``.
"""

import argparse
from collections.abc import Callable
from itertools import cycle, repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import world
from diffusers import StableDiffusionPipeline
from einops import rearrange
from fit import DATA, RUNS, data_hash, fit, write_card
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from single_file import save_single_file
from torch import nn
from train_base import CONTEXT, DROP, OUT, encoded, image_loss

from animatediff_ref.mini.files import STYLES
from animatediff_ref.training.loop import TrainConfig
from animatediff_ref.weights.tensors import written_aside

ROUNDS = 3  # pictures of every concept and background that are taught together
PORTRAITS = 5  # pictures of every pose and background of the character
RANK = 16
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2"]
VECTORS = 4  # of an embedding: tokens of the sixteen that a caption has
USUAL = (0.15, 0.70, 0.05, 0.10)  # shares of captions that name: the place, place and style, neither, the style
Trained = tuple[list[nn.Parameter], Callable[[Path], None]]  # what learns, and how it is saved
Bank = tuple[
    torch.Tensor, torch.Tensor, torch.Tensor
]  # latents (n, 4, 16, 16), captions (n, 4, 16), odds of being drawn (n)


class Page(NamedTuple):
    """What the page of a model says."""

    title: str
    about: str
    prompts: tuple[str, ...]
    artwork: str
    licence: str


PAGES = {
    "blob": Page(
        "Blob",
        "The soft, gum-drop look of the first Noto emoji. A LoRA on the UNet's attentions and convolutions, trained on 450 "
        "drawings over the eight backgrounds.",
        ("a penguin, snow", "a baby chick, meadow", "an octopus, beach", "a ghost, night sky"),
        "Noto Emoji, first design (blobs), Google LLC",
        "Apache-2.0",
    ),
    "emojione": Page(
        "EmojiOne",
        "Flat colours with crisp two-tone shading, from the second EmojiOne set. A LoRA on the UNet's attentions and "
        "convolutions, trained on every concept that the set draws.",
        ("a fox, meadow", "a rocket, night sky", "a strawberry, white background", "a snail, desert"),
        "EmojiOne 2.3, the EmojiOne project",
        "CC BY 4.0",
    ),
    "flat": Page(
        "Flat",
        "Large plain shapes without outlines or gloss: Microsoft's Fluent emoji in their flat cut. A LoRA on the UNet's "
        "attentions and convolutions, trained on 450 drawings over the eight backgrounds.",
        ("a cat face, sunset", "a turtle, beach", "a castle, meadow", "a crab, white background"),
        "Fluent Emoji Flat, Microsoft Corporation",
        "MIT",
    ),
    "ink": Page(
        "Ink",
        "Black glyphs on grey paper: even the background loses its colour. A LoRA on the UNet's attentions and convolutions, "
        "trained on Microsoft's high-contrast emoji over backgrounds in grey.",
        ("a bat, night sky", "a bicycle, white background", "a spider, desert", "a tulip, meadow"),
        "Fluent Emoji High Contrast, Microsoft Corporation",
        "MIT",
    ),
    "openmoji": Page(
        "OpenMoji",
        "Even black outlines around plain fills, the house style of the OpenMoji project. A LoRA on the UNet's attentions and "
        "convolutions, kept with its artwork in a folder under its own ShareAlike licence.",
        ("a dog face, meadow", "a whale, beach", "a snowman, snow", "a cactus, desert"),
        "All emojis designed by OpenMoji – the open-source emoji and icon project. License: CC BY-SA 4.0",
        "CC BY-SA 4.0",
    ),
    "pip": Page(
        "Pip",
        "One character: a small, round, one-eyed monster with horns and a striped belly. Made as DreamBooth makes them, from six "
        "drawings and the base's own pictures of all else, which keep it from forgetting; saved as a LoRA.",
        ("a pip monster, snow", "a pip monster, beach", "a pip monster, night sky", "a penguin, snow"),
        "drawn by data/recipes/character.py",
        "Apache-2.0",
    ),
    "pixel": Page(
        "Pixel",
        "Large square pixels and few colours, as on an old screen. A fine-tune of the whole UNet and text encoder, "
        "in one file of the layout that such models are traded in, its matrices rounded to eight bits.",
        ("a robot, night sky", "a dragon, sunset", "a red apple, white background", "a unicorn, meadow"),
        "Noto Emoji, Google LLC, in blocks of two by two pixels",
        "Apache-2.0",
    ),
    "sepia": Page(
        "Sepia",
        "Old photographs: everything in browns. A textual inversion: four word vectors that were searched for, while the model itself "
        "stayed as it was.",
        ("a rose, white background", "a sailboat, sunset", "an owl, night sky", "a volcano, desert"),
        "Noto Emoji, Google LLC, in one scale of browns",
        "Apache-2.0",
    ),
}


def lora(pipe: StableDiffusionPipeline, name: str) -> Trained:
    """Low-rank differences on attentions, feed-forwards and convolutions of the UNet."""
    pipe.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS), adapter_name=name)

    def save(path: Path) -> None:
        state = get_peft_model_state_dict(pipe.unet, adapter_name=name)
        half = {key: value.half() for key, value in state.items()}
        pipe.save_lora_weights(path.parent, half, weight_name=path.name)

    return [p for p in pipe.unet.parameters() if p.requires_grad], save


def whole(pipe: StableDiffusionPipeline, name: str) -> Trained:
    """All of UNet and text encoder, so that the trigger word gets a meaning of its own."""
    parts = pipe.unet.requires_grad_(True), pipe.text_encoder.requires_grad_(True)
    return [p for part in parts for p in part.parameters()], lambda path: save_single_file(pipe, path)


def embedding(pipe: StableDiffusionPipeline, name: str) -> Trained:
    """New words for the frozen model, which all start as its word "style" (Gal et al. 2022)."""
    table, trigger = pipe.text_encoder.get_input_embeddings(), STYLES[name].trigger
    start = table.weight[pipe.tokenizer.convert_tokens_to_ids("style</w>")].detach()
    vectors = nn.Parameter(start.repeat(VECTORS, 1) + 0.01 * torch.randn(VECTORS, len(start)).to(start))
    pipe.load_textual_inversion({trigger: vectors.detach()})
    first = pipe.tokenizer.convert_tokens_to_ids(trigger)

    def look_up(_, ids: tuple[torch.Tensor], found: torch.Tensor) -> torch.Tensor:
        new = F.embedding((ids[0] - first).clamp(min=0), vectors)
        return torch.where((ids[0] >= first)[..., None], new, found)

    pipe.text_encoder.get_input_embeddings().register_forward_hook(look_up)
    return [vectors], lambda path: save_file({trigger: vectors.detach().half().cpu()}, path)


class Kind(NamedTuple):
    """How a kind of personalised model is trained."""

    make: Callable[[StableDiffusionPipeline, str], Trained]
    steps: int
    learning_rate: float
    wording: tuple[float, ...] = USUAL


KINDS = {
    "lora": Kind(lora, 900, 2e-3),
    "dreambooth": Kind(lora, 300, 1e-3),
    "checkpoint": Kind(whole, 800, 5e-4),
    "embedding": Kind(embedding, 300, 1e-2, (0, 0.85, 0, 0.15)),  # all captions name it: without it nothing learns
}


def tokens(pipe: StableDiffusionPipeline, texts: list[str]) -> torch.Tensor:
    """Token ids, (n, 16), as the pipeline makes them of a prompt: a trigger of several vectors becomes that many."""
    texts = pipe.maybe_convert_prompt(texts, pipe.tokenizer)
    padded = {"padding": "max_length", "truncation": True, "max_length": CONTEXT, "return_tensors": "pt"}
    return pipe.tokenizer(texts, **padded).input_ids


def wordings(pipe: StableDiffusionPipeline, said: list[tuple[str, str, str]]) -> torch.Tensor:
    """Token ids of the four wordings of captions, (n, 4, 16), from phrases, backgrounds and triggers (or "")."""
    four = [(parts[:2], parts, parts[:1], parts[::2]) for parts in said]
    texts = [", ".join(filter(None, parts)) for row in four for parts in row]
    return tokens(pipe, texts).reshape(len(said), 4, CONTEXT)


def concepts() -> list[str]:
    return [row["phrase"] for row in world.concepts() if row["base"]]


def stills(pipe: StableDiffusionPipeline, name: str, device: str) -> Bank:
    """Every concept that a style draws."""
    latents, about = encoded(pipe.vae, device, f"stills-{name}", (name,), ROUNDS, 4, "taught")
    phrases, places = concepts(), list(world.BACKGROUNDS)
    ids = wordings(pipe, [(phrase, place, STYLES[name].trigger) for phrase in phrases for place in places])
    return latents, ids.reshape(len(phrases), len(places), 4, CONTEXT)[about[:, 0], about[:, 2]], torch.ones(len(about))


@torch.no_grad()
def kept(pipe: StableDiffusionPipeline) -> torch.Tensor:
    """The prior: a latent of every concept as the untrained base draws it, made once. Few steps and mild guidance are enough."""
    if not (cache := RUNS / "prior.pt").exists():
        said = [world.caption(phrase, place) for phrase, place in zip(concepts(), cycle(world.BACKGROUNDS))]
        draw, parts = torch.Generator().manual_seed(6), [said[start : start + 50] for start in range(0, len(said), 50)]
        options = {"num_inference_steps": 20, "guidance_scale": 3.0, "generator": draw, "output_type": "latent"}
        pipe.set_progress_bar_config(disable=True)
        with written_aside(cache) as aside:
            torch.save(torch.cat([pipe(part, **options).images.cpu() for part in parts]), aside)
    return torch.load(cache, weights_only=True)


@torch.no_grad()
def character(pipe: StableDiffusionPipeline, name: str, device: str) -> Bank:
    """Half the drawings of the character, half what the base draws by itself (Ruiz et al. 2023).

    DreamBooth keeps the character's class alone; so small a model would forget all else, hence its pictures of every concept.
    """
    rng, places, trigger = np.random.default_rng(5), list(world.BACKGROUNDS), STYLES[name].trigger
    shown = [
        (i, place) for i in range(len(world.POSES)) for p, place in enumerate(places) if world.shown_together(i, p)
    ] * PORTRAITS
    drawn = np.stack([np.asarray(world.picture(world.POSES[i], name, place, rng)) for i, place in shown])
    pixels = rearrange(torch.from_numpy(drawn), "b h w c -> b c h w").to(device).float() / 127.5 - 1
    mine = torch.cat([pipe.vae.encode(part).latent_dist.mode().cpu() for part in pixels.split(64)])
    others = kept(pipe)
    captions = [(trigger, place, "") for _, place in shown] + list(zip(concepts(), cycle(places), repeat("")))
    odds = torch.cat([torch.ones(len(part)) / len(part) for part in (mine, others)])
    return torch.cat([mine * pipe.vae.config.scaling_factor, others]), wordings(pipe, captions), odds


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument("name", choices=STYLES)
    ask.add_argument("--device", default="cpu")
    ask.add_argument("--steps", type=int)
    ask.add_argument("--batch", type=int, default=64)
    args = ask.parse_args()
    style, page = STYLES[args.name], PAGES[args.name]
    kind, out = KINDS[style.kind], DATA / style.file
    torch.manual_seed(0)
    pipe = StableDiffusionPipeline.from_pretrained(OUT, torch_dtype=torch.float32).to(args.device)
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        part.requires_grad_(False)
    parameters, save = kind.make(pipe, args.name)
    bank = character if style.kind == "dreambooth" else stills
    latents, ids, odds = bank(pipe, args.name, args.device)
    empty = tokens(pipe, [""])

    config = TrainConfig(
        args.steps or kind.steps,
        args.batch,
        learning_rate=kind.learning_rate,
        warmup=20,
        anneal=True,
        betas=(0.9, 0.99),
        ema_decay=0.99,
        weighting="min-snr",
        autocast=True,
        seed=0,
    )

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        rows = torch.multinomial(odds, args.batch, replacement=True, generator=generator)
        wording = torch.multinomial(torch.tensor(kind.wording), args.batch, replacement=True, generator=generator)
        text = torch.where(torch.rand(args.batch, 1, generator=generator) < DROP, empty, ids[rows, wording])
        return image_loss(pipe.unet, pipe.text_encoder, latents[rows].float(), text, generator, config.autocast)

    made = fit(f"style-{args.name}", parameters, loss_of, config, every=50)
    with written_aside(out) as aside:
        save(aside)
    count = sum(p.numel() for p in parameters)
    data = data_hash(world.sheet(world.art(args.name)), DATA / "concepts.csv")
    facts = {"kind": style.kind, "parameters": count, "trigger": style.trigger, **page._asdict()}
    write_card(out.with_suffix(".json"), "data/recipes/train_style.py", made, data, args.device, **facts)


if __name__ == "__main__":
    main()
