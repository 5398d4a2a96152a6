"""How good the mini world is: data/measured.json, which the book shows and the tests check.

    python -m recipes.measure.world [--device cuda]

By the judge, which never saw a generated picture: are the concepts recognised in what the base and each personalised
model draw, as they are in real renderings; is the style; do guidance and negative prompts do what they should. And
how much generated blob clips move, against real clips and control rows.
"""

import json
from dataclasses import dataclass

import numpy as np
import torch

import animatediff_ref as ar
from animatediff_ref.measure.clip_scores import retrieval
from animatediff_ref.measure.statistics import interval, ratio
from animatediff_ref.mini.files import STYLES, shipped_files
from recipes.art import world
from recipes.art.footage import clean
from recipes.common.card import data_hash, rounded, write_measured
from recipes.common.paths import DATA, arguments, sized
from recipes.train.judge import drawn_by_all, recognised, references
from recipes.train.vae import through

PLACES = list(world.BACKGROUNDS)
SAMPLE = sized(100, toy=4)  # prompts for each personalised model
SETTINGS = sized(60, toy=4)  # prompts for each setting
CLIPS = sized(20, toy=2)
STEPS = sized(25, toy=2)  # of sampling
FRAMES = 16
EACH = sized(2, toy=1)  # pictures of every thing
GUIDANCE = (1.0, 2.0, 3.0, 5.0, 7.5, 12.0)
CHOICE = sized(40, toy=4)  # prompts by which the guidance is chosen, which are not among those reported


@dataclass(frozen=True)
class Ask:
    """One picture to draw: a concept, by its number among the base's, on a background."""

    concept: int
    place: str

    def prompt(self, words: str | None = None) -> str:
        return ", ".join(part for part in (base_rows()[self.concept]["phrase"], self.place, words) if part)


def base_rows() -> list[dict]:
    return [row for row in world.concepts() if row["base"]]


def things() -> list[int]:
    """The numbers of the things that the base is taught, among those of the column ``base``."""
    return [number for number, row in enumerate(base_rows()) if row["taught"]]


def asks(together: bool, each: int = 1, seed: int = 21) -> list[Ask]:
    """Every thing so many times, on a background that training did, or did not, show it on."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(each):
        for thing in things():
            places = [p for p in range(len(PLACES)) if world.shown_together(thing, p) == together]
            found.append(Ask(thing, PLACES[rng.choice(places)]))
    return found


def asks_in_every_style(seed: int = 21) -> list[Ask]:
    """Those of things that every style draws."""
    common = {concept for _, concept in drawn_by_all()}
    return [ask for ask in asks(True, seed=seed) if ask.concept in common]


def sample(rows: list, count: int = SAMPLE) -> list:
    return [rows[i] for i in sorted(np.random.default_rng(22).permutation(len(rows))[:count])]


def draw(pipe, prompts: list[str], negative: str = "", **options) -> np.ndarray:
    """Generated stills, uint8 (n, 64, 64, 3), each batch from its own seed."""
    images, options = [], {"guidance_scale": ar.default_guidance(pipe), "num_inference_steps": STEPS, **options}
    for start in range(0, len(prompts), 50):
        part, seed = prompts[start : start + 50], torch.Generator().manual_seed(start)
        options["negative_prompt"] = [negative] * len(part)
        images += list(pipe(part, generator=seed, output_type="np", **options).images)
    return (np.stack(images) * 255).round().astype(np.uint8)


def rendered(rows: list[Ask], styles: list[str]) -> np.ndarray:
    """Real renderings of the same things, placed anew."""
    rng = np.random.default_rng(23)
    pictures = [
        world.picture(base_rows()[ask.concept]["code"], style, ask.place, rng) for ask, style in zip(rows, styles)
    ]
    return np.stack([np.asarray(picture) for picture in pictures])


class Examiner:
    """The judge with the name of every taught thing before it: which one is in the picture?"""

    def __init__(self, device: str):
        self.judge = ar.load_judge("mini")
        self.judge.model.to(device)
        self.names = ar.text_features(self.judge, [base_rows()[thing]["phrase"] for thing in things()])
        self.renderings: dict[Ask, dict[str, np.ndarray]] = {}

    def hits(self, images: np.ndarray, rows: list[Ask], top: int) -> np.ndarray:
        """For each picture, whether its concept is among the nearest ``top`` of all, as 0 or 1."""
        features, right = ar.image_features(self.judge, images), [things().index(ask.concept) for ask in rows]
        one = [retrieval(features[[i]], self.names, np.array([c]), top) for i, c in enumerate(right)]
        return np.array(one)

    def concepts(self, images: np.ndarray, rows: list[Ask]) -> dict:
        return {f"top{top}_percent": interval(100 * self.hits(images, rows, top)) for top in (1, 5)}

    def style_percent(self, images: np.ndarray, rows: list[Ask], style: str) -> dict:
        """How many pictures are nearest, among all styles' own renderings of the same prompt, to those of ``style``."""
        for ask in dict.fromkeys(rows):
            if ask not in self.renderings:
                prompt = base_rows()[ask.concept]["code"], ask.place
                self.renderings[ask] = references(self.judge, [prompt], seed=25)[0]
        told = recognised(self.judge, images, [self.renderings[ask] for ask in rows])
        return interval([100.0 * (name == style) for name in told])


def text_to_image(examiner: Examiner, pipe) -> dict:
    """All things, on backgrounds that they were and were not taught on, beside real renderings of the same."""
    table = {}
    for name, together in (("taught pairs", True), ("held-out pairs", False)):
        rows = asks(together, EACH)
        styles = [world.BASE_STYLES[i % 2] for i in range(len(rows))]
        made = draw(pipe, [ask.prompt(f"{style} style") for ask, style in zip(rows, styles)])
        real = rendered(rows, styles)
        hits = [examiner.hits(images, rows, 5) for images in (made, real)]
        table[name] = {
            "pictures": len(rows),
            "names": len(things()),
            "generated": examiner.concepts(made, rows),
            "real": examiner.concepts(real, rows),
            "top5 generated / real": ratio(*hits),
        }
    return table


def personalised(examiner: Examiner, device: str, base) -> dict:
    """Each personalised model: is its style recognised, and are its concepts, beside the base's on the same prompts.

    The concepts are some of those that every style draws.
    """
    rows, table = sample(asks_in_every_style()), {}
    control = draw(base, [ask.prompt("noto style") for ask in rows])
    for name, style in STYLES.items():
        pipe = quiet(ar.load_base("mini", style=name).to(device))
        words = None if name == "pip" else style.trigger  # a character is called instead of a concept, not beside it
        images = draw(pipe, [ask.prompt(words) for ask in rows])
        own = draw(pipe, [f"{style.trigger}, {ask.place}" for ask in rows]) if name == "pip" else images
        table[name] = {
            "pictures": len(rows),
            "style recognised_percent": examiner.style_percent(own, rows, name),
            "the base's recognised as it_percent": examiner.style_percent(control, rows, name),
            "concepts": examiner.concepts(images, rows),
            "concepts of the base": examiner.concepts(control, rows),
        }
        print(name, json.dumps(rounded(table[name])), flush=True)
    return table


def choice_of_guidance(examiner: Examiner, device: str) -> dict:
    """How well things are told by guidance, for the base and for a style, on prompts that nothing else reports."""
    rows, table = sample(asks_in_every_style(seed=31), CHOICE), {}
    for name in ("base", "blob"):
        pipe = quiet(ar.load_base("mini", style=None if name == "base" else name).to(device))
        prompts = [ask.prompt("noto style" if name == "base" else STYLES[name].trigger) for ask in rows]
        table[name] = {
            str(scale): examiner.concepts(images := draw(pipe, prompts, guidance_scale=scale), rows)
            | {"style recognised_percent": examiner.style_percent(images, rows, "noto" if name == "base" else name)}
            for scale in GUIDANCE[1:5]
        }
    return table


def steering(examiner: Examiner, pipe) -> dict:
    """What guidance and negative prompts do to the base."""
    rows = sample(asks_in_every_style(), SETTINGS)
    plain, noto = [ask.prompt() for ask in rows], [ask.prompt("noto style") for ask in rows]
    table = {"guidance": {}, "negative prompt": {}}
    for scale in GUIDANCE:
        images = draw(pipe, noto, guidance_scale=scale)
        clipped = ((images == 0) | (images == 255)).mean((1, 2, 3))
        table["guidance"][str(scale)] = examiner.concepts(images, rows) | {
            "style recognised_percent": examiner.style_percent(images, rows, "noto"),
            "saturated pixels_percent": interval(100 * clipped),
        }
    for negative in ("", "noto style", "twemoji style"):
        images = draw(pipe, plain, negative)
        table["negative prompt"][negative or "none"] = examiner.concepts(images, rows) | {
            f"{style}_percent": examiner.style_percent(images, rows, style) for style in world.BASE_STYLES
        }
    return table


def amount(clip: np.ndarray, place: str) -> float:
    """How much the pixels of the object change, where the object is told by its known background."""
    return ar.motion_amount(clip, ar.object_mask(clip, np.asarray(world.background(place))))


def clips_of(ask: Ask, place: str, pipe, module: ar.MotionModule) -> dict[str, np.ndarray]:
    """A concept in motion: real, generated, and as controls."""
    prompt, still = Ask(ask.concept, place).prompt("blob style"), ar.MotionModule(module.config, module.places)
    true = world.resized(clean(base_rows()[ask.concept]["code"]).clip[:FRAMES])
    ar.inject(pipe.unet, module, FRAMES)
    made = ar.animate(pipe, prompt, seed=0, num_inference_steps=STEPS)
    ar.inject(pipe.unet, still, FRAMES)
    apart = ar.animate(pipe, prompt, seed=0, num_inference_steps=STEPS)
    return {
        "real": true,
        "real, autoencoded": through(pipe.vae, true),
        "generated": made,
        "per-frame images": apart,
        "frozen": made[[0] * FRAMES],
    }


def motion(device: str) -> dict:
    """Motion for the same concepts: real clips without artefacts, generated clips, and controls.

    Two measures: how much pixels of the object change, and optical flow.
    """
    moving = [ask for ask in asks(True) if base_rows()[ask.concept]["clip"]]
    penguin = next(ask for ask in moving if base_rows()[ask.concept]["label"] == "penguin")
    picked = [penguin, *[ask for ask in sample(moving, CLIPS) if ask != penguin][: CLIPS - 1]]
    captions = {clip.path.stem: clip.caption for clip in ar.list_clips(DATA / "clips.csv", DATA / "clips")}
    pipe, module = quiet(ar.load_base("mini", style="blob").to(device)), ar.load_motion_module("mini")
    changes, flows = [], []
    for ask in picked:
        place = captions[base_rows()[ask.concept]["code"]].rpartition(", ")[2]
        clips = clips_of(ask, place, pipe, module)
        said = {"prompt": Ask(ask.concept, place).prompt("blob style"), "seed": 0}
        changes.append(said | {name: amount(clip, place) for name, clip in clips.items()})
        flows.append(said | {name: ar.flow_amount(clip) for name, clip in clips.items()})
    return moved(changes) | {"flow": moved(flows)}


def moved(table: list[dict]) -> dict:
    """Rows of one measure, a prompt each, with their means, and how generated clips stand to real ones."""
    names = [name for name in table[0] if name not in ("prompt", "seed")]
    generated, real = (np.array([row[name] for row in table]) for name in ("generated", "real"))
    mean = {name: interval([row[name] for row in table]) for name in names}
    return {"prompts": table, "mean": mean, "ratio to real": ratio(generated, real)}


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def main() -> None:
    device = arguments().parse_args().device
    base, examiner = quiet(ar.load_base("mini").to(device)), Examiner(device)
    measured = {
        "weights": {path.relative_to(DATA).as_posix(): data_hash(path) for path in shipped_files()},
        "choice of guidance": choice_of_guidance(examiner, device),
        "text to image": text_to_image(examiner, base),
        "steering": steering(examiner, base),
        "personalised": personalised(examiner, device, base),
        "motion": motion(device),
    }
    write_measured(DATA / "measured.json", __file__, device, measured)


if __name__ == "__main__":
    main()
