"""What learns, that it learns, and that an interruption changes nothing."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import motion_for, run, tiny_unet
from diffusers.models.attention import BasicTransformerBlock

import animatediff_ref as ar
from animatediff_ref.clips.latents import seeded
from animatediff_ref.method.adapters import add_domain_adapter
from animatediff_ref.method.temporal import TemporalTransformer
from animatediff_ref.training.loop import learning_rate, saved_steps

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

    def train(stop=None, checkpoints=None):
        unet = tiny_unet()
        motion = motion_for(unet, trained=False)
        records = []
        for record in ar.train_motion_module(unet, motion, clips, plan, checkpoints=checkpoints):
            records.append(record)
            if record.step == stop:
                break
        return [r.loss for r in records], motion

    whole, motion = train()
    begun, _ = train(stop=4, checkpoints=tmp_path)
    ended, resumed = train(checkpoints=tmp_path)
    assert begun + ended == whole
    assert all(torch.equal(a, b) for a, b in zip(motion.parameters(), resumed.parameters()))


def test_a_checkpoint_of_another_run(unet, clips, tmp_path):
    list(ar.train_motion_module(unet, motion_for(unet), clips, CONFIG, checkpoints=tmp_path))
    other = tiny_unet("mini")
    with pytest.raises(ValueError, match="holds another training run"):
        next(ar.train_motion_module(other, motion_for(other), clips, CONFIG, checkpoints=tmp_path))


def test_clips_that_are_too_short(unet, clips):
    with pytest.raises(ValueError, match="at least 8 frames, got 5 clips, the shortest of 6"):
        ar.train_motion_module(unet, motion_for(unet), clips, replace(CONFIG, num_frames=8))


def test_what_training_refuses(unet, clips, tmp_path):
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        replace(CONFIG, batch_size=0)
    list(ar.train_motion_module(unet, motion_for(unet), clips, CONFIG, checkpoints=tmp_path))
    with pytest.raises(ValueError, match=r"call eject\(unet\) first"):
        ar.train_domain_adapter(unet, clips, CONFIG)
    other = replace(CONFIG, seed=2, weighting="debiased")
    with pytest.raises(ValueError, match="weighting was 'plain' and is now 'debiased'; seed was 1 and is now 2"):
        next(ar.train_motion_module(unet, motion_for(unet), clips, other, checkpoints=tmp_path))
    (tmp_path / "step-00000006.pt").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="is not a checkpoint of a training"):
        next(ar.train_motion_module(unet, motion_for(unet), clips, CONFIG, checkpoints=tmp_path))


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
    generator = seeded(CONFIG.seed, 0)
    latents, text = clips.windows(clips.in_turn(0, 1, CONFIG.seed), 4, generator, CONFIG.caption_dropout)
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


def gradients_of(plan: ar.TrainConfig, stage: str, clips: ar.LatentClips, dtype=torch.float32) -> list[torch.Tensor]:
    """What one step of a stage gives to all that it trains."""
    unet = tiny_unet().to(dtype)
    torch.manual_seed(2)
    motion = None if stage == "adapter" else motion_for(unet)
    if stage == "adapter":
        next(iter(ar.train_domain_adapter(unet, clips, plan, rank=2)))
    else:
        train = ar.train_motion_module if stage == "motion" else ar.train_motion_lora
        next(iter(train(unet, motion, clips, plan)))
    assert not unet.is_gradient_checkpointing and not (motion and motion.gradient_checkpointing)
    learnt = [p for model in (unet, motion) if model for p in model.parameters() if p.grad is not None]
    return [p.grad.clone() for p in learnt]


@pytest.mark.parametrize("stage", ["adapter", "motion", "camera"])
def test_a_batch_in_parts_gives_the_gradients_of_the_whole(stage, clips):
    plan = replace(CONFIG, batch_size=4, max_grad_norm=1e9)
    whole, parts = (gradients_of(replace(plan, accumulation=n), stage, clips) for n in (1, 2))
    half = gradients_of(replace(plan, batch_size=2), stage, clips)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(whole, parts))
    assert not all(torch.allclose(a, b, atol=1e-4) for a, b in zip(whole, half))
    with pytest.raises(ValueError, match="does not divide into equal parts: batch_size=4, accumulation=3"):
        replace(plan, accumulation=3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stage", ["adapter", "motion", "camera"])
def test_gradient_checkpointing_computes_again_and_changes_no_gradient(stage, dtype, clips, monkeypatch):
    runs = []
    for kind in (TemporalTransformer, BasicTransformerBlock):
        forward = kind.forward
        monkeypatch.setattr(kind, "forward", lambda *a, f=forward, k=kind, **b: (runs.append(k), f(*a, **b))[1])
    plan, counts, found = replace(CONFIG, steps=1), [], []
    for again in (False, True):
        runs.clear()
        found.append(gradients_of(replace(plan, gradient_checkpointing=again), stage, clips, dtype))
        counts.append((runs.count(TemporalTransformer), runs.count(BasicTransformerBlock)))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found))
    assert counts[0] == (0 if stage == "adapter" else 10, 6)
    assert counts[1][0] >= 2 * counts[0][0] and counts[1][1] > counts[0][1]


def test_records_tell_errors_by_timestep_and_clips_seen(unet, clips):
    plan = replace(CONFIG, steps=3, batch_size=8, weighting="debiased")
    records = list(ar.train_motion_module(unet, motion_for(unet), clips, plan))
    assert [record.clips_seen for record in records] == [8, 16, 24]
    generator = seeded(CONFIG.seed, 0)
    latents, text = clips.windows(clips.in_turn(0, 8, CONFIG.seed), 4, generator, CONFIG.caption_dropout)
    unet = tiny_unet()
    ar.inject(unet, motion_for(unet), 4)
    error, t = ar.denoising_error(unet, ar.motion_scheduler(), latents, text, generator)
    for quarter, found in enumerate(records[0].error_by_time):
        wanted = error[t // 250 == quarter]
        assert found == pytest.approx(wanted.mean().item(), rel=1e-4) if len(wanted) else math.isnan(found)


def test_the_last_three_checkpoints_are_kept_and_an_older_one_can_be_gone_on_from(clips, tmp_path):
    def train():
        unet = tiny_unet()
        motion = motion_for(unet, trained=False)
        plan = replace(CONFIG, save_every=1)
        return [r.loss for r in ar.train_motion_module(unet, motion, clips, plan, checkpoints=tmp_path)], motion

    losses, whole = train()
    assert [path.name for path in saved_steps(tmp_path)] == [f"step-{step:08d}.pt" for step in (4, 5, 6)]
    assert train()[0] == []  # it was done
    for path in saved_steps(tmp_path)[1:]:
        path.unlink()
    again, resumed = train()
    assert again == losses[4:]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters()))


def test_training_stops_before_a_step_that_is_not_finite(unet, clips, tmp_path):
    motion, learnt = motion_for(unet), []
    plan = replace(CONFIG, save_every=1, learning_rate=1e30, warmup=0, steps=20)
    with pytest.raises(ValueError, match=r"step \d+: its loss is (nan|inf).*Lower learning_rate=1e\+30.*clip \d, clip"):
        for _ in ar.train_motion_module(unet, motion, clips, plan, checkpoints=tmp_path):
            learnt.append([p.detach().clone() for p in motion.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(learnt[-1], motion.parameters()))
    assert saved_steps(tmp_path)[-1].stem == f"step-{len(learnt):08d}"
    saved = torch.load(saved_steps(tmp_path)[-1], weights_only=True)
    assert all(p.isfinite().all() for p in saved["parameters"])


def test_latents_that_are_not_finite_are_named_before_anything_learns(unet, clips, tmp_path):
    clips.latents[3][2, 1] = float("nan")
    clips.names = [f"{name}.mp4" for name in "abcde"]
    motion, plan = motion_for(unet), replace(CONFIG, num_frames=6, batch_size=5, save_every=1)
    before = [p.detach().clone() for p in motion.parameters()]
    with pytest.raises(ValueError, match=r"d\.mp4 has latents that are not finite"):
        list(ar.train_motion_module(unet, motion, clips, plan, checkpoints=tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(before, motion.parameters())) and not list(tmp_path.iterdir())


def test_gradients_that_are_never_finite_stop_a_half_precision_training(clips):
    """A scaler leaves out steps that overflow; if all do, at any scale, it would leave out every step for ever."""
    unet = tiny_unet().half()
    motion = motion_for(unet)
    motion.at("up_blocks.0.motion_modules.0").proj_out.weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(ValueError, match=r"step 17: its loss is \d.*the norm of its gradient nan"):
        list(ar.train_motion_module(unet, motion, clips, replace(CONFIG, steps=60)))


def test_a_full_disk_keeps_the_checkpoints_before(unet, clips, tmp_path, monkeypatch):
    plan, save = replace(CONFIG, save_every=2), torch.save

    def full(state, path):
        if "00000004" in str(path):
            raise RuntimeError("[enforce fail] PytorchStreamWriter failed writing file data/7: file write failed")
        save(state, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ValueError, match=r"step-00000004.pt could not be written; the checkpoints before it are whole"):
        list(ar.train_motion_module(unet, motion_for(unet), clips, plan, checkpoints=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002.pt"]


@pytest.mark.parametrize("seed", [2**50, 2**64 - 1, -3, 10**30])
def test_any_whole_number_is_a_seed(seed, unet, clips):
    plan = replace(CONFIG, steps=1, seed=seed)
    losses = [next(iter(ar.train_motion_module(unet, motion_for(unet), clips, plan))).loss for _ in range(2)]
    assert losses[0] == losses[1]


def test_numbers_of_a_plan_that_cannot_be(clips):
    for name, value in (("learning_rate", -1.0), ("learning_rate", math.nan), ("warmup", -1), ("ema_decay", 1.5)):
        with pytest.raises(ValueError, match=name):
            replace(CONFIG, **{name: value})


def test_every_clip_comes_once_before_any_comes_again(clips):
    series = clips.in_turn(0, 40, seed=1)
    rounds = [series[i : i + 5] for i in range(0, 40, 5)]
    assert all(sorted(each) == [0, 1, 2, 3, 4] for each in rounds)
    assert len({tuple(each) for each in rounds}) > 3 and series != clips.in_turn(0, 40, seed=2)
    batches = [row for step in range(10) for row in clips.in_turn(step * 4, 4, seed=1)]
    assert batches == series
    assert sorted(clips.in_turn(13, 12, seed=1)) == sorted(series[13:25])


def test_a_training_sees_all_clips_alike(unet, clips):
    seen, windows = [], clips.windows
    clips.windows = lambda rows, *rest: (seen.extend(rows), windows(rows, *rest))[1]
    list(ar.train_motion_module(unet, motion_for(unet), clips, replace(CONFIG, steps=5, batch_size=3)))
    assert sorted(seen) == sorted([0, 1, 2, 3, 4] * 3)


def test_out_of_memory_says_what_helps(unet, clips, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("animatediff_ref.training.stages.noise_error", full)
    with pytest.raises(
        ValueError, match=r"out of memory in step 1: raise accumulation.*Now: accumulation=1, gradient_ch"
    ):
        list(ar.train_motion_module(unet, motion_for(unet), clips, CONFIG, checkpoints=tmp_path))
    assert not list(tmp_path.iterdir())


def test_clips_of_several_sizes(unet, clips):
    clips.latents[0] = torch.zeros(6, 4, 16, 16)
    with pytest.raises(ValueError, match=r"one size, got \(4, 8, 8\) and \(4, 16, 16\)"):
        list(ar.train_motion_module(unet, motion_for(unet), clips, replace(CONFIG, batch_size=5)))
