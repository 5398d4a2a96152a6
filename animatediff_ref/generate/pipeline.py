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
from animatediff_ref.method.objective import motion_scheduler
from animatediff_ref.mini.files import STYLES, resolve

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


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
    if style is not None and str(name) != "mini":
        raise ValueError(
            f"style={style!r} belongs to the base 'mini', got base {str(name)!r}: use pipe.load_lora_weights for others"
        )
    if style not in (None, *STYLES):
        raise ValueError(f"no mini style {style!r}; there are: {', '.join(STYLES)}")
    place = resolve("base", name)
    if not place.exists() and (place.suffix or not HUB_ID.fullmatch(str(name))):
        raise ValueError(
            f"no base model at {place}: needed is 'mini', a pipeline folder, a .safetensors file or a hub id such as 'owner/name'"
        )
    try:
        with quietly():
            pipe = _styled(place, style) if style else _read(str(name) if not place.exists() else place)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{name} is not a pipeline that diffusers can load: {str(error).splitlines()[0]}") from error
    pipe.scheduler = motion_scheduler()
    return pipe.to(dtype)


def _read(place: str | Path, **options) -> StableDiffusionPipeline:
    one_file = Path(place).is_file()
    read = StableDiffusionPipeline.from_single_file if one_file else StableDiffusionPipeline.from_pretrained
    return read(str(place), safety_checker=None, requires_safety_checker=False, **options)


def _styled(base: Path, style: str) -> StableDiffusionPipeline:
    """The mini world's base with one of its personalised models."""
    kind, trigger, file = STYLES[style].kind, STYLES[style].trigger, resolve("style", style)
    own = {"config": str(base), "local_files_only": True}  # a whole model brings no configuration and no tokenizer
    pipe = _read(file, **own) if kind == "checkpoint" else _read(base)
    if kind in ("lora", "dreambooth"):
        pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=style)
    elif kind == "embedding":
        pipe.load_textual_inversion(str(file), token=trigger)
    pipe.tokenizer.init_kwargs["known_words"] += words_of(trigger)
    return pipe


def best_device() -> str:
    """cuda, mps or cpu: the best there is."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
