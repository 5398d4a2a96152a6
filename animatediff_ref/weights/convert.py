"""From one format of file to another: motion modules, MotionLoRAs, domain adapters and style LoRAs."""

from pathlib import Path

import torch

from animatediff_ref.method.adapters import LowRank
from animatediff_ref.weights.identify import FileInfo, identify
from animatediff_ref.weights.lora import SPREAD, read_lora
from animatediff_ref.weights.lora_file import save_pairs
from animatediff_ref.weights.motion import load_motion_module, save_motion_module
from animatediff_ref.weights.tensors import read_weights

LORA_KINDS = {  # kind of FileInfo -> kind in the metadata of a file
    "MotionLoRA": "motion_lora",
    "domain adapter": "domain_adapter",
    "style LoRA": "style_lora",
}


def convert_file(
    source: str | Path, target: str | Path, to: str = "official", dtype: torch.dtype | None = None
) -> FileInfo:
    """Write the motion module, MotionLoRA, domain adapter or style LoRA in ``source`` to ``target``; say what it is.

    ``to``: ``"official"``, ``"diffusers"`` or, for LoRAs, ``"kohya"``. ``dtype``: by default that of the source. No
    number changes, except that a LoRA's alpha goes into its up factor where the new format holds none.
    Raises ``ValueError`` for any other kind of file, and for a MotionLoRA that ``load_motion_lora`` calls incomplete.
    """
    source = Path(source)
    weights = read_weights(source)
    info = identify(source, weights)
    if info.kind == "motion module":
        save_motion_module(load_motion_module(source, dtype=None), target, to, dtype)
    elif info.kind in LORA_KINDS:
        told = {"kind": LORA_KINDS[info.kind]} | {k: v for k, v in weights.metadata.items() if k == SPREAD}
        save_pairs(_convertible_pairs(source, info.kind, dtype), target, to, told)
    else:
        raise info.refusal("motion module, MotionLoRA or domain adapter")
    return info


def _convertible_pairs(source: Path, kind: str, dtype: torch.dtype | None) -> dict[str, LowRank]:
    pairs = read_lora(source, kind)
    other = [layer for layer in pairs if ".transformer_blocks." not in layer]
    if other and kind == "style LoRA":
        raise ValueError(
            f"{source} changes more than attentions ({other[0]}): convert such a style LoRA with diffusers' own scripts"
        )
    if dtype is None:
        return pairs
    return {layer: LowRank(pair.down.to(dtype), pair.up.to(dtype), pair.alpha) for layer, pair in pairs.items()}
