"""What the mini world looks like: a contact sheet for each image model, and the README's moving picture.

    python -m recipes.measure.gallery [--device cuda] [--only flat]

The prompts of a sheet are drawn at random (measure/stills.py), not picked: ``data/contact/NAME.webp``, ten in a row.
Those of the moving picture are picked.
"""

import io

import numpy as np
from PIL import Image

import animatediff_ref as ar
from animatediff_ref.mini.files import STYLES
from animatediff_ref.weights.tensors import written_aside
from recipes.common.paths import DATA, arguments
from recipes.measure.stills import STEPS, asks, draw, quiet, sample

PROMPTS = [
    "a penguin, snow",
    "a baby chick, meadow",
    "a grinning face, desert",
    "a fox, night sky",
    "an angry face, sunset",
    "a frog, beach",
]
WIDTH = 140
COLUMNS = 10


def sheet(pictures: np.ndarray) -> Image.Image:
    """Pictures, uint8 (n, h, w, 3), ten in a row, two pixels apart."""
    n, h, w, _ = pictures.shape
    page = Image.new("RGB", (COLUMNS * (w + 2) - 2, -(-n // COLUMNS) * (h + 2) - 2), "white")
    for i, picture in enumerate(pictures):
        page.paste(Image.fromarray(picture), (i % COLUMNS * (w + 2), i // COLUMNS * (h + 2)))
    return page


def contact_sheets(device: str, names: list[str]) -> None:
    (DATA / "contact").mkdir(exist_ok=True)
    for name in names:
        style = STYLES.get(name)
        pipe = quiet(ar.load_base("mini", style=style and name).to(device))
        rows = sample(asks(True), 60 if style else 100)
        words = style and name != "pip" and style.trigger
        prompts = [f"{style.trigger}, {ask.place}" if name == "pip" else ask.prompt(words or None) for ask in rows]
        sheet(draw(pipe, prompts)).save(made := io.BytesIO(), "webp", quality=85)
        with written_aside(DATA / "contact" / f"{name}.webp") as aside:
            aside.write_bytes(made.getvalue())


def moving_picture(device: str) -> None:
    pipe = ar.load_base("mini", style="blob").to(device)
    ar.inject(pipe.unet, ar.load_motion_module("mini"), num_frames=16)
    clips = [ar.animate(pipe, f"{prompt}, blob style", seed=0, num_inference_steps=STEPS) for prompt in PROMPTS]
    frames = []
    for together in zip(*clips):
        row = [np.asarray(Image.fromarray(frame).resize((WIDTH, WIDTH), Image.LANCZOS)) for frame in together]
        frames.append(np.concatenate(row, axis=1))
    ar.write_clip(np.stack(frames), DATA / "gallery.webp", fps=8)


def main() -> None:
    ask, models = arguments(), ("base", *STYLES)
    ask.add_argument("--only", nargs="+", choices=models, help="the sheets of these, and no moving picture")
    args = ask.parse_args()
    contact_sheets(args.device, args.only or list(models))
    if not args.only:
        moving_picture(args.device)


if __name__ == "__main__":
    main()
