"""Saving and loading: round trips, published files, files that are something else, and a killed save."""

import pytest
import torch
from conftest import motion_for, run, tiny_unet
from peft import LoraConfig
from safetensors.torch import save_file

import animatediff_ref as ar
from animatediff_ref import storage


def test_motion_module_round_trip(unet, tmp_path):
    motion = motion_for(unet, motion_norm_over_frames=True, num_positions=24)
    ar.save_motion_module(motion, tmp_path / "m.safetensors")
    loaded = ar.load_motion_module(tmp_path / "m.safetensors")
    assert (loaded.config, loaded.num_frames, loaded.places) == (motion.config, motion.num_frames, motion.places)
    ar.inject(unet, motion)
    expected = run(unet)
    ar.inject(unet, loaded)
    assert torch.equal(run(unet), expected)


@pytest.mark.parametrize(
    ("rows", "mid_block", "version"),
    [(24, False, ar.MotionConfig.v1()), (32, True, ar.MotionConfig.v2()), (32, False, ar.MotionConfig.v3())],
)
def test_published_versions_are_told_apart(tmp_path, rows, mid_block, version):
    unet = tiny_unet("two levels, two layers")
    motion = ar.MotionModule(ar.MotionConfig(num_positions=rows, mid_block=mid_block), unet)
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in motion.state_dict().items()}, "epoch": 3}, tmp_path / "mm.ckpt"
    )
    loaded = ar.load_motion_module(tmp_path / "mm.ckpt")
    assert loaded.config == version
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), motion.parameters()))


def test_a_file_without_position_tables(tmp_path):
    motion = ar.MotionModule(ar.MotionConfig.v3(), tiny_unet())
    torch.save({k: v for k, v in motion.state_dict().items() if "pos_encoder" not in k}, tmp_path / "mm.ckpt")
    loaded = ar.load_motion_module(tmp_path / "mm.ckpt")
    assert torch.equal(loaded.state_dict()["down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.pos_encoder.pe"],
                       ar.sinusoidal_positions(32, 32))  # fmt: skip


def test_something_else_is_not_a_motion_module(tmp_path):
    save_file({"text_model.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors is not a motion module"):
        ar.load_motion_module(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no motion module at"):
        ar.load_motion_module(tmp_path / "absent.safetensors")


def test_a_file_that_lacks_a_tensor(unet, tmp_path):
    motion = motion_for(unet)
    state = motion.state_dict()
    state.pop("down_blocks.0.motion_modules.0.temporal_transformer.proj_out.bias")
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"proj_out\.bias needs shape \(32,\), the file has None"):
        ar.load_motion_module(tmp_path / "m.safetensors", motion.config)


def test_a_killed_save_leaves_the_old_file(unet, tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    ar.save_motion_module(motion_for(unet), path)
    before = path.read_bytes()

    def killed(tensors, file, metadata):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        ar.save_motion_module(motion_for(unet, mid_block=True), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_domain_adapter_round_trip(tmp_path):
    unet, plain = tiny_unet(), run(tiny_unet())
    for parameter in ar.lora.add_domain_adapter(unet, rank=2):
        torch.nn.init.normal_(parameter, std=0.3)
    ar.save_domain_adapter(unet, tmp_path / "a.safetensors")
    whole = run(unet)
    ar.set_domain_adapter(unet, 0.5)
    half = run(unet)
    other = tiny_unet()
    ar.load_domain_adapter(other, tmp_path / "a.safetensors")
    assert torch.equal(run(other), whole)
    assert not torch.allclose(half, whole, atol=1e-4)
    assert not torch.allclose(half, plain, atol=1e-4)
    ar.set_domain_adapter(other, 0.0)
    assert torch.allclose(run(other), plain, atol=1e-6)


def test_a_domain_adapter_of_other_widths(tmp_path):
    unet, other = tiny_unet(), tiny_unet("mini")
    ar.lora.add_domain_adapter(unet, rank=2)
    ar.save_domain_adapter(unet, tmp_path / "a.safetensors")
    before = other.state_dict().keys()
    with pytest.raises(ValueError, match="does not fit this UNet"):
        ar.load_domain_adapter(other, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="no domain adapter"):
        ar.set_domain_adapter(other, 1.0)
    assert {key.replace(".base_layer", "") for key in other.state_dict()} == set(before)


def test_a_domain_adapter_leaves_a_style_as_it_is(tmp_path):
    unet = tiny_unet()
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_k"], init_lora_weights=False), adapter_name="style")
    styled = run(unet)
    for parameter in ar.lora.add_domain_adapter(unet, rank=2):
        torch.nn.init.normal_(parameter, std=0.3)
    both = run(unet)
    ar.save_domain_adapter(unet, tmp_path / "a.safetensors")
    ar.set_domain_adapter(unet, 0.0)
    assert torch.allclose(run(unet), styled, atol=1e-6)
    assert not torch.allclose(both, styled, atol=1e-4)
    ar.load_domain_adapter(unet, tmp_path / "a.safetensors")
    assert torch.allclose(run(unet), both, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in unet.parameters())


@pytest.mark.parametrize("name", ["m.safetensors", "m.ckpt"])
def test_broken_files(tmp_path, name):
    (tmp_path / name).write_bytes(b"half a file")
    with pytest.raises(ValueError, match=f"{name} cannot be read as weights"):
        ar.load_motion_module(tmp_path / name)


def test_weights_are_written_as_safetensors(unet, tmp_path):
    with pytest.raises(ValueError, match=r"written as \.safetensors, got 'm\.ckpt'"):
        ar.save_motion_module(motion_for(unet), tmp_path / "m.ckpt")
