"""``animatediff-ref doctor``: is everything there, and is it what it should be?"""

import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version

import typer

import animatediff_ref as ar
from animatediff_ref.cli.errors import plain_errors


def doctor() -> None:
    """Print versions, device, video codecs, and what is missing or wrong, if anything."""
    typer.echo(f"animatediff-ref {ar.__version__}, Python {platform.python_version()}, {platform.platform()}")
    with plain_errors():
        _check_packages()
        _check_machine()
        _check_world()
    typer.echo("all is well")


def _check_packages() -> None:
    """``ValueError`` unless all is installed that the package's own metadata asks for."""
    asked = [line for line in requires("animatediff-ref") or [] if "extra ==" not in line]
    names = [re.match(r"[\w.-]+", line)[0] for line in asked]
    found = {name: _version(name) for name in names}
    typer.echo("packages: " + ", ".join(f"{name} {there or 'MISSING'}" for name, there in found.items()))
    if missing := [name for name, there in found.items() if not there]:
        raise ValueError(f"not everything is installed: pip install {' '.join(missing)}")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _check_machine() -> None:
    """``ValueError`` if no videos can be written."""
    import av
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    typer.echo(f"device: {ar.best_device()} ({name})")
    writes = "libx264" in av.codecs_available
    codec = "yes" if writes else "MISSING: pip install --upgrade av"
    typer.echo(f"ffmpeg: {av.ffmpeg_version_info}, inside PyAV {av.__version__}; writes H.264: {codec}")
    if not writes:
        raise ValueError("PyAV cannot write H.264, which .mp4 files need: pip install --upgrade av")


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
