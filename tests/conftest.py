"""Small models and data that every test file shares."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

import animatediff_ref as ar

os.environ.setdefault("TQDM_DISABLE", "1")
SHAPES = {
    "two levels, two layers": {
        "block_out_channels": (32, 64),
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
    "mini": {
        "block_out_channels": (48, 96, 160),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    },
    "four levels like Stable Diffusion": {
        "block_out_channels": (16, 32, 64, 64),
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    },
}


def tiny_unet(shape: str = "two levels, two layers") -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, cross_attention_dim=24, attention_head_dim=4, norm_num_groups=8, **SHAPES[shape]
    ).eval()


def motion_for(unet: UNet2DConditionModel, trained: bool = True, num_frames: int = 4, **options) -> ar.MotionModule:
    """A motion module for a test UNet; ``trained`` ones have random weights everywhere, so that they do something."""
    torch.manual_seed(1)
    motion = ar.MotionModule(ar.MotionConfig(norm_groups=8, **options), unet, num_frames).eval()
    if trained:
        for parameter in motion.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return motion


@torch.no_grad()
def run(unet: torch.nn.Module, frames: int = 4, clips: int = 2) -> torch.Tensor:
    """The UNet's output on fixed noise: (clips * frames, 4, 8, 8)."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(clips * frames, 4, 8, 8, generator=generator)
    text = torch.randn(clips, 5, 24, generator=generator).repeat_interleave(frames, 0)
    return unet(x, 500, text).sample


@pytest.fixture
def unet() -> UNet2DConditionModel:
    return tiny_unet()


@pytest.fixture
def clip() -> np.ndarray:
    """A white square that moves two pixels a frame to the right."""
    frames = np.zeros((8, 32, 32, 3), np.uint8)
    for i in range(8):
        frames[i, 10:20, 2 + 2 * i : 12 + 2 * i] = 255
    return frames


def lora_for(model: torch.nn.Module, path: Path, rank: int = 4, alpha: float | None = None, seed: int = 0) -> dict:
    """A file with a random MotionLoRA or domain adapter for ``model``, in published names, or with ``alpha`` in kohya's."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for name, layer in model.named_modules():
        if found := re.fullmatch(r"(.+(?:attn[12]|attention_blocks\.\d))\.to_(q|k|v|out)(?:\.0)?", name):
            if isinstance(layer, torch.nn.ModuleList):
                continue
            outward, inward = layer.weight.shape
            down = torch.randn(rank, inward, generator=generator) / inward**0.5
            up = torch.randn(outward, rank, generator=generator) / rank**0.5
            if alpha is None:
                stem = f"{found[1]}.processor.to_{found[2]}_lora"
                tensors |= {f"{stem}.down.weight": down, f"{stem}.up.weight": up}
            else:
                stem = f"lora_unet_{name.replace('.', '_')}"
                tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(alpha)}  # fmt: skip
    torch.save(tensors, path) if path.suffix == ".ckpt" else save_file(tensors, path)
    return tensors
