"""Clips as rows of a pipeline's batch: a prompt, a random generator and a picture for every frame, clip after clip."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature

import numpy as np
import torch
from diffusers import MultiAdapter, MultiControlNetModel
from diffusers.image_processor import VaeImageProcessor
from PIL import Image


def prompts_by_row(prompt, clips: int, frames: int) -> list[str]:
    """The prompt of every frame of every clip. ``ValueError`` for what is not a prompt, or not one for each clip."""
    prompts = prompt if isinstance(prompt, list) else [prompt] * clips
    if not prompts or len(prompts) != clips:
        raise ValueError(f"a list has one prompt for every clip, and at least one; got {len(prompts)} for {clips}")
    return [text for each in prompts for text in _prompts_of_clip(each, frames)]


def _prompts_of_clip(prompt: str | dict[int, str], frames: int) -> list[str]:
    """The prompt of every frame; one of ``{frame: prompt}`` holds from its frame until the next."""
    changes = {0: prompt} if isinstance(prompt, str) else prompt
    if not isinstance(changes, dict) or not all(isinstance(text, str) for text in changes.values()):
        raise ValueError(
            "a prompt is a string, or strings by frame such as {0: 'day', 8: 'night'}, or a list of these; "
            f"got {prompt!r}"
        )
    if 0 not in changes or not changes.keys() <= set(range(frames)):
        raise ValueError(
            f"prompts by frame start at frame 0 and change by frame {frames - 1} at the latest; "
            f"got frames {list(changes)}"
        )
    texts = []
    for frame in range(frames):
        texts.append(changes[frame] if frame in changes else texts[-1])
    return texts


def generators_by_row(seed: int, clips: int, frames: int) -> list[torch.Generator]:
    """A generator for every row. The rows of clip ``i`` draw in turn from one generator, seeded with ``seed + i``."""
    if not hasattr(seed, "__index__"):
        raise ValueError(f"a seed is a whole number, got {seed!r}")
    rows = []
    for i in range(clips):
        number = int(seed) + i
        within = -(2**63) <= number < 2**64  # what torch takes; others are folded into it
        generator = torch.Generator().manual_seed(number if within else number % 2**64)
        rows += [generator] * frames
    return rows


def default_guidance(pipe) -> float:
    """The guidance scale that a base looks best with: what its tokenizer's configuration says, else 7.5.

    The mini world's says so; 7.5 is the default of diffusers' pipelines, made for Stable Diffusion.
    """
    return pipe.tokenizer.init_kwargs.get("guidance_scale", 7.5)


class UnknownWordsWarning(UserWarning):
    """A prompt has words that the base model was never taught."""


def unknown_words(tokenizer, prompt: str) -> list[str]:
    """Words of ``prompt`` that the base was never taught; none for a tokenizer that does not say, such as CLIP's."""
    known = tokenizer.init_kwargs.get("known_words")
    if known is None:
        return []
    return [word for word in words_of(prompt) if word not in known]


def words_of(text: str) -> list[str]:
    """The words of a prompt, in lower case."""
    return re.findall(r"[^\W\d_]+", text.lower())


@contextmanager
def instead(owner, name: str, value) -> Iterator[None]:
    """Have ``owner.name`` be ``value`` for a while. Everything that uses ``owner`` sees it, so one thread at a time."""
    before = getattr(owner, name)
    is_method = callable(before) and name not in vars(owner)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if is_method:
            delattr(owner, name)  # uncovers the method of the class
        else:
            setattr(owner, name, before)


@contextmanager
def options_by_row(pipe, options: dict, clips: int, frames: int) -> Iterator[dict]:
    """The options of a pipeline, with an entry for every row of the batch where they are prompts or pictures.

    While it is open, a pipeline that is given a clip of image prompts (IP-Adapter) uses each of them for its own row.
    """
    several = _options_for_several(pipe)
    rows = {name: _option_by_row(name, option, clips, frames, name in several) for name, option in options.items()}
    if not _is_pictures(options.get("ip_adapter_image")):
        yield rows
        return
    prepare = pipe.prepare_ip_adapter_image_embeds

    def one_image_prompt_a_row(images, embeds, device, rows, guided):
        # diffusers gives all images to each row: (branches, images, ...) for a batch of 1
        return [embeds.flatten(0, 1)[:, None] for embeds in prepare(images, embeds, device, 1, guided)]

    with instead(pipe, "prepare_ip_adapter_image_embeds", one_image_prompt_a_row):
        yield rows


def _options_for_several(pipe) -> set[str]:
    """The options that take a list with a clip for each of several ControlNets or adapters of the pipeline."""
    nets = getattr(pipe, "controlnet", None) or getattr(pipe, "adapter", None)
    if not isinstance(nets, MultiControlNetModel | MultiAdapter):
        return {"ip_adapter_image"}
    has_control_image = "control_image" in signature(pipe.__call__).parameters
    return {"ip_adapter_image", "control_image" if has_control_image else "image"}


def _option_by_row(name: str, option, clips: int, frames: int, for_several: bool):
    """One option of a pipeline, with an entry for every row if it has prompts or pictures; others stay as they are."""
    if name == "negative_prompt" and option is not None:
        return prompts_by_row(option, clips, frames)
    if name == "ip_adapter_image":
        if not _is_pictures(option):
            return option
        adapters = option if isinstance(option, list) else [option]
        return [as_rows(each, clips, frames, name) for each in adapters]
    if for_several and isinstance(option, list) and _is_pictures(option):
        # as tensors: pipelines expect lists nested in one of two orders, but tensors in the same
        return [_as_tensor(as_rows(each, clips, frames, name)) for each in option]
    return as_rows(option, clips, frames, name)


def as_rows(option, clips: int, frames: int, name: str = "the option"):
    """Pictures for the rows of a batch, a list of ``clips * frames`` PIL images, from an option of a pipeline.

    =============================================  ===================================================
    option                                         the picture in the row of frame i of clip j
    =============================================  ===================================================
    a picture: PIL, or uint8 (h, w, 3)             that picture
    a clip: uint8 (f, h, w, 3)                     picture i
    several clips: uint8 (n, f, h, w, 3)           picture (j, i)
    a list of such pictures or clips, not of PIL   as for the array that stacks them
    anything else: number, tensor, list of PIL     none: the option is returned as it is
    =============================================  ===================================================

    Masks are the same without the 3, uint8 or bool. ``ValueError``, which calls the option ``name``, for other shapes.
    """
    if isinstance(option, Image.Image):
        return [option] * (clips * frames)
    if isinstance(option, np.ndarray) and option.dtype == bool:
        option = option.astype(np.uint8) * 255
    if not _is_pictures(option):
        return option
    array = np.stack(option) if isinstance(option, list) else option
    picture_shape = array.shape[-3:] if array.shape[-1] == 3 else array.shape[-2:]
    pictures = [Image.fromarray(picture) for picture in array.reshape(-1, *picture_shape)]
    if len(pictures) not in (1, frames, clips * frames):
        raise ValueError(
            f"{name} needs a picture, uint8 (h, w, 3), or a clip of {frames} frames, (f, h, w, 3), "
            f"or one for each clip, (n, f, h, w, 3); masks without the 3; got shape {array.shape}"
        )
    return pictures * (clips * frames // len(pictures))


def _is_pictures(option) -> bool:
    """Whether this is a uint8 array, or a list of them."""
    arrays = option if isinstance(option, list) else [option]
    return bool(arrays) and all(isinstance(each, np.ndarray) and each.dtype == np.uint8 for each in arrays)


def _as_tensor(pictures: list[Image.Image]) -> torch.Tensor:
    """Pictures as (n, 3, h, w), from 0 to 1."""
    return VaeImageProcessor.numpy_to_pt(VaeImageProcessor.pil_to_numpy(pictures))
