"""Expected GPU memory of a training step by preset, counted without a GPU and without computing anything.

    python tests/memory.py

Tensors are PyTorch's fake ones, which have shapes and no numbers. Counted are weights, gradients, the optimizer's
two moments, and every tensor that autograd keeps for the backward pass, each storage once, with attention as a fused
kernel keeps it. Not counted: CUDA's own gigabyte or so, workspaces of kernels, and what the allocator rounds up. With
gradient checkpointing, the largest layer that is computed again is not counted either.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from real_size import sd15
from torch._subclasses.fake_tensor import FakeTensorMode

import animatediff_ref as ar
from animatediff_ref.method.adapters import add_domain_adapter, add_motion_lora
from animatediff_ref.training.run import PRECISIONS, _motion
from animatediff_ref.training.stages import Trainee, recomputing

GIB = 2**30


class Fused(torch.autograd.Function):
    """What a fused attention kernel keeps: its inputs, its output, and a number a row."""

    @staticmethod
    def forward(ctx, query, key, value):
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx, grad):
        return None, None, None


def step_memory(stage: str, config: ar.RunConfig) -> dict[str, float]:
    """GiB of a stage on Stable Diffusion 1.5: frozen weights, what belongs to those that train, activations."""
    with FakeTensorMode():
        torch.set_default_dtype(PRECISIONS[config.precision])
        unet = sd15()
        torch.set_default_dtype(torch.float32)
        motion = None if stage == "adapter" else _motion(unet, replace(config, motion=""))
        if stage == "adapter":
            trained = add_domain_adapter(unet, config.rank)
        else:
            ar.inject(unet, motion, config.num_frames)
            unet.requires_grad_(False)
            trained = add_motion_lora(motion, "camera", config.rank) if stage == "camera" else list(motion.parameters())
        for parameter in trained:
            parameter.data = parameter.data.float()
        frames = 1 if stage == "adapter" else config.num_frames
        clips, side = config.batch_size // config.accumulation, (config.size or 512) // 8
        shape = (clips, frames, 4, side, side)
        times = torch.zeros(clips, dtype=torch.long)
        batch = torch.empty(shape), torch.empty(clips, 77, 768), times, torch.empty(shape)
        scheduler = ar.motion_scheduler()
        scheduler.alphas_cumprod = torch.ones(1000)
        kept = _kept(Trainee(unet, scheduler, "plain", False), unet, config, batch)
    weights = {id(p): p for model in (unet, motion) if model for p in model.parameters()}
    frozen = sum(p.nbytes for key, p in weights.items() if key not in {id(p) for p in trained})
    count = sum(p.numel() for p in trained)
    return {"frozen": frozen / GIB, "trained": 16 * count / GIB, "activations": kept / GIB, "parameters": count}


def _kept(trainee: Trainee, unet, config: ar.RunConfig, batch: tuple) -> int:
    """Bytes of the tensors that autograd keeps for the backward pass, but for parameters."""
    parameters = {p.untyped_storage()._cdata for p in trainee.parameters()}
    storages: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            storages[storage._cdata] = storage.nbytes()
            alive.append(tensor)  # or its storage's address would be used again
        return tensor

    attention, F.scaled_dot_product_attention = (
        F.scaled_dot_product_attention,
        lambda q, k, v, *_, **__: Fused.apply(q, k, v),
    )
    try:
        with (
            recomputing(unet, config.gradient_checkpointing),
            torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t),
        ):
            trainee(*batch)
    finally:
        F.scaled_dot_product_attention = attention
    return sum(storages.values())


def main() -> None:
    torch.utils.swap_tensors = lambda old, new: setattr(old, "data", new.data)  # the real one refuses fake tensors
    print("| stage | batch | frames | size | checkpointing | frozen | trained | activations | together |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for stage in ("adapter", "motion", "camera"):
        preset = ar.read_config(stage, "sd15")
        for config in (preset, replace(preset, gradient_checkpointing=not preset.gradient_checkpointing)):
            found = step_memory(stage, config)
            parts = config.batch_size // config.accumulation
            batch = f"{parts}" + (f" x {config.accumulation}" if config.accumulation > 1 else "")
            frames = 1 if stage == "adapter" else config.num_frames
            sizes = [found["frozen"], found["trained"], found["activations"]]
            shown = " | ".join(f"{size:.1f}" for size in [*sizes, sum(sizes)])
            again = "yes" if config.gradient_checkpointing else "no"
            print(f"| {stage} | {batch} | {frames} | {config.size} | {again} | {shown} |")


if __name__ == "__main__":
    main()
