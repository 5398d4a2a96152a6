"""The stages of training (paper section 4.4), and the error on clips that were held out."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from animatediff_ref.clips.latents import LatentClips
from animatediff_ref.method.adapters import add_domain_adapter, add_motion_lora, motion_loras
from animatediff_ref.method.inflation import inject, injected, uncompiled
from animatediff_ref.method.motion_module import MotionModule
from animatediff_ref.method.objective import denoising_error, draw_noise, motion_scheduler, noise_error, timestep_weight
from animatediff_ref.training.loop import Loss, StepRecord, TrainConfig, fast_bfloat16, optimise, processes


def train_domain_adapter(
    unet: UNet2DConditionModel, clips: LatentClips, config: TrainConfig = TrainConfig(), *, rank: int = 16,
    convolutions: bool = False, scheduler: DDIMScheduler | None = None, checkpoints: str | Path | None = None,
) -> Iterator[StepRecord]:  # fmt: skip
    """Stage 1 (section 4.1, Eq. 2): a LoRA on the frozen UNet's attentions learns the look of single frames of the clips.

    Leaves the adapter in ``unet`` at scale 1; ``set_domain_adapter(unet, 0.0)`` drops it, as at inference.
    ``convolutions=True`` also adapts those of the residual blocks. The paper does without, and Stable Diffusion has
    attentions at every resolution of its UNet. A UNet without any at its highest, such as the mini world's, learns
    little of fine faults by its attentions alone, such as the letters of a watermark.
    The released code fine-tunes the whole UNet at this stage instead; the paper, and this, train a LoRA.
    ``scheduler``, here and in the other stages, is by default that of a base that predicts noise; for one that predicts
    v or the sample it is ``motion_scheduler(pipe.scheduler)``.
    """
    if injected(unet):
        raise ValueError("stage 1 learns from single frames, but this UNet has a motion module: call eject(unet) first")
    _check(unet, clips, config, frames=1)
    return _optimised(add_domain_adapter(unet, rank, convolutions), unet, clips, config, scheduler, 1, checkpoints)


def train_motion_module(
    unet: UNet2DConditionModel, motion: MotionModule, clips: LatentClips, config: TrainConfig = TrainConfig(), *,
    scheduler: DDIMScheduler | None = None, checkpoints: str | Path | None = None,
) -> Iterator[StepRecord]:  # fmt: skip
    """Stage 2 (section 4.4, Eq. 6-7): only the motion module learns, on clips, inside the frozen UNet.

    Injects ``motion`` into ``unet`` and leaves it there. A domain adapter in ``unet`` is used as it stands and stays
    frozen.
    """
    if loras := motion_loras(motion):
        raise ValueError(
            f"stage 2 trains the motion module itself: unload or fuse its MotionLoRAs ({', '.join(loras)})"
        )
    _check(unet, clips, config, config.num_frames)
    inject(unet, motion, config.num_frames)
    unet.requires_grad_(False)
    motion.requires_grad_(True)
    return _optimised(list(motion.parameters()), unet, clips, config, scheduler, config.num_frames, checkpoints)


def train_motion_lora(
    unet: UNet2DConditionModel, motion: MotionModule, clips: LatentClips, config: TrainConfig = TrainConfig(), *,
    name: str = "camera", rank: int = 64, scheduler: DDIMScheduler | None = None, checkpoints: str | Path | None = None,
) -> Iterator[StepRecord]:  # fmt: skip
    """Stage 3 (section 4.3, Eq. 7): a low-rank change of the motion module's self-attentions learns one new motion.

    A few dozen clips that share a motion are enough, for example crops made by ``move_camera``. Injects
    ``motion`` into ``unet`` and leaves the MotionLoRA on it at weight 1 under ``name``; ``save_motion_lora`` writes it.
    Published ones have rank 64. UNet, motion module and other adapters are used as they stand and stay frozen.
    """
    _check(unet, clips, config, config.num_frames)
    inject(unet, motion, config.num_frames)
    unet.requires_grad_(False)
    parameters = add_motion_lora(motion, name, rank)
    return _optimised(parameters, unet, clips, config, scheduler, config.num_frames, checkpoints)


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
    """Mean denoising error of ``unet`` on clips that training has not seen, unweighted, with all their captions.

    The same seed means the same clips, noise and timesteps, so two models, or one model at two times, are compared in
    pairs. ``shuffled=True`` is the control that isolates motion: the same frames in random order. A model of single
    frames scores the same either way, up to which noise lands on which frame; one that has learnt how things move does
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


class Trainee(nn.Module):
    """A UNet with what a stage trains in it, as one module whose forward is the loss of a batch.

    Hooks call the motion module from inside the UNet. Several processes keep its gradients the same only if both run
    inside one forward that is wrapped, hence this class. What trains stays in float32; the frozen UNet may be in half
    precision.
    """

    def __init__(self, unet: nn.Module, scheduler: DDIMScheduler, weighting: str, autocast: bool):
        super().__init__()
        self.unet, self.motion = unet, injected(unet)
        self.scheduler, self.weighting, self.autocast = scheduler, weighting, autocast

    def forward(
        self, latents: torch.Tensor, text: torch.Tensor, t: torch.Tensor, noise: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The weighted mean error of clips ``(b, f, c, h, w)`` with their text (b, n, d), timesteps (b,) and noise.

        With it, the error of each clip, (b,), unweighted and without its graph.
        """
        with torch.autocast(latents.device.type, torch.bfloat16, self.autocast):
            error = noise_error(self.unet, self.scheduler, latents, text, t, noise)
        return (error * timestep_weight(self.scheduler, t, self.weighting)).mean(), error.detach()


def _optimised(
    parameters: list[nn.Parameter], unet: nn.Module, clips: LatentClips, config: TrainConfig,
    scheduler: DDIMScheduler | None, frames: int, checkpoints: str | Path | None,
) -> Iterator[StepRecord]:  # fmt: skip
    """Train ``parameters`` in ``unet``.

    Processes draw the same whole batch; each computes its share of it, in parts one after another.
    """
    for parameter in parameters:
        parameter.data = parameter.data.float()
    device, together = next(unet.parameters()).device, processes()
    scheduler = scheduler or motion_scheduler()
    trainee = Trainee(unet, scheduler, config.weighting, config.autocast and fast_bfloat16(device))
    if together.num_processes > 1:
        trainee = DistributedDataParallel(trainee)
    share = slice(together.process_index, None, together.num_processes)

    def losses_of(step: int, generator: torch.Generator) -> Iterator[Loss]:
        rows = clips.in_turn(step * config.batch_size, config.batch_size, config.seed)
        latents, text = clips.windows(rows, frames, generator, config.caption_dropout)
        t, noise = draw_noise(scheduler, latents.shape, generator)
        times, names = t / scheduler.config.num_train_timesteps, [clips.name(row) for row in rows]
        for i in range(config.accumulation):
            own = range(config.batch_size)[i :: config.accumulation][share]  # of equal length for all, by _check
            batch = (part[list(own)].to(device) for part in (latents, text, t, noise))
            last = i == config.accumulation - 1  # processes add up their gradients once a step
            with nullcontext() if last or together.num_processes == 1 else trainee.no_sync():
                mean, error = trainee(*batch)
            yield Loss(mean, error, times[list(own)], tuple(names[k] for k in own))

    # gradients of a float16 UNet would vanish without a scaled loss
    scaled = uncompiled(unet).dtype == torch.float16
    with recomputing(uncompiled(unet), config.gradient_checkpointing):
        yield from optimise(parameters, losses_of, config, checkpoints, loss_scaling=scaled)


@contextmanager
def recomputing(unet: UNet2DConditionModel, wanted: bool) -> Iterator[None]:
    """Compute the activations of spatial and temporal layers again in the backward pass, instead of keeping them."""
    motion, before = injected(unet), unet.is_gradient_checkpointing
    if wanted and not before:
        unet.enable_gradient_checkpointing()
    if motion:
        motion.gradient_checkpointing = wanted
    try:
        yield
    finally:
        if wanted and not before:
            unet.disable_gradient_checkpointing()
        if motion:
            motion.gradient_checkpointing = False


def _check(unet: nn.Module, clips: LatentClips, config: TrainConfig, frames: int) -> None:
    """Refuse what could not be trained, before anything is changed."""
    lengths = [len(clip) for clip in clips.latents]
    if not lengths or min(lengths) < frames:
        which = f", {clips.name(lengths.index(min(lengths)))}" if lengths else ""
        raise ValueError(
            f"training needs clips of at least {frames} frames, got {len(clips)} clips, the shortest of "
            f"{min(lengths, default=0)}{which}"
        )
    weight, together = next(unet.parameters()), processes()
    if (part := config.batch_size // config.accumulation) % together.num_processes:
        raise ValueError(
            f"{part} clips (batch_size={config.batch_size}, accumulation={config.accumulation}) do not divide among "
            f"{together.num_processes} processes"
        )
    if weight.device.type == "meta" or weight.dtype.itemsize == 1:
        raise ValueError(
            "training needs a UNet with its weights in memory and in at least 16 bits: neither offloaded nor float8"
        )
    if together.num_processes > 1 and weight.device.type == "cuda" and weight.device != together.device:
        raise ValueError(f"this process trains on {together.device}, but the UNet is on {weight.device}")
