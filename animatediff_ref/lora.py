"""Low-rank adapters (paper Eq. 3-4): the domain adapter on the UNet's attentions. peft does the plumbing.

:math:`W' = W + \\alpha\\,A B^T`, with no factor of rank: published files hold no alpha, and a scale of 1 is the trained adapter.
"""

import re
import warnings
from pathlib import Path

from diffusers import UNet2DConditionModel
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from animatediff_ref.mini import mini_file
from animatediff_ref.storage import read_tensors, save_tensors

NAME = "domain_adapter"
TARGETS = r".*\.attn[12]\.to_(q|k|v|out\.0)"


def add_domain_adapter(unet: UNet2DConditionModel, rank: int) -> list[nn.Parameter]:
    """Put a fresh domain adapter on every self- and cross-attention of ``unet`` and return its parameters, to be trained.

    Fresh, it changes nothing: one of its two factors is zero. It replaces a domain adapter already there; other adapters,
    such as a style, stay as active as they were.
    """
    others = [name for name in getattr(unet, "peft_config", {}) if name != NAME]
    active = [name for name in (unet.active_adapters() if others else []) if name != NAME]
    if NAME in getattr(unet, "peft_config", {}):
        unet.delete_adapters(NAME)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # a style beside it is what we want
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS), adapter_name=NAME)
    unet.set_adapter([*active, NAME])
    unet.requires_grad_(False)
    parameters = list(published_names(unet).values())
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


def set_domain_adapter(unet: UNet2DConditionModel, scale: float) -> None:
    """Weigh the domain adapter by ``scale`` (alpha of Eq. 4): 1 as trained, 0 dropped, the paper's setting at inference."""
    layers = [
        layer for layer in unet.modules() if isinstance(layer, BaseTunerLayer) and NAME in getattr(layer, "scaling", {})
    ]
    if not layers:
        raise ValueError("this UNet has no domain adapter: load one with load_domain_adapter, or train one")
    for layer in layers:
        layer.set_scale(NAME, scale)


def published_names(unet: UNet2DConditionModel) -> dict[str, nn.Parameter]:
    """The domain adapter's parameters under their published names, ``....attn1.processor.to_q_lora.down.weight``."""
    names = {}
    for name, parameter in unet.named_parameters():
        if found := re.fullmatch(rf"(.*)\.to_(q|k|v|out)(?:\.0)?\.lora_([AB])\.{NAME}\.weight", name):
            stem, projection, factor = found.groups()
            names[f"{stem}.processor.to_{projection}_lora.{'down' if factor == 'A' else 'up'}.weight"] = parameter
    return names


def published_shapes(unet: UNet2DConditionModel, rank: int) -> dict[str, tuple[int, int]]:
    """Names and shapes of a domain adapter of a rank for ``unet``, which is not touched."""
    shapes = {}
    for name, layer in unet.named_modules():
        if re.fullmatch(TARGETS, name):
            stem, projection = re.fullmatch(r"(.*)\.to_(q|k|v|out)(?:\.0)?", name).groups()
            outward, inward = layer.weight.shape
            shapes[f"{stem}.processor.to_{projection}_lora.down.weight"] = (rank, inward)
            shapes[f"{stem}.processor.to_{projection}_lora.up.weight"] = (outward, rank)
    return shapes


def save_domain_adapter(unet: UNet2DConditionModel, path: str | Path) -> None:
    """Write the domain adapter of ``unet`` with the published key names."""
    if not (tensors := published_names(unet)):
        raise ValueError("this UNet has no domain adapter to save")
    save_tensors(tensors, path, {"kind": "domain_adapter"})


def load_domain_adapter(unet: UNet2DConditionModel, path: str | Path, scale: float = 1.0) -> None:
    """Put the domain adapter of a file (or ``"mini"``) on ``unet``, weighed by ``scale``.

    Raises ``ValueError`` if the file holds something else, or an adapter for a UNet of other widths; ``unet`` is then as before.
    """
    path = mini_file("domain_adapter.safetensors") if path == "mini" else Path(path)
    if not path.is_file():
        raise ValueError(f"no domain adapter at {path}: needed is a .safetensors file, or the name 'mini'")
    saved = read_tensors(path)
    ranks = {tensor.shape[0] for key, tensor in saved.items() if key.endswith("_lora.down.weight")}
    if len(ranks) != 1 or any(".attn" not in key for key in saved):
        raise ValueError(
            f"{path} is not a domain adapter: needed are LoRA factors of spatial attentions of one rank, got {len(saved)} tensors"
        )
    needed = published_shapes(unet, rank := ranks.pop())
    for name in sorted(needed.keys() | saved.keys()):
        came = tuple(saved[name].shape) if name in saved else None
        if needed.get(name) != came:
            raise ValueError(
                f"the adapter in {path} does not fit this UNet: {name} needs shape {needed.get(name)}, the file has {came}"
            )
    add_domain_adapter(unet, rank)
    for name, parameter in published_names(unet).items():
        parameter.data.copy_(saved[name])
        parameter.requires_grad_(False)
    set_domain_adapter(unet, scale)
