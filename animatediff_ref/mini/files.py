"""Where the mini world's files lie: in ``data`` of the repository, or where ``ANIMATEDIFF_REF_DATA`` says.

Every loader asks one function, ``resolve``; nothing else in the package knows what ships.
"""

import os
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open


class Style(NamedTuple):
    """A personalised model: its kind, its file below ``data``, and the words that call it.

    Kinds: lora, dreambooth, checkpoint (a whole model), embedding (a textual inversion).
    """

    kind: str
    file: str
    trigger: str


STYLES = {  # that ship with the mini world
    "blob": Style("lora", "models/mini/styles/blob.safetensors", "blob style"),
    "emojione": Style("lora", "models/mini/styles/emojione.safetensors", "emojione style"),
    "flat": Style("lora", "models/mini/styles/flat.safetensors", "flat style"),
    "ink": Style("lora", "models/mini/styles/ink.safetensors", "ink style"),
    "openmoji": Style("lora", "share-alike/openmoji.safetensors", "openmoji style"),
    "pip": Style("dreambooth", "models/mini/styles/pip.safetensors", "a pip monster"),
    "pixel": Style("checkpoint", "models/mini/styles/pixel.safetensors", "pixel style"),
    "sepia": Style("embedding", "models/mini/styles/sepia.safetensors", "<sepia>"),
}
MOVES = ("zoom_in", "zoom_out", "pan_left", "pan_right", "tilt_up", "tilt_down", "roll_clockwise", "roll_anticlockwise")
SHIPPED = {  # kind -> name -> file or folder below data
    "base": {"mini": "models/mini"},
    "motion module": {"mini": "models/mini/motion_module.safetensors"},
    "domain adapter": {"mini": "models/mini/domain_adapter.safetensors"},
    "MotionLoRA": {move: f"models/mini/cameras/{move}.safetensors" for move in MOVES},
    "ControlNet": {"edges": "models/mini/controlnet"},
    "judge": {"mini": "models/judge"},
    "watermark": {"mini": "watermark.png"},
    "style": {name: style.file for name, style in STYLES.items()},
}
PARTS = {  # of what is a folder: the files it must have
    "base": (
        "model_index.json",
        "vae/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
    ),
    "ControlNet": ("config.json", "diffusion_pytorch_model.safetensors"),
    "judge": ("model.safetensors",),
}


def resolve(kind: str, name: str | Path) -> Path:
    """The mini world's file or folder of this name, if it ships one; any other ``name`` comes back as a path.

    ``kind`` is one of ``SHIPPED``. ``ValueError`` if what should ship is missing, half downloaded or damaged.
    """
    if str(name) not in SHIPPED[kind]:
        return Path(name).expanduser()
    place = data_folder() / SHIPPED[kind][str(name)]
    for part in PARTS.get(kind, ("",)):
        if fault := fault_of(file := place / part):
            raise ValueError(
                f"the mini world's {file.name} {fault}: needed is {file}. "
                "Restore it with 'git checkout data', or rebuild it as data/README.md says"
            )
    return place


def data_folder() -> Path:
    """The folder of the mini world. ``ValueError`` says where it was looked for and where to get it."""
    folder = Path(os.environ.get("ANIMATEDIFF_REF_DATA") or Path(__file__).resolve().parents[2] / "data")
    if not (folder / "models" / "mini").is_dir():
        raise ValueError(
            f"the mini world is not at {folder}: it ships with the repository, not with the package. "
            "Clone the repository and install it with 'pip install -e .', or set ANIMATEDIFF_REF_DATA to its data folder"
        )
    return folder


def shipped_files() -> list[Path]:
    """Every file that the mini world must have for its models to load."""
    data = data_folder()
    return [
        data / place / part
        for kind, places in SHIPPED.items()
        for place in places.values()
        for part in PARTS.get(kind, ("",))
    ]


LFS_POINTER = b"version https://git-lfs"  # how a file begins that Git left in place of a large one
IS_LFS_POINTER = "is a pointer of Git LFS, which 'git lfs pull' replaces by the file"


def fault_of(path: Path) -> str:
    """What is wrong with a file on the face of it; empty if nothing is."""
    if not path.exists():
        return "is missing"
    if path.suffix != ".safetensors":
        return ""
    with path.open("rb") as file:
        if file.read(64).startswith(LFS_POINTER):
            return IS_LFS_POINTER
    try:
        with safe_open(path, "pt"):
            return ""
    except SafetensorError:
        return "is damaged, or half downloaded"
