"""The moving picture at the top of the README: six generated clips side by side.

python data/recipes/gallery.py
"""

import numpy as np
from fit import DATA
from PIL import Image

import animatediff_ref as ar

PROMPTS = [
    "a penguin, snow",
    "a baby chick, meadow",
    "a fox, night sky",
    "an octopus, beach",
    "a bat, sunset",
    "a ghost, desert",
]
WIDTH = 140


def main() -> None:
    pipe = ar.load_base("mini", style="blob")
    ar.inject(pipe.unet, ar.load_motion_module("mini"), num_frames=16)
    clips = [ar.animate(pipe, f"{prompt}, blob style", seed=0) for prompt in PROMPTS]
    frames = []
    for together in zip(*clips):
        row = [np.asarray(Image.fromarray(frame).resize((WIDTH, WIDTH), Image.LANCZOS)) for frame in together]
        frames.append(np.concatenate(row, axis=1))
    ar.write_clip(np.stack(frames), DATA / "gallery.webp", fps=8)


if __name__ == "__main__":
    main()
