"""Files of tensors: read whatever their format, refused if damaged, written whole or not at all."""

import hashlib
import json
import os
import re
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

from animatediff_ref.mini.files import IS_LFS_POINTER, LFS_POINTER
from animatediff_ref.weights.names import WRAPPER

WRITTEN_DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # of the numbers in files that are written here
WRAPPERS = ("state_dict", "controlnet", "motion_module")  # entries that hold the weights, whatever else is there
NOT_WEIGHTS = ("animatediff_config",)  # an entry of published files that is not a weight and means nothing here
ADAPTER_WEIGHTS = "diffusion_pytorch_model"  # how the names of files of weights begin in a folder of diffusers
FOLDERS = {  # how the names of files of weights begin -> the file of settings beside them, its name in ``Weights``
    ADAPTER_WEIGHTS: ("config.json", "diffusers"),
    "adapter_model": ("adapter_config.json", "peft"),
    "pytorch_lora_weights": (None, ""),  # diffusers keeps the settings of a LoRA in its metadata
}


class Weights(NamedTuple):
    """What a file holds: tensors by name, and metadata, which are strings by name.

    The settings that lie beside the file are in the metadata too, as JSON: ``config.json`` of a diffusers folder under
    ``"diffusers"``, ``adapter_config.json`` of a peft folder under ``"peft"``.
    """

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str]


class Unreadable(ValueError):
    """A file holds no weights that can be used."""


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to ``path`` at the end.

    After any failure the old file or folder is still there, and the new one is not.
    """
    path = Path(path).expanduser().resolve()  # a link stays, and what it leads to is replaced
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    old = path.with_name(f".{path.stem}.{os.getpid()}.old{path.suffix}")
    try:
        yield aside
        if aside.is_dir() and path.exists():  # a folder cannot be renamed onto another
            path.rename(old)
        os.replace(aside, path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        for leftover in (aside, old):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)


def save_tensors(tensors: Mapping[str, torch.Tensor], path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write a .safetensors file with metadata and a checksum of everything, or a plain .ckpt for the official code.

    ``ValueError`` for another suffix, for numbers that are not finite, and for a dtype outside ``WRITTEN_DTYPES``.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".ckpt"):
        raise ValueError(f"weights are written as .safetensors or .ckpt, got {path.name!r}")
    if path.is_dir():
        raise ValueError(f"weights are written to a file, and {path} is a folder")
    for name, tensor in tensors.items():
        if tensor.dtype not in WRITTEN_DTYPES or not tensor.isfinite().all():
            dtypes = ", ".join(map(str, WRITTEN_DTYPES))
            raise ValueError(
                f"{name} cannot be written as {tensor.dtype}: a file needs finite numbers in one of {dtypes}"
            )
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with written_aside(path) as aside:
        aside.touch()
        mode = aside.stat().st_mode  # safetensors makes files that only their owner can read
        if path.suffix == ".ckpt":
            torch.save(tensors, aside)
        else:
            save_file(tensors, aside, {**metadata, "sha256": checksum(tensors, metadata)})
        aside.chmod(mode)


def read_weights(path: str | Path) -> Weights:
    """The tensors of a file, memory-mapped where its format allows. The content decides what it is, not the name.

    Reads safetensors; torch files with ``weights_only=True``, flat or as an entry of what a training saved, with or
    without the wrappers of compiling and of distributed training in the names; folders of diffusers and peft, whole or in
    shards; and the folder of a finished run. Where a folder has several, any safetensors come before pickled ones, then full precision before a
    variant such as fp16. Raises ``Unreadable``, which says what the file seems to be, if it holds no weights, is
    damaged, or holds code.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise Unreadable(f"there is no file {path}")
    with path.open("rb") as file:
        head = file.read(512)
    try:
        weights = _read_safetensors(path) if head[8:9] == b"{" else _read_torch(path, head)
    except Unreadable:
        raise
    except Exception as error:  # torch's reader raises anything at all on bytes that are no pickle
        raise Unreadable(f"{path} {_description(head, error)}") from error
    broken = [name for name, tensor in weights.tensors.items() if not _is_finite(tensor)]
    if broken:
        raise Unreadable(f"{path} is damaged: {len(broken)} tensors hold NaN or infinite values, first {broken[0]}")
    return Weights(weights.tensors, {**weights.metadata, **_settings_beside(path)})


def json_in(metadata: Mapping[str, str], key: str) -> dict:
    """The JSON object in the metadata under ``key``. ``ValueError`` if there is none."""
    text = metadata.get(key, "")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the metadata need JSON under {key!r}, got {text[:80]!r}") from error
    if not isinstance(value, dict):
        raise ValueError(f"the metadata need a JSON object under {key!r}, got {text[:80]!r}")
    return value


def _is_finite(tensor: torch.Tensor) -> bool:
    if tensor.dtype.itemsize == 1:  # torch cannot ask this of float8
        tensor = tensor.float()
    return bool(tensor.isfinite().all())


def _read_safetensors(path: Path) -> Weights:
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if "sha256" in metadata and metadata["sha256"] != checksum(tensors, metadata):
        raise Unreadable(f"{path} is damaged: its content does not match its checksum")
    return Weights(_unwrapped(tensors), metadata)


def _read_torch(path: Path, head: bytes) -> Weights:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about foreign pickles; what matters here becomes an error
        if head.startswith(b"PK") and path.suffix != ".safetensors":
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        else:  # from an open file: given a path, torch would believe a name that ends in .safetensors
            with path.open("rb") as file:
                state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise Unreadable(f"{path} holds a {type(state).__name__}, not tensors by name")
    return Weights(_unwrapped(_opened(state)), {})


def _opened(state: dict) -> dict:
    """The weights in what a training saved: all of it, one entry, or several entries under their names."""
    for name in WRAPPERS:
        if isinstance(state.get(name), dict):
            state = state[name]
    if _is_state_dict(state):
        return state
    entries = dict(_state_dicts(state))
    if len(entries) == 1:
        return next(iter(entries.values()))
    return {f"{path}.{name}": value for path, entry in entries.items() for name, value in entry.items()} or state


def _state_dicts(content: dict) -> Iterator[tuple[str, dict]]:
    """All state dicts in a dict of dicts, and the names that lead to them."""
    for name, value in content.items():
        if isinstance(value, dict) and _is_state_dict(value):
            yield str(name), value
        elif isinstance(value, dict):
            yield from ((f"{name}.{path}", entry) for path, entry in _state_dicts(value))


def _is_state_dict(content: dict) -> bool:
    """Whether there are tensors under names of parameters, which have dots; those of an optimizer have none."""
    return any(isinstance(name, str) and "." in name and torch.is_tensor(value) for name, value in content.items())


def _read_folder(path: Path) -> Weights:
    """A folder as diffusers' or peft's ``save_pretrained`` leaves it, or diffusers' ``save_lora_adapter``; or a run's."""
    if (path / "run.json").is_file():
        return _read_run(path)
    for stem, (settings, _) in FOLDERS.items():
        if (settings is None or (path / settings).is_file()) and (files := _files_of(path, stem)):
            parts = [read_weights(file) for file in files]
            return Weights({name: tensor for part in parts for name, tensor in part.tensors.items()}, parts[0].metadata)
    if (path / "model_index.json").is_file():
        raise Unreadable(f"{path} is the folder of a whole pipeline: name the folder of one of its parts")
    raise Unreadable(
        f"{path} is a folder, but not a diffusers MotionAdapter (config.json and {ADAPTER_WEIGHTS}.safetensors) nor a "
        f"LoRA of peft (adapter_config.json and adapter_model.safetensors): it holds {_content(path)}"
    )


def _read_run(folder: Path) -> Weights:
    """What a run of ``training.run.run_stage`` has left in its folder."""
    if not (files := list(folder.glob("*.safetensors"))):
        raise Unreadable(
            f"{folder} holds a run that has not come to its end: the command that began it goes on with it"
        )
    if len(files) > 1:
        raise Unreadable(f"{folder} holds a run and several files of weights: name one of {_content(folder)}")
    return read_weights(files[0])


def _content(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "") if names else "nothing"


def _files_of(folder: Path, stem: str) -> list[Path]:
    """The file of weights in a folder, or all its shards. The best of several: safetensors, then no variant."""
    form = re.compile(rf"{stem}(?:\.(\w+))?\.(safetensors|bin)(?:\.index(?:\.(\w+))?(\.json))?")
    ranked = []
    for path in folder.iterdir():
        if found := form.fullmatch(path.name):
            before, suffix, after, is_index = found.groups()
            variant = before or after or ""
            ranked.append((suffix == "bin", variant != "", variant != "fp16", variant, bool(is_index), path))
    if not ranked:
        return []
    *_, is_index, path = min(ranked)
    if not is_index:
        return [path]
    try:
        shards = sorted(set(json.loads(_text(path))["weight_map"].values()))
        return [folder / Path(name).name for name in shards]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreadable(f"{path} needs a weight_map, which names the shards: {error!r}") from error


def _settings_beside(path: Path) -> dict[str, str]:
    """The settings that diffusers or peft left beside a file of weights of theirs, as JSON by its name in metadata."""
    for stem, (settings, key) in FOLDERS.items():
        if settings and re.match(rf"{stem}[.-]", path.name) and (beside := path.with_name(settings)).is_file():
            return {key: _text(beside)}
    return {}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _unwrapped(state: Mapping) -> dict[str, torch.Tensor]:
    names: dict[str, object] = {}
    for name, value in state.items():
        if torch.is_tensor(value):
            plain = WRAPPER.sub("", str(name))
            if plain in names:
                raise ValueError(f"two tensors are {plain} without wrappers, {names[plain]} and {name}")
            names[plain] = name
    return {plain: state[name] for plain, name in names.items()}


def checksum(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 over the metadata (but for a checksum in it) and over names, dtypes, shapes and bytes of all tensors."""
    pairs = sorted((key, value) for key, value in metadata.items() if key != "sha256")
    digest = hashlib.sha256(json.dumps(pairs).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _description(head: bytes, error: Exception) -> str:
    """What a file that cannot be read seems to be, from its first bytes and the error that they caused."""
    if not head:
        return "is empty"
    if head.startswith(LFS_POINTER):
        return IS_LFS_POINTER
    if isinstance(error, UnpicklingError) and ("GLOBAL" in str(error) or head.startswith(b"\x80")):
        return "is a pickle that holds more than plain tensors, such as code, and was not opened further"
    if all(32 <= byte < 127 or byte in b"\r\n\t" for byte in head):
        return "is a text file, not weights"
    reason = "" if isinstance(error, UnpicklingError) else f": {str(error).split('. ')[0]}"
    return f"is not a file of weights, or a damaged one{reason}"
