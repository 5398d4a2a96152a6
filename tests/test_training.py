"""What learns, that it learns, and that an interruption changes nothing."""

from dataclasses import replace

import pytest
import torch
from conftest import motion_for, run, tiny_unet

import animatediff_ref as ar
from animatediff_ref.method.adapters import add_domain_adapter
from animatediff_ref.training.loop import learning_rate

CONFIG = ar.TrainConfig(steps=6, batch_size=2, num_frames=4, learning_rate=1e-2, seed=1)


@pytest.fixture
def clips() -> ar.LatentClips:
    generator = torch.Generator().manual_seed(0)
    latents = [torch.randn(1, 4, 8, 8, generator=generator).expand(6, -1, -1, -1).clone() for _ in range(5)]
    return ar.LatentClips(latents, torch.randn(5, 5, 24, generator=generator), torch.zeros(5, 24))


def test_only_motion_parameters_learn_in_stage_2(unet, clips):
    add_domain_adapter(unet, rank=2)
    motion = motion_for(unet, trained=False)
    before = {k: v.clone() for k, v in unet.state_dict().items()}
    list(ar.train_motion_module(unet, motion, clips, CONFIG))
    assert all(p.grad is None and not p.requires_grad for p in unet.parameters())
    assert all(torch.equal(v, before[k]) for k, v in unet.state_dict().items())
    assert all(p.grad is not None for p in motion.parameters())
    assert motion.at("up_blocks.0.motion_modules.0").proj_out.weight.abs().max() > 0


def test_only_the_adapter_learns_in_stage_1(unet, clips):
    before = run(unet)
    list(ar.train_domain_adapter(unet, clips, CONFIG, rank=2))
    learned = [name for name, p in unet.named_parameters() if p.grad is not None]
    assert learned and all("lora_" in name for name in learned)
    assert not torch.allclose(run(unet), before, atol=1e-4)
    ar.set_domain_adapter(unet, 0.0)
    assert torch.allclose(run(unet), before, atol=1e-6)


def test_gradients_reach_every_motion_parameter_once_the_output_is_not_zero(unet, clips):
    motion = motion_for(unet)
    next(iter(ar.train_motion_module(unet, motion, clips, CONFIG)))
    assert all(p.grad.abs().max() > 0 for p in motion.parameters())


def held_out(unet, clips) -> float:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        errors = [
            ar.denoising_error(unet, ar.motion_scheduler(), *clips.sample(2, 4, generator), generator)[0]
            for _ in range(12)
        ]
    return torch.cat(errors).mean().item()


def test_learning_rate_schedule():
    plan = replace(CONFIG, steps=20, warmup=4, anneal=True)
    rates = [learning_rate(step, plan) for step in range(20)]
    assert rates[0] == pytest.approx(plan.learning_rate / 4)
    assert max(rates) == pytest.approx(plan.learning_rate)
    assert rates[-1] < 0.02 * plan.learning_rate


def test_interrupted_training_goes_on_with_the_same_losses(clips, tmp_path):
    plan = replace(CONFIG, save_every=2, ema_decay=0.9)

    def train(stop=None, checkpoint=None):
        unet = tiny_unet()
        motion = motion_for(unet, trained=False)
        records = []
        for record in ar.train_motion_module(unet, motion, clips, plan, checkpoint=checkpoint):
            records.append(record)
            if record.step == stop:
                break
        return [r.loss for r in records], motion

    whole, motion = train()
    begun, _ = train(stop=4, checkpoint=tmp_path / "state.pt")
    ended, resumed = train(checkpoint=tmp_path / "state.pt")
    assert begun + ended == whole
    assert all(torch.equal(a, b) for a, b in zip(motion.parameters(), resumed.parameters()))


def test_a_checkpoint_of_another_run(unet, clips, tmp_path):
    list(ar.train_motion_module(unet, motion_for(unet), clips, CONFIG, checkpoint=tmp_path / "state.pt"))
    other = tiny_unet("mini")
    with pytest.raises(ValueError, match="holds another training run"):
        next(ar.train_motion_module(other, motion_for(other), clips, CONFIG, checkpoint=tmp_path / "state.pt"))


def test_clips_that_are_too_short(unet, clips):
    with pytest.raises(ValueError, match="at least 8 frames, got 5 clips, the shortest of 6"):
        ar.train_motion_module(unet, motion_for(unet), clips, replace(CONFIG, num_frames=8))


def test_what_training_refuses(unet, clips, tmp_path):
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        replace(CONFIG, batch_size=0)
    state = tmp_path / "state.pt"
    list(ar.train_motion_module(unet, motion_for(unet), clips, CONFIG, checkpoint=state))
    with pytest.raises(ValueError, match=r"call eject\(unet\) first"):
        ar.train_domain_adapter(unet, clips, CONFIG)
    with pytest.raises(ValueError, match="was trained with seed=1, now asked is 2"):
        next(ar.train_motion_module(unet, motion_for(unet), clips, replace(CONFIG, seed=2), checkpoint=state))
    state.write_bytes(b"half a file")
    with pytest.raises(ValueError, match="is not a checkpoint of a training"):
        next(ar.train_motion_module(unet, motion_for(unet), clips, CONFIG, checkpoint=state))


def test_latents_that_are_stored_channels_last(clips):
    """Encoding may leave latents in another memory order; training must neither mind nor, as it once did, crash."""
    strided = ar.LatentClips(
        [x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) for x in clips.latents], clips.text, clips.empty
    )

    def losses(clips):
        unet = tiny_unet("mini")
        return [r.loss for r in ar.train_motion_module(unet, motion_for(unet), clips, replace(CONFIG, steps=2))]

    assert losses(strided) == pytest.approx(losses(clips), rel=1e-4)


def test_weights_over_timesteps():
    plan, t = ar.motion_scheduler(), torch.tensor([0, 200, 500, 999])
    snr = plan.alphas_cumprod[t] / (1 - plan.alphas_cumprod[t])
    assert torch.equal(ar.timestep_weight(plan, t), torch.ones(4))
    assert torch.allclose(ar.timestep_weight(plan, t, "min-snr"), torch.minimum(snr, torch.tensor(5.0)) / snr)
    debiased = ar.timestep_weight(plan, t, "debiased")
    assert torch.allclose(debiased[1:3], snr[1:3] ** -0.5)
    assert debiased.diff().min() > 0 and debiased.min() == pytest.approx(0.2) and debiased.max() <= 20
    with pytest.raises(ValueError, match="one of plain, min-snr, debiased, got 'cosine'"):
        ar.timestep_weight(plan, t, "cosine")
    with pytest.raises(ValueError, match="weighting is one of plain"):
        replace(CONFIG, weighting="cosine")


def test_a_weight_over_timesteps_weighs_the_loss_of_a_training(unet, clips):
    losses = {}
    for weighting in ("plain", "debiased"):
        plan = replace(CONFIG, steps=1, batch_size=1, weighting=weighting)
        losses[weighting] = next(iter(ar.train_motion_module(unet, motion_for(unet), clips, plan))).loss
    generator = torch.Generator().manual_seed(CONFIG.seed * 1_000_003)
    latents, text = clips.sample(1, 4, generator, CONFIG.caption_dropout)
    unet = tiny_unet()
    ar.inject(unet, motion_for(unet), 4)
    error, t = ar.denoising_error(unet, ar.motion_scheduler(), latents, text, generator)
    assert losses["plain"] == pytest.approx(error.item(), rel=1e-4)
    weight = ar.timestep_weight(ar.motion_scheduler(), t, "debiased").item()
    assert losses["debiased"] / losses["plain"] == pytest.approx(weight, rel=1e-4) != pytest.approx(1, rel=0.01)


def test_held_out_error_is_the_same_each_time_and_shuffling_is_seen_by_motion_alone(unet):
    """Clips whose frames differ: order means nothing to a UNet alone, and something to one with a motion module."""
    generator = torch.Generator().manual_seed(0)
    moving = [torch.randn(4, 4, 8, 8, generator=generator).cumsum(0) for _ in range(3)]
    clips = ar.LatentClips(moving, torch.randn(3, 5, 24, generator=generator), torch.zeros(5, 24))
    settings = {"num_frames": 4, "batches": 3, "batch_size": 2}
    alone = ar.held_out_error(unet, clips, **settings)
    assert alone == ar.held_out_error(unet, clips, **settings) != ar.held_out_error(unet, clips, **settings, seed=6)
    ar.inject(unet, motion_for(unet), 4)
    ordered, shuffled = (ar.held_out_error(unet, clips, **settings, shuffled=s) for s in (False, True))
    assert ordered != alone and abs(ordered - shuffled) > 1e-6
    with pytest.raises(ValueError, match=r"has 4 frames, needed are num_frames=8"):
        ar.held_out_error(unet, clips, num_frames=8)


def test_the_shuffled_control_of_a_still_clip_changes_nothing(unet, clips):
    ar.inject(unet, motion_for(unet), 4)
    settings = {"num_frames": 4, "batches": 2}
    assert ar.held_out_error(unet, clips, **settings) == ar.held_out_error(unet, clips, **settings, shuffled=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stage", ["adapter", "motion"])
def test_what_trains_stays_in_float32_in_a_frozen_half_precision_unet(stage, dtype, clips):
    exact, unet = tiny_unet(), tiny_unet().to(dtype)
    losses, learnt = [], []
    for model in (exact, unet):
        torch.manual_seed(3)
        if stage == "adapter":
            records = list(ar.train_domain_adapter(model, clips, CONFIG, rank=2))
            parameters = [p for name, p in model.named_parameters() if "lora_" in name]
        else:
            motion = motion_for(model)
            records = list(ar.train_motion_module(model, motion, clips, CONFIG))
            parameters = list(motion.parameters())
        losses.append([record.loss for record in records])
        learnt.append(parameters)
    assert {p.dtype for p in learnt[1]} == {torch.float32}
    assert next(unet.parameters()).dtype == dtype
    assert losses[0] == pytest.approx(losses[1], rel=0.05) and losses[0] != losses[1]


def test_injecting_leaves_the_compiled_code_of_other_models_alone(unet, monkeypatch):
    resets = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(1))
    ar.inject(unet, motion_for(unet), 4)
    assert not resets
    ar.inject(torch.compile(unet, backend="eager"), motion_for(unet), 4)
    assert len(resets) == 1
    unet.down_blocks[0].compile(backend="eager")
    ar.inject(unet, motion_for(unet), 4)
    assert len(resets) == 2


def test_only_the_motion_lora_learns_in_stage_3_and_its_file_does_the_same(unet, clips, tmp_path):
    motion = motion_for(unet)
    plain = {name: value.clone() for name, value in motion.state_dict().items()}
    ar.inject(unet, motion, 4)
    before = run(unet)
    list(ar.train_motion_lora(unet, motion, clips, CONFIG, name="zoom_in", rank=2))
    learnt = {name for name, p in [*motion.named_parameters(), *unet.named_parameters()] if p.grad is not None}
    assert learnt and all("lora_" in name and "attention_blocks" in name for name in learnt)
    assert len(learnt) == 2 * 4 * 2 * len(motion.places)  # two factors, four projections, two attentions a place
    after = run(unet)
    assert not torch.allclose(after, before, atol=1e-4)
    ar.save_motion_lora(motion, tmp_path / "zoom_in.safetensors")
    ar.unload_motion_loras(motion)
    assert all(torch.equal(value, plain[name]) for name, value in motion.state_dict().items())
    assert torch.equal(run(unet), before)
    ar.load_motion_lora(motion, tmp_path / "zoom_in.safetensors")
    assert torch.allclose(run(unet), after, atol=1e-6)


def test_a_motion_lora_is_trained_beside_another_that_keeps_its_weight(unet, clips):
    motion = motion_for(unet)
    list(ar.train_motion_lora(unet, motion, clips, CONFIG, name="pan", rank=2))
    ar.set_motion_loras(motion, {"pan": 0.5})
    pan = {name: p.clone() for name, p in motion.named_parameters() if ".pan." in name}
    list(ar.train_motion_lora(unet, motion, clips, CONFIG, name="zoom", rank=2))
    assert ar.motion_loras(motion) == {"pan": 0.5, "zoom": 1.0}
    assert pan and all(torch.equal(p, pan[name]) for name, p in motion.named_parameters() if ".pan." in name)
    with pytest.raises(ValueError, match="there is a MotionLoRA 'pan' already"):
        ar.train_motion_lora(unet, motion, clips, CONFIG, name="pan", rank=2)


def test_a_stage_that_is_refused_changes_nothing(unet, clips):
    motion = motion_for(unet)
    for wrong, plan in (
        ("4 frames|frames", replace(CONFIG, num_frames=40)),
        ("at least 7 frames", replace(CONFIG, num_frames=7)),
    ):
        with pytest.raises(ValueError, match=wrong):
            ar.train_motion_lora(unet, motion, clips, plan, name="pan")
        assert not ar.motion_loras(motion)
    list(ar.train_motion_lora(unet, motion, clips, CONFIG, name="pan", rank=2))
    with pytest.raises(ValueError, match=r"unload or fuse its MotionLoRAs \(pan\)"):
        ar.train_motion_module(unet, motion, clips, CONFIG)
    with pytest.raises(ValueError, match="neither offloaded nor float8"):
        ar.train_domain_adapter(tiny_unet().to("meta"), clips, CONFIG)


def test_frames_of_different_clips_are_not_mixed(unet, clips):
    """Eight rows divide into clips of four frames, and also into one of eight: the module must be set to what is given."""
    ar.inject(unet, motion_for(unet), 4)
    with pytest.raises(ValueError, match="the clips have 2 frames, the motion module in this UNet is set to 4"):
        ar.held_out_error(unet, clips, num_frames=2)


def test_a_unet_stored_in_eight_bits_is_measured_and_not_trained_in(clips):
    exact, unet = tiny_unet(), tiny_unet()
    unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    errors = []
    for model in (exact, unet):
        ar.inject(model, motion_for(model), 4)
        errors.append(ar.held_out_error(model, clips, num_frames=4, batches=2))
    assert errors[0] == pytest.approx(errors[1], rel=0.1) and errors[0] != errors[1]
    with pytest.raises(ValueError, match="neither offloaded nor float8"):
        ar.train_motion_module(unet, motion_for(unet), clips, CONFIG)


def test_gradients_of_a_float16_unet_do_not_vanish():
    """Larger latents, so that each gradient is small: without a scaled loss a third of them would be zero."""
    generator = torch.Generator().manual_seed(0)
    latents = [torch.randn(4, 4, 32, 32, generator=generator) for _ in range(2)]
    clips = ar.LatentClips(latents, torch.randn(2, 5, 24, generator=generator), torch.zeros(5, 24))
    gradients = []
    for dtype in (torch.float32, torch.float16):
        unet = tiny_unet().to(dtype)
        motion = motion_for(unet)
        next(iter(ar.train_motion_module(unet, motion, clips, replace(CONFIG, max_grad_norm=1e9))))
        gradients.append(torch.cat([p.grad.flatten() for p in motion.parameters()]))
    exact, half = gradients
    assert ((half == 0) & (exact != 0)).float().mean() < 0.01
    assert (half - exact).norm() / exact.norm() < 0.01
