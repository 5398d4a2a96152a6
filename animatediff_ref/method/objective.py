"""Noise schedule and training objective (paper Eq. 1-2 for images, Eq. 6-7 for clips)."""

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, SchedulerMixin
from einops import rearrange, repeat
from torch import nn

from animatediff_ref.method.inflation import injected, uncompiled

OF_THE_BASE = ("prediction_type", "num_train_timesteps", "rescale_betas_zero_snr")  # what no motion module changes


def motion_scheduler(base: SchedulerMixin | None = None) -> DDIMScheduler:
    """The schedule AnimateDiff trains and samples with: linear betas from 0.00085 to 0.012, leading steps, offset 1.

    Stable Diffusion 1.5 itself ships ``scaled_linear`` betas; the motion modules were trained with linear ones.
    ``base`` is the scheduler of the image model. What the image model was trained for comes from it: what it predicts
    (noise, v or the sample), its number of timesteps, and a last timestep of pure noise (zero-SNR rescaling, with
    the base's own spacing of steps: ``trailing`` starts at that timestep, ``leading`` below it). Without ``base``, it is a model that predicts noise.
    """
    told = {} if base is None else base.config
    own = {name: told[name] for name in OF_THE_BASE if name in told}
    if own.get("rescale_betas_zero_snr"):
        own["timestep_spacing"] = told.get("timestep_spacing", "trailing")
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear"}
    return DDIMScheduler(**betas, clip_sample=False, steps_offset=1, **own)


WEIGHTINGS = ("plain", "min-snr", "debiased")


def timestep_weight(scheduler: DDIMScheduler, t: torch.Tensor, weighting: str = "plain") -> torch.Tensor:
    r"""How much the error of ``denoising_error`` counts at each timestep: float32, the shape of ``t``.

    For a base that predicts noise, with :math:`\mathrm{SNR} = \bar\alpha_t / (1 - \bar\alpha_t)`, the power of the picture
    over that of the noise:

    - ``"plain"``, 1: the paper's objective (Eq. 2 and 7).
    - ``"min-snr"``, :math:`\min(\mathrm{SNR}, 5) / \mathrm{SNR}`: plain where the SNR is below 5. Above it, in the steps
      that draw details, an error of the clean picture counts five times and not more. Image models learn faster with it
      (Hang et al., 2023).
    - ``"debiased"``, :math:`1 / \sqrt{\mathrm{SNR}}` between 0.2 and 20 (Yu et al., 2023): more weight where noise is
      strong. There the noise is easy to predict and the plain error is small, although what frames share, which thing
      is where, is decided there.

    For one that predicts v or the sample, ``"plain"`` is 1 too; the others count the same error of the noise as much as
    above, which is :math:`\bar\alpha_t` times the error of v and SNR times that of the sample.
    ``ValueError`` for another name.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"a weighting is one of {', '.join(WEIGHTINGS)}, got {weighting!r}")
    alpha_bar = scheduler.alphas_cumprod.to(t.device)[t]
    snr = alpha_bar / (1 - alpha_bar)
    if weighting == "plain":
        return torch.ones_like(snr)
    of_noise = (5.0 / snr).clamp(max=1.0) if weighting == "min-snr" else snr.rsqrt().clamp(0.2, 20.0)
    return of_noise * {"v_prediction": alpha_bar, "sample": snr}.get(scheduler.config.prediction_type, 1.0)


def denoising_error(
    unet: nn.Module, scheduler: DDIMScheduler, latents: torch.Tensor, text: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Mean squared error of each clip's predicted noise (Eq. 7): :math:`\|\epsilon - \epsilon_\theta(z_t^{1:f}, t, \tau(y))\|^2`.

    ``latents`` is ``(b, f, c, h, w)``, scaled; ``text`` is ``(b, n, d)``. Noise and timesteps come from ``draw_noise``. All
    frames of a clip read the same text. Returns the error and the timestep of each clip, both of shape (b,). A base that
    predicts v or the sample is held to that: ``scheduler`` says what, so take ``motion_scheduler(pipe.scheduler)``.
    """
    t, noise = draw_noise(scheduler, latents.shape, generator)
    t, noise = t.to(latents.device), noise.to(latents.device)
    return noise_error(unet, scheduler, latents, text, t, noise), t


def draw_noise(
    scheduler: DDIMScheduler, shape: torch.Size, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """One timestep for each clip and independent noise for each frame (Eq. 6), of latents ``(b, f, c, h, w)``.

    Drawn on the CPU, so a seed means the same on every device.
    """
    t = torch.randint(scheduler.config.num_train_timesteps, (shape[0],), generator=generator)
    return t, torch.randn(shape, generator=generator)


def noise_error(
    unet: nn.Module,
    scheduler: DDIMScheduler,
    latents: torch.Tensor,
    text: torch.Tensor,
    t: torch.Tensor,
    noise: torch.Tensor,
) -> torch.Tensor:
    """``denoising_error`` for given timesteps (b,) and noise (the shape of ``latents``), all on one device.

    A picture is a clip of one frame: Eq. 1 and 2 are Eq. 6 and 7 with ``f`` = 1. ``ValueError`` if the motion module in
    ``unet`` is set to another number of frames.
    """
    clips, frames = latents.shape[:2]
    motion = injected(unet)
    if motion and motion.num_frames != frames:
        raise ValueError(
            f"the clips have {frames} frames, the motion module in this UNet is set to {motion.num_frames}"
        )
    noisy = scheduler.add_noise(latents, noise, t)  # Eq. 1 for pictures, Eq. 6 for clips
    dtype = uncompiled(unet).dtype  # what it computes in, whatever its weights are stored in
    guess = unet(
        rearrange(noisy, "b f c h w -> (b f) c h w").to(dtype).contiguous(),  # torch 2.13 crashes on channels-last
        repeat(t, "b -> (b f)", f=frames),
        repeat(text, "b n d -> (b f) n d", f=frames).to(dtype),
    ).sample.float()
    target = _target(scheduler, latents, noise, t)
    error = F.mse_loss(guess.unflatten(0, (clips, frames)), target, reduction="none")  # Eq. 2, Eq. 7
    return error.mean((1, 2, 3, 4))


def _target(scheduler: DDIMScheduler, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """What the base was trained to predict: the noise, as in the paper, or v or the sample."""
    kind = scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction", "sample"):
        raise ValueError(f"training knows bases that predict epsilon, v_prediction or sample, got {kind!r}")
    if kind == "v_prediction":
        return scheduler.get_velocity(latents, noise, t)
    return latents if kind == "sample" else noise
