"""AnimateDiff beside what the paper compares it with (section 5.1, Table 1), in personalised models.

    python -m recipes.ablate.methods [--device cuda] [--styles blob]

Tune-A-Video needs a film: it is tuned, in each personalised model, to one real clip, of a thing that no prompt asks for,
and draws that clip again as the thing of each prompt. The other methods see no film when they draw.
"""

from functools import cache, partial

import numpy as np

import animatediff_ref as ar
from animatediff_ref.mini.files import STYLES
from recipes.ablate.arms import FRAMES, WEIGHTS
from recipes.ablate.bench import Table, fill
from recipes.ablate.scores import RESULTS, SHOWN, frozen, judge
from recipes.art import world
from recipes.art.footage import clean
from recipes.common.paths import DATA, MINI, arguments, sized
from recipes.measure.motion import picked
from recipes.measure.stills import STEPS, Ask, base_rows, draw, quiet

SHOWN_IN = ("blob", "emojione", "flat")  # whose styles neither base nor motion module was taught
METHODS = ("AnimateDiff", "Text2Video-Zero", "Tune-A-Video")
CONTROLS = ("per-frame images", "one still", "real clips", "shuffled")
PROMPTS, STILLS = sized(10, toy=1), 4  # for each model, and of each prompt, to compare the domain with
TUNING = ar.TrainConfig(sized(300, toy=2), batch_size=1, learning_rate=3e-4, seed=0)
SEED = 0


@cache
def asks() -> dict[str, Ask]:
    """Things that move on the grounds of their real clips; the first that could be is the film's."""
    return {ask.prompt(): ask for ask in picked()[1 : PROMPTS + 1]}


def film(ask: Ask) -> np.ndarray:
    """The real clip of a thing, without the faults of the video set."""
    return world.resized(clean(base_rows()[ask.concept]["code"]).clip[:FRAMES])


@cache
def model(style: str, device: str, tuned: bool = False):
    """A personalised model, as it is or tuned to the film."""
    pipe = quiet(ar.load_base("mini", style=style).to(device))
    if tuned:
        shown = picked()[0]
        for _ in ar.tune_a_video(pipe, film(shown), shown.prompt(), TUNING):
            pass
    return pipe


@cache
def stills(style: str, prompt: str, device: str) -> np.ndarray:
    """What the personalised model draws of a prompt by itself, from other noise: its domain (section 5.2)."""
    ar.eject(model(style, device).unet)
    return draw(model(style, device), [prompt] * STILLS)


@cache
def clip_of(device: str, style: str, method: str, prompt: str) -> np.ndarray:
    """A clip by a method, or of a control."""
    words = f"{prompt}, {STYLES[style].trigger}"
    pipe, options = model(style, device, method == "Tune-A-Video"), {"num_inference_steps": STEPS}
    ar.eject(pipe.unet)
    match method:
        case "real clips":
            return film(asks()[prompt])
        case "Text2Video-Zero":
            return ar.text2video_zero(pipe, words, num_frames=FRAMES, seed=SEED, **options)
        case "Tune-A-Video":
            return ar.redrawn(pipe, film(picked()[0]), words, **options)
        case "one still":
            return frozen(clip_of(device, style, "per-frame images", prompt))
        case "shuffled":
            made = clip_of(device, style, "AnimateDiff", prompt)
            return made[np.random.default_rng(0).permutation(len(made))]
    motion = ar.load_motion_module("mini")
    fresh = ar.MotionModule(motion.config, motion.places)
    ar.inject(pipe.unet, motion if method == "AnimateDiff" else fresh, FRAMES)
    return ar.animate(pipe, words, seed=SEED, **options)


def measured(device: str, style: str, method: str, prompt: str) -> dict[str, float]:
    """The three scores of Table 1 and three of motion; clips of the first prompts are kept."""
    clip, words = clip_of(device, style, method, prompt), f"{prompt}, {STYLES[style].trigger}"
    if (number := list(asks()).index(prompt)) < SHOWN:
        (RESULTS / "clips").mkdir(parents=True, exist_ok=True)
        name = f"method-{style}-{method}-{number}.mp4".replace(" ", "-")
        ar.write_clip(clip, RESULTS / "clips" / name, crf=14)
    return {
        "text": ar.text_alignment(judge(), clip, words),
        "domain": ar.domain_similarity(judge(), clip, stills(style, words, device)),
        "consistency": ar.frame_consistency(judge(), clip),
        "flow": ar.flow_amount(clip),
        "flow shuffled": ar.flow_amount(clip[np.random.default_rng(0).permutation(len(clip))]),
        "flicker": ar.flicker(clip),
    }


def tables(device: str, styles: tuple[str, ...] = SHOWN_IN) -> list[Table]:
    rows = METHODS + CONTROLS
    cells = [{"style": s, "method": m, "prompt": p} for s in styles for m in rows for p in asks()]
    budget = {
        "seed": SEED,
        "steps of sampling": STEPS,
        "prompts": len(asks()),
        "stills of a prompt": STILLS,
        "steps of tuning": TUNING.steps,
        "learning rate of tuning": TUNING.learning_rate,
    }
    weights = [*WEIGHTS, MINI / "motion_module.safetensors", *(DATA / STYLES[style].file for style in SHOWN_IN)]
    return [Table("methods", cells, partial(measured, device), weights, budget)]


def main() -> None:
    ask = arguments()
    ask.add_argument("--styles", nargs="+", choices=SHOWN_IN, default=SHOWN_IN, help="only these")
    args = ask.parse_args()
    for table in tables(args.device, tuple(args.styles)):
        fill(table, __file__, args.device)


if __name__ == "__main__":
    main()
