"""Text2Video-Zero (Khachatryan et al. 2023): an image model draws a clip without having seen a video.

A picture is begun. Its latent is copied for the other frames, and the copies are shifted, each a little further. Then all
frames are drawn to the end together; their self-attentions look at the first frame instead of at their own. So the
motion is one that was written down before, and the frames agree because they look at the same picture.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from einops import repeat

from animatediff_ref.baselines.sampling import guided_steps
from animatediff_ref.clips.latents import decode_latents
from animatediff_ref.generate.inputs import default_guidance
from animatediff_ref.method.inflation import injected

SHIFT = 12 / 512  # of a frame against the one before it, as a share of the picture: the default of the released code


@torch.no_grad()
def text2video_zero(
    pipe, prompt: str, *, num_frames: int = 16, seed: int = 0, num_inference_steps: int = 25,
    guidance_scale: float | None = None, negative_prompt: str = "", shift: tuple[float, float] = (SHIFT, SHIFT),
    between: tuple[int, int] | None = None, output: str = "uint8",
) -> np.ndarray | torch.Tensor:  # fmt: skip
    """A clip of ``prompt``, uint8 (f, h, w, 3), from a Stable-Diffusion-1.x pipeline as it is.

    - ``shift``: how far the content goes from frame to frame, to the left and upwards, as a share of width and height.
    - ``between``: two numbers of steps. The latent after the second is copied and shifted, and gets so much noise as it
      had after the first; from there all frames are drawn. By default after a 25th and a tenth of the steps.
    - ``guidance_scale``: by default ``default_guidance(pipe)``.
    - ``output``: ``"uint8"``, or ``"latent"`` for scaled latents (f, c, h / 8, w / 8).

    Samples with DDIM under the betas of the pipeline's own scheduler. The first frame is the picture that the pipeline
    draws by itself from the same noise. With the same noise it gives the frames of diffusers' own pipeline of that name,
    which is deprecated.

    Raises ``ValueError`` for a UNet with a motion module in it, fewer than two frames, or steps out of order.
    """
    usual = num_inference_steps // 25
    first, second = between or (usual, max(usual + 1, num_inference_steps // 10))
    _check(pipe, num_frames, num_inference_steps, first, second, output)
    guidance = default_guidance(pipe) if guidance_scale is None else guidance_scale
    device, generator = pipe._execution_device, torch.Generator().manual_seed(seed)
    text, empty = pipe.encode_prompt(prompt, device, 1, True, negative_prompt)
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(num_inference_steps, device=device)
    times = scheduler.timesteps

    def denoised(latents: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        return guided_steps(pipe.unet, scheduler, latents, torch.cat([empty, text]), times, guidance)

    side = pipe.unet.config.sample_size
    noise = torch.randn(1, pipe.unet.config.in_channels, side, side, generator=generator)
    noisy = denoised(noise.to(text), times[:first])
    clearer = denoised(noisy, times[first:second])
    others = shifted(clearer, shift, num_frames)[1:]
    left = scheduler.alphas[times[second] : times[first]].prod()  # of the picture, where noise is added again
    noise = torch.randn(others.shape, generator=generator).to(others)
    others = left.sqrt() * others + (1 - left).sqrt() * noise
    with looking_at_the_first_frame(pipe.unet, num_frames):
        latents = denoised(torch.cat([noisy, others]), times[first:])
    return latents if output == "latent" else decode_latents(pipe.vae, latents, at_once=1)


def _check(pipe, num_frames: int, steps: int, first: int, second: int, output: str) -> None:
    if injected(pipe.unet) is not None:
        raise ValueError("Text2Video-Zero needs the image model alone: call eject(pipe.unet) first")
    if num_frames < 2:
        raise ValueError(f"Text2Video-Zero needs at least two frames, got {num_frames}")
    if not 0 <= first < second < steps:
        raise ValueError(f"between needs two numbers of steps, 0 <= first < second < {steps}, got {first} and {second}")
    if output not in ("uint8", "latent"):
        raise ValueError(f"output is uint8 or latent, got {output!r}")


def shifted(latent: torch.Tensor, shift: tuple[float, float], num_frames: int) -> torch.Tensor:
    """Copies (f, c, h, w) of a latent (1, c, h, w), copy ``k`` shifted by ``k`` times ``shift``, reflected at the edges.

    The nearest latent is taken, so the frames go on by whole latents, and some not at all.
    """
    axes = []
    for size, part in zip(latent.shape[-2:], shift[::-1]):
        place = (torch.arange(size) + 0.5) / size - 0.5 / 512  # half a pixel of 512 off, as in the released code
        axes.append(2 * (place + part * torch.arange(num_frames)[:, None]) - 1)
    y, x = axes
    grid = torch.stack([repeat(x, "f w -> f h w", h=y.shape[1]), repeat(y, "f h -> f h w", w=x.shape[1])], -1)
    copies = latent.expand(num_frames, -1, -1, -1)
    return F.grid_sample(copies, grid.to(latent), mode="nearest", padding_mode="reflection", align_corners=False)


class FirstFrame:
    """An attention processor whose keys and values come from the first frame of each clip in the batch."""

    def __init__(self, processor, num_frames: int):
        self.processor, self.num_frames = processor, num_frames

    def __call__(self, attn, hidden_states: torch.Tensor, encoder_hidden_states=None, *args, **kwargs) -> torch.Tensor:
        first = hidden_states[:: self.num_frames].repeat_interleave(self.num_frames, 0)
        return self.processor(attn, hidden_states, first, *args, **kwargs)


@contextmanager
def looking_at_the_first_frame(unet: UNet2DConditionModel, num_frames: int) -> Iterator[None]:
    """Have each self-attention of ``unet`` look at the first of each run of ``num_frames`` rows; put back at the end."""
    before = unet.attn_processors
    own = {name: FirstFrame(each, num_frames) for name, each in before.items() if ".attn1." in name}
    unet.set_attn_processor({**before, **own})
    try:
        yield
    finally:
        unet.set_attn_processor(before)
