"""Clips: reading and writing them, the folder or table they come from, and their latents for training.

A clip is uint8 ``(f, h, w, 3)``, RGB. PyAV reads and writes video, so no separate ffmpeg is needed.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import av
import numpy as np
import torch
from einops import rearrange
from PIL import Image
from tqdm import tqdm

from animatediff_ref.storage import written_aside

COLUMNS = ("videoid", "name")  # of a WebVid-style CSV; "page_dir" may name a folder below
SUFFIXES = (".mp4", ".gif", ".webp")


def read_clip(path: str | Path, num_frames: int | None = None, stride: int = 1, size: int | None = None) -> np.ndarray:
    """Every ``stride``-th frame of a video, uint8 (f, h, w, 3), ``num_frames`` of them or all.

    ``size`` resizes the shorter side to it and crops the centre square. ``ValueError`` if the file cannot be read as
    video, holds no frame, or too few.
    """
    if stride < 1 or (num_frames is not None and num_frames < 1):
        raise ValueError(
            f"a clip needs stride and num_frames of at least 1, got stride={stride}, num_frames={num_frames}"
        )
    try:
        with av.open(str(path)) as video:
            picked = islice(video.decode(video=0), 0, stride * num_frames if num_frames else None, stride)
            frames = [frame.to_ndarray(format="rgb24") for frame in picked]
    except (av.FFmpegError, IndexError, OSError) as error:
        raise ValueError(f"{path} cannot be read as video: {error}") from error
    if len(frames) < (num_frames or 1):
        raise ValueError(f"{path} has {len(frames)} frames at stride {stride}, needed are {num_frames or 1}")
    return np.stack([_square(frame, size) for frame in frames] if size else frames)


def _square(frame: np.ndarray, size: int) -> np.ndarray:
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image = Image.fromarray(frame[top : top + side, left : left + side])
    return np.asarray(image if side == size else image.resize((size, size), Image.LANCZOS))


def check_clip(clip: np.ndarray) -> np.ndarray:
    """``clip`` as uint8 (f, h, w, 3), or a ``ValueError`` that says what came."""
    clip = np.asarray(clip)
    if clip.ndim != 4 or clip.shape[-1] != 3 or clip.dtype != np.uint8 or not len(clip):
        raise ValueError(f"a clip is uint8 of shape (frames, height, width, 3), got {clip.dtype} of shape {clip.shape}")
    return clip


def check_suffix(path: str | Path) -> Path:
    """``path``, if clips are written with such a suffix; else a ``ValueError``."""
    if Path(path).suffix not in SUFFIXES:
        raise ValueError(f"a clip is written as one of {', '.join(SUFFIXES)}, got {Path(path).name!r}")
    return Path(path)


def write_clip(clip: np.ndarray, path: str | Path, fps: int = 8, crf: int = 20) -> None:
    """Write a clip as .mp4 (H.264), .gif or .webp, by the suffix; GIF and WebP loop. The file appears whole or not at all.

    ``crf`` is the quality of .mp4, from 0 (no loss) to 51 (worst). ``ValueError`` for what is no clip, suffix or quality.
    """
    clip, path = check_clip(clip), check_suffix(path)
    if not 0 <= crf <= 51:
        raise ValueError(f"crf, the quality of .mp4, goes from 0 (no loss) to 51 (worst), got {crf}")
    with written_aside(path) as aside:
        if path.suffix == ".mp4":
            _write_mp4(clip, aside, fps, crf)
        else:
            pictures = [Image.fromarray(frame) for frame in clip]
            options = {"quality": 90} if path.suffix == ".webp" else {}
            pictures[0].save(
                aside, save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0, **options
            )


def _write_mp4(clip: np.ndarray, path: Path, fps: int, crf: int) -> None:
    height, width = (
        side - side % 2 for side in clip.shape[1:3]
    )  # 4:2:0 colour, which every player reads, needs even sides
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as video:
        options = {"crf": str(crf), "preset": "slow", "threads": "1"}  # one: the same bytes on every machine
        stream = video.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in clip[:, :height, :width]:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        video.mux(stream.encode())


@dataclass(frozen=True)
class Clip:
    """One row of a set of clips: where it lies and what it shows."""

    path: Path
    caption: str


def list_clips(source: str | Path, folder: str | Path | None = None) -> list[Clip]:
    """The clips of a folder of .mp4 (caption: ``NAME.txt`` beside, else the file's name) or of a WebVid-style CSV.

    A CSV has the columns ``videoid`` and ``name`` (the caption), and optionally ``page_dir``; files are
    ``folder/page_dir/videoid.mp4``, ``folder`` being the CSV's own unless given.
    """
    source = Path(source)
    if source.is_dir():
        found = [Clip(path, _caption(path)) for path in sorted(source.glob("*.mp4"))]
        if not found:
            raise ValueError(
                f"no .mp4 in {source}: needed is a folder of clips, or a CSV with the columns {', '.join(COLUMNS)}"
            )
        return found
    if not source.is_file() or source.suffix != ".csv":
        raise ValueError(f"no folder or CSV of clips at {source}")
    with open(source, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or [])]:
            came = ", ".join(reader.fieldnames or []) or "none"
            raise ValueError(f"{source} lacks the columns {', '.join(missing)}; it has {came}")
        rows = list(reader)
    if not rows:
        raise ValueError(f"{source} names no clips: it has its columns, and no rows below them")
    root = Path(folder or source.parent)
    return [Clip(root / (row.get("page_dir") or "") / f"{row['videoid']}.mp4", row["name"] or "") for row in rows]


def _caption(path: Path) -> str:
    beside = path.with_suffix(".txt")
    return beside.read_text(encoding="utf-8").strip() if beside.exists() else path.stem.replace("_", " ")


@dataclass
class LatentClips:
    """Clips as a training stage wants them: encoded once. ``latents[i]`` is (f, 4, h, w), scaled; ``text`` is (n, tokens, width)."""

    latents: Sequence[torch.Tensor]
    text: torch.Tensor
    empty: torch.Tensor  # (tokens, width): the empty caption

    def __len__(self) -> int:
        return len(self.latents)

    def sample(
        self, count: int, num_frames: int, generator: torch.Generator, caption_dropout: float = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Random windows of consecutive frames, (b, f, 4, h, w), and their text, (b, tokens, width), some of it emptied."""
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
def encode_clips(pipe, clips: Sequence[Clip], *, stride: int = 1, num_frames: int | None = None) -> LatentClips:
    """Read, resize and encode clips with the pipeline's VAE and text encoder, once, for a training stage.

    Frames become squares of the pipeline's native size; captions longer than the context are cut.
    """
    size = pipe.unet.config.sample_size * pipe.vae_scale_factor
    device, latents = pipe.vae.device, []
    for clip in tqdm(clips, desc="encode", unit="clip"):
        frames = torch.from_numpy(read_clip(clip.path, num_frames, stride, size))
        pixels = rearrange(frames, "f h w c -> f c h w").contiguous().to(device, pipe.vae.dtype) / 127.5 - 1
        parts = [pipe.vae.encode(part).latent_dist.mode().float().cpu() for part in pixels.split(16)]
        latents.append(torch.cat(parts) * pipe.vae.config.scaling_factor)
    text = torch.cat([encode_text(pipe, clip.caption) for clip in clips])
    return LatentClips(latents, text, encode_text(pipe, "")[0])


@torch.no_grad()
def encode_text(pipe, caption: str) -> torch.Tensor:
    """The text encoder's states of a caption, float32 (1, tokens, width), on the CPU."""
    tokens = pipe.tokenizer(
        caption, padding="max_length", truncation=True, max_length=pipe.tokenizer.model_max_length, return_tensors="pt"
    )
    return pipe.text_encoder(tokens.input_ids.to(pipe.text_encoder.device))[0].float().cpu()
