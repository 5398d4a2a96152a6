"""The stages of training (paper section 4.4), and the error on clips that were held out."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import nn

from animatediff_ref.clips.latents import LatentClips
from animatediff_ref.method.adapters import add_domain_adapter
from animatediff_ref.method.inflation import inject, injected
from animatediff_ref.method.motion_module import MotionModule
from animatediff_ref.method.objective import denoising_error, motion_scheduler, timestep_weight
from animatediff_ref.training.loop import StepRecord, TrainConfig, fast_bfloat16, optimise


def train_domain_adapter(
    unet: UNet2DConditionModel, clips: LatentClips, config: TrainConfig = TrainConfig(), *, rank: int = 16,
    scheduler: DDIMScheduler | None = None, checkpoint: str | Path | None = None,
) -> Iterator[StepRecord]:  # fmt: skip
    """Stage 1 (section 4.1): a LoRA on the frozen UNet's attentions learns the look of single frames of the clips.

    Leaves the adapter in ``unet`` at scale 1; ``set_domain_adapter(unet, 0.0)`` drops it, as at inference.
    The released code fine-tunes the whole UNet at this stage instead; the paper, and this, train a LoRA.
    """
    if injected(unet):
        raise ValueError("stage 1 learns from single frames, but this UNet has a motion module: call eject(unet) first")
    loss_of = _objective(unet, clips, config, scheduler, frames=1)
    return optimise(add_domain_adapter(unet, rank=rank), loss_of, config, checkpoint)


def train_motion_module(
    unet: UNet2DConditionModel, motion: MotionModule, clips: LatentClips, config: TrainConfig = TrainConfig(), *,
    scheduler: DDIMScheduler | None = None, checkpoint: str | Path | None = None,
) -> Iterator[StepRecord]:  # fmt: skip
    """Stage 2 (section 4.2, Eq. 6-7): only the motion module learns, on clips, inside the frozen UNet.

    Injects ``motion`` into ``unet`` and leaves it there. A domain adapter in ``unet`` is used as it stands and stays
    frozen.
    """
    loss_of = _objective(unet, clips, config, scheduler, frames=config.num_frames)
    unet.requires_grad_(False)
    motion.requires_grad_(True)
    inject(unet, motion, config.num_frames)
    return optimise(motion.parameters(), loss_of, config, checkpoint)


@torch.no_grad()
def held_out_error(
    unet: nn.Module,
    clips: LatentClips,
    *,
    num_frames: int = 16,
    batches: int = 40,
    batch_size: int = 4,
    shuffled: bool = False,
    seed: int = 5,
    scheduler: DDIMScheduler | None = None,
) -> float:
    """Mean denoising error of ``unet`` on clips that training has not seen: plain weights, no caption dropped.

    The same seed means the same clips, noise and timesteps, so two models, or one model at two times, are compared in
    pairs. ``shuffled=True`` is the control that isolates motion: the same frames in random order. A model of single
    frames gives the same error, up to the noise that lands on each frame; one that has learnt how things move does
    worse. ``ValueError`` if a clip is shorter than ``num_frames``.
    """
    scheduler, generator = scheduler or motion_scheduler(), torch.Generator().manual_seed(seed)
    order, device, errors = torch.Generator().manual_seed(seed + 1), next(unet.parameters()).device, []
    for _ in range(batches):
        latents, text = clips.sample(batch_size, num_frames, generator)
        if shuffled:
            latents = torch.stack([clip[torch.randperm(num_frames, generator=order)] for clip in latents])
        error, _ = denoising_error(unet, scheduler, latents.to(device), text.to(device), generator)
        errors.append(error.mean().item())
    return sum(errors) / batches


def _objective(
    unet: nn.Module, clips: LatentClips, config: TrainConfig, scheduler: DDIMScheduler | None, frames: int
) -> Callable:
    scheduler = scheduler or motion_scheduler()
    shortest = min(map(len, clips.latents), default=0)
    if shortest < frames:
        raise ValueError(
            f"training needs clips of at least {frames} frames, got {len(clips)} clips, the shortest of {shortest}"
        )
    if next(unet.parameters()).dtype == torch.float16:
        raise ValueError("training needs a UNet in float32 (with autocast=True for speed), got float16")

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        latents, text = clips.sample(config.batch_size, frames, generator, config.caption_dropout)
        device = next(unet.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, config.autocast and fast_bfloat16(device)):
            error, t = denoising_error(unet, scheduler, latents.to(device), text.to(device), generator)
        return (error * timestep_weight(scheduler, t, config.weighting).to(device)).mean()

    return loss_of
