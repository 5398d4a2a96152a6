"""The mini world's text-to-image model: text encoder and UNet, trained together on latents of Noto and Twemoji stills.

    python -m recipes.train.base --things base                            # 450 things, from nothing
    python -m recipes.train.base --things taught --start models/mini    # then the 102 that it is held to

Needs the autoencoder (train/vae.py). Leaves ``data/models/mini``, a folder that ``StableDiffusionPipeline`` loads by
itself.
"""

import copy
import json
import re
from argparse import Namespace
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.nn import ModuleDict
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from animatediff_ref.clips.latents import encode_pixels
from animatediff_ref.method.objective import motion_scheduler, timestep_weight
from animatediff_ref.training.loop import TrainConfig, fast_bfloat16
from animatediff_ref.weights.tensors import written_aside
from recipes.art import world
from recipes.common.card import data_hash, write_card
from recipes.common.paths import DATA, MINI, RUNS, arguments, sized
from recipes.common.run import fit

DROP = 0.1  # share of captions replaced by the empty one
WORDING = (0.45, 0.40, 0.10, 0.05)  # shares of captions that name: the place, place and style, neither, the style
TRIGGERS = ("blob", "emojione", "flat", "ink", "openmoji", "pixel", "pip")  # what personalised models give a meaning
GUIDANCE = 3.0  # that it looks best with, chosen by measure/stills.py; kept in the tokenizer's configuration
CONTEXT = 16  # tokens in a caption, start and end included


class Phase(NamedTuple):
    """A part of the training: ``rounds`` pictures of every concept, style and background that are shown together."""

    rounds: int
    steps: int
    learning_rate: float


PHASES = {  # by the column of concepts.csv
    "base": Phase(sized(10, toy=1), sized(9000, toy=2), 2e-3),
    "taught": Phase(sized(16, toy=1), sized(3000, toy=2), 1e-3),
}


class Bank(NamedTuple):
    """Latents (n, 4, 16, 16) to learn from, captions in four wordings (n, 4, 16), and odds of being drawn, (n)."""

    latents: torch.Tensor
    captions: torch.Tensor
    odds: torch.Tensor


def words(texts: list[str]) -> list[str]:
    return sorted({word for text in texts for word in re.findall(r"[^\W\d_]+|\d|[^\s\w]", text.lower())})


def base_words() -> list[str]:
    """The words that the base model is taught."""
    phrases = [row["phrase"] for row in world.concepts() if row["taught"]]
    return words([*phrases, *world.BACKGROUNDS, *(f"{style} style" for style in world.BASE_STYLES), ","])


def tokenizer() -> CLIPTokenizer:
    """CLIP's own byte-pair scheme over a small vocabulary in which every word of every caption is one token."""
    phrases = [row["phrase"] for row in world.concepts()]
    every = words([*phrases, *world.BACKGROUNDS, *(f"{style} style" for style in world.BASE_STYLES), ",", *TRIGGERS])
    pieces = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    spelt = [pieces.pre_tokenizer.pre_tokenize_str(word)[0][0] for word in every]
    ends = sorted({f"{word[-1]}</w>" for word in spelt})  # named, or they would be numbered in another order each time
    trainer = trainers.BpeTrainer(
        vocab_size=50_000,
        end_of_word_suffix="</w>",
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=ends,
        show_progress=False,
    )
    pieces.train_from_iterator(every, trainer)
    state = json.loads(pieces.to_str())["model"]
    vocabulary = state["vocab"] | {"<|startoftext|>": len(state["vocab"]), "<|endoftext|>": len(state["vocab"]) + 1}
    merges = [tuple(merge) for merge in state["merges"]]
    told = {"known_words": base_words(), "guidance_scale": GUIDANCE}
    made = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT, **told)
    broken = [word for word in every if len(made.tokenize(word)) != 1]
    assert not broken, f"not one token each: {broken}"
    return made


def text_encoder(tok: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tok),
        hidden_size=128,
        intermediate_size=384,
        projection_dim=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        bos_token_id=tok.bos_token_id,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
    )
    return CLIPTextModel(config)


def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(48, 96, 160),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def pictures(styles: tuple[str, ...], rounds: int, seed: int, things: str = "base") -> tuple[np.ndarray, np.ndarray]:
    """Pictures to learn from, (n, 64, 64, 3), and what each shows, (n, 3): the numbers of concept, style, background.

    Every concept of a column of ``concepts.csv`` that a style draws, on every background but the one that is held out
    for it, ``rounds`` times. A concept's number is its place among those of the column ``base``, whatever the column.
    """
    rng = np.random.default_rng(seed)
    rows, places = [row for row in world.concepts() if row["base"]], list(world.BACKGROUNDS)
    codes, wanted = [row["code"] for row in rows], [c for c, row in enumerate(rows) if row[things]]
    every = product(wanted, range(len(styles)), range(len(places)))
    drawn = [world.sprites(world.art(style)) for style in styles]
    shown = [(c, s, p) for c, s, p in every if world.shown_together(c, p) and codes[c] in drawn[s]]
    about = np.array(shown * rounds)
    made = np.empty((len(about), world.SIDE, world.SIDE, 3), np.uint8)
    for i, (c, s, p) in enumerate(about):
        made[i] = np.asarray(world.picture(codes[c], styles[s], places[p], rng))
    return made, about


def encoded(
    vae: AutoencoderKL, name: str, styles: tuple[str, ...], rounds: int, seed: int, things: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scaled latents (n, 4, 16, 16) of the pictures, in half precision, cached in runs/, and what each shows."""
    if not (cache := RUNS / f"{name}.pt").exists():
        RUNS.mkdir(parents=True, exist_ok=True)
        made, about = pictures(styles, rounds, seed, things)
        with written_aside(cache) as aside:
            latents = encode_pixels(vae.eval(), made, at_once=128).half()
            torch.save({"latents": latents, "about": torch.from_numpy(about)}, aside)
    saved = torch.load(cache, weights_only=True)
    return saved["latents"], saved["about"]


def captions(tok: CLIPTokenizer, phrases: list[str], styles: tuple[str, ...]) -> torch.Tensor:
    """Token ids of every caption, (concepts, styles, backgrounds, four wordings, 16)."""
    places = list(world.BACKGROUNDS)
    wordings = [
        (phrase, named_place, named_style)
        for phrase, style, place in product(phrases, styles, places)
        for named_place, named_style in [(place, ""), (place, style), ("", ""), ("", style)]
    ]
    ids = padded(tok, [world.caption(*wording) for wording in wordings])
    return ids.reshape(len(phrases), len(styles), len(places), 4, CONTEXT)


def padded(tok: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids, (n, 16)."""
    return tok(texts, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt").input_ids


def worded(
    ids: torch.Tensor, shares: tuple[float, ...], empty: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """One of the four wordings of each caption, (b, 4, 16) to (b, 16), by their shares; some become ``empty``."""
    wording = torch.multinomial(torch.tensor(shares), len(ids), replacement=True, generator=generator)
    dropped = torch.rand(len(ids), 1, generator=generator) < DROP
    return torch.where(dropped, empty, ids[torch.arange(len(ids)), wording])


def image_loss(
    unet: UNet2DConditionModel, text_encoder: CLIPTextModel, clean: torch.Tensor, ids: torch.Tensor,
    generator: torch.Generator, autocast: bool,
) -> torch.Tensor:  # fmt: skip
    """The denoising loss (paper Eq. 2) of latents (b, 4, 16, 16) and token ids (b, 16), weighted by min-SNR."""
    plan, device = motion_scheduler(), unet.device
    t = torch.randint(1000, (len(clean),), generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    noisy = plan.add_noise(clean, noise, t)
    with torch.autocast(device.type, torch.bfloat16, autocast and fast_bfloat16(device)):
        states = text_encoder(ids.to(device)).last_hidden_state
        guess = unet(noisy.to(device), t.to(device), states).sample.float()
    error = F.mse_loss(guess, noise.to(device), reduction="none").mean((1, 2, 3))
    return (error * timestep_weight(plan, t, "min-snr").to(device)).mean()


def started(folder: Path) -> ModuleDict:
    """UNet and text encoder of a pipeline's folder, in float32, to go on from."""
    parts = {
        "unet": UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32),
        "text": CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32),
    }
    return ModuleDict(parts)


def build(args: Namespace, vae: AutoencoderKL, tok: CLIPTokenizer) -> tuple[Bank, ModuleDict]:
    """What is learnt from, and what learns."""
    styles, phrases = world.BASE_STYLES, [row["phrase"] for row in world.concepts() if row["base"]]
    latents, about = encoded(vae, f"stills-{args.things}", styles, PHASES[args.things].rounds, 2, args.things)
    bank = Bank(latents, captions(tok, phrases, styles)[tuple(about.T)], torch.ones(len(latents)))
    both = started(DATA / args.start) if args.start else ModuleDict({"unet": unet(), "text": text_encoder(tok)})
    return bank, both.to(args.device).train()


def loss_of(
    both: ModuleDict, bank: Bank, empty: torch.Tensor, config: TrainConfig, generator: torch.Generator
) -> torch.Tensor:
    rows = torch.randint(len(bank.latents), (config.batch_size,), generator=generator)
    text = worded(bank.captions[rows], WORDING, empty, generator)
    return image_loss(both["unet"], both["text"], bank.latents[rows].float(), text, generator, config.autocast)


def save(vae: AutoencoderKL, tok: CLIPTokenizer, both: ModuleDict) -> None:
    """Write the whole pipeline in half precision."""
    half = copy.deepcopy(both).half().cpu()
    for part in (vae, half["unet"]):
        part.register_to_config(_name_or_path="")  # else the folder it was read from is written into the files
    pipe = StableDiffusionPipeline(
        vae=vae.half(), text_encoder=half["text"], tokenizer=tok, unet=half["unet"], scheduler=motion_scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(MINI)


def asked() -> Namespace:
    ask = arguments(steps=None, batch=sized(128, toy=4))
    ask.add_argument(
        "--things", choices=PHASES, default="taught", help="the wide vocabulary, or what is taught for good"
    )
    ask.add_argument("--start", type=Path, help="a pipeline's folder below data to go on from; by default from nothing")
    return ask.parse_args()


def main() -> None:
    args = asked()
    torch.manual_seed(0)
    phase, before = PHASES[args.things], args.start and json.loads((DATA / args.start / "card.json").read_text())
    vae, tok = AutoencoderKL.from_pretrained(MINI / "vae").to(args.device), tokenizer()
    bank, both = build(args, vae, tok)
    options = {"warmup": 200, "anneal": True, "betas": (0.9, 0.99), "ema_decay": 0.999, "weighting": "min-snr"}
    config = TrainConfig(
        args.steps or phase.steps, args.batch, learning_rate=phase.learning_rate, autocast=True, seed=0, **options
    )
    objective = partial(loss_of, both, bank, padded(tok, [""]), config)
    made = fit(f"base-{args.things}", both.parameters(), objective, config)
    save(vae, tok, both)
    data = data_hash(*map(world.sheet, world.BASE_STYLES), DATA / "concepts.csv")
    parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in both.items()}
    facts = {"things": args.things, "parameters": parameters, "continued_from": before}
    write_card(MINI / "card.json", __file__, made, data, args.device, **facts)


if __name__ == "__main__":
    main()
