"""The motion module: a temporal transformer for every place in the UNet (paper section 4.2), apart from the UNet."""

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from animatediff_ref.method.config import MotionConfig
from animatediff_ref.method.temporal import TemporalTransformer


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
        self.groups_are_told = True  # False: a file did not say norm_groups, so inject takes the UNet's
        self.gradient_checkpointing = False  # training sets it: compute activations again in the backward pass

    @property
    def num_frames(self) -> int:
        """Frames in a clip: every run of this many consecutive rows of the UNet's batch is one clip."""
        return self._num_frames

    @num_frames.setter
    def num_frames(self, count: int) -> None:
        limit = self.config.max_frames
        if isinstance(count, bool) or not hasattr(count, "__index__"):
            raise ValueError(f"num_frames is a whole number, got {count!r}")
        if limit and not 1 <= count <= limit:
            raise ValueError(f"this motion module has positions for 1 to {limit} frames, got num_frames={count}")
        if count < 1:
            raise ValueError(f"a clip has at least 1 frame, got num_frames={count}")
        self._num_frames = count

    def take_groups(self, norm_groups: int) -> None:
        """Divide the channels of the entry norms into so many groups."""
        self.config, self.groups_are_told = replace(self.config, norm_groups=norm_groups), True
        for place in self.places:
            self.at(place).norm.num_groups = norm_groups

    def at(self, place: str) -> TemporalTransformer:
        """The temporal transformer of a place, such as ``"up_blocks.1.motion_modules.2"``."""
        return self.get_submodule(place).temporal_transformer


def motion_places(unet: nn.Module, mid_block: bool) -> dict[str, int]:
    """Where motion modules go in a Stable-Diffusion-1.x-shaped UNet, and how wide each is.

    One for each ResNet of each down and up block, and one in the middle on request (v2), in the published order.
    ``ValueError`` for another kind of UNet.
    """
    _check_unet(unet)
    levels = {f"down_blocks.{i}": level for i, level in enumerate(unet.down_blocks)}
    levels |= {f"up_blocks.{i}": level for i, level in enumerate(unet.up_blocks)}
    places = {
        f"{name}.motion_modules.{j}": resnet.out_channels
        for name, level in levels.items()
        for j, resnet in enumerate(level.resnets)
    }
    if mid_block:
        places["mid_block.motion_modules.0"] = unet.mid_block.resnets[0].out_channels
    return places


def _check_unet(unet: nn.Module) -> None:
    """Refuse a UNet without ResNets on every level or attention to text, SDXL's, and one with motion modules in it."""
    blocks = [getattr(unet, name, None) for name in ("down_blocks", "mid_block", "up_blocks")]
    config = getattr(unet, "config", None)
    if all(blocks):
        down, mid, up = blocks
        resnets = all(hasattr(level, "resnets") for level in (*down, mid, *up)) and hasattr(mid, "attentions")
        text = getattr(config, "cross_attention_dim", None) is not None
        if hasattr(down[0], "motion_modules"):
            raise ValueError(
                f"a {type(unet).__name__} has motion modules of its own: take the plain UNet2DConditionModel that it "
                "was made from; load_motion_module takes the motion modules from its file"
            )
        if resnets and text and not getattr(config, "addition_embed_type", None):
            return
    raise ValueError(
        "motion modules need a Stable-Diffusion-1.x-shaped UNet (UNet2DConditionModel with ResNet blocks and text "
        f"cross-attention), got {type(unet).__name__}"
    )


def _attach(root: nn.Module, path: str, leaf: nn.Module) -> None:
    """Make ``leaf`` the submodule of ``root`` at a dotted path, with plain containers on the way."""
    *stems, name = path.split(".")
    for stem in stems:
        if stem not in root._modules:
            root.add_module(stem, nn.Module())
        root = root._modules[stem]
    root.add_module(name, leaf)
