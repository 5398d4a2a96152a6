"""What belongs to the base, and what people give ``animate`` besides a prompt: the right values, on small random pipelines."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import motion_for
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler, StableDiffusionPipeline
from test_pipelines import FRAMES, pipeline

import animatediff_ref as ar
from animatediff_ref.method.objective import draw_noise
from animatediff_ref.training import run

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
    monkeypatch.setattr(run, "load_motion_module", lambda _: None)
    ar.write_clip(np.zeros((4, 32, 32, 3), np.uint8), tmp_path / "films" / "a.mp4")
    told = {"clips": tmp_path / "films", "out": tmp_path / "run", "camera": "zoom_in" if stage == "camera" else ""}
    with pytest.raises(Reached):
        list(ar.run_stage(stage, ar.read_config(stage, "smoke", told)))
