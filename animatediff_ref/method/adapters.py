"""Low-rank adapters (paper Eq. 3): the domain adapter (Eq. 4) and MotionLoRA (section 4.3), on peft.

A weight of 1 is the adapter as it was trained, 0 is as if it were not there. Files of adapters are ``weights.lora``'s
business.
"""

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from diffusers.utils.peft_utils import recurse_remove_peft_layers
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from animatediff_ref.method.inflation import uncompiled
from animatediff_ref.method.motion_module import MotionModule

DOMAIN = "domain_adapter"  # the domain adapter's name in peft
SPATIAL = r".*\.attn[12]\.to_(q|k|v|out\.0)"  # the layers a domain adapter changes: all self- and cross-attentions
CONVOLUTIONS = r".*\.resnets\.\d+\.conv[12]"  # and, if asked for, the convolutions of all residual blocks
TEMPORAL = r".*\.attention_blocks\.\d+\.to_(q|k|v|out\.0)"  # the layers a MotionLoRA changes


@dataclass(frozen=True, eq=False)
class LowRank:
    r"""The change of a linear layer (Eq. 3): :math:`\Delta W = A B^T`, with ``up`` the paper's A and ``down`` its B^T.

    Files may scale it by ``alpha / rank``. That alpha is the file's, not the alpha of Eq. 4.
    """

    down: torch.Tensor  # (rank, in), of a convolution (rank, in, height, width)
    up: torch.Tensor  # (out, rank), of a convolution (out, rank, 1, 1)
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def scaled(self, weight: float = 1.0) -> "LowRank":
        """The same change times ``weight``, with an alpha that is its rank."""
        factor = weight * self.alpha / self.rank
        return LowRank(self.down, self.up if factor == 1 else self.up * factor, self.rank)


def adapted_layers(convolutions: bool) -> str:
    """A pattern of the names of all layers that a domain adapter changes."""
    return f"{SPATIAL}|{CONVOLUTIONS}" if convolutions else SPATIAL


def add_domain_adapter(unet: UNet2DConditionModel, rank: int, convolutions: bool = False) -> list[nn.Parameter]:
    """Put a fresh domain adapter on all attentions of ``unet``, and return its parameters for training.

    ``convolutions`` puts it on those of the residual blocks, too: ``train_domain_adapter`` says what for. Fresh, it
    changes nothing: one of its two factors is zero. Everything else in ``unet`` is frozen. It replaces a domain adapter
    already there; other adapters, such as a style, stay as active as they were.
    """
    unet = uncompiled(unet)
    others = [name for name in getattr(unet, "peft_config", {}) if name != DOMAIN]
    active = [name for name in (unet.active_adapters() if others else []) if name != DOMAIN]
    if DOMAIN in getattr(unet, "peft_config", {}):
        unet.delete_adapters(DOMAIN)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # a style beside it is what we want
        layers = adapted_layers(convolutions)
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=layers), adapter_name=DOMAIN)
    unet.set_adapter([*active, DOMAIN])  # peft's layers then compute W z + scale * up(down(z)), Eq. 4
    unet.requires_grad_(False)
    parameters = [factor for pair in pairs_on(unet, DOMAIN).values() for factor in (pair.down, pair.up)]
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


def set_domain_adapter(unet: UNet2DConditionModel, scale: float) -> None:
    """Weigh the domain adapter by ``scale``, alpha of Eq. 4: 1 as trained, 0 dropped; the paper tries some between.

    diffusers switches it off when a style is loaded or set after it; this call switches it on again, beside the style.
    ``ValueError`` if ``unet`` has none, or if it was fused into the weights.
    """
    unet = uncompiled(unet)
    check_weight(scale, "domain adapter")
    layers = [layer for layer in lora_layers(unet) if DOMAIN in layer.scaling]
    if not layers:
        raise ValueError("this UNet has no domain adapter: load one with load_domain_adapter, or train one")
    if any(DOMAIN in layer.merged_adapters for layer in layers):
        raise ValueError("the domain adapter was fused into the UNet's weights: unfuse it before weighing it")
    if DOMAIN not in (active := unet.active_adapters()):
        unet.set_adapter([*active, DOMAIN])
    for layer in layers:
        layer.set_scale(DOMAIN, scale)


def add_motion_lora(motion: MotionModule, name: str, rank: int) -> list[nn.Parameter]:
    """Put a fresh MotionLoRA on all temporal self-attentions of ``motion``, and return its parameters for training.

    Fresh, it changes nothing: one of its two factors is zero. Everything else in ``motion`` is frozen, and MotionLoRAs
    already there keep their weights. ``ValueError`` for a name that is taken, and for a motion module without attentions.
    """
    if motion.config.kind != "transformer":
        raise ValueError(f"a MotionLoRA changes temporal attentions, and this motion module is {motion.config.kind!r}")
    weights = motion_loras(motion)
    if name in weights:
        raise ValueError(f"there is a MotionLoRA {name!r} already: unload it, or train under another name")
    _inject_adapter(motion, name, LoraConfig(r=rank, lora_alpha=rank, target_modules=TEMPORAL))
    set_motion_loras(motion, {**weights, name: 1.0})
    motion.requires_grad_(False)
    parameters = [factor for pair in pairs_on(motion, name).values() for factor in (pair.down, pair.up)]
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


def motion_loras(motion: MotionModule) -> dict[str, float]:
    """Names and weights of the MotionLoRAs on ``motion``."""
    return {
        name: scaling * layer.r[name] / layer.lora_alpha[name]
        for layer in lora_layers(motion)
        for name, scaling in layer.scaling.items()
    }


def set_motion_loras(motion: MotionModule, weights: Mapping[str, float]) -> None:
    """Weigh the MotionLoRAs on ``motion``; those not named are switched off.

    The weighted changes add. Weights may be negative.
    """
    there = motion_loras(motion)
    for name, weight in weights.items():
        check_weight(weight, f"MotionLoRA {name!r}")
    if unknown := sorted(weights.keys() - there):
        raise ValueError(f"no MotionLoRA {unknown[0]!r} is loaded; there are: {', '.join(there) or 'none'}")
    for layer in lora_layers(motion):
        for name in layer.scaling:
            layer.set_scale(name, weights.get(name, 0.0))


def check_weight(weight: float, what: str) -> None:
    """``ValueError`` for the weight of an adapter that is no finite number."""
    if isinstance(weight, str) or not math.isfinite(weight):
        raise ValueError(f"the weight of the {what} is a finite number, got {weight!r}")


def unload_motion_loras(motion: MotionModule, *names: str) -> None:
    """Take the named MotionLoRAs off, or all of them; the weights of ``motion`` are bit-identical to before.

    ``ValueError`` for a name that is not loaded.
    """
    there = motion_loras(motion)
    if unknown := [name for name in names if name not in there]:
        raise ValueError(f"no MotionLoRA {unknown[0]!r} is loaded; there are: {', '.join(there) or 'none'}")
    names = dict.fromkeys(names or there)
    for layer in lora_layers(motion):
        for name in names:
            layer.delete_adapter(name)
    for name in names:
        motion.peft_config.pop(name)
    if not motion_loras(motion):
        recurse_remove_peft_layers(motion)


def fuse_motion_loras(motion: MotionModule) -> None:
    """Merge the MotionLoRAs, weighed as they are, into the weights of ``motion`` for good, and take them off.

    Without any, nothing happens.
    """
    for layer in lora_layers(motion):
        layer.merge()
    unload_motion_loras(motion)


def lora_layers(model: nn.Module) -> list[LoraLayer]:
    """The layers of a model that peft has put adapters on."""
    return [layer for layer in model.modules() if isinstance(layer, LoraLayer)]


def layer_shapes(model: nn.Module, pattern: str = ".*") -> dict[str, tuple[int, ...]]:
    """Names of linear layers and convolutions, under adapters or not, and shapes (out, in, ...) of their weights."""
    plain = {name.removesuffix(".base_layer"): layer for name, layer in model.named_modules() if ".lora_" not in name}
    return {
        name: tuple(layer.weight.shape)
        for name, layer in plain.items()
        if isinstance(layer, nn.Linear | nn.Conv2d) and re.fullmatch(pattern, name)
    }


def put_adapter(model: nn.Module, name: str, pairs: Mapping[str, LowRank]) -> None:
    """Put low-rank changes on a model as an adapter of weight 1, frozen; what could be trained before still can."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    config = LoraConfig(target_modules=list(pairs), rank_pattern={re.escape(k): pair.rank for k, pair in pairs.items()})
    _inject_adapter(model, name, config)
    fill_adapter(model, name, pairs)
    model.requires_grad_(False)
    for parameter in trainable:
        parameter.requires_grad_(True)


def _inject_adapter(model: nn.Module, name: str, config: LoraConfig) -> None:
    """Let peft put an adapter on a model beside those already there, all of them active."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several beside each other are what we want
        inject_adapter_in_model(config, model, adapter_name=name)
    for layer in lora_layers(model):
        layer.set_adapter(list(layer.scaling))


def fill_adapter(model: nn.Module, name: str, pairs: Mapping[str, LowRank]) -> None:
    """Give an adapter that is on a model the numbers of ``pairs``, at weight 1, frozen."""
    for path, pair in pairs.items():
        layer = model.get_submodule(path)
        for factor, value in ((layer.lora_A[name], pair.down), (layer.lora_B[name], pair.up)):
            factor.weight.data.copy_(value)
            factor.requires_grad_(False)
        layer.lora_alpha[name] = pair.alpha
        layer.set_scale(name, 1.0)


def pairs_on(model: nn.Module, name: str) -> dict[str, LowRank]:
    """The low-rank changes of an adapter on a model, by layer; empty if there is none of that name."""
    return {
        path: LowRank(layer.lora_A[name].weight, layer.lora_B[name].weight, float(layer.lora_alpha[name]))
        for path, layer in model.named_modules()
        if isinstance(layer, LoraLayer) and name in layer.scaling
    }
