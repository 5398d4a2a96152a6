"""The image model: a Stable-Diffusion-1.x pipeline of diffusers, from a name, a folder, a file or a hub."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import diffusers
import torch
import transformers
from safetensors import SafetensorError

from animatediff_ref.generate.inputs import words_of
from animatediff_ref.mini.files import STYLES, resolve
from animatediff_ref.weights.hub import SUFFIXES

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@contextmanager
def quietly() -> Iterator[None]:
    """Silence diffusers and transformers while they load: hints about parts that are not used, and progress bars."""
    loggers = (diffusers.utils.logging, transformers.utils.logging)
    before = [(logger.get_verbosity(), logger.is_progress_bar_enabled()) for logger in loggers]
    for logger in loggers:
        logger.set_verbosity_error()
        logger.disable_progress_bar()
    try:
        yield
    finally:
        for logger, (verbosity, had_bar) in zip(loggers, before):
            logger.set_verbosity(verbosity)
            if had_bar:
                logger.enable_progress_bar()


def device_named(name: str) -> torch.device:
    """A device that is there. ``ValueError`` for one that is not."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no device {name!r} here: {str(error).splitlines()[0]}") from None


with quietly():  # else importing it prints hints about image processors
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel


def load_base(
    name: str | Path = "mini", *, style: str | None = None, dtype: torch.dtype = torch.float32
) -> StableDiffusionPipeline:
    """A Stable-Diffusion-1.x pipeline with its own scheduler; ``animate`` samples with that of the motion modules.

    ``name`` is ``"mini"``, a folder, one .safetensors or .ckpt file, or a hub id. A hub id is downloaded; so are the
    configuration and the tokenizer for a single file, unless they are cached. ``style`` names one of the mini world's
    personalised models (``animatediff_ref.mini.files.STYLES``). Others go in by diffusers' own
    ``pipe.load_lora_weights`` or ``pipe.load_textual_inversion``, or as ``name``.

    Raises ``ValueError`` for an unknown style, for a file that is missing or damaged, where there is no pipeline that
    diffusers can load, and for one whose UNet has motion modules of its own, as in diffusers' ``AnimateDiffPipeline``.
    """
    if style is not None and str(name) != "mini":
        raise ValueError(
            f"style={style!r} belongs to the base 'mini', got base {str(name)!r}: use pipe.load_lora_weights for others"
        )
    if style not in (None, *STYLES):
        raise ValueError(f"no mini style {style!r}; there are: {', '.join(STYLES)}")
    place = resolve("base", name)
    on_hub = not place.exists()
    if on_hub and (place.suffix in SUFFIXES or not HUB_ID.fullmatch(str(name))):
        raise ValueError(
            f"no base model at {place}: give 'mini', a pipeline folder, a .safetensors file "
            "or a hub id such as 'owner/name'"
        )
    try:
        with quietly():
            pipe = _load_style(place, style) if style else _load(str(name) if on_hub else place)
            pipe = pipe.to(dtype)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{name} is not a pipeline that diffusers can load: {str(error).splitlines()[0]}") from error
    if not isinstance(pipe.unet, UNet2DConditionModel):
        raise ValueError(
            f"{name} has a {type(pipe.unet).__name__} where a plain UNet2DConditionModel is needed: load the image "
            "model that it was made from. Of an AnimateDiffPipeline, load_motion_module takes the folder motion_adapter"
        )
    return pipe


def _load(place: str | Path, **options) -> StableDiffusionPipeline:
    options |= {"safety_checker": None, "requires_safety_checker": False}
    if Path(place).is_file():
        return StableDiffusionPipeline.from_single_file(str(place), **options)
    return StableDiffusionPipeline.from_pretrained(str(place), **options)


def _load_style(base: Path, name: str) -> StableDiffusionPipeline:
    """The mini world's base, in the folder ``base``, with one of its personalised models."""
    style, file = STYLES[name], resolve("style", name)
    if style.kind == "checkpoint":
        own = {"config": str(base), "local_files_only": True}  # the file has no configuration and no tokenizer
        pipe = _load(file, **own)
    else:
        pipe = _load(base)
    if style.kind in ("lora", "dreambooth"):
        pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name)
    elif style.kind == "embedding":
        pipe.load_textual_inversion(str(file), token=style.trigger)
    pipe.tokenizer.init_kwargs["known_words"] += words_of(style.trigger)
    return pipe


def best_device() -> str:
    """The fastest device there is: ``"cuda"``, ``"mps"`` or ``"cpu"``."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
