"""Stable Diffusion 1.5's size with random weights: a file like the published v2 one against diffusers, and a training step.

    python tests/real_size.py mm_sd_v15_v2.ckpt      # writes that file (1.8 GB) first; prints what it measured as JSON
    python tests/real_size.py train                  # a step of each stage on tiny latents: what has gradients, and memory

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
    return {
        "scale": right.std().item(),
        "difference": (ours - right).abs().max().item(),
        "other_convention": (ours - pooled).abs().max().item(),
        "load_seconds": load_seconds,
        "file_gb": path.stat().st_size / 1e9,
        "peak_gb": peak_gb(),
    }


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def train() -> dict[str, dict]:
    """A step of each stage on two frames of 8x8: how many numbers got gradients, where, and the process's peak until then."""
    torch.manual_seed(0)
    unet = sd15()
    clips = ar.LatentClips([torch.randn(2, 4, 8, 8)], torch.randn(1, 77, 768), torch.zeros(77, 768))
    plan, found = ar.TrainConfig(steps=1, batch_size=1, num_frames=2, gradient_checkpointing=True), {}
    motion = None
    for stage in ("adapter", "camera", "motion"):
        if stage == "adapter":
            records = ar.train_domain_adapter(unet, clips, plan, rank=128)
        else:
            motion = motion or ar.MotionModule(ar.MotionConfig.v3(), unet, 2)
            train = ar.train_motion_lora if stage == "camera" else ar.train_motion_module
            records = train(unet, motion, clips, plan, **({"rank": 64} if stage == "camera" else {}))
        loss = next(records).loss
        named = [*unet.named_parameters(), *(motion.named_parameters() if motion else ())]
        graded = {name: parameter.numel() for name, parameter in named if parameter.grad is not None}
        found[stage] = {
            "loss": loss,
            "numbers": sum(graded.values()),
            "names": sorted(graded)[:2],
            "peak_gb": peak_gb(),
        }
        found[stage]["lora"] = all("lora_" in name for name in graded)
        found[stage]["in_unet"] = sum(parameter.grad is not None for parameter in unet.parameters())
        for _, parameter in named:
            parameter.grad = None
        records.close()
        if stage == "camera":
            ar.unload_motion_loras(motion)
    return found


if __name__ == "__main__":
    print(json.dumps(train() if sys.argv[1] == "train" else main(Path(sys.argv[1]))))
