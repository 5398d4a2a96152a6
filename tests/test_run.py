"""A stage from a folder of videos to a file: settings, the run's folder, and a process that is killed."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import animatediff_ref as ar
from animatediff_ref.cli import app
from animatediff_ref.training.loop import saved_steps
from animatediff_ref.training.run import PRESETS, STAGES, _facts
from animatediff_ref.weights.tensors import read_weights

SOURCES = ("adapter", "motion", "camera")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Three of the mini world's clips, and a file that is none."""
    folder = tmp_path_factory.mktemp("videos")
    for clip in ar.list_clips(ar.data_folder() / "clips.csv", ar.data_folder() / "clips")[:3]:
        shutil.copy(clip.path, folder)
        (folder / f"{clip.path.stem}.txt").write_text(clip.caption, encoding="utf-8")
    (folder / "broken.mp4").write_bytes(b"no film")
    return folder


def settings(stage: str, videos: Path, out: Path, **others) -> ar.RunConfig:
    told = {"clips": videos, "out": out, **others} | ({"camera": "zoom_in"} if stage == "camera" else {})
    return ar.read_config(stage, "smoke", told)


def finish(stage: str, config: ar.RunConfig) -> list[ar.StepRecord]:
    with pytest.warns(ar.SkippedClipsWarning, match=r"1 of 4 clips are left out:\n  .*broken\.mp4 cannot be read"):
        return list(ar.run_stage(stage, config))


def killed(stage: str, videos: Path, out: Path, step: int) -> None:
    """Run a stage and die without a word after a step, as by kill -9 or when memory runs out."""
    for record in ar.run_stage(stage, settings(stage, videos, out)):
        if record.step == step:
            os.kill(os.getpid(), signal.SIGKILL)


def table_of(page: str, heading: str) -> list[list[str]]:
    """The cells of the table of a page that has this in its first row."""
    lines = page.partition(f"| {heading} |")[2].splitlines()[2:]
    rows = lines[: next(i for i, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_page_on_own_videos_has_the_settings_as_they_are(tmp_path):
    page = (Path(__file__).resolve().parents[1] / "book" / "own_videos.md").read_text(encoding="utf-8")
    (defaults := tmp_path / "empty.toml").touch()
    told = {row[0].strip("`"): row[1].strip("`").replace("none", "") for row in table_of(page, "setting")}
    assert told.keys() == {field.name for field in fields(ar.RunConfig)}
    assert ar.read_config("motion", defaults, told) == ar.RunConfig()
    changes = {row[0].strip("`"): dict(re.findall(r"`(\w+)` ([^,]+)", row[1])) for row in table_of(page, "stage")}
    for stage in STAGES:
        assert ar.read_config(stage, defaults, changes["all"] | changes[stage]) == ar.read_config(stage, "sd15")


@pytest.mark.parametrize("stage", SOURCES)
def test_a_run_leaves_weights_that_load_and_what_they_came_from(stage, videos, tmp_path):
    config = settings(stage, videos, tmp_path / "run")
    records = finish(stage, config)
    file = ar.weights_file(stage, config)
    kinds = {"adapter": "domain adapter", "motion": "motion module", "camera": "MotionLoRA"}
    assert ar.inspect_file(file).kind == kinds[stage]
    pipe = ar.load_base("mini")
    if stage == "adapter":
        ar.load_domain_adapter(pipe.unet, file)
    else:
        motion = ar.load_motion_module(file if stage == "motion" else "mini")
        if stage == "camera":
            ar.load_motion_lora(motion, file)
        ar.inject(pipe.unet, motion, 4)
        assert ar.animate(pipe, "a penguin", num_inference_steps=1).shape == (4, 64, 64, 3)
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert told["config"]["stage"] == stage and told["config"]["clips"] == str(videos)
    assert told["versions"]["torch"] == version("torch")
    with open(tmp_path / "run" / "metrics.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
    assert [float(row["loss"]) for row in rows] == [record.loss for record in records]
    assert {"grad_norm", "learning_rate", "seconds", "clips_seen", "error_1", "error_4"} <= rows[0].keys()


def test_a_killed_run_goes_on_to_the_same_weights(videos, tmp_path):
    """All three stages, each killed by SIGKILL between two checkpoints; the row after the checkpoint is made again."""
    processes = {}
    for stage in SOURCES:
        command = [sys.executable, __file__, stage, str(videos), str(tmp_path / stage)]
        processes[stage] = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes: sums in another order differ in the last digit
    try:
        for stage, process in processes.items():
            said = process.communicate(timeout=300)[1].decode()
            assert process.returncode == -signal.SIGKILL, said[-2000:]
            begun = settings(stage, videos, tmp_path / stage)
            assert [path.stem for path in saved_steps(tmp_path / stage / "checkpoints")] == ["step-00000002"]
            assert len((tmp_path / stage / "metrics.csv").read_text().splitlines()) == 1 + 3
            assert [record.step for record in finish(stage, begun)] == [3, 4]
            whole = settings(stage, videos, tmp_path / f"{stage}-whole", latents=tmp_path / stage / "latents")
            finish(stage, whole)
            one, other = (read_weights(ar.weights_file(stage, config)).tensors for config in (begun, whole))
            assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
            tables = [Path(config.out, "metrics.csv").read_text().splitlines() for config in (begun, whole)]
            without_seconds = [[row.split(",")[:4] for row in table] for table in tables]
            assert without_seconds[0] == without_seconds[1]
    finally:
        torch.set_num_threads(threads)


def test_a_run_with_other_settings_is_refused_with_the_difference(videos, tmp_path):
    finish("adapter", settings("adapter", videos, tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(
        ValueError, match=r"settings: learning_rate was 0\.001 and is now 0\.002; rank was 4 and is now 8"
    ):
        list(ar.run_stage("adapter", settings("adapter", videos, tmp_path, learning_rate=2e-3, rank=8)))
    with pytest.raises(ValueError, match="stage was 'adapter' and is now 'motion'"):
        list(ar.run_stage("motion", settings("motion", videos, tmp_path)))
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    longer = finish("adapter", settings("adapter", videos, tmp_path, steps=6, save_every=1, accumulation=2))
    assert [record.step for record in longer] == [5, 6]
    assert json.loads((tmp_path / "run.json").read_text())["config"]["steps"] == 6
    with pytest.raises(ValueError, match=r"step-00000006\.pt is further than steps=5"):
        finish("adapter", settings("adapter", videos, tmp_path, steps=5))
    fewer = videos.parent / "fewer"
    fewer.mkdir()
    for file in sorted(videos.iterdir())[-4:]:
        shutil.copy2(file, fewer)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match=r"holds a run on other clips: 1 are new, 3 are gone, and 0 have another file"):
        list(ar.run_stage("adapter", settings("adapter", fewer, tmp_path)))
    kept = (tmp_path / "clips.csv").read_text()
    (tmp_path / "clips.csv").write_text(re.sub(r",\d+,", ",1,", kept, count=1))
    with pytest.raises(ValueError, match=r"0 are new, 0 are gone, and 1 have another file or caption \(.*\.mp4\)"):
        list(ar.run_stage("adapter", settings("adapter", videos, tmp_path)))
    (tmp_path / "clips.csv").write_text(kept.replace(",", ";"))  # as a spreadsheet may save it
    with pytest.raises(ValueError, match=r"clips\.csv is not the record of a run's clips"):
        list(ar.run_stage("adapter", settings("adapter", videos, tmp_path)))
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match="is not the record of a run"):
        list(ar.run_stage("adapter", settings("adapter", videos, tmp_path)))


def test_one_film_with_two_captions_counts_as_two_clips(videos):
    film = str(sorted(videos.glob("*.mp4"))[0])
    entries = [ar.ClipEntry(Path(film), caption) for caption in ("a fox", "a cat")]
    assert [clip["caption"] for clip in _facts(entries, [film, film])] == ["a fox", "a cat"]


def test_what_was_encoded_is_kept_and_not_believed_once_something_changed(videos, tmp_path):
    pipe = ar.load_base("mini")
    pipe.set_progress_bar_config(disable=True)
    clips = [clip for clip in ar.list_clips(videos) if clip.path.stem != "broken"]
    options = {"num_frames": 4, "cache": tmp_path / "kept"}
    plain = ar.encode_clips(pipe, clips, num_frames=4)
    first = ar.encode_clips(pipe, clips, **options)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
    again = ar.encode_clips(pipe, clips, **options)
    assert len(files) == 3 and files == {path: path.stat().st_mtime_ns for path in files}
    for latents in zip(plain.latents, first.latents, again.latents):
        assert torch.equal(latents[0], latents[1]) and torch.equal(latents[1], latents[2])
    assert torch.equal(plain.text, again.text) and again.names == [str(clip.path) for clip in clips]
    next(iter(files)).write_bytes(b"half a file")  # is made again
    assert torch.equal(ar.encode_clips(pipe, clips, **options).latents[0], plain.latents[0])
    for change in ("caption", "size", "camera", "stride", "model"):
        if change == "model":
            pipe.vae.quant_conv.bias.data.add_(1e-3)
        other = [ar.ClipEntry(clip.path, "a fox") for clip in clips] if change == "caption" else clips
        changed = {"size": {"size": 32}, "camera": {"camera": "pan_left"}, "stride": {"stride": 2}}.get(change, {})
        ar.encode_clips(pipe, other, **options, **changed)
    assert len(list((tmp_path / "kept").iterdir())) == 6 * 3


def test_encoding_with_a_camera_makes_the_picture_drift(videos):
    """The video stands still: what moves is the camera, and it pans left, so the picture goes right."""
    rng = np.random.default_rng(0)
    ground = np.kron(rng.integers(0, 256, (16, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    clip = videos.parent / "still.mp4"
    ar.write_clip(np.repeat(ground[None], 8, 0), clip, crf=5)
    pipe = ar.load_base("mini")
    encoded = ar.encode_clips(pipe, [ar.ClipEntry(clip, "a ground")], num_frames=8, camera="pan_left")
    seen = ar.estimate_camera(ar.decode_latents(pipe.vae, encoded.latents[0])).total
    assert encoded.latents[0].shape == (8, 4, 16, 16)
    assert seen["pan"] < -0.1 and abs(seen["tilt"]) < 0.03


def test_a_model_that_overflows_is_named_with_the_clip(videos, tmp_path):
    pipe = ar.load_base("mini")
    pipe.vae.quant_conv.bias.data.fill_(float("nan"))
    (clip, *_) = ar.list_clips(videos)
    with pytest.raises(
        ValueError, match=rf"{clip.path.name} cannot be encoded: the autoencoder, in torch.float32, gives"
    ):
        ar.encode_clips(pipe, [clip], cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_settings_come_from_presets_files_and_words(tmp_path):
    file = tmp_path / "zoom.toml"
    file.write_text('preset = "mini"\nclips = "films"\ncamera = "zoom_out"\nlearning_rate = 1\nbetas = [0.9, 0.95]\n')
    config = ar.read_config("camera", file, {"steps": 7, "out": tmp_path})
    assert (config.camera, config.steps, config.learning_rate, config.betas) == ("zoom_out", 7, 1.0, (0.9, 0.95))
    assert config.motion == "mini" and config.out == str(tmp_path)
    words = {"out": "2024", "anneal": "True", "learning_rate": ".5", "betas": "0.9,0.8", "clips": "a=b", "steps": "7"}
    told = ar.read_config("motion", "smoke", words)
    assert (told.out, told.anneal, told.learning_rate, told.betas) == ("2024", True, 0.5, (0.9, 0.8))
    assert (told.clips, told.steps, told.save_every) == ("a=b", 7, 2)
    plain = tmp_path / "plain.toml"
    plain.write_text("steps = 3")
    assert ar.read_config("motion", plain) == ar.RunConfig(steps=3)
    names = {field.name for field in fields(ar.RunConfig)}
    for preset in PRESETS.values():
        assert preset.keys() == set(STAGES) and all(options.keys() <= names for options in preset.values())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning_rat = 1", "there is no setting 'learning_rat': is it 'learning_rate'?"),
        ("zzzz = 1", "there is no setting 'zzzz' among steps"),
        ('steps = "many"', "steps is a whole number, got 'many'"),
        ("steps = 2.5", "steps is a whole number, got 2.5"),
        ("steps = true", "steps is a whole number, got True"),
        ("anneal = 1", "anneal is true or false, got 1"),
        ("betas = [0.9]", "betas is two numbers, got [0.9]"),
        ("clips = 2024", "clips is text, got 2024"),
        ('preset = "sdxl"', "a preset is one of smoke, mini, sd15, got 'sdxl'"),
        ('precision = "int8"', "precision is one of float32, float16, bfloat16, got 'int8'"),
        ('camera = "fly"', "camera is one of zoom_in"),
        ("rank = 0", "rank and stride must be at least 1"),
        ("convolutions = true", "convolutions=True is for another stage: 'camera' does not look at it"),
        ("[data]\nclips = 'a'", "settings stand by themselves, without a [data] above them"),
        ("steps 3", "is not TOML"),
    ],
)
def test_settings_that_cannot_be_are_named(text, said, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(ValueError) as error:
        ar.read_config("camera", file)
    assert said in str(error.value)


def test_a_start_that_fails_leaves_the_folder_free(videos, tmp_path):
    """What is wrong with the module is said before the clips are encoded, and a refused call changes no record."""
    out = tmp_path / "run"
    wrong = finish("adapter", settings("adapter", videos, tmp_path / "adapter")) and tmp_path / "adapter"
    for told, said in (
        ({"motion": str(wrong / "domain_adapter.safetensors")}, "a motion module is needed"),
        ({"motion": str(tmp_path / "absent.ckpt")}, "there is no file"),
        ({"num_frames": 33}, "has positions for 1 to 32 frames"),
        ({"device": "gpu"}, "no device 'gpu' here"),
    ):
        with pytest.raises(ValueError, match=said):
            list(ar.run_stage("camera", settings("camera", videos, out, **told)))
        assert not out.exists()
    finish("camera", settings("camera", videos, out))
    record = (out / "run.json").read_text()
    with pytest.raises(ValueError, match=r"is further than steps=2: give at least 4, or another folder"):
        finish("camera", settings("camera", videos, out, steps=2))
    assert (out / "run.json").read_text() == record


def test_a_run_without_a_checkpoint_may_begin_anew(videos, tmp_path):
    begun = ar.run_stage("adapter", settings("adapter", videos, tmp_path, save_every=3))
    assert next(begun).step == 1
    begun.close()
    assert json.loads((tmp_path / "run.json").read_text())["config"]["rank"] == 4
    finish("adapter", settings("adapter", videos, tmp_path, rank=8))
    assert json.loads((tmp_path / "run.json").read_text())["config"]["rank"] == 8


def test_what_a_run_refuses_before_it_loads_anything(videos, tmp_path):
    with pytest.raises(ValueError, match="needs clips, a folder of videos or a table, and out"):
        list(ar.run_stage("motion", ar.RunConfig(clips=str(videos))))
    with pytest.raises(ValueError, match="stage 3 needs motion"):
        list(ar.run_stage("camera", ar.RunConfig(clips=str(videos), out=str(tmp_path / "a"))))
    with pytest.raises(ValueError, match="a stage is one of adapter, motion, camera, got 'lora'"):
        ar.read_config("lora")
    with pytest.raises(ValueError, match=r"a preset \(smoke, mini, sd15\) or a .toml file, and there is no absent"):
        ar.read_config("motion", "absent")
    with pytest.raises(ValueError, match=r"a preset .* comes before the settings, got clips=films"):
        ar.read_config("motion", "clips=films")
    assert ar.read_config("motion", "smoke", {"motion": "none"}).motion == ""
    assert not (tmp_path / "a").exists()


def test_an_interrupted_command_says_where_it_stands(videos, tmp_path, monkeypatch):
    whole = ar.run_stage

    def interrupted(stage, config):
        for record in whole(stage, config):
            yield record
            if record.step == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr("animatediff_ref.run_stage", interrupted, raising=False)
    done = CliRunner().invoke(app, ["train", "adapter", "smoke", f"clips={videos}", f"out={tmp_path}"])
    assert done.exit_code == 130 and "stopped after step 3; the same command goes on from step-00000002" in done.output
    assert [path.stem for path in saved_steps(tmp_path / "checkpoints")] == ["step-00000002"]

    def interrupted_at_once(stage, config):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("animatediff_ref.run_stage", interrupted_at_once, raising=False)
    for out, said in ((tmp_path, "goes on from step-00000002"), (tmp_path / "new", "begins anew")):
        done = CliRunner().invoke(app, ["train", "adapter", "smoke", f"clips={videos}", f"out={out}"])
        assert done.exit_code == 130 and f"stopped; the same command {said}" in done.output


def test_the_command_trains_and_says_what_it_left(videos, tmp_path):
    words = ["train", "camera", "smoke", f"clips={videos}", f"out={tmp_path}", "camera=pan_left", "steps=2"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "pan_left.safetensors: MotionLoRA of rank 4" in done.output
    assert "warning: 1 of 4 clips are left out" in done.output and "broken.mp4" in done.output
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + 2
    for words, said in (
        (["clips"], "a setting is NAME=VALUE, got 'clips'"),
        (["stepz=3"], "is it 'steps'?"),
        ([f"clips={tmp_path / 'none'}", f"out={tmp_path}"], "no folder or table"),
        ([f"clips={videos}", f"out={tmp_path / 'new'}", "num_frames=32", "stride=2"], "none of 4 clips can be used"),
        (["steps=3", f"out={tmp_path / 'new'}", f"clips={videos}", "device=gpu"], "no device 'gpu' here"),
    ):
        done = CliRunner().invoke(app, ["train", "motion", "smoke", *words])
        assert done.exit_code == 2 and "Traceback" not in done.output
        assert said in done.output


if __name__ == "__main__":
    killed(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), 3)
