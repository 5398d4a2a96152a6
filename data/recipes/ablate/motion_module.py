"""What each part of the motion module and of its training is for: arms that differ from the recipe in one thing.

    python -m recipes.ablate.motion_module [--device cuda] [--arms "convolution" "no positions"]

Three tables: the losses while the arms train, the error on clips that were held out (frames in order, and shuffled),
and what the clips are like that they draw.
"""

from functools import cache, partial

import torch
from diffusers import StableDiffusionPipeline

import animatediff_ref as ar
from recipes.ablate.arms import (
    BASELINE,
    BUDGET,
    CLIPS,
    EVERY,
    FRAMES,
    SEEDS,
    STEPS,
    WEIGHTS,
    Arm,
    clips,
    curve,
    pipeline,
    trained,
)
from recipes.ablate.bench import Table, fill
from recipes.ablate.scores import asks, scored
from recipes.common.paths import arguments, sized
from recipes.measure.stills import STEPS as SAMPLING

ARMS = {
    "baseline": BASELINE,
    "without stage 1": Arm(adapter=False),
    "convolution": Arm(settings={"kind": "conv"}),
    "no positions": Arm(settings={"positions": False}),
    "ordinary init": Arm(settings={"zero_init": False}),
    "scaled-linear betas": Arm(betas="scaled_linear"),
    "plain weights": Arm(weighting="plain"),
}
POSITIONS = ("as trained", "off", "shuffled")  # at inference, of the baseline
ORDERS = ("in order", "shuffled")  # frames of the held-out clips
DRAWS, BATCHES = sized(8, toy=1), sized(5, toy=1)  # of held-out clips: independent ones, of so many batches each


@cache
def inflated(device: str, arm: str, seed: int, adapter: bool) -> StableDiffusionPipeline:
    """The image model, with the domain adapter or without, and in it the motion module of an arm."""
    pipe = pipeline(adapter, ARMS[arm].betas, device)
    ar.inject(pipe.unet, trained(arm, ARMS[arm], seed, device), FRAMES)
    return pipe


def loss(device: str, arm: str, seed: int, step: int) -> dict[str, float]:
    """The mean loss of the steps up to this one since the point before."""
    trained(arm, ARMS[arm], seed, device)
    return {"loss": curve(arm, seed)[step]}


def held_out(device: str, arm: str, seed: int, frames: str, draw: int) -> dict[str, float]:
    """The error on clips that no arm has seen, each arm as it was trained: over the adapter, or without."""
    pipe, (_, unseen) = inflated(device, arm, seed, ARMS[arm].adapter), clips()
    options = {"batches": BATCHES, "shuffled": frames == "shuffled", "seed": 100 + draw, "scheduler": pipe.scheduler}
    return {"error": ar.held_out_error(pipe.unet, unseen, **options)}


def drawn(device: str, arm: str, seed: int, positions: str, prompt: str) -> dict[str, float]:
    """The scores of a clip without the adapter, as the paper animates."""
    pipe = inflated(device, arm, seed, adapter=False)
    with_positions(ar.injected(pipe.unet), positions)
    clip = ar.animate(pipe, prompt, seed=0, num_inference_steps=SAMPLING, schedule="pipeline")
    return scored(clip, prompt, f"motion-{arm}-{seed}-{positions}")


def with_positions(motion: ar.MotionModule, how: str) -> None:
    """Set every position table: as it was, to nothing, or with its rows in random order."""
    order = torch.randperm(FRAMES, generator=torch.Generator().manual_seed(0))
    for table in motion.buffers():
        rows, channels = table.shape[1:]
        whole = ar.sinusoidal_positions(rows, channels)[0]
        if how == "shuffled":
            whole[:FRAMES] = whole[order]
        table[0] = (0.0 * whole if how == "off" else whole).to(table)


def tables(device: str, names: list[str]) -> list[Table]:
    pairs = [{"arm": arm, "seed": seed} for arm in ARMS if arm in names for seed in SEEDS]
    steps = range(EVERY, STEPS + 1, EVERY)
    losses = [pair | {"step": step} for pair in pairs for step in steps]
    unseen = [pair | {"frames": order, "draw": draw} for pair in pairs for order in ORDERS for draw in range(DRAWS)]
    shown = [
        pair | {"positions": how, "prompt": prompt}
        for pair in pairs
        for how in (POSITIONS if pair["arm"] == "baseline" else POSITIONS[:1])
        for prompt in asks()
    ]
    sampling = {**BUDGET, "steps of sampling": SAMPLING, "prompts": len(asks())}
    return [
        Table("motion_losses", losses, partial(loss, device), WEIGHTS, BUDGET | {"clips a step": CLIPS}),
        Table("motion_held_out", unseen, partial(held_out, device), WEIGHTS, BUDGET | {"batches": BATCHES}),
        Table("motion_clips", shown, partial(drawn, device), WEIGHTS, sampling),
    ]


def main() -> None:
    ask = arguments()
    ask.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="only these")
    args = ask.parse_args()
    trainings = len(args.arms) * len(SEEDS)
    print(f"{trainings} trainings of {STEPS} steps of {CLIPS} clips of {FRAMES} frames", flush=True)
    for arm in args.arms:
        for table in tables(args.device, [arm]):
            fill(table, __file__, args.device)


if __name__ == "__main__":
    main()
