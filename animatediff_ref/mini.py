"""Where the mini world lies: the ``data`` folder of the repository, or the one that ``ANIMATEDIFF_REF_DATA`` names."""

import os
from pathlib import Path

STYLES = ("blob",)  # personalised models that ship with the mini world
BASE_FILES = (  # of data/models/mini
    "model_index.json",
    "vae/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json",
)
FILES = (*BASE_FILES, "domain_adapter.safetensors", "motion_module.safetensors")


def data_folder() -> Path:
    """The folder of the mini world. ``ValueError`` says where it was looked for and where to get it."""
    folder = Path(os.environ.get("ANIMATEDIFF_REF_DATA") or Path(__file__).resolve().parents[1] / "data")
    if not (folder / "models" / "mini").is_dir():
        raise ValueError(
            f"the mini world is not at {folder}: it ships with the repository, not with the package. "
            "Clone the repository and install it with 'pip install -e .', or set ANIMATEDIFF_REF_DATA to its data folder"
        )
    return folder


def mini_file(name: str) -> Path:
    """A file of ``data/models/mini``; ``ValueError`` if it is not there."""
    path = data_folder() / "models" / "mini" / name
    if not path.exists():
        raise ValueError(
            f"the mini world has no {path.name}: needed is {path}. Restore it with git, or rebuild it (data/README.md)"
        )
    return path


def style_file(style: str) -> Path:
    """The LoRA of a personalised style; ``ValueError`` names the styles there are."""
    if style not in STYLES:
        raise ValueError(f"no mini style {style!r}; there are: {', '.join(STYLES)}")
    return mini_file(f"styles/{style}.safetensors")
