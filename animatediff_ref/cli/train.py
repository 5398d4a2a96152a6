"""``animatediff-ref train``: a stage of training, from a folder of videos to a file of weights."""

import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import animatediff_ref as ar
from animatediff_ref.cli.errors import plain_errors


class Stage(StrEnum):
    """What is trained."""

    adapter = "adapter"
    motion = "motion"
    camera = "camera"


def train(
    stage: Annotated[Stage, typer.Argument(help="domain adapter, motion module or MotionLoRA: stages 1, 2 and 3")],
    config: Annotated[str, typer.Argument(help="smoke, mini, sd15, or a .toml file of settings")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="what differs, as NAME=VALUE: clips=my_videos out=runs/zoom steps=500")
    ] = None,
) -> None:
    """Train a stage on videos. The same command goes on with a run that was interrupted."""
    with plain_errors():
        from animatediff_ref.training.loop import processes

        told = dict(_setting(words) for words in settings or [])
        plan = ar.read_config(stage.value, config, told)
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: typer.echo(f"warning: {message}", err=True)
            _shown(ar.run_stage(stage.value, plan), stage.value, plan)
        if processes().is_main_process:
            typer.echo(str(ar.inspect_file(ar.weights_file(stage.value, plan))))


def _shown(records, stage: str, plan) -> None:
    """A bar of the steps; an interruption says where the run stands."""
    from tqdm import tqdm

    from animatediff_ref.training.loop import saved_steps

    bar, step = None, 0
    try:
        for record in records:
            bar = bar or tqdm(total=plan.steps, desc=stage, initial=record.step - 1)
            step = record.step
            bar.update()
            bar.set_postfix(loss=f"{record.loss:.4f}", refresh=False)
    except KeyboardInterrupt:
        kept = saved_steps(Path(plan.out).expanduser() / "checkpoints")
        where = f"goes on from {kept[-1].stem}" if kept else "begins anew"
        typer.echo(f"\nstopped{f' after step {step}' if step else ''}; the same command {where}", err=True)
        raise typer.Exit(130) from None
    finally:
        if bar:
            bar.close()


def _setting(words: str) -> tuple[str, str]:
    """``"steps=500"`` as name and value."""
    name, found, value = words.partition("=")
    if not found:
        raise ValueError(f"a setting is NAME=VALUE, got {words!r}")
    return name, value
