"""The package on another device than the CPU: the numbers are the CPU's, and nothing is left behind on it.

python -m pytest tests/on_gpu.py                                        # on a device that is pretended
ANIMATEDIFF_REF_TEST_DEVICE=cuda python -m pytest tests/on_gpu.py       # on one that is there
"""

import os
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionImg2ImgPipeline
from safetensors.torch import load_file

import animatediff_ref as ar

DEVICE = os.environ.get("ANIMATEDIFF_REF_TEST_DEVICE", "gpu")
FRAMES = 4
DRAW = {"num_inference_steps": 2, "seed": 0}


@pytest.fixture(autouse=True)
def device():
    if DEVICE == "gpu":
        from pretend_gpu import Pretended
    torch.backends.cudnn.allow_tf32 = False  # else a real GPU computes convolutions in 19 bits
    with Pretended() if DEVICE == "gpu" else nullcontext():
        yield


def placed(device: str, style: str | None = None):
    """The mini world with its motion module on a device."""
    pipe = ar.load_base("mini", style=style).to(device)
    pipe.set_progress_bar_config(disable=True)
    motion = ar.load_motion_module("mini")
    ar.inject(pipe.unet, motion, FRAMES)
    return pipe, motion


def same_on_both(draw) -> None:
    """``draw(device)`` gives the same clip, but for rounding."""
    there, here = draw(DEVICE), draw("cpu")
    assert there.shape == here.shape and there.dtype == here.dtype
    assert np.abs(there.astype(float) - here).max() <= 2


def test_the_device_refuses_to_mix():
    here, there = torch.ones(2), torch.ones(2, device=DEVICE)
    assert there.device.type != "cpu" and (there * 2 + there).sum().item() == 6
    with pytest.raises(RuntimeError, match=r"device"):
        here + there
    with pytest.raises(RuntimeError, match=r"device"):
        torch.randn(2, device=DEVICE, generator=torch.Generator())
    with pytest.raises((TypeError, RuntimeError)):
        there.numpy()


def test_a_clip():
    same_on_both(lambda device: ar.animate(placed(device)[0], "a penguin", **DRAW))


def test_clips_of_several_prompts_that_change():
    prompts = [{0: "a penguin", 2: "a butterfly"}, "an hourglass"]
    negative = ["", "snow"]
    same_on_both(lambda device: ar.animate(placed(device)[0], prompts, negative_prompt=negative, **DRAW))


def test_noise_embeddings_and_latents_from_the_cpu():
    noise = torch.randn(FRAMES, 4, 16, 16, generator=torch.manual_seed(0))

    def draw(device):
        pipe, _ = placed(device)
        text, none = (part.cpu() for part in pipe.encode_prompt("a penguin", device, 1, True, ""))
        given = {"prompt_embeds": text, "negative_prompt_embeds": none, "latents": noise.clone()}
        latents = ar.animate(pipe, num_inference_steps=2, output="latent", **given)
        return ar.decode_latents(pipe.vae, latents)

    same_on_both(draw)


def test_a_clip_from_a_clip():
    clip = np.random.default_rng(0).integers(0, 255, (FRAMES, 64, 64, 3), np.uint8)

    def draw(device):
        pipe, _ = placed(device)
        other = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
        other.set_progress_bar_config(disable=True)
        return ar.animate(other, "a penguin", image=clip, strength=0.8, **DRAW)

    same_on_both(draw)


def test_a_clip_with_a_controlnet():
    edges = np.random.default_rng(0).integers(0, 255, (FRAMES, 64, 64, 3), np.uint8)

    def draw(device):
        pipe, _ = placed(device)
        torch.manual_seed(0)
        control = ControlNetModel.from_unet(placed("cpu")[0].unet, conditioning_embedding_out_channels=(8, 16, 32))
        other = StableDiffusionControlNetPipeline(
            **pipe.components, controlnet=control.to(device), requires_safety_checker=False
        )
        other.set_progress_bar_config(disable=True)
        return ar.animate(other, "a penguin", image=edges, **DRAW)

    same_on_both(draw)


@pytest.mark.parametrize("style", ["blob", "pip"])
def test_styles(style):
    same_on_both(lambda device: ar.animate(placed(device, style)[0], "a penguin", **DRAW))


def test_adapters_and_cameras_put_on_after_the_move(tmp_path):
    def draw(device):
        pipe, motion = placed(device)
        ar.load_domain_adapter(pipe.unet, "mini")
        ar.set_domain_adapter(pipe.unet, 0.5)
        ar.load_motion_lora(motion, "zoom_in")
        ar.load_motion_lora(motion, "pan_left", weight=0.3)
        ar.set_motion_loras(motion, {"zoom_in": 0.7, "pan_left": 0.2})
        ar.save_motion_module(motion, tmp_path / "motion.safetensors")
        ar.save_motion_lora(motion, tmp_path / "zoom.safetensors", "zoom_in")
        ar.save_domain_adapter(pipe.unet, tmp_path / "adapter.safetensors", "diffusers")
        return ar.animate(pipe, "a penguin", **DRAW)

    same_on_both(draw)


def test_taken_out_and_put_in_elsewhere():
    pipe, motion = placed(DEVICE)
    ar.eject(pipe.unet)
    other = ar.load_base("mini")
    ar.inject(other.unet, motion, FRAMES)
    assert {p.device.type for p in motion.parameters()} == {"cpu"}
    ar.animate(other, "a penguin", **DRAW)


PLAN = ar.TrainConfig(3, 2, num_frames=FRAMES, ema_decay=0.9, save_every=2)


def trained(stage: str, device: str, checkpoints) -> dict[str, torch.Tensor]:
    """What a stage has learnt in three steps, the last one after an interruption."""
    chance = torch.Generator().manual_seed(0)
    latents = [torch.randn(6, 4, 16, 16, generator=chance) for _ in range(4)]
    clips = ar.LatentClips(latents, torch.randn(4, 16, 128, generator=chance), torch.zeros(16, 128))
    for steps in (2, 3):
        torch.manual_seed(0)
        (pipe, motion), plan = placed(device), replace(PLAN, steps=steps)
        if stage == "adapter":
            ar.eject(pipe.unet)
            list(ar.train_domain_adapter(pipe.unet, clips, plan, checkpoints=checkpoints))
        elif stage == "motion":
            list(ar.train_motion_module(pipe.unet, motion, clips, plan, checkpoints=checkpoints))
        else:
            list(ar.train_motion_lora(pipe.unet, motion, clips, plan, rank=4, checkpoints=checkpoints))
    part = pipe.unet if stage == "adapter" else motion
    return {
        name: value.detach().cpu() for name, value in part.named_parameters() if "lora" in name or stage == "motion"
    }


@pytest.mark.parametrize("stage", ["adapter", "motion", "camera"])
def test_training(stage, tmp_path):
    there, here = (trained(stage, device, tmp_path / device) for device in (DEVICE, "cpu"))
    assert there.keys() == here.keys() and here
    assert max((there[name] - here[name]).abs().max() for name in here) < 3e-5  # a step more or less makes 9e-5


def test_a_run_from_films(tmp_path, clip):
    films = tmp_path / "films"
    films.mkdir()
    for i in range(3):
        ar.write_clip(clip, films / f"penguin {i}.mp4")
    common = {"clips": str(films), "steps": 2, "batch_size": 1, "num_frames": 4, "base": "mini"}
    weights = []
    for device in (DEVICE, "cpu"):
        config = ar.RunConfig(**common, out=str(tmp_path / device), device=device, rank=4)
        list(ar.run_stage("adapter", config))
        weights.append(load_file(tmp_path / device / "domain_adapter.safetensors"))
    there, here = weights
    assert there.keys() == here.keys() and max((there[name] - here[name]).abs().max() for name in here) < 3e-5


def test_measures():
    clip = np.random.default_rng(0).integers(0, 255, (FRAMES, 64, 64, 3), np.uint8)

    def scores(device):
        judge = ar.load_judge("mini")
        judge.model.to(device)
        text, look = ar.text_alignment(judge, clip, "a penguin"), ar.look_score(judge, clip)
        return np.array([text, look, ar.frame_consistency(judge, clip), ar.domain_similarity(judge, clip, clip)])

    assert np.allclose(scores(DEVICE), scores("cpu"), atol=1e-3)
