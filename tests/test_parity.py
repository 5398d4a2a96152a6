"""Done when 3: equal to diffusers' UNetMotionModel under its norm convention, and to a per-frame version of it under ours."""

import pytest
import torch
from conftest import SHAPES, motion_for, run, tiny_unet
from oracle import diffusers_unet, replace_norms, theirs

import animatediff_ref as ar

# Single precision over some twenty layers; the differences seen are below 1e-5.
TOLERANCE = 2e-5


def ours(unet, motion) -> torch.Tensor:
    ar.inject(unet, motion, 4)
    return run(unet)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mid_block", [False, True])
def test_diffusers_convention(shape, mid_block):
    unet = tiny_unet(shape)
    motion = motion_for(unet, mid_block=mid_block, motion_norm_over_frames=True)
    expected = theirs(diffusers_unet(unet, motion))
    assert (ours(unet, motion) - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mid_block", [False, True])
def test_official_v2_v3_semantics(shape, mid_block):
    unet = tiny_unet(shape)
    motion = motion_for(unet, mid_block=mid_block)
    plain = theirs(diffusers_unet(unet, motion))
    expected = theirs(replace_norms(diffusers_unet(unet, motion), "motion"))
    got = ours(unet, motion)
    assert (got - expected).abs().max() < TOLERANCE
    assert (got - plain).abs().max() > 100 * TOLERANCE, "the two conventions must differ, else this compares nothing"


@pytest.mark.parametrize("shape", SHAPES)
def test_official_v1_semantics(shape):
    unet = tiny_unet(shape)
    motion = motion_for(unet, resnet_norm_over_frames=True)
    expected = theirs(replace_norms(replace_norms(diffusers_unet(unet, motion), "motion"), "resnet"))
    assert (ours(unet, motion) - expected).abs().max() < TOLERANCE
