"""What the parts of a motion module are called: in published files (and here), in diffusers, and in kohya-style LoRA files.

A few rules, both ways, and no tables of keys:

======== ==================================================================================================
published ``down_blocks.0.motion_modules.1.temporal_transformer.transformer_blocks.0.attention_blocks.0.to_q``
diffusers ``down_blocks.0.motion_modules.1.transformer_blocks.0.attn1.to_q``
kohya     ``lora_unet_down_blocks_0_motion_modules_1_temporal_transformer_transformer_blocks_0_attention_blocks_0_to_q``
======== ==================================================================================================
"""

import re

PLACE = r"(?:(?:down|up)_blocks\.\d+|mid_block)\.motion_modules\.\d+"
PAIRS = [("attention_blocks.0.pos_encoder.", "pos_embed."), ("attention_blocks.0.", "attn1."), ("attention_blocks.1.", "attn2."), ("ff_norm.", "norm3."), (".norms.0.", ".norm1."), (".norms.1.", ".norm2.")]  # fmt: skip
PREFIX = r"(?:(?:base_model|model|unet|module)\.)*"  # what training wrappers and pipelines put in front
FACTOR = re.compile(r"(.+?)\.(?:lora[._](down|up|A|B)(?:\.\w+)?\.weight|(?:lora\.)?(alpha))")


def published_name(name: str) -> str | None:
    """The published name of a motion module's tensor, from its published or its diffusers name; None for any other tensor."""
    found = re.fullmatch(rf"{PREFIX}({PLACE})\.(?:temporal_transformer\.)?(.+)", name)
    if not found:
        return None
    place, rest = found.groups()
    for published, diffusers in PAIRS:
        rest = rest.replace(diffusers, published)
    return f"{place}.temporal_transformer.{rest}"


def diffusers_name(name: str) -> str:
    """The name in diffusers of a motion module's tensor with a published name; other names stay as they are."""
    if ".temporal_transformer." not in name:
        return name
    name = name.replace(".temporal_transformer.", ".")
    for published, diffusers in PAIRS:
        name = name.replace(published, diffusers)
    return name


def place_of(name: str) -> str:
    """The place of a published name, such as ``"down_blocks.0.motion_modules.1"``."""
    return re.match(PLACE, name)[0]


def lora_part(name: str) -> tuple[str, str] | None:
    """The published name of the layer and the part (``"down"``, ``"up"``, ``"alpha"``) that a LoRA file's tensor belongs to.

    Reads published, diffusers, peft and kohya spellings; None for a tensor that is no part of a LoRA.
    """
    name = re.sub(f"^{PREFIX}", "", name).replace(".processor.", ".").replace("_lora.", ".lora.")
    found = FACTOR.fullmatch(name)
    if not found:
        return None
    layer, part = found[1], found[2] or found[3]
    if layer.startswith("lora_unet_"):
        layer = re.sub(r"_(?=\d)|(?<=\d)_|(?<=mid_block)_|(?<=temporal_transformer)_|(?<=ff)_(?=net)", ".", layer[10:])
    layer += ".0" if layer.endswith(".to_out") else ""
    return published_name(layer) or layer, {"A": "down", "B": "up"}.get(part, part)


def lora_name(layer: str, part: str, format: str) -> str:
    """The name of a part of a LoRA in a ``format``: ``"official"``, ``"diffusers"`` (peft's names) or ``"kohya"``."""
    if format == "kohya":
        return f"lora_unet_{layer.replace('.', '_')}." + (part if part == "alpha" else f"lora_{part}.weight")
    if format == "diffusers":
        return f"unet.{diffusers_name(layer + '.')}lora_{'A' if part == 'down' else 'B'}.weight"
    stem, _, projection = layer.removesuffix(".0").rpartition(".")
    if not projection.startswith("to_"):
        raise ValueError(
            f"the official format has names for attention projections alone, this LoRA also changes {layer}"
        )
    return f"{stem}.processor.{projection}_lora.{part}.weight"
