"""Motion modules on disk: the published key names in safetensors, and the published .ckpt files.

The file's metadata carry what no weight shape reveals: norm switches and groups.
"""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from animatediff_ref.mini import mini_file
from animatediff_ref.motion_module import MotionConfig, MotionModule
from animatediff_ref.storage import read_tensors, save_tensors

PLACE = re.compile(
    r"(?:module\.)?((?:(?:down|up)_blocks\.\d+|mid_block)\.motion_modules\.\d+)\.temporal_transformer\.(.+)"
)


def save_motion_module(motion: MotionModule, path: str | Path) -> None:
    """Write a motion module as safetensors with the published key names, whole or not at all."""
    metadata = {
        "kind": "motion_module",
        "config": json.dumps(asdict(motion.config)),
        "num_frames": str(motion.num_frames),
    }
    save_tensors(motion.state_dict(), path, metadata)


def load_motion_module(path: str | Path, config: MotionConfig | None = None) -> MotionModule:
    """Read a motion module: the name ``"mini"``, a file written by ``save_motion_module``, or a published one.

    Published files say nothing about norms; their version is told from their keys (a mid block: v2; 24 positions: v1; else
    v3), and ``config`` overrides it. Raises ``ValueError`` if the file is no motion module or does not fit ``config``.
    """
    path = mini_file("motion_module.safetensors") if path == "mini" else Path(path)
    if not path.is_file():
        raise ValueError(f"no motion module at {path}: needed is a .safetensors or .ckpt file, or the name 'mini'")
    tensors, metadata = read_tensors(path), _metadata(path)
    tensors = {
        f"{found[1]}.temporal_transformer.{found[2]}": value
        for key, value in tensors.items()
        if (found := PLACE.match(key))
    }
    widths = {
        key.removesuffix(".temporal_transformer.norm.weight"): len(v)
        for key, v in tensors.items()
        if key.endswith("transformer.norm.weight")
    }
    if not widths:
        raise ValueError(
            f"{path} is not a motion module: it has no tensor named like down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"
        )
    if config is None:
        config = MotionConfig(**json.loads(metadata["config"])) if "config" in metadata else _published_config(tensors)
    motion = MotionModule(config, widths, int(metadata.get("num_frames", min(16, config.num_positions))))
    _fill(motion, tensors, path)
    return motion


def _metadata(path: Path) -> dict[str, str]:
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def _published_config(tensors: dict[str, torch.Tensor]) -> MotionConfig:
    rows = next((value.shape[1] for key, value in tensors.items() if key.endswith("pos_encoder.pe")), 32)
    if any(key.startswith("mid_block") for key in tensors):
        return replace(MotionConfig.v2(), num_positions=rows)
    return MotionConfig.v1() if rows == 24 else replace(MotionConfig.v3(), num_positions=rows)


def _fill(motion: nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Load tensors into a motion module; position tables are computed, so a file may lack them."""
    own = motion.state_dict()
    for key in sorted(own.keys() | tensors.keys()):
        needed, came = (tuple(side[key].shape) if key in side else None for side in (own, tensors))
        if needed != came and not key.endswith("pos_encoder.pe"):
            raise ValueError(f"{path} does not fit its configuration: {key} needs shape {needed}, the file has {came}")
    motion.load_state_dict(
        {key: value.float() for key, value in tensors.items() if not key.endswith("pos_encoder.pe")}, strict=False
    )
