"""``animatediff-ref inspect`` and ``convert``: what files of weights are, and the same in another format."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import animatediff_ref as ar
from animatediff_ref.cli.errors import plain_errors


class Format(StrEnum):
    """Whose names the tensors of a file have."""

    official = "official"
    diffusers = "diffusers"
    kohya = "kohya"


class Dtype(StrEnum):
    """The numbers of a file."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


def inspect(files: Annotated[list[Path], typer.Argument(help="files of weights, or folders of diffusers")]) -> None:
    """Tell what files of weights are, and what to do with them."""
    absent = [file for file in files if not file.exists()]
    for file in files:
        typer.echo(f"error: there is no file {file}" if file in absent else ar.inspect_file(file))
    if absent:
        raise typer.Exit(2)


def convert(
    source: Annotated[Path, typer.Argument(help="a motion module, MotionLoRA or domain adapter")],
    target: Annotated[
        Path, typer.Argument(help=".safetensors or .ckpt; a folder for a motion module in diffusers' format")
    ],
    to: Annotated[Format, typer.Option(help="kohya is for LoRAs alone")] = Format.official,
    dtype: Annotated[Dtype | None, typer.Option(help="by default that of the source")] = None,
) -> None:
    """Write a motion module, MotionLoRA or domain adapter in another format."""
    with plain_errors():
        import torch

        info = ar.convert_file(source, target, to.value, getattr(torch, dtype.value) if dtype else None)
        typer.echo(f"{info.title}, from {info.format} to {to.value}\n{ar.inspect_file(target)}")
        if to == Format.diffusers and info.kind == "motion module" and not info.config.motion_norm_over_frames:
            typer.echo(
                "note: diffusers pools this module's entry norm over frames, so its clips will differ slightly there"
            )
