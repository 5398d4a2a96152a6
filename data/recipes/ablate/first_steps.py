"""What the first steps of a training do to clips, with an output that starts at zero and with an ordinary one.

    python -m recipes.ablate.first_steps [--device cuda]

Both arms are those of motion_module.py, stopped early. Drawn are the weights as they are at a step, not their average,
which would still hold much of the start.
"""

from functools import partial
from pathlib import Path

import animatediff_ref as ar
from recipes.ablate.arms import BUDGET, FRAMES, SEEDS, WEIGHTS, folder, pipeline, started
from recipes.ablate.bench import Table, sweep
from recipes.ablate.motion_module import ARMS
from recipes.ablate.scores import SHOWN, asks, scored
from recipes.common.paths import sized
from recipes.measure.stills import STEPS as SAMPLING

NAMES = ("baseline", "ordinary init")
AT = sized((0, 10, 25, 50, 100, 200), toy=(0, 1))  # steps of the training


def snapshot(arm: str, seed: int, step: int, device: str) -> Path:
    """The motion module of an arm after so many steps; all that are wanted of it are written by one training."""
    files = {step: folder(f"first {arm}", seed) / f"step-{step}.safetensors" for step in AT}
    if not files[AT[-1]].exists():
        print(f"training: {arm}, seed {seed}, {AT[-1]} steps", flush=True)
        files[0].parent.mkdir(parents=True, exist_ok=True)
        motion, records = started(ARMS[arm], seed, device)
        ar.save_motion_module(motion, files[0])
        for record in records:
            if record.step in files:
                ar.save_motion_module(motion, files[record.step])
            if record.step == AT[-1]:
                break
    return files[step]


def drawn(device: str, arm: str, seed: int, step: int, prompt: str) -> dict[str, float]:
    """The scores of a clip without the adapter, as the paper animates."""
    pipe = pipeline(False, ARMS[arm].betas, device)
    ar.inject(pipe.unet, ar.load_motion_module(snapshot(arm, seed, step, device)), FRAMES)
    clip = ar.animate(pipe, prompt, seed=0, num_inference_steps=SAMPLING)
    return scored(clip, prompt, f"first-{arm}-{seed}-{step}")


def tables(device: str) -> list[Table]:
    prompts = list(asks())[:SHOWN]
    cells = [
        {"arm": arm, "seed": seed, "step": step, "prompt": prompt}
        for arm in NAMES
        for seed in SEEDS
        for step in AT
        for prompt in prompts
    ]
    budget = {**BUDGET, "stopped at": AT[-1], "steps of sampling": SAMPLING, "prompts": len(prompts)}
    return [Table("first_steps", cells, partial(drawn, device), WEIGHTS, budget)]


def main() -> None:
    sweep(tables, __file__)


if __name__ == "__main__":
    main()
