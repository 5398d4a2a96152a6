"""What the paper compares with: Text2Video-Zero and Tune-A-Video."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, TextToVideoZeroPipeline

import animatediff_ref as ar
from animatediff_ref.baselines import tune_a_video as tav
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


PLAN = ar.TrainConfig(8, batch_size=1, learning_rate=3e-3, seed=0)


@pytest.fixture(scope="module")
def penguin():
    film = next(
        c for c in ar.list_clips(ar.data_folder() / "clips.csv", ar.data_folder() / "clips") if "penguin" in c.caption
    )
    return ar.read_clip(film.path, 6, size=64)


@pytest.fixture
def tuned(pipe, penguin):
    """A pipeline that was tuned for some steps, and what it was before; taken out at the end."""
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    list(ar.tune_a_video(pipe, penguin, PROMPT, PLAN))
    yield pipe, before
    ar.untune(pipe.unet)


def noisy(frames=6, alike=False):
    torch.manual_seed(2)
    x = torch.randn(1 if alike else frames, 4, 16, 16).expand(frames, -1, -1, -1)
    return x, 500, torch.randn(1, 16, 128).expand(frames, -1, -1)


@torch.no_grad()
def test_before_it_learns_the_inflated_model_draws_equal_frames_as_the_image_model_does(pipe):
    alone = pipe.unet(*noisy(alike=True)).sample
    apart = pipe.unet(*noisy()).sample
    fresh = tav.Tuned(pipe.unet, 6)
    assert torch.allclose(pipe.unet(*noisy(alike=True)).sample, alone, atol=1e-4)
    assert not torch.allclose(pipe.unet(*noisy()).sample, apart, atol=1e-2)
    fresh.remove(pipe.unet)
    assert torch.equal(pipe.unet(*noisy()).sample, apart)


def test_a_frame_looks_at_the_first_and_the_one_before(pipe):
    """At the start, when the attentions along the frames add nothing, and with norms of single frames."""
    fresh = tav.Tuned(pipe.unet, 6)
    for handle in fresh.handles:
        handle.remove()
    with torch.no_grad():
        seen = pipe.unet(*noisy()).sample
        x, *others = noisy()
        x = x.clone()
        x[3] += 1
        far = (pipe.unet(x, *others).sample - seen).flatten(1).abs().amax(1)
    fresh.remove(pipe.unet)
    # each of the attentions in a row carries it one frame further, to those behind alone
    assert far[:3].max() == 0 and far[3] > far[4] > 1e-4


def test_only_queries_and_attentions_along_frames_learn(tuned):
    pipe, before = tuned
    changed = {name for name, value in pipe.unet.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.endswith((".attn1.to_q.weight", ".attn2.to_q.weight"))}
    for added in tav.tuned_in(pipe.unet).added:
        assert added.attention.to_out[0].weight.abs().max() > 0
        assert torch.equal(added.norm.weight, torch.ones_like(added.norm.weight))


def test_untuned_it_is_bit_for_bit_what_it_was(pipe, penguin):
    processors, weights = pipe.unet.attn_processors, {n: v.clone() for n, v in pipe.unet.state_dict().items()}
    trained = [parameter.requires_grad for parameter in pipe.unet.parameters()]
    with torch.no_grad():
        before = pipe.unet(*noisy()).sample
    list(ar.tune_a_video(pipe, penguin, PROMPT, PLAN))
    ar.untune(pipe.unet)
    ar.untune(pipe.unet)  # once more does nothing
    with torch.no_grad():
        assert torch.equal(pipe.unet(*noisy()).sample, before)
    assert all(torch.equal(value, weights[name]) for name, value in pipe.unet.state_dict().items())
    assert pipe.unet.attn_processors == processors
    assert [parameter.requires_grad for parameter in pipe.unet.parameters()] == trained
    assert all(parameter.grad is None for parameter in pipe.unet.parameters())


@torch.no_grad()
def test_tuning_lowers_the_error_on_the_clip(pipe, penguin):
    latents = ar.encode_pixels(pipe.vae, penguin)[None].float()
    text = ar.clips.latents.encode_text(pipe, PROMPT)

    def error():
        generator = torch.Generator().manual_seed(7)
        return sum(ar.denoising_error(pipe.unet, pipe.scheduler, latents, text, generator)[0].item() for _ in range(6))

    fresh = tav.Tuned(pipe.unet, 6)
    before = error()
    fresh.remove(pipe.unet)
    with torch.enable_grad():
        list(ar.tune_a_video(pipe, penguin, PROMPT, PLAN))
    after = error()
    ar.untune(pipe.unet)
    assert after < 0.9 * before


def test_a_clip_is_drawn_again_from_its_own_noise(tuned, penguin):
    """With its own prompt and without guidance it comes back; from other noise it does not."""
    pipe, _ = tuned
    again = ar.redrawn(pipe, penguin, "", num_inference_steps=30, guidance_scale=1.0)
    assert again.shape == penguin.shape and again.dtype == np.uint8
    there = ar.decode_latents(pipe.vae, ar.encode_pixels(pipe.vae, penguin))
    near = np.abs(again.astype(float) - there).mean()
    assert near < 0.3 * np.abs(there[::-1, ::-1].astype(float) - there).mean()
    other = ar.redrawn(pipe, penguin, "a rocket, night sky", num_inference_steps=10)
    assert np.abs(other.astype(float) - there).mean() > 2 * near


def test_what_tune_a_video_refuses(tuned, penguin):
    pipe, _ = tuned
    with pytest.raises(ValueError, match="call untune"):
        ar.tune_a_video(pipe, penguin, PROMPT)
    with pytest.raises(ValueError, match="of 4 frames: it is tuned to 6"):
        ar.redrawn(pipe, penguin[:4], PROMPT)
    ar.untune(pipe.unet)
    with pytest.raises(ValueError, match="it is not tuned"):
        ar.redrawn(pipe, penguin, PROMPT)
    with pytest.raises(ValueError, match=r"at least two frames, got shape \(1, 64, 64, 3\)"):
        ar.tune_a_video(pipe, penguin[:1], PROMPT)
    with pytest.raises(ValueError, match=r"float32, got torch\.float16"):
        ar.tune_a_video(ar.load_base("mini", dtype=torch.float16), penguin, PROMPT)
    ar.inject(pipe.unet, ar.load_motion_module("mini"), 6)
    with pytest.raises(ValueError, match="call eject"):
        ar.tune_a_video(pipe, penguin, PROMPT)
    ar.eject(pipe.unet)
