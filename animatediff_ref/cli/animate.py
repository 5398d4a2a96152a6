"""``animatediff-ref animate``: a prompt in, a video file out."""

import warnings
from pathlib import Path
from typing import Annotated

import typer

import animatediff_ref as ar
from animatediff_ref.cli.errors import plain_errors
from animatediff_ref.mini.files import MOVES


def animate(
    prompt: Annotated[str, typer.Option(help="what the clip shows")],
    out: Annotated[Path, typer.Option(help="file to write: .mp4, .gif or .webp")],
    base: Annotated[str, typer.Option(help="mini, a pipeline folder, a .safetensors file or a hub id")] = "mini",
    style: Annotated[str | None, typer.Option(help="a personalised style of the mini world")] = None,
    motion: Annotated[str, typer.Option(help="mini, or a motion module's file")] = "mini",
    camera: Annotated[
        list[str] | None,
        typer.Option(
            help="zoom_in, pan_left ... or a MotionLoRA's file, zoom_in=0.5 to weigh it; may come several times"
        ),
    ] = None,
    frames: Annotated[int, typer.Option(help="frames in the clip")] = 16,
    steps: Annotated[int, typer.Option(min=1, help="denoising steps")] = 25,
    guidance: Annotated[float | None, typer.Option(help="guidance scale; by default what the base likes best")] = None,
    seed: Annotated[int, typer.Option(help="the same seed gives the same clip")] = 0,
    fps: Annotated[int, typer.Option(min=1, help="frames a second")] = 8,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; by default the best there is")] = None,
) -> None:
    """Make a clip of a prompt."""
    with plain_errors():
        from animatediff_ref.clips.video import check_suffix

        check_suffix(out).parent.mkdir(parents=True, exist_ok=True)
        pipe = ar.load_base(base, style=style).to(_device(device or ar.best_device()))
        guidance = ar.default_guidance(pipe) if guidance is None else guidance
        ar.inject(pipe.unet, module := ar.load_motion_module(motion), frames)
        for number, (path, weight) in enumerate(map(_weighed, camera or [])):
            ar.load_motion_lora(module, path, f"camera_{number}", weight)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", ar.UnknownWordsWarning)
            clip = ar.animate(
                pipe, prompt, seed=seed, num_inference_steps=steps, guidance_scale=guidance, schedule="official"
            )
        for warning in said:
            typer.echo(f"warning: {warning.message}", err=True)
        ar.write_clip(clip, out, fps)
    size = f"{len(clip)} frames of {clip.shape[2]}x{clip.shape[1]} at {fps} fps"
    made_by = f"base {base}, style {style or 'none'}, motion {motion}, camera {', '.join(camera or ['none'])}"
    typer.echo(f"{out}: {size} | {made_by} | seed {seed}, {steps} steps, guidance {guidance:g}, {pipe.device}")


def _weighed(camera: str) -> tuple[str, float]:
    """A MotionLoRA and its weight, of ``zoom_in`` or ``zoom_in=0.5``."""
    path, equals, weight = camera.rpartition("=")
    try:
        path, weight = (path, float(weight)) if equals else (camera, 1.0)
    except ValueError:
        raise ValueError(f"the weight of a camera is a number, as in zoom_in=0.5, got {camera!r}") from None
    if path not in MOVES and not Path(path).expanduser().exists():
        raise ValueError(f"a camera is a MotionLoRA's file or one of {', '.join(MOVES)}; got {path!r}")
    return path, weight


def _device(name: str):
    import torch

    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no device {name!r} here: {str(error).splitlines()[0]}") from None
