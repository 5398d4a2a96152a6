"""Training in several processes: two of them give the gradients of one, in every stage."""

import os
import pickle
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import motion_for, tiny_unet

import animatediff_ref as ar
from animatediff_ref.training import stages

CONFIG = ar.TrainConfig(steps=1, batch_size=4, num_frames=4, learning_rate=1e-2, warmup=1, seed=1, max_grad_norm=1e9)


def clips() -> ar.LatentClips:
    generator = torch.Generator().manual_seed(0)
    latents = [torch.randn(6, 4, 8, 8, generator=generator) for _ in range(5)]
    return ar.LatentClips(latents, torch.randn(5, 5, 24, generator=generator), torch.zeros(5, 24))


def one_step(stage: str, config: ar.TrainConfig = CONFIG) -> dict:
    """The loss, and gradients and weights of what trains, after a step of a stage, in this process or as one of several."""
    unet = tiny_unet()
    torch.manual_seed(2)
    if stage == "adapter":
        records = list(ar.train_domain_adapter(unet, clips(), config, rank=2))
        learnt = [p for name, p in unet.named_parameters() if "lora_" in name]
    elif stage == "camera":
        motion = motion_for(unet)
        records = list(ar.train_motion_lora(unet, motion, clips(), config, rank=2))
        learnt = [p for name, p in motion.named_parameters() if "lora_" in name]
    else:
        motion = motion_for(unet)
        records = list(ar.train_motion_module(unet, motion, clips(), config))
        learnt = list(motion.parameters())
    return {
        "gradients": [p.grad.clone() for p in learnt],
        "weights": [p.detach().clone() for p in learnt],
        "loss": records[0].loss,
    }


def worker(out: Path) -> None:
    """What each of several processes does: both stages, and the motion module's without wrapping what trains."""
    found = {stage: one_step(stage) for stage in ("adapter", "motion", "camera")}
    found |= {f"{stage} in parts": one_step(stage, replace(CONFIG, accumulation=2)) for stage in found}
    stages.DistributedDataParallel = lambda trainee: trainee
    out.write_bytes(pickle.dumps(found | {"not wrapped": one_step("motion")}))


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict]:
    """What two processes had that talk by gloo."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    told |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    running = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder / f"{rank}.pkl")],
            env={**os.environ, **told, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in running:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said[-2000:]
    return [pickle.loads((folder / f"{rank}.pkl").read_bytes()) for rank in range(2)]


def apart(some: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(some, others))


@pytest.mark.parametrize("parts", ["", " in parts"])
@pytest.mark.parametrize("stage", ["adapter", "motion", "camera"])
def test_two_processes_give_the_gradients_of_one(stage, parts, two):
    one = one_step(stage)
    stage += parts
    assert max(gradient.abs().max().item() for gradient in one["gradients"]) > 1e-3
    for other in two:
        assert apart(one["gradients"], other[stage]["gradients"]) < 1e-5
    assert apart(two[0][stage]["weights"], two[1][stage]["weights"]) == 0
    assert one["loss"] == pytest.approx(two[0][stage]["loss"], rel=1e-5) == pytest.approx(two[1][stage]["loss"])


def test_without_wrapping_their_gradients_would_differ(two):
    assert apart(one_step("motion")["gradients"], two[0]["not wrapped"]["gradients"]) > 1e-3


def test_a_batch_must_divide_among_processes(monkeypatch):
    monkeypatch.setattr(stages, "processes", lambda: SimpleNamespace(num_processes=3))
    with pytest.raises(ValueError, match=r"4 clips \(batch_size=4, accumulation=1\) do not divide among 3"):
        one_step("motion")


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
