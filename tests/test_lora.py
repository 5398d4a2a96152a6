"""MotionLoRAs on a module: weighed, added, taken off exactly, merged into the module or into one file."""

import warnings

import pytest
import torch
from conftest import lora_for, motion_for, run, tiny_unet
from safetensors.torch import load_file

import animatediff_ref as ar
from animatediff_ref.clips.camera import CAMERAS
from animatediff_ref.method.adapters import add_domain_adapter
from animatediff_ref.mini.cards import checked
from animatediff_ref.mini.files import SHIPPED

LAYER = "transformer_blocks.0.attention_blocks.0.to_out.0"


@pytest.fixture
def motion():
    return motion_for(tiny_unet())


@pytest.fixture
def cameras(motion, tmp_path):
    """Two MotionLoRAs of other ranks."""
    lora_for(motion, tmp_path / "zoom.safetensors", rank=4, seed=1)
    lora_for(motion, tmp_path / "pan.ckpt", rank=3, seed=2)
    return tmp_path / "zoom.safetensors", tmp_path / "pan.ckpt"


def output(motion) -> torch.Tensor:
    unet = tiny_unet()
    ar.inject(unet, motion, 4)
    return run(unet)


@pytest.mark.parametrize("weight", [1.0, 0.5, -1.0, 0.0])
def test_a_layer_becomes_w_plus_weight_up_down(motion, cameras, weight):
    layer = motion.at("up_blocks.1.motion_modules.2").get_submodule(LAYER)
    w, b = layer.weight.clone(), layer.bias.clone()
    factors = load_file(cameras[0])
    attention = LAYER.removesuffix(".to_out.0")
    stem = f"up_blocks.1.motion_modules.2.temporal_transformer.{attention}.processor.to_out_lora"
    changed = w + weight * factors[f"{stem}.up.weight"] @ factors[f"{stem}.down.weight"]
    ar.load_motion_lora(motion, cameras[0], weight=weight)
    layer = motion.at("up_blocks.1.motion_modules.2").get_submodule(LAYER)
    assert (layer(torch.eye(w.shape[1])) - changed.T - b).abs().max() < 1e-6
    ar.fuse_motion_loras(motion)
    layer = motion.at("up_blocks.1.motion_modules.2").get_submodule(LAYER)
    assert (layer.weight - changed).abs().max() < 1e-6


def test_weights_add_up_and_come_off_exactly(motion, cameras):
    plain, state = output(motion), {name: value.clone() for name, value in motion.state_dict().items()}
    ar.load_motion_lora(motion, cameras[0], weight=0.7)
    zoom = output(motion)
    ar.load_motion_lora(motion, cameras[1], name="pan", weight=-0.3)
    assert ar.motion_loras(motion) == pytest.approx({"zoom": 0.7, "pan": -0.3})
    both = output(motion)
    assert not torch.allclose(zoom, both, atol=1e-3)
    ar.set_motion_loras(motion, {"zoom": 0.7})
    assert torch.equal(output(motion), zoom)
    ar.set_motion_loras(motion, {})
    assert torch.equal(output(motion), plain)
    ar.set_motion_loras(motion, {"pan": -0.3, "zoom": 0.7})
    assert torch.equal(output(motion), both)
    ar.unload_motion_loras(motion, "pan", "pan")
    assert torch.equal(output(motion), zoom)
    ar.unload_motion_loras(motion)
    assert torch.equal(output(motion), plain)
    assert motion.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in motion.state_dict().items())


def test_loading_again_replaces(motion, cameras):
    ar.load_motion_lora(motion, cameras[0], name="camera")
    ar.load_motion_lora(motion, cameras[1], name="camera", weight=0.5)
    again = output(motion)
    assert ar.motion_loras(motion) == {"camera": 0.5}
    ar.unload_motion_loras(motion)
    ar.load_motion_lora(motion, cameras[1], weight=0.5)
    assert torch.equal(output(motion), again)


def test_merged_into_the_module(motion, cameras, tmp_path):
    for path, weight in zip(cameras, (0.7, -0.3)):
        ar.load_motion_lora(motion, path, weight=weight)
    both = output(motion)
    ar.save_motion_module(motion, tmp_path / "without.safetensors")  # LoRAs are not part of the module
    ar.fuse_motion_loras(motion)
    assert torch.allclose(output(motion), both, atol=1e-4)
    assert not ar.motion_loras(motion)
    ar.save_motion_module(motion, tmp_path / "with.safetensors")
    assert torch.equal(output(ar.load_motion_module(tmp_path / "with.safetensors")), output(motion))
    assert torch.equal(output(ar.load_motion_module(tmp_path / "without.safetensors")), output(motion_for(tiny_unet())))


def test_merged_into_one_file(motion, cameras, tmp_path):
    for path, weight in zip(cameras, (0.7, -0.3)):
        ar.load_motion_lora(motion, path, weight=weight)
    both = output(motion)
    ar.unload_motion_loras(motion)
    weights = dict(zip(cameras, (0.7, -0.3)))
    ar.merge_motion_loras(weights, tmp_path / "merged.safetensors")
    assert ar.inspect_file(tmp_path / "merged.safetensors").ranks == (7,)
    ar.load_motion_lora(motion, tmp_path / "merged.safetensors")
    assert torch.allclose(output(motion), both, atol=1e-5)
    ar.merge_motion_loras(weights, tmp_path / "kohya.safetensors", format="kohya")
    ar.load_motion_lora(motion, tmp_path / "kohya.safetensors", name="merged")
    assert torch.allclose(output(motion), both, atol=1e-5)


def test_one_of_another_motion_module(motion, tmp_path):
    """A file knows the module it was trained on, in every format, merged or not; rounding and fusing do not change that."""
    own, merged, converted = (tmp_path / f"{name}.safetensors" for name in ("own", "merged", "converted"))
    trained_here, other = motion_for(tiny_unet()), motion_for(tiny_unet())
    for parameter in trained_here.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    lora_for(motion, tmp_path / "plain.safetensors")
    ar.load_motion_lora(trained_here, tmp_path / "plain.safetensors", "camera")
    ar.save_motion_lora(trained_here, own, format="diffusers")
    ar.merge_motion_loras({own: 0.5}, merged)
    ar.convert_file(own, converted, "kohya")
    for file in (own, merged, converted):
        with pytest.warns(ar.OtherModuleWarning, match=f"{file.name} was trained on another motion module"):
            ar.load_motion_lora(other, file)
        with warnings.catch_warnings(action="error"):
            ar.load_motion_lora(trained_here, file)
    ar.fuse_motion_loras(trained_here)
    with warnings.catch_warnings(action="error"):
        ar.load_motion_lora(trained_here.to(torch.bfloat16), own)
    ar.save_motion_lora(other, tmp_path / "others.safetensors", "own")
    with pytest.warns(ar.OtherModuleWarning, match="others.safetensors was trained .* that of .*own.safetensors is"):
        ar.merge_motion_loras({own: 1.0, tmp_path / "others.safetensors": 1.0}, merged)


def test_one_made_for_a_middle_block_on_a_module_without(cameras, tmp_path):
    with_middle, without = motion_for(tiny_unet(), mid_block=True), motion_for(tiny_unet())
    lora_for(with_middle, tmp_path / "v2.safetensors")
    with pytest.warns(
        ar.SkippedLayersWarning, match="skipped 8 layers of the middle block, which this motion module does not have"
    ):
        ar.load_motion_lora(without, tmp_path / "v2.safetensors")
    assert ar.motion_loras(without) == {"v2": 1.0}
    ar.load_motion_lora(with_middle, cameras[0])  # the other way nothing is skipped
    assert not torch.equal(output(with_middle), output(motion_for(tiny_unet(), mid_block=True)))


def test_what_is_trainable_stays_so(motion, cameras):
    ar.load_motion_lora(motion, cameras[0])
    trainable = {name for name, parameter in motion.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, _ in motion.named_parameters() if ".lora_" not in name}
    ar.unload_motion_loras(motion)
    motion.requires_grad_(False)
    ar.load_motion_lora(motion, cameras[0])
    assert not any(parameter.requires_grad for parameter in motion.parameters())


def test_half_precision_and_injected(cameras):
    unet = tiny_unet().to(torch.bfloat16)
    motion = motion_for(unet)
    ar.inject(unet, motion, 4)
    ar.load_motion_lora(motion, cameras[0])  # after injection
    x, text = torch.randn(4, 4, 8, 8).bfloat16(), torch.randn(4, 5, 24).bfloat16()
    with torch.no_grad():
        with_lora = unet(x, 500, text).sample
        ar.set_motion_loras(motion, {})
        without = unet(x, 500, text).sample
    assert with_lora.dtype == torch.bfloat16
    assert not torch.equal(with_lora, without)


def test_what_is_refused(motion, cameras, tmp_path):
    with pytest.raises(ValueError, match="no MotionLoRA 'zoom' is loaded; there are: none"):
        ar.set_motion_loras(motion, {"zoom": 1.0})
    with pytest.raises(ValueError, match="no MotionLoRA 'zoom' is loaded"):
        ar.unload_motion_loras(motion, "zoom")
    with pytest.raises(ValueError, match="name the MotionLoRA to save, one of: none is loaded"):
        ar.save_motion_lora(motion, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"a string without dots, and not one that PyTorch uses, got 'a\.b'"):
        ar.load_motion_lora(motion, cameras[0], name="a.b")
    with pytest.raises(ValueError, match="not one that PyTorch uses, got 'items'"):
        ar.load_motion_lora(motion, cameras[0], name="items")
    lora_for(motion, tmp_path / "zero.safetensors", alpha=0.0)
    with pytest.raises(ValueError, match=r"alpha of .* is 0: it changes nothing"):
        ar.load_motion_lora(motion, tmp_path / "zero.safetensors")
    lora_for(motion_for(tiny_unet("mini")), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="are for different models"):
        ar.merge_motion_loras({cameras[0]: 1.0, tmp_path / "other.safetensors": 1.0}, tmp_path / "x.safetensors")
    ar.load_motion_lora(motion, cameras[0])
    with pytest.raises(ValueError, match="formats official, diffusers, kohya, got 'a1111'"):
        ar.save_motion_lora(motion, tmp_path / "x.safetensors", format="a1111")
    with pytest.raises(ValueError, match="at least one MotionLoRA"):
        ar.merge_motion_loras({}, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_an_adapter_of_a_compiled_unet_is_written_with_plain_names(tmp_path):
    unet = tiny_unet()
    compiled = torch.compile(unet, backend="eager")
    add_domain_adapter(compiled, rank=2)
    ar.save_domain_adapter(compiled, tmp_path / "adapter.safetensors")
    ar.load_domain_adapter(tiny_unet(), tmp_path / "adapter.safetensors")


def test_the_eight_cameras_ship_and_go_by_name(tmp_path):
    """Each is what its card says, is called by its name, and can be merged by name."""
    assert SHIPPED["MotionLoRA"].keys() == CAMERAS.keys()
    motion, faults = ar.load_motion_module("mini"), checked()
    assert len({(ar.data_folder() / place).read_bytes() for place in SHIPPED["MotionLoRA"].values()}) == 8
    for camera, place in SHIPPED["MotionLoRA"].items():
        assert faults[place] == ""
        ar.load_motion_lora(motion, camera)
        assert ar.motion_loras(motion) == {camera: 1.0}
        ar.unload_motion_loras(motion)
    ar.merge_motion_loras({"zoom_in": 1.0, "pan_left": 0.5}, tmp_path / "both.safetensors")
    assert ar.inspect_file(tmp_path / "both.safetensors").ranks == (64,)


@pytest.mark.parametrize(("back", "on"), [("pan_left", "pan_right"), ("tilt_down", "tilt_up")])
def test_opposite_cameras_go_opposite_ways(back, on):
    """The rolls do not, and zoom_in not always: data/measured.json."""
    pipe, motion = ar.load_base("mini"), ar.load_motion_module("mini")
    pipe.set_progress_bar_config(disable=True)
    ar.inject(pipe.unet, motion, 16)
    ways = []
    for camera in (back, on):
        ar.load_motion_lora(motion, camera)
        clip = ar.animate(pipe, "a penguin, beach", seed=0, num_inference_steps=12)
        ways.append(ar.estimate_camera(clip, whole=True).total[CAMERAS[camera][0]])
        ar.unload_motion_loras(motion)
    assert ways[1] - ways[0] > 0.05, "a fifth of a usual move"
