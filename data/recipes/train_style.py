"""A personalised model as the community makes them: a style LoRA on the base UNet, from stills alone.

    python data/recipes/train_style.py [--style blob] [--device cuda] [--steps 600]

Needs the base (train_base.py). Leaves ``data/models/mini/styles/STYLE.safetensors`` for ``pipe.load_lora_weights``.
"""

import argparse

import torch
import torch.nn.functional as F
import world
from diffusers import StableDiffusionPipeline
from fit import DATA, data_hash, fit, write_card
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from train_base import CONTEXT, captions, encoded, snr_weight

from animatediff_ref.clips import encode_text
from animatediff_ref.training import TrainConfig

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2"]
WORDING = (0.15, 0.70, 0.05, 0.10)  # as in train_base.py: the style is named four times in five


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument("--style", default="blob")
    ask.add_argument("--device", default="cpu")
    ask.add_argument("--steps", type=int, default=600)
    ask.add_argument("--batch", type=int, default=48)
    ask.add_argument("--rank", type=int, default=16)
    args = ask.parse_args()
    torch.manual_seed(0)
    pipe = StableDiffusionPipeline.from_pretrained(DATA / "models" / "mini", torch_dtype=torch.float32).to(args.device)
    latents, about = encoded(pipe.vae, args.device, f"stills-{args.style}", (args.style,), 6, seed=4)
    ids = captions(pipe.tokenizer, [row["phrase"] for row in world.concepts() if row["base"]], (args.style,))
    with torch.no_grad():
        states = torch.cat(
            [pipe.text_encoder(part.to(args.device))[0].cpu() for part in ids.reshape(-1, CONTEXT).split(256)]
        )
    text, empty = states.reshape(*ids.shape, -1), encode_text(pipe, "")
    pipe.unet.requires_grad_(False)
    pipe.unet.add_adapter(
        LoraConfig(r=args.rank, lora_alpha=args.rank, target_modules=TARGETS), adapter_name=args.style
    )
    parameters = [p for p in pipe.unet.parameters() if p.requires_grad]
    plan = pipe.scheduler

    config = TrainConfig(
        args.steps,
        args.batch,
        learning_rate=1e-3,
        warmup=20,
        anneal=True,
        betas=(0.9, 0.99),
        ema_decay=0.99,
        autocast=True,
        seed=0,
    )

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(latents), (args.batch,), generator=generator)
        wording = torch.multinomial(torch.tensor(WORDING), args.batch, replacement=True, generator=generator)
        words = text[(*about[rows].T, wording)]
        words = torch.where(torch.rand(args.batch, 1, 1, generator=generator) < 0.1, empty, words).to(args.device)
        t = torch.randint(1000, (args.batch,), generator=generator)
        noise = torch.randn(latents[rows].shape, generator=generator)
        noisy = plan.add_noise(latents[rows], noise, t).to(args.device)
        with torch.autocast(args.device, torch.bfloat16, config.autocast):
            guess = pipe.unet(noisy, t.to(args.device), words).sample.float()
        error = F.mse_loss(guess, noise.to(args.device), reduction="none").mean((1, 2, 3))
        return (error * snr_weight(plan.alphas_cumprod[t]).to(args.device)).mean()

    made = fit(f"style-{args.style}", parameters, loss_of, config, every=100)
    out = DATA / "models" / "mini" / "styles" / f"{args.style}.safetensors"
    state = get_peft_model_state_dict(pipe.unet, adapter_name=args.style)
    StableDiffusionPipeline.save_lora_weights(out.parent, {k: v.half() for k, v in state.items()}, weight_name=out.name)
    data = data_hash(DATA / "stills" / f"{args.style}.webp", DATA / "concepts.csv")
    facts = {"rank": args.rank, "parameters": sum(p.numel() for p in parameters), "trigger": f"{args.style} style"}
    write_card(out.with_suffix(".json"), "data/recipes/train_style.py", made, data, args.device, **facts)


if __name__ == "__main__":
    main()
