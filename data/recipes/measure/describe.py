"""Write the table of models into data/README.md, from their cards and from what was measured.

python -m recipes.measure.describe
"""

import json
from pathlib import Path

from animatediff_ref.clips.camera import CAMERAS
from animatediff_ref.mini.cards import card_of
from animatediff_ref.mini.files import SHIPPED, STYLES
from animatediff_ref.weights.tensors import written_aside
from recipes.common.paths import DATA

README, BEGIN, END = (
    DATA / "README.md",
    "<!-- models: written by recipes/measure/describe.py -->",
    "<!-- end of models -->",
)
OTHERS = {
    "autoencoder": "models/mini/vae/diffusion_pytorch_model.safetensors",
    "text-to-image": "models/mini/unet/diffusion_pytorch_model.safetensors",
    "judge": "models/judge/model.safetensors",
    "domain adapter": "models/mini/domain_adapter.safetensors",
    "motion module": "models/mini/motion_module.safetensors",
    "ControlNet": "models/mini/controlnet/diffusion_pytorch_model.safetensors",
}


def files() -> dict[str, Path]:
    """Every model's weights by the name that the table gives it."""
    styles = {name: style.file for name, style in STYLES.items()}
    return {name: DATA / path for name, path in {**OTHERS, **styles, **SHIPPED["MotionLoRA"]}.items()}


def minutes(card: dict) -> float:
    """Of the training that a card tells of, and of the one that it went on from."""
    before = card.get("continued_from")
    return card["minutes"] + (minutes(before) if before else 0)


def percent(row: dict) -> str:
    return f"{row['mean']:.0f} % ({row['low']:.0f} to {row['high']:.0f})"


def quality(name: str, card: dict, measured: dict) -> str:
    """What is known of how good a model is, in a few words."""
    if name in STYLES:
        row = measured["personalised"][name]
        return (
            f"style recognised {percent(row['style recognised_percent'])}, concept among five "
            f"{percent(row['concepts']['top5_percent'])}, the base's {percent(row['concepts of the base']['top5_percent'])}"
        )
    if name in CAMERAS:
        row, (axis, sign) = measured["camera"][name], CAMERAS[name]
        way, leakage = sign * row["way"][axis]["mean"], row["leakage"]["mean"]
        return f"the right way in {percent(row['right way_percent'])}, {way:.2f} of the way of its crops, leakage {leakage:.2f}"
    match name:
        case "autoencoder":
            worst = min(card["psnr_unseen_styles_db"], key=card["psnr_unseen_styles_db"].get)
            return (
                f"{card['psnr_held_out_db']} dB on held-out stills; unseen styles from "
                f"{card['psnr_unseen_styles_db'][worst]} ({worst}) to {max(card['psnr_unseen_styles_db'].values())} dB"
            )
        case "text-to-image":
            row = measured["text to image"]["taught pairs"]
            return f"concept among five {percent(row['generated']['top5_percent'])}, in real renderings {percent(row['real']['top5_percent'])}"
        case "judge":
            row = card["retrieval"]["held_out_pairs"]
            return f"right text among five {100 * row['text_top5']:.0f} %, first {100 * row['text_top1']:.0f} %"
        case "domain adapter" | "motion module" | "ControlNet":
            last = list(card["held_out_loss"].items())[-1]
            return f"held-out error {card['held_out_loss']['base']} by the base, {last[1]} with it"


def table() -> str:
    """The table of models, Markdown."""
    measured = json.loads((DATA / "measured.json").read_text())
    lines = [
        "| model | parameters | MB | recipe | minutes | device | quality |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, path in files().items():
        card = json.loads(card_of(path).read_text())
        counts = card["parameters"]
        total = sum(counts.values()) if isinstance(counts, dict) else counts
        size = path.stat().st_size / 1e6
        lines.append(
            f"| {name} | {total:,} | {size:.2f} | `{card['recipe'].removeprefix('data/recipes/')}` | {minutes(card):.0f} | {card['device']} "
            f"| {quality(name, card, measured)} |"
        )
    return "\n".join(lines)


def main() -> None:
    text = README.read_text()
    before, rest = text.split(BEGIN)
    with written_aside(README) as aside:
        aside.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
