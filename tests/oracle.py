"""An independent implementation to compare with: diffusers' motion UNet, as it is and with its norms changed."""

import torch
from diffusers import MotionAdapter, UNetMotionModel
from torch import nn

import animatediff_ref as ar

RENAMED = {"temporal_transformer.": "", "attention_blocks.0": "attn1", "attention_blocks.1": "attn2", "ff_norm": "norm3", "norms.0": "norm1", "norms.1": "norm2"}  # fmt: skip


class OnFrames(nn.Module):
    """A norm of diffusers' motion UNet made per frame: it is handed (b, c, f, h, w)."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, _, f, _, _ = x.shape
        return self.norm(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (b, f)).transpose(1, 2)


class OverFrames(nn.Module):
    """A norm of diffusers' motion UNet made to pool over frames: it is handed (b f, c, h, w)."""

    def __init__(self, norm: nn.Module, frames: int):
        super().__init__()
        self.norm, self.frames = norm, frames

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.unflatten(0, (-1, self.frames)).transpose(1, 2)).transpose(1, 2).flatten(0, 1)


def diffusers_adapter(unet, motion: ar.MotionModule) -> MotionAdapter:
    """A motion module as diffusers' own class, with the same weights."""
    adapter = MotionAdapter(
        block_out_channels=unet.config.block_out_channels,
        motion_layers_per_block=unet.config.layers_per_block,
        motion_num_attention_heads=motion.config.num_heads,
        motion_norm_num_groups=motion.config.norm_groups,
        motion_max_seq_length=motion.config.num_positions,
        use_motion_mid_block=motion.config.mid_block,
    )
    state = {}
    for key, value in motion.state_dict().items():
        for ours, theirs in RENAMED.items():
            key = key.replace(ours, theirs)
        if "pos_encoder" not in key:
            state[key] = value
    missing, unexpected = adapter.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("pos_embed" in key for key in missing)
    return adapter


def diffusers_unet(unet, motion: ar.MotionModule) -> UNetMotionModel:
    return UNetMotionModel.from_unet2d(unet, diffusers_adapter(unet, motion)).eval()


@torch.no_grad()
def theirs(motion_unet: UNetMotionModel, frames: int = 4, clips: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(clips * frames, 4, 8, 8, generator=generator)
    text = torch.randn(clips, 5, 24, generator=generator).repeat_interleave(frames, 0)
    return motion_unet(x.unflatten(0, (clips, frames)).transpose(1, 2), 500, text).sample.transpose(1, 2).flatten(0, 1)


def replace_norms(motion_unet: UNetMotionModel, kind: str, frames: int = 4) -> UNetMotionModel:
    for name, module in list(motion_unet.named_modules()):
        if kind == "motion" and name.rpartition(".")[0].endswith("motion_modules"):
            module.norm = OnFrames(module.norm)
        if kind == "resnet" and type(module).__name__ == "ResnetBlock2D":
            module.norm1, module.norm2 = OverFrames(module.norm1, frames), OverFrames(module.norm2, frames)
    if kind == "resnet":
        motion_unet.conv_norm_out = OverFrames(motion_unet.conv_norm_out, frames)
    return motion_unet
