"""Clips as rows of a pipeline's batch: a prompt, a random generator and other options for every frame, clip after clip."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from types import SimpleNamespace

import numpy as np
import torch
from diffusers import MultiAdapter, MultiControlNetModel

from animatediff_ref.generate.pictures import all_as_seen, are, as_rows, as_tensor


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


def generators_by_row(seed: int, clips: int, frames: int, generator=None) -> list[torch.Generator]:
    """A generator for every row. The rows of clip ``i`` draw in turn from one, ``generator`` or its entry ``i``.

    Without ``generator``, it is one on the CPU, seeded with ``seed + i``.
    """
    if generator is not None:
        own = generator if isinstance(generator, list) else [generator]
        if len(own) not in (1, clips) or not all(isinstance(each, torch.Generator) for each in own) or seed:
            raise ValueError(
                f"animate needs a seed or a torch.Generator, or {clips} of them, one for each clip; "
                f"got seed={seed!r} and generator={generator!r}"
            )
        return [each for each in own * (clips // len(own)) for _ in range(frames)]
    if not hasattr(seed, "__index__"):
        raise ValueError(f"a seed is a whole number, got {seed!r}")
    numbers = [int(seed) + i for i in range(clips)]
    within = [n if -(2**63) <= n < 2**64 else n % 2**64 for n in numbers]  # what torch takes; others are folded into it
    return [each for n in within for each in [torch.Generator().manual_seed(n)] * frames]


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
    before = getattr(owner, name, None)
    not_its_own = name not in vars(owner) and (before is None or callable(before))
    setattr(owner, name, value)
    try:
        yield
    finally:
        if not_its_own:
            delattr(owner, name)  # uncovers the method of the class, or nothing
        else:
            setattr(owner, name, before)


@contextmanager
def options_by_row(pipe, options: dict, clips: int, frames: int) -> Iterator[dict]:
    """The options of a pipeline, with an entry for every row of the batch where they are prompts or pictures.

    While it is open, a pipeline that is given a clip of image prompts (IP-Adapter) uses each of them for its own row,
    and one that is given ``clip_skip`` finds the norm that it needs.
    """
    several = _options_for_several(pipe)
    rows = {name: _option_by_row(name, option, clips, frames, name in several) for name, option in options.items()}
    with _skipping(pipe, options.get("clip_skip")), _image_prompts_by_row(pipe, options.get("ip_adapter_image")):
        yield rows


@contextmanager
def _skipping(pipe, clip_skip: int | None) -> Iterator[None]:
    """Let diffusers leave out the last layers of a text encoder: transformers 5 keeps its norm at another place."""
    if clip_skip is None:
        yield
        return
    encoder, layers = pipe.text_encoder, pipe.text_encoder.config.num_hidden_layers
    if not hasattr(clip_skip, "__index__") or not 0 <= clip_skip <= layers:
        raise ValueError(f"clip_skip is how many of the text encoder's {layers} layers are left out, got {clip_skip!r}")
    if hasattr(encoder, "text_model"):
        yield
        return
    with instead(encoder, "text_model", SimpleNamespace(final_layer_norm=encoder.final_layer_norm)):
        yield


@contextmanager
def _image_prompts_by_row(pipe, clip) -> Iterator[None]:
    if not are(clip, np.ndarray):
        yield
        return
    prepare = pipe.prepare_ip_adapter_image_embeds

    def one_image_prompt_a_row(images, embeds, device, rows, guided):
        # diffusers gives all images to each row: (branches, images, ...) for a batch of 1
        return [embeds.flatten(0, 1)[:, None] for embeds in prepare(images, embeds, device, 1, guided)]

    with instead(pipe, "prepare_ip_adapter_image_embeds", one_image_prompt_a_row):
        yield


def _options_for_several(pipe) -> set[str]:
    """The options that take a list with a clip for each of several ControlNets or adapters of the pipeline."""
    nets = getattr(pipe, "controlnet", None) or getattr(pipe, "adapter", None)
    if not isinstance(nets, MultiControlNetModel | MultiAdapter):
        return {"ip_adapter_image"}
    has_control_image = "control_image" in signature(pipe.__call__).parameters
    return {"ip_adapter_image", "control_image" if has_control_image else "image"}


def _option_by_row(name: str, option, clips: int, frames: int, for_several: bool):
    """One option of a pipeline, with an entry for every row if it has prompts or pictures; others stay as they are."""
    if option is None:
        return None
    if name == "negative_prompt":
        return prompts_by_row(option, clips, frames)
    if name in ("prompt_embeds", "negative_prompt_embeds"):
        return embeddings_by_row(option, clips, frames, name)
    if name == "latents":
        return _latents_by_row(option, clips, frames)
    if name == "ip_adapter_image":
        if not are(option, np.ndarray):
            return all_as_seen(option)
        adapters = option if isinstance(option, list) else [option]
        return [as_rows(each, clips, frames, name) for each in adapters]
    if for_several and isinstance(option, list | tuple):
        # as tensors: pipelines expect lists nested in one of two orders, but tensors in the same
        return [as_tensor(as_rows(each, clips, frames, name)) for each in option]
    return as_rows(option, clips, frames, name)


def embeddings_by_row(embeddings: torch.Tensor, clips: int, frames: int, name: str) -> torch.Tensor:
    """Text of every row, (clips * frames, tokens, width), from one for a clip or for each of its frames.

    ``embeddings`` is (1 or f, tokens, width), the same for each clip, or (clips, 1 or f, tokens, width).
    """
    shape = tuple(embeddings.shape) if torch.is_tensor(embeddings) else ()
    if len(shape) not in (3, 4) or shape[-3] not in (1, frames) or (len(shape) == 4 and shape[0] != clips):
        raise ValueError(
            f"{name} needs a tensor (1, tokens, width) for a clip, ({frames}, tokens, width) for its frames, or "
            f"({clips}, 1 or {frames}, tokens, width); got {shape or type(embeddings).__name__}"
        )
    return embeddings.expand(clips, frames, -1, -1).flatten(0, 1)


def _latents_by_row(latents: torch.Tensor, clips: int, frames: int) -> torch.Tensor:
    shape = tuple(latents.shape) if torch.is_tensor(latents) else ()
    if len(shape) not in (4, 5) or shape[:-3] not in ((clips * frames,), (clips, frames)):
        raise ValueError(
            f"latents needs a tensor ({clips * frames}, channels, height, width) or ({clips}, {frames}, channels, "
            f"height, width), the noise of every frame; got {shape or type(latents).__name__}"
        )
    return latents.reshape(-1, *shape[-3:])
