"""MotionLoRAs turned up, down and backwards, and two at once (paper section 4.3): how the camera goes in each clip.

    python -m recipes.ablate.composing [--device cuda]

The prompts and the noise are those of the record of single cameras (measure/camera.py), which has the weights 0 and 1.
"""

from collections.abc import Iterator
from functools import cache, partial

import numpy as np

import animatediff_ref as ar
from animatediff_ref.clips.camera import AMOUNTS, AXES, CAMERAS
from recipes.ablate.arms import WEIGHTS
from recipes.ablate.bench import Table, sweep
from recipes.ablate.scores import RESULTS
from recipes.common.paths import MINI, sized
from recipes.measure.camera import SEED, prompts
from recipes.measure.stills import STEPS, quiet
from recipes.train.camera import FRAMES

DIAL = sized((-1.0, 0.5, 1.5), toy=(-1.0,))
PAIRS = (("pan_left", "tilt_up"), ("pan_right", "zoom_in"), ("tilt_down", "zoom_out"), ("pan_left", "roll_clockwise"))
OPPOSITES = (("pan_left", "pan_right"), ("tilt_up", "tilt_down"), ("zoom_in", "zoom_out"))
BUDGET = {"steps of sampling": STEPS, "seed": SEED}


@cache
def inflated(device: str):
    """The base with its motion module, on which all eight cameras lie."""
    pipe, motion = quiet(ar.load_base("mini").to(device)), ar.load_motion_module("mini")
    ar.inject(pipe.unet, motion, FRAMES)
    for camera in CAMERAS:
        ar.load_motion_lora(motion, camera, camera, weight=0.0)
    return pipe, motion


def measured(device: str, camera: str, weight: float, other: str, other_weight: float, prompt: str) -> dict[str, float]:
    """The way on each axis, in shares of a usual move; a clip in which no camera can be seen goes nowhere."""
    pipe, motion = inflated(device)
    ar.set_motion_loras(motion, {camera: weight} | ({other: other_weight} if other else {}))
    clip = ar.animate(pipe, prompt, seed=SEED, num_inference_steps=STEPS)
    if other and prompt == prompts()[0]:
        (RESULTS / "clips").mkdir(parents=True, exist_ok=True)
        ar.write_clip(clip, RESULTS / "clips" / f"composing-{camera}-{weight}-{other}-{other_weight}.mp4", crf=14)
    found = ar.estimate_camera(clip, whole=True)
    return {axis: float(np.nan_to_num(found.total[axis] / AMOUNTS[axis])) for axis in AXES} | {"seen": int(found.seen)}


def settings() -> Iterator[dict]:
    """One camera at several weights; two at once; half of one less half of its opposite."""
    alone = [(camera, weight, "", 0.0) for weight in DIAL for camera in CAMERAS]
    together = [(one, 1.0, other, 1.0) for one, other in PAIRS]
    apart = [(one, 0.5, other, -0.5) for one, other in OPPOSITES]
    for row in (*together, *apart, *alone):
        yield dict(zip(("camera", "weight", "other", "other_weight"), row))


def tables(device: str) -> list[Table]:
    cells = [row | {"prompt": prompt} for row in settings() for prompt in prompts()]
    cameras = [MINI / "cameras" / f"{camera}.safetensors" for camera in CAMERAS]
    weights = [*WEIGHTS, MINI / "motion_module.safetensors", *cameras]
    return [Table("composing", cells, partial(measured, device), weights, BUDGET | {"prompts": len(prompts())})]


def main() -> None:
    sweep(tables, __file__)


if __name__ == "__main__":
    main()
