"""A clip as rows of a pipeline's batch: a prompt, a random generator and a picture for every frame."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature

import numpy as np
import torch
from diffusers import MultiAdapter, MultiControlNetModel
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

NEEDED = "a picture, uint8 (h, w, 3), or a clip of {frames} frames, (f, h, w, 3), or one for each clip, (n, f, h, w, 3); masks without the 3"


def prompts_by_row(prompt, clips: int, frames: int) -> list[str]:
    """The prompt of every frame of every clip."""
    of_clips = prompt if isinstance(prompt, list) else [prompt] * clips
    if not of_clips or len(of_clips) != clips:
        raise ValueError(f"a list has one prompt for every clip, and at least one; got {len(of_clips)} for {clips}")
    return [text for each in of_clips for text in _held(each, frames)]


def _held(prompt: str | dict[int, str], frames: int) -> list[str]:
    """The prompt of every frame of one clip."""
    changes = {0: prompt} if isinstance(prompt, str) else prompt
    if not isinstance(changes, dict) or not all(isinstance(text, str) for text in changes.values()):
        raise ValueError(
            f"a prompt is a string, or strings by frame such as {{0: 'day', 8: 'night'}}, or a list of these; got {prompt!r}"
        )
    if 0 not in changes or not changes.keys() <= set(range(frames)):
        raise ValueError(
            f"prompts by frame start at frame 0 and change by frame {frames - 1} at the latest; got frames {list(changes)}"
        )
    return [changes[max(start for start in changes if start <= frame)] for frame in range(frames)]


def generators_by_row(seed: int, clips: int, frames: int) -> list[torch.Generator]:
    """A generator for every row; the rows of a clip draw in turn from one that they share."""
    if not hasattr(seed, "__index__"):
        raise ValueError(f"a seed is a whole number, got {seed!r}")
    of_clips = [torch.Generator().manual_seed(int(seed) + i) for i in range(clips)]
    return [generator for generator in of_clips for _ in range(frames)]


class UnknownWordsWarning(UserWarning):
    """A prompt has words that the base model was never taught."""


def unknown_words(tokenizer, prompt: str) -> list[str]:
    """Words of ``prompt`` that the base was never taught; empty for a tokenizer that does not say, such as CLIP's own."""
    known = tokenizer.init_kwargs.get("known_words")
    return [] if known is None else [word for word in words_of(prompt) if word not in known]


def words_of(text: str) -> list[str]:
    """The words of a prompt, in lower case."""
    return re.findall(r"[^\W\d_]+", text.lower())


@contextmanager
def instead(owner, name: str, value) -> Iterator[None]:
    """Have ``owner.name`` be ``value`` for a while."""
    own, before = name in vars(owner), getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if callable(before) and not own:
            delattr(owner, name)  # uncovers the method of its class
        else:
            setattr(owner, name, before)


@contextmanager
def options_by_row(pipe, options: dict, clips: int, frames: int) -> Iterator[dict]:
    """The pipeline's options, in which prompts, pictures and clips have an entry for every row of its batch."""
    entries = {
        name: _entries(name, option, clips, frames, several=name in _several(pipe)) for name, option in options.items()
    }
    if not _are_clips(options.get("ip_adapter_image")):
        yield entries
        return
    prepare = pipe.prepare_ip_adapter_image_embeds

    def one_a_row(images, embeds, device, rows, guided):
        return [branches.flatten(0, 1)[:, None] for branches in prepare(images, embeds, device, 1, guided)]

    with instead(pipe, "prepare_ip_adapter_image_embeds", one_a_row):
        yield entries


def _several(pipe) -> set[str]:
    """The options that take a list with a clip for each of the pipeline's ControlNets or adapters."""
    nets = getattr(pipe, "controlnet", None) or getattr(pipe, "adapter", None)
    takes = signature(pipe.__call__).parameters
    control = {"control_image" if "control_image" in takes else "image"}
    return {"ip_adapter_image"} | (control if isinstance(nets, MultiControlNetModel | MultiAdapter) else set())


def _entries(name: str, option, clips: int, frames: int, several: bool):
    if isinstance(option, np.ndarray) and option.dtype == bool:  # a mask
        option = option.astype(np.uint8) * 255
    if name == "negative_prompt" and option is not None:
        return prompts_by_row(option, clips, frames)
    if isinstance(option, Image.Image) and name != "ip_adapter_image":
        return [option] * (clips * frames)
    if not _are_clips(option):
        return option
    if isinstance(option, list) and not several:  # a list of frames, or of clips
        option = np.stack(option)
    pictures = [_pictures(name, each, clips, frames) for each in (option if isinstance(option, list) else [option])]
    if name == "ip_adapter_image":
        return pictures
    if isinstance(option, list):  # for several ControlNets: pipelines nest lists in two orders, tensors in one
        return [VaeImageProcessor.numpy_to_pt(VaeImageProcessor.pil_to_numpy(each)) for each in pictures]
    return pictures[0]


def _are_clips(option) -> bool:
    """Whether this is a picture or a clip as an array, or a list of such."""
    listed = option if isinstance(option, list) else [option]
    return bool(listed) and all(isinstance(each, np.ndarray) and each.dtype == np.uint8 for each in listed)


def _pictures(name: str, clip: np.ndarray, clips: int, frames: int) -> list[Image.Image]:
    """One picture for every row, from a picture for all, one for every frame, or one for every frame of every clip."""
    picture = clip.shape[-3:] if clip.shape[-1] == 3 else clip.shape[-2:]
    pictures = [Image.fromarray(each) for each in clip.reshape(-1, *picture)]
    if len(pictures) not in (1, frames, clips * frames):
        raise ValueError(f"{name} needs {NEEDED.format(frames=frames)}; got shape {clip.shape}")
    return pictures * (clips * frames // len(pictures))
