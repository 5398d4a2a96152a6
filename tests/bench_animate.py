"""Wall time and peak memory of `animate` against diffusers' AnimateDiffPipeline: same weights, same noise, same steps, same machine.

    make bench

Each run is a process of its own; the two take turns. Printed: medians and the ratio of each pair.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace

ROUNDS, STEPS, FRAMES = 3, 25, 16


def prepared():
    import torch

    import animatediff_ref as ar

    torch.manual_seed(0)
    pipe, motion = ar.load_base("mini", style="blob"), ar.load_motion_module("mini")
    pipe.fuse_lora()  # diffusers' motion UNet copies weights and stumbles over a LoRA that is still apart
    pipe.unload_lora_weights()
    same = ar.MotionModule(replace(motion.config, motion_norm_over_frames=True), motion.places)  # diffusers' convention
    same.load_state_dict(motion.state_dict())
    return pipe, same


def ours():
    import animatediff_ref as ar

    pipe, motion = prepared()
    pipe.set_progress_bar_config(disable=True)
    ar.inject(pipe.unet, motion, FRAMES)
    return lambda: ar.animate(pipe, "a penguin, snow", num_inference_steps=STEPS)


def theirs():
    import numpy as np
    import torch
    from diffusers import AnimateDiffPipeline
    from oracle import diffusers_adapter

    pipe, motion = prepared()
    adapter = diffusers_adapter(pipe.unet, motion)
    made = AnimateDiffPipeline(pipe.vae, pipe.text_encoder, pipe.tokenizer, pipe.unet, adapter, pipe.scheduler)
    made.set_progress_bar_config(disable=True)
    # the pipeline draws (1, 4, f, h, w); ours draws (f, 4, h, w): hand it the same numbers
    noise = torch.randn(FRAMES, 4, 16, 16, generator=torch.Generator().manual_seed(0)).transpose(0, 1)[None]
    options = {
        "num_frames": FRAMES,
        "num_inference_steps": STEPS,
        "guidance_scale": 7.5,
        "latents": noise,
        "output_type": "np",
    }
    return lambda: (made("a penguin, snow", **options).frames[0] * 255).round().astype(np.uint8)


def measure(which: str) -> None:
    generate = {"ours": ours, "diffusers": theirs}[which]()
    start = time.perf_counter()
    clip = generate()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "pixels": clip[::5, ::7, ::7].astype(int).ravel().tolist()}))


def main() -> None:
    runs = {"ours": [], "diffusers": []}
    for _ in range(ROUNDS):
        for which, done in runs.items():
            said = subprocess.run([sys.executable, __file__, which], capture_output=True, text=True, check=True)
            done.append(json.loads(said.stdout.splitlines()[-1]))
    apart = max(abs(a - b) for a, b in zip(runs["ours"][0]["pixels"], runs["diffusers"][0]["pixels"]))
    print(f"{FRAMES} frames, {STEPS} guided steps, CPU; largest difference of the two clips, of 255: {apart}")
    for figure, unit in (("seconds", "s"), ("peak_mb", "MB")):
        medians = {which: statistics.median(run[figure] for run in done) for which, done in runs.items()}
        pairs = [a[figure] / b[figure] for a, b in zip(runs["ours"], runs["diffusers"])]
        print(
            f"{figure:8} ours {medians['ours']:.1f} {unit}, diffusers {medians['diffusers']:.1f} {unit}, "
            f"ratio {statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f} over {ROUNDS} pairs)"
        )


if __name__ == "__main__":
    measure(sys.argv[1]) if len(sys.argv) > 1 else main()
