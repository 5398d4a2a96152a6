"""The page on Stable Diffusion 1.5: its code runs in order, on small random models under the names of the real files."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from conftest import lora_for, motion_for
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from test_pipelines import SIZE, pipeline, unet
from transformers import CLIPConfig, CLIPImageProcessor

import animatediff_ref as ar

PAGE = (Path(__file__).resolve().parents[1] / "book" / "stable_diffusion.md").read_text(encoding="utf-8")
CODE = re.findall(r"^```python\n(.+?)^```$", PAGE, re.DOTALL | re.MULTILINE)
HERE = {
    '"cuda"': '"cpu"',
    "torch.float16": "torch.float32",
    "pipe.enable_model_cpu_offload()": "cpu_offload(pipe.unet)",
}


def small_checker(folder: Path) -> None:
    """A safety checker as published, but small and random."""
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**tower, "image_size": 32, "patch_size": 16, "projection_dim": 8}
    config = CLIPConfig(text_config=tower, vision_config=vision, projection_dim=8)
    StableDiffusionSafetyChecker(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)


@pytest.fixture
def published(tmp_path, monkeypatch) -> None:
    """What the page loads lies in the current folder; a folder stands for the checkpoint in one file."""
    monkeypatch.chdir(tmp_path)
    hub = Path("guoyww/animatediff")
    hub.mkdir(parents=True)
    pipe = pipeline(StableDiffusionPipeline, unet=unet(widths=(32, 64)))
    pipe.save_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5")
    pipe.save_pretrained("toonyou.safetensors")
    v3, v2 = (motion_for(pipe.unet, num_frames=16, mid_block=mid) for mid in (False, True))
    with pytest.warns(UserWarning):  # these files do not say how many groups their norms have
        for motion, path in (
            (v3, hub / "v3_sd15_mm.ckpt"),
            (v2, hub / "mm_sd_v15_v2.ckpt"),
            (v2, "AnimateLCM_sd15_t2v.ckpt"),
        ):
            ar.save_motion_module(motion, path)
    for number, camera in enumerate(("ZoomIn", "PanLeft")):
        lora_for(v2, Path(f"v2_lora_{camera}.ckpt"), seed=number)
    lora_for(pipe.unet, Path("v3_sd15_adapter.ckpt"))
    for name in ("some_style", "AnimateLCM_sd15_t2v_lora"):
        lora_for(pipe.unet, Path(f"{name}.safetensors"), alpha=4.0)
    small_checker(Path("CompVis/stable-diffusion-safety-checker"))


@pytest.mark.filterwarnings("ignore::animatediff_ref.UnknownWordsWarning")
def test_the_code_of_the_page_runs_in_order(published):
    told, clips = {"cpu_offload": cpu_offload}, []
    for code in CODE:
        for there, here in HERE.items():
            code = code.replace(there, here)
        exec(code, told)
        clips.append(told["clip"])
        assert told["clip"].shape == (16, SIZE, SIZE, 3)
    assert ar.read_clip("corgi.mp4").shape == (16, SIZE, SIZE, 3)
    assert [bool(np.array_equal(a, b)) for a, b in pairwise(clips)] == [False, False, False, False, True, True]
    assert ar.motion_loras(told["motion"]) == {} and len(told["flagged"]) == 16
    assert ar.injected(told["pipe"].unet) is told["motion"] and told["pipe"].unet.dtype == torch.float32
