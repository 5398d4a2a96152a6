"""From one format of file to another: motion modules, MotionLoRAs and domain adapters."""

from pathlib import Path

import torch

from animatediff_ref.method.adapters import LowRank
from animatediff_ref.weights.identify import FileInfo, identify
from animatediff_ref.weights.lora import read_lora
from animatediff_ref.weights.lora_file import save_pairs
from animatediff_ref.weights.motion import load_motion_module, save_motion_module
from animatediff_ref.weights.tensors import read_weights

LORAS = {"MotionLoRA": "motion_lora", "domain adapter": "domain_adapter", "style LoRA": "style_lora"}


def convert_file(
    source: str | Path, target: str | Path, to: str = "official", dtype: torch.dtype | None = None
) -> FileInfo:
    """Write the motion module, MotionLoRA, domain adapter or style LoRA in ``source`` to ``target`` and say what it is.

    ``to``: ``"official"``, ``"diffusers"`` or (for LoRAs) ``"kohya"``; ``dtype``: by default that of the source. No number changes, except
    that a LoRA's alpha goes into its up factor where the new format holds none. Raises ``ValueError`` for any other kind of file.
    """
    source = Path(source)
    info = identify(source, read_weights(source))
    if info.kind == "motion module":
        save_motion_module(load_motion_module(source, dtype=None), target, to, dtype)
    elif info.kind in LORAS:
        pairs = read_lora(source, info.kind)
        if other := [layer for layer in pairs if ".transformer_blocks." not in layer]:
            raise ValueError(
                f"{source} changes more than attentions ({other[0]}): such a style LoRA is converted by diffusers' own scripts"
            )
        if dtype:
            pairs = {
                layer: LowRank(pair.down.to(dtype), pair.up.to(dtype), pair.alpha) for layer, pair in pairs.items()
            }
        save_pairs(pairs, target, to, LORAS[info.kind])
    else:
        raise info.refusal("motion module, MotionLoRA or domain adapter to convert")
    return info
