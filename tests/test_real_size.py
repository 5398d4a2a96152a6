"""Stable Diffusion 1.5's size: names and shapes of the published files, and one of them whole, against diffusers."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
import torch
from conftest import lora_for
from real_size import published, sd15
from safetensors.torch import load_file

import animatediff_ref as ar


@pytest.fixture(scope="module")
def unet():
    with torch.device("meta"):
        return sd15()


@pytest.fixture
def folder(tmp_path):
    """For files too big to stay until pytest clears its own folders."""
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        yield Path(folder)


def shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_the_unet_is_stable_diffusions(unet):
    assert sum(parameter.numel() for parameter in unet.parameters()) == 859_520_964


@pytest.mark.parametrize(
    ("file", "config", "parameters"),
    [
        ("mm_sd_v15", ar.MotionConfig.v1(), 417_137_600),
        ("mm_sd_v15_v2", ar.MotionConfig.v2(), 453_209_280),
        ("v3_sd15_mm", ar.MotionConfig.v3(), 417_137_600),
    ],
)
def test_names_of_published_motion_modules(unet, file, config, parameters):
    with torch.device("meta"):
        motion = ar.MotionModule(config, unet)
    assert shapes(motion.state_dict()) == published(file)
    assert sum(parameter.numel() for parameter in motion.parameters()) == parameters


@pytest.mark.parametrize(("file", "rank"), [("v2_motion_lora", 64), ("v3_domain_adapter", 128)])
def test_names_of_published_adapters(unet, folder, file, rank):
    """Those that the tests write, and those that the package writes, here for an adapter that came in kohya's names."""
    with torch.device("meta"):
        model = unet if "domain" in file else ar.MotionModule(ar.MotionConfig.v2(), unet)
    kohya, ours = folder / "kohya.safetensors", folder / "ours.safetensors"
    assert shapes(lora_for(model, folder / "theirs.ckpt", rank)) == published(file)
    lora_for(model, kohya, rank, alpha=rank)
    ar.convert_file(kohya, ours)
    assert shapes(load_file(ours)) == published(file)


def test_a_file_like_the_published_v2_computes_what_diffusers_does(folder):
    """To 5e-5 at full width, in less than 7 GB: the file's memory is adopted, not copied."""
    disk, memory = shutil.disk_usage(folder).free / 1e9, psutil.virtual_memory().available / 1e9
    if disk < 4 or memory < 9:
        pytest.skip(f"needs 4 GB of disk and 9 GB of memory, there are {disk:.1f} and {memory:.1f}")
    script, file = Path(__file__).with_name("real_size.py"), folder / "mm_sd_v15_v2.ckpt"
    said = subprocess.run([sys.executable, script, file], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    measured = json.loads(said.stdout.splitlines()[-1])
    print(measured)
    assert measured["difference"] < 5e-5 < 5e-3 < measured["other_convention"]
    assert measured["peak_gb"] < 7  # a copy of the file's weights would make it 7.5


def test_a_training_step_gives_gradients_to_the_stage_alone():
    """Each stage at full width on tiny latents: the frozen 860 million of the UNet get none."""
    if (memory := psutil.virtual_memory().available / 1e9) < 14:
        pytest.skip(f"needs 14 GB of memory, there are {memory:.1f}")
    said = subprocess.run(
        [sys.executable, Path(__file__).with_name("real_size.py"), "train"], capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout.splitlines()[-1])
    print(found)
    assert {stage: step["numbers"] for stage, step in found.items()} == {
        "adapter": 25_509_888,
        "camera": 18_022_400,
        "motion": 417_137_600,
    }
    assert found["adapter"]["lora"] and found["camera"]["lora"] and not found["motion"]["lora"]
    assert found["adapter"]["in_unet"] and not found["camera"]["in_unet"] and not found["motion"]["in_unet"]
    assert found["adapter"]["peak_gb"] < 6 and found["camera"]["peak_gb"] < 8 and found["motion"]["peak_gb"] < 13
