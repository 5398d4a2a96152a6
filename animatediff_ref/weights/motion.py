"""Motion modules in and out of files: published ones, this package's, and diffusers' ``MotionAdapter`` folders."""

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from diffusers import MotionAdapter

from animatediff_ref.method.config import MotionConfig
from animatediff_ref.method.motion_module import MotionModule
from animatediff_ref.method.temporal import sinusoidal_positions
from animatediff_ref.mini.files import resolve
from animatediff_ref.weights.hub import fetched
from animatediff_ref.weights.identify import POSITIONS, config_of, fitted, groups_are_told, identify, motion_tensors
from animatediff_ref.weights.names import diffusers_name
from animatediff_ref.weights.tensors import (
    ADAPTER_WEIGHTS,
    WRITTEN_DTYPES,
    Weights,
    read_weights,
    save_tensors,
    written_aside,
)

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear"}  # of the noise in training


class PlainFileWarning(UserWarning):
    """A file without metadata will be taken for another configuration than that of the module saved in it."""


def load_motion_module(
    path: str | Path,
    config: MotionConfig | None = None,
    *,
    norms: str | None = None,
    dtype: torch.dtype | None = torch.float32,
) -> MotionModule:
    """Read a motion module: ``"mini"``, a published or own ``.ckpt`` or ``.safetensors``, or a diffusers folder.

    A hub id is downloaded: ``owner/name`` of such a folder, ``owner/name/file.ckpt`` of a file.
    ``config`` overrides what the file says or looks like (a middle block: v2; 24 positions: v1; else v3, each with its
    official norms). Where neither says into how many groups the norms divide channels, ``inject`` takes the UNet's
    number. ``norms="official"`` or ``"diffusers"`` sets the norm convention only. ``dtype=None`` keeps the dtypes of the
    file. Weights are memory-mapped where format and dtype allow it, without a copy: do not overwrite the file in place
    while the module is in use.

    Raises ``ValueError``, which names the file, if it is not a motion module or does not fit ``config``.
    """
    _check_dtype(dtype)
    path = fetched(path, resolve("motion module", path))
    weights = read_weights(path)
    info = identify(path, weights)
    if info.kind != "motion module":
        raise info.refusal("motion module")
    tensors = motion_tensors(weights)
    told = config is not None or groups_are_told(weights)
    config = _with_norms(config or info.config, norms)
    _check_mid_block(path, config, tensors)
    try:
        motion = fitted(config, tensors)
        motion.num_frames = min(info.num_frames or 16, config.max_frames or math.inf)
        _fill(motion, tensors, dtype)
    except ValueError as error:
        raise ValueError(f"{path} does not fit its configuration as {config.version}: {error}") from None
    motion.groups_are_told = told
    return motion


def save_motion_module(
    motion: MotionModule, path: str | Path, format: str = "official", dtype: torch.dtype | None = None
) -> None:
    """Write a motion module, whole or not at all. MotionLoRAs on it are left out (see ``fuse_motion_loras``).

    - ``format="official"``: a ``.safetensors`` with published names and metadata (version, norms, frames, schedule), or
      a plain ``.ckpt`` for the official code. A ``.ckpt`` holds no metadata: a ``PlainFileWarning`` says if it will be
      taken for another configuration.
    - ``format="diffusers"``: a folder for ``MotionAdapter.from_pretrained``. diffusers then pools the entry norm over
      frames, so a module with official norms gives slightly other clips there.

    ``dtype`` is that of the file, by default the module's own. Raises ``ValueError`` for another suffix, format or
    dtype, for numbers that the dtype cannot hold, and for a folder that holds other things.
    """
    _check_dtype(dtype)
    state = {name: value.to(dtype or value.dtype) for name, value in _state_without_loras(motion).items()}
    if format == "official":
        save_tensors(state, path, _metadata(motion))
        if Path(path).suffix == ".ckpt" and config_of(Weights(state, {}), state) != motion.config:
            message = f"{path} cannot say what it is: load it with config={motion.config}"
            warnings.warn(message, PlainFileWarning, stacklevel=2)
    elif format == "diffusers":
        folder = Path(path).expanduser()
        _check_adapter_folder(folder)
        _write_adapter(_empty_adapter(motion), state, folder, _metadata(motion))
    else:
        raise ValueError(f"a motion module is written in the format 'official' or 'diffusers', got {format!r}")


def _check_dtype(dtype: torch.dtype | None) -> None:
    if dtype not in (None, *WRITTEN_DTYPES):
        dtypes = ", ".join(map(str, WRITTEN_DTYPES))
        raise ValueError(f"a motion module has one of the dtypes {dtypes}, got {dtype!r}")


def _check_mid_block(path: Path, config: MotionConfig, tensors: Mapping[str, torch.Tensor]) -> None:
    in_file = any(name.startswith("mid_block") for name in tensors)
    if config.mid_block and not in_file:
        raise ValueError(f"{path} is forced as {config.version}, which has a mid block; the file has none")
    if in_file and not config.mid_block:
        raise ValueError(f"{path} is forced as {config.version}, which has no mid block; the file has one")


def _with_norms(config: MotionConfig, norms: str | None) -> MotionConfig:
    if norms not in (None, "official", "diffusers"):
        raise ValueError(f"norms are 'official', 'diffusers' or None for what the file says, got {norms!r}")
    if norms == "diffusers":
        return config.diffusers()
    if norms == "official":
        return replace(config, motion_norm_over_frames=False, resnet_norm_over_frames=config.version == "v1")
    return config


def _fill(motion: MotionModule, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype | None) -> None:
    """Let a motion module on the meta device adopt the tensors of a file that fit it.

    Position tables are computed where the file has none, or one of another length.
    """
    filled = {}
    for name, own in motion.state_dict().items():
        if name.endswith(POSITIONS):
            filled[name] = _positions(name, tensors.get(name), own.shape).to(dtype)
        else:
            filled[name] = tensors[name].to(dtype or tensors[name].dtype)
    motion.load_state_dict(filled, assign=True)


def _positions(name: str, table: torch.Tensor | None, shape: torch.Size) -> torch.Tensor:
    """The position table of ``shape`` (1, positions, channels): the file's if it fits, else computed.

    ``ValueError`` if the file's holds anything but the sinusoids of ``sinusoidal_positions``.
    """
    _, rows, channels = shape
    computed = sinusoidal_positions(rows, channels)
    if table is None:
        return computed
    if table.ndim != 3 or table.shape[2] != channels:
        raise ValueError(f"{name} needs shape (1, positions, {channels}), the file has {tuple(table.shape)}")
    shared = min(rows, table.shape[1])
    if not torch.allclose(table[:, :shared].float(), computed[:, :shared], atol=1e-2):
        raise ValueError(f"{name} is not the sinusoidal table: this module was trained with other positions")
    return table if table.shape == shape and table.dtype == computed.dtype else computed


def _state_without_loras(motion: MotionModule) -> dict[str, torch.Tensor]:
    state = motion.state_dict()
    return {name.replace(".base_layer", ""): value for name, value in state.items() if ".lora_" not in name}


def _metadata(motion: MotionModule) -> dict[str, str]:
    config = asdict(motion.config)
    if not motion.groups_are_told:  # so that it is still the UNet's number that inject takes
        del config["norm_groups"]
    return {
        "kind": "motion_module",
        "version": motion.config.version,
        "config": json.dumps(config),
        "num_frames": str(motion.num_frames),
        "schedule": json.dumps(SCHEDULE),
        "format": "pt",
    }


def _check_adapter_folder(folder: Path) -> None:
    """A MotionAdapter is written to a new folder, or over another MotionAdapter."""
    if folder.suffix in (".ckpt", ".safetensors", ".bin") or (folder.exists() and not folder.is_dir()):
        raise ValueError(f"diffusers' format is a folder, and {folder} is or would be a file")
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    other = sorted(name for name in there if name != "config.json" and not name.startswith(ADAPTER_WEIGHTS))
    if other:
        raise ValueError(f"{folder} holds other things ({other[0]}): name a new folder, or one of a MotionAdapter only")


def _empty_adapter(motion: MotionModule) -> MotionAdapter:
    """diffusers' class for a motion module of this configuration, without numbers: on the meta device."""
    config = motion.config
    if config.kind != "transformer" or not config.positions or config.num_attentions != 2:
        raise ValueError(
            "diffusers' MotionAdapter is a transformer with positions and two attentions in a block, "
            f"got kind={config.kind!r}, positions={config.positions}, num_attentions={config.num_attentions}"
        )
    widths_by_level: dict[str, list[int]] = {}
    for place, channels in motion.places.items():
        if place.startswith("down_blocks"):
            widths_by_level.setdefault(place.split(".")[1], []).append(channels)
    with torch.device("meta"):
        return MotionAdapter(
            block_out_channels=tuple(widths[0] for widths in widths_by_level.values()),
            motion_layers_per_block=tuple(len(widths) for widths in widths_by_level.values()),
            motion_num_attention_heads=config.num_heads,
            motion_norm_num_groups=config.norm_groups,
            motion_max_seq_length=config.num_positions,
            use_motion_mid_block=config.mid_block,
        )


def _write_adapter(
    adapter: MotionAdapter, state: Mapping[str, torch.Tensor], folder: Path, metadata: Mapping[str, str]
) -> None:
    """Write the configuration of ``adapter`` and the weights of ``state``, which has published names."""
    renamed = {diffusers_name(name): value for name, value in state.items()}
    needed = list(adapter.state_dict())
    missing = sorted(name for name in needed if name not in renamed)
    if missing:
        raise ValueError(
            f"diffusers' MotionAdapter also needs {missing[0]}: "
            "it has modules after every ResNet of a UNet whose blocks all have as many"
        )
    with written_aside(folder) as aside:
        aside.mkdir()
        adapter.save_config(aside)
        save_tensors({name: renamed[name] for name in needed}, aside / f"{ADAPTER_WEIGHTS}.safetensors", metadata)
