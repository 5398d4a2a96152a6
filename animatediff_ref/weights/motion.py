"""Motion modules in and out of files: published ones, this package's, and diffusers' ``MotionAdapter`` folders."""

import json
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
from animatediff_ref.weights.identify import config_of, identify, is_unet_dump, motion_tensors, widths_of
from animatediff_ref.weights.names import diffusers_name, published_name
from animatediff_ref.weights.tensors import (
    ADAPTER_WEIGHTS,
    DTYPES,
    STRAY,
    Weights,
    read_weights,
    save_tensors,
    written_aside,
)


class PlainFileWarning(UserWarning):
    """A file without metadata will be taken for another configuration than that of the module saved in it."""


SCHEDULE = json.dumps({"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear"})


def load_motion_module(
    path: str | Path,
    config: MotionConfig | None = None,
    *,
    norms: str | None = None,
    dtype: torch.dtype | None = torch.float32,
) -> MotionModule:
    """Read a motion module: the name ``"mini"``, a published ``.ckpt`` or ``.safetensors``, one saved here, or a folder of diffusers.

    Files of this package say what they are. For others the version is told from keys and shapes (a mid block: v2; 24 positions:
    v1; else v3), with that version's official norms; ``config`` overrides all of it. ``norms="official"`` or ``"diffusers"`` sets the
    norm convention alone: diffusers' pipelines pool the entry norm over frames, whatever file they load, so its folders do not say.
    ``dtype=None`` keeps the file's numbers. Weights are memory-mapped where the format allows and the dtype is right, and adopted
    without a copy: do not overwrite the file in place while the module is in use.

    Raises ``ValueError`` that names the file, what it is and what was needed, if it is no motion module or does not fit ``config``.
    """
    if dtype not in (None, *DTYPES):
        raise ValueError(f"a motion module has one of the dtypes {', '.join(map(str, DTYPES))}, got {dtype!r}")
    path = resolve("motion module", path)
    weights = read_weights(path)
    info = identify(path, weights)
    if info.kind != "motion module":
        raise info.refusal("motion module")
    tensors = motion_tensors(weights)
    stray = [name for name in weights.tensors if not published_name(name) and name not in STRAY]
    if stray and not is_unet_dump(weights):
        raise ValueError(
            f"{path} holds tensors that no motion module has: {', '.join(stray[:3])}{' ...' * (len(stray) > 3)}"
        )
    config, places = _with_norms(config or info.config, norms), widths_of(tensors)
    if config.mid_block != any(place.startswith("mid_block") for place in places):
        has, other = ("a", "none") if config.mid_block else ("no", "one")
        raise ValueError(f"{path} is forced as {config.version}, which has {has} mid block; the file has {other}")
    try:
        with torch.device("meta"):
            motion = MotionModule(config, places, min(info.num_frames or 16, config.num_positions))
        _fill(motion, tensors, dtype)
    except ValueError as error:
        raise ValueError(f"{path} does not fit its configuration as {config.version}: {error}") from None
    return motion


def save_motion_module(
    motion: MotionModule, path: str | Path, format: str = "official", dtype: torch.dtype | None = None
) -> None:
    """Write a motion module, whole or not at all; MotionLoRAs on it are left out (see ``fuse_motion_loras``).

    ``format="official"``: a ``.safetensors`` with the published key names, whose metadata carry version, norms, frames and schedule;
    or a plain ``.ckpt`` for the official code. ``format="diffusers"``: a folder for ``MotionAdapter.from_pretrained``. Note that
    diffusers then pools the entry norm over frames: a module with official norms gives slightly other clips there.
    ``dtype`` is that of the file, by default the module's own. A ``.ckpt`` holds no metadata: warns with a ``PlainFileWarning`` where it will
    be taken for another configuration. Raises ``ValueError`` for another suffix, format or dtype, for numbers that the dtype cannot
    hold, and for a folder that holds other things.
    """
    if dtype not in (None, *DTYPES):
        raise ValueError(f"a motion module is written in one of {', '.join(map(str, DTYPES))}, got {dtype!r}")
    state = {name: value.to(dtype or value.dtype) for name, value in _plain_state(motion).items()}
    metadata = {
        "kind": "motion_module",
        "version": motion.config.version,
        "config": json.dumps(asdict(motion.config)),
        "num_frames": str(motion.num_frames),
        "schedule": SCHEDULE,
        "format": "pt",
    }
    if format == "official":
        save_tensors(state, path, metadata)
        if Path(path).suffix == ".ckpt" and config_of(Weights(state, {}), state) != motion.config:
            warnings.warn(
                f"{path} cannot say what it is: load it with config={motion.config}", PlainFileWarning, stacklevel=2
            )
    elif format == "diffusers":
        _save_adapter(motion, state, Path(path), metadata)
    else:
        raise ValueError(f"a motion module is written in the format 'official' or 'diffusers', got {format!r}")


def _plain_state(motion: MotionModule) -> dict[str, torch.Tensor]:
    """The state of a motion module as if no MotionLoRA were on it."""
    return {
        name.replace(".base_layer", ""): value for name, value in motion.state_dict().items() if ".lora_" not in name
    }


def _with_norms(config: MotionConfig, norms: str | None) -> MotionConfig:
    if norms not in (None, "official", "diffusers"):
        raise ValueError(f"norms are 'official', 'diffusers' or None for what the file says, got {norms!r}")
    if norms == "diffusers":
        return config.diffusers()
    if norms == "official":
        return replace(config, motion_norm_over_frames=False, resnet_norm_over_frames=config.version == "v1")
    return config


def _fill(motion: MotionModule, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype | None) -> None:
    """Let a motion module on the meta device adopt tensors; position tables may be missing or of other length, they are known."""
    filled = {}
    for name, own in motion.state_dict().items():
        came = tensors.get(name)
        if name.endswith("pos_encoder.pe"):
            filled[name] = _positions(name, came, own.shape).to(dtype)
        elif came is None or came.shape != own.shape:
            raise ValueError(
                f"{name} needs shape {tuple(own.shape)}, the file has {None if came is None else tuple(came.shape)}"
            )
        else:
            filled[name] = came.to(dtype or came.dtype)
    if surplus := [name for name in tensors if name not in filled and not name.endswith("pos_encoder.pe")]:
        raise ValueError(
            f"it has no {surplus[0]}, the file does" + (f", and {len(surplus) - 1} more" if surplus[1:] else "")
        )
    motion.load_state_dict(filled, assign=True)


def _positions(name: str, came: torch.Tensor | None, shape: torch.Size) -> torch.Tensor:
    """The table of positions: the file's if it fits, else computed; it must be the sinusoids' either way."""
    _, rows, channels = shape
    table = sinusoidal_positions(rows, channels)
    if came is None:
        return table
    if came.ndim != 3 or came.shape[2] != channels:
        raise ValueError(f"{name} needs shape (1, positions, {channels}), the file has {tuple(came.shape)}")
    shared = min(rows, came.shape[1])
    if not torch.allclose(came[:, :shared].float(), table[:, :shared], atol=1e-2):
        raise ValueError(f"{name} is not the sinusoidal table: this module was trained with other positions")
    return came if came.shape == shape and came.dtype == table.dtype else table


def _save_adapter(motion: MotionModule, state: dict[str, torch.Tensor], folder: Path, metadata: dict[str, str]) -> None:
    config = motion.config
    known = {"config.json", *ADAPTER_WEIGHTS}
    if folder.suffix in (".ckpt", ".safetensors", ".bin") or (folder.exists() and not folder.is_dir()):
        raise ValueError(f"diffusers' format is a folder, and {folder} is or would be a file")
    if folder.is_dir() and (other := sorted({path.name for path in folder.iterdir()} - known)):
        raise ValueError(
            f"{folder} holds other things ({other[0]}): name a new folder, or one that holds nothing but a MotionAdapter"
        )
    if not config.positions or config.num_attentions != 2:
        raise ValueError(f"diffusers' MotionAdapter has positions and two attentions in a block, got positions={config.positions}, num_attentions={config.num_attentions}")  # fmt: skip
    levels: dict[str, list[int]] = {}
    for place, channels in motion.places.items():
        if place.startswith("down_blocks"):
            levels.setdefault(place.split(".")[1], []).append(channels)
    with torch.device("meta"):
        adapter = MotionAdapter(
            block_out_channels=tuple(widths[0] for widths in levels.values()),
            motion_layers_per_block=tuple(len(widths) for widths in levels.values()),
            motion_num_attention_heads=config.num_heads,
            motion_norm_num_groups=config.norm_groups,
            motion_max_seq_length=config.num_positions,
            use_motion_mid_block=config.mid_block,
        )
    renamed = {diffusers_name(name): value for name, value in state.items()}
    if missing := adapter.state_dict().keys() - renamed.keys():
        raise ValueError(f"diffusers' MotionAdapter also needs {sorted(missing)[0]}: it has modules after every ResNet of a UNet of equal blocks")  # fmt: skip
    with written_aside(folder) as aside:
        aside.mkdir()
        adapter.save_config(aside)
        save_tensors(
            {name: renamed[name] for name in adapter.state_dict()},
            aside / "diffusion_pytorch_model.safetensors",
            metadata,
        )
