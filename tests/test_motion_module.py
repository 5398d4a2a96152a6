"""Done when 2: identity when fresh, bit-identical after eject, order seen through positions alone."""

import math
import re

import pytest
import torch
from conftest import SHAPES, motion_for, run, tiny_unet
from diffusers import UNet2DConditionModel, UNet2DModel

import animatediff_ref as ar
from animatediff_ref.method.adapters import add_motion_lora
from animatediff_ref.method.temporal import TemporalConvolution


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mid_block", [False, True])
def test_fresh_is_exactly_the_identity(shape, mid_block):
    unet = tiny_unet(shape)
    before = run(unet)
    ar.inject(unet, motion_for(unet, trained=False, mid_block=mid_block), 4)
    assert (run(unet) - before).abs().max() == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_eject_is_bit_identical(shape):
    unet = tiny_unet(shape)
    weights, before = {k: v.clone() for k, v in unet.state_dict().items()}, run(unet)
    motion = motion_for(unet)
    ar.inject(unet, motion, 4)
    assert not torch.allclose(run(unet), before, atol=1e-3), "a trained module must change the output"
    assert ar.eject(unet) is motion
    assert ar.injected(unet) is None
    assert torch.equal(run(unet), before)
    assert unet.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in unet.state_dict().items())


@pytest.mark.parametrize("option", ["resnet_norm_over_frames", "motion_norm_over_frames"])
def test_eject_undoes_the_norm_switches_too(unet, option):
    before = run(unet)
    ar.inject(unet, motion_for(unet, **{option: True}), 4)
    assert not torch.allclose(run(unet), before, atol=1e-3)
    ar.eject(unet)
    assert torch.equal(run(unet), before)


def permuted(unet, order):
    generator = torch.Generator().manual_seed(3)
    x, text = torch.randn(4, 4, 8, 8, generator=generator), torch.randn(1, 5, 24, generator=generator).expand(4, -1, -1)
    with torch.no_grad():
        return unet(x, 500, text).sample[order], unet(x[order], 500, text).sample


def test_positions_make_the_order_of_frames_matter(unet):
    ar.inject(unet, motion_for(unet), 4)
    kept, moved = permuted(unet, [2, 0, 3, 1])
    assert (kept - moved).abs().max() > 1e-2


def test_without_positions_frames_are_a_set(unet):
    ar.inject(unet, motion_for(unet, positions=False), 4)
    kept, moved = permuted(unet, [2, 0, 3, 1])
    assert (kept - moved).abs().max() < 1e-5


def test_clips_in_one_batch_do_not_see_each_other(unet):
    ar.inject(unet, motion_for(unet), 4)
    generator = torch.Generator().manual_seed(3)
    x, text = torch.randn(8, 4, 8, 8, generator=generator), torch.randn(8, 5, 24, generator=generator)
    with torch.no_grad():
        both, first = unet(x, 500, text).sample, unet(x[:4], 500, text[:4]).sample
    assert (both[:4] - first).abs().max() < 1e-5


def sd15() -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, block_out_channels=(320, 640, 1280, 1280),
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("version", "tensors", "elements"), [("v1", 560, 417_982_400), ("v2", 588, 454_417_600), ("v3", 560, 418_264_000)]
)
def test_published_sizes_at_stable_diffusion_width(version, tensors, elements):
    with torch.device("meta"):
        state = ar.MotionModule(getattr(ar.MotionConfig, version)(), sd15()).state_dict()
    assert (len(state), sum(value.numel() for value in state.values())) == (tensors, elements)
    stem = "down_blocks.0.motion_modules.1.temporal_transformer"
    assert state[f"{stem}.transformer_blocks.0.ff.net.0.proj.weight"].shape == (2560, 320)
    assert state[f"{stem}.transformer_blocks.0.attention_blocks.1.to_out.0.bias"].shape == (320,)


def test_positions_are_the_published_sinusoids():
    table = ar.sinusoidal_positions(32, 8)
    assert table.shape == (1, 32, 8)
    assert table[0, 3, :2].tolist() == pytest.approx([math.sin(3), math.cos(3)])
    assert table[0, 3, 2:4].tolist() == pytest.approx([math.sin(0.3), math.cos(0.3)])
    assert torch.equal(table[:, :24], ar.sinusoidal_positions(24, 8))


def test_more_frames_than_positions(unet):
    motion = motion_for(unet)
    with pytest.raises(ValueError, match=r"1 to 32 frames, got num_frames=33"):
        motion.num_frames = 33
    with pytest.raises(ValueError, match="got num_frames=0"):
        ar.inject(unet, motion, 0)


def test_a_batch_that_is_no_whole_number_of_clips(unet):
    ar.inject(unet, motion_for(unet), 4)
    with pytest.raises(ValueError, match="batch of 6 rows does not divide into clips of 4 frames"):
        run(unet, frames=3)


def test_a_unet_of_another_shape():
    other = UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"Stable-Diffusion-1\.x-shaped UNet .* got UNet2DModel"):
        ar.MotionModule(ar.MotionConfig.v3(), other)


def test_a_motion_module_of_other_widths(unet):
    other = motion_for(tiny_unet("mini"))
    before = run(unet)
    with pytest.raises(ValueError, match=r"does not fit this UNet: at down_blocks\.0"):
        ar.inject(unet, other, 4)
    assert torch.equal(run(unet), before)


def test_injecting_again_replaces(unet):
    first, second = motion_for(unet), motion_for(unet, mid_block=True)
    ar.inject(unet, first, 4)
    ar.inject(unet, second, 4)
    together = run(unet)
    ar.eject(unet)
    ar.inject(unet, second, 4)
    assert torch.equal(run(unet), together)
    assert ar.injected(unet) is second


@pytest.mark.parametrize("shape", SHAPES)
def test_convolutions_cost_exactly_as_many_parameters_as_attentions(shape):
    unet = tiny_unet(shape)
    both = motion_for(unet), motion_for(unet, kind="conv")
    attention, convolution = (sum(p.numel() for p in motion.parameters()) for motion in both)
    assert attention == convolution
    kept = [{name for name, _ in motion.named_parameters()} for motion in both]
    strayed = {name for name in kept[0] ^ kept[1] if not re.search(r"\.(attention_blocks|convolutions)\.", name)}
    assert not strayed, "nothing else differs"


def test_convolutions_are_the_identity_when_fresh_and_know_the_order_of_frames(unet):
    before = run(unet)
    ar.inject(unet, motion_for(unet, trained=False, kind="conv"), 4)
    assert torch.equal(run(unet), before)
    ar.inject(unet, motion_for(unet, kind="conv"), 4)
    kept, moved = permuted(unet, [2, 0, 3, 1])
    assert (kept - moved).abs().max() > 1e-2


def test_a_convolution_is_one_over_neighbouring_frames():
    """Against a sum written out: what a frame gets from itself and the two beside it, with nothing beyond the ends."""
    torch.manual_seed(0)
    layer, x = TemporalConvolution(6), torch.randn(2, 5, 6)
    weight, padded = layer.conv.weight, torch.cat([torch.zeros(2, 1, 6), x, torch.zeros(2, 1, 6)], 1)
    summed = torch.stack([sum(padded[:, f + k] @ weight[:, :, k].T for k in range(3)) for f in range(5)], 1)
    assert torch.allclose(layer(x), layer.to_out[0](torch.nn.functional.gelu(summed)), atol=1e-6)


def test_convolutions_take_any_number_of_frames(unet):
    ar.inject(unet, motion_for(unet, kind="conv"), 40)
    assert run(unet, frames=40, clips=1).shape[0] == 40
    with pytest.raises(ValueError, match="at least 1 frame, got num_frames=0"):
        ar.inject(unet, motion_for(unet, kind="conv"), 0)


def test_a_kind_that_does_not_exist():
    with pytest.raises(ValueError, match="of the kind 'transformer' or 'conv', got 'lstm'"):
        ar.MotionConfig(kind="lstm")


def test_a_convolutional_motion_module_has_no_attentions_for_a_motion_lora(unet):
    with pytest.raises(ValueError, match="changes temporal attentions, and this motion module is 'conv'"):
        add_motion_lora(motion_for(unet, kind="conv"), "zoom_in", 4)
