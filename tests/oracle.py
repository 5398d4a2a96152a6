"""An independent implementation to compare with: diffusers' own motion classes, norms changed where a convention asks for it.

Nothing here calls the package's mathematics: weights are renamed, LoRAs are added to them by hand, diffusers computes.
"""

import torch
from diffusers import MotionAdapter, UNetMotionModel
from torch import nn

import animatediff_ref as ar

RENAMED = {"temporal_transformer.": "", "attention_blocks.0": "attn1", "attention_blocks.1": "attn2", "ff_norm": "norm3", "norms.0": "norm1", "norms.1": "norm2"}  # fmt: skip
# norm convention: (the motion module's entry norm pools a clip's frames, the UNet's ResNet and output norms do)
CONVENTIONS = {"per frame": (False, False), "v1": (False, True), "diffusers": (True, False)}


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


def convention(config: ar.MotionConfig) -> str:
    """The name of a configuration's norm convention."""
    pooled = config.motion_norm_over_frames, config.resnet_norm_over_frames
    return next(name for name, switches in CONVENTIONS.items() if switches == pooled)


def diffusers_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Published key names -> diffusers' names; position tables are left out, diffusers computes its own."""
    state = {}
    for key, value in weights.items():
        for published, name in RENAMED.items():
            key = key.replace(published, name)
        if "pos_encoder" not in key:
            state[key] = value
    return state


def load(module: nn.Module, weights: dict[str, torch.Tensor]) -> nn.Module:
    """Give a motion class of diffusers the weights of published names: all of them, and nothing else."""
    missing, unexpected = module.load_state_dict(diffusers_names(weights), strict=False)
    assert not unexpected
    assert all("pos_embed" in key for key in missing)
    return module.eval()


def diffusers_adapter(unet, motion: ar.MotionModule, weights: dict[str, torch.Tensor] | None = None) -> MotionAdapter:
    """A motion module as diffusers' own class, with the same weights, or with others of the same names."""
    adapter = MotionAdapter(
        block_out_channels=unet.config.block_out_channels,
        motion_layers_per_block=unet.config.layers_per_block,
        motion_num_attention_heads=motion.config.num_heads,
        motion_norm_num_groups=motion.config.norm_groups,
        motion_max_seq_length=motion.config.num_positions,
        use_motion_mid_block=motion.config.mid_block,
    )
    return load(adapter, weights or motion.state_dict())


def diffusers_unet(
    unet, motion: ar.MotionModule, norms: str, frames: int = 4, weights: dict[str, torch.Tensor] | None = None
) -> UNetMotionModel:
    """diffusers' motion UNet with the weights of ``unet`` and ``motion``, and the norms of a convention.

    ``unet`` must be free of LoRAs: diffusers copies weights by name and stumbles over a LoRA that is still apart.
    """
    return set_norms(UNetMotionModel.from_unet2d(unet, diffusers_adapter(unet, motion, weights)).eval(), norms, frames)


def set_norms(motion_unet: UNetMotionModel, norms: str, frames: int) -> UNetMotionModel:
    motion_pools, resnet_pools = CONVENTIONS[norms]
    for name, module in list(motion_unet.named_modules()):
        if not motion_pools and name.rpartition(".")[0].endswith("motion_modules"):
            module.norm = OnFrames(module.norm)
        if resnet_pools and type(module).__name__ == "ResnetBlock2D":
            module.norm1, module.norm2 = OverFrames(module.norm1, frames), OverFrames(module.norm2, frames)
    if resnet_pools:
        motion_unet.conv_norm_out = OverFrames(motion_unet.conv_norm_out, frames)
    return motion_unet


@torch.no_grad()
def theirs(motion_unet: UNetMotionModel, frames: int = 4, clips: int = 2) -> torch.Tensor:
    """The output on the noise of ``conftest.run``, (clips * frames, 4, 8, 8)."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(clips * frames, 4, 8, 8, generator=generator)
    text = torch.randn(clips, 5, 24, generator=generator).repeat_interleave(frames, 0)
    return motion_unet(x.unflatten(0, (clips, frames)).transpose(1, 2), 500, text).sample.transpose(1, 2).flatten(0, 1)


def merged(weights: dict[str, torch.Tensor], lora: dict[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """``W + scale * up @ down`` for every factor pair of published names; ``weights`` stay as they are."""
    weights = dict(weights)
    for name, down in lora.items():
        if name.endswith("_lora.down.weight"):
            stem = name.removesuffix("_lora.down.weight")
            layer = stem.replace(".processor", "") + (".0" if stem.endswith("to_out") else "")
            weights[f"{layer}.weight"] = weights[f"{layer}.weight"] + scale * lora[f"{stem}_lora.up.weight"] @ down
    return weights
