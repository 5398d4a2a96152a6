"""Tune-A-Video (Wu et al. 2023): an image model is tuned to one clip, and draws it again with another prompt.

    for record in ar.tune_a_video(pipe, clip, "a penguin, snow"):
        ...
    again = ar.redrawn(pipe, clip, "a fox, snow")
    ar.untune(pipe.unet)

Three things are put into the image model. Each self-attention looks at the first frame and the one before, instead of at
its own. After each spatial transformer block there is a new attention along the frames, without positions, whose output
starts at zero. The GroupNorms of the ResNets see all frames at once. The queries and the new attentions then learn from
the one clip. It is drawn again from the noise that leads to it.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from einops import rearrange
from torch import nn

from animatediff_ref.baselines.sampling import guided_steps
from animatediff_ref.clips.latents import decode_latents, encode_pixels, encode_text
from animatediff_ref.generate.inputs import default_guidance
from animatediff_ref.method.config import MotionConfig
from animatediff_ref.method.inflation import injected, pooled_norms
from animatediff_ref.method.objective import denoising_error
from animatediff_ref.method.temporal import TemporalAttention
from animatediff_ref.training.loop import Loss, StepRecord, TrainConfig, optimise

RELEASED = TrainConfig(500, batch_size=1, learning_rate=3e-5, caption_dropout=0.0)  # how the released code trains


def tune_a_video(pipe, clip: np.ndarray, prompt: str, config: TrainConfig = RELEASED) -> Iterator[StepRecord]:
    """Tune ``pipe.unet`` to ``clip``, uint8 (f, h, w, 3), which shows ``prompt``; a record for each step.

    Puts what Tune-A-Video adds into the UNet and leaves it there; ``untune`` takes it out. ``config`` says how many
    steps, the learning rate and the seed; batch, frames and captions are the clip's own. The noise is that of the
    pipeline's own scheduler.

    ``ValueError`` for a UNet with a motion module, one that is tuned already or is not in float32, and fewer than two
    frames.
    """
    _check(pipe.unet, clip)
    with torch.no_grad():
        latents, text = encode_pixels(pipe.vae, clip), encode_text(pipe, prompt)
    tuned = Tuned(pipe.unet, len(clip))
    return _trained(pipe, tuned, latents[None].float().to(pipe.unet.device), text.to(pipe.unet.device), config)


def _trained(
    pipe, tuned: "Tuned", latents: torch.Tensor, text: torch.Tensor, config: TrainConfig
) -> Iterator[StepRecord]:
    scheduler = _ddim(pipe)

    def losses_of(step: int, generator: torch.Generator) -> Iterator[Loss]:
        error, t = denoising_error(pipe.unet, scheduler, latents, text, generator)
        yield Loss(error.mean(), error.detach(), t / scheduler.config.num_train_timesteps)

    return optimise(tuned.learns(), losses_of, config)


@torch.no_grad()
def redrawn(
    pipe, clip: np.ndarray, prompt: str, *, num_inference_steps: int = 50, guidance_scale: float | None = None
) -> np.ndarray:
    """``clip``, uint8 (f, h, w, 3), drawn again with another prompt by a UNet that is tuned to it.

    The clip's noise is found by running DDIM backwards (Song et al. 2020), with an empty prompt and no guidance.
    ``guidance_scale`` is by default ``default_guidance(pipe)``; the released code takes 12.5.

    ``ValueError`` for a UNet that is not tuned, or is tuned to another number of frames.
    """
    tuned = tuned_in(pipe.unet)
    if tuned is None or tuned.num_frames != len(clip):
        here = "it is not tuned" if tuned is None else f"it is tuned to {tuned.num_frames}"
        raise ValueError(f"redrawn needs a UNet that tune_a_video tuned to a clip of {len(clip)} frames: {here}")
    guidance = default_guidance(pipe) if guidance_scale is None else guidance_scale
    text, empty = pipe.encode_prompt(prompt, pipe._execution_device, 1, True)
    noise = inverted(pipe, encode_pixels(pipe.vae, clip).to(empty), empty, num_inference_steps)
    scheduler = _ddim(pipe)
    scheduler.set_timesteps(num_inference_steps, device=noise.device)
    latents = guided_steps(pipe.unet, scheduler, noise, torch.cat([empty, text]), scheduler.timesteps, guidance)
    return decode_latents(pipe.vae, latents, at_once=1)


def inverted(pipe, latents: torch.Tensor, empty: torch.Tensor, steps: int) -> torch.Tensor:
    """The noise (f, c, h, w) from which DDIM makes these latents, nearly."""
    scheduler = DDIMInverseScheduler.from_config(pipe.scheduler.config, timestep_spacing="leading")
    scheduler.set_timesteps(steps, device=latents.device)
    text = empty.expand(len(latents), -1, -1)
    for t in scheduler.timesteps:
        latents = scheduler.step(pipe.unet(latents, t, text).sample, t, latents).prev_sample
    return latents


def _ddim(pipe) -> DDIMScheduler:
    return DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="leading")


def tuned_in(unet: UNet2DConditionModel) -> "Tuned | None":
    """What ``tune_a_video`` put into ``unet``, or None."""
    return vars(unet).get("_tuned", (None,))[0]


def untune(unet: UNet2DConditionModel) -> None:
    """Take out what ``tune_a_video`` put in, and give the queries their weights back; nothing where nothing was."""
    if tuned := tuned_in(unet):
        tuned.remove(unet)


class Tuned:
    """What Tune-A-Video puts into a UNet, and what it takes to take it out again."""

    def __init__(self, unet: UNet2DConditionModel, num_frames: int):
        self.num_frames, self.processors = num_frames, unet.attn_processors
        blocks = [block for block in unet.modules() if isinstance(block, BasicTransformerBlock)]
        self.queries = [_plain(attention.to_q).weight for block in blocks for attention in (block.attn1, block.attn2)]
        self.before = [weight.detach().clone() for weight in self.queries]
        self.trainable = [p for p in unet.parameters() if p.requires_grad]
        self.added = nn.ModuleList([AlongFrames(block) for block in blocks]).to(unet.device)
        self.handles = pooled_norms(unet, self)
        for block, added in zip(blocks, self.added):
            self.handles.append(block.register_forward_hook(partial(_run_along_frames, self, added)))
        own = {n: FirstAndPrevious(each, num_frames) for n, each in self.processors.items() if ".attn1." in n}
        unet.set_attn_processor({**self.processors, **own})
        unet._tuned = (self,)  # in a tuple, so that PyTorch does not look into it

    def learns(self) -> list[nn.Parameter]:
        """All queries of the image model, and the new attentions without their norms."""
        for weight in self.trainable:
            weight.requires_grad_(False)
        parameters = [*self.queries, *(p for each in self.added for p in each.attention.parameters())]
        for parameter in parameters:
            parameter.requires_grad_(True)
        return parameters

    @torch.no_grad()
    def remove(self, unet: UNet2DConditionModel) -> None:
        for handle in self.handles:
            handle.remove()
        for weight, before in zip(self.queries, self.before):
            weight.copy_(before).requires_grad_(False)
            weight.grad = None
        for weight in self.trainable:
            weight.requires_grad_(True)
        unet.set_attn_processor(self.processors)
        del unet._tuned


class AlongFrames(nn.Module):
    """A norm and an attention along the frames of each pixel, without positions, whose output starts at zero."""

    def __init__(self, block: BasicTransformerBlock):
        super().__init__()
        width = block.norm1.normalized_shape[0]
        self.norm = nn.LayerNorm(width)
        self.attention = TemporalAttention(MotionConfig(num_heads=block.attn1.heads, positions=False), width)
        for parameter in self.attention.to_out[0].parameters():
            nn.init.zeros_(parameter)

    def forward(self, tokens: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Tokens (b f) p c of all frames, for each pixel along its frames."""
        x = rearrange(tokens, "(b f) p c -> (b p) f c", f=num_frames)
        x = x + self.attention(self.norm(x))
        return rearrange(x, "(b p) f c -> (b f) p c", p=tokens.shape[1])


def _run_along_frames(tuned: Tuned, added: AlongFrames, block: nn.Module, args: tuple, output: torch.Tensor):
    """Hook after a spatial transformer block."""
    return added(output, tuned.num_frames)


class FirstAndPrevious:
    """An attention processor whose keys and values come from the first frame of each clip and the one before."""

    def __init__(self, processor, num_frames: int):
        self.processor, self.num_frames = processor, num_frames

    def __call__(self, attn, hidden_states: torch.Tensor, encoder_hidden_states=None, *args, **kwargs) -> torch.Tensor:
        clips = rearrange(hidden_states, "(b f) p c -> b f p c", f=self.num_frames)
        first = clips[:, :1].expand_as(clips)
        previous = torch.cat([clips[:, :1], clips[:, :-1]], 1)
        seen = rearrange([first, previous], "two b f p c -> (b f) (two p) c")
        return self.processor(attn, hidden_states, seen, *args, **kwargs)


def _plain(layer: nn.Module) -> nn.Linear:
    """A layer under the adapters that may lie on it."""
    return getattr(layer, "base_layer", layer)


def _check(unet: UNet2DConditionModel, clip: np.ndarray) -> None:
    if injected(unet) is not None:
        raise ValueError("Tune-A-Video needs the image model alone: call eject(pipe.unet) first")
    if tuned_in(unet):
        raise ValueError("this UNet is tuned to a clip already: call untune(pipe.unet) first")
    if unet.dtype != torch.float32:
        raise ValueError(f"Tune-A-Video trains weights of the image model: it needs them in float32, got {unet.dtype}")
    if np.ndim(clip) != 4 or len(clip) < 2:
        raise ValueError(f"a clip is uint8 (f, h, w, 3) with at least two frames, got shape {np.shape(clip)}")
