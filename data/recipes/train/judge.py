"""The judge: a CLIP of the mini world, which tells how well a picture fits a text or a style.

    python -m recipes.train.judge [--device cuda] [--steps N]

Needs the artwork, the clips and the autoencoder (train/vae.py). Trained from scratch on pictures composed on the fly,
of every base concept in every style and on every background, on frames of the clips, and on stills that were given
the clips' faults, so that footage is not told by whose drawings it shows; never on a generated picture. Leaves
``data/models/judge``, a folder that ``CLIPModel`` and ``CLIPProcessor`` load. Its card says how well it does on what
was held out: new placements, pairs of concept and background that were never shown together, and whole clips.
"""

import copy
from collections import Counter
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from einops import rearrange
from PIL import Image
from torch.optim.swa_utils import update_bn
from transformers import CLIPProcessor, CLIPTextConfig, CLIPTokenizer, ResNetConfig, VisionTextDualEncoderConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import animatediff_ref as ar
from animatediff_ref.measure.clip_scores import nearest_centroid, retrieval
from animatediff_ref.measure.statistics import auc
from animatediff_ref.mini.judge import MiniCLIP
from animatediff_ref.weights.tensors import written_aside
from recipes.art import world
from recipes.art.footage import HELD_OUT, SIDE, marked, washed
from recipes.common.card import data_hash, rounded, write_card
from recipes.common.paths import DATA, JUDGE, MINI, arguments, sized
from recipes.common.run import fit
from recipes.train.base import CONTEXT, captions, tokenizer
from recipes.train.vae import half, scaled

FOOTAGE = "footage"
STILLS = (*world.BASE_STYLES, "blob", "emojione", "flat", "ink", "openmoji", "pixel", "sepia", "pip")
STYLES = (*STILLS, FOOTAGE)
WORDING = (0.15, 0.20, 0.45, 0.20)  # shares of captions that name: the place, place and style, neither, the style
WEIGHTS = (1.0, 0.5, 0.3, 0.5)  # of the losses: which concept, which style, which place, which caption of the batch
SAYS = torch.tensor(
    [(1, 0, 1), (1, 1, 1), (1, 0, 0), (1, 1, 0)]
).bool()  # of concept, style, place: what each wording names
FRAMES = 8  # of each clip
STAGED = 0.5  # share of the footage that is stills with its faults
WIDTHS = (48, 96, 192, 320)  # of the part that looks
DECODED = 16  # one picture in so many goes through the autoencoder
PROBE = sized(200, toy=8)  # pictures of each style for its centroid
REFERENCES = sized(8, toy=2)  # renderings of one prompt in a style, for the style's centroid at that prompt
SETTLE = sized(60, toy=2)  # batches for the statistics of the normalisations


def phrases() -> list[str]:
    """What each concept is called, by its number; the last is the character, which only its own style draws."""
    return [row["phrase"] for row in world.concepts() if row["base"]] + ["pip"]


@cache
def drawn(style: str) -> list[tuple[str, int]]:
    """The sprites of a style: code points and number of the concept."""
    codes = [row["code"] for row in world.concepts() if row["base"]]
    if style == "pip":
        return [(pose, len(codes)) for pose in world.sprites("pip")]
    return [(code, number) for number, code in enumerate(codes) if code in world.sprites(world.art(style))]


@cache
def footage(held_out: bool) -> list[tuple[np.ndarray, int, int]]:
    """Clips of base concepts: some frames, and the numbers of concept and background.

    Held out are those that the motion module never sees.
    """
    numbers, places = dict(drawn("noto")), list(world.BACKGROUNDS)
    found = []
    for i, clip in enumerate(ar.list_clips(DATA / "clips.csv", DATA / "clips")):
        if clip.path.stem in numbers and held_out == (i % HELD_OUT == 0):
            concept, place = numbers[clip.path.stem], places.index(clip.caption.rpartition(", ")[2])
            if held_out or world.shown_together(concept, place):
                found.append((ar.read_clip(clip.path, FRAMES, stride=4), concept, place))
    return found


def frame(pictures: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """A random frame of a clip, cropped a little."""
    picture = Image.fromarray(pictures[rng.integers(len(pictures))])
    side = picture.width * rng.uniform(0.88, 1)
    left, top = rng.uniform(0, picture.width - side, 2)
    return picture.resize((world.SIDE, world.SIDE), Image.LANCZOS, (left, top, left + side, top + side))


def staged(rng: np.random.Generator) -> tuple[Image.Image, tuple[int, int, int]]:
    """A still of any style, washed out and under the watermark."""
    still, (concept, _, place) = draw(str(rng.choice(STILLS)), rng)
    faulty = marked(washed(np.asarray(still.resize((SIDE, SIDE), Image.BICUBIC))[None]))[0]
    return Image.fromarray(faulty).resize(still.size, Image.LANCZOS), (concept, STYLES.index(FOOTAGE), place)


def subjects(style: str, held_out: bool) -> list[tuple]:
    """What there is to be drawn in a style: its sprites, or of footage the clips."""
    return footage(held_out) if style == FOOTAGE else drawn(style)


def draw(
    style: str, rng: np.random.Generator, held_out: bool = False, number: int | None = None
) -> tuple[Image.Image, tuple[int, int, int]]:
    """A picture of a subject of a style, and the numbers of its concept, style and background.

    ``number`` is the subject's; without it one is drawn at random. ``held_out`` has the pairs of concept and background
    that are never taught; of footage, the clips that are not.
    """
    if style == FOOTAGE and not held_out and rng.random() < STAGED:
        return staged(rng)
    choice = subjects(style, held_out)
    chosen = choice[rng.integers(len(choice)) if number is None else number]
    if style == FOOTAGE:
        pictures, concept, place = chosen
        return frame(pictures, rng), (concept, STYLES.index(style), place)
    code, concept = chosen
    place = int(rng.choice([p for p in range(len(world.BACKGROUNDS)) if world.shown_together(concept, p) != held_out]))
    made = world.picture(code, style, list(world.BACKGROUNDS)[place], rng)
    return made, (concept, STYLES.index(style), place)


def some(styles: list[str], rng: np.random.Generator, held_out: bool = False) -> tuple[np.ndarray, torch.Tensor]:
    """A picture in each of the styles named, uint8 (n, 64, 64, 3), and what each shows, (n, 3)."""
    pictures, about = zip(*(draw(style, rng, held_out) for style in styles))
    return np.stack(pictures), torch.tensor(about)


@torch.no_grad()
def worn(pictures: torch.Tensor, vae: AutoencoderKL, generator: torch.Generator) -> torch.Tensor:
    """Pictures, -1 to 1, (n, 3, 64, 64), as a judge may meet them: decoded, darker or lighter, blurred, noisy."""

    def strength() -> torch.Tensor:
        return torch.rand(len(pictures), 1, 1, 1, generator=generator).to(pictures)

    def noise(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator).to(like)

    few = len(pictures) // DECODED
    latents = vae.encode(pictures[:few]).latent_dist.mode()
    decoded = vae.decode(latents + 0.1 * noise(latents) / vae.config.scaling_factor).sample.clamp(-1, 1)
    made = torch.cat([decoded, pictures[few:]])
    made = made.lerp(F.avg_pool2d(made, 3, 1, 1, count_include_pad=False), strength().square())
    return made * (0.85 + 0.3 * strength()) + 0.3 * strength() - 0.15 + 0.08 * strength() * noise(made)


def true_of(says: torch.Tensor, about: torch.Tensor) -> torch.Tensor:
    """Which captions are true of which pictures, bool (pictures, captions); -1 is what a caption leaves unsaid."""
    return ((says == about[:, None]) | (says < 0)).all(-1)


def contrast(similarity: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """CLIP's loss, both ways, where more than one caption may be true of a picture: they share the target."""

    def way(logits: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        known = right.any(1)  # captions that no picture here shows teach as wrong answers only
        return F.cross_entropy(logits[known], right[known].float() / right[known].sum(1, keepdim=True))

    return (way(similarity, true) + way(similarity.T, true.T)) / 2


def clip(tok) -> MiniCLIP:
    text = CLIPTextConfig(
        vocab_size=len(tok),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        bos_token_id=tok.bos_token_id,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
    )
    vision = ResNetConfig(
        embedding_size=WIDTHS[0],
        hidden_sizes=list(WIDTHS),
        hidden_size=WIDTHS[-1],
        depths=[1, 2, 2, 1],
        layer_type="basic",
    )
    return MiniCLIP(VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=128))


def centroids(judge: ar.Judge, seed: int) -> dict[str, np.ndarray]:
    """The mean feature of each style, over pictures as it was taught."""
    rng = np.random.default_rng(seed)
    return {style: ar.image_features(judge, some([style] * PROBE, rng)[0]).mean(0) for style in STYLES}


def references(judge: ar.Judge, prompts: list[tuple[str, str]], seed: int) -> list[dict[str, np.ndarray]]:
    """For each prompt, a concept's code and a background, the centroid of every style's own renderings of it.

    What is drawn weighs more in a feature than how: so a style is told from others by the same thing in each of them.
    """
    rng, found = np.random.default_rng(seed), []
    for code, place in prompts:
        names = [code if style != "pip" else str(rng.choice(world.POSES)) for style in STILLS]
        drawn = [world.picture(n, s, place, rng) for n, s in zip(names, STILLS) for _ in range(REFERENCES)]
        seen = ar.image_features(judge, np.stack(drawn))
        found.append(dict(zip(STILLS, rearrange(seen, "(s n) d -> s n d", n=REFERENCES).mean(1))))
    return found


def recognised(judge: ar.Judge, pictures: np.ndarray, centroids: list[dict[str, np.ndarray]]) -> list[str]:
    """The style whose renderings of the same prompt each picture is nearest to."""
    return [nearest_centroid(f[None], own)[0] for f, own in zip(ar.image_features(judge, pictures), centroids)]


def drawn_by_all() -> list[tuple[str, int]]:
    """The sprites of concepts that every style draws: code points and number of the concept."""
    common = set.intersection(*({code for code, _ in drawn(style)} for style in STILLS if style != "pip"))
    return [(code, number) for code, number in drawn("noto") if code in common]


def styles_told(judge: ar.Judge, seed: int) -> dict[str, dict]:
    """For each style, as what its pictures were recognised; of things and places that were never taught together."""
    rng, places = np.random.default_rng(seed), list(world.BACKGROUNDS)
    some_of = [drawn_by_all()[i] for i in sorted(rng.permutation(len(drawn_by_all()))[:PROBE])]
    prompts = [(code, next(p for i, p in enumerate(places) if not world.shown_together(n, i))) for code, n in some_of]
    centroids, told = references(judge, prompts, seed + 1), {}
    for style in STILLS:
        names = [code if style != "pip" else str(rng.choice(world.POSES)) for code, _ in prompts]
        pictures = np.stack([world.picture(name, style, place, rng) for name, (_, place) in zip(names, prompts)])
        told[style] = dict(Counter(recognised(judge, pictures, centroids)).most_common())
    return told


def one_of_each(style: str, seed: int, held_out: bool) -> tuple[np.ndarray, np.ndarray]:
    """A new picture of each subject of a style, uint8 (n, 64, 64, 3), and the concepts' numbers."""
    rng = np.random.default_rng(seed)
    made = [draw(style, rng, held_out, number) for number in range(len(subjects(style, held_out)))]
    return np.stack([picture for picture, _ in made]), np.array([concept for _, (concept, _, _) in made])


def recalled(judge: ar.Judge, pictures: np.ndarray, concepts: np.ndarray) -> dict[str, float]:
    """Retrieval both ways: a picture's phrase among those of all concepts, a phrase's picture among those given."""
    seen, names = ar.image_features(judge, pictures), ar.text_features(judge, phrases())
    found = {f"text_top{k}": retrieval(seen, names, concepts, k) for k in (1, 5)}
    same = concepts[:, None] == concepts
    found |= {f"image_top{k}": retrieval(names[concepts], seen, same, min(k, len(seen))) for k in (1, 5)}
    return found | {"n": len(concepts)}


def average(rows: dict[str, dict]) -> dict[str, float]:
    """The mean over the styles of stills, each counting the same."""
    stills = [row for style, row in rows.items() if style not in (FOOTAGE, "pip")]
    return {name: np.mean([row[name] for row in stills]) for name in stills[0] if name != "n"}


def looks(judge: ar.Judge, seed: int) -> dict:
    """How well the look score tells frames of held-out clips from clean pictures; errors at a threshold of one half."""
    rng = np.random.default_rng(seed)
    art = some([style for style in STILLS for _ in range(PROBE // 4)], rng, held_out=True)[0]
    shot = np.concatenate([clip for clip, _, _ in footage(held_out=True)])
    clean, dirty = (np.array([ar.look_score(judge, one[None]) for one in pictures]) for pictures in (art, shot))
    return {
        "auc": auc(dirty, clean),
        "clean_taken_for_footage": (clean > 0.5).mean(),
        "footage_taken_for_clean": (dirty <= 0.5).mean(),
        "clean": len(clean),
        "footage": len(dirty),
        "clips": len(footage(held_out=True)),
    }


def quality(judge: ar.Judge) -> dict:
    """What the card says, all on pictures that training did not see."""
    placements = {style: one_of_each(style, 21, False) for style in STILLS}
    pairs = {style: one_of_each(style, 22, True) for style in STYLES}
    placed, paired = ({style: recalled(judge, *made) for style, made in part.items()} for part in (placements, pairs))
    told = styles_told(judge, 24)
    return {
        "retrieval": {"new_placements": average(placed), "held_out_pairs": average(paired)},
        "retrieval_by_style": {"new_placements": placed, "held_out_pairs": paired},
        "style_recognised": {style: found.get(style, 0) / sum(found.values()) for style, found in told.items()},
        "style_confusion": told,
        "look": looks(judge, 23),
    }


def build(device: str) -> tuple[MiniCLIP, CLIPTokenizer, AutoencoderKL]:
    """What learns, its words, and the autoencoder that a few of its pictures go through."""
    tok = tokenizer()
    vae = AutoencoderKL.from_pretrained(MINI / "vae", torch_dtype=torch.float32).to(device).eval()
    return clip(tok).to(device, memory_format=torch.channels_last).train(), tok, vae


def questions(tok: CLIPTokenizer) -> list[torch.Tensor]:
    """Token ids of all concepts, of all styles and of all places, each named alone."""
    names = [phrases(), [f"{style} style" for style in STYLES], list(world.BACKGROUNDS)]
    return [tok(texts, padding=True, return_tensors="pt").input_ids for texts in names]


def said(model: MiniCLIP, ids: torch.Tensor) -> torch.Tensor:
    """Features of captions at unit length."""
    return F.normalize(model.get_text_features(ids.to(model.device)).pooler_output.float(), dim=-1)


def loss_of(
    model: MiniCLIP, vae: AutoencoderKL, ids: torch.Tensor, answers: list[torch.Tensor], config: ar.TrainConfig,
    generator: torch.Generator,
) -> torch.Tensor:  # fmt: skip
    """Of random pictures: which concept, style and place each shows, and which caption of the batch is its own."""
    rng, device = np.random.default_rng(torch.randint(2**62, (), generator=generator).item()), vae.device
    made, about = some(list(rng.choice(STYLES, config.batch_size)), rng)
    wording = torch.multinomial(torch.tensor(WORDING), config.batch_size, replacement=True, generator=generator)
    says, right = torch.where(SAYS[wording], about, -1), about.to(device)
    with half(config, device):
        pictures = worn(scaled(made, device), vae, generator).contiguous(memory_format=torch.channels_last)
        seen = F.normalize(model.get_image_features(pictures).pooler_output.float(), dim=-1)
        sharp = model.logit_scale.exp().clamp(max=100) * seen
        asked = [F.cross_entropy(sharp @ said(model, answer).T, right[:, i]) for i, answer in enumerate(answers)]
        told = contrast(sharp @ said(model, ids[(*about.T, wording)]).T, true_of(says, about).to(device))
    return sum(weight * loss for weight, loss in zip(WEIGHTS, [*asked, told]))


def settle(model: MiniCLIP, vae: AutoencoderKL, size: int) -> None:
    """Gather the statistics of its normalisations anew: a run that was resumed has lost them."""
    rng, chance = np.random.default_rng(1), torch.Generator().manual_seed(1)
    pictures = (scaled(some(list(rng.choice(STYLES, size)), rng)[0], vae.device) for _ in range(SETTLE))
    update_bn((worn(batch, vae, chance) for batch in pictures), model.vision_model)


def seen_files() -> list[Path]:
    """The files that the judge has learnt from."""
    sheets = [world.sheet(style) for style in dict.fromkeys(map(world.art, STILLS))]
    clips = [entry.path for entry in ar.list_clips(DATA / "clips.csv", DATA / "clips")]
    return [*sheets, DATA / "concepts.csv", DATA / "clips.csv", *clips]


def save(model: MiniCLIP, tok: CLIPTokenizer, made: dict, device: str) -> None:
    """Write the whole folder: a CLIP with its processor, the centroids of the styles, and the card."""
    size = {"height": world.SIDE, "width": world.SIDE}
    images = CLIPImageProcessorPil(size=size, crop_size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    with written_aside(JUDGE) as aside:
        copy.deepcopy(model).half().cpu().save_pretrained(aside)
        CLIPProcessor(images, tok).save_pretrained(aside)
        judge = ar.load_judge(aside)
        judge = replace(judge, centroids=centroids(judge, seed=20))
        np.savez(aside / "centroids.npz", **judge.centroids)
        facts = {"parameters": sum(p.numel() for p in model.parameters()), "styles": STYLES, **rounded(quality(judge))}
        write_card(aside / "card.json", __file__, made, data_hash(*seen_files()), device, **facts)


def main() -> None:
    args = arguments(steps=sized(3200, toy=2), batch=sized(96, toy=16)).parse_args()
    torch.manual_seed(0)
    model, tok, vae = build(args.device)
    options = {"warmup": 100, "anneal": True, "betas": (0.9, 0.98), "weight_decay": 0.05, "autocast": True, "seed": 0}
    config = ar.TrainConfig(args.steps, args.batch, learning_rate=2e-3, **options)
    objective = partial(loss_of, model, vae, captions(tok, phrases(), STYLES), questions(tok), config)
    made = fit("judge", model.parameters(), objective, config)
    settle(model, vae, args.batch)
    save(model, tok, made, args.device)


if __name__ == "__main__":
    main()
