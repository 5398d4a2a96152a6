"""Inflation: a motion module goes into an unmodified UNet and comes out again (paper section 4.2, "network inflation").

The caller folds frames into the UNet's batch, ``(b f) c h w``, so image layers treat each frame as a picture of its own.
Forward hooks run a temporal transformer after each ResNet, and after its attention where it has one. Hooks leave every
module and parameter of the UNet where it was: LoRA loaders, offloading, compiling and the Stable-Diffusion-1.x pipelines
of diffusers keep working. A guided batch is consecutive blocks of frames, ``[unconditional x f, conditional x f]``, so
consecutive rows are always one clip.
"""

from functools import partial

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from animatediff_ref.method.motion_module import MotionModule, motion_places
from animatediff_ref.method.temporal import TemporalTransformer, frames_to_height, height_to_frames


def inject(unet: UNet2DConditionModel, motion: MotionModule, num_frames: int | None = None) -> None:
    """Make ``unet`` treat each run of ``num_frames`` consecutive rows of its batch as one clip.

    ``motion`` stays its own module: the UNet's state dict does not change, and ``eject`` gives back what was put in. It
    follows the UNet's device, so ``pipe.to`` and offloading work as before. In a UNet of lower precision it keeps its own
    and computes under autocast, which is also how it is trained in a frozen half-precision UNet; in one of higher
    precision it is widened, which changes no number. A motion module already in ``unet`` is taken out first.
    Where its file did not say into how many groups its norms divide channels, it takes the UNet's number.
    ``num_frames=None`` keeps ``motion.num_frames``. A UNet compiled by ``torch.compile`` is compiled again; pass the
    compiled one. A deep copy of ``unet`` has a copy of ``motion`` in it. A motion module in two UNets has one
    ``num_frames`` for both.

    Raises ``ValueError`` if the UNet has no such places or other widths, or if there are more frames than positions.
    """
    compiled = _is_compiled(unet)
    unet = uncompiled(unet)
    _check_fit(unet, motion)
    if num_frames is not None:
        motion.num_frames = num_frames
    if not motion.groups_are_told and unet.config.norm_num_groups:
        motion.take_groups(unet.config.norm_num_groups)
    eject(unet)
    if compiled:
        torch.compiler.reset()  # code compiled without hooks does not look whether some have come
    unet._injected = (motion, _hooked(unet, motion))  # in a tuple, so that PyTorch does not make it a part of the UNet
    _widen(motion, unet)
    if unet.device.type != "meta":
        motion.to(unet.device)


def eject(unet: UNet2DConditionModel) -> MotionModule | None:
    """Take the motion module out and return it; the UNet is bit-identical to before. None if there was none."""
    motion, handles = vars(uncompiled(unet)).pop("_injected", (None, []))
    for handle in handles:
        handle.remove()
    return motion


def injected(unet: UNet2DConditionModel) -> MotionModule | None:
    """The motion module now in ``unet``, or None."""
    return vars(uncompiled(unet)).get("_injected", (None, []))[0]


def uncompiled(unet: nn.Module) -> nn.Module:
    """The UNet inside what ``torch.compile`` returned."""
    return getattr(unet, "_orig_mod", unet)


def _is_compiled(unet: nn.Module) -> bool:
    """Whether ``torch.compile`` made this UNet, or ``compile`` was called on it or on a part of it."""
    return unet is not uncompiled(unet) or any(part._compiled_call_impl for part in unet.modules())


def _widen(motion: MotionModule, unet: nn.Module) -> None:
    """Give the motion module the UNet's precision where that is higher: no number changes by it."""
    dtype = unet.dtype  # what it computes in, whatever its weights are stored in
    if dtype.itemsize > next(motion.parameters()).dtype.itemsize:
        motion.to(dtype)


def _check_fit(unet: nn.Module, motion: MotionModule) -> None:
    if not isinstance(motion, MotionModule):
        raise ValueError(f"inject takes a UNet and then a motion module, got {type(motion).__name__} for the module")
    wanted = motion_places(unet, mid_block="mid_block.motion_modules.0" in motion.places)
    for place in sorted(wanted.keys() | motion.places.keys()):
        here, there = wanted.get(place), motion.places.get(place)
        if here != there:
            has, needs = (f"{width} channels" if width else "no such place" for width in (here, there))
            raise ValueError(
                f"the motion module does not fit this UNet: at {place} the UNet has {has}, the motion module {needs}"
            )


def _hooked(unet: nn.Module, motion: MotionModule) -> list[RemovableHandle]:
    """Put the hooks on. They are partials, not closures: a deep copy of the UNet copies them with their motion module."""
    handles = [unet.register_forward_pre_hook(partial(_check_batch, motion), with_kwargs=True)]
    for place in motion.places:
        handles.append(_host(unet, place).register_forward_hook(partial(_run_temporal, motion, motion.at(place))))
    return handles + (pooled_norms(unet, motion) if motion.config.resnet_norm_over_frames else [])


def pooled_norms(unet: nn.Module, clip) -> list[RemovableHandle]:
    """Have the GroupNorms of the UNet's ResNets see all ``clip.num_frames`` frames of a clip at once (v1)."""
    handles = []
    for norm in _resnet_norms(unet):
        handles.append(norm.register_forward_pre_hook(partial(_pool_frames, clip)))
        handles.append(norm.register_forward_hook(partial(_unpool_frames, clip)))
    return handles


def _host(unet: nn.Module, place: str) -> nn.Module:
    """The layer of the UNet after which a motion module runs: the spatial transformer, else the ResNet."""
    level, _, index = place.rpartition(".motion_modules.")
    level = unet.get_submodule(level)
    layers = getattr(level, "attentions", None) or level.resnets
    return layers[int(index)]


def _check_batch(motion: MotionModule, unet: nn.Module, args: tuple, kwargs: dict) -> None:
    """Hook before the UNet: check that the batch is whole clips, and widen the motion module if the UNet has grown."""
    rows = (args[0] if args else kwargs["sample"]).shape[0]
    if rows % motion.num_frames:
        raise ValueError(
            f"a batch of {rows} rows does not divide into clips of {motion.num_frames} frames: "
            f"pass clips of {motion.num_frames} frames (animate does), set motion.num_frames, or eject the motion module"
        )
    _widen(motion, unet)


def _run_temporal(motion: MotionModule, transformer: TemporalTransformer, module: nn.Module, args: tuple, output):
    """Hook after a layer of the UNet: its output goes through a temporal transformer."""
    if isinstance(output, tuple):
        return (_run_temporal(motion, transformer, module, args, output[0]), *output[1:])
    if not torch.is_tensor(output):
        output.sample = _run_temporal(motion, transformer, module, args, output.sample)
        return output
    if transformer.norm.weight.device != output.device:
        transformer.to(output.device)
    own = transformer.norm.weight.dtype
    if own == torch.float32 and output.dtype.itemsize == 2:  # weights stay float32, products run in half precision
        with torch.autocast(output.device.type, output.dtype):
            return _transformed(motion, transformer, output).to(output.dtype)
    return _transformed(motion, transformer, output.to(own)).to(output.dtype)


def _transformed(motion: MotionModule, transformer: TemporalTransformer, rows: torch.Tensor) -> torch.Tensor:
    if motion.gradient_checkpointing and torch.is_grad_enabled():
        return checkpoint(transformer, rows, motion.num_frames, use_reentrant=False)
    return transformer(rows, motion.num_frames)


def _pool_frames(clip, norm: nn.Module, args: tuple) -> tuple:
    """Hook before a GroupNorm of the UNet."""
    return (frames_to_height(args[0], clip.num_frames),)


def _unpool_frames(clip, norm: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
    """Hook after that GroupNorm: the frames apart again."""
    return height_to_frames(output, clip.num_frames)


def _resnet_norms(unet: nn.Module) -> list[nn.Module]:
    levels = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    norms = [norm for level in levels for resnet in level.resnets for norm in (resnet.norm1, resnet.norm2)]
    return [*norms, unet.conv_norm_out]
