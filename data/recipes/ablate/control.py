"""Clips that follow the edges of a real clip (paper section 5.4): a ControlNet that knows stills, over injected frames.

    python -m recipes.ablate.control [--device cuda]

Measured is how well the edges of a clip agree with those that were asked for, frame by frame; and, as a control, with the
same frames in reverse, which a clip that only stands still would match as well.
"""

from functools import cache, partial

import cv2
import numpy as np
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

import animatediff_ref as ar
from animatediff_ref.mini.files import STYLES
from recipes.ablate.arms import WEIGHTS
from recipes.ablate.bench import Table, sweep
from recipes.ablate.scores import RESULTS, SHOWN
from recipes.art import world
from recipes.art.footage import clean
from recipes.common.paths import DATA, MINI, sized
from recipes.measure.motion import FRAMES, picked
from recipes.measure.stills import STEPS, Ask, base_rows, quiet
from recipes.train.controlnet import OUT, edges
from recipes.train.vae import through

STYLE = "blob"
ROWS = ("edges", "edges, per-frame images", "edges of another", "no edges", "real, autoencoded")
PROMPTS, SEED = sized(10, toy=1), 0


@cache
def asks() -> dict[str, Ask]:
    """Things that move, on the grounds of their real clips."""
    return {ask.prompt(STYLES[STYLE].trigger): ask for ask in picked()[:PROMPTS]}


def film(prompt: str) -> np.ndarray:
    """The real clip of a thing, without the faults of the video set."""
    return world.resized(clean(base_rows()[asks()[prompt].concept]["code"]).clip[:FRAMES])


def after(prompt: str) -> str:
    """The next prompt: whose edges are another's."""
    every = list(asks())
    return every[(every.index(prompt) + 1) % len(every)]


def agreement(clip: np.ndarray, asked: np.ndarray) -> float:
    """How well edges agree with those asked for, 0 to 1: the F1 score of their pixels, one pixel off allowed."""

    def found(some: np.ndarray, among: np.ndarray) -> float:
        near = np.stack([cv2.dilate(frame, np.ones((3, 3), np.uint8)) for frame in among])
        return float((near[some > 0] > 0).mean()) if some.any() else 0.0

    mine = edges(clip)
    right, told = found(mine, asked), found(asked, mine)
    return 2 * right * told / (right + told) if right + told else 0.0


@cache
def pipelines(device: str) -> tuple:
    """The personalised model, without and with the ControlNet."""
    pipe = quiet(ar.load_base("mini", style=STYLE).to(device))
    controlnet = ControlNetModel.from_pretrained(OUT, torch_dtype=pipe.dtype).to(device)
    controlled = StableDiffusionControlNetPipeline(
        **pipe.components, controlnet=controlnet, requires_safety_checker=False
    )
    return pipe, quiet(controlled)


def clip_of(device: str, row: str, prompt: str) -> np.ndarray:
    (pipe, controlled), motion = pipelines(device), ar.load_motion_module("mini")
    if row == "real, autoencoded":
        return through(pipe.vae, film(prompt))
    fresh = ar.MotionModule(motion.config, motion.places)
    ar.inject(pipe.unet, fresh if "per-frame" in row else motion, FRAMES)
    options = {"seed": SEED, "num_inference_steps": STEPS}
    if row == "no edges":
        return ar.animate(pipe, prompt, **options)
    shown = film(after(prompt) if row == "edges of another" else prompt)
    return ar.animate(controlled, prompt, image=edges(shown), **options)


def measured(device: str, row: str, prompt: str) -> dict[str, float]:
    """How a clip agrees with the edges of the prompt's real clip, and how it moves."""
    clip, asked = clip_of(device, row, prompt), edges(film(prompt))
    if (number := list(asks()).index(prompt)) < SHOWN:
        (RESULTS / "clips").mkdir(parents=True, exist_ok=True)
        name = f"control-{row}-{number}.mp4".replace(",", "").replace(" ", "-")
        ar.write_clip(clip, RESULTS / "clips" / name, crf=14)
    return {
        "agreement": agreement(clip, asked),
        "agreement reversed": agreement(clip, asked[::-1]),
        "flow": ar.flow_amount(clip),
        "flicker": ar.flicker(clip),
    }


def tables(device: str) -> list[Table]:
    cells = [{"row": row, "prompt": prompt} for row in ROWS for prompt in asks()]
    budget = {"style": STYLE, "seed": SEED, "steps of sampling": STEPS, "prompts": len(asks())}
    weights = [*WEIGHTS, MINI / "motion_module.safetensors", DATA / STYLES[STYLE].file]
    weights += [OUT / part for part in ("config.json", "diffusion_pytorch_model.safetensors")]
    return [Table("control", cells, partial(measured, device), weights, budget)]


def main() -> None:
    sweep(tables, __file__)


if __name__ == "__main__":
    main()
