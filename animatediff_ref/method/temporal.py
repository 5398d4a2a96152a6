"""The temporal transformer (paper section 4.2, Eq. 5): attention along the frames of each pixel.

Axes, everywhere in this package: ``b`` clips, ``f`` frames, ``c`` channels, ``h w`` space. A UNet sees the frames
of all clips folded into its batch, ``(b f) c h w``. Names of parameters are those of the published checkpoints.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from animatediff_ref.method.config import MotionConfig


def sinusoidal_positions(num_positions: int, channels: int) -> torch.Tensor:
    """The position table, float32 of shape (1, num_positions, channels).

    Row ``n`` holds ``sin(n * w_k)`` in even and ``cos(n * w_k)`` in odd channels, with
    ``w_k = 10000 ** (-2k / channels)``. A row does not depend on ``num_positions``, so a 24-row table is
    the start of a 32-row one. Same in the official code and in diffusers.
    """
    if channels % 2:
        raise ValueError(f"sinusoidal positions need an even number of channels, got {channels}")
    frequency = torch.exp(torch.arange(0, channels, 2, dtype=torch.float32) * (-math.log(10000.0) / channels))
    angle = torch.arange(num_positions)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[None]


# Pixels do not meet in a temporal transformer, so they may go through it in parts. On a CPU a small part stays in the cache, and
# the peak of memory is the image model's. Elsewhere parts are as large as the attention kernels of CUDA can take.
PIXELS_AT_ONCE_ON_CPU, PIXELS_AT_ONCE = 128, 2**15


def frames_to_height(x: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Stack the frames of each clip into one tall picture, over which a GroupNorm pools its statistics."""
    return rearrange(x, "(b f) c h w -> b c (f h) w", f=num_frames)


def height_to_frames(x: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Undo ``frames_to_height``."""
    return rearrange(x, "b c (f h) w -> (b f) c h w", f=num_frames)


class PositionTable(nn.Module):
    """Adds the first rows of the sinusoidal table to a sequence ``(n, f, c)``."""

    def __init__(self, num_positions: int, channels: int):
        super().__init__()
        self.register_buffer("pe", sinusoidal_positions(num_positions, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.pe[:, : x.shape[1]]


class TemporalAttention(nn.Module):
    """Self-attention along the frames of one pixel; positions are added here, so q, k and v all see them."""

    def __init__(self, config: MotionConfig, channels: int):
        super().__init__()
        self.num_heads = config.num_heads
        self.pos_encoder = PositionTable(config.num_positions, channels) if config.positions else nn.Identity()
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pos_encoder(x)
        q, k, v = (
            rearrange(to(x), "n f (a d) -> n a f d", a=self.num_heads) for to in (self.to_q, self.to_k, self.to_v)
        )
        x = F.scaled_dot_product_attention(q, k, v)  # Eq. 5: softmax(q k^T / sqrt(d)) v, over the frames
        return self.to_out[0](rearrange(x, "n a f d -> n f (a d)"))


class TemporalConvolution(nn.Module):
    """What the paper's ablation (section 5.3) puts in place of an attention: a convolution over neighbouring frames.

    It takes and returns the frames of each pixel, ``(n, f, c)``. It has exactly as many parameters: three frames of
    weights cost as much as the projections to q, k and v. It knows the order of frames by itself, so it has no
    positions; but what lies two frames apart meets only in the next layer.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = rearrange(self.conv(rearrange(x, "n f c -> n c f")), "n c f -> n f c")
        return self.to_out[0](F.gelu(x))


class GEGLU(nn.Module):
    """``value * gelu(gate)``, both from one projection; the value is the first half."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(channels, 2 * inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return F.gelu(gate).mul_(value)


class FeedForward(nn.Module):
    """GEGLU and a projection back; the list keeps the published names ``net.0`` and ``net.2``."""

    def __init__(self, channels: int):
        super().__init__()
        self.net = nn.ModuleList([GEGLU(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net[2](self.net[0](x))


class TemporalBlock(nn.Module):
    """Pre-norm residual attentions (or convolutions), then a feed-forward, on sequences of frames ``(n, f, c)``.

    Sums go in place where autograd allows: new memory for every token is what time is lost on.
    """

    def __init__(self, config: MotionConfig, channels: int):
        super().__init__()
        count = range(config.num_attentions)
        if config.kind == "conv":
            self.convolutions = nn.ModuleList([TemporalConvolution(channels) for _ in count])
        else:
            self.attention_blocks = nn.ModuleList([TemporalAttention(config, channels) for _ in count])
        self.norms = nn.ModuleList([nn.LayerNorm(channels) for _ in count])
        self.ff = FeedForward(channels)
        self.ff_norm = nn.LayerNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixers = self.convolutions if hasattr(self, "convolutions") else self.attention_blocks
        for norm, mixer in zip(self.norms, mixers):
            x = mixer(norm(x)).add_(x)
        return self.ff(self.ff_norm(x)).add_(x)


class TemporalTransformer(nn.Module):
    r"""The temporal transformer of one place in the UNet: :math:`z + W_{out}\,\mathrm{Block}(W_{in}\,\mathrm{GN}(z))`.

    Takes and returns ``(b f) c h w``. Every pixel of a clip is one sequence of ``f`` tokens. :math:`W_{out}` starts at
    zero, so the module starts as the identity and training starts from the image model. The official code projects
    before it regroups pixels into sequences; the result is the same, the copies are fewer. diffusers pools the entry
    GroupNorm over frames (``motion_norm_over_frames=True`` here) and does not zero-initialise.
    """

    def __init__(self, config: MotionConfig, channels: int):
        super().__init__()
        for name, count in (("num_heads", config.num_heads), ("norm_groups", config.norm_groups)):
            if channels % count:
                raise ValueError(f"{name}={count} must divide the {channels} channels of this place in the UNet")
        self.over_frames = config.motion_norm_over_frames
        self.norm = nn.GroupNorm(config.norm_groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(config, channels)])
        self.proj_out = nn.Linear(channels, channels)
        if config.zero_init:
            nn.init.zeros_(self.proj_out.weight)
            nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: torch.Tensor, num_frames: int) -> torch.Tensor:
        height, width = x.shape[-2:]
        z = (
            height_to_frames(self.norm(frames_to_height(x, num_frames)), num_frames)
            if self.over_frames
            else self.norm(x)
        )
        z = rearrange(z, "(b f) c h w -> (b h w) f c", f=num_frames)
        parts = z.split(PIXELS_AT_ONCE_ON_CPU if z.device.type == "cpu" else PIXELS_AT_ONCE)
        z = torch.cat([self.proj_out(self.transformer_blocks[0](self.proj_in(part))) for part in parts])
        return x + rearrange(z, "(b h w) f c -> (b f) c h w", h=height, w=width)
