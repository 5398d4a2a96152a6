"""Pictures as rows of a pipeline's batch: what people have, as what they see, one for every frame of every clip."""

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

PICTURES = ("image", "mask_image", "control_image", "ip_adapter_image")  # options that are pictures and nothing else


def as_rows(option, clips: int, frames: int, name: str, mode: str = "RGB"):
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
    and bool, or float from 0 to 1. They come in ``mode``, "RGB" or "L"; masks are grey. Tensors are float, from 0 to 1
    or from -1 to 1; those of 4 channels are taken for latents, and image prompts for what a feature extractor made.
    ``ValueError``, which calls the option ``name``, for what is neither.

    ``name`` tells what are pictures: all of this if it is in ``PICTURES``, else PIL images, uint8 and bool, since
    tensors and arrays of floats can be anything there.
    """
    if isinstance(option, list | tuple) and option and all(map(torch.is_tensor, option)) and name in PICTURES:
        option = torch.stack(list(option))
    if torch.is_tensor(option) and name in PICTURES:
        return _tensors_by_row(option, clips, frames, name)
    if are(option, Image.Image):
        pictures, shape = (option, (len(option),)) if isinstance(option, list | tuple) else ([option], ())
    elif are(option, np.ndarray) and (name in PICTURES or _is_pictures(option)):
        pictures, shape = _pictures_in(_stacked(option, name) if isinstance(option, list | tuple) else option, name)
    else:
        return option
    _check_shape(shape, pictures, clips, frames, name)
    is_mask = name == "mask_image"
    seen = [as_seen(picture, "L" if is_mask else mode, opaque=is_mask) for picture in pictures]
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
    has_any_range = rows.shape[1] == 4 or name == "ip_adapter_image"  # latents, and what a feature extractor made
    if name == "ip_adapter_image" and rows.is_floating_point() and rows.min() >= 0 and rows.max() <= 1:
        raise ValueError(
            "ip_adapter_image as a tensor is what a feature extractor made, with a mean of about 0; these numbers from 0 to "
            "1 are pixels, which it has not seen: give a PIL image or uint8 (h, w, 3)"
        )
    if not rows.is_floating_point() or not (has_any_range or rows.abs().max() <= 1):
        raise ValueError(
            f"{name} as a tensor is float{'' if has_any_range else ' from 0 to 1 or from -1 to 1'}; "
            f"got {rows.dtype} from {rows.min():g} to {rows.max():g}"
        )
    return rows.repeat(clips * frames // len(rows), 1, 1, 1)


def as_seen(picture: Image.Image, mode: str = "RGB", opaque: bool = False) -> Image.Image:
    """A picture of any mode as it is seen on white, in ``mode``, "RGB" or "L".

    ``ValueError`` for numbers without a range (modes I and F), and for a mask, which has to be ``opaque``, that is
    transparent anywhere.
    """
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError(f"a picture needs 8 or 16 bits a channel, got mode {picture.mode}: scale it to 0 to 255 first")
    if picture.mode == "La":
        picture = picture.convert("LA")
    if {"A", "a"} & set(picture.getbands()) or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        if opaque and picture.getextrema()[3][0] < 255:
            raise ValueError("a mask is white where it paints and black elsewhere; this one is transparent")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert(mode)


def all_as_seen(option):
    """The same with all PIL images in it as they are seen."""
    if isinstance(option, list | tuple):
        return [all_as_seen(each) for each in option]
    return as_seen(option) if isinstance(option, Image.Image) else option


def are(option, kind: type) -> bool:
    """Whether this is of a kind, or a list of such."""
    return isinstance(option, kind) or bool(
        isinstance(option, list | tuple) and option and all(isinstance(each, kind) for each in option)
    )


def _is_pictures(option) -> bool:
    """Whether this is an array of uint8 or bool, or a list of them."""
    arrays = option if isinstance(option, list | tuple) else [option]
    return are(option, np.ndarray) and all(each.dtype in (np.uint8, bool) for each in arrays)


def as_tensor(pictures: list[Image.Image] | torch.Tensor) -> torch.Tensor:
    """Pictures as (n, c, h, w), from 0 to 1."""
    if torch.is_tensor(pictures):
        return pictures
    return VaeImageProcessor.numpy_to_pt(VaeImageProcessor.pil_to_numpy(pictures))
