"""The mini world through the public interface, and stock pipelines that animate by injection."""

import numpy as np
import pytest
import torch

import animatediff_ref as ar


@pytest.fixture(scope="module")
def pipe():
    pipe = ar.load_base("mini", style="blob")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def motion():
    return ar.load_motion_module("mini")


def quick(pipe, **options) -> np.ndarray:
    return ar.animate(pipe, "a penguin, snow", **{"num_inference_steps": 4, **options})


def test_readme_lines(pipe, motion):
    ar.inject(pipe.unet, motion, num_frames=16)
    clip = quick(pipe)
    assert (clip.shape, clip.dtype) == ((16, 64, 64, 3), np.uint8)
    assert np.array_equal(clip, quick(pipe))
    assert not np.array_equal(clip, quick(pipe, seed=1))
    assert quick(pipe, num_frames=8).shape[0] == 8
    assert motion.num_frames == 16
    assert not pipe.vae.use_slicing


def test_frames_of_a_clip_belong_together(pipe, motion):
    """The same noise without the motion module gives unrelated pictures."""
    ar.inject(pipe.unet, motion, num_frames=16)
    clip = quick(pipe, num_inference_steps=10)
    ar.eject(pipe.unet)
    images = pipe(
        "a penguin, snow",
        num_images_per_prompt=16,
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=10,
        output_type="np",
    ).images
    apart = (np.stack(images) * 255).round().astype(np.uint8)
    assert ar.motion_amount(clip) < 0.5 * ar.motion_amount(apart)


def test_a_zero_motion_module_gives_the_images_of_the_base(pipe):
    fresh = ar.MotionModule(ar.MotionConfig(norm_groups=16), pipe.unet)
    ar.inject(pipe.unet, fresh, num_frames=2)
    clip = quick(pipe)
    ar.eject(pipe.unet)
    images = pipe(
        "a penguin, snow",
        num_images_per_prompt=2,
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=4,
        output_type="np",
    ).images
    assert np.array_equal(clip, (np.stack(images) * 255).round().astype(np.uint8))


def test_unknown_words_work_and_warn(pipe, motion):
    ar.inject(pipe.unet, motion, num_frames=4)
    with pytest.warns(UserWarning, match="never taught: zeppelin, quux"):
        clip = ar.animate(pipe, "a zeppelin, quux penguin", num_inference_steps=2)
    assert clip.shape[0] == 4


def test_what_animate_refuses(pipe, motion):
    ar.eject(pipe.unet)
    with pytest.raises(ValueError, match=r"no motion module: call inject\(pipe\.unet, motion\) first"):
        quick(pipe)
    ar.inject(pipe.unet, motion, num_frames=16)
    with pytest.raises(ValueError, match="1 to 32 frames, got num_frames=40"):
        quick(pipe, num_frames=40)
    with pytest.raises(ValueError, match="a string; got list"):
        ar.animate(pipe, ["a cat", "a dog"])
    with pytest.raises(ValueError, match="animate sets generator itself: use seed"):
        quick(pipe, generator=torch.Generator())
    assert motion.num_frames == 16


def test_what_load_base_refuses(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no mini style 'oil'; there are: blob"):
        ar.load_base("mini", style="oil")
    with pytest.raises(ValueError, match="no base model at"):
        ar.load_base(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match="belongs to the base 'mini'"):
        ar.load_base("owner/name", style="blob")
    monkeypatch.setenv("ANIMATEDIFF_REF_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"the mini world is not at .*Clone the repository"):
        ar.load_base("mini")


def test_other_stock_pipelines_animate(pipe, motion):
    from diffusers import StableDiffusionImg2ImgPipeline

    img2img = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    img2img.set_progress_bar_config(disable=True)
    ar.inject(img2img.unet, motion, num_frames=4)
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    clip = quick(img2img, image=picture, strength=0.8)
    assert clip.shape == (4, 64, 64, 3)


def test_the_motion_module_follows_the_unet(pipe, motion):
    ar.inject(pipe.unet, motion, num_frames=2)
    pipe.unet.to(torch.float64)
    x, text = torch.randn(2, 4, 16, 16).double(), torch.randn(2, 16, 128).double()
    with torch.no_grad():
        assert pipe.unet(x, 10, text).sample.dtype == torch.float64
    pipe.unet.to(torch.float32)


def test_training_from_zero_beats_the_frozen_base_on_held_out_clips():
    """Done when 4: sixty steps on a hundred clips lower the held-out denoising error of the frozen base by more than 5 %."""
    torch.manual_seed(0)
    pipe = ar.load_base("mini")
    listed = ar.list_clips(ar.data_folder() / "clips.csv", ar.data_folder() / "clips")
    train, held_out = (ar.encode_clips(pipe, part, num_frames=16) for part in (listed[1:200:2], listed[0:48:4]))
    ar.load_domain_adapter(pipe.unet, "mini")

    def error() -> float:
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            errors = [
                ar.denoising_error(pipe.unet, pipe.scheduler, *held_out.sample(2, 16, generator), generator)[0]
                for _ in range(12)
            ]
        return torch.cat(errors).mean().item()

    frozen = error()
    motion = ar.MotionModule(ar.MotionConfig(norm_groups=16), pipe.unet)
    plan = ar.TrainConfig(steps=60, batch_size=2, learning_rate=2e-3, warmup=5, anneal=True, autocast=True, seed=0)
    losses = [record.loss for record in ar.train_motion_module(pipe.unet, motion, train, plan)]
    assert len(losses) == 60
    learnt = error()
    print(f"held-out error: frozen {frozen:.4f}, after {plan.steps} steps {learnt:.4f}")
    assert learnt < 0.95 * frozen
