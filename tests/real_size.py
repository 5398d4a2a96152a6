"""A motion module of Stable Diffusion 1.5's size, from a file like the published v2 one, against diffusers' UNetMotionModel.

    python tests/real_size.py mm_sd_v15_v2.ckpt      # writes that file (1.8 GB) first; prints what it measured as JSON

A process of its own, so that its peak memory means something (test_real_size.py).
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel, UNetMotionModel
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from oracle import diffusers_names, set_norms

import animatediff_ref as ar

FRAMES = 4


def published(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a published file: its network's own state dict, checked against the file's size and listings."""
    rows = (Path(__file__).parent / "official_keys" / f"{name}.keys.tsv").read_text().splitlines()[1:]
    return {key: tuple(json.loads(shape)) for key, shape in (row.split("\t") for row in rows)}


def sd15() -> UNet2DConditionModel:
    """Stable Diffusion 1.5's UNet, randomly initialised: diffusers' defaults but for the width of the text."""
    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768).eval()


def write_like_published(path: Path) -> None:
    """A flat dict of random weights that keep activations at their size, with position tables, as the published file has it."""
    torch.manual_seed(1)
    tensors = {}
    for key, shape in published("mm_sd_v15_v2").items():
        noise = torch.empty(shape).normal_(std=shape[-1] ** -0.5)
        if key.endswith("pos_encoder.pe"):
            noise = SinusoidalPositionalEmbedding(shape[2], shape[1]).pe
        tensors[key] = noise + 1 if "norm" in key and key.endswith("weight") else noise
    torch.save(tensors, path)


def diffusers_from(path: Path, unet: UNet2DConditionModel) -> UNetMotionModel:
    """diffusers' motion UNet around the weights of ``unet`` and of the file, none of them copied."""
    tensors = torch.load(path, mmap=True, weights_only=True)
    tables = {
        key.replace("temporal_transformer.", "").replace("attention_blocks.0.pos_encoder", "pos_embed"): table
        for key, table in tensors.items()
        if "attention_blocks.0.pos_encoder" in key
    }
    with torch.device("meta"):
        motion_unet = UNetMotionModel(sample_size=64, cross_attention_dim=768)
    motion_unet.load_state_dict(unet.state_dict() | diffusers_names(tensors) | tables, assign=True)
    return motion_unet.eval()


@torch.no_grad()
def main(path: Path) -> dict[str, float]:
    write_like_published(path)
    torch.manual_seed(0)
    unet = sd15()
    x, text = torch.randn(FRAMES, 4, 8, 8), torch.randn(1, 77, 768).repeat_interleave(FRAMES, 0)

    start = time.perf_counter()
    motion = ar.load_motion_module(path)
    load_seconds = time.perf_counter() - start
    assert motion.config == ar.MotionConfig.v2()
    ar.inject(unet, motion, FRAMES)
    ours = unet(x, 500, text).sample
    ar.eject(unet)
    del motion  # its pages of the file go, so that they are not counted twice

    def theirs(motion_unet: UNetMotionModel) -> torch.Tensor:
        return motion_unet(x.transpose(0, 1)[None], 500, text).sample[0].transpose(0, 1)

    motion_unet = diffusers_from(path, unet)
    pooled = theirs(motion_unet)
    right = theirs(set_norms(motion_unet, "per frame", FRAMES))
    bytes_per_unit = 1 if sys.platform == "darwin" else 1024
    return {
        "scale": right.std().item(),
        "difference": (ours - right).abs().max().item(),
        "other_convention": (ours - pooled).abs().max().item(),
        "load_seconds": load_seconds,
        "file_gb": path.stat().st_size / 1e9,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * bytes_per_unit / 1e9,
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
