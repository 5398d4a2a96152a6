"""Where the mini world lies: the ``data`` folder of the repository, or the one that ``ANIMATEDIFF_REF_DATA`` names."""

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open


class Style(NamedTuple):
    """A personalised model: its kind (lora, dreambooth, checkpoint or embedding), its file below ``data``, and what calls it."""

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
    """A file of ``data/models/mini``; ``ValueError`` if it is not there, or not whole."""
    return _whole(data_folder() / "models" / "mini" / name)


def judge_folder() -> Path:
    """The folder of the mini world's CLIP, ``data/models/judge``; ``ValueError`` if it is not there."""
    path = data_folder() / "models" / "judge"
    if not (path / "model.safetensors").exists():
        raise ValueError(
            f"the mini world has no judge: needed is {path}. Restore it with git, or rebuild it (data/README.md)"
        )
    return path


def style_file(style: str) -> Path:
    """The weights of a personalised style; ``ValueError`` names the styles there are, or says that the file is not whole."""
    if style not in STYLES:
        raise ValueError(f"no mini style {style!r}; there are: {', '.join(STYLES)}")
    return _whole(data_folder() / STYLES[style].file)


def _whole(path: Path) -> Path:
    if fault := _fault(path):
        raise ValueError(
            f"the mini world's {path.name} {fault}: needed is {path}. "
            "Restore it with 'git checkout data', or rebuild it as data/README.md says"
        )
    return path


def _fault(path: Path) -> str:
    """What is wrong with a file on the face of it; empty if nothing is."""
    if not path.exists():
        return "is missing"
    if path.suffix != ".safetensors":
        return ""
    with path.open("rb") as file:
        if file.read(64).startswith(b"version https://git-lfs"):
            return "is a pointer of Git LFS, which 'git lfs pull' replaces by the file"
    try:
        with safe_open(path, "pt"):
            return ""
    except SafetensorError:
        return "is damaged, or half downloaded"


def card_of(weights: Path) -> Path | None:
    """The card that speaks for a weight file: that of its name; for a part of a pipeline, that of its folder or of the pipeline's."""
    part = weights.stem in ("model", "diffusion_pytorch_model")
    cards = [folder / "card.json" for folder in weights.parents[:2]] if part else [weights.with_suffix(".json")]
    return next((card for card in cards if card.exists()), None)


def checked() -> dict[str, str]:
    """Every weight file that ships, or lies, in the mini world's folders, and what is wrong with it: empty if it is what its card says.

    The card has the ``sha256`` of the files that it speaks for.
    """
    data = data_folder()
    wanted = [data / "models" / "mini" / name for name in FILES] + [data / style.file for style in STYLES.values()]
    there = [path for folder in ("models", "share-alike") for path in (data / folder).rglob("*.safetensors")]
    return {path.relative_to(data).as_posix(): _fault(path) or _differs(path) for path in sorted({*wanted, *there})}


def _differs(path: Path) -> str:
    if path.suffix != ".safetensors":
        return ""
    if not (card := card_of(path)):
        return "has no card"
    said = json.loads(card.read_text()).get("sha256", {}).get(path.relative_to(card.parent).as_posix())
    if said is None:
        return f"has no sha256 in its card, {card.name}"
    same = sha256(path.read_bytes()).hexdigest() == said
    return "" if same else f"is not the file that its card, {card.name}, speaks of"
