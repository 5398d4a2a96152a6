"""Generating: a personalised text-to-image pipeline, with a motion module in its UNet, makes a clip (paper section 4.4)."""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from safetensors import SafetensorError

from animatediff_ref.inflation import injected
from animatediff_ref.mini import BASE_FILES, STYLES, mini_file, style_file
from animatediff_ref.motion_module import MotionModule
from animatediff_ref.objective import motion_scheduler
from animatediff_ref.rows import generators_by_row, instead, options_by_row, prompts_by_row


@contextmanager
def quietly() -> Iterator[None]:
    """Keep what loading says to itself: hints about parts that nothing here uses, and bars of a second's length."""
    voices = (diffusers.utils.logging, transformers.utils.logging)
    before = [(voice.get_verbosity(), voice.is_progress_bar_enabled()) for voice in voices]
    for voice in voices:
        voice.set_verbosity_error()
        voice.disable_progress_bar()
    try:
        yield
    finally:
        for voice, (verbosity, bars) in zip(voices, before):
            voice.set_verbosity(verbosity)
            if bars:
                voice.enable_progress_bar()


with quietly():
    from diffusers import StableDiffusionPipeline
    from diffusers.models.autoencoders.vae import DecoderOutput


TAKEN = {
    "generator": "seed",
    "num_images_per_prompt": "num_frames",
    "output_type": "the returned uint8 array",
    "return_dict": "the returned uint8 array",
}


class UnknownWords(UserWarning):
    """A prompt has words that the base model was never taught."""


def load_base(
    name: str | Path = "mini", *, style: str | None = None, dtype: torch.dtype = torch.float32
) -> StableDiffusionPipeline:
    """A Stable-Diffusion-1.x pipeline with the scheduler that motion modules were trained with (linear betas).

    ``name`` is ``"mini"``, a folder, one .safetensors or .ckpt file (whose configuration and tokenizer diffusers fetches from the hub
    unless they are cached), or a hub id, which it then downloads. ``style`` names
    a personalised model of the mini world (``animatediff_ref.mini.STYLES``: a LoRA, a whole checkpoint, an embedding); others go in by
    diffusers' own ``pipe.load_lora_weights``, ``pipe.load_textual_inversion``, or as ``name``.
    Raises ``ValueError`` for an unknown style, for a file that is missing or not whole, and where there is no pipeline that
    diffusers can load.
    """
    name = str(name)
    if style is not None and name != "mini":
        raise ValueError(
            f"style={style!r} belongs to the base 'mini', got base {str(name)!r}: use pipe.load_lora_weights for others"
        )
    for file in BASE_FILES if name == "mini" else ():
        mini_file(file)
    personal = style_file(style) if style else None
    kind, _, trigger = STYLES[style] if style else (None, None, "")
    place = mini_file("") if name == "mini" else Path(name)
    if not place.exists() and (place.suffix or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name))):
        raise ValueError(
            f"no base model at {place}: needed is 'mini', a pipeline folder, a .safetensors file or a hub id such as 'owner/name'"
        )
    options = {"safety_checker": None, "requires_safety_checker": False}
    if kind == "checkpoint":  # a whole model, without the configuration and tokenizer of its base
        place, options = personal, {**options, "config": str(place), "local_files_only": True}
    read = StableDiffusionPipeline.from_single_file if place.is_file() else StableDiffusionPipeline.from_pretrained
    try:
        with quietly():
            pipe = read(str(place if place.exists() else name), **options).to(dtype)
            if kind in ("lora", "dreambooth"):
                pipe.load_lora_weights(str(personal.parent), weight_name=personal.name, adapter_name=style)
            elif kind == "embedding":
                pipe.load_textual_inversion(str(personal), token=trigger)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{name} is not a pipeline that diffusers can load: {str(error).splitlines()[0]}") from error
    if style:
        pipe.tokenizer.init_kwargs["known_words"] += _words(trigger)
    pipe.scheduler = motion_scheduler()
    return pipe


def animate(
    pipe,
    prompt: str | dict[int, str] | list,
    *,
    num_frames: int | None = None,
    seed: int = 0,
    num_inference_steps: int = 25,
    guidance_scale: float = 7.5,
    schedule: str = "official",
    decode_chunk_size: int = 1,
    **options,
) -> np.ndarray:
    """A clip of ``prompt``, uint8 (f, h, w, 3), from any Stable-Diffusion-1.x pipeline with a motion module in its UNet.

    The frames are the pipeline's images: as many as ``num_frames`` (by default those that ``inject`` was told), each from its own
    noise, drawn on the CPU so that a seed means the same on every device.

    - ``prompt``: a string; or ``{frame: string}``, each held from its frame until the next; or a list of these for several clips
      in one batch, uint8 (n, f, h, w, 3), where clip ``i`` is the one that ``seed + i`` makes alone. ``negative_prompt`` likewise.
    - ``schedule``: ``"official"`` samples with ``motion_scheduler()``, which motion modules were trained with, and gives the pipeline
      its own back; ``"pipeline"`` keeps the pipeline's (DPM++, LCM ...). Pipelines and LoRAs made for LCM need ``"pipeline"``.
    - ``decode_chunk_size``: how many frames go through the decoder at a time.
    - ``options`` go to the pipeline: ``image``, ``strength``, ``callback_on_step_end`` ... A picture there (PIL, or uint8 (h, w, 3))
      serves all frames; of a clip (uint8 (f, h, w, 3) as from ``read_clip``; masks (f, h, w)) each frame gets its own, also
      as ``ip_adapter_image``, where diffusers gives every image to every frame. Several clips with pictures of their own take
      uint8 (n, f, h, w, 3); several ControlNets or adapters a list, a clip for each.

    Warns of words that the base was never taught, where its tokenizer says which it knows. Raises ``ValueError`` without a motion
    module, for more frames than it has positions, and for prompts, clips or settings that do not fit.
    """
    motion = _motion_in(pipe)
    if taken := sorted(options.keys() & TAKEN.keys()):
        raise ValueError(f"animate sets {taken[0]} itself: use {TAKEN[taken[0]]}")
    if unknown := sorted(options.keys() - signature(pipe.__call__).parameters):
        raise ValueError(f"{type(pipe).__name__} has no option {unknown[0]!r}")
    if not isinstance(decode_chunk_size, int) or decode_chunk_size < 1:
        raise ValueError(f"decode_chunk_size is a number of frames, at least 1; got {decode_chunk_size!r}")
    clips = len(prompt) if isinstance(prompt, list) else 1
    with instead(motion, "num_frames", motion.num_frames if num_frames is None else num_frames):
        frames = motion.num_frames
        prompts = prompts_by_row(prompt, clips, frames)
        if unknown := unknown_words(pipe.tokenizer, " ".join(dict.fromkeys(prompts))):
            warnings.warn(f"the base was never taught: {', '.join(unknown)}", UnknownWords, stacklevel=2)
        with (
            instead(pipe, "scheduler", _scheduler(pipe, schedule)),
            instead(pipe.vae, "decode", _in_chunks(pipe.vae.decode, decode_chunk_size)),
            options_by_row(pipe, options, clips, frames) as options,
        ):
            images = pipe(
                prompt=prompts,
                generator=generators_by_row(seed, clips, frames),
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                output_type="np",
                **options,
            ).images
    made = (np.asarray(images) * 255).round().astype(np.uint8)
    return made.reshape(clips, frames, *made.shape[1:]) if isinstance(prompt, list) else made


def unknown_words(tokenizer, prompt: str) -> list[str]:
    """Words of ``prompt`` that the base was never taught; empty for a tokenizer that does not say, such as CLIP's own."""
    known = tokenizer.init_kwargs.get("known_words")
    return [] if known is None else [word for word in _words(prompt) if word not in known]


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())


def best_device() -> str:
    """cuda, mps or cpu: the best there is."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _motion_in(pipe) -> MotionModule:
    if getattr(pipe, "unet", None) is None:
        raise ValueError(f"animate needs a pipeline with a Stable-Diffusion-1.x UNet, got {type(pipe).__name__}")
    if (motion := injected(pipe.unet)) is None:
        raise ValueError("this pipeline's UNet has no motion module: call inject(pipe.unet, motion) first")
    return motion


def _scheduler(pipe, schedule: str):
    if schedule not in ("official", "pipeline"):
        raise ValueError(f"schedule is 'official' or 'pipeline', got {schedule!r}")
    if schedule == "official" and "original_inference_steps" in signature(pipe.__call__).parameters:
        raise ValueError(f"{type(pipe).__name__} samples with its own scheduler only: use schedule='pipeline'")
    return motion_scheduler() if schedule == "official" else pipe.scheduler


def _in_chunks(decode: Callable, size: int) -> Callable:
    """``decode`` for ``size`` rows at a time: the same pixels, a fraction of the memory."""

    def in_chunks(latents: torch.Tensor, return_dict: bool = True, **options):
        parts = []
        for rows in (slice(start, start + size) for start in range(0, len(latents), size)):
            # generators are cut too, as are the pictures that some decoders look at
            cut = {
                k: v[rows] if isinstance(v, (list, torch.Tensor)) and len(v) == len(latents) else v
                for k, v in options.items()
            }
            parts.append(decode(latents[rows], return_dict=False, **cut)[0])
        return DecoderOutput(torch.cat(parts)) if return_dict else (torch.cat(parts),)

    return in_chunks
