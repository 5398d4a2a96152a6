"""The personalised models: their recipes on an untrained base, and what ships of them."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import SHAPES, tiny_unet
from diffusers import AutoencoderKL, StableDiffusionPipeline
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

import animatediff_ref as ar
from animatediff_ref.generate.inputs import unknown_words
from animatediff_ref.mini.cards import checked
from animatediff_ref.mini.files import SHIPPED, STYLES
from recipes.art import world
from recipes.train import single_file
from recipes.train import style as recipe
from recipes.train.base import base_words, unet, words
from recipes.train.pages import PAGES


@pytest.fixture
def plain() -> StableDiffusionPipeline:
    return ar.load_base("mini")


def prediction(pipe, prompt: str = "a penguin") -> torch.Tensor:
    """The UNet's output on fixed noise for a prompt."""
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return pipe.unet(noise, 500, pipe.text_encoder(recipe.tokens(pipe, [prompt] * 2))[0]).sample


@pytest.mark.parametrize("name", ["blob", "pip", "pixel", "sepia"])
def test_what_a_recipe_saves_is_what_load_base_gives(name, plain, tmp_path, monkeypatch):
    """One of every kind, with random weights: through its file and back, to the rounding of the file."""
    style, before = STYLES[name], prediction(plain, f"a penguin, {STYLES[name].trigger}")
    plain.unet.requires_grad_(False), plain.text_encoder.requires_grad_(False)
    torch.manual_seed(0)
    parameters, save = recipe.KINDS[style.kind].make(plain, name)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.05 * torch.randn_like(parameter))
    made = prediction(plain, f"a penguin, {style.trigger}")
    save(tmp_path / "it.safetensors")
    monkeypatch.setitem(SHIPPED["style"], name, str(tmp_path / "it.safetensors"))
    loaded = ar.load_base("mini", style=name)
    off = (prediction(loaded, f"a penguin, {style.trigger}") - made).norm() / made.norm()
    assert off < (0.2 if style.kind == "checkpoint" else 0.002)
    assert (made - before).norm() / before.norm() > 3 * off
    assert unknown_words(loaded.tokenizer, f"a penguin, {style.trigger}, zeppelin") == ["zeppelin"]


def test_a_lora_file_is_under_two_megabytes(tmp_path):
    """With the widths that the base has now."""
    pipe = type("Pipe", (), {"unet": unet(), "save_lora_weights": StableDiffusionPipeline.save_lora_weights})
    _, save = recipe.lora(pipe, "blob")
    save(tmp_path / "it.safetensors")
    assert (tmp_path / "it.safetensors").stat().st_size < 2e6


@pytest.mark.parametrize("shape", SHAPES)
def test_original_names_are_the_inverse_of_diffusers_conversion(shape):
    unet = tiny_unet(shape)
    weights = unet.state_dict()
    original = {f"model.diffusion_model.{single_file.unet_name(name, unet)}": w for name, w in weights.items()}
    back = convert_ldm_unet_checkpoint(original, dict(unet.config))
    assert back.keys() == weights.keys()
    assert all(back[name] is weights[name] for name in weights)


def test_upsamplers_come_after_the_attention_as_in_published_files():
    """diffusers reads either place, other programs only this one."""
    unet = tiny_unet("four levels like Stable Diffusion")
    names = [single_file.unet_name(f"up_blocks.{level}.upsamplers.0.conv.weight", unet) for level in range(3)]
    assert names == ["output_blocks.2.1.conv.weight", "output_blocks.5.2.conv.weight", "output_blocks.8.2.conv.weight"]


def test_original_names_of_the_autoencoder():
    levels = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    vae = AutoencoderKL(**levels, block_out_channels=(8, 16, 24), norm_num_groups=8, mid_block_add_attention=False)
    weights = vae.state_dict()
    original = {f"first_stage_model.{single_file.vae_name(name, vae)}": w for name, w in weights.items()}
    back = convert_ldm_vae_checkpoint(original, dict(vae.config))
    assert back.keys() == weights.keys()
    assert all(back[name] is weights[name] for name in weights)


def test_a_single_file_is_the_pipeline_up_to_its_rounding(plain, tmp_path):
    single_file.save_single_file(plain, tmp_path / "it.safetensors")
    options = {"config": str(ar.data_folder() / "models/mini"), "local_files_only": True, "safety_checker": None}
    read = StableDiffusionPipeline.from_single_file(str(tmp_path / "it.safetensors"), **options)
    for part in ("unet", "text_encoder", "vae"):
        ours, theirs = (getattr(pipe, part).float().state_dict() for pipe in (plain, read))
        assert ours.keys() == theirs.keys()
        for name, weight in ours.items():
            rounded = weight.half() if part == "vae" or weight.ndim == 1 else weight.to(single_file.SMALL)
            assert torch.equal(theirs[name], rounded.float()), f"{part}: {name}"
    again = single_file.original_layout(read)
    assert all(torch.equal(again[k].float(), v.float()) for k, v in single_file.original_layout(plain).items())


def test_captions_of_an_embedding_name_all_its_vectors(plain):
    recipe.embedding(plain, "sepia")
    ids = recipe.wordings(plain, [("a penguin", "snow", "<sepia>"), ("a fox", "beach", "<sepia>")])
    first = plain.tokenizer.convert_tokens_to_ids("<sepia>")
    assert ids.shape == (2, 4, 16)
    assert (ids >= first).sum(-1).tolist() == [[0, recipe.VECTORS, 0, recipe.VECTORS]] * 2


def test_pictures_that_change_as_a_whole():
    snow, code = "snow", next(iter(world.sprites("noto")))
    plain, brown, blocks = (np.asarray(world.picture(code, style, snow, np.random.default_rng(0))).astype(int) for style in ("noto", "sepia", "pixel"))  # fmt: skip
    assert (np.diff(brown, axis=-1) <= 0).all(), "red is never below green, nor green below blue"
    grey = plain @ [0.299, 0.587, 0.114]
    assert np.corrcoef(grey.ravel(), brown.mean(-1).ravel())[0, 1] > 0.99
    assert (blocks[::2, ::2] == blocks[1::2, 1::2]).all()
    assert set(world.sprites("pip")) == set(world.POSES)
    assert np.asarray(world.picture("waving", "pip", snow, np.random.default_rng(0))).shape == (64, 64, 3)


def test_every_style_has_a_page_whose_prompts_the_base_knows():
    assert PAGES.keys() == STYLES.keys()
    for name, page in PAGES.items():
        known = {*base_words(), *words([STYLES[name].trigger])}
        assert len(page.prompts) == 4
        assert not set(words([*page.prompts])) - known, name


@pytest.mark.parametrize("name", STYLES)
def test_what_ships(name):
    """Every style loads by name, is what its card says, and draws otherwise than the base."""
    style = STYLES[name]
    path = ar.data_folder() / style.file
    pipe, card = ar.load_base("mini", style=name), json.loads(path.with_suffix(".json").read_text())
    assert checked()[style.file] == ""
    assert (card["kind"], card["trigger"]) == (style.kind, style.trigger)
    assert all(card[key] for key in ("title", "about", "licence", "artwork")) and len(card["prompts"]) == 4
    # a small file holds its weights in half precision and a header, no more
    assert path.stat().st_size < (12e6 if style.kind == "checkpoint" else 2 * card["parameters"] + 30_000)
    base, styled = prediction(ar.load_base("mini")), prediction(pipe, f"a penguin, {style.trigger}")
    assert (base - styled).norm() / base.norm() > 0.01


def test_loading_says_nothing():
    """What diffusers and transformers print while they load would stand on every page."""
    lines = "import animatediff_ref as ar\nar.load_base('mini')\nar.load_base('mini', style='blob')\nar.load_judge()"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
