"""What the paper compares with: Text2Video-Zero."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, TextToVideoZeroPipeline

import animatediff_ref as ar
from animatediff_ref.baselines.text2video_zero import looking_at_the_first_frame, shifted

PROMPT = "a penguin, snow"


@pytest.fixture(scope="module")
def pipe():
    pipe = ar.load_base("mini")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_text2video_zero_draws_what_diffusers_draws(pipe):
    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    peer = TextToVideoZeroPipeline(**parts, requires_safety_checker=False)
    peer.set_progress_bar_config(disable=True)
    peer.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    options = {"num_inference_steps": 10, "guidance_scale": 3.0}
    theirs = peer(
        PROMPT, video_length=4, t0=6, t1=8, generator=torch.Generator().manual_seed(3), output_type="latent",
        motion_field_strength_x=40, motion_field_strength_y=-20, **options,
    ).images  # fmt: skip
    shift = (40 / 512, -20 / 512)
    ours = ar.text2video_zero(
        pipe, PROMPT, num_frames=4, seed=3, between=(1, 3), shift=shift, output="latent", **options
    )
    assert torch.allclose(ours, theirs, atol=1e-4)
    still = ar.text2video_zero(pipe, PROMPT, num_frames=4, seed=3, between=(1, 3), output="latent", **options)
    assert (still[1:] - ours[1:]).abs().mean() > 0.1 and torch.equal(still[0], ours[0])


def test_the_first_frame_is_the_picture_that_the_pipeline_draws_alone(pipe):
    before = dict(pipe.unet.attn_processors)
    clip = ar.text2video_zero(pipe, PROMPT, num_frames=3, seed=1, num_inference_steps=6, guidance_scale=4.0)
    assert clip.shape == (3, 64, 64, 3) and clip.dtype == np.uint8
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    alone = pipe(PROMPT, latents=noise, num_inference_steps=6, guidance_scale=4.0, output_type="np").images[0]
    assert np.abs(clip[0] - alone * 255).max() <= 2
    assert pipe.unet.attn_processors == before


def test_frames_look_at_the_first_one_only(pipe):
    torch.manual_seed(0)
    x, text = torch.randn(6, 4, 16, 16), torch.randn(6, 16, 128)
    with torch.no_grad(), looking_at_the_first_frame(pipe.unet, 3):
        seen = pipe.unet(x, 500, text).sample
        for changed, reached in ((0, [0, 1, 2]), (1, [1]), (3, [3, 4, 5])):
            other = x.clone()
            other[changed] += 1
            far = (pipe.unet(other, 500, text).sample - seen).flatten(1).abs().amax(1)
            assert [row for row in range(6) if far[row] > 1e-4] == reached


def test_a_latent_is_shifted_a_little_further_in_each_frame():
    latent = torch.arange(64.0).reshape(1, 1, 8, 8)
    right, down = shifted(latent, (1 / 8, 0), 3), shifted(latent, (0, 1 / 8), 3)
    for k in range(3):
        assert torch.equal(right[k, 0, :, : 8 - k], latent[0, 0, :, k:])
        assert torch.equal(down[k, 0, : 8 - k], latent[0, 0, k:])
    assert torch.equal(right[1, 0, :, -1], latent[0, 0, :, -1])  # reflected at the edge


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_frames": 1}, "at least two frames, got 1"),
        ({"between": (3, 3)}, "0 <= first < second < 4, got 3 and 3"),
        ({"between": (1, 4)}, "0 <= first < second < 4, got 1 and 4"),
        ({"output": "pil"}, "uint8 or latent, got 'pil'"),
    ],
)
def test_what_text2video_zero_refuses(pipe, options, said):
    with pytest.raises(ValueError, match=said):
        ar.text2video_zero(pipe, PROMPT, num_inference_steps=4, **options)


def test_text2video_zero_needs_the_image_model_alone(pipe):
    ar.inject(pipe.unet, ar.load_motion_module("mini"), 4)
    with pytest.raises(ValueError, match="call eject"):
        ar.text2video_zero(pipe, PROMPT, num_inference_steps=4)
    ar.eject(pipe.unet)
