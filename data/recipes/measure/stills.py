"""What the mini world draws, examined by the judge, which never saw a generated picture.

Are the concepts recognised in what the base and each personalised model draw, as they are in real renderings; is the
style; do guidance and negative prompts do what they should.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

import animatediff_ref as ar
from animatediff_ref.measure.clip_scores import retrieval
from animatediff_ref.measure.statistics import interval, ratio
from animatediff_ref.mini.files import STYLES
from recipes.art import world
from recipes.common.paths import sized
from recipes.train.judge import drawn_by_all, recognised, references

PLACES = list(world.BACKGROUNDS)
SAMPLE = sized(100, toy=4)  # prompts for each personalised model
SETTINGS = sized(60, toy=4)  # prompts for each setting
STEPS = sized(25, toy=2)  # of sampling
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
    """The base, and the judge with the name of every taught thing before it: which one is in the picture?"""

    def __init__(self, device: str):
        self.device = device
        self.base = self.pipeline()
        self.judge = ar.load_judge("mini")
        self.judge.model.to(device)
        self.names = ar.text_features(self.judge, [base_rows()[thing]["phrase"] for thing in things()])
        self.renderings: dict[Ask, dict[str, np.ndarray]] = {}

    def pipeline(self, style: str | None = None):
        return quiet(ar.load_base("mini", style=style).to(self.device))

    @cached_property
    def control(self) -> tuple[list[Ask], np.ndarray]:
        """What personalised models are asked for, and the base's own pictures of it."""
        rows = sample(asks_in_every_style())
        return rows, draw(self.base, [ask.prompt("noto style") for ask in rows])

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


def choice_of_guidance(examiner: Examiner, name: str) -> dict:
    """How well things are told by guidance, for the base or a style, on prompts that nothing else reports."""
    rows = sample(asks_in_every_style(seed=31), CHOICE)
    pipe = examiner.base if name == "base" else examiner.pipeline(name)
    prompts = [ask.prompt("noto style" if name == "base" else STYLES[name].trigger) for ask in rows]
    return {
        str(scale): examiner.concepts(images := draw(pipe, prompts, guidance_scale=scale), rows)
        | {"style recognised_percent": examiner.style_percent(images, rows, "noto" if name == "base" else name)}
        for scale in GUIDANCE[1:5]
    }


def text_to_image(examiner: Examiner, name: str) -> dict:
    """All things, on backgrounds that they were or were not taught on, beside real renderings of the same."""
    rows = asks(name == "taught pairs", EACH)
    styles = [world.BASE_STYLES[i % 2] for i in range(len(rows))]
    made = draw(examiner.base, [ask.prompt(f"{style} style") for ask, style in zip(rows, styles)])
    real = rendered(rows, styles)
    return {
        "pictures": len(rows),
        "names": len(things()),
        "generated": examiner.concepts(made, rows),
        "real": examiner.concepts(real, rows),
        "top5 generated / real": ratio(*[examiner.hits(images, rows, 5) for images in (made, real)]),
    }


def guidance(examiner: Examiner) -> dict:
    """What guidance does to the base, by its scale."""
    rows, table = sample(asks_in_every_style(), SETTINGS), {}
    for scale in GUIDANCE:
        images = draw(examiner.base, [ask.prompt("noto style") for ask in rows], guidance_scale=scale)
        clipped = ((images == 0) | (images == 255)).mean((1, 2, 3))
        table[str(scale)] = examiner.concepts(images, rows) | {
            "style recognised_percent": examiner.style_percent(images, rows, "noto"),
            "saturated pixels_percent": interval(100 * clipped),
        }
    return table


def negative_prompt(examiner: Examiner) -> dict:
    """What a style in the negative prompt does to the base, by its words."""
    rows, table = sample(asks_in_every_style(), SETTINGS), {}
    for negative in ("", "noto style", "twemoji style"):
        images = draw(examiner.base, [ask.prompt() for ask in rows], negative)
        table[negative or "none"] = examiner.concepts(images, rows) | {
            f"{style}_percent": examiner.style_percent(images, rows, style) for style in world.BASE_STYLES
        }
    return table


def personalised(examiner: Examiner, name: str) -> dict:
    """Is a personalised model's style recognised, and are its concepts, beside the base's on the same prompts.

    The concepts are some of those that every style draws.
    """
    (rows, control), pipe, trigger = examiner.control, examiner.pipeline(name), STYLES[name].trigger
    words = None if name == "pip" else trigger  # a character is called instead of a concept, not beside it
    images = draw(pipe, [ask.prompt(words) for ask in rows])
    own = draw(pipe, [f"{trigger}, {ask.place}" for ask in rows]) if name == "pip" else images
    return {
        "pictures": len(rows),
        "style recognised_percent": examiner.style_percent(own, rows, name),
        "the base's recognised as it_percent": examiner.style_percent(control, rows, name),
        "concepts": examiner.concepts(images, rows),
        "concepts of the base": examiner.concepts(control, rows),
    }


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe
