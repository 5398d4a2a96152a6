"""How large a MotionLoRA must be and how many clips it needs (paper Fig. 7): rank and number of clips, two cameras.

    python -m recipes.ablate.motion_lora [--device cuda] [--cameras zoom_in]

Measured are the way of the camera on each axis, as of the cameras that ship, and whether the reference clips are copied.
Controls are clips without a MotionLoRA, and real ones: reference clips themselves, and clips that no arm has seen.
"""

from collections.abc import Iterable, Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

import animatediff_ref as ar
from animatediff_ref.clips.camera import AMOUNTS, AXES
from recipes.ablate.arms import EVERY, WEIGHTS
from recipes.ablate.bench import Table, fill
from recipes.ablate.scores import RESULTS, SHOWN, judge
from recipes.art import world
from recipes.art.footage import clean
from recipes.common.paths import MINI, RUNS, arguments, sized
from recipes.common.run import follow
from recipes.measure.camera import prompts
from recipes.measure.stills import STEPS as SAMPLING
from recipes.measure.stills import quiet
from recipes.train.camera import CLIPS, FRAMES, moving, reference, seen
from recipes.train.motion import subset

CAMERAS = ("zoom_in", "pan_left")
RANKS, COUNTS = (2, 8, 32), sorted({min(count, CLIPS) for count in (5, 20, 50)})
ARMS = [(rank, COUNTS[-1]) for rank in RANKS] + [(RANKS[-1], count) for count in COUNTS[:-1]]
SEEDS = range(sized(2, toy=1))
STEPS, BATCH = sized(200, toy=2), sized(2, toy=1)
COMMON = 5  # reference clips that every arm has learnt from: are they copied?
WITHOUT, LEARNT, UNSEEN = "without", "reference clips", "unseen clips"  # the controls
BUDGET = {"steps": STEPS, "clips a step": BATCH, "frames": FRAMES, "steps of sampling": SAMPLING, "seed of clips": 0}


@cache
def order() -> list[int]:
    """The reference clips in the order in which arms have more of them: the fewer are among the more."""
    return np.random.default_rng(0).permutation(len(reference())).tolist()


@cache
def base(device: str):
    """The image model."""
    return quiet(ar.load_base("mini").to(device))


@cache
def crops(device: str, camera: str) -> ar.LatentClips:
    return seen(base(device), camera)


def trained(device: str, camera: str, rank: int, clips: int, seed: int) -> Path:
    """The file of a MotionLoRA, trained if it is not there."""
    out = RUNS / "ablate" / f"{camera}-{rank}-{clips}-{seed}-{STEPS}x{BATCH}"
    if not (weights := out / "camera.safetensors").exists():
        print(f"training: {camera}, rank {rank}, {clips} clips, seed {seed}", flush=True)
        torch.manual_seed(seed)
        pipe, motion = base(device), ar.load_motion_module("mini").to(device)
        options = {"warmup": 20, "betas": (0.9, 0.99), "anneal": True, "autocast": True, "weighting": "debiased"}
        plan = ar.TrainConfig(STEPS, BATCH, learning_rate=4e-3, seed=seed, save_every=100, **options)
        mine = subset(crops(device, camera), order()[:clips])
        out.mkdir(parents=True, exist_ok=True)
        records = ar.train_motion_lora(pipe.unet, motion, mine, plan, rank=rank, checkpoints=out / "checkpoints")
        follow(out.relative_to(RUNS).as_posix(), records, plan, EVERY)
        ar.save_motion_lora(motion, weights)
    return weights


@cache
def inflated(device: str, camera: str, rank: int, clips: int, seed: int):
    pipe, motion = base(device), ar.load_motion_module("mini")
    if camera != WITHOUT:
        ar.load_motion_lora(motion, trained(device, camera, rank, clips, seed), camera)
    return pipe, motion


def things(kind: str) -> list[dict]:
    """Those of reference clips that every arm has learnt from; or of clips that no arm has seen and no prompt asks for."""
    learnt, asked = reference(), [prompt.split(", ")[0] for prompt in prompts()]
    if kind == LEARNT:
        return [learnt[i] for i in order()[:COMMON]]
    return [row for row in moving() if row not in learnt and row["phrase"] not in asked] or learnt


def film(thing: dict) -> np.ndarray:
    return world.resized(clean(thing["code"]).clip[:FRAMES])


@cache
def known(kind: str) -> np.ndarray:
    """Features of some frames of their clips."""
    return np.concatenate([ar.image_features(judge(), film(thing)[::4]) for thing in things(kind)])


def copied(clip: np.ndarray) -> float:
    """100 times how much more alike the frames are to reference clips than to unseen ones, in mean cosines.

    The two are of other things, so 0 means nothing: what counts is the difference from the control without a camera.
    """
    found = ar.image_features(judge(), clip)
    return 100 * float((found @ known(LEARNT).T).mean() - (found @ known(UNSEEN).T).mean())


def measured(device: str, camera: str, rank: int, clips: int, seed: int, prompt: str) -> dict[str, float]:
    """Of a clip: the way on each axis, in shares of a usual move; whether a camera is seen; copied frames."""
    if camera in (LEARNT, UNSEEN):
        return read(film(next(thing for thing in things(camera) if thing["phrase"] == prompt)))
    pipe, motion = inflated(device, camera, rank, clips, seed)
    ar.inject(pipe.unet, motion, FRAMES)
    clip = ar.animate(pipe, prompt, seed=0, num_inference_steps=SAMPLING)
    if (number := prompts().index(prompt)) < SHOWN:
        (RESULTS / "clips").mkdir(parents=True, exist_ok=True)
        ar.write_clip(clip, RESULTS / "clips" / f"lora-{camera}-{rank}-{clips}-{seed}-{number}.mp4", crf=14)
    return read(clip)


def read(clip: np.ndarray) -> dict[str, float]:
    found = ar.estimate_camera(clip, whole=True)
    ways = {axis: float(np.nan_to_num(found.total[axis] / AMOUNTS[axis])) for axis in AXES}
    return ways | {"seen": int(found.seen), "copied": copied(clip)}


def arms(cameras: Iterable[str]) -> Iterator[dict]:
    for camera in cameras:
        for seed in SEEDS:
            for rank, clips in ARMS:
                yield {"camera": camera, "rank": rank, "clips": clips, "seed": seed}


def tables(device: str, cameras: Iterable[str] = CAMERAS) -> list[Table]:
    none = {"rank": 0, "clips": 0, "seed": 0}
    real = [(kind, thing["phrase"]) for kind in (LEARNT, UNSEEN) for thing in things(kind)[:COMMON]]
    cells = [{"camera": kind} | none | {"prompt": phrase} for kind, phrase in real]
    generated = [{"camera": WITHOUT} | none, *arms(cameras)]
    cells += [arm | {"prompt": prompt} for arm in generated for prompt in prompts()]
    weights = [*WEIGHTS, MINI / "motion_module.safetensors"]
    return [Table("motion_lora", cells, partial(measured, device), weights, BUDGET | {"prompts": len(prompts())})]


def main() -> None:
    ask = arguments()
    ask.add_argument("--cameras", nargs="+", choices=CAMERAS, default=list(CAMERAS), help="only these")
    args = ask.parse_args()
    print(f"{len(list(arms(args.cameras)))} trainings of {STEPS} steps of {BATCH} clips", flush=True)
    for table in tables(args.device, args.cameras):
        fill(table, __file__, args.device)


if __name__ == "__main__":
    main()
