"""Stage 3 of the paper on the mini world: a MotionLoRA for one of the eight cameras.

    python -m recipes.train.camera NAME [--device cuda] [--steps N]

Needs the motion module (train/motion.py) and the artwork's downloads. The reference clips are what ``move_camera`` sees of
fifty clips without the faults of the video set: no domain adapter is then needed. A white ground, on which no camera can be
seen, is left out.
"""

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

import animatediff_ref as ar
from animatediff_ref.clips.camera import CAMERAS
from animatediff_ref.clips.latents import encode_text
from animatediff_ref.mini.files import SHIPPED
from recipes.art import world
from recipes.art.footage import clean, scene
from recipes.common.card import data_hash, write_card
from recipes.common.paths import DATA, MINI, RUNS, arguments, sized
from recipes.common.run import follow

CLIPS = sized(50, toy=2)
FRAMES = 16
RANK = 32


def moving() -> list[dict]:
    """The taught things that have a clip on a ground with something to see."""
    rows = [row for row in world.concepts() if row["taught"] and row["clip"]]
    return [row for row in rows if scene(row["code"])[0] != "white background"]


def reference() -> list[dict]:
    """Those whose clips are learnt from, evenly spread over the kinds of things."""
    rows = moving()
    return [rows[i] for i in np.linspace(0, len(rows) - 1, CLIPS).round().astype(int)]


def seen(pipe: StableDiffusionPipeline, camera: str) -> ar.LatentClips:
    """What a camera sees of the reference clips, encoded."""
    path, rows = ar.camera_path(camera, FRAMES), reference()
    size = pipe.unet.config.sample_size * pipe.vae_scale_factor
    clips = [ar.move_camera(clean(row["code"]).clip[:FRAMES], path, size) for row in rows]
    captions = [world.caption(row["phrase"], scene(row["code"])[0]) for row in rows]
    text = torch.cat([encode_text(pipe, caption) for caption in captions])
    return ar.LatentClips([ar.encode_pixels(pipe.vae, clip) for clip in clips], text, encode_text(pipe, "")[0])


def main() -> None:
    ask = arguments(steps=sized(400, toy=2), batch=sized(2, toy=1))
    ask.add_argument("camera", choices=CAMERAS)
    args = ask.parse_args()
    torch.manual_seed(0)
    pipe = ar.load_base("mini").to(args.device)
    clips, motion = seen(pipe, args.camera), ar.load_motion_module("mini").to(args.device)
    options = {"warmup": 20, "betas": (0.9, 0.99), "anneal": True, "autocast": True, "weighting": "debiased"}
    plan = ar.TrainConfig(args.steps, args.batch, learning_rate=4e-3, seed=0, save_every=100, **options)
    run = f"camera-{args.camera}"
    records = ar.train_motion_lora(pipe.unet, motion, clips, plan, name=args.camera, rank=RANK, checkpoints=RUNS / run)
    made = follow(run, records, plan, 50)

    out = DATA / SHIPPED["MotionLoRA"][args.camera]
    out.parent.mkdir(exist_ok=True)
    parameters = sum(p.numel() for name, p in motion.named_parameters() if "lora_" in name)
    ar.save_motion_lora(motion.half(), out, args.camera)
    data = data_hash(DATA / "concepts.csv", DATA / "clips.csv", MINI / "motion_module.safetensors")
    write_card(out.with_suffix(".json"), __file__, made, data, args.device, parameters=parameters, clips=len(clips))


if __name__ == "__main__":
    main()
