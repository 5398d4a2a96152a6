"""Time and memory against diffusers' AnimateDiffPipeline: same weights, same norms, same noise, same steps, one run on one machine.

    make bench

Each round is a process of its own, and the two take turns. Printed: medians, and the ratio of each pair.
`forward` is one guided step of the UNet; its memory is the peak of what PyTorch allocated during it.
`animate` is a whole clip; its memory is the peak of the process.
"""

import json
import resource
import statistics
import subprocess
import sys
import time

ROUNDS, STEPS, FRAMES = 5, 25, 16
UNITS = {"seconds": "s", "peak_mb": "MB"}


def prepared():
    import torch

    import animatediff_ref as ar

    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    pipe = ar.load_base("mini", style="blob")
    pipe.set_progress_bar_config(disable=True)
    pipe.fuse_lora()  # diffusers' motion UNet copies weights and stumbles over a LoRA that is still apart
    pipe.unload_lora_weights()
    return pipe, ar.load_motion_module("mini", norms="diffusers")


def noise():
    import torch

    return torch.randn(FRAMES, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def ours(task: str):
    import animatediff_ref as ar

    pipe, motion = prepared()
    ar.inject(pipe.unet, motion, FRAMES)
    if task == "animate":
        return lambda: ar.animate(pipe, "a penguin, snow", num_inference_steps=STEPS)
    x, text = noise().repeat(2, 1, 1, 1), _guided(pipe.encode_prompt("a penguin, snow", "cpu", FRAMES, True))
    return lambda: pipe.unet(x, 500, text).sample


def theirs(task: str):
    import numpy as np
    from diffusers import AnimateDiffPipeline
    from oracle import diffusers_adapter

    import animatediff_ref as ar

    pipe, motion = prepared()
    adapter = diffusers_adapter(pipe.unet, motion)
    made = AnimateDiffPipeline(pipe.vae, pipe.text_encoder, pipe.tokenizer, pipe.unet, adapter, pipe.scheduler)
    made.set_progress_bar_config(disable=True)
    x = noise().transpose(0, 1)[
        None
    ]  # that pipeline draws (1, 4, f, h, w), ours (f, 4, h, w): the same numbers for both
    guidance = ar.default_guidance(pipe)
    options = {"num_frames": FRAMES, "num_inference_steps": STEPS, "guidance_scale": guidance, "output_type": "np"}
    if task == "animate":
        return lambda: (made("a penguin, snow", latents=x, **options).frames[0] * 255).round().astype(np.uint8)
    x, text = x.repeat(2, 1, 1, 1, 1), _guided(pipe.encode_prompt("a penguin, snow", "cpu", FRAMES, True))
    return lambda: made.unet(x, 500, text).sample


def _guided(encoded):
    """Text for a guided batch: unconditional rows, then conditional ones."""
    import torch

    conditional, unconditional = encoded
    return torch.cat([unconditional, conditional])


def _allocated(forward) -> float:
    """The peak of what PyTorch allocates during a forward, in MB."""
    from torch.profiler import profile

    with profile(profile_memory=True) as record:
        forward()
    events = sorted(
        (e.start_ns(), e.nbytes()) for e in record.profiler.kineto_results.events() if e.name() == "[memory]"
    )
    now = peak = 0
    for _, change in events:
        now += change
        peak = max(peak, now)
    return peak / 2**20


def measure(task: str, which: str) -> None:
    run = {"ours": ours, "diffusers": theirs}[which](task)
    repeats = 1 if task == "animate" else 20
    if task == "forward":
        run()  # what is done once, such as choosing kernels, is no part of a step
    start = time.perf_counter()
    for _ in range(repeats):
        result = run()
    seconds = (time.perf_counter() - start) / repeats
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 if task == "animate" else _allocated(run)
    if result.ndim == 5:
        result = result.transpose(1, 2).flatten(0, 1)
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "result": result[::5].reshape(-1)[::7].tolist()}))


def main() -> None:
    for task in ("forward", "animate"):
        runs = {"ours": [], "diffusers": []}
        for _ in range(ROUNDS):
            for which, done in runs.items():
                said = subprocess.run(
                    [sys.executable, __file__, task, which], capture_output=True, text=True, check=True
                )
                done.append(json.loads(said.stdout.splitlines()[-1]))
        apart = max(abs(a - b) for a, b in zip(runs["ours"][0]["result"], runs["diffusers"][0]["result"]))
        print(
            f"{task}: {FRAMES} frames, CPU; largest difference of the two results {apart:.1e}{' of 255' if task == 'animate' else ''}"
        )
        for figure, unit in UNITS.items():
            medians = {which: statistics.median(run[figure] for run in done) for which, done in runs.items()}
            pairs = [a[figure] / b[figure] for a, b in zip(runs["ours"], runs["diffusers"])]
            print(
                f"  {figure:8} ours {medians['ours']:.3g} {unit}, diffusers {medians['diffusers']:.3g} {unit}, "
                f"ratio {statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f} over {ROUNDS} pairs)"
            )


if __name__ == "__main__":
    measure(*sys.argv[1:]) if len(sys.argv) > 1 else main()
