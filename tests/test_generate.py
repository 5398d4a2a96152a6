"""The mini world through the public interface; every stock pipeline has its test in test_pipelines.py."""

import numpy as np
import pytest
import torch
from conftest import motion_for, run
from diffusers import DPMSolverMultistepScheduler, LatentConsistencyModelPipeline, StableDiffusionImg2ImgPipeline
from PIL import Image

import animatediff_ref as ar
from animatediff_ref.mini.files import PARTS


@pytest.fixture(scope="module")
def pipe():
    pipe = ar.load_base("mini", style="blob")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def img2img(pipe):
    img2img = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    img2img.set_progress_bar_config(disable=True)
    return img2img


@pytest.fixture(scope="module")
def motion():
    return ar.load_motion_module("mini")


def quick(pipe, prompt="a penguin, snow", **options) -> np.ndarray:
    return ar.animate(pipe, prompt, **{"num_inference_steps": 4, **options})


def test_readme_lines(pipe, motion):
    ar.inject(pipe.unet, motion, num_frames=16)
    clip = quick(pipe)
    assert (clip.shape, clip.dtype) == ((16, 64, 64, 3), np.uint8)
    assert np.array_equal(clip, quick(pipe))
    assert not np.array_equal(clip, quick(pipe, seed=1))
    assert quick(pipe, num_frames=8).shape[0] == 8
    assert motion.num_frames == 16


@pytest.mark.parametrize("style", [None, "blob"])
def test_frames_of_a_clip_belong_together(motion, style):
    """The same noise without the motion module gives unrelated pictures."""
    pipe = ar.load_base("mini", style=style)
    pipe.set_progress_bar_config(disable=True)
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
        guidance_scale=ar.default_guidance(pipe),
        output_type="np",
    ).images
    assert off(clip, (np.stack(images) * 255).round()) <= 1


def test_unknown_words_work_and_warn(pipe, motion):
    ar.inject(pipe.unet, motion, num_frames=4)
    with pytest.warns(UserWarning, match="never taught: zeppelin, quux"):
        clip = ar.animate(pipe, "a zeppelin, quux penguin", num_inference_steps=2)
    assert clip.shape[0] == 4
    with pytest.warns(UserWarning, match="never taught: zeppelin, quux"):
        ar.animate(pipe, ["a zeppelin", {0: "a penguin", 1: "quux"}], num_inference_steps=1)


def off(a: np.ndarray, b: np.ndarray) -> int:
    """The largest difference, of 255; another batch size may change the last bit."""
    return np.abs(a.astype(int) - b).max()


def test_several_clips_are_those_made_alone(pipe, img2img, motion):
    ar.inject(pipe.unet, motion, num_frames=3)
    prompts, picture = ["a penguin", {0: "a rocket", 2: "a cat"}], Image.new("RGB", (64, 64), "teal")
    for which, options in ((pipe, {}), (img2img, {"image": picture, "strength": 0.75, "negative_prompt": "snow"})):
        clips = ar.animate(which, prompts, seed=3, num_inference_steps=4, **options)
        assert (clips.shape, clips.dtype) == ((2, 3, 64, 64, 3), np.uint8)
        alone = [ar.animate(which, prompts[i], seed=3 + i, num_inference_steps=4, **options) for i in range(2)]
        assert off(clips, np.stack(alone)) <= 1
        assert off(clips[0], alone[1]) > 50
        assert ar.animate(which, prompts[:1], seed=3, num_inference_steps=4, **options).shape == (1, 3, 64, 64, 3)


def test_prompts_by_frame_are_held(pipe):
    """Without motion each frame depends on its prompt alone."""
    ar.inject(pipe.unet, ar.MotionModule(ar.MotionConfig(norm_groups=16), pipe.unet), num_frames=4)
    for word in ("prompt", "negative_prompt"):
        prompts = ("a penguin", "a rocket", {2: "a rocket", 0: "a penguin"})
        penguin, rocket, mixed = (quick(pipe, **{"prompt": "a cat", word: prompt}) for prompt in prompts)
        assert np.array_equal(mixed, np.concatenate([penguin[:2], rocket[2:]]))
        assert not np.array_equal(penguin[2:], rocket[2:])


def test_a_clip_gives_each_frame_its_picture(img2img, motion):
    ar.inject(img2img.unet, motion, num_frames=4)
    given = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)

    def make(prompt, image):
        return quick(img2img, prompt, image=image, strength=0.5)

    clip = make("a penguin", given)
    assert np.array_equal(clip, make("a penguin", [Image.fromarray(frame) for frame in given]))
    assert not np.array_equal(clip, make("a penguin", given[::-1].copy()))
    assert np.array_equal(make("a penguin", given[0]), make("a penguin", Image.fromarray(given[0])))
    assert off(make(["a penguin"] * 2, np.stack([given, given[::-1]]))[0], clip) <= 1
    assert np.array_equal(make("a penguin", list(given)), clip), "a list of frames is a clip"
    assert off(make(["a penguin"] * 2, [given, given[::-1]])[0], clip) <= 1, "a list of clips is a clip for each"
    for wrong in (given[:3], given[..., :1], np.zeros((4, 64, 64, 4), np.uint8)):
        with pytest.raises(ValueError, match=r"image needs a picture, .* a clip of 4 frames, .*; got shape \("):
            make("a penguin", wrong)


def test_typos_and_odd_numbers_are_refused(pipe, motion):
    ar.inject(pipe.unet, motion, num_frames=4)
    with pytest.raises(ValueError, match="StableDiffusionPipeline has no option 'negative_promt'"):
        quick(pipe, negative_promt="snow")
    with pytest.raises(ValueError, match=r"num_frames is a whole number, got 2\.5"):
        quick(pipe, num_frames=2.5)
    with pytest.raises(ValueError, match="a seed is a whole number, got None"):
        quick(pipe, seed=None)
    assert np.array_equal(quick(pipe, seed=np.int64(3)), quick(pipe, seed=3))


def test_schedules(pipe, motion):
    ar.inject(pipe.unet, motion, num_frames=2)
    official, before = quick(pipe), pipe.scheduler
    pipe.scheduler = own = DPMSolverMultistepScheduler.from_config(before.config, beta_schedule="scaled_linear")
    try:
        assert np.array_equal(official, quick(pipe))
        assert pipe.scheduler is own
        assert not np.array_equal(official, quick(pipe, schedule="pipeline"))
    finally:
        pipe.scheduler = before


def test_decoding_in_chunks_gives_the_same_pixels(pipe, motion):
    ar.inject(pipe.unet, motion, num_frames=4)
    clips, seen = {}, []
    hook = pipe.vae.decoder.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    for size, rows in ((1, [1, 1, 1, 1]), (3, [3, 1]), (16, [4])):
        seen.clear()
        clips[size] = quick(pipe, decode_chunk_size=size)
        assert seen == rows
    hook.remove()
    assert off(clips[1], clips[3]) <= 1
    assert off(clips[1], clips[16]) <= 1


def rows_decoded_at_once(vae) -> list[int]:
    """How many rows of three go through the decoder at a time."""
    seen = []
    hook = vae.decoder.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    vae.decode(torch.zeros(3, vae.config.latent_channels, 4, 4))
    hook.remove()
    return seen


def test_all_is_put_back_even_after_a_failure(pipe, motion):
    ar.inject(pipe.unet, motion, num_frames=4)
    before, steps = pipe.scheduler, []

    def stop(pipe, step, timestep, tensors):
        steps.append((step, pipe.scheduler is before, motion.num_frames, rows_decoded_at_once(pipe.vae)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quick(pipe, num_frames=2, callback_on_step_end=stop)
    assert steps == [(0, False, 2, [1, 1, 1])]
    assert pipe.scheduler is before
    assert motion.num_frames == 4
    assert rows_decoded_at_once(pipe.vae) == [3]


def test_what_animate_refuses(pipe, motion):
    ar.eject(pipe.unet)
    with pytest.raises(ValueError, match=r"no motion module: call inject\(pipe\.unet, motion\) first"):
        quick(pipe)
    with pytest.raises(ValueError, match=r"a pipeline with a Stable-Diffusion-1\.x UNet, got str"):
        quick("mini")
    ar.inject(pipe.unet, motion, num_frames=16)
    with pytest.raises(ValueError, match="1 to 32 frames, got num_frames=40"):
        quick(pipe, num_frames=40)
    with pytest.raises(ValueError, match="animate sets num_images_per_prompt itself: use num_frames"):
        quick(pipe, num_images_per_prompt=2)
    with pytest.raises(ValueError, match="schedule is 'official' or 'pipeline', got 'mine'"):
        quick(pipe, schedule="mine")
    with pytest.raises(ValueError, match="decode_chunk_size is a number of frames, at least 1; got 0"):
        quick(pipe, decode_chunk_size=0)
    assert motion.num_frames == 16


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (7, "a prompt is a string, or strings by frame .* got 7"),
        (["a cat", 7], "a prompt is a string, or strings by frame .* got 7"),
        ({0: 7}, "a prompt is a string, or strings by frame .* got {0: 7}"),
        ([], "one prompt for every clip, and at least one; got 0 for 0"),
        ({}, r"start at frame 0 and change by frame 15 .* got frames \[\]"),
        ({1: "a cat"}, r"start at frame 0 and change by frame 15 .* got frames \[1\]"),
        ({0: "a cat", 16: "a dog"}, r"start at frame 0 and change by frame 15 .* got frames \[0, 16\]"),
    ],
)
def test_what_is_no_prompt(pipe, motion, prompt, said):
    ar.inject(pipe.unet, motion, num_frames=16)
    with pytest.raises(ValueError, match=said):
        ar.animate(pipe, prompt)


def test_what_is_no_negative_prompt(pipe, motion):
    ar.inject(pipe.unet, motion, num_frames=16)
    with pytest.raises(ValueError, match="one prompt for every clip, and at least one; got 2 for 1"):
        quick(pipe, negative_prompt=["a cat", "a dog"])
    with pytest.raises(ValueError, match="a prompt is a string"):
        quick(pipe, negative_prompt=7)


def test_lcm_pipelines_need_their_own_scheduler(pipe, motion):
    lcm = LatentConsistencyModelPipeline(**pipe.components, requires_safety_checker=False)
    ar.inject(lcm.unet, motion, num_frames=2)
    with pytest.raises(ValueError, match=r"LatentConsistencyModelPipeline .* use schedule='pipeline'"):
        quick(lcm)


def test_what_load_base_refuses(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"no mini style 'oil'; there are: blob, .*pixel"):
        ar.load_base("mini", style="oil")
    mini = tmp_path / "data/models/mini"
    for file in PARTS["base"]:  # as Git LFS leaves them where it is not installed
        (where := mini / file).parent.mkdir(parents=True, exist_ok=True)
        where.write_text("version https://git-lfs.github.com/spec/v1\n")
    with monkeypatch.context() as patch:
        patch.setenv("ANIMATEDIFF_REF_DATA", str(tmp_path / "data"))
        with pytest.raises(ValueError, match=r"is a pointer of Git LFS, .* Restore it with 'git checkout data'"):
            ar.load_base("mini")
        (mini / PARTS["base"][1]).unlink()
        with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.safetensors is missing: needed is"):
            ar.load_base("mini")
    with pytest.raises(ValueError, match="no base model at"):
        ar.load_base(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match="belongs to the base 'mini'"):
        ar.load_base("owner/name", style="blob")
    monkeypatch.setenv("ANIMATEDIFF_REF_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"the mini world is not at .*Clone the repository"):
        ar.load_base("mini")


@torch.no_grad()
@pytest.mark.parametrize("to", [torch.float64, "meta"])  # meta stands for any other device
def test_the_motion_module_follows_the_unet(unet, to):
    motion = motion_for(unet)
    ar.inject(unet, motion)
    unet.to(to)
    sample = unet(torch.randn(4, 4, 8, 8).to(to), 10, torch.randn(4, 5, 24).to(to)).sample
    followed = next(motion.parameters())
    assert (followed.dtype, followed.device) == (sample.dtype, sample.device)
    assert to in (followed.dtype, followed.device.type)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_unet_leaves_the_motion_module_as_it_was(unet, dtype):
    """What is taken out again is what was put in, bit for bit; the clip is that of float32 to the UNet's rounding."""
    motion = motion_for(unet)
    before = {name: value.clone() for name, value in motion.state_dict().items()}
    ar.inject(unet, motion)
    exact = run(unet)
    unet.to(dtype)
    x, text = half_input(dtype)
    sample = unet(x, 500, text).sample
    assert sample.dtype == dtype
    assert (sample.float() - exact).norm() / exact.norm() < 0.05
    assert all(torch.equal(value, before[name]) for name, value in ar.eject(unet).state_dict().items())


def half_input(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The input of ``conftest.run``, rounded."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(8, 4, 8, 8, generator=generator)
    return x.to(dtype), torch.randn(2, 5, 24, generator=generator).repeat_interleave(4, 0).to(dtype)


def test_training_from_zero_beats_the_frozen_base_on_held_out_clips():
    """Forty steps on fifty clips lower the held-out denoising error of the frozen base by more than 5 %."""
    torch.manual_seed(0)
    pipe = ar.load_base("mini")
    listed = ar.list_clips(ar.data_folder() / "clips.csv", ar.data_folder() / "clips")
    train, held_out = (ar.encode_clips(pipe, part, num_frames=16) for part in (listed[1:200:4], listed[0:48:4]))
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
    plan = ar.TrainConfig(steps=40, batch_size=2, learning_rate=2e-3, warmup=5, anneal=True, autocast=True, seed=0)
    losses = [record.loss for record in ar.train_motion_module(pipe.unet, motion, train, plan)]
    assert len(losses) == 40
    learnt = error()
    print(f"held-out error: frozen {frozen:.4f}, after {plan.steps} steps {learnt:.4f}")
    assert learnt < 0.95 * frozen


def test_numbers_that_are_not_finite_are_no_black_clip(motion):
    """As float16 makes them where it overflows; the message says whose they are, and in which frames."""
    pipe = ar.load_base("mini")
    pipe.set_progress_bar_config(disable=True)
    ar.inject(pipe.unet, motion, 4)
    pipe.vae.decoder.conv_out.bias.data.fill_(float("nan"))
    with pytest.raises(
        ValueError, match=r"the decoder gave numbers that are not finite, in row 0: look at its weights"
    ):
        quick(pipe, num_inference_steps=1)
    pipe.unet.conv_out.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"the UNet gave numbers that are not finite, in row 0"):
        quick(pipe, num_inference_steps=1, decode_chunk_size=2)
    assert ar.injected(pipe.unet) is motion and "decode" not in vars(pipe.vae)


@pytest.mark.parametrize("seed", [2**64 - 1, 10**30, -5, -(2**70)])
def test_any_whole_number_is_a_seed_also_of_several_clips(pipe, motion, seed):
    ar.inject(pipe.unet, motion, num_frames=2)
    both = quick(pipe, ["a penguin", "a penguin"], seed=seed)
    assert off(*both) > 20
    assert off(both[1], quick(pipe, "a penguin", seed=seed + 1)) <= 1


def test_weights_of_adapters_are_finite_numbers(pipe, motion, tmp_path):
    for wrong in (float("nan"), float("inf"), "0.5"):
        with pytest.raises(ValueError, match="finite number, got"):
            ar.load_motion_lora(motion, tmp_path / "absent.safetensors", weight=wrong)
        with pytest.raises(ValueError, match="the weight of the domain adapter is a finite number, got"):
            ar.set_domain_adapter(pipe.unet, wrong)


def test_inject_the_wrong_way_round(pipe, motion):
    with pytest.raises(ValueError, match="a UNet and then a motion module, got UNet2DConditionModel for the module"):
        ar.inject(motion, pipe.unet)


def test_paths_from_the_home_folder(motion, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    ar.save_motion_module(motion, "~/motion.safetensors")
    assert (tmp_path / "motion.safetensors").exists()
    assert ar.load_motion_module("~/motion.safetensors").places == motion.places
    ar.write_clip(np.zeros((2, 16, 16, 3), np.uint8), "~/films/black.mp4")
    assert ar.read_clip("~/films/black.mp4").shape == (2, 16, 16, 3)
    assert [entry.path.name for entry in ar.list_clips("~/films")] == ["black.mp4"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_default_dtype_changes_nothing(pipe, dtype):
    def clip():
        motion = ar.load_motion_module("mini")
        ar.inject(pipe.unet, motion, num_frames=2)
        return quick(pipe, num_inference_steps=1)

    wanted = clip()
    torch.set_default_dtype(dtype)
    try:
        assert np.array_equal(clip(), wanted)
    finally:
        torch.set_default_dtype(torch.float32)
