"""LoRAs as trainers write them: the effect is what the trainer's was, or the reason for refusing them is true."""

import json
import re
from pathlib import Path

import lora_files
import pytest
import torch
from conftest import motion_for, tiny_unet
from diffusers import MotionAdapter, UNetMotionModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from safetensors.torch import load_file, save_file

import animatediff_ref as ar
from animatediff_ref.weights.names import published_name

TEMPORAL = r".*attn[12]\.to_(q|k|v|out\.0)"


@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 2**32))
def test_any_of_a_trainers_options_has_its_effect_or_is_named(tmp_path_factory, seed):
    lora_files.try_one(seed, tmp_path_factory.mktemp("lora"))


@pytest.fixture
def loaded():
    """Loads a file onto the shared small motion module, and takes it off at the end."""
    yield lambda path: ar.load_motion_lora(lora_files.MOTION, path, name="camera")
    ar.unload_motion_loras(lora_files.MOTION)


def written(folder: Path, how: str, targets: str = TEMPORAL, **options) -> tuple[torch.nn.Module, Path]:
    model = lora_files.trained({"r": 4, "target_modules": targets, **options})
    return model, lora_files.write(model, folder, how)


@pytest.mark.parametrize("how", ["peft folder", "peft file"])
def test_alpha_in_the_file_beside(tmp_path, loaded, how):
    model, path = written(tmp_path / "camera", how, lora_alpha=16)
    loaded(path)
    assert {layer.scaling["default"] for _, layer in lora_files._lora_layers(model)} == {4.0}
    assert lora_files.difference(model, lora_files.MOTION) < 1e-5
    assert ar.inspect_file(path).title == "MotionLoRA of rank 4" and not ar.inspect_file(path).notes


def test_a_lost_alpha_is_told(tmp_path, loaded):
    model, path = written(tmp_path, "peft file", lora_alpha=4)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.warns(ar.LostAlphaWarning, match=r"adapter_config\.json.* is not beside it: alpha is taken to be"):
        loaded(path)
    assert lora_files.difference(model, lora_files.MOTION) < 1e-5
    assert "alpha is taken to be the rank" in str(ar.inspect_file(path))


def test_ranks_and_alphas_by_layer_from_diffusers(tmp_path):
    """What diffusers' own ``save_lora_adapter`` writes, with patterns."""
    unet = tiny_unet("mini")
    widths = {"block_out_channels": (48, 96, 160), "motion_layers_per_block": 1}
    adapter = MotionAdapter(**widths, motion_norm_num_groups=8, motion_num_attention_heads=4)
    theirs, motion = UNetMotionModel.from_unet2d(unet, adapter), motion_for(unet, num_heads=4, mid_block=True)
    options = {"rank_pattern": {"to_q": 2}, "alpha_pattern": {r"up_blocks\.1.*to_v": 12}, "init_lora_weights": False}
    where = f".*motion_modules{TEMPORAL}"
    theirs.add_adapter(LoraConfig(r=4, lora_alpha=4, use_rslora=True, target_modules=where, **options), "cam")
    theirs.save_lora_adapter(tmp_path, adapter_name="cam")
    for path in (tmp_path, tmp_path / "pytorch_lora_weights.safetensors"):
        assert ar.inspect_file(path).title == "MotionLoRA of rank 2 and 4"
        ar.load_motion_lora(motion, path, name="cam")
        scalings = set()
        for name, layer in lora_files._lora_layers(theirs):
            ours = motion.get_submodule(published_name(name))
            scalings.add(ours.scaling["cam"])
            assert (layer.get_delta_weight("cam") - ours.get_delta_weight("cam")).abs().max() < 1e-6
        assert sorted(scalings) == pytest.approx([2.0, 4 / 2**0.5, 6.0])


UNREAD = [
    ("use_dora", True),
    ("lora_bias", True),
    ("init_lora_weights", "pissa_niter_4"),
    ("init_lora_weights", "olora"),
    ("peft_type", "ADALORA"),
    ("layer_replication", [[0, 2]]),
    ("target_parameters", ["to_q.weight"]),
    ("a_flag_of_next_year", 3),
]


@pytest.mark.parametrize(("flag", "value"), UNREAD)
@pytest.mark.parametrize("how", ["peft folder", "diffusers pipeline"])
def test_a_setting_that_is_not_read_is_named(tmp_path, loaded, how, flag, value):
    _, path = written(tmp_path, how)
    if how == "peft folder":
        told = json.loads((path / "adapter_config.json").read_text())
        (path / "adapter_config.json").write_text(json.dumps({**told, flag: value}))
    else:
        save_file(load_file(path), path, {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 4, f"unet.{flag}": value})})  # fmt: skip
    said = re.escape(f"trained with {flag}={value!r}, which is not read here")
    with pytest.raises(ValueError, match=rf"holds: unread LoRA of rank 4 \(it was {said}\).*the tool that trained it"):
        loaded(path)
    assert ar.inspect_file(path).kind == "unread LoRA"


def test_patterns_whose_order_is_lost(tmp_path, loaded):
    """peft takes the first pattern that matches, and sorts them when it writes: what was first cannot be told."""
    pattern = {"to_q": 1, "^down_blocks.*": 8}
    _, path = written(tmp_path / "a", "peft folder", alpha_pattern=pattern)
    with pytest.raises(
        ValueError, match=r"unread LoRA \(its alpha_pattern gives down_blocks.* alpha 8 and 1, and no order"
    ):
        loaded(path)
    model, path = written(tmp_path / "b", "peft folder", alpha_pattern=dict.fromkeys(pattern, 8), rank_pattern=pattern)
    loaded(path)  # ranks are seen in the tensors
    assert lora_files.difference(model, lora_files.MOTION) < 1e-4


@pytest.mark.parametrize("how", ["peft folder", "diffusers adapter"])
def test_settings_that_are_not_those_of_the_file(tmp_path, loaded, how):
    _, path = written(tmp_path, how)
    file = next(tmp_path.glob("*.safetensors"))
    tensors = {n: (v[:2] if "lora_A" in n else v[:, :2]).contiguous() for n, v in load_file(file).items()}
    save_file(tensors, file, {"lora_adapter_metadata": '{"r": 4, "lora_alpha": 4}'} if how != "peft folder" else None)
    with pytest.raises(ValueError, match=r"damaged LoRA \(its settings.* rank 4, it has 2\)"):
        loaded(path)


PARTS = {  # what a trainer may train alone
    "attention 0": r".*attn1\.to_(q|k|v|out\.0)",
    "queries": r".*attn[12]\.to_q",
    "up blocks": r"up_blocks.*attn[12]\.to_(q|k|v|out\.0)",
    "the last block": r"up_blocks\.1.*to_q",
    "the middle": r"mid_block.*to_q",
    "all but the first": r"(down_blocks\.1|up_blocks).*to_q",
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("how", ["kohya", "published", "diffusers adapter"])
def test_a_part_that_was_trained_alone(tmp_path, loaded, part, how):
    model, path = written(tmp_path, how, PARTS[part])
    loaded(path)
    assert lora_files.difference(model, lora_files.MOTION) < 1e-5


def test_first_blocks_alone_are_believed_with_settings_or_a_checksum(tmp_path, loaded):
    where = r"down_blocks.*attn1\.to_q"
    model, path = written(tmp_path / "a", "peft folder", where)
    loaded(path)
    assert lora_files.difference(model, lora_files.MOTION) < 1e-5
    ar.save_motion_lora(lora_files.MOTION, tmp_path / "own.safetensors", "camera", "kohya")
    loaded(tmp_path / "own.safetensors")
    assert lora_files.difference(model, lora_files.MOTION) < 1e-5
    for how in ("kohya", "published"):
        (tmp_path / how).mkdir()
        with pytest.raises(ValueError, match=r"is incomplete: it has nothing for up_blocks\.1, which comes last"):
            loaded(written(tmp_path / how, how, where)[1])


@pytest.mark.parametrize("how", ["peft folder", "diffusers adapter", "diffusers pipeline"])
def test_a_layer_that_settings_name_and_that_is_lost(tmp_path, loaded, how):
    _, path = written(tmp_path, how, r"up_blocks.*attn1\.to_q")
    file = next(tmp_path.glob("*.safetensors"))
    told = ar.weights.tensors.read_weights(file).metadata
    tensors = {name: value for name, value in load_file(file).items() if "up_blocks.0.motion_modules.1" not in name}
    save_file(tensors, file, {key: value for key, value in told.items() if key != "peft"})
    with pytest.raises(ValueError, match=r"is incomplete: it lacks up_blocks\.0\.motion_modules\.1.*settings name"):
        loaded(path)


def test_two_adapters_in_one_file(tmp_path, loaded):
    _, path = written(tmp_path, "published")
    tensors = {name.replace(".lora.", ".lora_").replace(".weight", ".zoom.weight"): value + 1 for name, value in load_file(path).items()}  # fmt: skip
    save_file({**load_file(path), **tensors}, path)
    with pytest.raises(ValueError, match=r"damaged LoRA \(two tensors are the (up|down) of down_blocks"):
        loaded(path)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "unet._orig_mod.", "module.unet.", "motion_adapter.", "base.model."])
def test_whatever_stands_before_the_names(tmp_path, loaded, prefix):
    model, path = written(tmp_path, "published", lora_alpha=8)
    save_file({prefix + name: value for name, value in load_file(path).items()}, path)
    loaded(path)
    assert lora_files.difference(model, lora_files.MOTION) < 1e-5
