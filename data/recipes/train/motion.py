"""Stages 1 and 2 of the paper on the mini world: a domain adapter on single frames, then the motion module over it.

    python data/recipes/train_motion.py [--device cuda] [--adapter-steps 300] [--steps 600]

Needs the base and the clips. One clip in twelve is held out. Everything here is the package's own training, as a reader calls it.
"""

import argparse
from dataclasses import replace

import torch
from fit import DATA, RUNS, data_hash, follow, write_card

import animatediff_ref as ar

OUT = DATA / "models" / "mini"
HELD_OUT = 12


def config() -> ar.MotionConfig:
    """The official v3 semantics at the mini UNet's widths."""
    return replace(ar.MotionConfig.v3(), norm_groups=16)


def encoded(pipe) -> ar.LatentClips:
    if not (cache := RUNS / "clips.pt").exists():
        RUNS.mkdir(exist_ok=True)
        clips = ar.encode_clips(pipe, ar.list_clips(DATA / "clips.csv", DATA / "clips"))
        torch.save({"latents": clips.latents, "text": clips.text, "empty": clips.empty}, cache)
    return ar.LatentClips(**torch.load(cache, weights_only=True))


def subset(clips: ar.LatentClips, rows: list[int]) -> ar.LatentClips:
    return ar.LatentClips([clips.latents[i] for i in rows], clips.text[rows], clips.empty)


def held_out_loss(unet: torch.nn.Module, clips: ar.LatentClips, batches: int = 40) -> float:
    """Mean denoising error on held-out clips, with the same noise and timesteps at each call."""
    generator, device, errors = torch.Generator().manual_seed(5), next(unet.parameters()).device, []
    for _ in range(batches):
        latents, text = clips.sample(4, 16, generator)
        with torch.no_grad():
            errors.append(
                ar.denoising_error(unet, ar.motion_scheduler(), latents.to(device), text.to(device), generator)[0]
                .mean()
                .item()
            )
    return round(sum(errors) / len(errors), 5)


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument("--device", default="cpu")
    ask.add_argument("--adapter-steps", type=int, default=300)
    ask.add_argument("--steps", type=int, default=600)
    ask.add_argument("--batch", type=int, default=3)
    args = ask.parse_args()
    torch.manual_seed(0)
    pipe = ar.load_base("mini").to(args.device)
    pipe.set_progress_bar_config(disable=True)
    every = encoded(pipe)
    train = subset(every, [i for i in range(len(every)) if i % HELD_OUT])
    test = subset(every, list(range(0, len(every), HELD_OUT)))
    common = {"betas": (0.9, 0.99), "anneal": True, "autocast": True, "seed": 0, "save_every": 100}
    data = data_hash(DATA / "clips.csv", *sorted((DATA / "clips").glob("*.mp4")))
    loss = {"base": held_out_loss(pipe.unet, test)}

    plan = ar.TrainConfig(args.adapter_steps, 48, learning_rate=1e-3, warmup=20, ema_decay=0.98, **common)
    made = follow(
        "adapter",
        ar.train_domain_adapter(pipe.unet, train, plan, rank=16, checkpoint=RUNS / "adapter" / "state.pt"),
        plan,
        every=50,
    )
    loss["base + adapter"] = held_out_loss(pipe.unet, test)
    ar.save_domain_adapter(pipe.unet, OUT / "domain_adapter.safetensors")
    write_card(
        OUT / "domain_adapter.json",
        "data/recipes/train_motion.py",
        made,
        data,
        args.device,
        parameters=sum(p.numel() for n, p in pipe.unet.named_parameters() if "lora_" in n),
        rank=16,
        held_out_loss=dict(loss),
    )

    motion = ar.MotionModule(config(), pipe.unet).to(args.device)
    plan = ar.TrainConfig(args.steps, args.batch, learning_rate=1e-3, warmup=50, ema_decay=0.998, **common)
    made = follow(
        "motion",
        ar.train_motion_module(pipe.unet, motion, train, plan, checkpoint=RUNS / "motion" / "state.pt"),
        plan,
        every=50,
    )
    loss["base + adapter + motion"] = held_out_loss(pipe.unet, test)
    ar.save_motion_module(motion.half(), OUT / "motion_module.safetensors")
    facts = {
        "parameters": sum(p.numel() for p in motion.parameters()),
        "clips": len(train),
        "held_out_clips": len(test),
        "held_out_loss": loss,
    }
    write_card(OUT / "motion_module.json", "data/recipes/train_motion.py", made, data, args.device, **facts)
    print(loss)


if __name__ == "__main__":
    main()
