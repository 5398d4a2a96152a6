"""What an unknown file of weights is, told from its keys, shapes and metadata, and what to do with it."""

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from animatediff_ref.method.adapters import LowRank
from animatediff_ref.method.config import MotionConfig
from animatediff_ref.weights.lora_file import pairs_of
from animatediff_ref.weights.names import lora_part, place_of, published_name
from animatediff_ref.weights.tensors import Unreadable, Weights, read_weights

SDXL_WIDTHS = (320, 640, 1280)
ADVICE = {
    "motion module": "load_motion_module(path), then inject(pipe.unet, motion)",
    "MotionLoRA": "load_motion_lora(motion, path) onto a motion module that is loaded already",
    "domain adapter": "load_domain_adapter(pipe.unet, path)",
    "style LoRA": "pipe.load_lora_weights(path): it personalises the image model",
    "SDXL motion module": "nothing here: this package animates Stable-Diffusion-1.x UNets",
    "SparseCtrl encoder": "diffusers' SparseControlNetModel; it is not a motion module, though it contains temporal layers",
    "ControlNet": "diffusers' ControlNetModel, in a ControlNet pipeline whose UNet is injected",
    "IP-Adapter": "pipe.load_ip_adapter",
    "pipeline folder": "load_base(path): it is a whole image model",
    "full checkpoint": "load_base(path): it is a whole image model",
    "UNet": "diffusers' UNet2DConditionModel: it is an image model, without motion",
    "autoencoder": "diffusers' AutoencoderKL",
    "text encoder": "transformers' CLIPTextModel",
    "textual inversion": "pipe.load_textual_inversion(path)",
    "damaged LoRA": "nothing: fetch the file again",
    "unknown weights": "nothing here: it is no kind of file that AnimateDiff works with",
    "not a model": "nothing: look where the file came from, and fetch it again",
}
SIGNS = {  # a part of one of its names -> what a file is, first match first
    "controlnet_cond_embedding": "ControlNet",
    "control_model.": "ControlNet",
    "ip_adapter": "IP-Adapter",
    "model.diffusion_model.": "full checkpoint",
    "decoder.": "autoencoder",
    "conv_in.weight": "UNet",
    "token_embedding.": "text encoder",
    "emb_params": "textual inversion",
    "string_to_param": "textual inversion",
}


@dataclass(frozen=True)
class FileInfo:
    """What ``inspect_file`` found. ``str()`` of it is a short report.

    ``kind`` is one of the keys of ``ADVICE``, ``advice`` what to do with such a file; ``format`` whose names its tensors have
    (``"official"``, ``"diffusers"``, ``"kohya"``). Of a motion module: ``config``, ``version``, ``num_frames``; of LoRAs: ``ranks``;
    of both ``widths``, the channels of the layers. ``parameters`` counts numbers without position tables. ``notes`` are doubts.
    """

    path: Path
    kind: str  # a key of ADVICE
    format: str = ""  # "official", "diffusers" or "kohya"
    config: MotionConfig | None = None  # of a motion module
    num_frames: int | None = None
    widths: tuple[int, ...] = ()
    ranks: tuple[int, ...] = ()
    tensors: int = 0
    parameters: int = 0
    dtypes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def version(self) -> str | None:
        """Which published version a motion module is, or is like."""
        return self.config and self.config.version

    @property
    def advice(self) -> str:
        return ADVICE[self.kind]

    @property
    def title(self) -> str:
        """The kind with its version or rank: ``"motion module v2"``, ``"MotionLoRA of rank 64"``."""
        rank = f" of rank {' and '.join(map(str, self.ranks))}" if self.ranks else ""
        return self.kind + (f" {self.version}" if self.version else "") + rank

    def refusal(self, needed: str) -> ValueError:
        """The error for a loader that needs another kind of file."""
        note = f" ({self.notes[0]})" if self.kind == "damaged LoRA" else ""
        return ValueError(
            f"{self.path} holds: {self.title}{note}; needed is a {needed}. What takes this file: {self.advice}"
        )

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.title}"]
        if self.tensors:
            size = f"{self.tensors} tensors, {self.parameters:,} numbers, {', '.join(self.dtypes)}"
            lines.append(f"  holds     {size}" + (f"; {self.format} names" if self.format else ""))
        if self.config:
            lines += [f"  frames    at most {self.config.num_positions}" + (f", set to {self.num_frames}" if self.num_frames else ""),
                      f"  places    widths {', '.join(map(str, self.widths))}; mid block: {'yes' if self.config.mid_block else 'no'}",
                      f"  norms     {self.config.norms}"]  # fmt: skip
        lines += [f"  note      {note}" for note in self.notes]
        return "\n".join([*lines, f"  use       {self.advice}"])


def inspect_file(path: str | Path) -> FileInfo:
    """What a file (or a diffusers folder) of weights is: kind, version, widths, rank, frames, norms, and what to do with it.

    Any file gets an answer, be it that it is not a model at all; ``ValueError`` only where there is no such file.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"there is no file {path}")
    if (path / "model_index.json").exists():
        return FileInfo(path, "pipeline folder", "diffusers")
    try:
        return identify(path, read_weights(path))
    except Unreadable as error:
        return FileInfo(path, "not a model", notes=(str(error),))


def identify(path: Path, weights: Weights) -> FileInfo:
    """What weights that were read are. ``Unreadable`` if what the file says of itself makes no sense."""
    try:
        return _identify(path, weights)
    except (TypeError, KeyError, IndexError, AttributeError, ValueError) as error:
        raise Unreadable(f"{path} has names, shapes or metadata that make no sense: {error}") from error


def _identify(path: Path, weights: Weights) -> FileInfo:
    counted = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in weights.tensors.values())
    size = {"tensors": len(weights.tensors), "parameters": sum(tensor.numel() for name, tensor in weights.tensors.items() if not name.endswith(".pe")), "dtypes": tuple(counted)}  # fmt: skip
    try:
        pairs = pairs_of(weights)
    except ValueError as error:
        return FileInfo(path, "damaged LoRA", **size, notes=(str(error),))
    if pairs or any(".lora" in name or "lora_" in name or "hada_w" in name for name in weights.tensors):
        return _identify_lora(path, weights, pairs, size)
    if motion := motion_tensors(weights):
        return _identify_motion(path, weights, motion, size)
    names = list(weights.tensors)
    kind = next((kind for sign, kind in SIGNS.items() if any(sign in name for name in names)), "unknown weights")
    if kind == "unknown weights" and 0 < len(names) <= 2 and all(map(_is_embedding, weights.tensors.values())):
        kind = "textual inversion"
    return FileInfo(path, kind, **size)


def _is_embedding(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.ndim in (1, 2)


def motion_tensors(weights: Weights) -> dict[str, torch.Tensor]:
    """The tensors of a motion module under their published names, out of whatever else a file holds."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in weights.tensors.items():
        if (published := published_name(name)) and found.setdefault(published, tensor) is not tensor:
            raise ValueError(f"two tensors are {published}, one of them {name}")
    return found


def is_unet_dump(weights: Weights) -> bool:
    """Whether a motion module comes with the whole UNet, as training dumps it."""
    return "down_blocks.0.resnets.0.conv1.weight" in weights.tensors


def widths_of(motion: dict[str, torch.Tensor]) -> dict[str, int]:
    """Places and their widths, as ``MotionModule`` takes them."""
    end = ".temporal_transformer.norm.weight"
    return {name.removesuffix(end): len(tensor) for name, tensor in motion.items() if name.endswith(end)}


def _identify_lora(path: Path, weights: Weights, pairs: dict[str, LowRank], size: dict) -> FileInfo:
    temporal = [layer for layer in pairs if ".motion_modules." in layer]
    spatial = [layer for layer in pairs if ".attn1." in layer or ".attn2." in layer]
    format = _lora_format(next(iter(weights.tensors)))
    kind, notes = "style LoRA", []
    if temporal and len(temporal) == len(pairs):
        kind = "MotionLoRA"
    elif spatial and len(spatial) == len(pairs) and all(map(lora_part, weights.tensors)):
        told = weights.metadata.get("kind")
        if told == "domain_adapter" or (format != "diffusers" and not told):
            kind = "domain adapter"
        notes.append("a domain adapter and a style LoRA of all attentions look alike; either loader takes this one")
    widths = tuple(sorted({len(pair.up) for pair in pairs.values()}))
    return FileInfo(path, kind, format, widths=widths, ranks=tuple(sorted({pair.rank for pair in pairs.values()})), **size, notes=tuple(notes))  # fmt: skip


def _lora_format(name: str) -> str:
    return "kohya" if name.startswith("lora_") else "official" if ".processor." in name else "diffusers"


def _identify_motion(path: Path, weights: Weights, motion: dict[str, torch.Tensor], size: dict) -> FileInfo:
    widths, notes = widths_of(motion), []
    format = "official" if any(".temporal_transformer." in name for name in weights.tensors) else "diffusers"
    if any("controlnet_cond_embedding" in name for name in weights.tensors):
        return FileInfo(path, "SparseCtrl encoder", format, **size)
    levels = {place.split(".")[1] for place in widths if place.startswith("down_blocks")}
    if len(levels) == 3 and tuple(sorted(set(widths.values()))) == SDXL_WIDTHS:
        return FileInfo(path, "SDXL motion module", format, widths=SDXL_WIDTHS, **size)
    if is_unet_dump(weights):
        notes.append("a whole UNet as training dumps it; only its motion module is used")
    if not any(name.endswith(".pe") for name in weights.tensors) and "config" not in weights.metadata and "diffusers" not in weights.metadata:  # fmt: skip
        notes.append("it holds no position tables, so v1 and v3 look alike; v3 is assumed unless config says otherwise")
    config = config_of(weights, motion)
    if any(width % config.norm_groups for width in widths.values()):
        notes.append(
            f"its widths do not divide into {config.norm_groups} groups, so its norm has fewer: load it with config"
        )
    frames = weights.metadata.get("num_frames")
    return FileInfo(path, "motion module", format, config, int(frames) if frames else None, tuple(sorted(set(widths.values()))), **size, notes=tuple(notes))  # fmt: skip


def config_of(weights: Weights, motion: dict[str, torch.Tensor]) -> MotionConfig:
    """The configuration of a motion module: what its file says of it, else that of the published version which its keys and shapes tell.

    A mid block: v2. 24 positions: v1. Otherwise v3.
    """
    if weights.metadata.get("kind") == "motion_module":
        return MotionConfig(**json.loads(weights.metadata["config"]))
    rows = next((tensor.shape[1] for name, tensor in motion.items() if name.endswith("pos_encoder.pe")), 32)
    depth = 1 + max(
        (int(name.split("attention_blocks.")[1][0]) for name in motion if "attention_blocks." in name), default=0
    )
    found = {"num_positions": rows, "num_attentions": depth}
    if "diffusers" in weights.metadata:
        told = json.loads(weights.metadata["diffusers"])
        found = {"num_positions": told["motion_max_seq_length"], "num_heads": told["motion_num_attention_heads"], "norm_groups": told["motion_norm_num_groups"]}  # fmt: skip
    if any(place_of(name).startswith("mid_block") for name in motion):
        return replace(MotionConfig.v2(), **found)
    return replace(MotionConfig.v1() if found["num_positions"] == 24 else MotionConfig.v3(), **found)
