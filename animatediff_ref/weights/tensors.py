"""Files of weights: read whatever their format, refused if damaged, written whole or not at all."""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # of the files that are written
WRAPPERS = ("state_dict", "controlnet", "motion_module")  # top-level entries under which files keep their tensors
STRAY = ("animatediff_config",)  # what published files may hold besides tensors that mean something
ADAPTER_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin")  # fmt: skip


class Weights(NamedTuple):
    """What a file holds: tensors by name, and the strings that came with them (for a diffusers folder, its configuration too)."""

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str]


class Unreadable(ValueError):
    """There are no weights to be had from a file."""


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to it at the end; on any failure the old file or folder stays and the new one goes."""
    path = Path(path).resolve()  # what a link leads to is replaced, not the link
    path.parent.mkdir(parents=True, exist_ok=True)
    aside, old = (path.with_name(f".{path.stem}.{os.getpid()}{end}{path.suffix}") for end in ("", ".old"))
    try:
        yield aside
        if aside.is_dir() and path.exists():  # a folder cannot be renamed onto another
            path.rename(old)
        os.replace(aside, path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        for rest in (aside, old):
            shutil.rmtree(rest) if rest.is_dir() else rest.unlink(missing_ok=True)


def save_tensors(tensors: Mapping[str, torch.Tensor], path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write a .safetensors file with metadata and a checksum of it all, or a plain .ckpt that the official code can read."""
    path = Path(path)
    if path.suffix not in (".safetensors", ".ckpt"):
        raise ValueError(f"weights are written as .safetensors or .ckpt, got {path.name!r}")
    if path.is_dir():
        raise ValueError(f"weights are written to a file, and {path} is a folder")
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES or not tensor.isfinite().all():
            raise ValueError(
                f"{name} cannot be written as {tensor.dtype}: needed are finite numbers in one of {', '.join(map(str, DTYPES))}"
            )
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with written_aside(path) as aside:
        aside.touch()
        mode = aside.stat().st_mode  # safetensors makes files that only their owner can read
        if path.suffix == ".ckpt":
            torch.save(tensors, aside)
        else:
            save_file(tensors, aside, {**metadata, "sha256": _checksum(tensors, metadata)})
        aside.chmod(mode)


def read_weights(path: str | Path) -> Weights:
    """The tensors of a file, memory-mapped where its format allows, told by its content and not by its name.

    Reads safetensors; torch files with ``weights_only=True``, flat or wrapped (``state_dict``, ``controlnet``), with or without
    the ``module.`` of distributed training; and folders of a diffusers ``MotionAdapter``. Raises ``Unreadable``, a ``ValueError``
    that says what the file seems to be, if it holds no weights, is damaged, or holds code besides tensors.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise Unreadable(f"there is no file {path}")
    with path.open("rb") as file:
        head = file.read(512)
    try:
        found = _read_safetensors(path) if head[8:9] == b"{" else _read_torch(path, head)
    except Unreadable:
        raise
    except Exception as error:  # on bytes that are no pickle, torch's reader fails in any way there is
        raise Unreadable(f"{path} {_seems(head, error)}") from error
    broken = [name for name, tensor in found.tensors.items() if not _is_finite(tensor)]
    if broken:
        raise Unreadable(f"{path} is damaged: {len(broken)} tensors hold NaN or infinite values, first {broken[0]}")
    return found


def _is_finite(tensor: torch.Tensor) -> bool:
    if tensor.dtype.itemsize == 1:  # float8, of which torch cannot ask
        tensor = tensor.float()
    return bool(tensor.isfinite().all())


def _read_safetensors(path: Path) -> Weights:
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if metadata.get("sha256", checksum := _checksum(tensors, metadata)) != checksum:
        raise Unreadable(f"{path} is damaged: its content does not match its checksum")
    return Weights(_unwrapped(tensors), metadata)


def _read_torch(path: Path, head: bytes) -> Weights:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's thoughts on foreign pickles; what matters here becomes an error
        if head.startswith(b"PK") and path.suffix != ".safetensors":
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        else:  # by its content alone: torch believes a name that says .safetensors
            with path.open("rb") as file:
                state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise Unreadable(f"{path} holds a {type(state).__name__}: needed are tensors by name")
    for name in WRAPPERS:
        inner = state.get(name)
        state = inner if isinstance(inner, dict) else state
    return Weights(_unwrapped(state), {})


def _read_folder(path: Path) -> Weights:
    """A folder as diffusers' ``save_pretrained`` leaves it; the configuration goes into the metadata as text."""
    file = next((path / name for name in ADAPTER_WEIGHTS if (path / name).is_file()), None)
    if file is None or not (path / "config.json").is_file():
        raise Unreadable(
            f"{path} is a folder, and not one of a diffusers MotionAdapter: it lacks config.json or weights"
        )
    tensors, metadata = read_weights(file)
    return Weights(tensors, {**metadata, "diffusers": (path / "config.json").read_text()})


def _unwrapped(state: Mapping) -> dict[str, torch.Tensor]:
    return {str(name).removeprefix("module."): value for name, value in state.items() if torch.is_tensor(value)}


def _checksum(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors, and over the metadata."""
    digest = hashlib.sha256(json.dumps(sorted((k, v) for k, v in metadata.items() if k != "sha256")).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _seems(head: bytes, error: Exception) -> str:
    """What a file that cannot be read seems to be."""
    if not head:
        return "is empty"
    if isinstance(error, UnpicklingError) and ("GLOBAL" in str(error) or head.startswith(b"\x80")):
        return "is a pickle of more than plain tensors, such as code, and was not opened further"
    if all(32 <= byte < 127 or byte in b"\r\n\t" for byte in head):
        return "is a text file, not weights"
    reason = "" if isinstance(error, UnpicklingError) else f": {str(error).split('. ')[0]}"
    return f"is no file of weights, or a damaged one{reason}"
