"""What the trainer of a LoRA set: how strong each layer is and which layers there are, where tensors do not say it.

The settings are peft's ``LoraConfig``. peft leaves it in ``adapter_config.json`` beside the weights, diffusers in the
metadata of the file. Every setting is read, or has no say in what the trained LoRA adds, or is told (``unread``).
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace

from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from animatediff_ref.weights.names import PLACE, diffusers_name
from animatediff_ref.weights.tensors import json_in

DIFFUSERS_KEY = "lora_adapter_metadata"  # where diffusers writes the settings into the metadata of a file
LAYERS = ("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern")
READ = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "peft_type", "init_lora_weights")
NO_SAY = (  # in what a trained LoRA adds to linear layers and convolutions
    *("lora_dropout", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),  # while it was trained
    *("bias", "trainable_token_indices"),  # beyond tensors of their own
    *("fan_in_fan_out", "megatron_core", "qalora_group_size", "ensure_weight_tying"),  # for such layers
    *("task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "peft_version"),
    "runtime_config",
)
PLAIN_STARTS = ("gaussian", "eva", "orthogonal")  # of training, from which the model's own weights stay as they are


class UnreadSetting(ValueError):
    """What a trainer set cannot be told from the settings that it left."""


@dataclass(frozen=True)
class LoraSettings:
    """A ``LoraConfig`` as a dict, and what names of tensors have before the names of layers that it speaks of."""

    told: Mapping
    prefix: str

    def alpha(self, tensor: str, rank: int) -> float:
        """The alpha of a layer, such that its strength is ``alpha / rank``, by the name of a tensor of it in the file.

        ``ValueError`` if the settings make no sense or speak of another rank, ``UnreadSetting`` if they are ambiguous.
        """
        layer = self._layer(tensor)
        alphas, ranks = self._of(layer, "lora_alpha", "alpha_pattern"), self._of(layer, "r", "rank_pattern")
        if not all(map(_is_number, alphas)) or not all(isinstance(r, int) and r > 0 for r in ranks):
            raise ValueError(
                "its settings, in its metadata or beside it, need a number as lora_alpha and a rank r of at least 1, "
                f"got {alphas} and {ranks} for {layer}"
            )
        if rank not in ranks:
            raise ValueError(f"its settings, in its metadata or beside it, give {layer} rank {ranks[0]}, it has {rank}")
        if len(set(alphas)) > 1:
            given = " and ".join(map(str, alphas))
            raise UnreadSetting(f"its alpha_pattern gives {layer} alpha {given}, and no order, which files lose")
        return alphas[0] * math.sqrt(rank) if self.told.get("use_rslora") else alphas[0]

    def _of(self, layer: str, name: str, pattern: str) -> list:
        """A setting for one layer, from all patterns that peft would match: it takes the first, and then sorts them."""
        by_layer = self.told.get(pattern) or {}
        try:
            values = [value for key, value in by_layer.items() if get_pattern_key([key], layer) == key]
        except (AttributeError, TypeError, re.error) as error:
            raise ValueError(f"its settings, in its metadata or beside it, have an odd {pattern}: {error}") from error
        return values or [self.told.get(name)]

    def _layer(self, tensor: str) -> str:
        return re.split(r"\.lora[._]", tensor)[0].removeprefix(self.prefix)

    def unread(self) -> str:
        """The first setting that changes what the LoRA adds and is not read, with its value; empty if there is none."""
        if (kind := self.told.get("peft_type") or "LORA") != "LORA":
            return f"peft_type={kind!r}"
        start = self.told.get("init_lora_weights")
        if isinstance(start, str) and start.lower() not in PLAIN_STARTS:
            return f"init_lora_weights={start!r}"
        for name, value in self.told.items():
            if value and name not in (*READ, *LAYERS, *NO_SAY):
                return f"{name}={value!r}"
        return ""

    def trained(self, tensor: str, layers: Iterable[str]) -> set[str]:
        """Those of a model's ``layers`` that were trained. The name of a ``tensor`` shows how the file spells."""
        example = self._layer(tensor)
        found = re.search(PLACE, example)
        before = example[: found.start()] if found else ""
        published = ".temporal_transformer." in example
        targets = SimpleNamespace(target_parameters=None, **{name: self.told.get(name) for name in LAYERS})
        spelled = {layer: before + (layer if published else diffusers_name(layer)) for layer in layers}
        try:
            return {layer for layer, name in spelled.items() if check_target_module_exists(targets, name)}
        except (TypeError, re.error):
            return set()


def settings_of(metadata: Mapping[str, str]) -> LoraSettings | None:
    """The settings in the metadata of a file (as ``read_weights`` gives them); None if there are none.

    ``ValueError`` if they are no JSON object. Those of a text encoder beside the UNet's are passed over.
    """
    if DIFFUSERS_KEY in metadata:
        settings = json_in(metadata, DIFFUSERS_KEY)
        prefix = "unet." if any(name.startswith("unet.") for name in settings) else ""
        own = {name.removeprefix(prefix): value for name, value in settings.items() if name.startswith(prefix)}
        told = {name: value for name, value in own.items() if "." not in name}
        return LoraSettings(told, prefix) if told else None
    if "peft" in metadata:
        return LoraSettings(json_in(metadata, "peft"), "base_model.model.")
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
