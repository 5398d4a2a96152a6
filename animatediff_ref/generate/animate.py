"""Generating: a personalised image pipeline with a motion module in its UNet makes a clip (paper section 4.4)."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from inspect import signature
from threading import Lock

import numpy as np
import torch
from diffusers.models.autoencoders.vae import DecoderOutput
from PIL import Image

from animatediff_ref.generate.inputs import (
    UnknownWordsWarning,
    default_guidance,
    generators_by_row,
    instead,
    options_by_row,
    prompts_by_row,
    unknown_words,
)
from animatediff_ref.method.inflation import injected
from animatediff_ref.method.motion_module import MotionModule
from animatediff_ref.method.objective import motion_scheduler

SET_BY_ANIMATE = {  # option of a pipeline -> what to use instead
    "num_images_per_prompt": "num_frames",
    "output_type": "output",
    "return_dict": "output",
}
OUTPUTS = ("uint8", "pil", "latent")
LOCK, IN_USE = Lock(), set()  # ids of the parts of pipelines that are making clips


def animate(
    pipe,
    prompt: str | dict[int, str] | list | None = None,
    *,
    num_frames: int | None = None,
    seed: int = 0,
    generator: torch.Generator | list[torch.Generator] | None = None,
    num_inference_steps: int = 25,
    guidance_scale: float | None = None,
    schedule: str | None = None,
    decode_chunk_size: int = 1,
    output: str = "uint8",
    **options,
) -> np.ndarray | list | torch.Tensor:
    """A clip of ``prompt``, uint8 (f, h, w, 3), from a Stable-Diffusion-1.x pipeline with a motion module in its UNet.

    - ``prompt``: a string; or ``{frame: string}``, each held from its frame until the next; or a list of these for
      several clips in one batch, uint8 (n, f, h, w, 3), where clip ``i`` is the one that ``seed + i`` makes alone.
      ``negative_prompt`` likewise. ``prompt_embeds`` may take its place: (1 or f, tokens, width), or with the number of
      clips before it for several in a batch; ``negative_prompt_embeds`` likewise. With both, a pipeline needs neither
      a text encoder nor a tokenizer.
    - ``num_frames``: by default as many as ``inject`` was told.
    - ``guidance_scale``: by default ``default_guidance(pipe)``: 7.5, for the mini world less.
    - ``seed``: each frame has its own noise, drawn on the CPU, so that a seed means the same on every device.
      ``generator`` may take its place, or a list with one for each clip: the frames of a clip draw from it in turn.
    - ``schedule``: ``"official"``, the default, samples with ``motion_scheduler(pipe.scheduler)``: DDIM, the betas of
      the motion modules' training, and what the base predicts. The pipeline then gets its own back. Where that makes
      other clips, a ``ScheduleWarning`` says in what it differs, unless ``"official"`` is asked for. ``"pipeline"``
      keeps the pipeline's as it is (DPM++, LCM ...). LCM needs ``"pipeline"``.
    - ``decode_chunk_size``: how many frames go through the decoder at a time.
    - ``output``: ``"uint8"``; ``"pil"``, a list of images for each clip; or ``"latent"``, which decodes nothing: a
      tensor (f, c, h, w), scaled, or (n, f, c, h, w), as ``decode_latents`` takes the frames of one clip.
    - ``options`` go to the pipeline: ``image``, ``strength``, ``callback_on_step_end`` ... ``as_rows`` lists which
      pictures, clips and masks they may be, and each frame gets its own. Several ControlNets or adapters take a list, a
      clip for each. ``latents`` are the noise of every frame, (f, c, h, w). Of ``height`` and ``width`` one is enough.
    - ``ip_adapter_image``: likewise where it is an array or a tensor. A list is, as in diffusers, one entry for each
      IP-Adapter; one that is itself a list is no clip: every frame gets all the pictures in it.

    Tried are the pipelines of ``data/pipelines.csv``, on small random models; it says which do not animate.
    While it runs, it changes scheduler, decoder and number of frames of ``pipe``, and then puts them back. A second
    call with the pipeline, or with a part of it, is refused meanwhile: other threads need a ``copy.deepcopy``.
    Words that the base was never taught cause an ``UnknownWordsWarning``. Raises ``ValueError`` without a motion
    module, for more frames than it has positions, and for prompts, clips or settings that do not fit.
    """
    motion = _motion_in(pipe)
    guidance = default_guidance(pipe) if guidance_scale is None else guidance_scale
    _check_options(pipe, options, decode_chunk_size, output)
    clips, batched = _number_of_clips(prompt, options)
    _check_text(pipe, options, guidance)
    frames = motion.num_frames if num_frames is None else num_frames
    with _alone(pipe, motion, pipe.vae, pipe.text_encoder, pipe.scheduler), instead(motion, "num_frames", frames):
        frames = motion.num_frames
        prompts = None if prompt is None else prompts_by_row(prompt, clips, frames)
        _tell_unknown_words(pipe, prompts or ())
        with (
            instead(pipe, "scheduler", _scheduler(pipe, schedule)),
            instead(pipe.vae, "decode", _in_chunks(pipe.vae.decode, decode_chunk_size)),
            options_by_row(pipe, options, clips, frames) as options,
        ):
            made = pipe(
                prompt=prompts,
                generator=generators_by_row(seed, clips, frames, generator),
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance,
                output_type="latent" if output == "latent" else "np",
                **options,
            ).images
    in_clips = _in_clips(pipe, made, clips, output)
    return in_clips if batched else in_clips[0]


def _tell_unknown_words(pipe, prompts: Iterable[str]) -> None:
    """Warn the caller of ``animate``."""
    if unknown := unknown_words(pipe.tokenizer, " ".join(dict.fromkeys(prompts))):
        warnings.warn(f"the base was never taught: {', '.join(unknown)}", UnknownWordsWarning, stacklevel=3)


@contextmanager
def _alone(*parts) -> Iterator[None]:
    """Let one call at a time use each of these parts. ``ValueError`` for a second one."""
    mine = {id(part) for part in parts if part is not None}
    with LOCK:
        if mine & IN_USE:
            raise ValueError(
                "this pipeline, or a part of it, is making a clip already: wait for it, "
                "or give every thread a copy of its own (copy.deepcopy)"
            )
        IN_USE.update(mine)
    try:
        yield
    finally:
        with LOCK:
            IN_USE.difference_update(mine)


def _in_clips(pipe, made, clips: int, output: str) -> np.ndarray | list | torch.Tensor:
    """What a pipeline made, row by row, as clips of the kind that is asked for."""
    rows = _checked_latents(pipe, made) if output == "latent" else (np.asarray(made) * 255).round().astype(np.uint8)
    in_clips = rows.reshape(clips, -1, *rows.shape[1:])
    return [[Image.fromarray(frame) for frame in clip] for clip in in_clips] if output == "pil" else in_clips


def _checked_latents(pipe, latents) -> torch.Tensor:
    if not torch.is_tensor(latents):
        raise ValueError(f"{type(pipe).__name__} gives no latents: use output='uint8'")
    _check_finite(latents, latents, 0)
    return latents


def _number_of_clips(prompt, options: dict) -> tuple[int, bool]:
    """How many clips are asked for, and whether as a batch. ``ValueError`` for two sorts of prompts, or none."""
    embeddings = options.get("prompt_embeds")
    if (prompt is None) == (embeddings is None):
        raise ValueError(
            f"animate needs either a prompt or prompt_embeds, got {'neither' if prompt is None else 'both'}"
        )
    if all(options.get(name) is not None for name in ("negative_prompt", "negative_prompt_embeds")):
        raise ValueError("animate needs either negative_prompt or negative_prompt_embeds, got both")
    if prompt is None:
        batched = getattr(embeddings, "ndim", 0) == 4
        return len(embeddings) if batched else 1, batched
    return len(prompt) if isinstance(prompt, list) else 1, isinstance(prompt, list)


def _check_text(pipe, options: dict, guidance: float) -> None:
    """``ValueError`` for a pipeline that cannot read text and is not given embeddings in its place."""
    if pipe.text_encoder is not None and pipe.tokenizer is not None:
        return
    wanted = ("prompt_embeds", "negative_prompt_embeds") if guidance > 1 else ("prompt_embeds",)
    needed = [name for name in wanted if name in signature(pipe.__call__).parameters]
    if missing := [name for name in needed if options.get(name) is None]:
        raise ValueError(
            f"this pipeline has no text encoder or no tokenizer: it needs {' and '.join(needed)}, "
            f"got no {' and no '.join(missing)}"
        )


def _check_options(pipe, options: dict, decode_chunk_size: int, output: str) -> None:
    not_here = sorted(options.keys() & SET_BY_ANIMATE.keys())
    if not_here:
        raise ValueError(f"animate sets {not_here[0]} itself: use {SET_BY_ANIMATE[not_here[0]]}")
    unknown = sorted(options.keys() - signature(pipe.__call__).parameters)
    if unknown:
        raise ValueError(f"{type(pipe).__name__} has no option {unknown[0]!r}")
    if output not in OUTPUTS:
        raise ValueError(f"output is one of {', '.join(OUTPUTS)}, got {output!r}")
    if not isinstance(decode_chunk_size, int) or decode_chunk_size < 1:
        raise ValueError(f"decode_chunk_size is a number of frames, at least 1; got {decode_chunk_size!r}")


def _motion_in(pipe) -> MotionModule:
    if getattr(pipe, "unet", None) is None:
        raise ValueError(f"animate needs a pipeline with a Stable-Diffusion-1.x UNet, got {type(pipe).__name__}")
    motion = injected(pipe.unet)
    if motion is None:
        raise ValueError("this pipeline's UNet has no motion module: call inject(pipe.unet, motion) first")
    return motion


class ScheduleWarning(UserWarning):
    """A pipeline's own scheduler is not the one that its clip is sampled with."""


def _scheduler(pipe, schedule: str | None):
    """The scheduler to sample with. Called from ``animate``, for whose caller the warning is."""
    if schedule not in (None, "official", "pipeline"):
        raise ValueError(f"schedule is 'official' or 'pipeline', got {schedule!r}")
    if schedule == "pipeline":
        return pipe.scheduler
    if "original_inference_steps" in signature(pipe.__call__).parameters:  # a pipeline made for LCM
        raise ValueError(f"{type(pipe).__name__} samples with its own scheduler only: use schedule='pipeline'")
    official = motion_scheduler(pipe.scheduler)
    if schedule is None and (differing := _differing(pipe.scheduler, official)):
        own = type(pipe.scheduler).__name__
        warnings.warn(
            "the clip is sampled with DDIM and linear betas, as motion modules were trained, and not with this "
            f"pipeline's {own}, which differs in {', '.join(differing)}: schedule='official' asks for that, "
            f"schedule='pipeline' keeps the {own}; pipe.scheduler = ar.motion_scheduler(pipe.scheduler) makes it the "
            "pipeline's own",
            ScheduleWarning,
            stacklevel=3,
        )
    return official


def _differing(own, official) -> list[str]:
    """In what the clips of a scheduler are other than those of ``official``: its class, and names of settings."""
    idle = {"clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value"}  # nothing is clipped or thresholded
    if official.config.timestep_spacing != "leading":
        idle.add("steps_offset")
    kind = [] if type(own) is type(official) else ["class"]
    shared = [name for name in official.config if name in own.config and name not in idle and name[0] != "_"]
    return kind + [name for name in shared if not np.array_equal(own.config[name], official.config[name])]


def _in_chunks(decode: Callable, size: int) -> Callable:
    """``decode`` for ``size`` rows at a time: the same pixels, a fraction of the memory."""

    def in_chunks(latents: torch.Tensor, return_dict: bool = True, **options):
        parts = []
        for start in range(0, len(latents), size):
            rows = slice(start, start + size)
            # generators are cut too, as are the pictures that some decoders look at
            cut = {name: value[rows] if _is_by_row(value, latents) else value for name, value in options.items()}
            parts.append(decode(latents[rows], return_dict=False, **cut)[0])
            _check_finite(latents[rows], parts[-1], start)
        pixels = torch.cat(parts)
        return DecoderOutput(pixels) if return_dict else (pixels,)

    return in_chunks


def _check_finite(latents: torch.Tensor, pixels: torch.Tensor, first: int) -> None:
    """Refuse rows of pixels that are not finite: they would become a black clip."""
    rows = [first + i for i, row in enumerate(pixels) if not row.isfinite().all()]
    if rows:
        maker = "the decoder" if latents.isfinite().all() else "the UNet"
        half = pixels.dtype == torch.float16
        helps = (
            "its numbers overflow in float16: try float32, bfloat16 or another VAE" if half else "look at its weights"
        )
        raise ValueError(f"{maker} gave numbers that are not finite, in row {', '.join(map(str, rows))}: {helps}")


def _is_by_row(value, latents: torch.Tensor) -> bool:
    return isinstance(value, list | torch.Tensor) and len(value) == len(latents)
