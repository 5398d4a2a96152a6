"""The personalised models, each made in a way that the community makes them: from stills alone, on the finished base.

    python -m recipes.train.style NAME [--device cuda] [--steps N]

Needs the base (train/base.py); for pip its drawings (art/character.py). NAME is one of
``animatediff_ref.mini.files.STYLES``, which says the kind: a style LoRA; a DreamBooth-style LoRA of one character; a
whole fine-tune in one file; a textual inversion embedding. All learn by the base's own objective. What differs is in
``KINDS``; what a reader is told about each, in ``pages.py``.
"""

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from itertools import cycle, repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

from animatediff_ref.clips.latents import encode_pixels
from animatediff_ref.mini.files import STYLES
from animatediff_ref.training.loop import TrainConfig
from animatediff_ref.weights.tensors import written_aside
from recipes.art import world
from recipes.common.card import data_hash, write_card
from recipes.common.paths import DATA, MINI, RUNS, arguments, sized
from recipes.common.run import fit
from recipes.train.base import CONTEXT, Bank, encoded, image_loss, padded, worded
from recipes.train.pages import PAGES
from recipes.train.single_file import save_single_file

ROUNDS = sized(3, toy=1)  # pictures of every concept and background that are taught together
PORTRAITS = sized(5, toy=1)  # pictures of every pose and background of the character
RANK = 16
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2"]
VECTORS = 4  # of an embedding: tokens of the sixteen that a caption has
USUAL = (0.15, 0.70, 0.05, 0.10)  # shares of captions that name: the place, place and style, neither, the style
Trained = tuple[list[nn.Parameter], Callable[[Path], None]]  # what learns, and how it is saved


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
    "lora": Kind(lora, sized(900, toy=2), 2e-3),
    "dreambooth": Kind(lora, sized(300, toy=2), 1e-3),
    "checkpoint": Kind(whole, sized(800, toy=2), 5e-4),
    "embedding": Kind(
        embedding, sized(300, toy=2), 1e-2, (0, 0.85, 0, 0.15)
    ),  # all captions name it: without it nothing learns
}


def tokens(pipe: StableDiffusionPipeline, texts: list[str]) -> torch.Tensor:
    """Token ids, (n, 16), as the pipeline makes them of a prompt: a trigger of several vectors becomes that many."""
    return padded(pipe.tokenizer, pipe.maybe_convert_prompt(texts, pipe.tokenizer))


def wordings(pipe: StableDiffusionPipeline, said: list[tuple[str, str, str]]) -> torch.Tensor:
    """Token ids of the four wordings of captions, (n, 4, 16), from phrases, backgrounds and triggers (or "")."""
    four = [(parts[:2], parts, parts[:1], parts[::2]) for parts in said]
    texts = [", ".join(filter(None, parts)) for row in four for parts in row]
    return tokens(pipe, texts).reshape(len(said), 4, CONTEXT)


def concepts() -> list[str]:
    return [row["phrase"] for row in world.concepts() if row["base"]]


def stills(pipe: StableDiffusionPipeline, name: str) -> Bank:
    """Every concept that a style draws."""
    latents, about = encoded(pipe.vae, f"stills-{name}", (name,), ROUNDS, 4, "taught")
    phrases, places = concepts(), list(world.BACKGROUNDS)
    ids = wordings(pipe, [(phrase, place, STYLES[name].trigger) for phrase in phrases for place in places])
    ids = ids.reshape(len(phrases), len(places), 4, CONTEXT)
    return Bank(latents, ids[about[:, 0], about[:, 2]], torch.ones(len(about)))


@torch.no_grad()
def kept(pipe: StableDiffusionPipeline) -> torch.Tensor:
    """The prior: a latent of every concept as the untrained base draws it, made once.

    Few steps and mild guidance are enough.
    """
    if not (cache := RUNS / "prior.pt").exists():
        said = [world.caption(phrase, place) for phrase, place in zip(concepts(), cycle(world.BACKGROUNDS))]
        draw, parts = torch.Generator().manual_seed(6), [said[start : start + 50] for start in range(0, len(said), 50)]
        steps = sized(20, toy=2)
        options = {"num_inference_steps": steps, "guidance_scale": 3.0, "generator": draw, "output_type": "latent"}
        pipe.set_progress_bar_config(disable=True)
        with written_aside(cache) as aside:
            torch.save(torch.cat([pipe(part, **options).images.cpu() for part in parts]), aside)
    return torch.load(cache, weights_only=True)


def character(pipe: StableDiffusionPipeline, name: str) -> Bank:
    """Half the drawings of the character, half what the base draws by itself (Ruiz et al. 2023).

    DreamBooth keeps the character's class alone; so small a model would forget all else, hence its pictures of every
    concept.
    """
    rng, places, trigger = np.random.default_rng(5), list(world.BACKGROUNDS), STYLES[name].trigger
    pairs = [(pose, place) for pose in range(len(world.POSES)) for place in range(len(places))]
    shown = [(world.POSES[i], places[p]) for i, p in pairs if world.shown_together(i, p)] * PORTRAITS
    drawn = np.stack([np.asarray(world.picture(pose, name, place, rng)) for pose, place in shown])
    mine, others = encode_pixels(pipe.vae, drawn, at_once=64), kept(pipe)
    captions = [(trigger, place, "") for _, place in shown] + list(zip(concepts(), cycle(places), repeat("")))
    odds = torch.cat([torch.ones(len(part)) / len(part) for part in (mine, others)])
    return Bank(torch.cat([mine, others]), wordings(pipe, captions), odds)


def build(name: str, device: str) -> tuple[StableDiffusionPipeline, Trained, Bank]:
    """The base, what of it learns and how that is saved, and what it learns from."""
    pipe = StableDiffusionPipeline.from_pretrained(MINI, torch_dtype=torch.float32).to(device)
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        part.requires_grad_(False)
    trained = KINDS[STYLES[name].kind].make(pipe, name)
    bank = character if STYLES[name].kind == "dreambooth" else stills
    return pipe, trained, bank(pipe, name)


def loss_of(
    pipe: StableDiffusionPipeline, kind: Kind, bank: Bank, empty: torch.Tensor, config: TrainConfig,
    generator: torch.Generator,
) -> torch.Tensor:  # fmt: skip
    """The base's own objective, on what this model is shown and told."""
    rows = torch.multinomial(bank.odds, config.batch_size, replacement=True, generator=generator)
    text = worded(bank.captions[rows], kind.wording, empty, generator)
    return image_loss(pipe.unet, pipe.text_encoder, bank.latents[rows].float(), text, generator, config.autocast)


def plan(kind: Kind, args: Namespace) -> TrainConfig:
    options = {"warmup": 20, "anneal": True, "betas": (0.9, 0.99), "ema_decay": 0.99, "weighting": "min-snr"}
    steps = args.steps or kind.steps
    return TrainConfig(steps, args.batch, learning_rate=kind.learning_rate, autocast=True, seed=0, **options)


def main() -> None:
    ask = arguments(steps=None, batch=sized(64, toy=4))
    ask.add_argument("name", choices=STYLES)
    args = ask.parse_args()
    style = STYLES[args.name]
    kind, out = KINDS[style.kind], DATA / style.file
    torch.manual_seed(0)
    pipe, (parameters, save), bank = build(args.name, args.device)
    config = plan(kind, args)
    objective = partial(loss_of, pipe, kind, bank, tokens(pipe, [""]), config)
    made = fit(f"style-{args.name}", parameters, objective, config, every=50)
    with written_aside(out) as aside:
        save(aside)
    facts = {"kind": style.kind, "parameters": sum(p.numel() for p in parameters), "trigger": style.trigger}
    data = data_hash(world.sheet(world.art(args.name)), DATA / "concepts.csv")
    write_card(out.with_suffix(".json"), __file__, made, data, args.device, **facts, **PAGES[args.name]._asdict())


if __name__ == "__main__":
    main()
