"""What the domain adapter does to clips as its scale goes from 1 to 0 (paper Fig. 6), with the motion module that ships.

python -m recipes.ablate.adapter [--device cuda]
"""

from functools import cache, partial

import numpy as np

import animatediff_ref as ar
from recipes.ablate.arms import FRAMES, WEIGHTS
from recipes.ablate.bench import Table, sweep
from recipes.ablate.scores import asks, filmed, frozen, real, scored, shuffled
from recipes.common.paths import MINI
from recipes.measure.stills import STEPS, quiet

SCALES = (1.0, 0.75, 0.5, 0.25, 0.0)
SEED = 0
CONTROLS = ("real clips", "real clips as filmed", "per-frame images", "frozen", "shuffled")


@cache
def pipeline(device: str):
    pipe = quiet(ar.load_base("mini").to(device))
    ar.load_domain_adapter(pipe.unet, "mini")
    return pipe


def drawn(device: str, motion: ar.MotionModule, scale: float, prompt: str) -> np.ndarray:
    pipe = pipeline(device)
    ar.set_domain_adapter(pipe.unet, scale)
    ar.inject(pipe.unet, motion, FRAMES)
    return ar.animate(pipe, prompt, seed=SEED, num_inference_steps=STEPS)


@cache
def module() -> ar.MotionModule:
    return ar.load_motion_module("mini")


@cache
def dropped(device: str, prompt: str) -> np.ndarray:
    """As the paper animates: the adapter is dropped."""
    return drawn(device, module(), 0.0, prompt)


def clip_of(device: str, row: str, scale: float | str, prompt: str) -> np.ndarray:
    """A clip with the adapter at some scale, or of a control."""
    match row:
        case "real clips":
            return real(prompt)
        case "real clips as filmed":
            return filmed(prompt)
        case "per-frame images":
            return drawn(device, ar.MotionModule(module().config, module().places), 0.0, prompt)
        case "frozen":
            return frozen(dropped(device, prompt))
        case "shuffled":
            return shuffled(dropped(device, prompt))
    return drawn(device, module(), scale, prompt)


def measured(device: str, row: str, scale: float | str, prompt: str) -> dict[str, float]:
    return scored(clip_of(device, row, scale, prompt), prompt, f"adapter {row} {scale}".strip())


def tables(device: str) -> list[Table]:
    rows = [("generated", scale) for scale in SCALES] + [(control, "") for control in CONTROLS]
    cells = [{"row": row, "scale": scale, "prompt": prompt} for row, scale in rows for prompt in asks()]
    budget = {"seed": SEED, "steps of sampling": STEPS, "prompts": len(asks())}
    weights = [*WEIGHTS, MINI / "motion_module.safetensors"]
    return [Table("adapter_scale", cells, partial(measured, device), weights, budget)]


def main() -> None:
    sweep(tables, __file__)


if __name__ == "__main__":
    main()
