"""MotionLoRAs and domain adapters in and out of files: published, this package's, diffusers', peft's and kohya's."""

import json
import math
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from inspect import signature
from pathlib import Path
from traceback import walk_stack

from diffusers import UNet2DConditionModel
from torch import nn

from animatediff_ref.method.adapters import (
    CONVOLUTIONS,
    DOMAIN,
    LowRank,
    adapted_layers,
    add_domain_adapter,
    check_weight,
    fill_adapter,
    layer_shapes,
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
from animatediff_ref.weights.identify import ALPHA_LOST, identify
from animatediff_ref.weights.lora_file import alpha_is_lost, concatenated, pairs_of, save_pairs, unread
from animatediff_ref.weights.lora_whole import check_whole, likely_shapes
from animatediff_ref.weights.tensors import Weights, json_in, read_weights


class SkippedLayersWarning(UserWarning):
    """A LoRA has layers for places that the module it was loaded on does not have."""


class LostAlphaWarning(UserWarning):
    """A LoRA was written with an alpha beside it, which is not there: it may be weaker or stronger than as trained."""


class OtherModuleWarning(UserWarning):
    """A MotionLoRA was trained on another motion module than the one it was loaded on, or merged with."""


SPREAD = "motion_module_spread"  # in the metadata of a MotionLoRA: which motion module it was trained on


def also_called(**words: str) -> Callable:
    """Let a function take other libraries' words for its parameters, too: ``also_called(theirs="ours")``."""

    def taught(function: Callable) -> Callable:
        @wraps(function)
        def renamed(*args, **options):
            for theirs in words.keys() & options.keys():
                if words[theirs] in {*options, *signature(function).bind_partial(*args).arguments}:
                    raise ValueError(f"{theirs} is another word for {words[theirs]}: give one of them")
                options[words[theirs]] = options.pop(theirs)
            return function(*args, **options)

        return renamed

    return taught


@also_called(adapter_name="name", scale="weight")
def load_motion_lora(motion: MotionModule, path: str | Path, name: str | None = None, weight: float = 1.0) -> None:
    """Put the MotionLoRA of a file, or of a folder of peft or diffusers, on ``motion``, beside those already there.

    The mini world's eight cameras go by name: ``"zoom_in"``, ``"zoom_out"``, ``"pan_left"``, ``"pan_right"``,
    ``"tilt_up"``, ``"tilt_down"``, ``"roll_clockwise"``, ``"roll_anticlockwise"``; ``"./zoom_in"`` is a file of that name.
    ``weight`` 1 is as trained; a negative one takes its change away instead, which need not reverse the motion. ``name``, by default the file's stem, is what
    ``set_motion_loras`` calls it; one already loaded by that name is replaced. peft's words, ``adapter_name`` and
    ``scale``, may stand for ``name`` and ``weight``. Layers of a middle block that ``motion`` does not have (a LoRA for
    v2, on v1 or v3) are skipped with a ``SkippedLayersWarning``. A file that ``save_motion_lora`` has written knows its
    motion module: on another one, an ``OtherModuleWarning`` says so.

    A MotionLoRA (paper section 4.3) may have been trained for some blocks or layers only. It is told from one that lost
    some: a checksum shows that it is whole; else it has the layers that its trainer's settings name; else, without
    settings, it has the same layers everywhere, blocks are in it whole or not at all, and it does not end early, which
    is to have the first blocks of the UNet and not the last. Merging and converting ask for the same.

    Raises ``ValueError`` if the file is something else, is incomplete, does not fit, or was trained with a setting that
    is not read here; ``motion`` is then as it was. A ``LostAlphaWarning`` says if peft's settings are not beside it.
    """
    path = resolve("MotionLoRA", path)
    name = name or path.stem.replace(".", "_")
    if not isinstance(name, str) or "." in name or hasattr(nn.ModuleDict(), name):
        raise ValueError(
            f"the name of a MotionLoRA is a string without dots, and not one that PyTorch uses, got {name!r}"
        )
    check_weight(weight, f"MotionLoRA {name!r}")
    weights, pairs = _read(path, "MotionLoRA")
    middle = [layer for layer in pairs if layer.startswith("mid_block.") and not motion.config.mid_block]
    fitting = {layer: pair for layer, pair in pairs.items() if layer not in middle}
    if not fitting:
        raise ValueError(f"{path} only changes the middle block, which this motion module does not have")
    shapes = layer_shapes(motion)
    _check_fit(path, fitting, shapes)
    check_whole(path, weights, fitting, shapes)
    _check_module(path, spread_told(weights), _spread(motion), "this one's")
    if middle:
        skipped = f"skipped {len(middle)} layers of the middle block, which this motion module does not have"
        _warn(f"{path}: {skipped}", SkippedLayersWarning)
    if name in motion_loras(motion):
        unload_motion_loras(motion, name)
    put_adapter(motion, name, fitting)
    set_motion_loras(motion, {**motion_loras(motion), name: weight})


@also_called(adapter_name="name")
def save_motion_lora(motion: MotionModule, path: str | Path, name: str | None = None, format: str = "official") -> None:
    """Write a MotionLoRA of ``motion`` as it was loaded or trained, whatever its weight is now.

    ``name`` may be left out if there is only one. Formats: ``"official"`` (.safetensors, or .ckpt for the official
    code), ``"diffusers"`` (peft's names, for ``pipe.load_lora_weights``), ``"kohya"`` (with alphas). The numbers have
    the dtype of ``motion``: a float16 module rounded them when they were loaded.

    Raises ``ValueError`` for a name that is not loaded, another format or suffix, and layers that a format cannot name.
    """
    there = motion_loras(motion)
    if name is None and len(there) == 1:
        (name,) = there
    if name not in there:
        raise ValueError(f"name the MotionLoRA to save, one of: {', '.join(there) or 'none is loaded'}; got {name!r}")
    save_pairs(pairs_on(motion, name), path, format, {"kind": "motion_lora", SPREAD: json.dumps(_spread(motion))})


def merge_motion_loras(weights: Mapping[str | Path, float], path: str | Path, format: str = "official") -> None:
    """Merge MotionLoRAs, files or the mini world's by name, each with a weight, into a file that does the same at weight 1.

    Its rank is the sum of theirs. ``ValueError`` for no file, for one that ``load_motion_lora`` calls incomplete, and for
    files that were made for different models. An ``OtherModuleWarning`` says if two were trained on different motion
    modules of the same widths.
    """
    if not weights:
        raise ValueError("merging needs at least one MotionLoRA, got none")
    loras, spreads = [], {}
    for file, weight in weights.items():
        read, pairs = _read_whole(source := resolve("MotionLoRA", file), "MotionLoRA")
        loras.append((pairs, weight))
        if told := spread_told(read):
            spreads[source] = told
    merged = concatenated(loras)
    first, told = next(iter(spreads.items()), (None, {}))
    for other, spread in spreads.items():
        _check_module(other, spread, told, f"that of {first}")
    save_pairs(merged, path, format, {"kind": "motion_lora"} | ({SPREAD: json.dumps(told)} if told else {}))


@also_called(weight="scale")
def load_domain_adapter(unet: UNet2DConditionModel, path: str | Path, scale: float = 1.0) -> None:
    """Put the domain adapter (paper section 4.1) of a file, or ``"mini"``, on ``unet``, weighed by ``scale``.

    Raises ``ValueError`` if the file holds something else, or an adapter for a UNet of other widths; ``unet`` is then
    as it was.
    """
    unet = uncompiled(unet)
    check_weight(scale, "domain adapter")
    path = resolve("domain adapter", path)
    pairs = read_lora(path, "domain adapter", "style LoRA")
    convolutions = any(re.fullmatch(CONVOLUTIONS, layer) for layer in pairs)
    rank = _checked_rank(path, pairs, unet, adapted_layers(convolutions))
    trainable = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    add_domain_adapter(unet, rank, convolutions)  # freezes everything
    fill_adapter(unet, DOMAIN, pairs)
    for parameter in trainable:
        parameter.requires_grad_(True)
    set_domain_adapter(unet, scale)


def save_domain_adapter(unet: UNet2DConditionModel, path: str | Path, format: str = "official") -> None:
    """Write the domain adapter of ``unet`` in one of the formats of ``save_motion_lora``.

    ``ValueError`` if ``unet`` has none, or if it changes convolutions and the format is ``"official"``, which has no
    names for them: take ``"diffusers"``.
    """
    pairs = pairs_on(uncompiled(unet), DOMAIN)
    if not pairs:
        raise ValueError("this UNet has no domain adapter to save")
    save_pairs(pairs, path, format, {"kind": "domain_adapter"})


def read_lora(path: Path, *kinds: str) -> dict[str, LowRank]:
    """The low-rank changes in a file, by layer. ``ValueError`` unless it is one of ``kinds``, whole and read whole."""
    return _read_whole(path, *kinds)[1]


def _read_whole(path: Path, *kinds: str) -> tuple[Weights, dict[str, LowRank]]:
    weights, pairs = _read(path, *kinds)
    if "MotionLoRA" in kinds:
        shapes = likely_shapes(pairs)
        _check_fit(path, pairs, shapes)
        check_whole(path, weights, pairs, shapes)
    return weights, pairs


def _read(path: Path, *kinds: str) -> tuple[Weights, dict[str, LowRank]]:
    weights = read_weights(path)
    info = identify(path, weights)
    if info.kind not in kinds:
        raise info.refusal(kinds[0])
    if reason := unread(weights, kinds[0]):
        raise ValueError(f"{path} cannot be used: {reason}")
    if alpha_is_lost(weights):
        _warn(f"{path}: {ALPHA_LOST}", LostAlphaWarning)
    return weights, pairs_of(weights)


def spread_told(weights: Weights) -> dict[str, float]:
    """Which motion module a MotionLoRA was trained on, as its file says; empty if it does not."""
    return json_in(weights.metadata, SPREAD) if SPREAD in weights.metadata else {}


def _spread(motion: MotionModule) -> dict[str, float]:
    """By place, the standard deviation of the last projection: a mark of the training that its weights come from.

    MotionLoRAs, also fused ones, leave it as it is, and rounding to half precision changes it by less than 1 %.
    """
    return {place: round(motion.at(place).proj_out.weight.float().std().item(), 6) for place in motion.places}


def _check_module(path: Path, told: Mapping[str, float], needed: Mapping[str, float], whose: str) -> None:
    """Warn if a MotionLoRA was trained on a motion module with another mark."""
    for place in needed:
        if place in told and not math.isclose(told[place], needed[place], rel_tol=0.01):
            marks = (
                f"the spread of its last projection at {place} was {told[place]:.4g}, {whose} is {needed[place]:.4g}"
            )
            _warn(f"{path} was trained on another motion module ({marks}): it may do little here", OtherModuleWarning)
            return


def _warn(message: str, category: type[Warning]) -> None:
    """Warn at the line that called this package, however many of its functions lie between."""
    package = Path(__file__).parents[1]
    files = [Path(frame.f_code.co_filename) for frame, _ in walk_stack(sys._getframe())]
    level = next((level for level, file in enumerate(files, 1) if not file.is_relative_to(package)), 1)
    warnings.warn(message, category, stacklevel=level)


def _checked_rank(path: Path, pairs: Mapping[str, LowRank], unet: UNet2DConditionModel, layers: str) -> int:
    """The rank of a domain adapter, which must change every one of the ``layers`` of ``unet`` and nothing else."""
    other = [layer for layer in pairs if not re.fullmatch(layers, layer)]
    if other:
        raise ValueError(
            f"{path} is not a domain adapter, which only changes attention projections, and perhaps the convolutions "
            f"of residual blocks: it changes {other[0]}"
        )
    needed = layer_shapes(unet, layers)
    _check_fit(path, pairs, needed)
    missing = sorted(needed.keys() - pairs.keys())
    if missing:
        kind = "convolutions" if re.fullmatch(CONVOLUTIONS, missing[0]) else "attentions"
        raise ValueError(f"{path} does not fit this UNet: a domain adapter has all {kind}, it lacks {missing[0]}")
    ranks = {pair.rank for pair in pairs.values()}
    if len(ranks) != 1:
        raise ValueError(f"{path}: a domain adapter has one rank, got {', '.join(map(str, sorted(ranks)))}")
    return ranks.pop()


def _check_fit(path: Path, pairs: Mapping[str, LowRank], needed: Mapping[str, tuple[int, ...]]) -> None:
    """Each change must have the shape (out, in) of its layer in the model."""
    for layer, pair in pairs.items():
        shape = (pair.up.shape[0], *pair.down.shape[1:])
        if needed.get(layer) != shape:
            in_model = needed.get(layer, "not there")
            raise ValueError(f"{path} does not fit: {layer} is {in_model} in the model, {shape} in the file")
