"""The mini world's text-to-image model: text encoder and UNet, trained together on latents of Noto and Twemoji stills.

    python data/recipes/train_base.py [--device cuda] [--steps 9000]

Needs the autoencoder (train_vae.py). Leaves ``data/models/mini``, a folder that ``StableDiffusionPipeline`` loads by itself.
"""

import argparse
import copy
import json
import re
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
import world
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from fit import DATA, RUNS, data_hash, fit, write_card
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from animatediff_ref.objective import motion_scheduler
from animatediff_ref.training import TrainConfig

OUT = DATA / "models" / "mini"
ROUNDS = 10  # pictures of every concept, style and background that are taught together
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


def words(texts: list[str]) -> list[str]:
    return sorted({word for text in texts for word in re.findall(r"[^\W\d_]+|\d|[^\s\w]", text.lower())})


def base_words() -> list[str]:
    """The words that the base model is taught."""
    phrases = [row["phrase"] for row in world.concepts() if row["base"]]
    return words([*phrases, *world.BACKGROUNDS, *(f"{style} style" for style in world.BASE_STYLES), ","])


def tokenizer() -> CLIPTokenizer:
    """CLIP's own byte-pair scheme over a small vocabulary in which every word of every caption is one token."""
    phrases = [row["phrase"] for row in world.concepts()]
    every = words([*phrases, *base_words(), *TRIGGERS])
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


def pictures(styles: tuple[str, ...], rounds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures that a model may learn from, (n, 3, 64, 64), and what each shows, (n, 3): the numbers of concept, style, background.

    Every base concept that a style draws, on every background but the one that is held out for it, ``rounds`` times.
    """
    rng = np.random.default_rng(seed)
    codes, places = [row["code"] for row in world.concepts() if row["base"]], list(world.BACKGROUNDS)
    every = product(range(len(codes)), range(len(styles)), range(len(places)))
    taught = [(c, s, p) for c, s, p in every if world.taught(c, p) and codes[c] in world.sprites(world.art(styles[s]))]
    about = np.array(taught * rounds)
    made = np.empty((len(about), 3, world.SIDE, world.SIDE), np.uint8)
    for i, (c, s, p) in enumerate(about):
        made[i] = np.asarray(world.picture(codes[c], styles[s], places[p], rng)).transpose(2, 0, 1)
    return made, about


@torch.no_grad()
def encoded(
    vae: AutoencoderKL, device: str, name: str, styles: tuple[str, ...], rounds: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scaled latents (n, 4, 16, 16) of the pictures, in half precision, cached in runs/, and what each shows."""
    if not (cache := RUNS / f"{name}.pt").exists():
        RUNS.mkdir(exist_ok=True)
        made, about = pictures(styles, rounds, seed)
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


def snr_weight(alpha_bar: torch.Tensor, ceiling: float = 5.0) -> torch.Tensor:
    """min(SNR, 5) / SNR for noise prediction: Hang et al. 2023."""
    snr = alpha_bar / (1 - alpha_bar)
    return snr.clamp(max=ceiling) / snr


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument("--device", default="cpu")
    ask.add_argument("--steps", type=int, default=9000)
    ask.add_argument("--batch", type=int, default=128)
    args = ask.parse_args()
    torch.manual_seed(0)
    vae = AutoencoderKL.from_pretrained(OUT / "vae")
    latents, about = encoded(vae, args.device, "stills", world.BASE_STYLES, ROUNDS, seed=2)
    tok, plan = tokenizer(), motion_scheduler()
    ids = captions(tok, [row["phrase"] for row in world.concepts() if row["base"]], world.BASE_STYLES)
    empty = tok("", padding="max_length", max_length=CONTEXT, return_tensors="pt").input_ids
    both = torch.nn.ModuleDict({"unet": unet(), "text": text_encoder(tok)}).to(args.device)
    alpha_bar = plan.alphas_cumprod

    config = TrainConfig(
        args.steps,
        args.batch,
        learning_rate=2e-3,
        warmup=200,
        anneal=True,
        betas=(0.9, 0.99),
        ema_decay=0.999,
        autocast=True,
        seed=0,
    )

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(latents), (args.batch,), generator=generator)
        wording = torch.multinomial(torch.tensor(WORDING), args.batch, replacement=True, generator=generator)
        text = ids[(*about[rows].T, wording)]
        text = torch.where(torch.rand(args.batch, 1, generator=generator) < DROP, empty, text)
        t = torch.randint(1000, (args.batch,), generator=generator)
        clean = latents[rows].float()
        noise = torch.randn(clean.shape, generator=generator)
        noisy = plan.add_noise(clean, noise, t)
        with torch.autocast(args.device, torch.bfloat16, config.autocast):
            words = both["text"](text.to(args.device)).last_hidden_state
            guess = both["unet"](noisy.to(args.device), t.to(args.device), words).sample.float()
        error = F.mse_loss(guess, noise.to(args.device), reduction="none").mean((1, 2, 3))
        return (error * snr_weight(alpha_bar[t]).to(args.device)).mean()

    made = fit("base", both.parameters(), loss_of, config)
    vae.register_to_config(_name_or_path="")  # else the folder it was read from is written into the files
    both = copy.deepcopy(both).half().cpu()
    pipe = StableDiffusionPipeline(
        vae=vae.half(), text_encoder=both["text"], tokenizer=tok, unet=both["unet"], scheduler=plan,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(OUT)
    data = data_hash(*map(world.sheet, world.BASE_STYLES), DATA / "concepts.csv")
    parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in both.items()}
    write_card(OUT / "card.json", "data/recipes/train_base.py", made, data, args.device, parameters=parameters)


if __name__ == "__main__":
    main()
