"""What an unknown file of weights is, from the names and shapes of its tensors and from its metadata."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from animatediff_ref.method.adapters import CONVOLUTIONS, LowRank
from animatediff_ref.method.config import MotionConfig
from animatediff_ref.method.motion_module import MotionModule
from animatediff_ref.weights.lora_file import alpha_is_lost, pairs_of, unread
from animatediff_ref.weights.lora_settings import UnreadSetting
from animatediff_ref.weights.names import place_of, published_name
from animatediff_ref.weights.tensors import NOT_WEIGHTS, Unreadable, Weights, json_in, read_weights

SDXL_WIDTHS = (320, 640, 1280)
ADVICE = {  # what a file is -> what to do with it
    "motion module": "load_motion_module(path), then inject(pipe.unet, motion)",
    "MotionLoRA": "load_motion_lora(motion, path) onto a motion module that is already loaded",
    "domain adapter": "load_domain_adapter(pipe.unet, path)",
    "style LoRA": "pipe.load_lora_weights(path): it personalises the image model",
    "motion module with more": "the pipeline it was made for; with a conv_in that is diffusers' PIAPipeline",
    "SDXL motion module": "nothing here: this package animates Stable-Diffusion-1.x UNets",
    "SparseCtrl encoder": "diffusers' SparseControlNetModel; it has temporal layers, but is not a motion module",
    "ControlNet": "diffusers' ControlNetModel, in a ControlNet pipeline whose UNet is injected",
    "IP-Adapter": "pipe.load_ip_adapter",
    "pipeline folder": "load_base(path): it is a whole image model",
    "motion pipeline folder": "load_motion_module(path / 'motion_adapter'), and load_base of the model it came from",
    "other pipeline folder": "diffusers' DiffusionPipeline: this package animates Stable-Diffusion-1.x pipelines",
    "full checkpoint": "load_base(path): it is a whole image model",
    "UNet": "diffusers' UNet2DConditionModel: it is an image model, without motion",
    "autoencoder": "diffusers' AutoencoderKL",
    "text encoder": "transformers' CLIPTextModel",
    "textual inversion": "pipe.load_textual_inversion(path)",
    "damaged LoRA": "nothing: fetch the file again, with the settings beside it",
    "unread LoRA": "the tool that trained it: let that merge it into its weights, and load the result",
    "other motion weights": "the tool that made it: its motion layers have other names or places than AnimateDiff's",
    "unknown weights": "nothing here: AnimateDiff has no use for such a file",
    "not a model": "nothing: check where the file came from, and fetch it again",
}
KIND_BY_NAME_PART = {  # part of a tensor's name -> what the file is; the first part that occurs decides
    "motion_modules": "other motion weights",
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
ALPHA_LOST = "its adapter_config.json, which holds alpha, is not beside it: alpha is taken to be the rank"
LORA_NAME_PARTS = (".lora", "lora_", "hada_w")  # some part of every LoRA, even of one that is not read here
POSITIONS = "pos_encoder.pe"  # how the name of a position table ends
ADAPTER_SETTINGS = {  # setting of a MotionConfig -> its name in the configuration of a diffusers MotionAdapter
    "num_positions": "motion_max_seq_length",
    "num_heads": "motion_num_attention_heads",
    "norm_groups": "motion_norm_num_groups",
}


@dataclass(frozen=True)
class FileInfo:
    """What ``inspect_file`` found; ``str()`` of it is a short report."""

    path: Path
    kind: str  # "motion module", "MotionLoRA" and so on
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
        reason = (
            f" ({self.notes[0]})" if self.kind in ("damaged LoRA", "unread LoRA", "motion module with more") else ""
        )
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
        limit = f"at most {most}" if (most := self.config.max_frames) else "any number"
        return [
            f"  frames    {limit}{frames}",
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
        return FileInfo(path, _kind_of_pipeline(path / "model_index.json"), "diffusers")
    try:
        return identify(path, read_weights(path))
    except Unreadable as error:
        return FileInfo(path, "not a model", notes=(str(error),))


def _kind_of_pipeline(index: Path) -> str:
    """A key of ``ADVICE`` for the folder of a diffusers pipeline, by the list of its parts."""
    try:
        parts = json.loads(index.read_text(encoding="utf-8", errors="replace"))
        if "motion_adapter" in parts:
            return "motion pipeline folder"
        like_ours = parts["unet"][1] == "UNet2DConditionModel" and "text_encoder_2" not in parts
        return "pipeline folder" if like_ours else "other pipeline folder"
    except (ValueError, KeyError, TypeError, IndexError):
        return "other pipeline folder"


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
        kind = "unread LoRA" if isinstance(error, UnreadSetting) else "damaged LoRA"
        return replace(info, kind=kind, notes=(str(error),))
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
            raise ValueError(f"two tensors are {published}, one of them {name}: save one model alone")
        if published:
            found[published] = tensor
    return found


def is_unet_dump(weights: Weights) -> bool:
    """Whether the whole UNet is in the file too, as training scripts save it."""
    return any(name.endswith("down_blocks.0.resnets.0.conv1.weight") for name in weights.tensors)


def widths_of(motion: dict[str, torch.Tensor]) -> dict[str, int]:
    """Places and their widths, as ``MotionModule`` takes them."""
    end = ".temporal_transformer.norm.weight"
    norms = {name.removesuffix(end): tensor for name, tensor in motion.items() if name.endswith(end)}
    if scalars := [place for place, tensor in norms.items() if tensor.ndim == 0]:
        raise ValueError(f"{scalars[0]}{end} needs shape (channels,), got one number")
    return {place: len(tensor) for place, tensor in norms.items()}


AS_A_STYLE = "as a style LoRA it needs diffusers' names: animatediff-ref convert FILE NEW --to diffusers"


def _lora_info(info: FileInfo, weights: Weights, pairs: dict[str, LowRank]) -> FileInfo:
    temporal = [layer for layer in pairs if ".motion_modules." in layer]
    spatial = [layer for layer in pairs if ".attn1." in layer or ".attn2." in layer]
    convolutions = [layer for layer in pairs if re.fullmatch(CONVOLUTIONS, layer)]
    reason = unread(weights, "MotionLoRA" if len(temporal) == len(pairs) else "domain adapter")
    like_adapter = len(spatial + convolutions) == len(pairs) and spatial and not reason
    info = replace(
        info,
        kind="style LoRA",
        format=_lora_format(next(iter(weights.tensors))),
        widths=tuple(sorted({len(pair.up) for pair in pairs.values()})),
        ranks=tuple(sorted({pair.rank for pair in pairs.values()})),
        notes=(ALPHA_LOST,) if alpha_is_lost(weights) else (),
    )
    if len(temporal) == len(pairs) > 0 and not reason:
        return replace(info, kind="MotionLoRA")
    if any("motion_modules" in name for name in weights.tensors):
        return replace(info, kind="unread LoRA", notes=(reason or "it changes the image model, too", *info.notes))
    if like_adapter:
        note = "a domain adapter and a style LoRA of the same layers look alike"
        bare = info.format == "official" and not any(name.startswith("unet.") for name in weights.tensors)
        note += f"; {AS_A_STYLE}" if bare else "; either loader takes this one"
        written_as = weights.metadata.get("kind")
        by_format = not written_as and info.format != "diffusers" and not convolutions
        is_adapter = written_as == "domain_adapter" or by_format
        return replace(info, kind="domain adapter" if is_adapter else "style LoRA", notes=(note, *info.notes))
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
    info = replace(
        info,
        kind="motion module",
        config=config,
        num_frames=int(frames) if frames else None,
        widths=widths,
        notes=tuple(_doubts(weights, config, motion)),
    )
    strangers = [name for name in weights.tensors if not published_name(name) and name not in NOT_WEIGHTS]
    if strangers and not is_unet_dump(weights):
        names = ", ".join(strangers[:3]) + (" ..." if len(strangers) > 3 else "")
        note = f"it holds tensors that no motion module has: {names}"
        return replace(info, kind="motion module with more", notes=(note, *info.notes))
    return info


def fitted(config: MotionConfig, motion: Mapping[str, torch.Tensor]) -> MotionModule:
    """A motion module on the meta device that a file's tensors fit, but for position tables; else ``ValueError``."""
    with torch.device("meta"):
        module = MotionModule(config, widths_of(motion), num_frames=1)
    own = module.state_dict()
    for name, needed in own.items():
        tensor = motion.get(name)
        if not name.endswith(POSITIONS) and (tensor is None or tensor.shape != needed.shape):
            shape = None if tensor is None else tuple(tensor.shape)
            raise ValueError(f"{name} needs shape {tuple(needed.shape)}, the file has {shape}")
    surplus = [name for name in motion if name not in own and not name.endswith(POSITIONS)]
    if surplus:
        others = f", and {len(surplus) - 1} more" if len(surplus) > 1 else ""
        raise ValueError(f"it has no {surplus[0]}, the file does{others}")
    return module


def _doubts(weights: Weights, config: MotionConfig, motion: Mapping[str, torch.Tensor]) -> list[str]:
    """What the user of a motion module should know about its file; first, whether it loads."""
    notes = []
    try:
        fitted(config, motion)
    except ValueError as error:
        notes.append(f"as {config.version} it does not load: {error}; give load_motion_module another config")
    if is_unet_dump(weights):
        notes.append("it is a whole UNet as training saves it; only its motion module is used")
    has_tables = any(name.endswith(".pe") for name in weights.tensors)
    if not has_tables and "config" not in weights.metadata and "diffusers" not in weights.metadata:
        notes.append("it holds no position tables, so v1 and v3 look alike; v3 is assumed unless config says otherwise")
    return notes


def config_of(weights: Weights, motion: dict[str, torch.Tensor]) -> MotionConfig:
    """The configuration of a motion module: what its file says, else that of the published version it looks like.

    With a middle block that is v2, with 24 positions v1, otherwise v3. ``ValueError`` if the file says nonsense.
    """
    if weights.metadata.get("kind") == "motion_module":
        return MotionConfig(**_checked_settings(json_in(weights.metadata, "config")))
    if "diffusers" in weights.metadata:
        told = json_in(weights.metadata, "diffusers")
        told = {"motion_norm_num_groups": told.get("norm_num_groups"), **told}  # a UNetMotionModel has one for both
        settings = _checked_settings({ours: told.get(theirs) for ours, theirs in ADAPTER_SETTINGS.items()})
    else:
        kind = "conv" if any(".convolutions." in name for name in motion) else "transformer"
        settings = {"kind": kind, "num_positions": _num_positions(motion), "num_attentions": _num_attentions(motion)}
    if any(place_of(name).startswith("mid_block") for name in motion):
        return replace(MotionConfig.v2(), **settings)
    version = MotionConfig.v1() if settings["num_positions"] == 24 else MotionConfig.v3()
    return replace(version, **settings)


def groups_are_told(weights: Weights) -> bool:
    """Whether the file of a motion module says into how many groups its norms divide channels."""
    if weights.metadata.get("kind") == "motion_module":
        return "norm_groups" in json_in(weights.metadata, "config")
    return "diffusers" in weights.metadata


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
    numbers = [
        int(found[1]) for name in motion if (found := re.search(r"(?:attention_blocks|convolutions)\.(\d+)\.", name))
    ]
    return 1 + max(numbers, default=0)
