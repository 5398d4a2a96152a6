"""A training from files to a file: its settings, its presets and its folder. ``animatediff-ref train`` is a face of it.

    config = read_config("camera", "mini", {"clips": "my_videos", "out": "runs/zoom_in", "camera": "zoom_in"})
    for record in run_stage("camera", config):
        print(record.step, record.loss)

The folder ``out`` then holds ``run.json`` (settings, versions), ``clips.csv`` (what is learnt from), ``metrics.csv`` (a row
a step), ``checkpoints/`` (the last three), ``latents/`` (what was encoded) and, at the end, the weights. The same call goes
on with an interrupted run.
"""

import csv
import difflib
import json
import tomllib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path

import torch

from animatediff_ref.clips.camera import CAMERAS
from animatediff_ref.clips.folders import ClipEntry, list_clips
from animatediff_ref.clips.latents import LatentClips, encode_clips
from animatediff_ref.clips.video import frame_files
from animatediff_ref.generate.pipeline import best_device, device_named, load_base, quietly
from animatediff_ref.method.config import MotionConfig
from animatediff_ref.method.motion_module import MotionModule
from animatediff_ref.method.objective import motion_scheduler
from animatediff_ref.training.loop import StepRecord, TrainConfig, processes, saved_steps
from animatediff_ref.training.stages import train_domain_adapter, train_motion_lora, train_motion_module
from animatediff_ref.weights.lora import load_domain_adapter, save_domain_adapter, save_motion_lora
from animatediff_ref.weights.motion import load_motion_module, save_motion_module
from animatediff_ref.weights.tensors import written_aside

STAGES = ("adapter", "motion", "camera")
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class RunConfig(TrainConfig):
    """``TrainConfig``, and what a training from files needs besides. Paths count from the working folder."""

    clips: str = ""  # a folder of videos, or a table as list_clips reads it
    out: str = ""  # the run's folder
    base: str = "mini"  # as load_base takes it
    motion: str = ""  # stage 2: a motion module to go on from, or none; stage 3: the one that gets the MotionLoRA
    adapter: str = ""  # stages 2 and 3: a domain adapter that stays in the base, at scale 1
    camera: str = ""  # stage 3: a move made by cropping, as camera_path names it; "": the clips have their own
    rank: int = 16  # of the domain adapter or MotionLoRA
    convolutions: bool = False  # stage 1: adapt those of the residual blocks, too
    size: int = 0  # pixels; 0: the base's own
    fps: float = 0.0  # take frames of every video at this rate, by time; 0: as they come
    stride: int = 1  # then every so many frames
    precision: str = "float32"  # of the frozen base: float32, float16 or bfloat16; what trains is float32
    device: str = ""  # "": the best there is
    latents: str = ""  # folder of encoded clips, which runs may share; "": in the run's own folder

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.rank < 1 or self.stride < 1 or self.size < 0 or not 0 <= self.fps < float("inf"):
            sizes = f"rank={self.rank}, stride={self.stride}, size={self.size}, fps={self.fps}"
            raise ValueError(f"rank and stride must be at least 1, size and fps 0 or more, got {sizes}")
        if self.camera not in ("", *CAMERAS, "shake"):
            raise ValueError(f"camera is one of {', '.join(CAMERAS)}, shake or empty, got {self.camera!r}")


MINI = {"anneal": True, "autocast": True, "betas": (0.9, 0.99)}
SD15 = {"base": "stable-diffusion-v1-5/stable-diffusion-v1-5", "size": 256, "stride": 4, "precision": "float16"}
SMOKE = {"steps": 4, "batch_size": 2, "num_frames": 4, "save_every": 2, "learning_rate": 1e-3, "rank": 4}
PRESETS: dict[str, dict[str, dict]] = {  # preset -> stage -> what differs from RunConfig's defaults
    "smoke": {"adapter": SMOKE, "motion": SMOKE, "camera": {**SMOKE, "motion": "mini"}},
    "mini": {
        "adapter": {
            **MINI, "steps": 600, "batch_size": 48, "learning_rate": 1e-3, "warmup": 20, "ema_decay": 0.98,
            "convolutions": True,
        },
        "motion": {
            **MINI, "steps": 2300, "batch_size": 3, "learning_rate": 1e-3, "warmup": 50, "ema_decay": 0.998,
            "weighting": "debiased", "adapter": "mini",
        },
        "camera": {**MINI, "steps": 400, "batch_size": 3, "learning_rate": 1e-3, "warmup": 20, "motion": "mini"},
    },
    "sd15": {  # sizes, rates and counts of the released training and the paper, as far as they are known
        "adapter": {**SD15, "steps": 10_000, "batch_size": 48, "accumulation": 6, "rank": 128},
        "motion": {**SD15, "steps": 100_000, "gradient_checkpointing": True},
        "camera": {**SD15, "steps": 2_000, "rank": 64, "gradient_checkpointing": True, "caption_dropout": 0.0},
    },
}  # fmt: skip
FREE_TO_CHANGE = ("save_every", "device", "latents", "accumulation", "gradient_checkpointing")  # while a run goes on
CAN_BE_NONE = ("motion", "adapter", "camera", "device", "latents")
UNUSED = {  # by stage, the settings that it does not look at
    "adapter": ("motion", "adapter", "camera"),
    "motion": ("camera", "rank", "convolutions"),
    "camera": ("convolutions",),
}
METRICS = ("step", "loss", "grad_norm", "learning_rate", "seconds", "clips_seen")


def read_config(stage: str, source: str | Path = "mini", settings: Mapping[str, object] | None = None) -> RunConfig:
    """The settings of a run of a stage: ``source`` is a preset's name or a .toml file; ``settings`` go over it.

    A file may name a preset that it changes: ``preset = "sd15"``; else it changes ``RunConfig``'s defaults.
    ``ValueError`` for a key that does not exist, with the nearest one, for a value of another type, and for a setting
    that the stage does not look at.
    """
    if stage not in STAGES:
        raise ValueError(f"a stage is one of {', '.join(STAGES)}, got {stage!r}")
    if "=" in str(source) and not Path(source).is_file():
        raise ValueError(f"a preset ({', '.join(PRESETS)}) or a .toml file comes before the settings, got {source}")
    told = {"preset": str(source)} if str(source) in PRESETS else _read_toml(Path(source))
    preset = told.pop("preset", None)
    if preset not in (None, *PRESETS):
        raise ValueError(f"a preset is one of {', '.join(PRESETS)}, got {preset!r}")
    told = {**told, **(settings or {})}
    config = RunConfig(**PRESETS[preset][stage] if preset else {})
    typed = {name: _typed(name, value) for name, value in told.items()}
    if idle := [name for name in UNUSED[stage] if name in typed and typed[name] != getattr(RunConfig(), name)]:
        raise ValueError(f"{idle[0]}={typed[idle[0]]} is for another stage: {stage!r} does not look at it")
    return replace(config, **typed)


def weights_file(stage: str, config: RunConfig) -> Path:
    """The file of weights that a run leaves."""
    name = {"adapter": "domain_adapter", "motion": "motion_module", "camera": config.camera or "camera"}[stage]
    return _folder(config) / f"{name}.safetensors"


def run_stage(stage: str, config: RunConfig) -> Iterator[StepRecord]:
    """Train a stage from files, in the run's folder ``config.out``; goes on with the run that is there.

    ``ValueError`` for a folder of a run with other settings, which shows the difference, and for all that
    ``load_base``, ``list_clips``, ``encode_clips`` and the stages refuse.
    """
    if not (config.clips and config.out):
        raise ValueError("a run needs clips, a folder of videos or a table, and out, a folder to write to")
    if stage == "camera" and not config.motion:
        raise ValueError("stage 3 needs motion: the motion module that the MotionLoRA is for")
    entries, folder = list_clips(config.clips), _folder(config)
    _check_same_settings(folder, stage, config)
    pipe = _pipeline(stage, config)
    motion = None if stage == "adapter" else _motion(pipe.unet, config)
    clips = _encoded(pipe, entries, stage, config)
    used = _facts(entries, clips.names)
    _check_same_clips(folder, used)
    for part in (pipe.vae, pipe.text_encoder):
        part.cpu()  # their work is done
    with _seeded(config):
        records, save = _training(stage, pipe, motion, clips, config)
    told = {"stage": stage, **_plain(config)}
    yield from _recorded(records, folder, told, used) if processes().is_main_process else records
    if processes().is_main_process:
        save()
    processes().wait_for_everyone()


def _read_toml(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"settings are a preset ({', '.join(PRESETS)}) or a .toml file, and there is no {path}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error


def _typed(name: str, value: object) -> object:
    """A value as the field ``name`` has it. ``ValueError`` for an unknown name, and for a value of another type."""
    types = {field.name: field.type for field in fields(RunConfig)}
    if isinstance(value, dict):
        raise ValueError(f"settings stand by themselves, without a [{name}] above them")
    if name == "preset":
        raise ValueError(f"a preset comes before the settings, as in: train motion {value} clips=my_videos")
    if name not in types:
        near = difflib.get_close_matches(name, types, 1)
        helps = f": is it {near[0]!r}?" if near else f" among {', '.join(types)}"
        raise ValueError(f"there is no setting {name!r}{helps}")
    wanted = type(getattr(RunConfig(), name))
    if value == "none" and name in CAN_BE_NONE:
        return ""
    try:
        if isinstance(value, str) and wanted is not str:  # as words of a command line are
            value = {"true": True, "false": False}[value.lower()] if wanted is bool else _number(value, wanted)
        if wanted is tuple and len(value) == 2:
            return tuple(map(float, value))
        if wanted is float and type(value) is int:
            return float(value)
        if wanted is str and isinstance(value, Path):
            return str(value)
        if type(value) is wanted:
            return value
    except (ValueError, TypeError, KeyError):
        pass
    kind = {int: "a whole number", float: "a number", bool: "true or false", tuple: "two numbers", str: "text"}[wanted]
    raise ValueError(f"{name} is {kind}, got {value!r}")


def _number(text: str, wanted: type) -> object:
    return text.strip("[]()").split(",") if wanted is tuple else wanted(text)


def _folder(config: RunConfig) -> Path:
    return Path(config.out).expanduser()


def _holds_a_run(folder: Path) -> bool:
    """Whether a folder holds a run that has come to its first checkpoint; one that has not may begin anew."""
    return bool(saved_steps(folder / "checkpoints") or list(folder.glob("*.safetensors")))


def _check_same_settings(folder: Path, stage: str, config: RunConfig) -> None:
    """``ValueError`` with the difference if a run with other settings has begun in a folder."""
    file, told = folder / "run.json", {"stage": stage, **_plain(config)}
    if not (file.exists() and _holds_a_run(folder)):
        return
    try:
        saved = _plain(RunConfig()) | json.loads(file.read_text())["config"]  # settings that are new have their default
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not the record of a run: {error!r}") from error
    free = {*FREE_TO_CHANGE, *([] if config.anneal else ["steps"])}  # an annealed run depends on its number of steps
    changed = [name for name in told if name not in free and saved.get(name) != told[name]]
    if changed:
        shown = "; ".join(f"{name} was {saved.get(name)!r} and is now {told[name]!r}" for name in changed)
        raise ValueError(f"{folder} holds a run with other settings: {shown}. Give those it has, or another out")


def _facts(entries: Sequence[ClipEntry], names: Sequence[str]) -> list[dict[str, str]]:
    """Of the clips that are used, what ``clips.csv`` says: path, size and caption."""
    used = set(names)
    kept = [entry for entry in entries if str(entry.path) in used]
    return [{"clip": str(clip.path), "bytes": str(_size(clip.path)), "caption": clip.caption} for clip in kept]


def _size(path: Path) -> int:
    parts = frame_files(path) if path.is_dir() else [path]
    return sum(part.stat().st_size for part in parts)


def _check_same_clips(folder: Path, clips: list[dict[str, str]]) -> None:
    """``ValueError`` with the difference if a run on other clips has begun in a folder."""
    file = folder / "clips.csv"
    if not (file.exists() and _holds_a_run(folder)):
        return
    try:
        with open(file, newline="", encoding="utf-8-sig") as table:
            before = [(row["clip"], row["bytes"], row["caption"]) for row in csv.DictReader(table)]
    except (KeyError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} is not the record of a run's clips: {error!r}") from error
    now = [tuple(clip.values()) for clip in clips]
    if before != now:
        new, gone = set(now) - set(before), set(before) - set(now)
        changed = {clip for clip, *_ in new} & {clip for clip, *_ in gone}
        some = ", ".join(sorted({clip for clip, *_ in new | gone})[:4]) or "only their order or number"
        raise ValueError(
            f"{folder} holds a run on other clips: {len(new) - len(changed)} are new, {len(gone) - len(changed)} are gone, "
            f"and {len(changed)} have another file or caption ({some}). Give the same clips, or another out"
        )


def _plain(config: RunConfig) -> dict:
    """The settings as JSON has them."""
    return json.loads(json.dumps(asdict(config)))


def _pipeline(stage: str, config: RunConfig):
    """The frozen base on its device, with its adapter; the VAE and the text encoder stay in float32."""
    alone = processes().num_processes == 1
    device = device_named(config.device or best_device()) if alone else processes().device
    pipe = load_base(config.base).to(device)
    with quietly():  # diffusers warns of a cast whatever it is
        pipe.unet.to(PRECISIONS[config.precision])
    if config.adapter and stage != "adapter":
        load_domain_adapter(pipe.unet, config.adapter)
    return pipe


def _encoded(pipe, entries: list, stage: str, config: RunConfig) -> LatentClips:
    """The clips, encoded once. Several processes encode a share each, and then all read what there is."""
    options = {
        "stride": config.stride,
        "num_frames": config.num_frames if stage == "camera" else None,  # others draw their windows from whole clips
        "at_least": 1 if stage == "adapter" else config.num_frames,
        "size": config.size or None,
        "fps": config.fps or None,
        "camera": config.camera if stage == "camera" else None,
        "cache": Path(config.latents).expanduser() if config.latents else _folder(config) / "latents",
    }
    together = processes()
    if together.num_processes > 1:
        with warnings.catch_warnings(action="ignore"), suppress(ValueError):  # all are met again below
            encode_clips(pipe, entries[together.process_index :: together.num_processes], **options)
        together.wait_for_everyone()
    return encode_clips(pipe, entries, **options)


@contextmanager
def _seeded(config: RunConfig) -> Iterator[None]:
    """Let fresh weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed % 2**63)
        yield


def _motion(unet, config: RunConfig) -> MotionModule:
    """The motion module that is told, or a fresh one of the newest published kind, v3, with places for all frames."""
    with _seeded(config):
        fresh = replace(MotionConfig.v3(), norm_groups=unet.config.norm_num_groups)
        motion = load_motion_module(config.motion) if config.motion else MotionModule(fresh, unet)
    motion.num_frames = config.num_frames
    return motion


def _training(stage: str, pipe, motion: MotionModule | None, clips: LatentClips, config: RunConfig):
    """The records of a stage, and how to write what it has learnt."""
    unet, file, checkpoints = pipe.unet, weights_file(stage, config), _folder(config) / "checkpoints"
    shared = {"scheduler": motion_scheduler(pipe.scheduler), "checkpoints": checkpoints}
    if stage == "adapter":
        own = {"rank": config.rank, "convolutions": config.convolutions}
        records = train_domain_adapter(unet, clips, config, **own, **shared)
        return records, lambda: save_domain_adapter(unet, file, "diffusers" if config.convolutions else "official")
    if stage == "motion":
        records = train_motion_module(unet, motion, clips, config, **shared)
        return records, lambda: save_motion_module(motion, file)
    name = file.stem
    records = train_motion_lora(unet, motion, clips, config, name=name, rank=config.rank, **shared)
    return records, lambda: save_motion_lora(motion, file, name)


def _recorded(records: Iterable[StepRecord], folder: Path, told: dict, clips: list[dict]) -> Iterator[StepRecord]:
    """With the first record, write what the run is; with each, append a row to the metrics."""
    file = folder / "metrics.csv"
    for number, record in enumerate(records):
        times = {f"error_{i + 1}": error for i, error in enumerate(record.error_by_time)}
        row = {name: getattr(record, name) for name in METRICS} | times
        if number == 0:
            _write_settings(folder, told, clips)
            _begin_table(file, row)
        with open(file, "a", newline="") as table:
            csv.DictWriter(table, row).writerow(row)
        yield record


def _write_settings(folder: Path, told: dict, clips: list[dict]) -> None:
    """``run.json`` and ``clips.csv``."""
    versions = {name: version(name) for name in ("animatediff-ref", "torch", "diffusers", "transformers", "peft")}
    with written_aside(folder / "run.json") as aside:
        aside.write_text(json.dumps({"config": told, "versions": versions}, indent=1) + "\n", encoding="utf-8")
    with written_aside(folder / "clips.csv") as aside, open(aside, "w", newline="", encoding="utf-8") as table:
        writer = csv.DictWriter(table, clips[0])
        writer.writeheader()
        writer.writerows(clips)


def _begin_table(file: Path, row: dict) -> None:
    """A CSV of metrics with the rows of the steps before this one; rows of steps that are done again are taken out."""
    kept = _rows_before(row["step"], file)
    with written_aside(file) as aside, open(aside, "w", newline="") as table:
        writer = csv.DictWriter(table, row, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(kept)


def _rows_before(step: int, file: Path) -> list[dict]:
    """The rows of a CSV of metrics up to a step, but for a last one that was half written."""
    if not file.exists():
        return []
    with open(file, newline="") as table:
        rows = [row for row in csv.DictReader(table) if None not in row.values()]
    return [row for row in rows if row["step"].isdigit() and int(row["step"]) < step]
