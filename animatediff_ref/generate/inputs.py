"""Clips as rows of a pipeline's batch: a prompt, a random generator and a picture for every frame, clip after clip."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from types import SimpleNamespace

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
    if not _are(clip, np.ndarray):
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
        if not _are(option, np.ndarray):
            return _all_as_seen(option)
        adapters = option if isinstance(option, list) else [option]
        return [as_rows(each, clips, frames, name) for each in adapters]
    if for_several and isinstance(option, list | tuple):
        # as tensors: pipelines expect lists nested in one of two orders, but tensors in the same
        return [_as_tensor(as_rows(each, clips, frames, name)) for each in option]
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


PICTURES = ("image", "mask_image", "control_image", "ip_adapter_image")  # options that are pictures and nothing else


def as_rows(option, clips: int, frames: int, name: str = "the option"):
    """Pictures for the rows of a batch, a list of ``clips * frames`` PIL images, from an option of a pipeline.

    ==================================================  ====================================================
    option                                              the picture in the row of frame i of clip j
    ==================================================  ====================================================
    a picture: PIL, or uint8 (h, w, 3)                  that picture
    a clip: uint8 (f, h, w, 3), or a list of PIL        picture i
    several clips: uint8 (n, f, h, w, 3)                picture (j, i)
    a list of such arrays                               as for the array that stacks them
    a tensor: (c, h, w), (f, c, h, w), (n, f, c, h, w)  likewise, as tensor (clips * frames, c, h, w)
    anything else: a number, a string                   none: the option is returned as it is
    ==================================================  ====================================================

    PIL images may have any mode of 8 or 16 bits: transparency is laid on white. Arrays may also be grey, without the 3,
    and bool, or float from 0 to 1. Masks are grey. Tensors are float, from 0 to 1 or from -1 to 1; those of 4 channels
    are taken for latents. ``ValueError``, which calls the option ``name``, for what is neither.
    """
    if isinstance(option, list | tuple) and option and all(map(torch.is_tensor, option)) and name in PICTURES:
        option = torch.stack(list(option))
    if torch.is_tensor(option) and name in PICTURES:
        return _tensors_by_row(option, clips, frames, name)
    if _are(option, Image.Image):
        pictures, shape = (option, (len(option),)) if isinstance(option, list | tuple) else ([option], ())
    elif _are(option, np.ndarray) and (name in PICTURES or _is_pictures(option)):
        pictures, shape = _pictures_in(_stacked(option, name) if isinstance(option, list | tuple) else option, name)
    else:
        return option
    _check_shape(shape, pictures, clips, frames, name)
    seen = [as_seen(picture, name == "mask_image") for picture in pictures]
    return seen * (clips * frames // len(seen))


def _stacked(arrays: list[np.ndarray], name: str) -> np.ndarray:
    if len(shapes := {array.shape for array in arrays}) > 1:
        raise ValueError(f"{name} needs pictures of one size, got {' and '.join(map(str, sorted(shapes)))}")
    return np.stack(arrays)


def _pictures_in(array: np.ndarray, name: str) -> tuple[list[Image.Image], tuple[int, ...]]:
    """The pictures of an array, and how it arranges them."""
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype.kind == "f" and array.size and array.min() >= 0 and array.max() <= 1:
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8 or array.size == 0:
        span = f" from {array.min():g} to {array.max():g}" if array.size else ""
        raise ValueError(f"{name} needs uint8 from 0 to 255, bool, or float from 0 to 1; got {array.dtype}{span}")
    inner = 3 if array.shape[-1] <= 4 else 2  # a last axis of 1, 2 or 4 is refused by the caller, with its shape
    pictures = list(array.reshape(-1, *array.shape[-inner:]))
    right = array.shape[-1] == 3 or inner == 2
    return [Image.fromarray(each) for each in pictures] if right else [], array.shape[:-inner] if right else array.shape


def _check_shape(shape: tuple[int, ...], pictures: list, clips: int, frames: int, name: str) -> None:
    if not pictures or shape not in ((), (1,), (frames,), (1, frames), (clips, frames), (clips * frames,)):
        whole = (*shape, *np.shape(pictures[0])) if pictures else shape
        raise ValueError(
            f"{name} needs a picture, uint8 (h, w, 3), or a clip of {frames} frames, (f, h, w, 3), "
            f"or one for each clip, (n, f, h, w, 3); masks without the 3; got shape {whole}"
        )


def _tensors_by_row(tensor: torch.Tensor, clips: int, frames: int, name: str) -> torch.Tensor:
    if name == "mask_image" and tensor.ndim in (2, 3):
        tensor = tensor.unsqueeze(-3)
    rows = tensor.reshape(-1, *tensor.shape[-3:])
    if tensor.ndim < 3 or len(rows) not in (1, frames, clips * frames):
        raise ValueError(
            f"{name} needs a tensor (c, h, w), ({frames}, c, h, w) or ({clips}, {frames}, c, h, w); "
            f"got {tuple(tensor.shape)}"
        )
    are_latents = rows.shape[1] == 4
    if not rows.is_floating_point() or not (are_latents or rows.abs().max() <= 1):
        raise ValueError(
            f"{name} as a tensor is float from 0 to 1 or from -1 to 1; "
            f"got {rows.dtype} from {rows.min():g} to {rows.max():g}"
        )
    return rows.repeat(clips * frames // len(rows), 1, 1, 1)


def as_seen(picture: Image.Image, mask: bool = False) -> Image.Image:
    """A picture of any mode as it is seen on white, in RGB; a mask in grey.

    ``ValueError`` for numbers without a range (modes I and F), and for a mask that is transparent anywhere.
    """
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) // 257).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError(f"a picture needs 8 or 16 bits a channel, got mode {picture.mode}: scale it to 0 to 255 first")
    if picture.mode == "La":
        picture = picture.convert("LA")
    if {"A", "a"} & set(picture.getbands()) or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        if mask and picture.getextrema()[3][0] < 255:
            raise ValueError("a mask is white where it paints and black elsewhere; this one is transparent")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("L" if mask else "RGB")


def _all_as_seen(option):
    """The same with all PIL images in it as they are seen."""
    if isinstance(option, list | tuple):
        return [_all_as_seen(each) for each in option]
    return as_seen(option) if isinstance(option, Image.Image) else option


def _are(option, kind: type) -> bool:
    """Whether this is of a kind, or a list of such."""
    return isinstance(option, kind) or bool(
        isinstance(option, list | tuple) and option and all(isinstance(each, kind) for each in option)
    )


def _is_pictures(option) -> bool:
    """Whether this is an array of uint8 or bool, or a list of them."""
    arrays = option if isinstance(option, list | tuple) else [option]
    return _are(option, np.ndarray) and all(each.dtype in (np.uint8, bool) for each in arrays)


def _as_tensor(pictures: list[Image.Image] | torch.Tensor) -> torch.Tensor:
    """Pictures as (n, 3, h, w), from 0 to 1."""
    if torch.is_tensor(pictures):
        return pictures
    return VaeImageProcessor.numpy_to_pt(VaeImageProcessor.pil_to_numpy(pictures))
