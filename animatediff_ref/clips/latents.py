"""From pixels and captions to latents and text states, and back."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from einops import rearrange
from tqdm import tqdm

from animatediff_ref.clips.folders import ClipEntry
from animatediff_ref.clips.video import check_clip, read_clip


@dataclass
class LatentClips:
    """Clips for a training stage, encoded once."""

    latents: Sequence[torch.Tensor]  # of each clip (f, 4, h, w), scaled
    text: torch.Tensor  # (n, tokens, width): the captions
    empty: torch.Tensor  # (tokens, width): the empty caption

    def __len__(self) -> int:
        return len(self.latents)

    def sample(
        self, count: int, num_frames: int, generator: torch.Generator, caption_dropout: float = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Random windows of ``count`` clips: latents (count, num_frames, 4, h, w) and text (count, tokens, width).

        The share ``caption_dropout`` of the captions, on average, is the empty one. ``ValueError`` if a drawn clip is
        shorter than ``num_frames``.
        """
        latents, text = [], []
        for i in torch.randint(len(self), (count,), generator=generator).tolist():
            spare = len(self.latents[i]) - num_frames
            if spare < 0:
                raise ValueError(f"clip {i} has {len(self.latents[i])} frames, needed are num_frames={num_frames}")
            start = torch.randint(spare + 1, (), generator=generator).item()
            latents.append(self.latents[i][start : start + num_frames])
            dropped = torch.rand((), generator=generator).item() < caption_dropout
            text.append(self.empty if dropped else self.text[i])
        return torch.stack(latents), torch.stack(text)


@torch.no_grad()
def encode_pixels(vae: AutoencoderKL, pictures: np.ndarray, at_once: int = 16) -> torch.Tensor:
    """Scaled latents, float32 (n, 4, h / 8, w / 8) on the CPU, of pictures or frames, uint8 (n, h, w, 3).

    They are the mode of the encoder's distribution: nothing is drawn. The 8 is Stable Diffusion's; the mini world's
    autoencoder has 4. ``at_once`` pictures are encoded at a time.
    """
    pixels = rearrange(torch.from_numpy(check_clip(pictures)), "n h w c -> n c h w").contiguous()
    parts = []
    for part in pixels.split(at_once):
        scaled = part.to(vae.device, vae.dtype) / 127.5 - 1
        parts.append(vae.encode(scaled).latent_dist.mode().float().cpu())
    return torch.cat(parts) * vae.config.scaling_factor


@torch.no_grad()
def decode_latents(vae: AutoencoderKL, latents: torch.Tensor, at_once: int = 16) -> np.ndarray:
    """Pictures, uint8 (n, h, w, 3), of scaled latents (n, 4, h / 8, w / 8); the inverse of ``encode_pixels``."""
    parts = []
    for part in latents.split(at_once):
        pixels = vae.decode(part.to(vae.device, vae.dtype) / vae.config.scaling_factor).sample
        parts.append(((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu())
    return rearrange(torch.cat(parts), "n c h w -> n h w c").numpy()


@torch.no_grad()
def encode_clips(pipe, clips: Sequence[ClipEntry], *, stride: int = 1, num_frames: int | None = None) -> LatentClips:
    """Read and encode clips with the pipeline's VAE and text encoder, for a training stage.

    Takes ``num_frames`` of every ``stride``-th frame (or all), cropped and resized to squares of the pipeline's native
    size. Captions longer than the context are cut. ``ValueError`` for a video that is unreadable or too short.
    """
    size = pipe.unet.config.sample_size * pipe.vae_scale_factor
    latents = []
    for clip in tqdm(clips, desc="encode", unit="clip"):
        latents.append(encode_pixels(pipe.vae, read_clip(clip.path, num_frames, stride, size)))
    text = torch.cat([encode_text(pipe, clip.caption) for clip in clips])
    return LatentClips(latents, text, encode_text(pipe, "")[0])


@torch.no_grad()
def encode_text(pipe, caption: str) -> torch.Tensor:
    """The text encoder's states of a caption: float32 (1, tokens, width), on the CPU."""
    tokens = pipe.tokenizer(
        caption, padding="max_length", truncation=True, max_length=pipe.tokenizer.model_max_length, return_tensors="pt"
    )
    return pipe.text_encoder(tokens.input_ids.to(pipe.text_encoder.device))[0].float().cpu()
