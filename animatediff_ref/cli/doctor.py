"""``animatediff-ref doctor``: is everything there, and is it what it should be?"""

import importlib.metadata
import platform

import typer

import animatediff_ref as ar
from animatediff_ref.cli.errors import plain_errors

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


def doctor() -> None:
    """Print versions, device, video codecs, and what is wrong with the mini world's files, if anything."""
    import av
    import torch

    typer.echo(f"animatediff-ref {ar.__version__}, Python {platform.python_version()}, {platform.platform()}")
    typer.echo("packages: " + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES))
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    typer.echo(f"device: {ar.best_device()} ({name})")
    codec = "yes" if "libx264" in av.codecs_available else "MISSING: pip install --upgrade av"
    typer.echo(f"ffmpeg: {av.ffmpeg_version_info}, inside PyAV {av.__version__}; writes H.264: {codec}")
    with plain_errors():
        _check_world()
    typer.echo("all is well")


def _check_world() -> None:
    from animatediff_ref.mini.cards import checked

    folder, files = ar.data_folder(), checked()
    clips = len(list((folder / "clips").glob("*.mp4")))
    faults = [f"{name} {fault}" for name, fault in files.items() if fault]
    faults += [] if clips else ["clips is missing, or empty"]
    typer.echo(f"data: {folder}, {clips} clips, {len(files)} model files compared with their cards")
    for fault in faults:
        typer.echo(f"  PROBLEM: {fault}")
    if faults:
        raise ValueError(
            "the mini world is not as it should be: restore it with 'git checkout data', or rebuild it as data/README.md says"
        )
