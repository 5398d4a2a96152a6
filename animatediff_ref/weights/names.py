"""Names of tensors: as in published files (and in this package), in diffusers, and in kohya-style LoRA files.

========= ============================================================================================================
published ``down_blocks.0.motion_modules.1.temporal_transformer.transformer_blocks.0.attention_blocks.0.to_q``
diffusers ``down_blocks.0.motion_modules.1.transformer_blocks.0.attn1.to_q``
kohya     ``lora_unet_down_blocks_0_motion_modules_1_temporal_transformer_transformer_blocks_0_attention_blocks_0_to_q``
========= ============================================================================================================

A UNet may have any number of levels and layers, so there is no list of all names: a few rules translate them.
"""

import re

PLACE = r"(?:(?:down|up)_blocks\.\d+|mid_block)\.motion_modules\.\d+"
WRAPPER_PREFIX = r"(?:(?:base_model|model|ema_model|diffusion_model|unet|network)\.)*"  # what trainers put in front
WRAPPER = re.compile(  # what torch.compile and distributed training put before and inside names
    r"(?<![^.])(?:module|_orig_mod|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
PUBLISHED_TO_DIFFUSERS = {  # parts of names inside a temporal transformer, replaced in this order
    "attention_blocks.0.pos_encoder.": "pos_embed.",
    "attention_blocks.0.": "attn1.",
    "attention_blocks.1.": "attn2.",
    "ff_norm.": "norm3.",
    ".norms.0.": ".norm1.",
    ".norms.1.": ".norm2.",
}
LORA_TENSOR = re.compile(
    r"""(?P<layer>.+?)\.
    (?:
        lora[._](?P<factor>down|up|A|B)(?:\.[^.]+)?\.weight  # lora.down.weight, lora_down.weight, lora_A.default.weight
        | (?:lora\.)?(?P<alpha>alpha)                      # alpha, lora.alpha
    )""",
    re.VERBOSE,
)
PEFT_FACTORS = {"A": "down", "B": "up"}
KOHYA_PREFIX = "lora_unet_"
UNDERSCORED_WORDS = (  # parts of names, between two dots, that have an underscore of their own
    *("down_blocks", "mid_block", "up_blocks", "input_blocks", "middle_block", "output_blocks"),
    *("conv_in", "conv_out", "conv_shortcut", "time_embedding", "time_emb_proj", "linear_1", "linear_2"),
    *("motion_modules", "temporal_transformer", "transformer_blocks", "attention_blocks", "ff_norm", "pos_encoder"),
    *("proj_in", "proj_out", "to_q", "to_k", "to_v", "to_out"),
)
KOHYA_WORD = re.compile(rf"(?:{'|'.join(UNDERSCORED_WORDS)})(?=_|$)|[^_]+")


def published_name(name: str) -> str | None:
    """The published name of a motion module's tensor, from either name, whatever stands before it; None for others."""
    found = re.fullmatch(rf"(?:.+\.)?({PLACE})\.(?:temporal_transformer\.)?(.+)", name)
    if not found:
        return None
    place, rest = found.groups()
    for published, diffusers in PUBLISHED_TO_DIFFUSERS.items():
        rest = rest.replace(diffusers, published)
    return f"{place}.temporal_transformer.{rest}"


def diffusers_name(name: str) -> str:
    """The name in diffusers of a motion module's tensor with a published name; other names stay as they are."""
    if ".temporal_transformer." not in name:
        return name
    name = name.replace(".temporal_transformer.", ".")
    for published, diffusers in PUBLISHED_TO_DIFFUSERS.items():
        name = name.replace(published, diffusers)
    return name


def place_of(name: str) -> str:
    """The place of a published name, such as ``"down_blocks.0.motion_modules.1"``."""
    return re.match(PLACE, name)[0]


def lora_part(name: str) -> tuple[str, str] | None:
    """What a tensor of a LoRA file is: the published name of its layer, and ``"down"``, ``"up"`` or ``"alpha"``.

    Reads published, diffusers, peft and kohya spellings; None for a tensor that is not part of a LoRA.
    """
    name = re.sub(f"^{WRAPPER_PREFIX}", "", name)
    name = name.replace(".processor.", ".").replace("_lora.", ".lora.")  # published: .processor.to_q_lora.down.weight
    found = LORA_TENSOR.fullmatch(name)
    if not found:
        return None
    layer, part = found["layer"], found["factor"] or found["alpha"]
    if layer.startswith(KOHYA_PREFIX):
        layer = _dotted(layer.removeprefix(KOHYA_PREFIX))
    if layer.endswith(".to_out"):  # a list, whose first entry is the layer
        layer += ".0"
    return published_name(layer) or layer, PEFT_FACTORS.get(part, part)


def _dotted(kohya: str) -> str:
    """A kohya name with its dots back: every underscore was one, but for those of ``UNDERSCORED_WORDS``."""
    return ".".join(KOHYA_WORD.findall(kohya))


def lora_name(layer: str, part: str, format: str) -> str:
    """The name of a part of a LoRA in a ``format``: ``"official"``, ``"diffusers"`` (peft's names) or ``"kohya"``.

    ``ValueError`` for a layer that the official format has no name for.
    """
    if format == "kohya":
        ending = "alpha" if part == "alpha" else f"lora_{part}.weight"
        return f"{KOHYA_PREFIX}{layer.replace('.', '_')}.{ending}"
    if format == "diffusers":
        return f"unet.{diffusers_name(layer + '.')}lora_{'A' if part == 'down' else 'B'}.weight"
    attention, _, projection = layer.removesuffix(".0").rpartition(".")
    if not projection.startswith("to_"):
        raise ValueError(
            "the official format only has names for attention projections, and this LoRA changes "
            f"{layer}: write it in the format 'diffusers'"
        )
    return f"{attention}.processor.{projection}_lora.{part}.weight"
