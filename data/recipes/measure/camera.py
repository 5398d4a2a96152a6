"""What the eight MotionLoRAs do: the camera in clips of things that no reference clip showed."""

import numpy as np

import animatediff_ref as ar
from animatediff_ref.clips.camera import AMOUNTS, AXES, CAMERAS
from animatediff_ref.measure.statistics import interval
from recipes.art import world
from recipes.art.footage import scene
from recipes.common.paths import sized
from recipes.measure.stills import STEPS, quiet
from recipes.train.camera import FRAMES, moving, reference

CLIPS = sized(10, toy=1)  # prompts for each camera, the same for all
SEED = 0
WITHOUT = "without"  # a MotionLoRA: the control


def prompts() -> list[str]:
    """Things on grounds, evenly spread over those whose clips no camera was taught with."""
    known = {row["code"] for row in reference()}
    rows = [row for row in moving() if row["code"] not in known]
    rows = [rows[i] for i in np.linspace(0, len(rows) - 1, CLIPS).round().astype(int)]
    return [world.caption(row["phrase"], scene(row["code"])[0]) for row in rows]


def clips_by(device: str, weights: dict[str, float]) -> dict[str, np.ndarray]:
    """A clip for each prompt with some MotionLoRAs."""
    pipe, motion = quiet(ar.load_base("mini").to(device)), ar.load_motion_module("mini")
    ar.inject(pipe.unet, motion, FRAMES)
    for name, weight in weights.items():
        ar.load_motion_lora(motion, name, name, weight)
    return {prompt: ar.animate(pipe, prompt, seed=SEED, num_inference_steps=STEPS) for prompt in prompts()}


def way(device: str, weights: dict[str, float]) -> dict:
    """How far the camera goes on each axis, in shares of the way in the reference clips: by prompt, and the means.

    A clip in which no camera can be seen counts as one that goes nowhere.
    """
    found = {prompt: ar.estimate_camera(clip, whole=True) for prompt, clip in clips_by(device, weights).items()}
    ways = np.nan_to_num([[each.total[axis] / AMOUNTS[axis] for axis in AXES] for each in found.values()])
    rows = [
        {"prompt": prompt, "seed": SEED, "seen": each.seen, **dict(zip(AXES, way.tolist()))}
        for (prompt, each), way in zip(found.items(), ways)
    ]
    return {"prompts": rows, "way": dict(zip(AXES, map(interval, ways.T)))}


def camera(device: str, name: str) -> dict:
    """One camera by itself: also in how many clips it goes the right way, and its leakage: the longest way on another axis."""
    if name == WITHOUT:
        return way(device, {})
    found, (axis, sign) = way(device, {name: 1.0}), CAMERAS[name]
    own = np.array([row[axis] for row in found["prompts"]])
    others = np.array([[row[other] for other in AXES if other != axis] for row in found["prompts"]])
    right, leakage = interval(100.0 * (sign * own > 0)), interval(np.abs(others).max(1))
    return found | {"right way_percent": right, "leakage": leakage}
