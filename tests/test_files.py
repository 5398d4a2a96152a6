"""Files of weights: every format in and out, bit for bit; what a file is; versions and norms; nothing half-written."""

import json
from contextlib import nullcontext
from dataclasses import asdict

import numpy as np
import pytest
import torch
from conftest import lora_for, motion_for, run, tiny_unet
from diffusers import AnimateDiffPipeline, MotionAdapter, UNetMotionModel
from diffusers.models.resnet import ResnetBlock2D
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import animatediff_ref as ar
from animatediff_ref.method.adapters import DOMAIN, add_domain_adapter, pairs_on
from animatediff_ref.weights.lora_file import save_pairs
from animatediff_ref.weights.motion import PlainFileWarning
from animatediff_ref.weights.names import diffusers_name, lora_part, published_name
from animatediff_ref.weights.tensors import save_tensors

TRANSFORMER = "down_blocks.0.motion_modules.0.temporal_transformer"
POSITIONS = f"{TRANSFORMER}.transformer_blocks.0.attention_blocks.0.pos_encoder.pe"


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


# --- motion modules -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_official_to_ours_to_official(tmp_path, version, suffix):
    config = getattr(ar.MotionConfig, version)()
    state = ar.MotionModule(config, tiny_unet()).state_dict()
    first = {name: value if "pos_encoder" in name else torch.randn_like(value) for name, value in state.items()}
    torch.save(first, tmp_path / "mm.ckpt")
    loaded = ar.load_motion_module(tmp_path / "mm.ckpt")
    assert loaded.config == config
    ar.save_motion_module(loaded, tmp_path / f"again.{suffix}")
    again = torch.load(tmp_path / "again.ckpt") if suffix == "ckpt" else load_file(tmp_path / "again.safetensors")
    assert same(first, again)


@pytest.mark.parametrize("name", ["m.safetensors", "m.ckpt"])
def test_a_convolutional_one_there_and_back(tmp_path, name):
    """Also without metadata: the names of its tensors tell."""
    motion = motion_for(tiny_unet(), kind="conv")
    told = nullcontext() if name == "m.safetensors" else pytest.warns(PlainFileWarning)
    with told:
        ar.save_motion_module(motion, tmp_path / name)
    again = ar.load_motion_module(tmp_path / name)
    assert again.config.kind == ar.inspect_file(tmp_path / name).config.kind == "conv"
    assert "frames    any number" in str(ar.inspect_file(tmp_path / name))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in motion.state_dict().items())
    with pytest.raises(ValueError, match=r"a transformer with positions and two attentions .* got kind='conv'"):
        ar.save_motion_module(motion, tmp_path / "folder", format="diffusers")
    with pytest.raises(ValueError, match=r"needs shape|it has no"):
        ar.load_motion_module(tmp_path / name, ar.MotionConfig.v3())


@pytest.mark.parametrize("options", [{}, {"mid_block": True}, {"resnet_norm_over_frames": True, "num_positions": 24}])
def test_official_to_diffusers_and_back(tmp_path, options):
    motion = motion_for(tiny_unet(), **options)
    ar.save_motion_module(motion, tmp_path / "adapter", format="diffusers")
    back = ar.load_motion_module(tmp_path / "adapter")
    assert (back.config, back.num_frames, back.places) == (motion.config, motion.num_frames, motion.places)
    assert same(motion.state_dict(), back.state_dict())
    ar.save_motion_module(back, tmp_path / "adapter", format="diffusers")  # onto a folder that is there
    names = sorted(path.name for path in (tmp_path / "adapter").iterdir())
    assert names == ["config.json", "diffusion_pytorch_model.safetensors"]


def test_a_folder_that_diffusers_wrote(tmp_path):
    adapter = MotionAdapter((32, 64), motion_norm_num_groups=8, motion_max_seq_length=24, use_motion_mid_block=False)
    adapter.save_pretrained(tmp_path / "adapter")
    motion = ar.load_motion_module(tmp_path / "adapter")
    assert motion.config == ar.MotionConfig(norm_groups=8, num_positions=24, resnet_norm_over_frames=True)
    theirs = adapter.state_dict()
    assert all(torch.equal(value, theirs[diffusers_name(name)]) for name, value in motion.named_parameters())
    assert ar.load_motion_module(tmp_path / "adapter", norms="diffusers").config == motion.config.diffusers()


def test_exported_for_diffusers_it_gives_our_frames(tmp_path):
    """In `AnimateDiffPipeline`, from the folder on disk, under diffusers' norm convention."""
    pipe = ar.load_base("mini")
    pipe.set_progress_bar_config(disable=True)
    motion = ar.load_motion_module("mini", norms="diffusers")
    ar.save_motion_module(motion, tmp_path / "adapter", format="diffusers")
    adapter = MotionAdapter.from_pretrained(tmp_path / "adapter")
    theirs = AnimateDiffPipeline(pipe.vae, pipe.text_encoder, pipe.tokenizer, pipe.unet, adapter, pipe.scheduler)
    theirs.set_progress_bar_config(disable=True)
    noise = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(0)).transpose(0, 1)[None]
    guidance = ar.default_guidance(pipe)
    options = {"num_frames": 8, "num_inference_steps": 4, "guidance_scale": guidance, "output_type": "np"}
    frames = theirs("a penguin, snow", latents=noise, **options).frames[0]
    ar.inject(pipe.unet, motion, 8)
    clip = ar.animate(pipe, "a penguin, snow", num_inference_steps=4)
    assert np.abs((frames * 255).round() - clip).max() <= 1
    ar.inject(pipe.unet, ar.load_motion_module("mini"), 8)
    assert np.abs((frames * 255).round() - ar.animate(pipe, "a penguin, snow", num_inference_steps=4)).max() > 1


def prefixed(state: dict, prefix: str = "module.") -> dict:
    return {f"{prefix}{name}": value for name, value in state.items()}


def whole_unet(state: dict, prefix: str) -> dict:
    return prefixed({**tiny_unet().state_dict(), **state}, prefix)


def of_an_optimizer(state: dict) -> dict:
    return {"state": {0: {"exp_avg": torch.zeros(2), "step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-4}]}


def without(state: dict, part: str) -> dict:
    return {name: value for name, value in state.items() if part not in name}


WRAPPINGS = {
    "flat": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "global_step": 7},
    "module.": lambda state: {"state_dict": prefixed(state), "epoch": 3},
    "stray animatediff_config": lambda state: {**state, "animatediff_config": torch.zeros(1)},
    "stray text": lambda state: {**state, "animatediff_config": "v3"},
    "whole UNet": lambda state: {"state_dict": whole_unet(state, "module.")},
    "whole UNet under unet.": lambda state: {"state_dict": whole_unet(state, "unet.")},
    "whole UNet in a compiled pipeline": lambda state: whole_unet(state, "pipe.unet._orig_mod."),
    "compiled": lambda state: prefixed(state, "_orig_mod."),
    "compiled part by part": lambda state: {
        n.replace("transformer_blocks", "_orig_mod.transformer_blocks"): v for n, v in state.items()
    },
    "sharded": lambda state: {
        n.replace(".motion", "._fsdp_wrapped_module.motion"): v for n, v in prefixed(state, "_forward_module.").items()
    },
    "under a name of the trainer's": lambda state: {"model": state, "optimizer": of_an_optimizer(state), "epoch": 3},
    "two deep": lambda state: {"module": {"motion_module_state_dict": state}, "rng": torch.zeros(8, dtype=torch.uint8)},
    "parts side by side": lambda state: {"unet": tiny_unet().state_dict(), "motion": state},
    "another model's part": lambda state: prefixed(state, "ema_model.unet."),
    "no positions": lambda state: without(state, "pos_encoder"),
    "diffusers names": lambda state: {
        diffusers_name(name): value for name, value in without(state, "attention_blocks.1.pos").items()
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappings(tmp_path, wrapping):
    motion = ar.MotionModule(ar.MotionConfig.v3(), tiny_unet())
    torch.save(WRAPPINGS[wrapping](motion.state_dict()), tmp_path / "mm.ckpt")
    loaded = ar.load_motion_module(tmp_path / "mm.ckpt")
    assert loaded.config == motion.config
    assert same(loaded.state_dict(), motion.state_dict())
    has_unet = "whole UNet" in wrapping or "side" in wrapping
    assert ("whole UNet" in str(ar.inspect_file(tmp_path / "mm.ckpt"))) == has_unet
    assert ("v3 is assumed" in str(ar.inspect_file(tmp_path / "mm.ckpt"))) == (wrapping == "no positions")


def test_names_that_are_the_same_without_wrappers(tmp_path):
    torch.save({"a.b": torch.ones(1), "module.a.b": torch.ones(1)}, tmp_path / "mm.ckpt")
    with pytest.raises(ValueError, match=r"two tensors are a\.b without wrappers, a\.b and module\.a\.b"):
        ar.load_motion_module(tmp_path / "mm.ckpt")


def test_two_motion_modules_in_one_file(tmp_path):
    state = ar.MotionModule(ar.MotionConfig.v3(), tiny_unet()).state_dict()
    torch.save({"model": state, "ema": state}, tmp_path / "mm.ckpt")
    with pytest.raises(ValueError, match=r"two tensors are down_blocks.*, one of them ema\..*: save one model alone"):
        ar.load_motion_module(tmp_path / "mm.ckpt")


def small_adapter(**options) -> MotionAdapter:
    torch.manual_seed(2)
    return MotionAdapter((32, 64), motion_norm_num_groups=8, motion_num_attention_heads=4, **options)


FORMS = {  # of a folder of diffusers
    "shards": {"max_shard_size": "100KB"},
    "a variant": {"variant": "bf16"},
    "shards of a variant": {"variant": "fp16", "max_shard_size": "100KB"},
    "pickled": {"safe_serialization": False},
    "pickled shards": {"safe_serialization": False, "max_shard_size": "100KB"},
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_in_which_diffusers_writes_a_folder(tmp_path, form):
    adapter = small_adapter()
    adapter.save_pretrained(tmp_path, **FORMS[form])
    assert (len(list(tmp_path.iterdir())) > 3) == ("shards" in form)
    motion, theirs = ar.load_motion_module(tmp_path), adapter.state_dict()
    assert all(torch.equal(value, theirs[diffusers_name(name)]) for name, value in motion.named_parameters())
    assert (motion.config.norm_groups, motion.config.num_heads) == (8, 4)


def test_full_precision_before_variants_and_settings_beside_a_file(tmp_path):
    adapter = small_adapter()
    adapter.save_pretrained(tmp_path)
    for variant in ("fp16", "bf16"):
        (tmp_path / f"diffusion_pytorch_model.{variant}.safetensors").write_bytes(b"not this one")
    for path in (tmp_path, tmp_path / "diffusion_pytorch_model.safetensors"):
        config = ar.load_motion_module(path).config
        assert (config.norm_groups, config.num_heads) == (8, 4)


def test_safetensors_before_pickled_weights_even_of_full_precision(tmp_path):
    small_adapter().half().save_pretrained(tmp_path, variant="fp16")
    small_adapter().save_pretrained(tmp_path, safe_serialization=False)
    assert ar.inspect_file(tmp_path).dtypes == ("float16",)


def test_a_shard_that_is_missing_and_a_folder_of_something_else(tmp_path):
    small_adapter().save_pretrained(tmp_path / "a", max_shard_size="100KB")
    shard = sorted((tmp_path / "a").glob("*-of-*"))[1]
    shard.unlink()
    with pytest.raises(ValueError, match=f"there is no file .*{shard.name}"):
        ar.load_motion_module(tmp_path / "a")
    (tmp_path / "a" / "diffusion_pytorch_model.safetensors.index.json").write_text("[]")
    assert "needs a weight_map" in str(ar.inspect_file(tmp_path / "a"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mm.safetensors").touch()
    with pytest.raises(ValueError, match=r"nor a LoRA of peft \(adapter_config.*: it holds mm\.safetensors"):
        ar.load_motion_module(tmp_path / "b")


def test_the_unet_of_a_motion_pipeline(tmp_path):
    """As a file it holds a motion module; as a UNet it is refused, and the pipeline is not taken for a plain one."""
    pipe, adapter = ar.load_base("mini"), MotionAdapter((48, 96, 160), 1, motion_norm_num_groups=8)
    theirs = AnimateDiffPipeline(pipe.vae, pipe.text_encoder, pipe.tokenizer, pipe.unet, adapter, pipe.scheduler)
    theirs.save_pretrained(tmp_path)
    assert ar.inspect_file(tmp_path).kind == "motion pipeline folder"
    assert ar.inspect_file(ar.data_folder() / "models/mini").kind == "pipeline folder"
    with pytest.raises(
        ValueError, match=r"has a UNetMotionModel where a plain UNet2DConditionModel is needed.*motion_adapter"
    ):
        ar.load_base(tmp_path)
    with pytest.raises(ValueError, match="is the folder of a whole pipeline"):
        ar.load_motion_module(tmp_path)
    state = ar.load_motion_module(tmp_path / "motion_adapter").state_dict()
    motion = ar.load_motion_module(tmp_path / "unet")
    assert same(motion.state_dict(), state)
    for unet in (theirs.unet, UNetMotionModel.from_unet2d(pipe.unet, adapter)):
        with pytest.raises(ValueError, match="a UNetMotionModel has motion modules of its own: take the plain"):
            ar.inject(unet, motion)


MORE = {  # a motion module and other tensors -> what is said
    "conv_in": ("motion module with more", "no motion module has: conv_in.bias, conv_in.weight"),
    "pose_encoder.layer.weight": ("motion module with more", "no motion module has: pose_encoder.layer.weight"),
    f"{TRANSFORMER}.transformer_blocks.0.attention_blocks.0.processor.qkv_merge.weight": (
        "motion module",
        "it has no .*qkv_merge",
    ),
}


@pytest.mark.parametrize("name", MORE)
def test_inspect_and_the_loader_agree_on_a_motion_module_with_more(tmp_path, name):
    kind, said = MORE[name]
    if name == "conv_in":
        small_adapter(conv_in_channels=9).save_pretrained(tmp_path)
    else:
        small_adapter().save_pretrained(tmp_path)
        file = tmp_path / "diffusion_pytorch_model.safetensors"
        save_file({**load_file(file), name: torch.zeros(2)}, file)
    told = ar.inspect_file(tmp_path)
    assert (told.kind == kind and "it does not load" in str(told)) or "PIAPipeline" in told.advice
    with pytest.raises(ValueError, match=said):
        ar.load_motion_module(tmp_path)


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files_old_and_new(tmp_path, legacy):
    motion = motion_for(tiny_unet())
    torch.save(motion.state_dict(), tmp_path / "mm.ckpt", _use_new_zipfile_serialization=not legacy)
    assert same(ar.load_motion_module(tmp_path / "mm.ckpt", motion.config).state_dict(), motion.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_number_formats(tmp_path, dtype):
    motion = motion_for(tiny_unet())
    ar.save_motion_module(motion, tmp_path / "m.safetensors", dtype=dtype)
    half = {name: value.to(dtype) for name, value in motion.state_dict().items()}
    assert same(load_file(tmp_path / "m.safetensors"), half)
    assert same(ar.load_motion_module(tmp_path / "m.safetensors", dtype=dtype).state_dict(), half)
    loaded = dict(ar.load_motion_module(tmp_path / "m.safetensors").named_parameters())
    assert all(torch.equal(value, half[name].float()) for name, value in loaded.items())


def test_metadata_and_frames(tmp_path):
    motion = motion_for(tiny_unet(), motion_norm_over_frames=True, num_positions=24, num_frames=8)
    ar.save_motion_module(motion, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        told = file.metadata()
    assert told["version"] == "v1"
    assert '"motion_norm_over_frames": true' in told["config"]
    assert '"linear"' in told["schedule"]
    loaded = ar.load_motion_module(tmp_path / "m.safetensors")
    assert (loaded.config, loaded.num_frames) == (motion.config, 8)


def test_the_version_can_be_overridden(tmp_path):
    torch.save(ar.MotionModule(ar.MotionConfig.v1(), tiny_unet()).state_dict(), tmp_path / "v1.ckpt")
    assert ar.load_motion_module(tmp_path / "v1.ckpt").config == ar.MotionConfig.v1()
    as_v3 = ar.load_motion_module(tmp_path / "v1.ckpt", ar.MotionConfig.v3())
    assert as_v3.config == ar.MotionConfig.v3()
    assert torch.equal(as_v3.state_dict()[POSITIONS], ar.sinusoidal_positions(32, 32))
    assert ar.load_motion_module(tmp_path / "v1.ckpt", norms="diffusers").config == ar.MotionConfig.v1().diffusers()
    with pytest.raises(ValueError, match="norms are 'official', 'diffusers' or None"):
        ar.load_motion_module(tmp_path / "v1.ckpt", norms="pooled")


def test_names_there_and_back():
    for name in ar.MotionModule(ar.MotionConfig.v2(), tiny_unet()).state_dict():
        if "attention_blocks.1.pos" not in name:  # diffusers has one table for both attentions
            assert published_name(name) == name == published_name(diffusers_name(name))
    assert published_name("down_blocks.0.resnets.0.conv1.weight") is None


def test_names_of_kohya_keep_the_underscores_of_words():
    """Every linear and convolutional layer of a UNet and of its motion module comes back from its kohya name."""
    unet = tiny_unet("mini")
    modules = [*unet.named_modules(), *motion_for(unet, mid_block=True).named_modules()]
    layers = [name for name, layer in modules if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)]
    assert len(layers) > 200
    for layer in layers:
        assert lora_part(f"lora_unet_{layer.replace('.', '_')}.alpha") == (layer, "alpha")


# --- LoRA files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["official", "diffusers", "kohya"])
@pytest.mark.parametrize("alpha", [None, 3.0])
def test_motion_lora_formats(tmp_path, format, alpha):
    """From a file, onto a module, and out again; then the same effect whatever the format."""
    unet = tiny_unet()
    motion = motion_for(unet)
    lora_for(motion, tmp_path / "first.safetensors", rank=4, alpha=alpha)
    ar.load_motion_lora(motion, tmp_path / "first.safetensors")
    ar.save_motion_lora(motion, tmp_path / "out.safetensors", format=format)
    ar.inject(unet, motion, 4)
    expected = run(unet)
    ar.unload_motion_loras(motion)
    ar.load_motion_lora(motion, tmp_path / "out.safetensors")
    assert torch.allclose(run(unet), expected, atol=1e-6)
    told = ar.inspect_file(tmp_path / "out.safetensors")
    assert (told.title, told.format) == ("MotionLoRA of rank 4", format)
    if format == "kohya" and alpha:  # kohya -> ours -> kohya
        assert same(load_file(tmp_path / "first.safetensors"), load_file(tmp_path / "out.safetensors"))


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_lora_official_there_and_back_is_exact(tmp_path, suffix):
    unet, motion = tiny_unet(), motion_for(tiny_unet(), mid_block=True)
    first = lora_for(motion, tmp_path / f"m.{suffix}", rank=4)
    ar.convert_file(tmp_path / f"m.{suffix}", tmp_path / "k.safetensors", "kohya")
    ar.convert_file(tmp_path / "k.safetensors", tmp_path / "d.safetensors", "diffusers")
    ar.convert_file(tmp_path / "d.safetensors", tmp_path / "o.safetensors", "official")
    assert same(first, load_file(tmp_path / "o.safetensors"))
    first = lora_for(unet, tmp_path / f"a.{suffix}", rank=4)
    ar.load_domain_adapter(unet, tmp_path / f"a.{suffix}")
    ar.save_domain_adapter(unet, tmp_path / "b.safetensors")
    assert same(first, load_file(tmp_path / "b.safetensors"))


@pytest.mark.parametrize("format", ["official", "diffusers", "kohya"])
def test_domain_adapter_formats(tmp_path, format):
    unet, plain = tiny_unet(), run(tiny_unet())
    lora_for(unet, tmp_path / "first.safetensors", rank=2, alpha=1.0)
    ar.load_domain_adapter(unet, tmp_path / "first.safetensors")
    whole = run(unet)
    ar.save_domain_adapter(unet, tmp_path / "a.safetensors", format=format)
    other = tiny_unet()
    ar.load_domain_adapter(other, tmp_path / "a.safetensors", scale=0.5)
    half = run(other)
    ar.set_domain_adapter(other, 1.0)
    assert torch.allclose(run(other), whole, atol=1e-6)
    ar.set_domain_adapter(other, 0.0)
    assert torch.allclose(run(other), plain, atol=1e-6)
    assert min((half - whole).abs().max(), (half - plain).abs().max()) > 1e-3
    assert ar.inspect_file(tmp_path / "a.safetensors").title == "domain adapter of rank 2"


@pytest.mark.parametrize("format", ["diffusers", "kohya"])
def test_a_domain_adapter_of_convolutions_too(tmp_path, format):
    unet, plain = tiny_unet(), run(tiny_unet())
    torch.manual_seed(0)
    for parameter in add_domain_adapter(unet, rank=2, convolutions=True):
        torch.nn.init.normal_(parameter, std=0.2)
    pairs, other, file = pairs_on(unet, "domain_adapter"), tiny_unet(), tmp_path / "a.safetensors"
    convolutions = [layer for layer in pairs if ".resnets." in layer]
    assert len(convolutions) == sum(isinstance(layer, ResnetBlock2D) for layer in other.modules()) * 2
    with pytest.raises(ValueError, match=r"only has names for attention projections.*'diffusers'"):
        ar.save_domain_adapter(unet, file)
    ar.save_domain_adapter(unet, file, format=format)
    ar.load_domain_adapter(other, file)
    assert torch.allclose(run(other), run(unet), atol=1e-6) and not torch.allclose(run(other), plain, atol=1e-2)
    assert ar.inspect_file(file).title == "domain adapter of rank 2"
    save_pairs(
        {layer: pair for layer, pair in pairs.items() if layer != convolutions[0]}, file, "diffusers", {"kind": DOMAIN}
    )
    with pytest.raises(ValueError, match=f"has all convolutions, it lacks {convolutions[0]}"):
        ar.load_domain_adapter(tiny_unet(), file)


def test_a_domain_adapter_leaves_a_style_as_it_is(tmp_path):
    unet = tiny_unet()
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_k"], init_lora_weights=False), adapter_name="style")
    styled = run(unet)
    lora_for(unet, tmp_path / "a.safetensors", rank=2)
    ar.load_domain_adapter(unet, tmp_path / "a.safetensors")
    assert not torch.allclose(run(unet), styled, atol=1e-4)
    ar.set_domain_adapter(unet, 0.0)
    assert torch.allclose(run(unet), styled, atol=1e-6)
    frozen = [p for name, p in unet.named_parameters() if "domain_adapter" in name]
    assert frozen and not any(parameter.requires_grad for parameter in frozen)
    unet.set_adapter("style")  # as loading another style in diffusers does
    assert torch.allclose(run(unet), styled, atol=1e-6)
    ar.set_domain_adapter(unet, 1.0)
    assert not torch.allclose(run(unet), styled, atol=1e-4)


# --- what is this file? -------------------------------------------------------------------------------------------


def test_inspect_motion_modules(tmp_path):
    for version in ("v1", "v2", "v3"):
        torch.save(ar.MotionModule(getattr(ar.MotionConfig, version)(), tiny_unet()).state_dict(), tmp_path / "mm.ckpt")
        told = ar.inspect_file(tmp_path / "mm.ckpt")
        assert (told.title, told.format, told.widths) == (f"motion module {version}", "official", (32, 64))
        assert ("ResNet norms pooled" in told.config.norms) == (version == "v1")
    report = str(ar.inspect_file(ar.data_folder() / "models/mini/motion_module.safetensors"))
    for part in (
        "motion module v3",
        "at most 32, set to 16",
        "48, 96, 160",
        "each over one frame",
        "load_motion_module",
    ):
        assert part in report


OTHERS = {
    "SDXL motion module": lambda: {
        f"down_blocks.{level}.motion_modules.0.temporal_transformer.norm.weight": torch.zeros(width)
        for level, width in enumerate((320, 640, 1280))
    },
    "SparseCtrl encoder": lambda: {
        f"{TRANSFORMER}.norm.weight": torch.zeros(8),
        "controlnet_cond_embedding.weight": torch.zeros(2),
    },
    "ControlNet": lambda: {
        "controlnet_cond_embedding.conv_in.weight": torch.zeros(2),
        "down_blocks.0.x": torch.zeros(1),
    },
    "full checkpoint": lambda: {
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2),
        "first_stage_model.decoder.x": torch.zeros(1),
    },
    "UNet": lambda: tiny_unet().state_dict(),
    "textual inversion": lambda: {"<style>": torch.zeros(2, 8)},
    "style LoRA": lambda: {
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": torch.zeros(2, 8),
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight": torch.zeros(8, 2),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha": torch.tensor(1.0),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.zeros(2, 8),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.zeros(8, 2),
    },
    "other motion weights": lambda: {"motion_modules.3.attention.weight": torch.zeros(2, 2)},
    "unknown weights": lambda: {"layer1.weight": torch.zeros(2, 2, 2), "layer2": torch.zeros(1)},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_inspect_other_files(tmp_path, kind):
    save_file(OTHERS[kind](), tmp_path / "x.safetensors")
    told = ar.inspect_file(tmp_path / "x.safetensors")
    assert told.kind == kind
    assert told.advice in str(told)
    for load in (ar.load_motion_module, lambda path: ar.load_motion_lora(motion_for(tiny_unet()), path)):
        with pytest.raises(
            ValueError, match=rf"x\.safetensors holds: {kind}.*a [mM]otion.* is needed.*What takes this"
        ):
            load(tmp_path / "x.safetensors")


def test_inspect_ours():
    folder = ar.data_folder() / "models/mini"
    assert ar.inspect_file(folder / "domain_adapter.safetensors").kind == "domain adapter"
    assert ar.inspect_file(folder / "styles/blob.safetensors").kind == "style LoRA"
    assert ar.inspect_file(folder / "unet/diffusion_pytorch_model.safetensors").kind == "UNet"
    assert ar.inspect_file(folder / "vae/diffusion_pytorch_model.safetensors").kind == "autoencoder"
    assert ar.inspect_file(folder / "text_encoder/model.safetensors").kind == "text encoder"
    assert ar.inspect_file(folder / "model_index.json").kind == "not a model"
    with pytest.raises(ValueError, match="there is no file"):
        ar.inspect_file(folder / "absent.ckpt")


# --- writing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["m.safetensors", "m.ckpt"])
def test_a_killed_save_leaves_the_old_file(tmp_path, monkeypatch, name):
    path = tmp_path / name
    ar.save_motion_module(motion_for(tiny_unet()), path)
    before = path.read_bytes()

    def killed(tensors, file, *metadata):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("animatediff_ref.weights.tensors.save_file", killed)
    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        ar.save_motion_module(motion_for(tiny_unet(), mid_block=True), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_save_leaves_the_old_folder(tmp_path, monkeypatch):
    ar.save_motion_module(motion_for(tiny_unet()), tmp_path / "adapter", format="diffusers")
    before = {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()}
    monkeypatch.setattr(
        "animatediff_ref.weights.tensors.save_file", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        ar.save_motion_module(motion_for(tiny_unet(), mid_block=True), tmp_path / "adapter", format="diffusers")
    assert {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_folders_and_files_of_the_user_stay(tmp_path):
    motion = motion_for(tiny_unet())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    (tmp_path / "notes").write_text("too")
    refused = {
        "mine": r"holds other things \(thesis\.txt\)",
        "notes": "is or would be a file",
        "a.ckpt": "is or would be a file",
    }
    for target, message in refused.items():
        with pytest.raises(ValueError, match=message):
            ar.save_motion_module(motion, tmp_path / target, format="diffusers")
    with pytest.raises(ValueError, match="is a folder"):
        (tmp_path / "b.ckpt").mkdir()
        ar.save_motion_module(motion, tmp_path / "b.ckpt")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"
    (tmp_path / "link").symlink_to(tmp_path / "real")
    ar.save_motion_module(motion, tmp_path / "link", format="diffusers")
    ar.save_motion_module(motion, tmp_path / "link", format="diffusers")
    assert ar.load_motion_module(tmp_path / "real").config == motion.config
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.ckpt", "link", "mine", "notes", "real"]


def test_converting_changes_no_number(tmp_path):
    motion = motion_for(tiny_unet())
    mixed = {name: value.half() if value.ndim == 2 else value for name, value in motion.state_dict().items()}
    metadata = {"kind": "motion_module", "config": json.dumps(asdict(motion.config))}
    save_tensors(mixed, tmp_path / "m.safetensors", metadata)
    with pytest.warns(
        ar.PlainFileWarning, match="cannot say what it is: load it with config=MotionConfig.*norm_groups=8"
    ):
        ar.convert_file(tmp_path / "m.safetensors", tmp_path / "m.ckpt")
    assert same(torch.load(tmp_path / "m.ckpt"), mixed)


def test_the_alpha_that_diffusers_writes(tmp_path):
    """In the metadata of the file: alpha 16 of rank 4 makes the change four times as large."""
    unet, scaled = tiny_unet(), tiny_unet()
    tensors = lora_for(unet, tmp_path / "a.safetensors")
    ar.load_domain_adapter(unet, tmp_path / "a.safetensors", scale=4.0)
    save_file(tensors, tmp_path / "b.safetensors", {"lora_adapter_metadata": '{"unet.r": 4, "unet.lora_alpha": 16}'})
    ar.load_domain_adapter(scaled, tmp_path / "b.safetensors")
    assert torch.allclose(run(unet), run(scaled), atol=1e-5)


def test_what_saving_refuses(tmp_path):
    motion = motion_for(tiny_unet())
    with pytest.raises(ValueError, match=r"written as \.safetensors or \.ckpt, got 'm\.pt'"):
        ar.save_motion_module(motion, tmp_path / "m.pt")
    with pytest.raises(ValueError, match="format 'official' or 'diffusers', got 'onnx'"):
        ar.save_motion_module(motion, tmp_path / "m.safetensors", format="onnx")
    with pytest.raises(ValueError, match=r"cannot be written as torch\.float16: a file needs finite numbers"):
        large = motion_for(tiny_unet())
        next(large.parameters()).data.fill_(1e6)
        ar.save_motion_module(large, tmp_path / "m.safetensors", dtype=torch.float16)
    one_of = r"has one of the dtypes torch\.float32, torch\.float16, torch\.bfloat16, got "
    with pytest.raises(ValueError, match=one_of + r"torch\.int8"):
        ar.save_motion_module(motion, tmp_path / "m.safetensors", dtype=torch.int8)
    with pytest.raises(ValueError, match=one_of + "'float16'"):
        ar.load_motion_module("mini", dtype="float16")
    with pytest.raises(ValueError, match="positions=False"):
        ar.save_motion_module(motion_for(tiny_unet(), positions=False), tmp_path / "m", format="diffusers")
    assert not list(tmp_path.iterdir())
