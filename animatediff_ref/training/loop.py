"""The training loop: one engine that yields a record a step, for every stage (paper section 4.4).

The reader owns the loop: ``for record in train_motion_module(...)`` draws, logs and stops as it likes. The randomness
of a step depends only on the seed and the step's number, so a run that was interrupted goes on with the same losses.
"""

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env, reduce
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from animatediff_ref.clips.latents import seeded
from animatediff_ref.method.objective import WEIGHTINGS
from animatediff_ref.weights.tensors import written_aside


@dataclass(frozen=True)
class TrainConfig:
    """How a stage is trained. The defaults are those of the released motion training where it states one."""

    steps: int = 1000
    batch_size: int = 4  # clips in a step; frames in stage 1
    accumulation: int = 1  # parts of the batch, computed one after another: less memory, the same step
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
    gradient_checkpointing: bool = False  # compute activations again in the backward pass: less memory, a third slower
    seed: int = 42
    save_every: int = 200  # steps between checkpoints

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "num_frames", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "weight_decay", "max_grad_norm", "warmup"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, and finite, got {getattr(self, name)}")
        for name, low, high in (("ema_decay", 0, 1), ("caption_dropout", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must lie between {low} and {high}, got {getattr(self, name)}")
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"weighting is one of {', '.join(WEIGHTINGS)}, got {self.weighting!r}")
        if self.batch_size % self.accumulation:
            given = f"batch_size={self.batch_size}, accumulation={self.accumulation}"
            raise ValueError(f"the batch does not divide into equal parts: {given}")


@dataclass(frozen=True)
class StepRecord:
    """What happened in one training step."""

    step: int  # counted from 1
    loss: float
    grad_norm: float  # before clipping
    learning_rate: float
    seconds: float  # since this run began, interruptions left out
    clips_seen: int = 0  # since this run began; frames in stage 1
    error_by_time: tuple[float, ...] = ()  # mean error by quarter of the timesteps, little noise first; NaN: none drawn


class Loss(NamedTuple):
    """The loss of a part of a batch, and what it was made of."""

    mean: torch.Tensor  # what is minimised, weighted over timesteps
    error: torch.Tensor | None = None  # (b,): of each clip, unweighted
    time: torch.Tensor | None = None  # (b,): the timestep of each clip, as a share of all
    clips: tuple[str, ...] = ()  # their names


def optimise(
    parameters: Iterable[nn.Parameter],
    losses_of: Callable[[int, torch.Generator], Iterable[Loss]],
    config: TrainConfig,
    checkpoints: str | Path | None = None,
    *,
    loss_scaling: bool = False,
) -> Iterator[StepRecord]:
    """AdamW on the mean of ``losses_of(step, generator)``, the losses of a batch's parts: the engine of every stage.

    ``checkpoints`` names a folder: training goes on from the newest checkpoint in it, and writes one every
    ``config.save_every`` steps and at the end. The last three are kept, and a killed write leaves them as they were. If
    the consumer stops early, training stops with it. ``ValueError`` where a loss or a gradient is not finite: then
    nothing of that step is kept, neither in the weights nor in a file. With ``loss_scaling`` a step whose scaled
    gradient overflows is left out, as usual, and only gradients that stay so at any scale are an error.
    """
    run, writes = _Run(list(parameters), config, loss_scaling), processes().is_main_process
    if checkpoints:
        checkpoints = Path(checkpoints).expanduser()
        for half_written in checkpoints.glob(".step-*") if writes else ():
            half_written.unlink()
        if saved := saved_steps(checkpoints):
            run.load(saved[-1])
    try:
        while run.step < config.steps:
            record = run.advance(losses_of)
            due = run.step % config.save_every == 0 or run.step == config.steps
            if checkpoints and due and writes:
                run.save(checkpoints / f"step-{run.step:08d}.pt")
                for old in saved_steps(checkpoints)[:-KEPT]:
                    old.unlink()
            yield record
    finally:
        run.settle()


KEPT = 3  # checkpoints of a run


def saved_steps(folder: str | Path) -> list[Path]:
    """The checkpoints in a folder, the newest last."""
    return sorted(path for path in Path(folder).glob("step-*.pt") if re.fullmatch(r"step-\d{8}", path.stem))


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

    def advance(self, losses_of: Callable[[int, torch.Generator], Iterable[Loss]]) -> StepRecord:
        clock = time.perf_counter()
        rate = learning_rate(self.step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._backward(losses_of(self.step, seeded(self.config.seed, self.step)))
        loss = reduce(torch.stack([part.mean.detach() for part in losses]).mean(), "mean")  # over processes
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self._check_finite(loss, norm, losses)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        if self.average:
            decay = min(self.config.ema_decay, self.step / (self.step + 9))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        self.seconds += time.perf_counter() - clock
        seen = self.step * self.config.batch_size
        return StepRecord(self.step, loss.item(), norm.item(), rate, self.seconds, seen, _by_time(losses))

    def _backward(self, losses: Iterable[Loss]) -> list[Loss]:
        """Add up the gradients of the parts, each counting alike; return the parts without their graphs."""
        done = []
        try:
            with _attention(self.parameters[0].device):
                for part in losses:
                    self.scaler.scale(part.mean / self.config.accumulation).backward()
                    done.append(part._replace(mean=part.mean.detach()))
        except RuntimeError as error:
            if not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
                raise
            knobs = ("accumulation", "gradient_checkpointing", "batch_size", "num_frames")
            now = ", ".join(f"{name}={getattr(self.config, name)}" for name in knobs)
            raise ValueError(
                f"out of memory in step {self.step + 1}: raise accumulation, which computes the batch in more parts and "
                f"changes nothing else; set gradient_checkpointing; or lower the others or the size. Now: {now}"
            ) from error
        return done

    def _check_finite(self, loss: torch.Tensor, norm: torch.Tensor, losses: list[Loss]) -> None:
        scaling = self.scaler.is_enabled() and self.scaler.get_scale() > 1  # then it steps over what is too large
        if loss.isfinite() and (norm.isfinite() or scaling):
            return
        clips = ", ".join(name for part in losses for name in part.clips)
        raise ValueError(
            f"training stopped at step {self.step + 1}: its loss is {loss.item():g} and the norm of its gradient "
            f"{norm.item():g}. The weights are as after step {self.step}, and nothing was written. Lower "
            f"learning_rate={self.config.learning_rate:g}, or look at what this step learnt from: {clips or 'no names'}"
        )

    def settle(self) -> None:
        """Leave the averaged weights in place, where there are any."""
        for parameter, mean in zip(self.parameters, self.average):
            parameter.data.copy_(mean)

    def save(self, path: Path) -> None:
        state = {
            "parameters": [p.detach() for p in self.parameters],
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        try:
            with written_aside(path) as aside:
                torch.save(state | {"step": self.step, "seconds": self.seconds, "config": asdict(self.config)}, aside)
        except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError where the disk is full
            raise ValueError(
                f"{path} could not be written; the checkpoints before it are whole: {str(error).splitlines()[0]}"
            ) from error

    def load(self, path: Path) -> None:
        try:
            state = torch.load(path, weights_only=True, map_location=self.parameters[0].device)
            saved = replace(self.config, **_known(state["config"], self.config))
        except (RuntimeError, UnpicklingError, EOFError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a checkpoint of a training: {str(error).splitlines()[0]}") from error
        changed = [
            f"{name} was {getattr(saved, name)!r} and is now {getattr(self.config, name)!r}"
            for name in MUST_STAY
            if getattr(saved, name) != getattr(self.config, name)
        ]
        if changed:
            raise ValueError(f"{path} belongs to a training with other settings: {'; '.join(changed)}")
        if state["step"] > self.config.steps:
            raise ValueError(
                f"{path} is further than steps={self.config.steps}: give at least {state['step']}, or another folder"
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
        if self.scaler.is_enabled() and state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        self.average, self.step, self.seconds = state["average"], state["step"], state["seconds"]


MUST_STAY = (  # while a run goes on
    "batch_size",
    "num_frames",
    "weight_decay",
    "betas",
    "ema_decay",
    "caption_dropout",
    "weighting",
    "seed",
)


def _known(saved: dict, config: TrainConfig) -> dict:
    """The settings of a checkpoint that a configuration has, too."""
    return {name: value for name, value in saved.items() if hasattr(config, name)}


def _by_time(losses: list[Loss], parts: int = 4) -> tuple[float, ...]:
    """The mean error of the clips of each quarter of the timesteps, over all processes; empty where errors are unknown."""
    if losses[0].error is None:
        return ()
    error = torch.cat([part.error.detach().float() for part in losses])
    quarter = torch.cat([part.time for part in losses]).to(error.device).mul(parts).long()
    sums = torch.zeros(2, parts, device=error.device)
    sums[0].index_add_(0, quarter, error)
    sums[1].index_add_(0, quarter, torch.ones_like(error))
    total, count = reduce(sums, "sum").tolist()
    return tuple(s / n if n else math.nan for s, n in zip(total, count))


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
