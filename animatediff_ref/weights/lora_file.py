"""Files of low-rank changes (paper Eq. 3), whoever wrote them: published, diffusers', peft's and kohya's.

Published files hold no alpha, which means that alpha is the rank; kohya-style files hold one for every layer.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from animatediff_ref.method.adapters import LowRank
from animatediff_ref.weights.names import lora_name, lora_part
from animatediff_ref.weights.tensors import Weights, json_in, save_tensors

FORMATS = ("official", "diffusers", "kohya")
ALPHA_METADATA = "lora_adapter_metadata"  # where diffusers writes the rank and alpha of a LoRA


def pairs_of(weights: Weights) -> dict[str, LowRank]:
    """The low-rank changes in a LoRA file, by the published name of the layer. Other tensors are passed over.

    Alpha comes with the tensors (kohya) or in the metadata (diffusers); without either, it is the rank.
    Raises ``ValueError`` for a factor without its partner, and for factors that do not fit together.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in weights.tensors.items():
        if found := lora_part(name):
            layer, part = found
            parts.setdefault(layer, {})[part] = tensor
    alpha_over_rank = _alpha_over_rank(weights.metadata)
    return {layer: _pair(layer, found, alpha_over_rank) for layer, found in parts.items()}


def _pair(layer: str, parts: dict[str, torch.Tensor], alpha_over_rank: float) -> LowRank:
    """The change of one layer from its parts: ``down``, ``up`` and perhaps ``alpha``."""
    down, up, alpha = parts.get("down"), parts.get("up"), parts.get("alpha")
    if down is None or up is None:
        raise ValueError(f"{layer} needs a down and an up factor, got only {', '.join(sorted(parts))}")
    if down.ndim < 2 or down.ndim != up.ndim or down.shape[0] != up.shape[1]:
        raise ValueError(f"the factors of {layer} do not fit together: {tuple(down.shape)} and {tuple(up.shape)}")
    if alpha is not None and alpha.numel() != 1:
        raise ValueError(f"the alpha of {layer} needs to be one number, got shape {tuple(alpha.shape)}")
    alpha = alpha_over_rank * down.shape[0] if alpha is None else float(alpha)
    if alpha == 0:
        raise ValueError(f"the alpha of {layer} is 0: it changes nothing")
    return LowRank(down, up, alpha)


def _alpha_over_rank(metadata: Mapping[str, str]) -> float:
    """Alpha divided by the rank of all layers, which diffusers writes into the metadata; 1 without that."""
    if ALPHA_METADATA not in metadata:
        return 1.0
    settings = {name.removeprefix("unet."): value for name, value in json_in(metadata, ALPHA_METADATA).items()}
    if settings.get("alpha_pattern") or settings.get("rank_pattern"):
        raise ValueError(
            "its metadata give each layer an alpha of its own, which is not supported: save it without a pattern"
        )
    alpha, rank = settings.get("lora_alpha", 1), settings.get("r", 1)
    if not isinstance(alpha, int | float) or not isinstance(rank, int) or rank < 1:
        raise ValueError(
            f"its metadata need a number as lora_alpha and a rank of at least 1, got {alpha!r} and {rank!r}"
        )
    return alpha / rank


def save_pairs(pairs: Mapping[str, LowRank], path: str | Path, format: str, kind: str) -> None:
    """Write low-rank changes in one of ``FORMATS``; ``kind`` goes into the metadata.

    Where a format holds no alpha, an alpha that is not the rank goes into the up factor.
    """
    if format not in FORMATS:
        raise ValueError(f"a LoRA is written in one of the formats {', '.join(FORMATS)}, got {format!r}")
    tensors = {}
    for layer, pair in pairs.items():
        if format == "kohya":
            tensors[lora_name(layer, "alpha", format)] = torch.tensor(pair.alpha)
        else:
            pair = pair.scaled()
        tensors[lora_name(layer, "down", format)] = pair.down
        tensors[lora_name(layer, "up", format)] = pair.up
    save_tensors(tensors, path, {"kind": kind, "format": "pt"})


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
