"""Generating: a personalised text-to-image pipeline, with a motion module in its UNet, makes a clip (paper section 4.4)."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from safetensors import SafetensorError

from animatediff_ref.inflation import injected
from animatediff_ref.mini import BASE_FILES, mini_file, style_file
from animatediff_ref.objective import motion_scheduler


@contextmanager
def _quietly() -> Iterator[None]:
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


with _quietly():
    from diffusers import StableDiffusionPipeline


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
    unless they are cached), or a hub id, which it then downloads. ``style``
    adds a personalised style of the mini world (``"blob"``); any other LoRA goes in with ``pipe.load_lora_weights``.
    """
    if style is not None and name != "mini":
        raise ValueError(
            f"style={style!r} belongs to the base 'mini', got base {str(name)!r}: use pipe.load_lora_weights for others"
        )
    for file in BASE_FILES if name == "mini" else ():
        mini_file(file)
    lora = style_file(style) if style else None
    place = mini_file("") if name == "mini" else Path(name)
    if not place.exists() and (place.suffix or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name))):
        raise ValueError(
            f"no base model at {place}: needed is 'mini', a pipeline folder, a .safetensors file or a hub id such as 'owner/name'"
        )
    read = StableDiffusionPipeline.from_single_file if place.is_file() else StableDiffusionPipeline.from_pretrained
    try:
        with _quietly():
            pipe = read(str(place if place.exists() else name), safety_checker=None, requires_safety_checker=False).to(
                dtype
            )
            if lora:
                pipe.load_lora_weights(str(lora.parent), weight_name=lora.name, adapter_name=style)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{name} is not a pipeline that diffusers can load: {str(error).splitlines()[0]}") from error
    if lora:
        pipe.tokenizer.init_kwargs["known_words"].append(style)  # its trigger word
    pipe.scheduler = motion_scheduler()
    return pipe


def animate(
    pipe,
    prompt: str,
    *,
    num_frames: int | None = None,
    seed: int = 0,
    num_inference_steps: int = 25,
    guidance_scale: float = 7.5,
    **options,
) -> np.ndarray:
    """A clip of ``prompt``, uint8 (frames, height, width, 3), from any Stable-Diffusion-1.x pipeline with a motion module in its UNet.

    The frames are the pipeline's images: as many as ``num_frames`` (by default those that ``inject`` was told), each from its own
    noise, drawn on the CPU so that a seed means the same on every device. ``options`` go to the pipeline. Warns of words that the
    base was never taught, where its tokenizer says which it knows. Raises ``ValueError`` without a motion module, or for more
    frames than it has positions.
    """
    motion = injected(pipe.unet)
    if motion is None:
        raise ValueError("this pipeline's UNet has no motion module: call inject(pipe.unet, motion) first")
    if not isinstance(prompt, str):
        raise ValueError(f"animate makes one clip of one prompt, a string; got {type(prompt).__name__}")
    if taken := sorted(options.keys() & TAKEN.keys()):
        raise ValueError(f"animate sets {taken[0]} itself: use {TAKEN[taken[0]]}")
    if unknown := unknown_words(pipe.tokenizer, prompt):
        warnings.warn(f"the base was never taught: {', '.join(unknown)}", UnknownWords, stacklevel=2)
    before = motion.num_frames
    motion.num_frames = before if num_frames is None else num_frames
    try:
        with _frame_by_frame(pipe.vae), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You have passed")  # one start image for all frames is meant
            frames = pipe(
                prompt,
                num_images_per_prompt=motion.num_frames,
                generator=torch.Generator().manual_seed(seed),
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                output_type="np",
                **options,
            ).images
    finally:
        motion.num_frames = before
    return (np.asarray(frames) * 255).round().astype(np.uint8)


def unknown_words(tokenizer, prompt: str) -> list[str]:
    """Words of ``prompt`` that the base was never taught; empty for a tokenizer that does not say, such as CLIP's own."""
    known = tokenizer.init_kwargs.get("known_words")
    words = re.findall(r"[^\W\d_]+", prompt.lower())
    return [] if known is None else [word for word in words if word not in known]


@contextmanager
def _frame_by_frame(vae) -> Iterator[None]:
    """Decode one frame at a time: the same pixels, a fraction of the memory."""
    before = vae.use_slicing
    vae.use_slicing = True
    try:
        yield
    finally:
        vae.use_slicing = before


def best_device() -> str:
    """cuda, mps or cpu: the best there is."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
