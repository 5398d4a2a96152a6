"""``animatediff-ref animate``: a prompt in, a video file out."""

import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import animatediff_ref as ar
from animatediff_ref.cli.errors import plain_errors
from animatediff_ref.mini.files import MOVES

LORA = "file of a LoRA that personalises the base, FILE=0.8 to weigh it; may come several times"
CAMERA = "zoom_in, pan_left ... or a MotionLoRA's file, zoom_in=0.5 to weigh it; may come several times"


class Dtype(StrEnum):
    """What the numbers of weights and pictures are while a clip is made."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


def animate(
    prompt: Annotated[str, typer.Option(help="what the clip shows")],
    out: Annotated[Path, typer.Option(help="file to write: .mp4, .gif or .webp")],
    base: Annotated[str, typer.Option(help="mini, a pipeline folder, a .safetensors file or a hub id")] = "mini",
    style: Annotated[str | None, typer.Option(help="a personalised style of the mini world")] = None,
    lora: Annotated[list[str] | None, typer.Option(help=LORA)] = None,
    motion: Annotated[str, typer.Option(help="mini, or a motion module's file")] = "mini",
    camera: Annotated[list[str] | None, typer.Option(help=CAMERA)] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="what the clip should not show")] = None,
    frames: Annotated[int, typer.Option(help="frames in the clip")] = 16,
    width: Annotated[int | None, typer.Option(min=8, help="of a frame; by default as the base was trained")] = None,
    height: Annotated[int | None, typer.Option(min=8, help="of a frame; likewise")] = None,
    steps: Annotated[int, typer.Option(min=1, help="denoising steps")] = 25,
    guidance: Annotated[float | None, typer.Option(help="guidance scale; by default what the base likes best")] = None,
    seed: Annotated[int, typer.Option(help="the same seed gives the same clip")] = 0,
    fps: Annotated[int, typer.Option(min=1, help="frames a second")] = 8,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; by default the best there is")] = None,
    dtype: Annotated[Dtype, typer.Option(help="the two shorter ones need half the memory")] = Dtype.float32,
) -> None:
    """Make a clip of a prompt."""
    with plain_errors():
        from animatediff_ref.clips.video import check_suffix

        check_suffix(out).parent.mkdir(parents=True, exist_ok=True)
        pipe = _image_model(base, style, lora or [], device or ar.best_device(), dtype)
        ar.inject(pipe.unet, module := ar.load_motion_module(motion), frames)
        for number, (path, weight) in enumerate(map(_camera, camera or [])):
            ar.load_motion_lora(module, path, f"camera_{number}", weight)
        guidance = ar.default_guidance(pipe) if guidance is None else guidance
        options = {"seed": seed, "num_inference_steps": steps, "guidance_scale": guidance, "schedule": "official"}
        options |= {"width": width, "height": height, "negative_prompt": negative_prompt}
        clip = _told(pipe, prompt, options)
        ar.write_clip(clip, out, fps)
    size = f"{len(clip)} frames of {clip.shape[2]}x{clip.shape[1]} at {fps} fps"
    loras, cameras = (", ".join(words or ["none"]) for words in (lora, camera))
    made_by = f"base {base}, style {style or 'none'}, LoRA {loras}, motion {motion}, camera {cameras}"
    how = f"seed {seed}, {steps} steps, guidance {guidance:g}, {dtype.value} on {pipe.device}"
    typer.echo(f"{out}: {size} | {made_by} | {how}")


def _told(pipe, prompt: str, options: dict):
    """The clip; words that the base was never taught are told on the way."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ar.UnknownWordsWarning)
        clip = ar.animate(pipe, prompt, **options)
    for warning in said:
        typer.echo(f"warning: {warning.message}", err=True)
    return clip


def _image_model(base: str, style: str | None, loras: list[str], device: str, dtype: Dtype):
    """The pipeline, personalised, on its device."""
    import torch

    from animatediff_ref.generate.pipeline import device_named

    pipe = ar.load_base(base, style=style, dtype=getattr(torch, dtype.value)).to(device_named(device))
    _personalise(pipe, loras)
    return pipe


def _personalise(pipe, loras: list[str]) -> None:
    """Add LoRAs to a pipeline, beside the one that a style may have."""
    from animatediff_ref.generate.pipeline import quietly
    from animatediff_ref.weights.identify import AS_A_STYLE

    weights = dict.fromkeys(pipe.get_active_adapters(), 1.0)
    for number, (path, weight) in enumerate(map(_weighed, loras)):
        if (info := ar.inspect_file(path)).kind not in ("style LoRA", "domain adapter"):
            raise info.refusal("LoRA of an image model")
        with quietly():  # it only warns of a file that it does not understand
            pipe.load_lora_weights(str(info.path.parent), weight_name=info.path.name, adapter_name=f"lora_{number}")
        if not any(f"lora_{number}" in names for names in pipe.get_list_adapters().values()):
            advice = f": {AS_A_STYLE}" if info.format == "official" else ""
            raise ValueError(f"diffusers finds no LoRA of this base in {path}{advice}")
        weights[f"lora_{number}"] = weight
    if loras:
        pipe.set_adapters(list(weights), list(weights.values()))


def _camera(words: str) -> tuple[str, float]:
    """A MotionLoRA and its weight, of ``zoom_in`` or ``zoom_in=0.5``."""
    path, weight = _weighed(words)
    if path not in MOVES and not Path(path).expanduser().exists():
        raise ValueError(f"a camera is a MotionLoRA's file or one of {', '.join(MOVES)}; got {path!r}")
    return path, weight


def _weighed(words: str) -> tuple[str, float]:
    """What stands before ``=``, and the weight behind it: of ``name`` alone 1."""
    path, equals, weight = words.rpartition("=")
    if not equals or Path(words).expanduser().exists():
        return words, 1.0
    try:
        return path, float(weight)
    except ValueError:
        raise ValueError(f"a weight is a number, as in zoom_in=0.5, got {words!r}") from None
