"""A pipeline as one file in the layout of the original Stable Diffusion code, which whole fine-tunes are traded in.

``StableDiffusionPipeline.from_single_file(path, config=FOLDER)`` reads it; FOLDER is a pipeline of the same shapes,
for what such a file lacks: configurations and tokenizer. The names are the inverse of diffusers' own conversion;
UNets of any number of levels with one transformer block each have them, and autoencoders without attention.
"""

import re
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file

from animatediff_ref.weights.tensors import written_aside

SMALL = torch.float8_e4m3fn  # of large matrices, as in pruned checkpoints; all else is in half precision
UNET = {
    "conv_in.": "input_blocks.0.0.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE = {
    "mid_block.resnets.0.": "mid.block_1.",
    "mid_block.resnets.1.": "mid.block_2.",
    "conv_norm_out.": "norm_out.",
    "conv_shortcut.": "nin_shortcut.",
}


def unet_name(name: str, unet: UNet2DConditionModel) -> str:
    """The original name of a UNet's tensor: its blocks are counted in one row, through all levels."""
    row = unet.config.layers_per_block + 1
    if found := re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", name):
        way, level, part, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
        after = unet.config.layers_per_block if way == "down" else row - 1
        block = row * level + (after if part.endswith("samplers") else layer) + (way == "down")
        rest = rest.replace("conv.", "op.") if part == "downsamplers" else rest
        place = 0 if part in ("resnets", "downsamplers") else 1
        if part == "upsamplers" and getattr(unet.up_blocks[level], "has_cross_attention", False):
            place = 2
        name = f"{'input' if way == 'down' else 'output'}_blocks.{block}.{place}.{rest}"
    else:
        name = next((new + name.removeprefix(old) for old, new in UNET.items() if name.startswith(old)), name)
    return name if "transformer_blocks" in name else _renamed(name, RESNET)


def vae_name(name: str, vae: AutoencoderKL) -> str:
    """The original name of an autoencoder's tensor: its decoder's levels are counted from the finest."""
    last = len(vae.config.block_out_channels) - 1
    name = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample.", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda m: f"up.{last - int(m[1])}.block.", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0\.", lambda m: f"up.{last - int(m[1])}.upsample.", name)
    return _renamed(name, VAE)


def _renamed(name: str, table: dict[str, str]) -> str:
    for new, old in table.items():
        name = name.replace(new, old)
    return name


def original_layout(pipe: StableDiffusionPipeline, small: torch.dtype = SMALL) -> dict[str, torch.Tensor]:
    """All weights by their original names: matrices of UNet and text encoder in ``small``, the rest in float16."""
    unet, vae, text = (part.state_dict() for part in (pipe.unet, pipe.vae, pipe.text_encoder))
    drawn = {f"model.diffusion_model.{unet_name(name, pipe.unet)}": tensor for name, tensor in unet.items()}
    said = {
        f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}": w for name, w in text.items()
    }
    seen = {f"first_stage_model.{vae_name(name, pipe.vae)}": tensor.half() for name, tensor in vae.items()}
    return {
        name: tensor.to(small if tensor.ndim > 1 else torch.float16) for name, tensor in (drawn | said).items()
    } | seen


def save_single_file(pipe: StableDiffusionPipeline, path: Path, small: torch.dtype = SMALL) -> None:
    tensors = {name: tensor.cpu().contiguous() for name, tensor in original_layout(pipe, small).items()}
    with written_aside(path) as aside:
        save_file(tensors, aside, {"format": "pt"})
