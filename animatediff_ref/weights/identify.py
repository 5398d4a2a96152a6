"""What an unknown file of weights is, from the names and shapes of its tensors and from its metadata."""

import re
from collections import Counter
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from animatediff_ref.method.adapters import CONVOLUTIONS, LowRank
from animatediff_ref.method.config import MotionConfig
from animatediff_ref.weights.lora_file import pairs_of
from animatediff_ref.weights.names import lora_part, place_of, published_name
from animatediff_ref.weights.tensors import Unreadable, Weights, json_in, read_weights

SDXL_WIDTHS = (320, 640, 1280)
ADVICE = {  # what a file is -> what to do with it
    "motion module": "load_motion_module(path), then inject(pipe.unet, motion)",
    "MotionLoRA": "load_motion_lora(motion, path) onto a motion module that is already loaded",
    "domain adapter": "load_domain_adapter(pipe.unet, path)",
    "style LoRA": "pipe.load_lora_weights(path): it personalises the image model",
    "SDXL motion module": "nothing here: this package animates Stable-Diffusion-1.x UNets",
    "SparseCtrl encoder": "diffusers' SparseControlNetModel; it has temporal layers, but is not a motion module",
    "ControlNet": "diffusers' ControlNetModel, in a ControlNet pipeline whose UNet is injected",
    "IP-Adapter": "pipe.load_ip_adapter",
    "pipeline folder": "load_base(path): it is a whole image model",
    "full checkpoint": "load_base(path): it is a whole image model",
    "UNet": "diffusers' UNet2DConditionModel: it is an image model, without motion",
    "autoencoder": "diffusers' AutoencoderKL",
    "text encoder": "transformers' CLIPTextModel",
    "textual inversion": "pipe.load_textual_inversion(path)",
    "damaged LoRA": "nothing: fetch the file again",
    "unknown weights": "nothing here: AnimateDiff has no use for such a file",
    "not a model": "nothing: check where the file came from, and fetch it again",
}
KIND_BY_NAME_PART = {  # part of a tensor's name -> what the file is; the first part that occurs decides
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
LORA_NAME_PARTS = (".lora", "lora_", "hada_w")  # some part of every LoRA, even of one that is not read here
ADAPTER_SETTINGS = {  # setting of a MotionConfig -> its name in the configuration of a diffusers MotionAdapter
    "num_positions": "motion_max_seq_length",
    "num_heads": "motion_num_attention_heads",
    "norm_groups": "motion_norm_num_groups",
}


@dataclass(frozen=True)
class FileInfo:
    """What ``inspect_file`` found; ``str()`` of it is a short report."""

    path: Path
    kind: str  # a key of ADVICE
    format: str = ""  # whose names the tensors have: "official", "diffusers" or "kohya"
    config: MotionConfig | None = None  # of a motion module
    num_frames: int | None = None  # of a motion module, where its file says
    widths: tuple[int, ...] = ()  # channels of the layers of a motion module or a LoRA
    ranks: tuple[int, ...] = ()  # of a LoRA
    tensors: int = 0
    parameters: int = 0  # numbers in all tensors but position tables
    dtypes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what is doubtful or wrong

    @property
    def version(self) -> str | None:
        """The published version that a motion module is, or is like."""
        return self.config and self.config.version

    @property
    def advice(self) -> str:
        """What to do with the file."""
        return ADVICE[self.kind]

    @property
    def title(self) -> str:
        """The kind with its version or rank: ``"motion module v2"``, ``"MotionLoRA of rank 64"``."""
        version = f" {self.version}" if self.version else ""
        rank = f" of rank {' and '.join(map(str, self.ranks))}" if self.ranks else ""
        return self.kind + version + rank

    def refusal(self, needed: str) -> ValueError:
        """The error for a loader that needs another kind of file."""
        reason = f" ({self.notes[0]})" if self.kind == "damaged LoRA" else ""
        return ValueError(
            f"{self.path} holds: {self.title}{reason}; a {needed} is needed. What takes this file: {self.advice}"
        )

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.title}"]
        if self.tensors:
            names = f"; {self.format} names" if self.format else ""
            dtypes = ", ".join(self.dtypes)
            lines.append(f"  holds     {self.tensors} tensors, {self.parameters:,} numbers, {dtypes}{names}")
        if self.config:
            lines += self._motion_lines()
        lines += [f"  note      {note}" for note in self.notes]
        return "\n".join([*lines, f"  use       {self.advice}"])

    def _motion_lines(self) -> list[str]:
        frames = f", set to {self.num_frames}" if self.num_frames else ""
        widths = ", ".join(map(str, self.widths))
        return [
            f"  frames    at most {self.config.num_positions}{frames}",
            f"  places    widths {widths}; mid block: {'yes' if self.config.mid_block else 'no'}",
            f"  norms     {self.config.norms}",
        ]


def inspect_file(path: str | Path) -> FileInfo:
    """What a file (or a diffusers folder) of weights is, and what to do with it.

    Any file gets an answer, even one that is not a model. ``ValueError`` only if there is no such file.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise ValueError(f"there is no file {path}")
    if (path / "model_index.json").exists():
        return FileInfo(path, "pipeline folder", "diffusers")
    try:
        return identify(path, read_weights(path))
    except Unreadable as error:
        return FileInfo(path, "not a model", notes=(str(error),))


def identify(path: Path, weights: Weights) -> FileInfo:
    """What the weights read from ``path`` are. ``Unreadable`` if names, shapes or metadata make no sense."""
    try:
        return _identify(path, weights)
    except ValueError as error:
        raise Unreadable(f"{path} has names, shapes or metadata that make no sense: {error}") from error


def _identify(path: Path, weights: Weights) -> FileInfo:
    names = list(weights.tensors)
    info = FileInfo(
        path,
        kind="unknown weights",
        tensors=len(names),
        parameters=sum(tensor.numel() for name, tensor in weights.tensors.items() if not name.endswith(".pe")),
        dtypes=tuple(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in weights.tensors.values())),
    )
    try:
        pairs = pairs_of(weights)
    except ValueError as error:
        return replace(info, kind="damaged LoRA", notes=(str(error),))
    if pairs or any(part in name for name in names for part in LORA_NAME_PARTS):
        return _lora_info(info, weights, pairs)
    if motion := motion_tensors(weights):
        return _motion_info(info, weights, motion)
    for part, kind in KIND_BY_NAME_PART.items():
        if any(part in name for name in names):
            return replace(info, kind=kind)
    if len(names) in (1, 2) and all(map(_is_embedding, weights.tensors.values())):
        return replace(info, kind="textual inversion")
    return info


def _is_embedding(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.ndim in (1, 2)


def motion_tensors(weights: Weights) -> dict[str, torch.Tensor]:
    """The tensors of a motion module under their published names, out of whatever else a file holds.

    ``ValueError`` if two of them have the same published name.
    """
    found: dict[str, torch.Tensor] = {}
    for name, tensor in weights.tensors.items():
        published = published_name(name)
        if published in found:
            raise ValueError(f"two tensors are {published}, one of them {name}")
        if published:
            found[published] = tensor
    return found


def is_unet_dump(weights: Weights) -> bool:
    """Whether the whole UNet is in the file too, as training scripts save it."""
    return "down_blocks.0.resnets.0.conv1.weight" in weights.tensors


def widths_of(motion: dict[str, torch.Tensor]) -> dict[str, int]:
    """Places and their widths, as ``MotionModule`` takes them."""
    end = ".temporal_transformer.norm.weight"
    norms = {name.removesuffix(end): tensor for name, tensor in motion.items() if name.endswith(end)}
    if scalars := [place for place, tensor in norms.items() if tensor.ndim == 0]:
        raise ValueError(f"{scalars[0]}{end} needs shape (channels,), got one number")
    return {place: len(tensor) for place, tensor in norms.items()}


def _lora_info(info: FileInfo, weights: Weights, pairs: dict[str, LowRank]) -> FileInfo:
    temporal = [layer for layer in pairs if ".motion_modules." in layer]
    spatial = [layer for layer in pairs if ".attn1." in layer or ".attn2." in layer]
    convolutions = [layer for layer in pairs if re.fullmatch(CONVOLUTIONS, layer)]
    like_adapter = len(spatial + convolutions) == len(pairs) and spatial and all(map(lora_part, weights.tensors))
    info = replace(
        info,
        kind="style LoRA",
        format=_lora_format(next(iter(weights.tensors))),
        widths=tuple(sorted({len(pair.up) for pair in pairs.values()})),
        ranks=tuple(sorted({pair.rank for pair in pairs.values()})),
    )
    if len(temporal) == len(pairs) > 0:
        return replace(info, kind="MotionLoRA")
    if like_adapter:
        note = "a domain adapter and a style LoRA of the same layers look alike; either loader takes this one"
        written_as = weights.metadata.get("kind")
        by_format = not written_as and info.format != "diffusers" and not convolutions
        is_adapter = written_as == "domain_adapter" or by_format
        return replace(info, kind="domain adapter" if is_adapter else "style LoRA", notes=(note,))
    return info


def _lora_format(name: str) -> str:
    """Whose spelling the name of a LoRA's tensor is."""
    if name.startswith("lora_"):
        return "kohya"
    return "official" if ".processor." in name else "diffusers"


def _motion_info(info: FileInfo, weights: Weights, motion: dict[str, torch.Tensor]) -> FileInfo:
    official = any(".temporal_transformer." in name for name in weights.tensors)
    info = replace(info, format="official" if official else "diffusers")
    places = widths_of(motion)
    widths = tuple(sorted(set(places.values())))
    if any("controlnet_cond_embedding" in name for name in weights.tensors):
        return replace(info, kind="SparseCtrl encoder")
    levels = {place.split(".")[1] for place in places if place.startswith("down_blocks")}
    if len(levels) == 3 and widths == SDXL_WIDTHS:
        return replace(info, kind="SDXL motion module", widths=widths)
    config = config_of(weights, motion)
    frames = weights.metadata.get("num_frames")
    return replace(
        info,
        kind="motion module",
        config=config,
        num_frames=int(frames) if frames else None,
        widths=widths,
        notes=tuple(_doubts(weights, config, widths)),
    )


def _doubts(weights: Weights, config: MotionConfig, widths: tuple[int, ...]) -> list[str]:
    """What the user of a motion module should know about its file."""
    notes = []
    if is_unet_dump(weights):
        notes.append("it is a whole UNet as training saves it; only its motion module is used")
    has_tables = any(name.endswith(".pe") for name in weights.tensors)
    if not has_tables and "config" not in weights.metadata and "diffusers" not in weights.metadata:
        notes.append("it holds no position tables, so v1 and v3 look alike; v3 is assumed unless config says otherwise")
    groups = config.norm_groups
    if any(width % groups for width in widths):
        notes.append(f"its widths do not divide into {groups} groups, so its norm has fewer: load it with config")
    return notes


def config_of(weights: Weights, motion: dict[str, torch.Tensor]) -> MotionConfig:
    """The configuration of a motion module: what its file says, else that of the published version it looks like.

    With a middle block that is v2, with 24 positions v1, otherwise v3. ``ValueError`` if the file says nonsense.
    """
    if weights.metadata.get("kind") == "motion_module":
        return MotionConfig(**_checked_settings(json_in(weights.metadata, "config")))
    if "diffusers" in weights.metadata:
        told = json_in(weights.metadata, "diffusers")
        settings = _checked_settings({ours: told.get(theirs) for ours, theirs in ADAPTER_SETTINGS.items()})
    else:
        settings = {"num_positions": _num_positions(motion), "num_attentions": _num_attentions(motion)}
    if any(place_of(name).startswith("mid_block") for name in motion):
        return replace(MotionConfig.v2(), **settings)
    version = MotionConfig.v1() if settings["num_positions"] == 24 else MotionConfig.v3()
    return replace(version, **settings)


def _checked_settings(settings: dict) -> dict:
    """Settings for a ``MotionConfig``. ``ValueError`` for one that it does not have, or of another type."""
    types = {field.name: field.type for field in fields(MotionConfig)}
    for name, value in settings.items():
        if name not in types:
            raise ValueError(f"a motion module has no setting {name!r}")
        if not isinstance(value, types[name]) or (type(value) is int and value < 1):
            raise ValueError(f"a motion module cannot have {name}={value!r}")
    return settings


def _num_positions(motion: dict[str, torch.Tensor]) -> int:
    """Rows of the first position table, (1, positions, channels); 32 without one."""
    tables = {name: tensor for name, tensor in motion.items() if name.endswith("pos_encoder.pe")}
    if not tables:
        return 32
    name, table = next(iter(tables.items()))
    if table.ndim < 2:
        raise ValueError(f"{name} needs shape (1, positions, channels), got {tuple(table.shape)}")
    return table.shape[1]


def _num_attentions(motion: dict[str, torch.Tensor]) -> int:
    """How many temporal attentions a block has, from the numbers in their names."""
    numbers = [int(found[1]) for name in motion if (found := re.search(r"attention_blocks\.(\d+)\.", name))]
    return 1 + max(numbers, default=0)
