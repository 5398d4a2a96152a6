"""The command line: a thin face over the package. Bad input ends with one line and exit code 2."""

import importlib.metadata
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Animate personalised text-to-image models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "einops",
    "av",
    "numpy",
    "pillow",
)


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def _device(name: str):
    import torch

    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no device {name!r} here: {str(error).splitlines()[0]}") from None


@app.command()
def animate(
    prompt: Annotated[str, typer.Option(help="what the clip shows")],
    out: Annotated[Path, typer.Option(help="file to write: .mp4, .gif or .webp")],
    base: Annotated[str, typer.Option(help="mini, a pipeline folder, a .safetensors file or a hub id")] = "mini",
    style: Annotated[str | None, typer.Option(help="a personalised style of the mini world")] = None,
    motion: Annotated[str, typer.Option(help="mini, or a motion module's file")] = "mini",
    frames: Annotated[int, typer.Option(help="frames in the clip")] = 16,
    steps: Annotated[int, typer.Option(min=1, help="denoising steps")] = 25,
    guidance: Annotated[float, typer.Option(help="guidance scale")] = 7.5,
    seed: Annotated[int, typer.Option(help="the same seed gives the same clip")] = 0,
    fps: Annotated[int, typer.Option(min=1, help="frames a second")] = 8,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; by default the best there is")] = None,
) -> None:
    """Make a clip of a prompt."""
    with _plain_errors():
        from animatediff_ref import clips, generate
        from animatediff_ref.checkpoints import load_motion_module
        from animatediff_ref.inflation import inject

        clips.check_suffix(out).parent.mkdir(parents=True, exist_ok=True)
        chosen = _device(device or generate.best_device())
        pipe = generate.load_base(base, style=style).to(chosen)
        inject(pipe.unet, load_motion_module(motion), frames)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", generate.UnknownWords)
            clip = generate.animate(pipe, prompt, seed=seed, num_inference_steps=steps, guidance_scale=guidance)
        for warning in said:
            typer.echo(f"warning: {warning.message}", err=True)
        clips.write_clip(clip, out, fps)
    size = f"{len(clip)} frames of {clip.shape[2]}x{clip.shape[1]}"
    typer.echo(
        f"{out}: {size} at {fps} fps | base {base}, style {style or 'none'}, motion {motion} | seed {seed}, {steps} steps, guidance {guidance:g}, {pipe.device}"
    )


@app.command()
def inspect(files: Annotated[list[Path], typer.Argument(help="files of weights, or folders of diffusers")]) -> None:
    """Tell what files of weights are, and what to do with them."""
    from animatediff_ref.files import inspect_file

    absent = [file for file in files if not file.exists()]
    for file in files:
        typer.echo(f"error: there is no file {file}" if file in absent else inspect_file(file))
    if absent:
        raise typer.Exit(2)


class Format(str, Enum):
    """Formats of files."""

    official = "official"
    diffusers = "diffusers"
    kohya = "kohya"


class Dtype(str, Enum):
    """Formats of numbers."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="a motion module, MotionLoRA or domain adapter")],
    target: Annotated[
        Path, typer.Argument(help=".safetensors or .ckpt; a folder for a motion module in diffusers' format")
    ],
    to: Annotated[Format, typer.Option(help="kohya is for LoRAs alone")] = Format.official,
    dtype: Annotated[Dtype | None, typer.Option(help="by default that of the source")] = None,
) -> None:
    """Write a motion module, MotionLoRA or domain adapter in another format."""
    with _plain_errors():
        import torch

        from animatediff_ref.convert import convert_file
        from animatediff_ref.files import inspect_file

        info = convert_file(source, target, to.value, getattr(torch, dtype.value) if dtype else None)
        typer.echo(f"{info.title}, from {info.format} to {to.value}\n{inspect_file(target)}")
        if to == Format.diffusers and info.kind == "motion module" and not info.config.motion_norm_over_frames:
            typer.echo(
                "note: diffusers pools this module's entry norm over frames, so its clips will differ slightly there"
            )


@app.command()
def doctor() -> None:
    """Print versions, device, video codecs and the state of the mini world: weights that differ from their cards, and what to do."""
    import av
    import torch

    from animatediff_ref import __version__, best_device, mini

    typer.echo(f"animatediff-ref {__version__}, Python {platform.python_version()}, {platform.platform()}")
    typer.echo("packages: " + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES))
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    typer.echo(f"device: {best_device()} ({name})")
    codec = "yes" if "libx264" in av.codecs_available else "MISSING: pip install --upgrade av"
    typer.echo(f"ffmpeg: {av.ffmpeg_version_info}, inside PyAV {av.__version__}; writes H.264: {codec}")
    with _plain_errors():
        folder = mini.data_folder()
        checked = mini.checked()
        faults = [f"{name} {fault}" for name, fault in checked.items() if fault]
        if not (clips := len(list((folder / "clips").glob("*.mp4")))):
            faults.append("clips is missing, or empty")
        typer.echo(f"data: {folder}, {clips} clips, {len(checked)} model files compared with their cards")
        typer.echo("".join(f"  PROBLEM: {fault}\n" for fault in faults), nl=False)
        if faults:
            raise ValueError(
                "the mini world is not as it should be: restore it with 'git checkout data', or rebuild it as data/README.md says"
            )
    typer.echo("all is well")
