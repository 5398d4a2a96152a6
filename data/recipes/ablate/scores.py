"""What is measured of every clip of an ablation, and the controls that say what a number is worth."""

from collections.abc import Callable
from functools import cache

import numpy as np

import animatediff_ref as ar
from recipes.art import world
from recipes.art.footage import clean
from recipes.common.paths import DATA, sized
from recipes.measure.motion import FRAMES, amount, picked
from recipes.measure.stills import Ask, base_rows, rendered

STYLE = "noto"  # the base's own
PROMPTS, SHOWN = sized(10, toy=1), 2  # of each cell: measured, and kept as clips
RESULTS = DATA / "results"


@cache
def asks() -> dict[str, Ask]:
    """The prompts, the same for all cells."""
    return {ask.prompt(f"{STYLE} style"): ask for ask in picked()[:PROMPTS]}


@cache
def judge() -> ar.Judge:
    return ar.load_judge("mini")


@cache
def stills(prompt: str) -> np.ndarray:
    """Clean pictures of the same thing in the same style: what the domain of a clip is held against."""
    return rendered([asks()[prompt]] * 4, [STYLE] * 4)


MEASURES: dict[str, Callable[[np.ndarray, str], float]] = {
    "watermark": lambda clip, prompt: ar.watermark_score(clip),
    "look": lambda clip, prompt: ar.look_score(judge(), clip),
    "domain": lambda clip, prompt: ar.domain_similarity(judge(), clip, stills(prompt)),
    "text": lambda clip, prompt: ar.text_alignment(judge(), clip, prompt),
    "consistency": lambda clip, prompt: ar.frame_consistency(judge(), clip),
    "change": lambda clip, prompt: amount(clip, asks()[prompt].place),
    "flow": lambda clip, prompt: ar.flow_amount(clip),
    "flicker": lambda clip, prompt: ar.flicker(clip),
}


def filmed(prompt: str) -> np.ndarray:
    """A clip of the thing as the video set shows it, with all its faults."""
    code = base_rows()[asks()[prompt].concept]["code"]
    return ar.read_clip(DATA / "clips" / f"{code}.mp4", FRAMES, size=world.SIDE)


def real(prompt: str) -> np.ndarray:
    """The same without the faults."""
    return world.resized(clean(base_rows()[asks()[prompt].concept]["code"]).clip[:FRAMES])


def scored(clip: np.ndarray, prompt: str, name: str) -> dict[str, float]:
    """The scores of a clip; those of the first prompts are also kept as ``NAME-0.mp4``, for a page to show."""
    if (number := list(asks()).index(prompt)) < SHOWN:
        (RESULTS / "clips").mkdir(parents=True, exist_ok=True)
        ar.write_clip(clip, RESULTS / "clips" / f"{name}-{number}.mp4".replace(" ", "-"), crf=14)
    return {name: measure(clip, prompt) for name, measure in MEASURES.items()}


def frozen(clip: np.ndarray) -> np.ndarray:
    return clip[[0] * len(clip)]


def shuffled(clip: np.ndarray) -> np.ndarray:
    return clip[np.random.default_rng(0).permutation(len(clip))]
