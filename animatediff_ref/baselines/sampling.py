"""Steps of a sampler over the frames of a clip, with guidance."""

import torch
from diffusers import UNet2DConditionModel
from einops import repeat


def guided_steps(
    unet: UNet2DConditionModel, scheduler, latents: torch.Tensor, text: torch.Tensor, times: torch.Tensor, scale: float
) -> torch.Tensor:
    """Latents (f, c, h, w) after the steps at ``times``, with guidance; ``text`` is (2, n, d), the empty one first."""
    text = repeat(text, "two n d -> (two f) n d", f=len(latents))
    for t in times:
        unasked, asked = unet(torch.cat([latents] * 2), t, text).sample.chunk(2)
        latents = scheduler.step(unasked + scale * (asked - unasked), t, latents).prev_sample
    return latents
