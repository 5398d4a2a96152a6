"""MotionLoRAs and domain adapters in and out of files: published ones, this package's, diffusers', peft's and kohya's."""

import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

from diffusers import UNet2DConditionModel
from torch import nn

from animatediff_ref.method.adapters import (
    DOMAIN,
    SPATIAL,
    LowRank,
    add_domain_adapter,
    fill_adapter,
    linear_shapes,
    motion_loras,
    pairs_on,
    put_adapter,
    set_domain_adapter,
    set_motion_loras,
    unload_motion_loras,
)
from animatediff_ref.method.inflation import uncompiled
from animatediff_ref.method.motion_module import MotionModule
from animatediff_ref.mini.files import resolve
from animatediff_ref.weights.identify import identify
from animatediff_ref.weights.lora_file import concatenated, pairs_of, save_pairs
from animatediff_ref.weights.names import lora_part
from animatediff_ref.weights.tensors import STRAY, read_weights


class SkippedLayersWarning(UserWarning):
    """A LoRA has layers for places that the module it was loaded on has not."""


def load_motion_lora(motion: MotionModule, path: str | Path, name: str | None = None, weight: float = 1.0) -> None:
    """Put the MotionLoRA of a file on ``motion`` beside those already there, weighed by ``weight``; negative turns its motion round.

    ``name`` (by default the file's stem) is what ``set_motion_loras`` knows it by; one of that name is replaced. Reads published
    files, those saved here, diffusers' and peft's, and kohya's with their alphas. Layers of a middle block that ``motion`` has not
    (a LoRA made for v2 on a v1 or v3) are skipped with a ``SkippedLayersWarning`` warning; a LoRA without them leaves ``motion``'s as they
    are. Raises ``ValueError`` if the file is something else or does not fit; ``motion`` is then as it was.
    """
    path = Path(path)
    name = name or path.stem.replace(".", "_")
    if not isinstance(name, str) or "." in name or hasattr(nn.ModuleDict(), name):
        raise ValueError(
            f"the name of a MotionLoRA is a string without dots, and not one that PyTorch uses, got {name!r}"
        )
    pairs = read_lora(path, "MotionLoRA")
    middle = [layer for layer in pairs if layer.startswith("mid_block.") and not motion.config.mid_block]
    fitting = {layer: pair for layer, pair in pairs.items() if layer not in middle}
    _check_fit(path, fitting, linear_shapes(motion))
    _check_places(path, fitting, [place for place in motion.places if not place.startswith("mid_block")])
    if middle:
        warnings.warn(f"{path}: skipped {len(middle)} layers of the middle block, which this motion module has not", SkippedLayersWarning, stacklevel=2)  # fmt: skip
    if name in motion_loras(motion):
        unload_motion_loras(motion, name)
    put_adapter(motion, name, fitting)
    set_motion_loras(motion, {**motion_loras(motion), name: weight})


def save_motion_lora(motion: MotionModule, path: str | Path, name: str | None = None, format: str = "official") -> None:
    """Write a MotionLoRA of ``motion`` as it was loaded or trained, whatever its weight now; ``name`` may be left out if it is the only one.

    Formats: ``"official"`` (.safetensors, or .ckpt for the official code), ``"diffusers"`` (peft's names, for
    ``pipe.load_lora_weights``), ``"kohya"`` (with alphas). Its numbers have the dtype of ``motion``: on a float16 module they were
    rounded when they were loaded. ``ValueError`` for a name that is not loaded, another format or suffix, and layers that a format
    has no names for.
    """
    there = motion_loras(motion)
    if name is None and len(there) == 1:
        (name,) = there
    if name not in there:
        raise ValueError(f"name the MotionLoRA to save, one of: {', '.join(there) or 'none is loaded'}; got {name!r}")
    save_pairs(pairs_on(motion, name), path, format, kind="motion_lora")


def merge_motion_loras(weights: Mapping[str | Path, float], path: str | Path, format: str = "official") -> None:
    """Merge files of MotionLoRAs, each with a weight, into one file that does the same at weight 1. Its rank is the sum of theirs."""
    if not weights:
        raise ValueError("merging needs at least one MotionLoRA, got none")
    merged = concatenated((read_lora(Path(file), "MotionLoRA"), weight) for file, weight in weights.items())
    save_pairs(merged, path, format, kind="motion_lora")


def load_domain_adapter(unet: UNet2DConditionModel, path: str | Path, scale: float = 1.0) -> None:
    """Put the domain adapter of a file (or ``"mini"``) on ``unet``, weighed by ``scale``.

    Reads published files, those saved here, diffusers' and peft's, and kohya's with their alphas. Raises ``ValueError`` if the file
    holds something else, or an adapter for a UNet of other widths; ``unet`` is then as before.
    """
    unet = uncompiled(unet)
    path = resolve("domain adapter", path)
    pairs = read_lora(path, "domain adapter", "style LoRA")
    if other := [layer for layer in pairs if not re.fullmatch(SPATIAL, layer)]:
        raise ValueError(f"{path} is no domain adapter: that changes attention projections alone, this also {other[0]}")
    needed = linear_shapes(unet, SPATIAL)
    _check_fit(path, pairs, needed)
    if missing := sorted(needed.keys() - pairs.keys()):
        raise ValueError(f"{path} does not fit this UNet: a domain adapter has all attentions, it lacks {missing[0]}")
    if len(ranks := {pair.rank for pair in pairs.values()}) != 1:
        raise ValueError(f"{path}: a domain adapter has one rank, got {', '.join(map(str, sorted(ranks)))}")
    trainable = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    add_domain_adapter(unet, ranks.pop())
    fill_adapter(unet, DOMAIN, pairs)
    for parameter in trainable:
        parameter.requires_grad_(True)
    set_domain_adapter(unet, scale)


def save_domain_adapter(unet: UNet2DConditionModel, path: str | Path, format: str = "official") -> None:
    """Write the domain adapter of ``unet`` in a format of ``save_motion_lora``'s."""
    if not (pairs := pairs_on(unet, DOMAIN)):
        raise ValueError("this UNet has no domain adapter to save")
    save_pairs(pairs, path, format, kind="domain_adapter")


def read_lora(path: Path, *kinds: str) -> dict[str, LowRank]:
    """The low-rank changes in a file that must be one of ``kinds`` (of ``inspect_file``), and nothing besides them."""
    weights = read_weights(path)
    info = identify(path, weights)
    if info.kind not in kinds:
        raise info.refusal(kinds[0])
    if stray := [name for name in weights.tensors if not lora_part(name) and name not in STRAY]:
        raise ValueError(f"{path} holds a tensor that is no part of a {kinds[0]}: {stray[0]}")
    pairs = pairs_of(weights)
    if info.kind == "MotionLoRA":
        _check_places(path, pairs)
    return pairs


def _check_fit(path: Path, pairs: Mapping[str, LowRank], needed: Mapping[str, tuple[int, int]]) -> None:
    for layer, pair in pairs.items():
        came = (pair.up.shape[0], *pair.down.shape[1:])
        if needed.get(layer) != came:
            raise ValueError(
                f"{path} does not fit: {layer} is {needed.get(layer, 'not there')} in the model, {came} in the file"
            )


def _check_places(path: Path, pairs: Mapping[str, LowRank], places: Iterable[str] = ()) -> None:
    """A MotionLoRA changes the same layers at every place; one that does not has lost some."""
    layers: dict[str, set[str]] = {place: set() for place in places}
    for layer in pairs:
        place, _, rest = layer.partition(".temporal_transformer.")
        layers.setdefault(place, set()).add(rest)
    if absent := {"down_blocks", "up_blocks"} - {place.split(".")[0] for place in layers}:
        raise ValueError(f"{path} is incomplete: it has nothing for {' and '.join(sorted(absent))}")
    every = set().union(*layers.values())
    for place, rest in layers.items():
        if rest != every:
            raise ValueError(
                f"{path} is incomplete: at {place} it lacks {sorted(every - rest)[0]}, which it has elsewhere"
            )
