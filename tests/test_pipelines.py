"""Every row of the table of pipelines is a test: a stock diffusers pipeline, unmodified, animates by injection.

`python tests/test_pipelines.py` writes the table, data/pipelines.csv.
"""

import copy
import csv
import inspect
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from conftest import motion_for
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

import animatediff_ref as ar
from animatediff_ref.generate.inputs import options_by_row, prompts_by_row

TABLE = Path(__file__).parents[1] / "data" / "pipelines.csv"
CLIPS, FRAMES, SIZE, TEXT = 2, 4, 16, 24
SETTINGS = {"num_inference_steps": 2, "guidance_scale": 3.0}


@dataclass
class Row:
    """One line of the table. ``build`` makes the pipeline and its options; one that tests by itself returns nothing."""

    pipeline: str
    variant: str
    source: str
    build: Callable
    motion: dict  # settings of the motion module
    fails: tuple[str, str] | None  # for one that does not animate: the error to expect, and why


ROWS: list[Row] = []


def row(pipeline: str, variant: str = "", source: str = "noise", fails: tuple[str, str] | None = None, **motion):
    """Enter the decorated ``build`` in the table."""

    def enter(build: Callable) -> Callable:
        ROWS.append(Row(pipeline, variant, source, build, motion, fails))
        return build

    return enter


# Parts of pipelines, small and random


def unet(
    in_channels: int = 4, widths: tuple = (16, 32), layers_per_block: int = 1, **options
) -> diffusers.UNet2DConditionModel:
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=SIZE // 2,
        in_channels=in_channels,
        cross_attention_dim=TEXT,
        block_out_channels=widths,
        layers_per_block=layers_per_block,
        attention_head_dim=4,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D")[: len(widths)],
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")[-len(widths) :],
        **options,
    ).eval()


def parts(**options) -> dict:
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(ar.data_folder() / "models" / "mini" / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        eos_token_id=tokenizer.eos_token_id,
    )
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        sample_size=SIZE,
    )
    return {
        "vae": vae.eval(),
        "text_encoder": CLIPTextModel(text).eval(),
        "tokenizer": tokenizer,
        "unet": unet(**options),
        "scheduler": ar.motion_scheduler(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def pipeline(kind: type, in_channels: int = 4, **more):
    pipe = kind(**parts(in_channels=in_channels) | more)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def random(model: torch.nn.Module) -> torch.nn.Module:
    """Random weights everywhere, so that what starts at zero does something."""
    torch.manual_seed(2)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def controlnet() -> diffusers.ControlNetModel:
    return random(diffusers.ControlNetModel.from_unet(unet(), conditioning_embedding_out_channels=(16, 32)))


def a_clip(frames: int = FRAMES, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, SIZE, SIZE, 3), np.uint8)


def a_picture() -> np.ndarray:
    return a_clip(1)[0]


def a_mask(frames: int = FRAMES) -> np.ndarray:
    mask = np.zeros((frames, SIZE, SIZE), np.uint8)
    for i in range(frames):
        mask[i, :, 2 * i : 2 * i + 6] = 255
    return mask


# What every row has to show


@contextmanager
def nudged(unet: torch.nn.Module, frame: int) -> Iterator[None]:
    """Change the noise of one frame of the first clip, in all branches of guidance, on the UNet's first call."""

    def change(module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple:
        handle.remove()
        sample = args[0].clone()
        sample[frame :: CLIPS * FRAMES, :4] += 1
        return (sample, *args[1:]), kwargs

    handle = unet.register_forward_pre_hook(change, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def clips(pipe, prompt="a penguin", **options) -> np.ndarray:
    return ar.animate(pipe, [prompt] * CLIPS, seed=5, **SETTINGS | options)


@torch.no_grad()
def stills(pipe, prompt="a penguin", schedule="official", **options) -> np.ndarray:
    """The same call without ``animate``: (clips, frames, height, width, 3)."""
    prompts = prompts_by_row(prompt, CLIPS, FRAMES)
    generators = [torch.Generator().manual_seed(i) for i in range(CLIPS * FRAMES)]
    with options_by_row(pipe, SETTINGS | options, CLIPS, FRAMES) as rows:
        images = pipe(prompt=prompts, generator=generators, output_type="np", **rows).images
    return np.asarray(images).reshape(CLIPS, FRAMES, *np.shape(images)[1:])


def same_frames(a: np.ndarray, b: np.ndarray) -> list[list[bool]]:
    return [[np.array_equal(x, y) for x, y in zip(*pair)] for pair in zip(a, b)]


def check_coupling(pipe, options: dict) -> None:
    made = clips(pipe, **options)
    assert made.shape == (CLIPS, FRAMES, SIZE, SIZE, 3)
    with nudged(pipe.unet, frame=1):
        after = clips(pipe, **options)
    assert same_frames(made, after) == [[False] * FRAMES, [True] * FRAMES], (
        "a clip's frames see each other and no others"
    )


def check(row: Row, pipe, options: dict) -> None:
    before = stills(pipe, **options)
    ar.inject(pipe.unet, motion_for(pipe.unet, num_frames=FRAMES, **row.motion))
    check_coupling(pipe, options)
    ar.eject(pipe.unet)
    after = stills(pipe, **options)
    assert np.array_equal(before, after), "eject gives back the pipeline that was"
    alone = [[frame != 1 for frame in range(FRAMES)], [True] * FRAMES]
    with nudged(pipe.unet, frame=1):
        assert same_frames(after, stills(pipe, **options)) == alone, "without a motion module a frame is alone"
    if changed := {name: with_other_frame(option) for name, option in options.items() if is_clip(option)}:
        assert same_frames(after, stills(pipe, **options | changed)) == [alone[0]] * CLIPS, (
            "each frame has its own picture"
        )


def is_clip(option) -> bool:
    return is_clip(option[-1]) if isinstance(option, list) else isinstance(option, np.ndarray) and len(option) == FRAMES


def with_other_frame(option):
    """A clip with another picture as frame 1."""
    if isinstance(option, list):
        return [with_other_frame(each) if is_clip(each) else each for each in option]
    option = option.copy()
    option[1] = 255 - option[1]
    return option


# The rows


@row("StableDiffusionPipeline")
def text_to_image():
    return pipeline(diffusers.StableDiffusionPipeline), {}


@row("StableDiffusionPipeline", "a negative prompt")
def negative_prompt():
    return pipeline(diffusers.StableDiffusionPipeline), {"negative_prompt": "a truck"}


@row("StableDiffusionPipeline", "guidance off")
def guidance_off():
    return pipeline(diffusers.StableDiffusionPipeline), {"guidance_scale": 1.0}


@row("StableDiffusionPipeline", "prompt by frame", "noise and a prompt for each frame")
def prompt_by_frame():
    return pipeline(diffusers.StableDiffusionPipeline), {"prompt": {0: "a penguin", 2: "a rocket"}}


@row("StableDiffusionPipeline", "DPM++ (DPMSolverMultistepScheduler)")
def dpm():
    pipe = pipeline(diffusers.StableDiffusionPipeline)
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    return pipe, {"schedule": "pipeline"}


@row("StableDiffusionPipeline", "LCMScheduler")
def lcm_scheduler():
    pipe = pipeline(diffusers.StableDiffusionPipeline)
    pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config)
    return pipe, {"schedule": "pipeline", "guidance_scale": 1.0}


@row("StableDiffusionPipeline", "v1: GroupNorms of the UNet over all frames", resnet_norm_over_frames=True)
def version_1():
    return pipeline(diffusers.StableDiffusionPipeline), {}


@row("StableDiffusionPipeline", "v2: a motion module in the middle", mid_block=True)
def version_2():
    return pipeline(diffusers.StableDiffusionPipeline), {}


@row("StableDiffusionPipeline", "bfloat16")
def bfloat16():
    return pipeline(diffusers.StableDiffusionPipeline).to(torch.bfloat16), {}


@row("StableDiffusionPipeline", "weights stored as float8 (layerwise casting)")
def float8():
    pipe = pipeline(diffusers.StableDiffusionPipeline)
    pipe.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    return pipe, {}


@row("StableDiffusionPipeline", "VAE slicing and tiling")
def slicing_and_tiling():
    pipe = pipeline(diffusers.StableDiffusionPipeline)
    pipe.vae.enable_slicing()
    pipe.vae.enable_tiling()
    pipe.vae.tile_latent_min_size, pipe.vae.tile_sample_min_size = 4, 8
    return pipe, {}


@row("StableDiffusionPipeline", "UNet offloaded (accelerate.cpu_offload)")
def offload():
    pipe = pipeline(diffusers.StableDiffusionPipeline)
    cpu_offload(pipe.unet, execution_device="cpu")
    assert pipe.unet.device.type == "meta"
    return pipe, {}


@row("StableDiffusionPipeline", "models offloaded in turn (enable_model_cpu_offload)")
def model_offload():
    pipe = pipeline(diffusers.StableDiffusionPipeline)
    pipe.enable_model_cpu_offload(device="cuda" if torch.cuda.is_available() else "cpu")
    return pipe, {}


@row("StableDiffusionPipeline", "torch.compile(pipe.unet)")
def compiled():
    pipe = pipeline(diffusers.StableDiffusionPipeline, unet=unet(widths=(16,)))
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    return pipe, {}


@row("UNet2DConditionModel", "compiled in place: one graph, and num_frames may change")
@torch.no_grad()
def compiled_in_place():
    plain, fast = unet(widths=(16,)), unet(widths=(16,))
    motion = motion_for(plain, num_frames=FRAMES)
    fast.compile(backend="eager", fullgraph=True)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, 4, 8, 8, generator=generator), 500, torch.randn(8, 5, TEXT, generator=generator)
    still = fast(*inputs).sample
    ar.inject(plain, motion)
    ar.inject(fast, motion)
    for motion.num_frames in (FRAMES, 2):
        moving = fast(*inputs).sample
        assert torch.equal(moving, plain(*inputs).sample)
        assert not torch.equal(moving, still)
    ar.eject(fast)
    assert torch.equal(still, fast(*inputs).sample)


@row("UNet2DConditionModel", "copied (copy.deepcopy): the copy has its own motion module")
def copied():
    pipe, _ = text_to_image()
    plain = stills(pipe)
    ar.inject(pipe.unet, motion_for(pipe.unet, num_frames=FRAMES))
    original, moving = pipe.unet, clips(pipe)
    pipe.unet = copy.deepcopy(original)
    assert np.array_equal(moving, clips(pipe))
    for parameter in ar.injected(pipe.unet).parameters():
        torch.nn.init.zeros_(parameter)
    assert not np.array_equal(moving, clips(pipe))
    ar.eject(pipe.unet)
    assert np.array_equal(plain, stills(pipe))
    pipe.unet = original
    assert np.array_equal(moving, clips(pipe))


@row("StableDiffusionPipeline", "textual inversion, a word of two vectors")
def textual_inversion():
    pipe = pipeline(diffusers.StableDiffusionPipeline)
    pipe.load_textual_inversion({"penguin2": torch.randn(2, TEXT)})
    return pipe, {"prompt": "a penguin2"}


def a_style() -> dict[str, torch.Tensor]:
    """A LoRA on the UNet's attentions, in peft's names."""
    donor = unet()
    donor.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    return {f"unet.{name}": tensor for name, tensor in get_peft_model_state_dict(donor, adapter_name="default").items()}


@row("StableDiffusionPipeline", "a style LoRA, loaded before injection")
def style_first():
    pipe = pipeline(diffusers.StableDiffusionPipeline)
    pipe.load_lora_weights(a_style(), adapter_name="style")
    return pipe, {}


@row("StableDiffusionPipeline", "a style LoRA, loaded after injection")
def style_after():
    pipe, _ = text_to_image()
    plain = stills(pipe)
    ar.inject(pipe.unet, motion_for(pipe.unet, num_frames=FRAMES))
    unstyled = clips(pipe)
    pipe.load_lora_weights(a_style(), adapter_name="style")
    styled = clips(pipe)
    assert not np.array_equal(unstyled, styled)
    first, _ = style_first()
    ar.inject(first.unet, motion_for(first.unet, num_frames=FRAMES))
    assert np.array_equal(styled, clips(first)), "the order does not matter"
    check_coupling(pipe, {})
    pipe.unload_lora_weights()
    assert np.array_equal(unstyled, clips(pipe))
    ar.eject(pipe.unet)
    assert np.array_equal(plain, stills(pipe))


@row("UNet2DConditionModel", "gradient checkpointing: the same gradients")
def gradient_checkpointing():
    def gradients(checkpointed: bool) -> list[torch.Tensor]:
        model = unet()
        motion = motion_for(model, num_frames=FRAMES)
        ar.inject(model, motion)
        if checkpointed:
            model.enable_gradient_checkpointing()
        model.train()
        generator = torch.Generator().manual_seed(0)
        noise, text = torch.randn(8, 4, 8, 8, generator=generator), torch.randn(8, 5, TEXT, generator=generator)
        model(noise, 500, text).sample.square().mean().backward()
        return [parameter.grad for parameter in motion.parameters()]

    without, having = gradients(False), gradients(True)
    assert all(gradient.abs().max() > 0 for gradient in without)
    assert all(torch.equal(*pair) for pair in zip(without, having))


@row("StableDiffusionImg2ImgPipeline", "", "one picture for all")
def img2img_picture():
    return pipeline(diffusers.StableDiffusionImg2ImgPipeline), {"image": Image.fromarray(a_picture()), "strength": 0.9}


@row("StableDiffusionImg2ImgPipeline", "", "a clip")
def img2img_clip():
    return pipeline(diffusers.StableDiffusionImg2ImgPipeline), {"image": a_clip(), "strength": 0.9}


@row("StableDiffusionInpaintPipeline", "a UNet of 4 channels", "a clip and a moving mask")
def inpaint_4():
    return pipeline(diffusers.StableDiffusionInpaintPipeline), {
        "image": a_clip(),
        "mask_image": a_mask(),
        "strength": 0.9,
    }


@row("StableDiffusionInpaintPipeline", "a UNet of 9 channels", "a clip and a moving mask")
def inpaint_9():
    pipe = pipeline(diffusers.StableDiffusionInpaintPipeline, in_channels=9)
    return pipe, {"image": a_clip(), "mask_image": a_mask(), "strength": 0.9}


@row("StableDiffusionInpaintPipeline", "a UNet of 9 channels", "one picture and mask for all")
def inpaint_picture():
    pipe = pipeline(diffusers.StableDiffusionInpaintPipeline, in_channels=9)
    return pipe, {"image": a_picture(), "mask_image": a_mask()[0]}


@row(
    "StableDiffusionInpaintPipeline", "AsymmetricAutoencoderKL, which decodes with the mask", "a clip and a moving mask"
)
def inpaint_asymmetric():
    torch.manual_seed(0)
    vae = diffusers.AsymmetricAutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        down_block_out_channels=(8, 8),
        up_block_types=("UpDecoderBlock2D",) * 2,
        up_block_out_channels=(8, 8),
        norm_num_groups=4,
        sample_size=SIZE,
    )
    pipe = pipeline(diffusers.StableDiffusionInpaintPipeline, vae=vae.eval())
    return pipe, {"image": a_clip(), "mask_image": a_mask(), "strength": 0.9}


@row("StableDiffusionInstructPix2PixPipeline", "guidance of 3 branches", "a clip")
def instruct_pix2pix():
    return pipeline(diffusers.StableDiffusionInstructPix2PixPipeline, in_channels=8), {"image": a_clip()}


@row("StableDiffusionControlNetPipeline", "", "a control clip")
def controlnet_clip():
    return pipeline(diffusers.StableDiffusionControlNetPipeline, controlnet=controlnet()), {"image": a_clip()}


@row("StableDiffusionControlNetPipeline", "", "one control picture for all")
def controlnet_picture():
    return pipeline(diffusers.StableDiffusionControlNetPipeline, controlnet=controlnet()), {"image": a_picture()}


@row("StableDiffusionControlNetPipeline", "two ControlNets", "a control clip for each")
def multi_controlnet():
    pipe = pipeline(diffusers.StableDiffusionControlNetPipeline, controlnet=[controlnet(), controlnet()])
    return pipe, {"image": [a_clip(), a_clip(seed=1)]}


@row("StableDiffusionControlNetPipeline", "guess mode", "a control clip")
def controlnet_guess():
    pipe = pipeline(diffusers.StableDiffusionControlNetPipeline, controlnet=controlnet())
    return pipe, {"image": a_clip(), "guess_mode": True}


@row("StableDiffusionControlNetImg2ImgPipeline", "", "a clip and a control clip")
def controlnet_img2img():
    pipe = pipeline(diffusers.StableDiffusionControlNetImg2ImgPipeline, controlnet=controlnet())
    return pipe, {"image": a_clip(), "control_image": a_clip(seed=1), "strength": 0.9}


@row("StableDiffusionControlNetImg2ImgPipeline", "two ControlNets", "a clip and a control clip for each")
def multi_controlnet_img2img():
    pipe = pipeline(diffusers.StableDiffusionControlNetImg2ImgPipeline, controlnet=[controlnet(), controlnet()])
    return pipe, {"image": a_clip(), "control_image": [a_clip(seed=1), a_clip(seed=2)], "strength": 0.9}


@row("StableDiffusionControlNetInpaintPipeline", "", "a clip, a moving mask and a control clip")
def controlnet_inpaint():
    pipe = pipeline(diffusers.StableDiffusionControlNetInpaintPipeline, controlnet=controlnet())
    return pipe, {"image": a_clip(), "mask_image": a_mask(), "control_image": a_clip(seed=1), "strength": 0.9}


def t2i_adapter(in_channels: int = 3) -> diffusers.T2IAdapter:
    shape = {"channels": [16, 32], "num_res_blocks": 1, "downscale_factor": 2}
    return random(diffusers.T2IAdapter(in_channels=in_channels, **shape))


@row("StableDiffusionAdapterPipeline", "", "a control clip")
def adapter_clip():
    return pipeline(diffusers.StableDiffusionAdapterPipeline, adapter=t2i_adapter()), {"image": a_clip()}


@row("StableDiffusionAdapterPipeline", "", "one control picture for all")
def adapter_picture():
    return pipeline(diffusers.StableDiffusionAdapterPipeline, adapter=t2i_adapter()), {
        "image": Image.fromarray(a_picture())
    }


@row("StableDiffusionAdapterPipeline", "an adapter of one channel (sketch, canny)", "a grey control clip")
def adapter_grey():
    return pipeline(diffusers.StableDiffusionAdapterPipeline, adapter=t2i_adapter(1)), {"image": a_mask()}


@row("StableDiffusionAdapterPipeline", "two adapters, of three channels and of one", "a control clip for each")
def multi_adapter_grey():
    pipe = pipeline(diffusers.StableDiffusionAdapterPipeline, adapter=[t2i_adapter(), t2i_adapter(1)])
    return pipe, {"image": [a_clip(), a_mask()], "adapter_conditioning_scale": [1.0, 0.5]}


@row("StableDiffusionAdapterPipeline", "two adapters", "a control clip for each")
def multi_adapter():
    pipe = pipeline(diffusers.StableDiffusionAdapterPipeline, adapter=[t2i_adapter(), t2i_adapter()])
    return pipe, {"image": [a_clip(), a_clip(seed=1)], "adapter_conditioning_scale": [1.0, 0.5]}


def image_prompts(kind: type = diffusers.StableDiffusionPipeline, count: int = 1, **more):
    """A pipeline with a random IP-Adapter, or several."""
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        projection_dim=TEXT,
        num_hidden_layers=1,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=8,
    )
    pipe = pipeline(
        kind,
        image_encoder=random(CLIPVisionModelWithProjection(vision)),
        feature_extractor=CLIPImageProcessor(size=SIZE, crop_size=SIZE),
        **more,
    )
    cross = [name for name in pipe.unet.attn_processors if name.endswith("attn2.processor")]
    widths = [pipe.unet.get_submodule(name.removesuffix(".processor")).to_k.out_features for name in cross]
    generator = torch.Generator().manual_seed(3)
    layers = {
        f"{2 * i + 1}.to_{which}_ip.weight": torch.randn(width, TEXT, generator=generator)
        for i, width in enumerate(widths)
        for which in "kv"
    }
    projection = {
        "proj.weight": torch.randn(4 * TEXT, TEXT, generator=generator),
        "proj.bias": torch.zeros(4 * TEXT),
        "norm.weight": torch.ones(TEXT),
        "norm.bias": torch.zeros(TEXT),
    }
    state = {"image_proj": projection, "ip_adapter": layers}
    pipe.load_ip_adapter([state] * count, subfolder=[""] * count, weight_name=[""] * count, image_encoder_folder=None)
    return pipe


@row("StableDiffusionPipeline", "IP-Adapter", "one image prompt for all")
def ip_adapter_picture():
    return image_prompts(), {"ip_adapter_image": Image.fromarray(a_picture())}


@row("StableDiffusionPipeline", "IP-Adapter", "a clip of image prompts")
def ip_adapter_clip():
    return image_prompts(), {"ip_adapter_image": a_clip()}


@row("StableDiffusionPipeline", "two IP-Adapters", "a clip of image prompts for each")
def ip_adapters():
    return image_prompts(count=2), {"ip_adapter_image": [a_clip(), a_clip(seed=1)]}


@row("StableDiffusionPipeline", "two IP-Adapters", "one image prompt for all and a clip of image prompts")
def ip_adapters_mixed():
    return image_prompts(count=2), {"ip_adapter_image": [Image.fromarray(a_picture()), a_clip(seed=1)]}


@row("StableDiffusionControlNetPipeline", "IP-Adapter", "a clip of image prompts and a control clip")
def ip_adapter_controlnet():
    pipe = image_prompts(diffusers.StableDiffusionControlNetPipeline, controlnet=controlnet())
    return pipe, {"ip_adapter_image": a_clip(), "image": a_clip(seed=1)}


@row("StableDiffusionInstructPix2PixPipeline", "IP-Adapter", "a clip and a clip of image prompts")
def ip_adapter_pix2pix():
    pipe = image_prompts(diffusers.StableDiffusionInstructPix2PixPipeline, in_channels=8)
    return pipe, {"ip_adapter_image": a_clip(), "image": a_clip(seed=1)}


@row("StableDiffusionPAGPipeline", "guidance of 3 branches")
def pag():
    return pipeline(diffusers.StableDiffusionPAGPipeline, pag_applied_layers="mid"), {}


@row("StableDiffusionPAGPipeline", "IP-Adapter", "a clip of image prompts")
def pag_ip_adapter():
    return image_prompts(diffusers.StableDiffusionPAGPipeline, pag_applied_layers="mid"), {"ip_adapter_image": a_clip()}


@row("StableDiffusionPAGImg2ImgPipeline", "", "a clip")
def pag_img2img():
    pipe = pipeline(diffusers.StableDiffusionPAGImg2ImgPipeline, pag_applied_layers="mid")
    return pipe, {"image": a_clip(), "strength": 0.9}


@row("StableDiffusionPAGInpaintPipeline", "", "a clip and a moving mask")
def pag_inpaint():
    pipe = pipeline(diffusers.StableDiffusionPAGInpaintPipeline, pag_applied_layers="mid")
    return pipe, {"image": a_clip(), "mask_image": a_mask(), "strength": 0.9}


@row("StableDiffusionControlNetPAGPipeline", "", "a control clip")
def pag_controlnet():
    kind = diffusers.StableDiffusionControlNetPAGPipeline
    return pipeline(kind, controlnet=controlnet(), pag_applied_layers="mid"), {"image": a_clip()}


@row("StableDiffusionControlNetPAGInpaintPipeline", "", "a clip, a moving mask and a control clip")
def pag_controlnet_inpaint():
    kind = diffusers.StableDiffusionControlNetPAGInpaintPipeline
    pipe = pipeline(kind, controlnet=controlnet(), pag_applied_layers="mid")
    return pipe, {"image": a_clip(), "mask_image": a_mask(), "control_image": a_clip(seed=1), "strength": 0.9}


def lcm(kind: type):
    return pipeline(kind, unet=unet(time_cond_proj_dim=8), scheduler=diffusers.LCMScheduler())


@row("LatentConsistencyModelPipeline")
def lcm_text_to_image():
    return lcm(diffusers.LatentConsistencyModelPipeline), {"schedule": "pipeline"}


@row("LatentConsistencyModelImg2ImgPipeline", "", "a clip")
def lcm_img2img():
    return lcm(diffusers.LatentConsistencyModelImg2ImgPipeline), {
        "schedule": "pipeline",
        "image": a_clip(),
        "strength": 0.9,
    }


DEPRECATED = "deprecated in diffusers"


@row("StableDiffusionSAGPipeline", DEPRECATED)
def self_attention_guidance():
    return pipeline(diffusers.StableDiffusionSAGPipeline), {}


@row("StableDiffusionPipelineSafe", f"{DEPRECATED}; guidance of 3 branches")
def safe():
    return pipeline(diffusers.StableDiffusionPipelineSafe), {"sld_guidance_scale": 1000}


@row("SemanticStableDiffusionPipeline", f"{DEPRECATED}; guidance of 3 branches")
def semantic():
    return pipeline(diffusers.SemanticStableDiffusionPipeline), {"editing_prompt": ["snow"]}


@row("StableDiffusionGLIGENPipeline", DEPRECATED, "noise and one box for all")
def gligen():
    pipe = pipeline(diffusers.StableDiffusionGLIGENPipeline, unet=unet(attention_type="gated"))
    return pipe, {"gligen_phrases": ["a penguin"], "gligen_boxes": [[0.1, 0.1, 0.6, 0.6]]}


@row("StableDiffusionPanoramaPipeline", f"{DEPRECATED}; guidance off")
def panorama():
    pipe = pipeline(diffusers.StableDiffusionPanoramaPipeline)
    return pipe, {"height": SIZE, "width": SIZE, "guidance_scale": 1.0}


@row(
    "StableDiffusionPanoramaPipeline",
    DEPRECATED,
    fails=("a clip's frames see each other", "it puts the branches of guidance between the frames"),
)
def panorama_guided():
    return pipeline(diffusers.StableDiffusionPanoramaPipeline), {"height": SIZE, "width": SIZE}


@row(
    "StableDiffusionAttendAndExcitePipeline",
    DEPRECATED,
    fails=("a batch of 1 rows", "it runs the UNet on one frame at a time"),
)
def attend_and_excite():
    pipe = pipeline(diffusers.StableDiffusionAttendAndExcitePipeline)
    return pipe, {"token_indices": [[1, 2]] * CLIPS * FRAMES, "attn_res": (8, 8)}


@row(
    "StableDiffusionControlNetXSPipeline",
    DEPRECATED,
    "a control clip",
    fails=("got UNetControlNetXSModel", "it makes the UNet into one of another class"),
)
def controlnet_xs():
    base = unet(layers_per_block=2)
    adapter = diffusers.ControlNetXSAdapter.from_unet(
        base, size_ratio=1.0, conditioning_embedding_out_channels=(16, 32)
    )
    return pipeline(diffusers.StableDiffusionControlNetXSPipeline, unet=base, controlnet=adapter), {"image": a_clip()}


# The table


NOT_TRIED = {
    "LEditsPPPipelineStableDiffusion": "it inverts a picture in a call of its own first",
    "StableDiffusionDepth2ImgPipeline": "Stable Diffusion 2",
    "StableDiffusionImageVariationPipeline": "it takes no prompt",
    "StableDiffusionLatentUpscalePipeline": "not the UNet of Stable Diffusion 1",
    "StableDiffusionUpscalePipeline": "Stable Diffusion 2",
}


def stock_pipelines() -> set[str]:
    """Names of the pipelines that diffusers maintains for one text encoder and a ``UNet2DConditionModel``."""
    names = set()
    for name in filter(re.compile("(StableDiffusion|LatentConsistency|LEdits).*").fullmatch, dir(diffusers)):
        kind = getattr(diffusers, name)
        if (
            isinstance(kind, type)
            and issubclass(kind, diffusers.DiffusionPipeline)
            and ".deprecated." not in kind.__module__
        ):
            needs = inspect.signature(kind.__init__).parameters
            if "UNet2D" in str(getattr(needs.get("unet"), "annotation", "")) and "tokenizer_2" not in needs:
                names.add(name)
    return names


def table() -> str:
    """The rows as csv, and what is no row."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["pipeline", "variant", "made from", "animates"])
    for row in ROWS:
        writer.writerow([row.pipeline, row.variant, row.source, f"no: {row.fails[1]}" if row.fails else "yes"])
    for name, why in NOT_TRIED.items():
        writer.writerow([name, "", "", f"not tried: {why}"])
    return file.getvalue()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: ": ".join(filter(None, (row.pipeline, row.variant, row.source))))
def test_it_animates(row):
    if row.fails:
        with pytest.raises((AssertionError, ValueError), match=row.fails[0]):
            check(row, *row.build())
    elif made := row.build():
        check(row, *made)


def test_no_stock_pipeline_is_left_out():
    assert stock_pipelines() - {row.pipeline for row in ROWS} == NOT_TRIED.keys()


def test_the_table_is_these_tests():
    assert TABLE.read_text() == table(), "write it anew: python tests/test_pipelines.py"


if __name__ == "__main__":
    TABLE.write_text(table())
