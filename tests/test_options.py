"""What belongs to the base, and what people give ``animate`` besides a prompt: the right values, on small random pipelines."""

import copy
import re
import warnings
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import lora_for, motion_for, tiny_unet
from conftest import run as run_unet
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionAdapterPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from PIL import Image
from test_pipelines import FRAMES, SIZE, a_clip, a_mask, image_prompts, pipeline, t2i_adapter
from transformers import CLIPTextModel

import animatediff_ref as ar
from animatediff_ref.generate import pipeline as base
from animatediff_ref.generate.pictures import as_rows, as_seen
from animatediff_ref.method.adapters import DOMAIN, lora_layers, motion_loras
from animatediff_ref.method.objective import draw_noise
from animatediff_ref.training import run
from animatediff_ref.weights import hub

V = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
STEPS = {"num_inference_steps": 2}
GUIDED = {**STEPS, "guidance_scale": 3.0}


def animated(kind=StableDiffusionPipeline, trained: bool = True, **more):
    pipe = pipeline(kind, **more)
    ar.inject(pipe.unet, motion_for(pipe.unet, trained, num_frames=FRAMES))
    return pipe


# What belongs to the base


@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler])
def test_a_base_that_predicts_v_is_sampled_as_such(scheduler):
    """A motion module that does nothing gives the stills of the base, under the betas of the motion modules."""
    pipe = animated(trained=False, scheduler=scheduler(beta_schedule="scaled_linear", **V))
    clip = ar.animate(pipe, "a penguin", schedule="official", **GUIDED)
    ar.eject(pipe.unet)
    pipe.scheduler = DDIMScheduler.from_config(ar.motion_scheduler().config, **V)
    rows = [torch.Generator().manual_seed(0)] * FRAMES
    stills = pipe(["a penguin"] * FRAMES, generator=rows, output_type="np", **GUIDED).images
    assert np.abs(clip - (stills * 255).round()).max() <= 1
    pipe.scheduler = ar.motion_scheduler()
    others = pipe(["a penguin"] * FRAMES, generator=rows, output_type="np", **GUIDED).images
    assert np.abs(clip - (others * 255).round()).max() > 5, "as noise it is another clip"


def settings(scheduler) -> dict:
    return {name: value for name, value in scheduler.config.items() if not name.startswith("_")}


def test_the_motion_schedule_keeps_what_the_base_was_trained_for():
    base = PNDMScheduler(beta_schedule="scaled_linear", num_train_timesteps=500, prediction_type="v_prediction")
    config = ar.motion_scheduler(base).config
    assert (config.num_train_timesteps, config.prediction_type) == (500, "v_prediction")
    assert (config.beta_schedule, config.timestep_spacing) == ("linear", "leading")
    zero = ar.motion_scheduler(DDIMScheduler(**V))
    assert zero.alphas_cumprod[-1] == 0 and zero.config.timestep_spacing == "trailing"
    zero.set_timesteps(4)
    assert zero.timesteps[0] == 999, "sampling starts where nothing but noise is left"
    leading = ar.motion_scheduler(DDIMScheduler(**V | {"timestep_spacing": "leading"}))
    assert leading.config.timestep_spacing == "leading", "the base's own"
    other = ar.motion_scheduler(EulerDiscreteScheduler(timestep_spacing="trailing"))
    assert settings(other) == settings(ar.motion_scheduler())


def test_a_base_is_loaded_with_its_own_scheduler(tmp_path):
    pipeline(StableDiffusionPipeline, scheduler=PNDMScheduler(prediction_type="v_prediction")).save_pretrained(tmp_path)
    own = ar.load_base(tmp_path).scheduler
    assert type(own) is PNDMScheduler and own.config.prediction_type == "v_prediction"
    assert settings(ar.load_base("mini", style="pixel").scheduler) == settings(ar.motion_scheduler())


def test_another_scheduler_than_the_pipelines_is_said_unless_asked_for():
    pipe = animated(scheduler=PNDMScheduler(skip_prk_steps=True))
    with pytest.warns(
        ar.ScheduleWarning, match=r"with DDIM and linear betas, .* not with this pipeline's PNDMScheduler"
    ):
        said = ar.animate(pipe, "a penguin", **STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ar.ScheduleWarning)
        assert np.array_equal(said, ar.animate(pipe, "a penguin", schedule="official", **STEPS))
        assert not np.array_equal(said, ar.animate(pipe, "a penguin", schedule="pipeline", **STEPS))
        pipe.scheduler = ar.motion_scheduler()
        assert np.array_equal(said, ar.animate(pipe, "a penguin", **STEPS))


SD15 = {"beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False}
SCALED = {**SD15, "beta_schedule": "scaled_linear"}
PLMS = {"skip_prk_steps": True, "set_alpha_to_one": True}
TRAILING = ar.motion_scheduler(DDIMScheduler(**V)).config


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (DDIMScheduler(**SCALED), "DDIMScheduler, which differs in beta_schedule, set_alpha_to_one:"),
        (DDIMScheduler(**SD15, beta_schedule="linear"), "DDIMScheduler, which differs in set_alpha_to_one:"),
        (PNDMScheduler.from_config(SCALED, **PLMS), "PNDMScheduler, which differs in class, beta_schedule:"),
        (PNDMScheduler.from_config(ar.motion_scheduler().config, **PLMS), "PNDMScheduler, which differs in class:"),
        (DDIMScheduler.from_config(TRAILING, trained_betas=np.full(1000, 0.01)), "differs in trained_betas:"),
        (DDIMScheduler.from_config(TRAILING, steps_offset=0), None),
        (DDIMScheduler.from_config(ar.motion_scheduler().config, clip_sample_range=2.0, sample_max_value=3.0), None),
    ],
)
def test_the_warning_names_what_changes_the_clip_and_its_advice_ends_it(own, said):
    pipe = animated()
    pipe.scheduler = own  # as it is: pipelines change what they are made with
    made = {}
    for schedule in (None, "official", "pipeline"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            made[schedule] = ar.animate(pipe, "a penguin", schedule=schedule, output="latent", **STEPS)
        heard = [str(warning.message) for warning in caught if warning.category is ar.ScheduleWarning]
        assert len(heard) == (schedule is None and said is not None)
        assert not heard or said in heard[0]
    assert torch.equal(made[None], made["official"])
    assert torch.equal(made["pipeline"], made["official"]) == (said is None), "what it names makes another clip"
    pipe.scheduler = ar.motion_scheduler(pipe.scheduler)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ar.ScheduleWarning)
        assert torch.equal(made[None], ar.animate(pipe, "a penguin", output="latent", **STEPS))


def test_the_recipe_of_the_page_keeps_what_the_base_predicts():
    page = (ar.data_folder().parent / "book" / "pipelines.md").read_text()
    (recipe,) = [code for code in re.findall(r"```python\n(.+?)```", page, re.DOTALL) if "DPMSolver" in code]
    told = {"ar": ar, "pipe": animated(scheduler=PNDMScheduler(prediction_type="v_prediction"))}
    exec(recipe, told)
    config = told["pipe"].scheduler.config
    assert (config.prediction_type, config.beta_schedule) == ("v_prediction", "linear")
    assert told["clip"].shape == (FRAMES, SIZE, SIZE, 3)


class Told(torch.nn.Module):
    """Stands for a UNet: it predicts what it was told."""

    dtype = torch.float32

    def __init__(self, prediction: torch.Tensor):
        super().__init__()
        self.prediction = prediction

    def forward(self, *inputs: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=self.prediction.flatten(0, 1))


def test_the_objective_is_what_the_base_predicts():
    """A model that is off by the same noise: no error where it is right, and the same weighted error whatever it predicts."""
    latents, off = torch.randn(2, 2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    text, weighted = torch.zeros(2, 5, 24), {"min-snr": [], "debiased": []}
    for kind in ("epsilon", "v_prediction", "sample"):
        plan = DDIMScheduler.from_config(ar.motion_scheduler().config, prediction_type=kind)
        t, noise = draw_noise(plan, latents.shape, torch.Generator().manual_seed(1))
        signal, rest = (a.sqrt().view(2, 1, 1, 1, 1) for a in (plan.alphas_cumprod[t], 1 - plan.alphas_cumprod[t]))
        noisy = signal * latents + rest * noise
        for wrong in (0, off):
            guess = noise + wrong
            clean = (noisy - rest * guess) / signal
            told = {"epsilon": guess, "v_prediction": signal * guess - rest * clean, "sample": clean}[kind]
            error, _ = ar.denoising_error(Told(told), plan, latents, text, torch.Generator().manual_seed(1))
            if wrong is not off:
                assert error.max() < 1e-6
        for name, errors in weighted.items():
            errors.append(error * ar.timestep_weight(plan, t, name))
        assert torch.equal(ar.timestep_weight(plan, t), torch.ones(2))
    for epsilon, v, sample in weighted.values():
        assert torch.allclose(epsilon, v, rtol=1e-3) and torch.allclose(epsilon, sample, rtol=1e-3)
    plan.register_to_config(prediction_type="flow")
    with pytest.raises(ValueError, match="that predict epsilon, v_prediction or sample, got 'flow'"):
        ar.denoising_error(Told(noise), plan, latents, text, torch.Generator())


@pytest.mark.parametrize("weighting", ["plain", "min-snr", "debiased"])
def test_weights_are_finite_where_nothing_but_noise_is_left(weighting):
    for kind in ("epsilon", "v_prediction", "sample"):
        plan = DDIMScheduler.from_config(ar.motion_scheduler().config, **V | {"prediction_type": kind})
        assert ar.timestep_weight(plan, torch.tensor([0, 998, 999]), weighting).isfinite().all()


class Reached(Exception):
    """The stage was called."""


@pytest.mark.parametrize(("stage", "name"), zip(run.STAGES, ("domain_adapter", "motion_module", "motion_lora")))
def test_a_run_trains_with_what_the_base_predicts(monkeypatch, stage, name, tmp_path):
    def begun(*args, scheduler, **options):
        assert (scheduler.config.prediction_type, scheduler.config.beta_schedule) == ("v_prediction", "linear")
        raise Reached

    monkeypatch.setattr(run, f"train_{name}", begun)
    monkeypatch.setattr(
        run,
        "load_base",
        lambda _: pipeline(StableDiffusionPipeline, scheduler=PNDMScheduler(prediction_type="v_prediction")),
    )
    ar.write_clip(np.zeros((4, 32, 32, 3), np.uint8), tmp_path / "films" / "a.mp4")
    told = {"clips": tmp_path / "films", "out": tmp_path / "run", "camera": "zoom_in" if stage == "camera" else ""}
    with pytest.raises(Reached):
        list(ar.run_stage(stage, ar.read_config(stage, "smoke", told)))


# Pictures, embeddings and other inputs


def a_picture(mode: str) -> Image.Image:
    """A grey wedge, the left half of it transparent where the mode can be."""
    wedge = Image.linear_gradient("L").resize((SIZE, SIZE)).transpose(Image.Transpose.ROTATE_90)
    if mode == "I;16":
        return Image.fromarray(np.asarray(wedge).astype(np.uint16) * 257)
    if mode in ("LA", "La", "RGBA", "RGBa", "PA"):
        wedge = wedge.convert("RGBA" if "R" in mode or mode == "PA" else "LA")
        wedge.putalpha(Image.fromarray(np.repeat([0, 255], SIZE // 2).astype(np.uint8)[None].repeat(SIZE, 0)))
        return wedge.convert("P").convert("PA") if mode == "PA" else wedge.convert(mode)
    return wedge.convert(mode)


MODES = ("1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "I;16", "LA", "La", "RGBA", "RGBa", "PA")


@pytest.mark.parametrize("mode", MODES)
def test_pictures_of_every_mode_are_what_a_viewer_shows(mode):
    seen = np.asarray(as_rows(a_picture(mode), 1, FRAMES, "image")[0]).astype(int)
    assert seen.shape == (SIZE, SIZE, 3)
    wedge = np.asarray(a_picture("RGB")).astype(int)
    if "A" in mode.upper():
        assert (seen[:, : SIZE // 2] == 255).all(), "what is transparent lies on white"
        wedge[:, : SIZE // 2] = 255
    if mode == "1":
        assert abs(seen.mean() - wedge.mean()) < 5 and set(seen.flat) == {0, 255}
    else:
        assert np.abs(seen - wedge).max() < 10


@pytest.mark.parametrize("kind", [StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline])
def test_transparent_and_grey_pictures_go_into_pipelines_as_their_rgb(kind):
    """diffusers takes four channels for latents."""
    pipe = animated(kind)
    more = {"strength": 0.9, **STEPS} | ({"mask_image": a_picture("1")} if "Inpaint" in kind.__name__ else {})
    for mode in ("RGBA", "L"):
        rgb = as_seen(a_picture(mode))
        grey = np.asarray(rgb)[..., 0]
        wanted = ar.animate(pipe, "a penguin", image=rgb, **more)
        pixels = torch.from_numpy(np.asarray(rgb) / np.float32(255)).permute(2, 0, 1)
        forms = [a_picture(mode), [a_picture(mode)] * FRAMES, grey, np.stack([grey] * FRAMES), np.asarray(rgb) / 255.0]
        forms += [pixels, pixels[None], [pixels] * FRAMES, pixels.expand(FRAMES, -1, -1, -1)]
        for form in forms:
            made = ar.animate(pipe, "a penguin", image=form, **more)
            assert made.shape == wanted.shape and np.abs(made.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (
            np.zeros((8, 8, 3), int),
            "image needs uint8 from 0 to 255, bool, or float from 0 to 1; got int64 from 0 to 0",
        ),
        (np.full((4, 8, 8, 3), 255.0), "float from 0 to 1; got float64 from 255 to 255"),
        (np.full((8, 8, 3), -1.0), "got float64 from -1 to -1"),
        (np.zeros((8, 8, 4), np.uint8), r"got shape \(8, 8, 4\)"),
        (np.zeros((11, 8, 8), np.uint8), r"got shape \(11, 8, 8\)"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)], "pictures of one size"),
        ([Image.new("RGB", (8, 8))] * 3, r"got shape \(3, 8, 8, 3\)"),
        (torch.zeros(4, 3, 8, 8, dtype=torch.uint8), "as a tensor is float from 0 to 1 .*; got torch.uint8"),
        (torch.full((3, 8, 8), 255.0), "got torch.float32 from 255 to 255"),
        (torch.zeros(3, 3, 8, 8), r"image needs a tensor \(c, h, w\), .*; got \(3, 3, 8, 8\)"),
        (Image.new("I", (8, 8)), "needs 8 or 16 bits a channel, got mode I"),
        (Image.new("F", (8, 8)), "needs 8 or 16 bits a channel, got mode F"),
    ],
)
def test_pictures_that_could_be_taken_for_others_are_refused(option, said):
    with pytest.raises(ValueError, match=said):
        as_rows(option, 3, 4, "image")


def test_what_are_pictures_depends_on_the_name():
    noise, film = torch.zeros(4, 3, 8, 8), np.zeros((4, 8, 8, 3))
    with pytest.raises(TypeError, match="name"):
        as_rows(noise, 2, 4)
    assert as_rows(noise, 2, 4, "image").shape == (8, 3, 8, 8) and len(as_rows(film, 2, 4, "image")) == 8
    assert as_rows(noise, 2, 4, "style") is noise and as_rows(film, 2, 4, "style") is film
    assert len(as_rows(film.astype(np.uint8), 2, 4, "style")) == 8


def test_an_adapter_of_one_channel_sees_grey():
    pipe, wedge = animated(StableDiffusionAdapterPipeline, adapter=t2i_adapter(1)), a_picture("L")
    wanted = ar.animate(pipe, "a penguin", image=wedge, **STEPS)
    pixels = torch.from_numpy(np.asarray(wedge) / np.float32(255))[None]
    for form in (wedge.convert("RGB"), np.asarray(wedge), np.stack([wedge] * FRAMES), [wedge] * FRAMES, pixels):
        made = ar.animate(pipe, "a penguin", image=form, **STEPS)
        assert np.abs(made.astype(int) - wanted).max() <= 1
    assert np.abs(ar.animate(pipe, "a penguin", image=a_mask(), **STEPS).astype(int) - wanted).max() > 5


def test_several_adapters_take_one_clip_each():
    pipe = animated(StableDiffusionAdapterPipeline, adapter=[t2i_adapter(), t2i_adapter(1)])
    options = {"adapter_conditioning_scale": [1.0, 0.5], **STEPS}
    wanted = ar.animate(pipe, "a penguin", image=[a_clip(), a_mask()], **options)
    assert np.array_equal(wanted, ar.animate(pipe, "a penguin", image=(a_clip(), a_mask()), **options))
    for wrong, count in ((a_clip(), 1), ([a_clip()] * 3, 3)):
        with pytest.raises(ValueError, match=f"for each of this pipeline's 2 ControlNets or adapters, .* got {count}"):
            ar.animate(pipe, "a penguin", image=wrong, **options)


def test_one_length_is_enough():
    """diffusers leaves out both where one is missing."""
    pipe = animated()
    for one, whole in (({"height": 24}, (24, 16)), ({"width": 24}, (16, 24)), ({"width": 24, "height": 8}, (8, 24))):
        assert ar.animate(pipe, "a penguin", **one, **STEPS).shape[1:3] == whole


def test_image_prompts_of_every_form():
    pipe, film = image_prompts(), a_clip()
    ar.inject(pipe.unet, motion_for(pipe.unet, num_frames=FRAMES))

    def made(image_prompt) -> np.ndarray:
        return ar.animate(pipe, "a penguin", ip_adapter_image=image_prompt, **GUIDED).astype(int)

    pictures = [Image.fromarray(frame) for frame in film]
    features = pipe.feature_extractor(pictures, return_tensors="pt").pixel_values
    wanted = made(film)
    for same in (film / 255, features, [film], (film,), [features], features[None]):
        assert np.abs(made(same) - wanted).max() <= 1, "each frame has its own"
    one = made(pictures[0])
    assert np.abs(one - wanted).max() > 5
    for same in (film[0], features[:1], features[0], [pictures[0]], [[pictures[0]]]):
        assert np.abs(made(same) - one).max() <= 1
    together = made([pictures])
    assert min(np.abs(together - other).max() for other in (wanted, one)) > 5, "every frame has all of a nested list"
    for wrong, said in (
        (pictures, r"such as uint8 \(f, h, w, 3\), for each of this pipeline's 1 IP-Adapters, in a list; got 4"),
        (features[:3], r"needs a tensor .* got \(3, 3, 16, 16\)"),
        ((features * 100).to(torch.uint8), "ip_adapter_image as a tensor is float; got torch.uint8"),
        (torch.from_numpy(film / 255).movedim(-1, 1).float(), "these numbers from 0 to 1 are pixels"),
        (film[:3], r"a clip of 4 frames, .* got shape \(3, 16, 16, 3\)"),
    ):
        with pytest.raises(ValueError, match=said):
            made(wrong)
    with pytest.raises(ValueError, match="for each of this pipeline's 0 IP-Adapters, in a list; got 1"):
        ar.animate(animated(), "a penguin", ip_adapter_image=film)


def test_image_prompts_of_two_adapters():
    pipe, a, b = image_prompts(count=2), a_clip(), a_clip(seed=1)
    ar.inject(pipe.unet, motion_for(pipe.unet, num_frames=FRAMES))

    def made(*image_prompts) -> np.ndarray:
        return ar.animate(pipe, "a penguin", ip_adapter_image=image_prompts, **GUIDED).astype(int)

    still = Image.fromarray(a[0])
    assert np.abs(made(still, b) - made(np.stack([a[0]] * FRAMES), b)).max() <= 1, "a picture for all beside a clip"
    assert np.abs(made(still, b) - made(a, b)).max() > 5
    with pytest.raises(ValueError, match="for each of this pipeline's 2 IP-Adapters, in a list; got 1"):
        made(a)


def test_masks_are_grey_and_not_transparent():
    for mode in ("1", "L", "RGB"):
        assert as_rows(a_picture(mode), 1, 2, "mask_image")[0].mode == "L"
    assert as_rows(torch.zeros(4, 8, 8), 2, 4, "mask_image").shape == (8, 1, 8, 8)
    opaque = Image.new("RGBA", (8, 8), "white")
    assert as_rows(opaque, 1, 2, "mask_image")[0].getextrema() == (255, 255)
    with pytest.raises(ValueError, match="white where it paints and black elsewhere; this one is transparent"):
        as_rows(a_picture("RGBA"), 1, 2, "mask_image")


def test_embeddings_take_the_place_of_prompts():
    pipe = animated()
    words, other = (pipe.encode_prompt(text, "cpu", 1, False)[0] for text in ("a penguin", "a rocket"))
    none = pipe.encode_prompt("snow", "cpu", 1, False)[0]
    wanted = ar.animate(pipe, "a penguin", negative_prompt="snow", **STEPS)

    def off(clip, same) -> int:
        return np.abs(clip.astype(int) - same).max()

    for embeddings in (words, words.repeat(FRAMES, 1, 1)):
        assert off(ar.animate(pipe, prompt_embeds=embeddings, negative_prompt_embeds=none, **STEPS), wanted) <= 1
    assert off(ar.animate(pipe, "a penguin", negative_prompt_embeds=none, **STEPS), wanted) <= 1
    assert off(ar.animate(pipe, prompt_embeds=words, negative_prompt="snow", **STEPS), wanted) <= 1
    mixed = torch.cat([words] * 2 + [other] * (FRAMES - 2))
    assert (
        off(ar.animate(pipe, prompt_embeds=mixed, **STEPS), ar.animate(pipe, {0: "a penguin", 2: "a rocket"}, **STEPS))
        <= 1
    )
    both = ar.animate(pipe, prompt_embeds=torch.stack([words, other]), **STEPS)
    assert off(both, ar.animate(pipe, ["a penguin", "a rocket"], **STEPS)) <= 1
    assert off(both[0], both[1]) > 5
    for prompt, options, said in (
        (None, {}, "either a prompt or prompt_embeds, got neither"),
        ("", {"prompt_embeds": words}, "either a prompt or prompt_embeds, got both"),
        ("a", {"negative_prompt": "b", "negative_prompt_embeds": none}, "or negative_prompt_embeds, got both"),
        (None, {"prompt_embeds": words.repeat(3, 1, 1)}, r"\(1, tokens, width\) .*; got \(3, 16, 24\)"),
        (None, {"prompt_embeds": [words]}, "prompt_embeds needs a tensor .* got list"),
    ):
        with pytest.raises(ValueError, match=said):
            ar.animate(pipe, prompt, **options, **STEPS)


def test_embeddings_do_without_a_text_encoder():
    pipe = animated()
    words, none = (pipe.encode_prompt(text, "cpu", 1, False)[0] for text in ("a penguin", ""))
    both = {"prompt_embeds": words, "negative_prompt_embeds": none, **STEPS}
    wanted = ar.animate(pipe, guidance_scale=7.5, **both)
    unguided = ar.animate(pipe, guidance_scale=1.0, prompt_embeds=words, **STEPS)
    pipe.text_encoder = pipe.tokenizer = None
    assert np.array_equal(wanted, ar.animate(pipe, **both)), "guided by the 7.5 of diffusers' pipelines"
    assert np.array_equal(unguided, ar.animate(pipe, guidance_scale=1.0, prompt_embeds=words, **STEPS))
    needed = "no text encoder or no tokenizer: it needs prompt_embeds and negative_prompt_embeds, got no"
    with pytest.raises(ValueError, match=f"{needed} negative_prompt_embeds$"):
        ar.animate(pipe, prompt_embeds=words, **STEPS)
    with pytest.raises(ValueError, match=f"{needed} prompt_embeds and no negative_prompt_embeds$"):
        ar.animate(pipe, "a penguin", **STEPS)
    with pytest.raises(ValueError, match="clip_skip=1 needs a text encoder, and this pipeline has none"):
        ar.animate(pipe, clip_skip=1, **both)


def test_latents_are_the_noise_of_every_frame():
    pipe, frames = animated(), torch.randn(FRAMES, 4, 8, 8)
    wanted = ar.animate(pipe, "a penguin", latents=frames, **STEPS)
    assert np.array_equal(wanted, ar.animate(pipe, "a penguin", latents=frames[None], **STEPS))
    for wrong in (frames[:1], frames[0], torch.randn(1, 5, 4, 8, 8), "noise"):
        with pytest.raises(ValueError, match=r"latents needs a tensor \(4, channels, height, width\)"):
            ar.animate(pipe, "a penguin", latents=wrong, **STEPS)


def test_clip_skip_leaves_out_the_last_layers_of_the_text_encoder():
    pipe = animated()
    config = pipe.text_encoder.config
    config.num_hidden_layers = 3
    pipe.text_encoder = CLIPTextModel(config).eval()
    options = {"guidance_scale": 1.0, **STEPS}  # diffusers skips nothing in the negative prompt
    whole = ar.animate(pipe, "a penguin", **options)
    assert np.array_equal(whole, ar.animate(pipe, "a penguin", clip_skip=0, **options))
    skipped = ar.animate(pipe, "a penguin", clip_skip=2, **options)
    for wrong in (4, -1, 1.5):
        with pytest.raises(ValueError, match="how many of the text encoder's 3 layers are left out, got"):
            ar.animate(pipe, "a penguin", clip_skip=wrong, **options)
    inner = getattr(pipe.text_encoder, "text_model", pipe.text_encoder)
    inner.encoder.layers, config.num_hidden_layers = inner.encoder.layers[:1], 1
    assert not np.array_equal(whole, skipped)
    assert np.array_equal(skipped, ar.animate(pipe, "a penguin", **options))


# The interface that users of diffusers and peft expect


def test_a_generator_may_take_the_place_of_the_seed():
    pipe = animated()
    wanted = ar.animate(pipe, ["a penguin"] * 2, seed=3, **STEPS)
    own = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    assert np.array_equal(wanted, ar.animate(pipe, ["a penguin"] * 2, generator=own, **STEPS))
    shared = torch.Generator().manual_seed(3)
    assert np.abs(ar.animate(pipe, "a penguin", generator=shared, **STEPS).astype(int) - wanted[0]).max() <= 1
    assert np.abs(ar.animate(pipe, "a penguin", generator=shared, **STEPS).astype(int) - wanted[0]).max() > 5, (
        "it goes on"
    )
    for options in ({"generator": own}, {"generator": shared, "seed": 1}, {"generator": 7}):
        with pytest.raises(
            ValueError, match=r"a seed or a torch\.Generator, or 1 of them, one for each clip; got seed="
        ):
            ar.animate(pipe, "a penguin", **options, **STEPS)


def test_clips_as_images_and_as_latents():
    pipe = animated()
    wanted = ar.animate(pipe, ["a penguin"] * 2, **STEPS)
    images = ar.animate(pipe, ["a penguin"] * 2, output="pil", **STEPS)
    assert np.array_equal(wanted, [[np.asarray(image) for image in clip] for clip in images])
    one = ar.animate(pipe, "a penguin", output="pil", **STEPS)
    assert len(one) == FRAMES and isinstance(one[0], Image.Image)
    latents = ar.animate(pipe, ["a penguin"] * 2, output="latent", **STEPS)
    assert latents.shape == (2, FRAMES, 4, 8, 8)
    assert np.abs(ar.decode_latents(pipe.vae, latents[0]).astype(int) - wanted[0]).max() <= 1
    with pytest.raises(ValueError, match="output is one of uint8, pil, latent, got 'np'"):
        ar.animate(pipe, "a penguin", output="np")
    with pytest.raises(ValueError, match="animate sets output_type itself: use output"):
        ar.animate(pipe, "a penguin", output_type="pil")
    pipe.unet.conv_out.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="the UNet gave numbers that are not finite"):
        ar.animate(pipe, "a penguin", output="latent", **STEPS)


def test_a_pipeline_at_work_refuses_a_second_call_and_makes_the_clip_it_was_to_make():
    pipe = animated()
    other = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)  # shares its parts
    wanted, refused = ar.animate(pipe, "a penguin", **STEPS), []

    def second(which, **options) -> None:
        with pytest.raises(ValueError, match="is making a clip already: wait for it, or give every thread a copy"):
            ar.animate(which, "a rocket", num_frames=2, **options, **STEPS)
        refused.append(which)

    def meanwhile(_, step, timestep, tensors):
        for which, options in ((pipe, {}), (other, {"image": Image.new("RGB", (SIZE, SIZE))})):
            thread = Thread(target=second, args=(which,), kwargs=options)
            thread.start()
            thread.join()
        copied = ar.animate(copy.deepcopy(pipe), "a penguin", **STEPS) if step == 0 else wanted
        assert np.array_equal(copied, wanted)
        return tensors

    assert np.array_equal(wanted, ar.animate(pipe, "a penguin", callback_on_step_end=meanwhile, **STEPS))
    assert refused == [pipe, other] * 2
    assert ar.animate(other, "a rocket", image=Image.new("RGB", (SIZE, SIZE)), **STEPS).shape[0] == FRAMES, "free again"


@pytest.fixture
def a_hub(tmp_path, monkeypatch):
    """A hub with a motion module as a folder and as a file; what is fetched from it is listed."""
    unet, asked = tiny_unet(), []
    motion = motion_for(unet)
    ar.save_motion_module(motion, tmp_path / "hub/owner/adapter", format="diffusers")
    ar.save_motion_module(motion, tmp_path / "hub/owner/files/deep/mm.safetensors")

    def download(repository: str, file: str) -> str:
        asked.append(f"{repository}/{file}")
        if not (place := tmp_path / "hub" / repository / file).exists():
            raise hub.EntryNotFoundError("404: no such entry")
        return str(place)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    monkeypatch.chdir(tmp_path)
    return motion, asked


def test_a_motion_module_by_its_hub_id(a_hub):
    motion, asked = a_hub
    for name in ("owner/files/deep/mm.safetensors", "owner/adapter"):
        loaded = ar.load_motion_module(name)
        assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in motion.state_dict().items())
    assert set(asked) == {
        "owner/files/deep/mm.safetensors",
        "owner/adapter/config.json",
        "owner/adapter/diffusion_pytorch_model.safetensors",
    }
    with pytest.raises(ValueError, match="no file owner/absent here, and none to be had from the hub: 404"):
        ar.load_motion_module("owner/absent")


def test_nothing_is_downloaded_for_what_is_a_path(a_hub, tmp_path):
    motion, asked = a_hub
    (tmp_path / "runs").mkdir()
    for path in (
        "runs/zoom/mm.ckpt",
        "mm.ckpt",
        "owner/mm.ckpt",
        tmp_path / "absent/mm.ckpt",
        "./owner/name",
        "a/b/c/d",
    ):
        with pytest.raises(ValueError, match="there is no file"):
            ar.load_motion_module(path)
    assert ar.load_motion_module("hub/owner/adapter").places == motion.places
    assert asked == []


def test_a_base_by_a_hub_id_with_a_dot_in_it(monkeypatch):
    asked = []
    monkeypatch.setattr(base, "_load", lambda place: asked.append(place) or pipeline(StableDiffusionPipeline))
    ar.load_base("owner/Vision_V5.1_noVAE")
    assert asked == ["owner/Vision_V5.1_noVAE"]


def test_groups_of_norms_are_the_unets_where_a_file_does_not_say(tmp_path):
    unet = tiny_unet()  # of 8 groups; its widths divide into 32, too
    motion, file = motion_for(unet), tmp_path / "mm.ckpt"
    torch.save(motion.state_dict(), file)
    ar.inject(unet, motion)
    wanted = run_unet(unet)
    loaded = ar.load_motion_module(file)
    ar.inject(unet, loaded, 4)
    assert loaded.config.norm_groups == 8 and torch.equal(run_unet(unet), wanted)
    told = ar.load_motion_module(file, ar.MotionConfig(norm_groups=16))
    ar.inject(unet, told, 4)
    assert told.config.norm_groups == 16 and not torch.equal(run_unet(unet), wanted)
    ar.save_motion_module(told, tmp_path / "told.safetensors")
    ar.inject(unet, again := ar.load_motion_module(tmp_path / "told.safetensors"))
    assert again.config.norm_groups == 16


@pytest.mark.parametrize("name", ["again.safetensors", "folder"])
@pytest.mark.parametrize("write", [ar.convert_file, lambda old, *new: ar.save_motion_module(ar.load_motion_module(old), *new)])  # fmt: skip
def test_groups_of_norms_that_a_file_does_not_say_are_not_made_up_in_writing_it_again(tmp_path, write, name):
    unet = tiny_unet()
    motion = motion_for(unet)
    torch.save(motion.state_dict(), tmp_path / "mm.ckpt")
    ar.inject(unet, motion)
    wanted = run_unet(unet)
    write(tmp_path / "mm.ckpt", tmp_path / name, "diffusers" if name == "folder" else "official")
    again = ar.load_motion_module(tmp_path / name)
    ar.inject(unet, again, 4)
    assert again.config.norm_groups == 8 and torch.equal(run_unet(unet), wanted)
    ar.save_motion_module(again, tmp_path / "told.safetensors")  # now they are told
    assert ar.load_motion_module(tmp_path / "told.safetensors").config.norm_groups == 8


def test_pefts_words_for_names_and_weights(tmp_path):
    unet = tiny_unet()
    motion = motion_for(unet)
    lora_for(motion, tmp_path / "camera.safetensors")
    lora_for(unet, tmp_path / "look.safetensors")
    ar.load_motion_lora(motion, tmp_path / "camera.safetensors", adapter_name="zoom", scale=0.5)
    assert motion_loras(motion) == {"zoom": 0.5}
    ar.save_motion_lora(motion, tmp_path / "again.safetensors", adapter_name="zoom")
    ar.load_domain_adapter(unet, tmp_path / "look.safetensors", weight=0.25)
    assert {layer.scaling[DOMAIN] for layer in lora_layers(unet)} == {0.25}
    with pytest.raises(ValueError, match="scale is another word for weight: give one of them"):
        ar.load_motion_lora(motion, tmp_path / "camera.safetensors", weight=1.0, scale=1.0)
    with pytest.raises(ValueError, match="scale is another word for weight: give one of them"):
        ar.load_motion_lora(motion, tmp_path / "camera.safetensors", "zoom", 0.5, scale=1.0)
    with pytest.raises(ValueError, match="weight is another word for scale: give one of them"):
        ar.load_domain_adapter(unet, tmp_path / "look.safetensors", 0.5, weight=1.0)
