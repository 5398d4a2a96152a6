"""Inflation: a motion module goes into an unmodified UNet and comes out again (paper section 4.2, "network inflation").

Frames are folded into the UNet's batch, ``(b f) c h w``, so every image layer treats them alone. Forward hooks
run a temporal transformer after each ResNet-and-attention pair. Hooks leave every module and parameter of the UNet where it was:
LoRA loaders, offloading and every Stable-Diffusion-1.x pipeline of diffusers keep working. A guided batch is consecutive
blocks of frames, ``[unconditional x f, conditional x f]``, so consecutive rows are always one clip.
"""

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from animatediff_ref.motion_module import MotionModule, frames_to_height, height_to_frames, motion_places

_injected: WeakKeyDictionary = WeakKeyDictionary()  # UNet -> (motion module, hook handles)


def inject(unet: UNet2DConditionModel, motion: MotionModule, num_frames: int | None = None) -> None:
    """Make ``unet`` treat each run of ``num_frames`` consecutive rows of its batch as one clip.

    ``motion`` stays its own module: the UNet's state dict does not change. It follows the UNet's dtype and
    the device of what passes through it, so ``pipe.to`` and offloading work as before. A motion module already in ``unet`` is taken out first. ``num_frames=None`` keeps ``motion.num_frames``.

    Raises ``ValueError`` if the UNet has no such places or other widths, or if there are more frames than positions.
    """
    wanted = motion_places(unet, mid_block="mid_block.motion_modules.0" in motion.places)
    for place in sorted(wanted.keys() | motion.places.keys()):
        if wanted.get(place) != motion.places.get(place):
            here, there = (
                f"{n} channels" if n else "no such place" for n in (wanted.get(place), motion.places.get(place))
            )
            raise ValueError(
                f"the motion module does not fit this UNet: at {place} the UNet has {here}, the motion module {there}"
            )
    if num_frames is not None:
        motion.num_frames = num_frames
    eject(unet)
    handles = [unet.register_forward_pre_hook(_check_batch(motion), with_kwargs=True)]
    handles += [_host(unet, place).register_forward_hook(_run(motion, place)) for place in motion.places]
    if motion.config.resnet_norm_over_frames:
        handles += [handle for norm in _resnet_norms(unet) for handle in _pooled(motion, norm)]
    _injected[unet] = (motion, handles)
    motion.to(unet.dtype)
    if unet.device.type != "meta":
        motion.to(unet.device)


def eject(unet: UNet2DConditionModel) -> MotionModule | None:
    """Take the motion module out and return it; the UNet is bit-identical to before. None if there was none."""
    motion, handles = _injected.pop(unet, (None, []))
    for handle in handles:
        handle.remove()
    return motion


def injected(unet: UNet2DConditionModel) -> MotionModule | None:
    """The motion module now in ``unet``, or None."""
    return _injected.get(unet, (None, []))[0]


def _host(unet: nn.Module, place: str) -> nn.Module:
    """The layer of the UNet after which a motion module runs: the spatial transformer, or the ResNet where there is none."""
    level, _, index = place.rpartition(".motion_modules.")
    level = unet.get_submodule(level)
    layers = getattr(level, "attentions", None) or level.resnets
    return layers[int(index)]


def _run(motion: MotionModule, place: str) -> Callable:
    transformer = motion.at(place)

    def through(x: torch.Tensor) -> torch.Tensor:
        if next(transformer.parameters()).device != x.device:
            motion.to(x.device)
        return transformer(x, motion.num_frames)

    def hook(module: nn.Module, args: tuple, output):
        if torch.is_tensor(output):
            return through(output)
        if isinstance(output, tuple):
            return (through(output[0]), *output[1:])
        output.sample = through(output.sample)
        return output

    return hook


def _pooled(motion: MotionModule, norm: nn.Module) -> list:
    """Hooks that let a GroupNorm of the UNet see all frames of a clip at once (v1)."""
    join = norm.register_forward_pre_hook(lambda _, args: (frames_to_height(args[0], motion.num_frames),))
    part = norm.register_forward_hook(lambda _, args, output: height_to_frames(output, motion.num_frames))
    return [join, part]


def _resnet_norms(unet: nn.Module) -> list[nn.Module]:
    levels = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    norms = [norm for level in levels for resnet in level.resnets for norm in (resnet.norm1, resnet.norm2)]
    return [*norms, unet.conv_norm_out]


def _check_batch(motion: MotionModule) -> Callable:
    def hook(unet: nn.Module, args: tuple, kwargs: dict) -> None:
        rows = (args[0] if args else kwargs["sample"]).shape[0]
        if rows % motion.num_frames:
            raise ValueError(
                f"a batch of {rows} rows does not divide into clips of {motion.num_frames} frames: "
                f"pass clips of {motion.num_frames} frames, or set motion.num_frames"
            )
        dtype = next(unet.parameters()).dtype
        if next(motion.parameters()).dtype != dtype:
            motion.to(dtype)

    return hook
