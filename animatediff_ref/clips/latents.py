"""From pixels and captions to latents and text states, and back."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from einops import rearrange
from tqdm import tqdm

from animatediff_ref.clips.camera import AMOUNTS, camera_path, move_camera
from animatediff_ref.clips.folders import ClipEntry, SkippedClipsWarning
from animatediff_ref.clips.video import UnusableClip, check_clip, check_reading, frame_files, read_clip
from animatediff_ref.weights.tensors import Unreadable, checksum, read_weights, save_tensors


@dataclass
class LatentClips:
    """Clips for a training stage, encoded once."""

    latents: Sequence[torch.Tensor]  # of each clip (f, 4, h, w), scaled
    text: torch.Tensor  # (n, tokens, width): the captions
    empty: torch.Tensor  # (tokens, width): the empty caption
    names: Sequence[str] = ()  # what errors call each clip; by default its number

    def __len__(self) -> int:
        return len(self.latents)

    def name(self, row: int) -> str:
        return self.names[row] if self.names else f"clip {row}"

    def sample(
        self, count: int, num_frames: int, generator: torch.Generator, caption_dropout: float = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Random windows of ``count`` random clips, as ``windows`` has them."""
        rows = torch.randint(len(self), (count,), generator=generator).tolist()
        return self.windows(rows, num_frames, generator, caption_dropout)

    def in_turn(self, first: int, count: int, seed: int) -> list[int]:
        """Numbers ``first`` to ``first + count - 1`` of an endless series of clips: all in random order, then all again.

        So no clip comes twice before every other came once. The order is another one each time round.
        """
        rounds = range(first // len(self), (first + count - 1) // len(self) + 1)
        orders = [torch.randperm(len(self), generator=seeded(seed, turn)) for turn in rounds]
        start = first - rounds[0] * len(self)
        return torch.cat(orders)[start : start + count].tolist()

    def windows(
        self, rows: Sequence[int], num_frames: int, generator: torch.Generator, caption_dropout: float = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Random windows of the clips ``rows``: latents (n, num_frames, 4, h, w) and text (n, tokens, width).

        The share ``caption_dropout`` of the captions, on average, is the empty one. ``ValueError`` if one of the clips is
        shorter than ``num_frames`` or has latents that are not finite.
        """
        latents, text = [], []
        for row in rows:
            clip = self.latents[row]
            if (spare := len(clip) - num_frames) < 0:
                raise ValueError(f"{self.name(row)} has {len(clip)} frames, needed are num_frames={num_frames}")
            start = torch.randint(spare + 1, (), generator=generator).item()
            latents.append(clip[start : start + num_frames])
            if not latents[-1].isfinite().all():
                raise ValueError(f"{self.name(row)} has latents that are not finite: leave it out, or encode it again")
            dropped = torch.rand((), generator=generator).item() < caption_dropout
            text.append(self.empty if dropped else self.text[row])
        if len(sizes := {tuple(window.shape[1:]) for window in latents}) > 1:
            raise ValueError(f"the clips of a batch have one size, got {' and '.join(map(str, sorted(sizes)))}")
        return torch.stack(latents), torch.stack(text)


def seeded(seed: int, number: int) -> torch.Generator:
    """Randomness that depends on a seed, any whole number, and on the number of a step or round."""
    return torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)


@torch.no_grad()
def encode_pixels(vae: AutoencoderKL, pictures: np.ndarray, at_once: int = 16) -> torch.Tensor:
    """Scaled latents, float32 (n, 4, h / 8, w / 8) on the CPU, of pictures or frames, uint8 (n, h, w, 3).

    They are the mode of the encoder's distribution: nothing is drawn. The 8 is Stable Diffusion's; the mini world's
    autoencoder has 4. ``at_once`` pictures are encoded at a time. ``ValueError`` where they are not finite.
    """
    pixels = rearrange(torch.from_numpy(check_clip(pictures)), "n h w c -> n c h w").contiguous()
    parts = []
    for part in pixels.split(at_once):
        scaled = part.to(vae.device, vae.dtype) / 127.5 - 1
        parts.append(vae.encode(scaled).latent_dist.mode().float().cpu())
    return _finite(torch.cat(parts), vae) * vae.config.scaling_factor


@torch.no_grad()
def decode_latents(vae: AutoencoderKL, latents: torch.Tensor, at_once: int = 16) -> np.ndarray:
    """Pictures, uint8 (n, h, w, 3), of scaled latents (n, 4, h / 8, w / 8); the inverse of ``encode_pixels``."""
    parts = []
    for part in latents.split(at_once):
        pixels = _finite(vae.decode(part.to(vae.device, vae.dtype) / vae.config.scaling_factor).sample, vae)
        parts.append(((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu())
    return rearrange(torch.cat(parts), "n c h w -> n h w c").numpy()


def _finite(numbers: torch.Tensor, vae: AutoencoderKL) -> torch.Tensor:
    if numbers.isfinite().all():
        return numbers
    half = "; in half precision its numbers overflow: try pipe.vae.to(torch.float32)" if vae.dtype.itemsize == 2 else ""
    raise ValueError(f"the autoencoder, in {vae.dtype}, gives numbers that are not finite{half}")


@torch.no_grad()
def encode_clips(
    pipe, clips: Sequence[ClipEntry], *, stride: int = 1, num_frames: int | None = None, size: int | None = None,
    fps: float | None = None, camera: str | None = None, at_least: int = 1, cache: str | Path | None = None,
) -> LatentClips:  # fmt: skip
    """Read and encode clips with the pipeline's VAE and text encoder, for a training stage.

    Takes ``num_frames`` of every ``stride``-th frame (or all), cropped and resized to squares of ``size`` pixels, by
    default the pipeline's native size. With ``fps`` the frames are first taken by time, so that films of other rates, or
    of varying ones, move at one speed. With ``camera``, one of the moves of ``camera_path``, a window of that size moves
    over frames that are ``ROOM`` times as large. Captions longer than the context are cut. ``cache`` is a folder that
    keeps what was encoded, also when this is interrupted; files of changed videos, models or options are not used.

    A clip that is unreadable or too short, for ``num_frames`` or with less than ``at_least`` frames, is left out, and named in a ``SkippedClipsWarning``. ``ValueError`` if none is
    left, and for a clip whose latents are not finite.
    """
    size = size or pipe.unet.config.sample_size * pipe.vae_scale_factor
    options = {
        "stride": stride,
        "num_frames": num_frames,
        "size": size,
        "fps": fps,
        "camera": camera,
        "at_least": at_least,
    }
    check_reading(stride, num_frames, size, fps)
    models = [checksum(part.state_dict(), {}) for part in (pipe.vae, pipe.text_encoder)] if cache else []
    told = [FORMAT, ROOM, AMOUNTS, pipe.vae.config.scaling_factor, options, models]
    found, names, bad = [], [], []
    for clip in tqdm(clips, desc="encode", unit="clip"):
        try:
            found.append(_kept(pipe, clip, options, told, Path(cache)) if cache else _encoded(pipe, clip, **options))
            names.append(str(clip.path))
        except UnusableClip as error:
            bad.append(str(error))
    if not found:
        raise ValueError(f"none of {len(clips)} clips can be used; the first: {bad[0] if bad else 'there is none'}")
    if bad:
        listed = "".join(f"\n  {fault}" for fault in bad)
        warnings.warn(f"{len(bad)} of {len(clips)} clips are left out:{listed}", SkippedClipsWarning, stacklevel=3)
    text = torch.cat([each["text"] for each in found])
    return LatentClips([each["latents"] for each in found], text, encode_text(pipe, "")[0], names)


FORMAT = 2  # of files of encoded clips; another number where reading or encoding changes
ROOM = 1.5  # side of the frames over which a camera's window moves, in sides of what it sees


def _encoded(
    pipe,
    clip: ClipEntry,
    *,
    stride: int,
    num_frames: int | None,
    size: int,
    fps: float | None,
    camera: str | None,
    at_least: int,
) -> dict[str, torch.Tensor]:
    frames = read_clip(clip.path, num_frames, stride, round(ROOM * size) if camera else size, fps)
    if len(frames) < at_least:
        raise UnusableClip(f"{clip.path} has {len(frames)} frames at stride {stride}, but {at_least} are needed")
    if camera:
        frames = move_camera(frames, camera_path(camera, len(frames)), size)
    try:
        return {"latents": encode_pixels(pipe.vae, frames), "text": encode_text(pipe, clip.caption)}
    except ValueError as error:
        raise ValueError(f"{clip.path} cannot be encoded: {error}") from error


def _kept(pipe, clip: ClipEntry, options: dict, told: list, cache: Path) -> dict[str, torch.Tensor]:
    """``_encoded``, from a file in ``cache`` that is named for all that it depends on, else written there."""
    if not clip.path.exists():
        raise UnusableClip(f"there is no file {clip.path}")
    parts = frame_files(clip.path) if clip.path.is_dir() else [clip.path]
    states = [(part.name, part.stat().st_size, part.stat().st_mtime_ns) for part in parts]
    told = [*told, str(clip.path.resolve()), states, clip.caption, pipe.tokenizer(clip.caption).input_ids]
    file = cache / f"{clip.path.stem[:60]}-{sha256(json.dumps(told).encode()).hexdigest()[:16]}.safetensors"
    try:
        return read_weights(file).tensors
    except Unreadable:
        encoded = _encoded(pipe, clip, **options)
        save_tensors(encoded, file, {})
        return encoded


@torch.no_grad()
def encode_text(pipe, caption: str) -> torch.Tensor:
    """The text encoder's states of a caption: float32 (1, tokens, width), on the CPU."""
    tokens = pipe.tokenizer(
        caption, padding="max_length", truncation=True, max_length=pipe.tokenizer.model_max_length, return_tensors="pt"
    )
    return pipe.text_encoder(tokens.input_ids.to(pipe.text_encoder.device))[0].float().cpu()
