"""How good the mini world is: data/measured.json, which the book shows and the tests check.

    python data/recipes/measure.py [--device cuda]

Three things: what the autoencoder loses; how many generated stills a classifier, taught on real ones alone, recognises; how
much generated blob clips move, against real clips and control rows.
"""

import argparse
import json
import platform
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import world
from fit import DATA, commit, fit
from PIL import Image
from torch import nn
from train_base import pictures
from train_vae import psnr, split, stills

import animatediff_ref as ar

STYLES = ("noto", "twemoji", "blob")
PROMPTS = 24


def base_rows() -> list[dict]:
    return [row for row in world.concepts() if row["base"]]


def classifier() -> nn.Sequential:
    widths, layers = (3, 32, 64, 128, 256), []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.ReLU(), nn.Dropout2d(0.05)]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(widths[-1], len(base_rows())))


def taught_classifier(device: str) -> nn.Sequential:
    made, about = pictures(STYLES, 3, seed=11)
    bank, concept = torch.from_numpy(made), torch.from_numpy(about[:, 0])
    torch.manual_seed(0)
    judge = classifier().to(device)

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(bank), (96,), generator=generator)
        noisy = bank[rows].float() / 127.5 - 1 + 0.1 * torch.randn(bank[rows].shape, generator=generator)
        return F.cross_entropy(judge(noisy.to(device)), concept[rows].to(device))

    fit("judge", judge.parameters(), loss_of, ar.TrainConfig(700, learning_rate=3e-3, warmup=50, anneal=True, seed=0))
    return judge.eval()


@torch.no_grad()
def recognised(judge: nn.Sequential, images: np.ndarray, concepts: list[int], top: int = 1) -> int:
    """How many of the images, uint8 (n, h, w, 3), have the right concept among the classifier's first ``top``."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).to(next(judge.parameters()).device).float() / 127.5 - 1
    return (judge(x).topk(top).indices.cpu() == torch.tensor(concepts)[:, None]).any(1).sum().item()


def generated_stills(pipe, prompts: list[str]) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    images = []
    for start in range(0, len(prompts), 20):
        part, draw = prompts[start : start + 20], torch.Generator().manual_seed(start)
        images += list(pipe(part, num_inference_steps=25, generator=draw, output_type="np").images)
    return (np.stack(images) * 255).round().astype(np.uint8)


def recognition(device: str) -> dict:
    judge, rows, places = taught_classifier(device), base_rows(), list(world.BACKGROUNDS)
    made, about = pictures(STYLES, 1, seed=12)
    real = {}
    for i, style in enumerate(STYLES):
        mine = about[:, 1] == i
        real[style] = round(
            100 * recognised(judge, made[mine].transpose(0, 2, 3, 1), about[mine, 0].tolist()) / mine.sum()
        )
    picked = np.random.default_rng(13).permutation(len(rows))[:100].tolist()
    prompts = [world.caption(rows[c]["phrase"], places[i % len(places)]) for i, c in enumerate(picked)]
    result = {"real_stills_percent": real, "generated": {}}
    for name, style in (("base", None), ("blob", "blob")):
        said = [f"{prompt}, {style} style" if style else prompt for prompt in prompts]
        images = generated_stills(ar.load_base("mini", style=style).to(device), said)
        result["generated"][name] = {f"top{top}_of_100": recognised(judge, images, picked, top) for top in (1, 5)}
    return result


def backdrop(name: str) -> np.ndarray:
    image = Image.open(DATA / "backgrounds" / f"{name.replace(' ', '_')}.png")
    return np.asarray(image.resize((world.SIDE, world.SIDE), Image.LANCZOS))


def amount(clip: np.ndarray, place: str) -> float:
    return round(ar.motion_amount(clip, ar.object_mask(clip, backdrop(place))), 5)


@torch.no_grad()
def through_vae(pipe, clip: np.ndarray) -> np.ndarray:
    pixels = torch.from_numpy(clip).permute(0, 3, 1, 2).to(pipe.device).float() / 127.5 - 1
    made = pipe.vae.decode(pipe.vae.encode(pixels).latent_dist.mode()).sample
    return ((made.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def motion(device: str) -> dict:
    """Motion amount inside the object for the same concepts: real clips, generated clips, and controls."""
    rows = base_rows()
    picked = np.random.default_rng(14).permutation(len(rows))[:PROMPTS].tolist()
    penguin = next(i for i, row in enumerate(rows) if row["label"] == "penguin")
    picked = [penguin] + [c for c in picked if c != penguin][: PROMPTS - 1]
    captions = {clip.path.stem: clip for clip in ar.list_clips(DATA / "clips.csv", DATA / "clips")}
    pipe = ar.load_base("mini", style="blob").to(device)
    pipe.set_progress_bar_config(disable=True)
    module = ar.load_motion_module("mini")
    table = []
    for concept in picked:
        row, real = rows[concept], captions[rows[concept]["code"]]
        place = real.caption.rpartition(", ")[2]
        prompt = world.caption(row["phrase"], place, "blob")
        ar.inject(pipe.unet, module, 16)
        made = ar.animate(pipe, prompt, seed=0)
        ar.inject(pipe.unet, ar.MotionModule(module.config, module.places), 16)
        apart = ar.animate(pipe, prompt, seed=0)
        true = ar.read_clip(real.path, 16, size=world.SIDE)
        clips = {
            "real": true,
            "real, autoencoded": through_vae(pipe, true),
            "generated": made,
            "per-frame images": apart,
        }
        clips["frozen"] = made[[0] * 16]
        table.append({"prompt": prompt, "seed": 0} | {name: amount(clip, place) for name, clip in clips.items()})
    names = [name for name in table[0] if name not in ("prompt", "seed")]
    return {
        "prompts": table,
        "mean": {name: interval([row[name] for row in table]) for name in names},
        "ratio to real": ratio(table),
    }


def interval(values: list[float]) -> dict:
    """Mean and its 95 % bootstrap interval over prompts."""
    draws = np.random.default_rng(15).choice(values, (10_000, len(values))).mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"mean": round(float(np.mean(values)), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def ratio(table: list[dict]) -> dict:
    """Mean motion of generated over mean motion of real clips, with an interval from resampling prompts in pairs."""
    pairs = np.array([[row["generated"], row["real"]] for row in table])
    drawn = pairs[np.random.default_rng(16).integers(len(pairs), size=(10_000, len(pairs)))].mean(1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    whole = pairs[:, 0].mean() / pairs[:, 1].mean()
    return {"mean": round(float(whole), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument("--device", default="cpu")
    device = ask.parse_args().device
    held_out = stills(split()[1], 200, seed=1)
    vae = ar.load_base("mini").vae.to(device)
    measured = {
        "made by": "data/recipes/measure.py", "commit": commit(), "torch": torch.__version__, "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "autoencoder": {"psnr_db": round(psnr(vae, held_out), 2), "held_out_stills": len(held_out)},
    }  # fmt: skip
    measured["recognition"] = recognition(device)
    print(json.dumps(measured["recognition"]))
    measured["motion"] = motion(device)
    print(json.dumps({name: measured["motion"][name] for name in ("mean", "ratio to real")}))
    Path(DATA / "measured.json").write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
