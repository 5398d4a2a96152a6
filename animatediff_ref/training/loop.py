"""The training loop: one engine that yields a record a step, for every stage (paper section 4.4).

The reader owns the loop: ``for record in train_motion_module(...)`` draws, logs and stops as it likes. The randomness
of a step depends only on the seed and the step's number, so a run that was interrupted goes on with the same losses.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from pickle import UnpicklingError

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env, reduce
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from animatediff_ref.method.objective import WEIGHTINGS
from animatediff_ref.weights.tensors import written_aside


@dataclass(frozen=True)
class TrainConfig:
    """How a stage is trained. The defaults are those of the released motion training where it states one."""

    steps: int = 1000
    batch_size: int = 4  # clips; frames in stage 1
    num_frames: int = 16
    learning_rate: float = 1e-4
    warmup: int = 0  # steps
    anneal: bool = False  # cosine to zero after the warm-up
    weight_decay: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0  # 0: no averaging; else the averaged weights are left in place at the end
    caption_dropout: float = 0.1
    weighting: str = "plain"  # of timesteps: timestep_weight's "plain" (the paper), "min-snr" or "debiased"
    autocast: bool = False  # bfloat16 forward, where the device has units for it
    seed: int = 42
    save_every: int = 200  # steps between checkpoints

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "num_frames", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"weighting is one of {', '.join(WEIGHTINGS)}, got {self.weighting!r}")


@dataclass(frozen=True)
class StepRecord:
    """What happened in one training step."""

    step: int  # counted from 1
    loss: float
    grad_norm: float  # before clipping
    learning_rate: float
    seconds: float  # since this run began, interruptions left out


def optimise(
    parameters: Iterable[nn.Parameter],
    loss_of: Callable[[torch.Generator], torch.Tensor],
    config: TrainConfig,
    checkpoint: str | Path | None = None,
    *,
    loss_scaling: bool = False,
) -> Iterator[StepRecord]:
    """AdamW on ``loss_of(generator)``: the engine of every stage.

    ``checkpoint`` names a file to go on from if it is there and to write every ``config.save_every`` steps; a
    killed write leaves the old file. If the consumer stops early, training stops with it.
    """
    run, writes = _Run(list(parameters), config, loss_scaling), processes().is_main_process
    if checkpoint and Path(checkpoint).exists():
        run.load(checkpoint)
    try:
        while run.step < config.steps:
            record = run.advance(loss_of)
            due = run.step % config.save_every == 0 or run.step == config.steps
            if checkpoint and due and writes:
                run.save(checkpoint)
            yield record
    finally:
        run.settle()


class _Run:
    """The state of a training run: live parameters, their average, optimizer and clock."""

    def __init__(self, parameters: list[nn.Parameter], config: TrainConfig, loss_scaling: bool):
        self.parameters, self.config = parameters, config
        self.optimizer = torch.optim.AdamW(
            parameters, config.learning_rate, config.betas, weight_decay=config.weight_decay
        )
        self.scaler = torch.amp.GradScaler(parameters[0].device.type, enabled=loss_scaling)
        self.average = [p.detach().clone() for p in parameters] if config.ema_decay else []
        self.step, self.seconds = 0, 0.0

    def advance(self, loss_of: Callable[[torch.Generator], torch.Tensor]) -> StepRecord:
        clock = time.perf_counter()
        rate = learning_rate(self.step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with _attention(self.parameters[0].device):
            loss = loss_of(torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.step))
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        if self.average:
            decay = min(self.config.ema_decay, self.step / (self.step + 9))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        self.seconds += time.perf_counter() - clock
        loss = reduce(loss.detach(), "mean")  # over processes
        return StepRecord(self.step, loss.item(), norm.item(), rate, self.seconds)

    def settle(self) -> None:
        """Leave the averaged weights in place, where there are any."""
        for parameter, mean in zip(self.parameters, self.average):
            parameter.data.copy_(mean)

    def save(self, path: str | Path) -> None:
        state = {
            "parameters": [p.detach() for p in self.parameters],
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        with written_aside(path) as aside:
            torch.save(state | {"step": self.step, "seconds": self.seconds, "config": asdict(self.config)}, aside)

    def load(self, path: str | Path) -> None:
        try:
            state = torch.load(path, weights_only=True, map_location=self.parameters[0].device)
            saved = replace(self.config, **state["config"])
        except (RuntimeError, UnpicklingError, EOFError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a checkpoint of a training: {str(error).splitlines()[0]}") from error
        for name in ("batch_size", "num_frames", "ema_decay", "weighting", "seed"):
            if getattr(saved, name) != getattr(self.config, name):
                raise ValueError(
                    f"{path} was trained with {name}={getattr(saved, name)}, now asked is {getattr(self.config, name)}"
                )
        shapes = [tuple(p.shape) for p in state["parameters"]], [tuple(p.shape) for p in self.parameters]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{path} holds another training run: {len(shapes[0])} parameters, "
                f"this one trains {len(shapes[1])} of other shapes"
            )
        for parameter, saved in zip(self.parameters, state["parameters"]):
            parameter.data.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state.get("scaler", {}))
        self.average, self.step, self.seconds = state["average"], state["step"], state["seconds"]


def processes() -> PartialState:
    """The processes that train together, as ``accelerate launch`` or ``torchrun`` started them; one if none did."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available())


def _attention(device: torch.device) -> AbstractContextManager:
    """On a CPU, attention as plain matrix products: at our lengths its backward pass is up to 1.4 times faster."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def fast_bfloat16(device: torch.device) -> bool:
    """Whether a device has units for bfloat16. Without them, as on many CPUs and older GPUs, it is many times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = Path("/proc/cpuinfo")
    return device.type == "cpu" and cpu.exists() and any(f in cpu.read_text() for f in ("amx_bf16", "avx512_bf16"))


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then constant, or a cosine to zero with ``config.anneal``."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if not config.anneal:
        return config.learning_rate
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
