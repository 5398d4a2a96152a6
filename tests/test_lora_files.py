"""LoRAs as trainers write them: the effect is what the trainer's was, or the reason for refusing them is true."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import lora_files
import pytest
import torch
from conftest import lora_for, motion_for, tiny_unet
from diffusers import MotionAdapter, UNetMotionModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import animatediff_ref as ar
from animatediff_ref.weights.names import lora_part, published_name
from animatediff_ref.weights.tensors import read_weights

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


def test_warnings_are_of_the_line_that_called(tmp_path, loaded):
    _, path = written(tmp_path, "peft file", lora_alpha=4)
    (tmp_path / "adapter_config.json").unlink()
    without = motion_for(tiny_unet())
    lora_for(motion_for(tiny_unet(), mid_block=True), tmp_path / "v2.safetensors")
    out = tmp_path / "out.safetensors"
    for use in (
        loaded,
        lambda file: ar.convert_file(file, out),
        lambda file: ar.merge_motion_loras({file: 1.0}, out),
        lambda file: ar.load_motion_lora(without, tmp_path / "v2.safetensors"),
    ):
        with pytest.warns((ar.LostAlphaWarning, ar.SkippedLayersWarning)) as told:
            use(path)
        assert [warning.filename for warning in told] == [__file__]


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
        with pytest.raises(
            ValueError, match=r"is incomplete: it ends with down_blocks\.1, which is not the last block"
        ):
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


def said_against(use: Callable, path: Path) -> str:
    """Why a file cannot be used; empty if it can."""
    try:
        use(path)
    except ValueError as error:
        return str(error)
    return ""


def agreed(path: Path, load: Callable) -> str:
    """What loading, converting and merging a file have against it: all the same, or none has anything."""
    out, wanted = path.parent / "again.safetensors", said_against(load, path)
    out.unlink(missing_ok=True)
    for use in (lambda file: ar.convert_file(file, out, "kohya"), lambda file: ar.merge_motion_loras({file: 0.5}, out)):
        assert said_against(use, path) == wanted
        assert out.exists() == (wanted == "")
    return wanted


LOST = {  # what is gone from a MotionLoRA of all attentions -> why it is refused without settings; "" if it is not
    r"up_blocks\.1": r"it ends with up_blocks\.0, which is not the last block of the UNet",
    r"up_blocks|mid_block": r"it ends with down_blocks\.1, which is not the last block of the UNet",
    r"down_blocks\.1|up_blocks\.0": "",
    r"(down|up)_blocks\.1": r"it ends with up_blocks\.0, which is not the last block of the UNet",
    r"up_blocks\.0\.motion_modules\.1": r"at up_blocks\.0\.motion_modules\.1 it lacks",
    r"up_blocks\.1\.motion_modules\.1": r"at up_blocks\.1\.motion_modules\.1 it lacks",
    r"down_blocks\.1.*attention_blocks\.0\.to_v": r"at down_blocks\.1\.motion_modules\.0 it lacks .*\.0\.to_v",
}


@pytest.mark.parametrize("how", ["published", "kohya", "diffusers pipeline", "peft folder"])
def test_converting_and_merging_refuse_what_loading_refuses(tmp_path, loaded, how):
    _, path = written(tmp_path, how)
    file = next(tmp_path.glob("*.safetensors"))
    tensors = load_file(file)
    with safe_open(file, "pt") as opened:
        told = opened.metadata()
    assert agreed(path, loaded) == ""
    for lost, reason in LOST.items():
        save_file(
            {name: value for name, value in tensors.items() if not re.search(lost, lora_part(name)[0])}, file, told
        )
        said = agreed(path, loaded)
        if how in lora_files.NO_SETTINGS:
            assert re.search(f"is incomplete: {reason}", said) if reason else said == ""
        else:
            assert re.search(rf"is incomplete: it lacks ({lost}).*, which its settings name", said)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_was_trained_alone_is_converted_and_merged(tmp_path, loaded, part):
    for how in ("published", "diffusers pipeline"):
        (tmp_path / how).mkdir()
        assert agreed(written(tmp_path / how, how, PARTS[part])[1], loaded) == ""
        loaded(tmp_path / how / "again.safetensors")


SHAPES = {  # widths and ResNets of the levels of a UNet
    "mini": ((48, 96, 160), (1, 1, 1)),
    "like Stable Diffusion": ((16, 32, 64, 64), (2, 2, 2, 2)),
    "levels unlike each other": ((16, 32, 48), (2, 1, 3)),
}


def motion_of(widths: tuple[int, ...], resnets: tuple[int, ...]) -> ar.MotionModule:
    """A motion module with a middle block, for what all UNets of diffusers have in common."""
    down, up = zip(widths, resnets), zip(widths[::-1], resnets[::-1])
    places = {f"down_blocks.{i}.motion_modules.{j}": width for i, (width, n) in enumerate(down) for j in range(n)}
    places |= {f"up_blocks.{i}.motion_modules.{j}": width for i, (width, n) in enumerate(up) for j in range(n + 1)}
    return ar.MotionModule(ar.MotionConfig(norm_groups=8, mid_block=True), {**places, "mid_block.motion_modules.0": widths[-1]})  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_that_breaks_off_anywhere_is_neither_loaded_nor_converted(tmp_path, shape):
    motion, file = motion_of(*SHAPES[shape]), tmp_path / "cut.safetensors"
    tensors = lora_for(motion, file)
    names = sorted(tensors)

    def load(path: Path) -> None:
        ar.load_motion_lora(motion, path, name="camera")

    assert agreed(file, load) == ""
    for cut in range(16, len(names), 48):  # every place has 16
        save_file({name: tensors[name] for name in names[:cut]}, file)
        assert "is incomplete: " in agreed(file, load)
    if shape != "levels unlike each other":
        for cut in range(8, len(names), 56):  # what came first is lost; in some of these files blocks are whole
            save_file({name: tensors[name] for name in names[cut:]}, file)
            agreed(file, load)


def test_settings_that_name_what_is_nowhere_in_the_file(tmp_path, loaded):
    """Whole levels, the middle block beside everything else, and an attention that no layer is of."""
    _, path = written(tmp_path, "diffusers adapter")
    tensors, told = load_file(path), read_weights(path).metadata
    for gone in ("attn2", "down_blocks|up_blocks", "(down_blocks.1|up_blocks|mid_block)"):
        save_file({name: value for name, value in tensors.items() if not re.search(gone, name)}, path, told)
        for use in (loaded, lambda file: ar.convert_file(file, tmp_path / "x.safetensors", "kohya")):
            assert "which its settings name" in said_against(use, path)


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
