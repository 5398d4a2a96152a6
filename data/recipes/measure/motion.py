"""How clips of the mini world move, in the base's style and in others, against real clips and control rows.

The real clips are those of the same things, without the faults that the training clips have.
"""

import numpy as np

import animatediff_ref as ar
from animatediff_ref.measure.statistics import interval, ratio
from animatediff_ref.mini.files import STYLES
from recipes.art import world
from recipes.art.footage import clean
from recipes.common.paths import DATA, sized
from recipes.measure.stills import STEPS, Ask, asks, base_rows, quiet, sample
from recipes.train.vae import through

CLIPS = sized(20, toy=2)  # prompts for each style
FRAMES = 16
SEED = 0


def picked() -> list[Ask]:
    """A penguin, which pages show, and random things that move, each on the background of its real clip."""
    captions = {clip.path.stem: clip.caption for clip in ar.list_clips(DATA / "clips.csv", DATA / "clips")}
    moving = [ask for ask in asks(True) if base_rows()[ask.concept]["clip"]]
    penguin = next(ask for ask in moving if base_rows()[ask.concept]["label"] == "penguin")
    chosen = [penguin, *[ask for ask in sample(moving, CLIPS) if ask != penguin][: CLIPS - 1]]
    return [Ask(a.concept, captions[base_rows()[a.concept]["code"]].rpartition(", ")[2]) for a in chosen]


def amount(clip: np.ndarray, place: str) -> float:
    """How much the pixels of the object change, where the object is told by its known background."""
    return ar.motion_amount(clip, ar.object_mask(clip, np.asarray(world.background(place))))


MEASURES = {
    "change of pixels": amount,
    "flow": lambda clip, place: ar.flow_amount(clip),
    "flicker": lambda clip, place: ar.flicker(clip),
    "watermark": lambda clip, place: ar.watermark_score(clip),
}
AMOUNTS = ("change of pixels", "flow", "flicker")  # of which a ratio says something; the other is about zero


def clips_of(ask: Ask, prompt: str, pipe, module: ar.MotionModule) -> dict[str, np.ndarray]:
    """A thing in motion: real, generated, and as controls."""
    true = world.resized(clean(base_rows()[ask.concept]["code"]).clip[:FRAMES])
    ar.inject(pipe.unet, module, FRAMES)
    made = ar.animate(pipe, prompt, seed=SEED, num_inference_steps=STEPS)
    ar.inject(pipe.unet, ar.MotionModule(module.config, module.places), FRAMES)
    apart = ar.animate(pipe, prompt, seed=SEED, num_inference_steps=STEPS)
    return {
        "real": true,
        "real, autoencoded": through(pipe.vae, true),
        "generated": made,
        "per-frame images": apart,
        "frozen": made[[0] * FRAMES],
    }


def motion(device: str, name: str) -> dict:
    """Every measure of a style's clips: a row for each prompt, their means, and of amounts generated over real."""
    pipe = quiet(ar.load_base("mini", style=None if name == "base" else name).to(device))
    module, trigger = ar.load_motion_module("mini"), "noto style" if name == "base" else STYLES[name].trigger
    rows = {what: [] for what in MEASURES}
    for ask in picked():
        prompt = ask.prompt(trigger)
        clips = clips_of(ask, prompt, pipe, module)
        for what, measure in MEASURES.items():
            found = {kind: measure(clip, ask.place) for kind, clip in clips.items()}
            rows[what].append({"prompt": prompt, "seed": SEED} | found)
    return {what: summary(table, what in AMOUNTS) for what, table in rows.items()}


def summary(table: list[dict], compared: bool) -> dict:
    """Rows of one measure, a prompt each, with their means, and if ``compared`` how generated clips stand to real ones."""
    kinds = [kind for kind in table[0] if kind not in ("prompt", "seed")]
    values = {kind: np.array([row[kind] for row in table]) for kind in kinds}
    found = {"prompts": table, "mean": {kind: interval(of) for kind, of in values.items()}}
    return found | ({"ratio to real": ratio(values["generated"], values["real"])} if compared else {})
