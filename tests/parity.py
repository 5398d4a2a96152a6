"""The parity table: this package against diffusers' own classes, same weights, fp32, on the CPU (make parity).

Every row compares with what it should equal, and with what it should not: the nearest wrong norm convention or weight.
The norms of diffusers' classes are replaced where a convention asks for it; LoRAs are added to its weights by hand (oracle.py).
"""

import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
from conftest import SHAPES, lora_for, motion_for, run, tiny_unet
from diffusers import AnimateDiffPipeline, UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from oracle import CONVENTIONS, OnFrames, convention, diffusers_unet, load, merged, theirs

import animatediff_ref as ar

ONE_PASS, FOUR_STEPS = 1e-5, 4e-4  # largest difference allowed after one pass, and after four guided steps
PROMPT = "a penguin, snow"
FOUR_LEVELS = "four levels like Stable Diffusion"
PRESETS = {"v1": ar.MotionConfig.v1(), "v2": ar.MotionConfig.v2(), "v3": ar.MotionConfig.v3()}
CONFIGS = PRESETS | {f"{version} diffusers": config.diffusers() for version, config in PRESETS.items()}


@dataclass(frozen=True)
class Row:
    what: str
    against: str
    scale: float  # standard deviation of the output
    difference: float  # largest, absolute
    tolerance: float
    control: float  # largest difference to the nearest of those it should not equal


@dataclass(frozen=True)
class Case:
    """A row to be. ``compare`` returns our output, the one it should equal, and those it should not."""

    what: str
    against: str
    tolerance: float
    compare: Callable[[], tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]]

    def row(self) -> Row:
        with torch.no_grad():
            ours, right, wrongs = self.compare()
        difference, *others = [(ours - other).abs().max().item() for other in (right, *wrongs)]
        return Row(self.what, self.against, right.std().item(), difference, self.tolerance, min(others))


def one_transformer(name: str) -> Case:
    """A temporal transformer as wide as Stable Diffusion's first level, on as many frames as it has positions."""
    config = CONFIGS[name]
    frames, width = config.num_positions, 320

    def compare():
        torch.manual_seed(0)
        transformer = ar.MotionModule(config, {"here": width}).at("here")
        for parameter in transformer.parameters():
            parameter.add_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)
        x = torch.randn(2 * frames, width, 4, 4)
        other = AnimateDiffTransformer3D(
            8, width // 8, width, positional_embeddings="sinusoidal", num_positional_embeddings=frames
        )
        pooled = load(other, transformer.state_dict())(x, num_frames=frames)
        other.norm = OnFrames(other.norm)
        per_frame = other(x, num_frames=frames)
        right, wrong = (pooled, per_frame) if config.motion_norm_over_frames else (per_frame, pooled)
        return transformer(x, frames), right, [wrong]

    return Case(f"{name}: one temporal transformer, {frames} frames", "AnimateDiffTransformer3D", ONE_PASS, compare)


def whole_unet(name: str, shape: str) -> Case:
    def compare():
        unet = tiny_unet(shape)
        motion = random_motion(unet, CONFIGS[name])
        right, wrongs = by_convention(motion, lambda norms: theirs(diffusers_unet(unet, motion, norms)))
        ar.inject(unet, motion)
        return run(unet), right, wrongs

    return Case(f"{name}: UNet, {shape}", "UNetMotionModel", ONE_PASS, compare)


def adapted(name: str, weights: dict[str, float], unload: bool = False) -> Case:
    """A UNet that wears the MotionLoRAs, and the domain adapter, of files with published names, each by its weight."""

    def compare():
        unet = tiny_unet(FOUR_LEVELS)
        motion = random_motion(unet, CONFIGS[name])
        with tempfile.TemporaryDirectory() as folder:
            paths, loras = {file: Path(folder, file) for file in weights}, {}
            for seed, (file, path) in enumerate(paths.items()):
                loras[file] = lora_for(unet if "domain" in file else motion, path, seed=seed)
            changed = [weights | {file: weight} for file in weights for weight in {-1, 0, 0.5, 1} - {weights[file]}]
            right, *wrongs = [
                by_hand(unet, motion, loras, each) for each in ([{}, weights] if unload else [weights, *changed])
            ]
            wear(unet, motion, paths, weights)
        if unload:
            ar.unload_motion_loras(motion)
        ar.inject(unet, motion)
        return run(unet), right, wrongs

    told = ", ".join(f"{Path(file).stem} {weight:g}" for file, weight in weights.items())
    return Case(f"{name}: UNet, {told}{', unloaded' * unload}", "UNetMotionModel, W + w up @ down", ONE_PASS, compare)


def by_hand(unet, motion: ar.MotionModule, loras: dict[str, dict], weights: dict[str, float]) -> torch.Tensor:
    """diffusers' output with the factors of every file added to the weights."""
    still, moving = deepcopy(unet), motion.state_dict()
    for file, weight in weights.items():
        if "domain" in file:
            still.load_state_dict(merged(still.state_dict(), loras[file], weight))
        else:
            moving = merged(moving, loras[file], weight)
    return theirs(diffusers_unet(still, motion, convention(motion.config), weights=moving))


def wear(unet, motion: ar.MotionModule, paths: dict[str, Path], weights: dict[str, float]) -> None:
    """Load the files as they were trained, then weigh them."""
    for file, path in paths.items():
        if "domain" in file:
            ar.load_domain_adapter(unet, path)
            ar.set_domain_adapter(unet, weights[file])
        else:
            ar.load_motion_lora(motion, path)
    ar.set_motion_loras(motion, {path.stem: weights[file] for file, path in paths.items() if "domain" not in file})


def sampled(name: str, mini: bool = False) -> Case:
    """Four guided steps of a stock pipeline, on a random UNet or on the mini world as it ships."""
    frames = 16 if mini else 4

    def compare():
        pipe = ar.load_base("mini")
        pipe.set_progress_bar_config(disable=True)
        if not mini:
            pipe.unet = random_unet(FOUR_LEVELS)
        motion = ar.load_motion_module("mini") if mini else random_motion(pipe.unet, CONFIGS[name])
        noise = torch.randn(frames, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        options = {"num_inference_steps": 4, "guidance_scale": 7.5, "output_type": "latent"}

        def by_diffusers(norms: str) -> torch.Tensor:
            motion_unet = diffusers_unet(pipe.unet, motion, norms, frames)
            parts = pipe.vae, pipe.text_encoder, pipe.tokenizer, motion_unet, None, pipe.scheduler
            latents = noise.transpose(0, 1)[None]
            other = AnimateDiffPipeline(*parts)
            other.set_progress_bar_config(disable=True)
            return other(PROMPT, frames, latents=latents, **options).frames[0].transpose(0, 1)

        right, wrongs = by_convention(motion, by_diffusers)
        ar.inject(pipe.unet, motion, frames)
        return pipe(PROMPT, num_images_per_prompt=frames, latents=noise, **options).images, right, wrongs

    return Case(f"{name}: 4 guided steps, {frames} frames", "AnimateDiffPipeline", FOUR_STEPS, compare)


def random_unet(shape: str) -> UNet2DConditionModel:
    """A UNet for the mini world's text encoder, with random weights."""
    torch.manual_seed(0)
    return UNet2DConditionModel(16, cross_attention_dim=128, attention_head_dim=4, norm_num_groups=8, **SHAPES[shape])


def random_motion(unet: UNet2DConditionModel, config: ar.MotionConfig) -> ar.MotionModule:
    """A motion module with random weights that follows ``config``, but for the groups of its norms."""
    kept = "num_positions", "mid_block", "motion_norm_over_frames", "resnet_norm_over_frames"
    return motion_for(unet, **{name: getattr(config, name) for name in kept})


def by_convention(motion: ar.MotionModule, output: Callable[[str], torch.Tensor]) -> tuple:
    """An output under the norm convention of ``motion``, and under the other ones."""
    right = convention(motion.config)
    return output(right), [output(norms) for norms in CONVENTIONS if norms != right]


CASES = [
    *(one_transformer(name) for name in CONFIGS),
    *(whole_unet(name, shape) for name in CONFIGS for shape in SHAPES),
    *(adapted("v2", {"MotionLoRA_a.ckpt": weight}) for weight in (1, 0.5, -1)),
    adapted("v2", {"MotionLoRA_a.ckpt": 1, "MotionLoRA_b.safetensors": 0.5}),
    adapted("v2", {"MotionLoRA_a.ckpt": 1, "MotionLoRA_b.safetensors": 0.5}, unload=True),
    *(adapted("v3", {"domain_adapter.ckpt": scale}) for scale in (1, 0.5, 0)),
    adapted("v1", {"domain_adapter.safetensors": 0.5, "MotionLoRA_a.ckpt": -1, "MotionLoRA_b.ckpt": 0.5}),
    *(sampled(name) for name in (*PRESETS, "v2 diffusers")),
    sampled("mini", mini=True),
]


def main() -> None:
    diffusers.utils.logging.set_verbosity_error()
    wide = max(len(case.what) for case in CASES), max(len(case.against) for case in CASES)
    heads = "scale", "difference", "tolerance", "if wrong"
    print(f"{'what':{wide[0]}}  {'against':{wide[1]}}", *(f"{head:>10}" for head in heads))
    for case in CASES:
        row = case.row()
        numbers = row.scale, row.difference, row.tolerance, row.control
        print(f"{row.what:{wide[0]}}  {row.against:{wide[1]}}", *(f"{number:10.2g}" for number in numbers), flush=True)
    print("scale: standard deviation of the output. difference: the largest, absolute. if wrong: that of the nearest")
    print("wrong norm convention or weight. Same weights and noise on both sides, single precision, on the CPU.")


if __name__ == "__main__":
    main()
