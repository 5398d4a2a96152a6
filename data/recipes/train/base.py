"""The mini world's text-to-image model: text encoder and UNet, trained together on latents of Noto and Twemoji stills.

    python data/recipes/train_base.py --things base                          # 450 things, from nothing
    python data/recipes/train_base.py --things taught --start data/models/mini    # then the 102 that it is held to

Needs the autoencoder (train_vae.py). Leaves ``data/models/mini``, a folder that ``StableDiffusionPipeline`` loads by itself.
"""

import argparse
import copy
import json
import re
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import world
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from fit import DATA, RUNS, data_hash, fit, write_card
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from animatediff_ref.method.objective import motion_scheduler, timestep_weight
from animatediff_ref.training.loop import TrainConfig, fast_bfloat16

OUT = DATA / "models" / "mini"
DROP = 0.1  # share of captions replaced by the empty one
WORDING = (0.45, 0.40, 0.10, 0.05)  # shares of captions that name: the place, place and style, neither, the style
TRIGGERS = (
    "blob",
    "emojione",
    "flat",
    "ink",
    "openmoji",
    "pixel",
    "pip",
)  # words that personalised models give a meaning
CONTEXT = 16  # tokens in a caption, start and end included


class Phase(NamedTuple):
    """A part of the training: ``rounds`` pictures of every concept, style and background that are shown together."""

    rounds: int
    steps: int
    learning_rate: float


PHASES = {"base": Phase(10, 9000, 2e-3), "taught": Phase(16, 3000, 1e-3)}  # by the column of concepts.csv


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
    made = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT, known_words=base_words())
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
    """Pictures that a model may learn from, (n, 3, 64, 64), and what each shows, (n, 3): the numbers of concept, style, background.

    Every concept of a column of ``concepts.csv`` that a style draws, on every background but the one that is held out for it,
    ``rounds`` times. A concept's number is its place among those of the column ``base``, whatever the column.
    """
    rng = np.random.default_rng(seed)
    rows, places = [row for row in world.concepts() if row["base"]], list(world.BACKGROUNDS)
    codes, wanted = [row["code"] for row in rows], [c for c, row in enumerate(rows) if row[things]]
    every = product(wanted, range(len(styles)), range(len(places)))
    drawn = [world.sprites(world.art(style)) for style in styles]
    shown = [(c, s, p) for c, s, p in every if world.shown_together(c, p) and codes[c] in drawn[s]]
    about = np.array(shown * rounds)
    made = np.empty((len(about), 3, world.SIDE, world.SIDE), np.uint8)
    for i, (c, s, p) in enumerate(about):
        made[i] = np.asarray(world.picture(codes[c], styles[s], places[p], rng)).transpose(2, 0, 1)
    return made, about


@torch.no_grad()
def encoded(
    vae: AutoencoderKL, device: str, name: str, styles: tuple[str, ...], rounds: int, seed: int, things: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scaled latents (n, 4, 16, 16) of the pictures, in half precision, cached in runs/, and what each shows."""
    if not (cache := RUNS / f"{name}.pt").exists():
        RUNS.mkdir(exist_ok=True)
        made, about = pictures(styles, rounds, seed, things)
        vae = vae.to(device).eval()
        chunks = (
            vae.encode(torch.from_numpy(part).to(device).float() / 127.5 - 1).latent_dist.mode()
            for part in np.array_split(made, -(-len(made) // 128))
        )
        latents = torch.cat([(chunk * vae.config.scaling_factor).half().cpu() for chunk in chunks])
        torch.save({"latents": latents, "about": torch.from_numpy(about)}, cache)
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
    ids = tok(
        [world.caption(*w) for w in wordings],
        padding="max_length",
        truncation=True,
        max_length=CONTEXT,
        return_tensors="pt",
    ).input_ids
    return ids.reshape(len(phrases), len(styles), len(places), 4, CONTEXT)


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


def started(folder: Path) -> torch.nn.ModuleDict:
    """UNet and text encoder of a pipeline's folder, in float32, to go on from."""
    parts = {
        "unet": UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32),
        "text": CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32),
    }
    return torch.nn.ModuleDict(parts)


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument(
        "--things", choices=PHASES, default="taught", help="the wide vocabulary first, then what is taught for good"
    )
    ask.add_argument("--start", type=Path, help="folder of a pipeline to go on from; by default from nothing")
    ask.add_argument("--device", default="cpu")
    ask.add_argument("--steps", type=int)
    ask.add_argument("--batch", type=int, default=128)
    args = ask.parse_args()
    torch.manual_seed(0)
    phase = PHASES[args.things]
    vae = AutoencoderKL.from_pretrained(OUT / "vae")
    latents, about = encoded(vae, args.device, f"stills-{args.things}", world.BASE_STYLES, phase.rounds, 2, args.things)
    tok, plan = tokenizer(), motion_scheduler()
    ids = captions(tok, [row["phrase"] for row in world.concepts() if row["base"]], world.BASE_STYLES)
    empty = tok("", padding="max_length", max_length=CONTEXT, return_tensors="pt").input_ids
    fresh = started(args.start) if args.start else torch.nn.ModuleDict({"unet": unet(), "text": text_encoder(tok)})
    both, before = fresh.to(args.device).train(), args.start and json.loads((args.start / "card.json").read_text())

    config = TrainConfig(
        args.steps or phase.steps,
        args.batch,
        learning_rate=phase.learning_rate,
        warmup=200,
        anneal=True,
        betas=(0.9, 0.99),
        ema_decay=0.999,
        weighting="min-snr",
        autocast=True,
        seed=0,
    )

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(latents), (args.batch,), generator=generator)
        wording = torch.multinomial(torch.tensor(WORDING), args.batch, replacement=True, generator=generator)
        text = ids[(*about[rows].T, wording)]
        text = torch.where(torch.rand(args.batch, 1, generator=generator) < DROP, empty, text)
        return image_loss(both["unet"], both["text"], latents[rows].float(), text, generator, config.autocast)

    made = fit(f"base-{args.things}", both.parameters(), loss_of, config)
    vae.register_to_config(_name_or_path="")  # else the folder it was read from is written into the files
    both = copy.deepcopy(both).half().cpu()
    pipe = StableDiffusionPipeline(
        vae=vae.half(), text_encoder=both["text"], tokenizer=tok, unet=both["unet"], scheduler=plan,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(OUT)
    data = data_hash(*map(world.sheet, world.BASE_STYLES), DATA / "concepts.csv")
    parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in both.items()}
    facts = {"things": args.things, "parameters": parameters, "continued_from": before}
    write_card(OUT / "card.json", "data/recipes/train_base.py", made, data, args.device, **facts)


if __name__ == "__main__":
    main()
