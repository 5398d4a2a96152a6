"""MotionLoRAs as trainers write them, with random options; and a script that tries as many as one likes.

    python tests/lora_files.py 1000

A LoRA with random factors is put on a small ``MotionAdapter`` by peft, with a random ``LoraConfig``, and written: by
peft as a folder, by diffusers with its settings in the metadata, in kohya's layout, or in published names. Loaded here,
every layer of the motion module must give what the trainer's gives, or the file must be refused for a reason that the
options hold. The script prints how many files did which.
"""

import copy
import json
import random
import re
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import torch
from diffusers import MotionAdapter
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file

import animatediff_ref as ar
from animatediff_ref.weights.names import lora_name, published_name

BLOCKS = ("", r"down_blocks\.", r"up_blocks\.", r"down_blocks\.1\.", r"up_blocks\.0\.", r"mid_block\.")
LAYERS = (r"attn[12]\.to_(q|k|v|out\.0)", r"attn1\.to_(q|k|v|out\.0)", r"attn\d\.to_[qv]", r"(attn1\.to_k|ff\.net\.2)")
PATTERNS = ("to_q", "attn1.to_v", r"up_blocks\.0.*to_k", r"^down_blocks\.1.*", r"^blocks", "to_out.0", r".*attn2\.to_q")
REASONS = {  # an option -> what the refusal must say if that is set
    "use_dora": "use_dora=True|DoRA",
    "lora_bias": "lora_bias=True|trained biases",
    "bias": "trained biases",
    "alpha_pattern": "alpha_pattern gives .* and no order",  # of two patterns that match
    "init_lora_weights": "init_lora_weights='(pissa|olora)'",
}


RARE = ("use_dora", "lora_bias", "bias")


def small_adapter() -> MotionAdapter:
    torch.manual_seed(0)
    adapter = MotionAdapter(
        (8, 16),
        motion_layers_per_block=1,
        motion_norm_num_groups=4,
        motion_num_attention_heads=2,
        motion_max_seq_length=4,
    )
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return adapter.eval()


ADAPTER = small_adapter()
WIDTHS = {"down_blocks.0": 8, "down_blocks.1": 16, "up_blocks.0": 16, "up_blocks.1": 8, "mid_block": 16}
PLACE = r"(\w+_block.*motion_modules\.\d+)\.(.*)"  # the place in the UNet, and the layer there
LINEAR = [name for name, layer in ADAPTER.named_modules() if isinstance(layer, torch.nn.Linear)]


def motion_of_adapter() -> ar.MotionModule:
    """The same motion module here, from names alone: nothing of what is tested takes part."""
    state = {published_name(name): value.clone() for name, value in ADAPTER.state_dict().items()}
    places = {name.partition(".temporal")[0]: 0 for name in state}
    config = ar.MotionConfig(norm_groups=4, num_heads=2, num_positions=4, mid_block=True)
    motion = ar.MotionModule(config, {place: WIDTHS[place.partition(".motion")[0]] for place in places}, 4)
    motion.load_state_dict(state, strict=False)
    return motion.eval()


MOTION = motion_of_adapter()


def random_options(draw: random.Random) -> dict:
    """Options of a ``LoraConfig``, those that matter here more often than others."""
    rank = draw.choice((1, 2, 4))
    options = {
        "r": rank,
        "lora_alpha": draw.choice((rank, 1, 3, 16, 0.5)),
        "target_modules": f".*{draw.choice(BLOCKS)}.*{draw.choice(LAYERS)}",
        "init_lora_weights": draw.choice((False, False, True, "gaussian", "pissa", "olora")),
    }
    more = {
        "rank_pattern": {draw.choice(PATTERNS): draw.choice((1, 2, 3)) for _ in range(2)},
        "alpha_pattern": {draw.choice(PATTERNS): draw.choice((1, 5, 0.25)) for _ in range(2)},
        "use_rslora": True,
        "use_dora": True,
        "lora_bias": True,
        "bias": draw.choice(("all", "lora_only")),
        "fan_in_fan_out": True,
        "lora_dropout": 0.5,
        "exclude_modules": [draw.choice(("to_q", "attn2.to_k"))],
        "target_modules": draw.choice((["to_q"], ["attn1.to_k", "to_v"], ["to_out.0", "proj_in"])),
        "layers_to_transform": None,
    }
    chosen = [name for name in more if draw.random() < (0.08 if name in RARE else 0.3)]
    options |= {name: more[name] for name in chosen}
    if isinstance(options["target_modules"], list) and draw.random() < 0.3:
        options["layers_to_transform"] = [draw.choice((0, 1))]
    return options


def trained(options: dict) -> torch.nn.Module:
    """The adapter with a LoRA on it, as after training: every number that may be trained is random."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(copy.deepcopy(ADAPTER), LoraConfig(**copy.deepcopy(options)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def write(model: torch.nn.Module, folder: Path, how: str) -> Path:
    """The file or folder that a trainer of this kind leaves."""
    if how.startswith("peft"):
        model.save_pretrained(folder)
        return folder if how == "peft folder" else folder / "adapter_model.safetensors"
    tensors, file = get_peft_model_state_dict(model), folder / "lora.safetensors"
    plain = {name.removeprefix("base_model.model."): value.contiguous() for name, value in tensors.items()}
    settings = {k: list(v) if isinstance(v, set) else v for k, v in model.peft_config["default"].to_dict().items()}
    if how == "diffusers adapter":  # UNetMotionModel.save_lora_adapter
        save_file(plain, file, {"format": "pt", "lora_adapter_metadata": json.dumps(settings)})
    elif how == "diffusers pipeline":  # StableDiffusionPipeline.save_lora_weights
        told = json.dumps({f"unet.{name}": value for name, value in settings.items()})
        save_file({f"unet.{name}": value for name, value in plain.items()}, file, {"lora_adapter_metadata": told})
    else:
        save_file(_without_settings(model, plain, how), file)
    return file


def _without_settings(model: torch.nn.Module, plain: dict, how: str) -> dict:
    """In kohya's layout the strength goes into alpha, in published names into the up factor."""
    tensors = {}
    strength = {name.removeprefix("base_model.model."): layer.scaling["default"] for name, layer in _lora_layers(model)}
    for name, value in plain.items():
        layer, _, part = name.partition(".lora_")
        if part not in ("A.weight", "B.weight"):
            tensors[name] = value  # of DoRA, or a bias
            continue
        factor = "down" if part == "A.weight" else "up"
        published = published_name(layer)
        if how == "kohya":
            tensors[lora_name(published, factor, "kohya")] = value
            rank = plain[f"{layer}.lora_A.weight"].shape[0]
            tensors[lora_name(published, "alpha", "kohya")] = torch.tensor(float(strength[layer] * rank))
        else:
            stem = f"{published}.lora.{factor}.weight"
            tensors[stem] = value * strength[layer] if factor == "up" else value
    return tensors


NO_SETTINGS = ("kohya", "published")
WRITERS = ("peft folder", "peft file", "diffusers adapter", "diffusers pipeline", *NO_SETTINGS)


def _lora_layers(model: torch.nn.Module) -> list:
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, LoraLayer)]


@torch.no_grad()
def difference(model: torch.nn.Module, motion: ar.MotionModule) -> float:
    """The largest difference between what linear layers of the trainer's model and of ours make of the same input."""
    theirs, generator, worst = model.get_base_model(), torch.Generator().manual_seed(0), 0.0
    for name in LINEAR:
        layer = theirs.get_submodule(name)
        x = torch.randn(3, layer.in_features, generator=generator)
        worst = max(worst, (layer(x) - motion.get_submodule(published_name(name))(x)).abs().max().item())
    return worst


def try_one(seed: int, folder: Path) -> str:
    """Write and load the LoRA of a seed: what became of it. Fails if that is neither right nor refused with reason."""
    draw = random.Random(seed)
    options, how = random_options(draw), draw.choice(WRITERS)
    if how in NO_SETTINGS:  # such trainers know no start that changes the model's own weights
        options["init_lora_weights"] = False
    torch.manual_seed(seed)
    try:
        model = trained(options)
    except ValueError as error:  # peft itself: nothing to train, or options that exclude each other
        return f"not trained: {str(error)[:40]}"
    path = write(model, folder, how)
    case = f"seed {seed}: {how}, {options}"
    said = str(ar.inspect_file(path))
    try:
        ar.load_motion_lora(MOTION, path, name="camera")
    except ValueError as error:
        assert path.name in str(error), f"{case}: {error}"
        if how in NO_SETTINGS and (reason := _incomplete(str(error), model, case)):
            return reason
        assert "load_motion_lora" not in said, f"{case}: inspect says {said}, loading says {error}"
        return _checked_refusal(str(error), options, case)
    try:
        worst = difference(model, MOTION)
    finally:
        ar.unload_motion_loras(MOTION)
    assert worst < 1e-4, f"{case}: loaded, and differs by {worst}"
    assert "MotionLoRA" in said, f"{case}: loaded, and inspect says {said}"
    return f"{how}: loaded, the same"


def _checked_refusal(error: str, options: dict, case: str) -> str:
    """A refusal must name an option that was set."""
    for option, reason in REASONS.items():
        if options.get(option) and re.search(reason, error):
            return f"refused: {option}"
    raise AssertionError(f"{case}: refused: {error}")


def _incomplete(error: str, model: torch.nn.Module, case: str) -> str:
    """A LoRA without settings may be taken for one that lost something, if it has only the first blocks or is uneven."""
    layers_at: dict[str, set[str]] = {}
    for name, _ in _lora_layers(model):
        place, layer = re.search(PLACE, name).groups()
        layers_at.setdefault(place, set()).add(layer)
    blocks = {place.partition(".motion_modules")[0] for place in layers_at}
    if "is incomplete: it ends with" in error:
        assert "down_blocks.0" in blocks and "up_blocks.1" not in blocks, f"{case}: {error}"
        return "refused without settings: first blocks only"
    if "is incomplete: at" in error:
        places = {re.search(PLACE, name)[1] for name in LINEAR}
        of_blocks = [place for place in places if place.partition(".motion_modules")[0] in blocks]
        assert len({frozenset(layers_at.get(place, ())) for place in of_blocks}) > 1, f"{case}: {error}"
        return "refused without settings: not the same layers everywhere"
    return ""


def main(count: int) -> None:
    found = Counter()
    warnings.simplefilter("ignore")
    for seed in range(count):
        with tempfile.TemporaryDirectory() as folder:
            found[try_one(seed, Path(folder))] += 1
    for what, times in sorted(found.items()):
        print(f"{times:6}  {what}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
