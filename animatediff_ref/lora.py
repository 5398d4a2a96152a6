"""Low-rank adapters on models: the domain adapter (paper Eq. 4) and MotionLoRA (section 4.3). peft does the plumbing.

A weight of 1 is the adapter as it was trained, 0 is as if it were not there.
"""

import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

from diffusers import UNet2DConditionModel
from diffusers.utils.peft_utils import recurse_remove_peft_layers
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from animatediff_ref.files import identify
from animatediff_ref.inflation import uncompiled
from animatediff_ref.low_rank import LowRank, compressed, concatenated, pairs_of, save_pairs
from animatediff_ref.mini import mini_file
from animatediff_ref.motion_module import MotionModule
from animatediff_ref.names import lora_part
from animatediff_ref.storage import STRAY, read_weights

DOMAIN = "domain_adapter"
SPATIAL = r".*\.attn[12]\.to_(q|k|v|out\.0)"


class SkippedLayers(UserWarning):
    """A LoRA has layers for places that the module it was loaded on has not."""


# --- MotionLoRA -------------------------------------------------------------------------------------------------------


def load_motion_lora(motion: MotionModule, path: str | Path, name: str | None = None, weight: float = 1.0) -> None:
    """Put the MotionLoRA of a file on ``motion`` beside those already there, weighed by ``weight``; negative turns its motion round.

    ``name`` (by default the file's stem) is what ``set_motion_loras`` knows it by; one of that name is replaced. Reads published
    files, those saved here, diffusers' and peft's, and kohya's with their alphas. Layers of a middle block that ``motion`` has not
    (a LoRA made for v2 on a v1 or v3) are skipped with a ``SkippedLayers`` warning; a LoRA without them leaves ``motion``'s as they
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
    _check_fit(path, fitting, _linear_shapes(motion))
    _check_places(path, fitting, [place for place in motion.places if not place.startswith("mid_block")])
    if middle:
        warnings.warn(f"{path}: skipped {len(middle)} layers of the middle block, which this motion module has not", SkippedLayers, stacklevel=2)  # fmt: skip
    if name in motion_loras(motion):
        unload_motion_loras(motion, name)
    _put(motion, name, fitting)
    set_motion_loras(motion, {**motion_loras(motion), name: weight})


def motion_loras(motion: MotionModule) -> dict[str, float]:
    """Names and weights of the MotionLoRAs on ``motion``."""
    return {
        name: scaling * layer.r[name] / layer.lora_alpha[name]
        for layer in _lora_layers(motion)
        for name, scaling in layer.scaling.items()
    }


def set_motion_loras(motion: MotionModule, weights: Mapping[str, float]) -> None:
    """Weigh the MotionLoRAs on ``motion``; those not named are switched off. Weights add up and may be negative."""
    there = motion_loras(motion)
    if unknown := sorted(weights.keys() - there):
        raise ValueError(f"no MotionLoRA {unknown[0]!r} is loaded; there are: {', '.join(there) or 'none'}")
    for layer in _lora_layers(motion):
        for name in layer.scaling:
            layer.set_scale(name, weights.get(name, 0.0))


def unload_motion_loras(motion: MotionModule, *names: str) -> None:
    """Take the named MotionLoRAs off, or all of them; the weights of ``motion`` are bit-identical to before.

    ``ValueError`` for a name that is not loaded.
    """
    there = motion_loras(motion)
    if unknown := [name for name in names if name not in there]:
        raise ValueError(f"no MotionLoRA {unknown[0]!r} is loaded; there are: {', '.join(there) or 'none'}")
    names = dict.fromkeys(names or there)
    for layer in _lora_layers(motion):
        for name in names:
            layer.delete_adapter(name)
    for name in names:
        motion.peft_config.pop(name)
    if not motion_loras(motion):
        recurse_remove_peft_layers(motion)


def fuse_motion_loras(motion: MotionModule) -> None:
    """Merge the MotionLoRAs, weighed as they are, into the weights of ``motion`` for good, and take them off. Without any, nothing happens."""
    for layer in _lora_layers(motion):
        layer.merge()
    unload_motion_loras(motion)


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
    save_pairs(_pairs_on(motion, name), path, format, kind="motion_lora")


def merge_motion_loras(
    weights: Mapping[str | Path, float], path: str | Path, rank: int | None = None, format: str = "official"
) -> float:
    """Merge files of MotionLoRAs, each with a weight, into one file that does the same at weight 1.

    Its rank is the sum of theirs, and it is exact; with ``rank`` it is compressed to that. Returns the share of the change's norm
    that was lost by that, 0 without it.
    """
    if not weights:
        raise ValueError("merging needs at least one MotionLoRA, got none")
    merged, error = concatenated((read_lora(Path(file), "MotionLoRA"), w) for file, w in weights.items()), 0.0
    if rank is not None:
        merged, error = compressed(merged, rank)
    save_pairs(merged, path, format, kind="motion_lora")
    return error


# --- the domain adapter -----------------------------------------------------------------------------------------------


def load_domain_adapter(unet: UNet2DConditionModel, path: str | Path, scale: float = 1.0) -> None:
    """Put the domain adapter of a file (or ``"mini"``) on ``unet``, weighed by ``scale``.

    Reads published files, those saved here, diffusers' and peft's, and kohya's with their alphas. Raises ``ValueError`` if the file
    holds something else, or an adapter for a UNet of other widths; ``unet`` is then as before.
    """
    unet = uncompiled(unet)
    path = mini_file("domain_adapter.safetensors") if str(path) == "mini" else Path(path)
    pairs = read_lora(path, "domain adapter", "style LoRA")
    if other := [layer for layer in pairs if not re.fullmatch(SPATIAL, layer)]:
        raise ValueError(f"{path} is no domain adapter: that changes attention projections alone, this also {other[0]}")
    needed = _linear_shapes(unet, SPATIAL)
    _check_fit(path, pairs, needed)
    if missing := sorted(needed.keys() - pairs.keys()):
        raise ValueError(f"{path} does not fit this UNet: a domain adapter has all attentions, it lacks {missing[0]}")
    if len(ranks := {pair.rank for pair in pairs.values()}) != 1:
        raise ValueError(f"{path}: a domain adapter has one rank, got {', '.join(map(str, sorted(ranks)))}")
    trainable = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    add_domain_adapter(unet, ranks.pop())
    _fill(unet, DOMAIN, pairs)
    for parameter in trainable:
        parameter.requires_grad_(True)
    set_domain_adapter(unet, scale)


def add_domain_adapter(unet: UNet2DConditionModel, rank: int) -> list[nn.Parameter]:
    """Put a fresh domain adapter on every self- and cross-attention of ``unet`` and return its parameters, to be trained.

    Fresh, it changes nothing: one of its two factors is zero. Everything else in ``unet`` is frozen. It replaces a domain adapter already there; other adapters,
    such as a style, stay as active as they were.
    """
    others = [name for name in getattr(unet, "peft_config", {}) if name != DOMAIN]
    active = [name for name in (unet.active_adapters() if others else []) if name != DOMAIN]
    if DOMAIN in getattr(unet, "peft_config", {}):
        unet.delete_adapters(DOMAIN)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # a style beside it is what we want
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=SPATIAL), adapter_name=DOMAIN)
    unet.set_adapter([*active, DOMAIN])
    unet.requires_grad_(False)
    parameters = [factor for pair in _pairs_on(unet, DOMAIN).values() for factor in (pair.down, pair.up)]
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


def set_domain_adapter(unet: UNet2DConditionModel, scale: float) -> None:
    """Weigh the domain adapter by ``scale`` (alpha of Eq. 4): 1 as trained, 0 dropped, the paper's setting at inference.

    diffusers switches it off when a style is loaded or set after it; this call switches it on again, beside the style.
    ``ValueError`` if ``unet`` has none, or if it was fused into the weights.
    """
    unet = uncompiled(unet)
    layers = [layer for layer in _lora_layers(unet) if DOMAIN in layer.scaling]
    if not layers:
        raise ValueError("this UNet has no domain adapter: load one with load_domain_adapter, or train one")
    if any(DOMAIN in layer.merged_adapters for layer in layers):
        raise ValueError("the domain adapter was fused into the UNet's weights: unfuse it before weighing it")
    if DOMAIN not in (active := unet.active_adapters()):
        unet.set_adapter([*active, DOMAIN])
    for layer in layers:
        layer.set_scale(DOMAIN, scale)


def save_domain_adapter(unet: UNet2DConditionModel, path: str | Path, format: str = "official") -> None:
    """Write the domain adapter of ``unet`` in a format of ``save_motion_lora``'s."""
    if not (pairs := _pairs_on(unet, DOMAIN)):
        raise ValueError("this UNet has no domain adapter to save")
    save_pairs(pairs, path, format, kind="domain_adapter")


# --- both -------------------------------------------------------------------------------------------------------------


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


def _lora_layers(model: nn.Module) -> list[LoraLayer]:
    return [layer for layer in model.modules() if isinstance(layer, LoraLayer)]


def _linear_shapes(model: nn.Module, pattern: str = ".*") -> dict[str, tuple[int, int]]:
    """Names of linear layers, under adapters or not, and the shapes (out, in) of their weights."""
    plain = {name.removesuffix(".base_layer"): layer for name, layer in model.named_modules() if ".lora_" not in name}
    return {
        name: tuple(layer.weight.shape)
        for name, layer in plain.items()
        if isinstance(layer, nn.Linear) and re.fullmatch(pattern, name)
    }


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


def _put(model: nn.Module, name: str, pairs: Mapping[str, LowRank]) -> None:
    """Put low-rank changes on a model as an adapter of weight 1, frozen; what could be trained before still can."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    config = LoraConfig(target_modules=list(pairs), rank_pattern={re.escape(k): pair.rank for k, pair in pairs.items()})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several beside each other are what we want
        inject_adapter_in_model(config, model, adapter_name=name)
    _fill(model, name, pairs)
    for layer in _lora_layers(model):
        layer.set_adapter(list(layer.scaling))
    model.requires_grad_(False)
    for parameter in trainable:
        parameter.requires_grad_(True)


def _fill(model: nn.Module, name: str, pairs: Mapping[str, LowRank]) -> None:
    for path, pair in pairs.items():
        layer = model.get_submodule(path)
        for factor, value in ((layer.lora_A[name], pair.down), (layer.lora_B[name], pair.up)):
            factor.weight.data.copy_(value)
            factor.requires_grad_(False)
        layer.lora_alpha[name] = pair.alpha
        layer.set_scale(name, 1.0)


def _pairs_on(model: nn.Module, name: str) -> dict[str, LowRank]:
    return {
        path: LowRank(layer.lora_A[name].weight, layer.lora_B[name].weight, layer.lora_alpha[name])
        for path, layer in model.named_modules()
        if isinstance(layer, LoraLayer) and name in layer.scaling
    }
