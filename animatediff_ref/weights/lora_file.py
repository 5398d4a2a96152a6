"""Files of low-rank changes (paper Eq. 3), whoever wrote them: published, diffusers', peft's and kohya's.

Published files hold no alpha, which means that alpha is the rank; kohya-style files hold one for every layer; peft and
diffusers keep it in settings beside the tensors.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from animatediff_ref.method.adapters import LowRank
from animatediff_ref.weights.lora_settings import LoraSettings, settings_of
from animatediff_ref.weights.names import lora_name, lora_part
from animatediff_ref.weights.tensors import NOT_WEIGHTS, Weights, save_tensors

FORMATS = ("official", "diffusers", "kohya")
OTHER_PARTS = {  # part of the name of a tensor that is no factor -> what it belongs to
    "lora_magnitude_vector": "DoRA",
    "dora_scale": "DoRA",
    "lora_mid": "a Tucker decomposition",
    "hada_w": "LoHa",
    "lokr_w": "LoKr",
    ".bias": "trained biases",
}


def pairs_of(weights: Weights) -> dict[str, LowRank]:
    """The low-rank changes in a LoRA file, by the published name of the layer. Other tensors are passed over.

    Alpha comes with the tensors (kohya), or from settings (diffusers, peft); without either, it is the rank.
    Raises ``ValueError`` for a factor that is there twice or without its partner, for factors that do not fit together,
    and for settings that make no sense.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {}
    names: dict[str, str] = {}
    for name, tensor in weights.tensors.items():
        if found := lora_part(name):
            layer, part = found
            if part in parts.setdefault(layer, {}):
                raise ValueError(f"two tensors are the {part} of {layer}, one of them {name}")
            parts[layer][part] = tensor
            names[layer] = name
    settings = settings_of(weights.metadata)
    return {layer: _pair(layer, found, settings, names[layer]) for layer, found in parts.items()}


def alpha_is_lost(weights: Weights) -> bool:
    """Whether peft wrote the file with an alpha beside it, and that is not there."""
    return settings_of(weights.metadata) is None and any(name.startswith("base_model.") for name in weights.tensors)


def unread(weights: Weights, kind: str) -> str:
    """What in a LoRA file changes its effect and is not read here; empty if nothing does."""
    settings = settings_of(weights.metadata)
    if settings and (setting := settings.unread()):
        return f"it was trained with {setting}, which is not read here"
    strangers = [name for name in weights.tensors if not lora_part(name) and name not in NOT_WEIGHTS]
    if not strangers:
        return ""
    belongs_to = next((f", which belongs to {what}" for part, what in OTHER_PARTS.items() if part in strangers[0]), "")
    return f"it holds a tensor that is no part of a {kind}: {strangers[0]}{belongs_to}"


def trained_layers(weights: Weights, layers: Iterable[str]) -> set[str]:
    """Those of a model's ``layers`` that the trainer's settings name; none of them without settings."""
    settings = settings_of(weights.metadata)
    return settings.trained(next(filter(lora_part, weights.tensors)), layers) if settings else set()


def _pair(layer: str, parts: dict[str, torch.Tensor], settings: LoraSettings | None, name: str) -> LowRank:
    """The change of one layer from its parts: ``down``, ``up``, perhaps ``alpha``; ``name`` is that of one of them."""
    down, up, alpha = parts.get("down"), parts.get("up"), parts.get("alpha")
    if down is None or up is None:
        raise ValueError(f"{layer} needs a down and an up factor, got only {', '.join(sorted(parts))}")
    if down.ndim < 2 or down.ndim != up.ndim or down.shape[0] != up.shape[1]:
        raise ValueError(f"the factors of {layer} do not fit together: {tuple(down.shape)} and {tuple(up.shape)}")
    if alpha is not None and alpha.numel() != 1:
        raise ValueError(f"the alpha of {layer} needs to be one number, got shape {tuple(alpha.shape)}")
    rank = down.shape[0]
    told = settings.alpha(name, rank) if settings and alpha is None else rank
    alpha = float(told if alpha is None else alpha)
    if alpha == 0:
        raise ValueError(f"the alpha of {layer} is 0: it changes nothing")
    return LowRank(down, up, alpha)


def save_pairs(pairs: Mapping[str, LowRank], path: str | Path, format: str, metadata: Mapping[str, str]) -> None:
    """Write low-rank changes in one of ``FORMATS``; the metadata say of which ``kind`` they are.

    Where a format holds no alpha, an alpha that is not the rank goes into the up factor.
    """
    if format not in FORMATS:
        raise ValueError(f"a LoRA is written in one of the formats {', '.join(FORMATS)}, got {format!r}")
    tensors = {}
    for layer, pair in pairs.items():
        if format == "kohya":
            tensors[lora_name(layer, "alpha", format)] = torch.tensor(float(pair.alpha))
        else:
            pair = pair.scaled()
        tensors[lora_name(layer, "down", format)] = pair.down
        tensors[lora_name(layer, "up", format)] = pair.up
    save_tensors(tensors, path, {"format": "pt", **metadata})


def concatenated(loras: Iterable[tuple[Mapping[str, LowRank], float]]) -> dict[str, LowRank]:
    """The weighted sum of several LoRAs, exactly: their factors side by side, so their ranks add up.

    ``ValueError`` if two of them change layers of the same name but another width.
    """
    parts: dict[str, list[LowRank]] = {}
    for pairs, weight in loras:
        for layer, pair in pairs.items():
            parts.setdefault(layer, []).append(pair.scaled(weight))
    return {layer: _side_by_side(layer, found) for layer, found in parts.items()}


def _side_by_side(layer: str, parts: list[LowRank]) -> LowRank:
    shapes = {(part.up.shape[0], part.down.shape[1]) for part in parts}
    if len(shapes) > 1:
        raise ValueError(f"these LoRAs are for different models: {layer} is {' and '.join(map(str, sorted(shapes)))}")
    down = torch.cat([part.down for part in parts])
    up = torch.cat([part.up for part in parts], dim=1)
    return LowRank(down, up, alpha=len(down))
