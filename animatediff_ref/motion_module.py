"""The motion module: a temporal transformer after every block of the UNet (paper section 4.2, Eq. 5).

Axes, everywhere in this package: ``b`` clips, ``f`` frames, ``c`` channels, ``h w`` space. A UNet sees the frames
of all clips folded into its batch, ``(b f) c h w``. Names of parameters are those of the published checkpoints.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from animatediff_ref.positions import sinusoidal_positions

# Pixels' sequences do not meet, so they may go in parts. On a CPU a part then stays in its cache and the peak of
# memory is the image model's; elsewhere parts are as large as the attention kernels of CUDA can take.
AT_ONCE = {"cpu": 128}


@dataclass(frozen=True)
class MotionConfig:
    """What distinguishes one motion module from another. The defaults are the official v3.

    ``v1()``, ``v2()`` and ``v3()`` are the published versions; ``dataclasses.replace`` makes any other.
    No weight shape reveals the two norm switches: they are part of a version's meaning.
    """

    num_positions: int = 32  # rows of the position table = most frames in a clip
    mid_block: bool = False  # a module in the middle of the UNet too (v2)
    num_heads: int = 8
    num_attentions: int = 2  # temporal self-attentions in a block
    norm_groups: int = 32  # of the GroupNorm at the entry
    positions: bool = True  # False: attention cannot tell the order of frames
    zero_init: bool = True  # the out-projection starts at zero, so a fresh module is the identity
    motion_norm_over_frames: bool = False  # True: entry GroupNorm pools a clip's frames, as diffusers does
    resnet_norm_over_frames: bool = False  # True: the UNet's ResNet and output GroupNorms pool a clip's frames (v1)

    @classmethod
    def v1(cls) -> "MotionConfig":
        return cls(num_positions=24, resnet_norm_over_frames=True)

    @classmethod
    def v2(cls) -> "MotionConfig":
        return cls(mid_block=True)

    @classmethod
    def v3(cls) -> "MotionConfig":
        return cls()

    def diffusers(self) -> "MotionConfig":
        """The same module under the norm convention of diffusers' ``UNetMotionModel``: other outputs from the same weights."""
        return replace(self, motion_norm_over_frames=True, resnet_norm_over_frames=False)

    @property
    def version(self) -> str:
        """The published version that this is, or is like: what marks v1 is its positions or its norms, v2 its mid block."""
        if self.mid_block:
            return "v2"
        return "v1" if self.num_positions == 24 or self.resnet_norm_over_frames else "v3"

    @property
    def norms(self) -> str:
        """In words, over what the GroupNorms take their statistics."""
        pooled = [
            where
            for where, over_frames in (
                ("the UNet's ResNet norms", self.resnet_norm_over_frames),
                ("the motion module's entry norm", self.motion_norm_over_frames),
            )
            if over_frames
        ]
        return f"{' and '.join(pooled)} pooled over frames" if pooled else "each over one frame"


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
        x = F.scaled_dot_product_attention(q, k, v)
        return self.to_out[0](rearrange(x, "n a f d -> n f (a d)"))


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
    """Pre-norm residual attentions, then a feed-forward, on sequences of frames ``(n, f, c)``.

    Sums go in place where autograd allows: new memory for every token is what time is lost on.
    """

    def __init__(self, config: MotionConfig, channels: int):
        super().__init__()
        count = range(config.num_attentions)
        self.attention_blocks = nn.ModuleList([TemporalAttention(config, channels) for _ in count])
        self.norms = nn.ModuleList([nn.LayerNorm(channels) for _ in count])
        self.ff = FeedForward(channels)
        self.ff_norm = nn.LayerNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for norm, attention in zip(self.norms, self.attention_blocks):
            x = attention(norm(x)).add_(x)
        return self.ff(self.ff_norm(x)).add_(x)


class TemporalTransformer(nn.Module):
    r"""The temporal transformer of one place in the UNet: :math:`z + W_{out}\,\mathrm{Block}(W_{in}\,\mathrm{GN}(z))`.

    Takes and returns ``(b f) c h w``. Every pixel of a clip is one sequence of ``f`` tokens.
    :math:`W_{out}` starts at zero, so the module starts as the identity and training starts from the image model.
    The official code projects before it regroups pixels into sequences; the result is the same, the copies are fewer.
    diffusers pools the entry GroupNorm over frames (``motion_norm_over_frames=True`` here) and does not zero-initialise.
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
        parts = z.split(AT_ONCE.get(z.device.type, 2**15))
        z = torch.cat([self.proj_out(self.transformer_blocks[0](self.proj_in(part))) for part in parts])
        return x + rearrange(z, "(b h w) f c -> (b f) c h w", h=height, w=width)


class MotionModule(nn.Module):
    """All temporal transformers of a UNet, apart from the UNet.

    ``unet`` is any Stable-Diffusion-1.x-shaped UNet, or directly the places: a mapping such as
    ``{"down_blocks.0.motion_modules.0": 320}``. Fresh, it is exactly the identity. ``state_dict`` has the key
    names of the published checkpoints (560 tensors for v1 and v3 on Stable Diffusion 1.5, 588 for v2).
    """

    def __init__(self, config: MotionConfig, unet: nn.Module | Mapping[str, int], num_frames: int = 16):
        super().__init__()
        self.config = config
        self.places = dict(unet) if isinstance(unet, Mapping) else motion_places(unet, config.mid_block)
        for place, channels in self.places.items():
            block = nn.Module()
            block.temporal_transformer = TemporalTransformer(config, channels)
            _attach(self, place, block)
        self.num_frames = num_frames

    @property
    def num_frames(self) -> int:
        """Frames in a clip: every run of this many consecutive rows of the UNet's batch is one clip."""
        return self._num_frames

    @num_frames.setter
    def num_frames(self, count: int) -> None:
        limit = self.config.num_positions
        if isinstance(count, bool) or not hasattr(count, "__index__"):
            raise ValueError(f"num_frames is a whole number, got {count!r}")
        if not 1 <= count <= (limit if self.config.positions else count):
            raise ValueError(f"this motion module has positions for 1 to {limit} frames, got num_frames={count}")
        self._num_frames = count

    def at(self, place: str) -> TemporalTransformer:
        """The temporal transformer of a place, such as ``"up_blocks.1.motion_modules.2"``."""
        return self.get_submodule(place).temporal_transformer


def motion_places(unet: nn.Module, mid_block: bool) -> dict[str, int]:
    """Where motion modules go in a Stable-Diffusion-1.x-shaped UNet, and how wide each is.

    One for each ResNet of each down and up block, and one in the middle on request (v2), in the published order.
    """
    down, mid, up = (getattr(unet, name, None) for name in ("down_blocks", "mid_block", "up_blocks"))
    shaped = (
        down
        and mid
        and up
        and all(hasattr(level, "resnets") for level in (*down, mid, *up))
        and hasattr(mid, "attentions")
    )
    config = getattr(unet, "config", None)
    if (
        not shaped
        or getattr(config, "cross_attention_dim", None) is None
        or getattr(config, "addition_embed_type", None)
    ):
        raise ValueError(
            "motion modules need a Stable-Diffusion-1.x-shaped UNet (UNet2DConditionModel with ResNet blocks and text "
            f"cross-attention), got {type(unet).__name__}"
        )
    places = {}
    for name, levels in (("down_blocks", down), ("up_blocks", up)):
        for i, level in enumerate(levels):
            for j, resnet in enumerate(level.resnets):
                places[f"{name}.{i}.motion_modules.{j}"] = resnet.out_channels
    if mid_block:
        places["mid_block.motion_modules.0"] = mid.resnets[0].out_channels
    return places


def _attach(root: nn.Module, path: str, leaf: nn.Module) -> None:
    """Make ``leaf`` the submodule of ``root`` at a dotted path, with plain containers on the way."""
    *stems, name = path.split(".")
    for stem in stems:
        if stem not in root._modules:
            root.add_module(stem, nn.Module())
        root = root._modules[stem]
    root.add_module(name, leaf)
