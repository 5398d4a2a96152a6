"""Whether a file holds a whole MotionLoRA: one that was trained in part is told from one that lost something."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from statistics import mode

import torch

from animatediff_ref.method.adapters import LowRank, layer_shapes
from animatediff_ref.method.config import MotionConfig
from animatediff_ref.method.motion_module import MotionModule
from animatediff_ref.weights.lora_file import trained_layers
from animatediff_ref.weights.tensors import Weights

PLACED = re.compile(r"((?:down|up)_blocks\.\d|mid_block)\.motion_modules\.(\d)\.")  # no UNet has ten levels


def check_whole(path: Path, weights: Weights, pairs: Mapping[str, LowRank], layers: Iterable[str]) -> None:
    """``ValueError`` if a MotionLoRA lost something, as ``load_motion_lora`` says.

    ``layers`` are those of the motion module, or of the likely one.
    """
    if "sha256" in weights.metadata:
        return
    middle = any(layer.startswith("mid_block.") for layer in pairs)
    layers = [layer for layer in layers if middle or not layer.startswith("mid_block.")]
    trained = trained_layers(weights, layers)
    if not trained >= pairs.keys():
        _check_even(path, pairs, layers)
    elif lost := sorted(trained - pairs.keys()):
        raise ValueError(f"{path} is incomplete: it lacks {lost[0]}, which its settings name")


def _check_even(path: Path, pairs: Mapping[str, LowRank], layers: Iterable[str]) -> None:
    """Not only the first blocks of the UNet, every block whole or not at all, and the same layers at every place."""
    layers_at: dict[str, set[str]] = {layer.partition(".temporal_transformer.")[0]: set() for layer in layers}
    for layer in pairs:
        place, _, rest = layer.partition(".temporal_transformer.")
        layers_at[place].add(rest)
    changed = {_block(place) for place, there in layers_at.items() if there}
    ends = max(changed)  # the alphabet has the UNet's order: down, mid, up
    if "down_blocks.0" in changed and ends != max(map(_block, layers_at)):
        raise ValueError(f"{path} is incomplete: it ends with {ends}, which is not the last block of the UNet")
    everywhere = set().union(*layers_at.values())
    for place, there in sorted(layers_at.items()):
        lost = sorted(everywhere - there)
        if lost and _block(place) in changed:
            raise ValueError(f"{path} is incomplete: at {place} it lacks {lost[0]}, which it has elsewhere")


def _block(place: str) -> str:
    return place.partition(".motion_modules.")[0]


def likely_shapes(pairs: Mapping[str, LowRank]) -> dict[str, tuple[int, ...]]:
    """Layers and their shapes in the smallest motion module that a MotionLoRA can be for, when none is at hand.

    How many levels there are cannot be told from down blocks alone, nor from up blocks alone.
    """
    numbers = [int(found[1]) for layer in pairs if (found := re.search(r"\.attention_blocks\.(\d)\.", layer))]
    config = MotionConfig(num_heads=1, norm_groups=1, num_attentions=1 + max([1, *numbers]), positions=False)
    with torch.device("meta"):
        return layer_shapes(MotionModule(config, _likely_places(pairs)))


def _likely_places(pairs: Mapping[str, LowRank]) -> dict[str, int]:
    """Places and widths of the smallest UNet that has all blocks of a MotionLoRA, whole.

    An up block has one place more than the down block that it mirrors. All levels have as many, but for those of which
    both blocks are there and say otherwise.
    """
    sizes: dict[str, list[int]] = defaultdict(list)
    depths: dict[str, int] = defaultdict(int)
    for layer, pair in pairs.items():
        if found := PLACED.match(layer):
            block, number = found[1], int(found[2])
            sizes[block].append(min(len(pair.up), pair.down.shape[1]))
            depths[block] = max(depths[block], number + block.startswith("down"))
    widths = {block: mode(found) for block, found in sizes.items()}
    places = {f"{block}.motion_modules.0": width for block, width in widths.items() if block == "mid_block"}
    for down, up in _likely_levels(widths):
        told = [depths[block] for block in (down, up) if block in widths]
        depth = max([1, *(told if len(told) == 2 else depths.values())])
        width = widths.get(down, widths.get(up, 1))
        places |= {f"{down}.motion_modules.{number}": width for number in range(depth)}
        places |= {f"{up}.motion_modules.{number}": width for number in range(depth + 1)}
    return places


def _likely_levels(widths: Mapping[str, int]) -> list[tuple[str, str]]:
    """The down and the up block of each level of a UNet, with as few levels as let the two be equally wide."""
    numbers = [int(block[-1]) for block in widths if block != "mid_block"]
    for total in count(1 + max(numbers, default=0)):
        levels = [(f"down_blocks.{i}", f"up_blocks.{total - 1 - i}") for i in range(total)]
        if all(len({widths[block] for block in level if block in widths}) < 2 for level in levels):
            return levels
