r"""Low-rank changes of weights (paper Eq. 3) and the files that hold them, whoever wrote those.

:math:`W' = W + w\,\frac{\alpha}{r}\,B A` with ``down`` :math:`A` of shape (r, in) and ``up`` :math:`B` of shape (out, r).
Published files hold no alpha, which means :math:`\alpha = r`; kohya-style files hold one for every layer.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from animatediff_ref.method.adapters import LowRank
from animatediff_ref.weights.names import lora_name, lora_part
from animatediff_ref.weights.tensors import Weights, save_tensors

FORMATS = ("official", "diffusers", "kohya")


def pairs_of(weights: Weights) -> dict[str, LowRank]:
    """The changes in a LoRA file, by the published name of the layer. Tensors that are no part of one are passed over.

    Alphas come with the tensors (kohya) or in the metadata (diffusers); without either, alpha is the rank.

    Raises ``ValueError`` for a factor without its partner, and for factors that do not fit together.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in weights.tensors.items():
        if found := lora_part(name):
            parts.setdefault(found[0], {})[found[1]] = tensor
    pairs, ratio = {}, _alpha_over_rank(weights.metadata)
    for layer, part in parts.items():
        down, up = (part.get(side) for side in ("down", "up"))
        if down is None or up is None:
            raise ValueError(f"{layer} needs a down and an up factor, came {', '.join(sorted(part))}")
        if not 2 <= down.ndim == up.ndim or down.shape[0] != up.shape[1]:
            raise ValueError(f"the factors of {layer} do not fit: came {tuple(down.shape)} and {tuple(up.shape)}")
        if part.get("alpha", torch.ones(1)).numel() != 1:
            raise ValueError(f"the alpha of {layer} is one number, came {tuple(part['alpha'].shape)}")
        if not (alpha := float(part.get("alpha", ratio * down.shape[0]))):
            raise ValueError(f"the alpha of {layer} is 0: it changes nothing")
        pairs[layer] = LowRank(down, up, alpha)
    return pairs


def _alpha_over_rank(metadata: Mapping[str, str]) -> float:
    """What diffusers says of its LoRAs' alpha, in the metadata of the file."""
    told = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    told = {name.removeprefix("unet."): value for name, value in told.items()}
    if told.get("alpha_pattern") or told.get("rank_pattern"):
        raise ValueError(
            "its metadata give layers an alpha of their own, which is not read here: save it from diffusers without a pattern"
        )
    return told.get("lora_alpha", 1) / told.get("r", 1)


def save_pairs(pairs: Mapping[str, LowRank], path: str | Path, format: str, kind: str) -> None:
    """Write low-rank changes in a format; where that holds no alpha, one that is not the rank goes into the up factor."""
    if format not in FORMATS:
        raise ValueError(f"a LoRA is written in one of the formats {', '.join(FORMATS)}, got {format!r}")
    tensors = {}
    for layer, pair in pairs.items():
        pair = pair if format == "kohya" else pair.scaled()
        tensors[lora_name(layer, "down", format)], tensors[lora_name(layer, "up", format)] = pair.down, pair.up
        if format == "kohya":
            tensors[lora_name(layer, "alpha", format)] = torch.tensor(pair.alpha)
    save_tensors(tensors, path, {"kind": kind, "format": "pt"})


def concatenated(loras: Iterable[tuple[Mapping[str, LowRank], float]]) -> dict[str, LowRank]:
    """The weighted sum of several LoRAs, exactly: their factors side by side, so their ranks add up."""
    parts: dict[str, list[LowRank]] = {}
    for pairs, weight in loras:
        for layer, pair in pairs.items():
            parts.setdefault(layer, []).append(pair.scaled(weight))
    return {layer: _side_by_side(layer, found) for layer, found in parts.items()}


def _side_by_side(layer: str, parts: list[LowRank]) -> LowRank:
    if len(shapes := {(part.up.shape[0], part.down.shape[1]) for part in parts}) > 1:
        raise ValueError(f"these LoRAs are of different models: {layer} is {' and '.join(map(str, sorted(shapes)))}")
    down, up = torch.cat([part.down for part in parts]), torch.cat([part.up for part in parts], dim=1)
    return LowRank(down, up, len(down))
