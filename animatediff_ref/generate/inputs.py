"""Clips as rows of a pipeline's batch: a prompt, a random generator and other options for every frame, clip after clip."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from types import SimpleNamespace

import numpy as np
import torch
from diffusers import MultiAdapter, MultiControlNetModel

from animatediff_ref.generate.pictures import all_as_seen, as_rows, as_tensor


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
    rows = []
    for n in within:
        rows += [torch.Generator().manual_seed(n)] * frames
    return rows


def default_guidance(pipe) -> float:
    """The guidance scale that a base looks best with: what its tokenizer's configuration says, else 7.5.

    The mini world's says so; 7.5 is the default of diffusers' pipelines, made for Stable Diffusion.
    """
    return _told_by(pipe.tokenizer).get("guidance_scale", 7.5)


def _told_by(tokenizer) -> dict:
    """What a tokenizer's configuration says; nothing for a pipeline that has none and is given embeddings."""
    return {} if tokenizer is None else tokenizer.init_kwargs


class UnknownWordsWarning(UserWarning):
    """A prompt has words that the base model was never taught."""


def unknown_words(tokenizer, prompt: str) -> list[str]:
    """Words of ``prompt`` that the base was never taught; none for a tokenizer that does not say, such as CLIP's."""
    known = _told_by(tokenizer).get("known_words")
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
    rows = {name: _option_by_row(pipe, name, option, clips, frames) for name, option in options.items()}
    rows |= _whole_size(pipe, options)
    with _skipping(pipe, options.get("clip_skip")), _image_prompts_by_row(pipe, options.get("ip_adapter_image")):
        yield rows


def _whole_size(pipe, options: dict) -> dict[str, int]:
    """The width and height of a picture of which one is given: diffusers takes both or neither."""
    given = {name: options[name] for name in ("height", "width") if options.get(name) is not None}
    if len(given) != 1:
        return {}
    side = pipe.unet.config.sample_size
    height, width = side if isinstance(side, list | tuple) else (side, side)
    return {"height": height * pipe.vae_scale_factor, "width": width * pipe.vae_scale_factor} | given


@contextmanager
def _skipping(pipe, clip_skip: int | None) -> Iterator[None]:
    """Let diffusers leave out the last layers of a text encoder: transformers 5 keeps its norm at another place."""
    if clip_skip is None:
        yield
        return
    encoder = pipe.text_encoder
    if encoder is None:
        raise ValueError(f"clip_skip={clip_skip!r} needs a text encoder, and this pipeline has none")
    layers = encoder.config.num_hidden_layers
    if not hasattr(clip_skip, "__index__") or not 0 <= clip_skip <= layers:
        raise ValueError(f"clip_skip is how many of the text encoder's {layers} layers are left out, got {clip_skip!r}")
    if hasattr(encoder, "text_model"):
        yield
        return
    with instead(encoder, "text_model", SimpleNamespace(final_layer_norm=encoder.final_layer_norm)):
        yield


@contextmanager
def _image_prompts_by_row(pipe, option) -> Iterator[None]:
    """Let diffusers give each row its own image prompt, for the IP-Adapters that are given a clip."""
    by_row = [_is_by_row(given) for given in (option if isinstance(option, list | tuple) else [option])]
    if not any(by_row):
        yield
        return
    prepare = pipe.prepare_ip_adapter_image_embeds

    def prepare_by_row(images, embeds, device, rows, guided):
        # diffusers gives all images of an IP-Adapter to each row: (branches, images, ...) for a batch of 1
        made = prepare(images, embeds, device, 1, guided)
        return [
            each.flatten(0, 1)[:, None] if own else each.repeat_interleave(rows, 0) for each, own in zip(made, by_row)
        ]

    with instead(pipe, "prepare_ip_adapter_image_embeds", prepare_by_row):
        yield


def _option_by_row(pipe, name: str, option, clips: int, frames: int):
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
        adapters = getattr(pipe.unet.encoder_hid_proj, "image_projection_layers", ())
        given = _one_each(option, len(adapters), name, "IP-Adapters")
        return [as_rows(each, clips, frames, name) if _is_by_row(each) else all_as_seen(each) for each in given]
    modes = _modes(pipe).get(name, "RGB")
    if isinstance(modes, str):
        return as_rows(option, clips, frames, name, modes)
    # as tensors: pipelines expect lists nested in one of two orders, but tensors in the same
    given = _one_each(option, len(modes), name, "ControlNets or adapters")
    return [as_tensor(as_rows(each, clips, frames, name, mode)) for each, mode in zip(given, modes)]


def _one_each(option, count: int, name: str, nets: str) -> list:
    """What each of a pipeline's nets is given, from a list of that, or from one for the only net."""
    given = list(option) if isinstance(option, list | tuple) else [option]
    if len(given) != count:
        raise ValueError(
            f"{name} needs a picture or a clip, such as uint8 (f, h, w, 3), for each of this pipeline's {count} {nets}, "
            f"in a list; got {len(given)}"
        )
    return given


def _is_by_row(image_prompt) -> bool:
    """Whether what an IP-Adapter is given is a picture for each row; other than an array, all of it is for every row."""
    return isinstance(image_prompt, np.ndarray | torch.Tensor)


def _modes(pipe) -> dict[str, str | list[str]]:
    """The mode of the pictures for a pipeline's ControlNet or adapter, by the option; of several, a list."""
    net = getattr(pipe, "controlnet", None) or getattr(pipe, "adapter", None)
    option = "control_image" if "control_image" in signature(pipe.__call__).parameters else "image"
    if isinstance(net, MultiControlNetModel | MultiAdapter):
        nets = net.nets if isinstance(net, MultiControlNetModel) else net.adapters
        return {option: [_mode(each) for each in nets]}
    return {option: _mode(net)}


def _mode(net) -> str:
    """Grey for a T2I-Adapter of one channel, such as those for sketches and edges."""
    return "L" if getattr(net, "config", {}).get("in_channels") == 1 else "RGB"


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
