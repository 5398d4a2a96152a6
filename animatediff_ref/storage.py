"""Writing files so that they appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to it at the end; on any failure the old file stays and the new one goes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def save_tensors(tensors: dict[str, torch.Tensor], path: str | Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all. ``ValueError`` for another suffix."""
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"weights are written as .safetensors, got {Path(path).name!r}")
    with written_aside(path) as aside:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, aside, metadata)


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file, or of a torch file read with ``weights_only=True``; ``ValueError`` if it is neither."""
    try:
        if Path(path).suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        return {key: value for key, value in state.items() if torch.is_tensor(value)}
    except (SafetensorError, RuntimeError, UnpicklingError, EOFError, AttributeError, OSError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as weights: {str(error).splitlines()[0]}") from error
