"""The cards of the mini world's weights: which card speaks for a file, and whether the file is what the card says."""

import json
from hashlib import sha256
from pathlib import Path

from animatediff_ref.mini.files import data_folder, fault_of, shipped_files


def card_of(weights: Path) -> Path | None:
    """The card that speaks for a weight file.

    That of its name; for a part of a pipeline, that of its folder or of the pipeline's.
    """
    part = weights.stem in ("model", "diffusion_pytorch_model")
    cards = [folder / "card.json" for folder in weights.parents[:2]] if part else [weights.with_suffix(".json")]
    return next((card for card in cards if card.exists()), None)


def checked() -> dict[str, str]:
    """Every weight file of the mini world, and what is wrong with it: empty if it is what its card says.

    Both files that must be there and files that happen to lie there.

    The card has the ``sha256`` of the files that it speaks for.
    """
    data = data_folder()
    there = [path for folder in ("models", "share-alike") for path in (data / folder).rglob("*.safetensors")]
    return {
        path.relative_to(data).as_posix(): fault_of(path) or _differs(path)
        for path in sorted({*shipped_files(), *there})
    }


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
