"""The command line: what it makes, what it says, and one line for bad input."""

import warnings
from importlib import import_module

import av
import pytest
import torch
from conftest import motion_for
from diffusers import PNDMScheduler, StableDiffusionPipeline
from safetensors.torch import save_file
from test_pipelines import pipeline
from typer.testing import CliRunner

import animatediff_ref as ar
from animatediff_ref.cli import app
from animatediff_ref.cli.animate import _camera, _weighed
from animatediff_ref.method.adapters import add_domain_adapter
from animatediff_ref.mini import files as mini
from recipes.common.card import seal

DOCTOR = import_module("animatediff_ref.cli.doctor")  # the module, which its function hides


def invoke(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
def test_animate_writes_a_clip_and_says_what_it_used(tmp_path, suffix):
    out = tmp_path / f"penguin{suffix}"
    done = invoke(
        "animate",
        "--style",
        "blob",
        "--prompt",
        "a penguin, quux",
        "--out",
        out,
        "--frames",
        4,
        "--steps",
        2,
        "--seed",
        5,
        "--device",
        "cpu",
    )
    assert done.exit_code == 0, done.output
    assert "4 frames of 64x64 at 8 fps" in done.output
    assert "style blob" in done.output and "seed 5, 2 steps" in done.output
    assert "never taught: quux" in done.output
    if suffix == ".mp4":
        assert ar.read_clip(out).shape == (4, 64, 64, 3)
    else:
        assert out.stat().st_size > 100


def test_animate_with_cameras(tmp_path):
    """None, one, two, and one twice are four clips."""
    made, asked = [], ((), ("zoom_in",), ("zoom_in", "pan_left=0.5"), ("zoom_in", "zoom_in"))
    for number, cameras in enumerate(asked):
        out, words = tmp_path / f"{number}.mp4", [word for camera in cameras for word in ("--camera", camera)]
        done = invoke(
            "animate", "--prompt", "a fox", "--out", out, "--frames", 4, "--steps", 2, "--device", "cpu", *words
        )
        assert done.exit_code == 0, done.output
        assert f"camera {', '.join(cameras) or 'none'} |" in done.output
        made.append(ar.read_clip(out).tobytes())
    assert len(set(made)) == len(asked)


def test_a_lora_from_a_file_is_as_good_as_a_style_of_the_mini_world(tmp_path):
    """Alone, at half its weight, and beside another one."""
    blob, flat = (mini.data_folder() / mini.STYLES[name].file for name in ("blob", "flat"))
    asked = {
        "none": [],
        "style": ["--style", "blob"],
        "lora": ["--lora", blob],
        "half": ["--lora", f"{blob}=0.5"],
        "both": ["--style", "flat", "--lora", blob],
        "again": ["--lora", flat, "--lora", blob],
    }
    made = {}
    for name, words in asked.items():
        options = [
            "--prompt",
            "a fox",
            "--out",
            tmp_path / f"{name}.mp4",
            "--frames",
            2,
            "--steps",
            2,
            "--device",
            "cpu",
        ]
        done = invoke("animate", *options, *words)
        assert done.exit_code == 0, done.output
        made[name] = ar.read_clip(tmp_path / f"{name}.mp4").tobytes()
    assert made["lora"] == made["style"] and made["again"] == made["both"]
    assert len({made[name] for name in ("none", "lora", "half", "both")}) == 4


def test_animate_in_a_size_and_a_dtype_and_away_from_a_prompt(tmp_path):
    made = []
    for number, words in enumerate(((), ("--dtype", "bfloat16"), ("--negative-prompt", "a beach"), ("--height", 48))):
        out = tmp_path / f"{number}.mp4"
        options = ["--prompt", "a fox", "--out", out, "--frames", 2, "--steps", 2, "--device", "cpu"]
        done = invoke("animate", *options, *words)
        assert done.exit_code == 0, done.output
        assert ("bfloat16 on cpu" if "bfloat16" in words else "float32 on cpu") in done.output
        assert f"2 frames of 64x{48 if '--height' in words else 64} at" in done.output
        made.append(ar.read_clip(out).tobytes())
    assert len(set(made)) == 4


def test_an_adapter_with_published_names_is_no_style_lora_until_it_is_converted(tmp_path):
    """diffusers loads nothing from such a file, and only logs it."""
    pipe = ar.load_base("mini")
    add_domain_adapter(pipe.unet, 4, False)
    ar.save_domain_adapter(pipe.unet, file := tmp_path / "adapter.safetensors", "official")
    advice = "as a style LoRA it needs diffusers' names: animatediff-ref convert FILE NEW --to diffusers"
    assert advice in str(ar.inspect_file(file))
    words = ("animate", "--prompt", "a penguin", "--frames", 2, "--steps", 1, "--out", tmp_path / "a.mp4", "--lora")
    done = invoke(*words, file)
    assert done.exit_code == 2 and f"diffusers finds no LoRA of this base in {file}: {advice}" in done.output
    assert invoke("convert", file, new := tmp_path / "new.safetensors", "--to", "diffusers").exit_code == 0
    assert "either loader takes this one" in str(ar.inspect_file(new)) and invoke(*words, new).exit_code == 0


def test_the_weight_of_a_camera_or_a_lora(tmp_path):
    assert _camera("zoom_in") == ("zoom_in", 1.0) and _camera("pan_left=-0.5") == ("pan_left", -0.5)
    named_so = tmp_path / "a=b.safetensors"
    named_so.touch()
    assert _weighed(str(named_so)) == (str(named_so), 1.0)
    assert _weighed(f"{named_so}=2") == (str(named_so), 2.0)


def test_animate_speaks_of_no_schedule_that_it_has_no_option_for(tmp_path):
    """A base with a scheduler of its own, such as Stable Diffusion 1.5."""
    pipe = pipeline(StableDiffusionPipeline, scheduler=PNDMScheduler(skip_prk_steps=True))
    pipe.save_pretrained(tmp_path / "base")
    ar.save_motion_module(motion_for(pipe.unet), tmp_path / "motion.safetensors")
    files = ("--base", tmp_path / "base", "--motion", tmp_path / "motion.safetensors", "--out", tmp_path / "a.mp4")
    with warnings.catch_warnings():
        warnings.simplefilter("always", ar.ScheduleWarning)
        done = invoke("animate", "--prompt", "a penguin", *files, "--frames", 4, "--steps", 2, "--device", "cpu")
    assert done.exit_code == 0 and "4 frames of 16x16" in done.output
    assert "schedule" not in done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--frames", 40), "1 to 32 frames, got num_frames=40"),
        (("--style", "oil"), "no mini style 'oil'; there are: blob"),
        (("--motion", "absent.ckpt"), "there is no file absent.ckpt"),
        (("--camera", "dolly"), "roll_anticlockwise; got 'dolly'"),
        (("--camera", "zoom_in=much"), "a number, as in zoom_in=0.5, got 'zoom_in=much'"),
        (("--lora", "absent.safetensors"), "there is no file absent.safetensors"),
        (("--lora", mini.data_folder() / mini.SHIPPED["MotionLoRA"]["zoom_in"]), "a LoRA of an image model is needed"),
        (("--height", 30), "divisible by 8"),
        (("--base", "absent.safetensors"), "no base model at absent.safetensors"),
        (("--device", "abacus"), "no device 'abacus' here"),
        (("--out", "clip.avi"), "one of .mp4, .gif, .webp, got 'clip.avi'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, words, said):
    done = invoke("animate", "--prompt", "a penguin", "--out", tmp_path / "a.mp4", *words)
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output
    assert not list(tmp_path.iterdir())


def test_a_missing_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ANIMATEDIFF_REF_DATA", str(tmp_path))
    done = invoke("animate", "--prompt", "a penguin", "--out", tmp_path / "a.mp4")
    assert (done.exit_code, "the mini world is not at" in done.output) == (2, True)
    assert invoke("doctor").exit_code == 2


def test_doctor_names_what_differs_or_is_missing(tmp_path, monkeypatch):
    """A file that is well, and every way in which one is not."""
    folder, names = tmp_path / "models" / "mini", ("well", "other", "half", "pointer", "silent", "bare", "absent")
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").touch()
    folder.mkdir(parents=True)
    for name in names[:-1]:
        save_file({"weight": torch.ones(100)}, folder / f"{name}.safetensors")
        (folder / f"{name}.json").write_text("{}")
        if name != "silent":
            seal(folder / f"{name}.json")
    save_file({"weight": torch.zeros(100)}, folder / "other.safetensors")
    (folder / "half.safetensors").write_bytes((folder / "half.safetensors").read_bytes()[:200])
    (folder / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n")
    (folder / "bare.json").unlink()
    monkeypatch.setenv("ANIMATEDIFF_REF_DATA", str(tmp_path))
    monkeypatch.setattr(mini, "SHIPPED", {"style": {name: f"models/mini/{name}.safetensors" for name in names}})
    done = invoke("doctor")
    assert done.exit_code == 2 and "git checkout data" in done.output
    for name, said in {
        "other": "is not the file that its card, other.json, speaks of",
        "half": "is damaged, or half downloaded",
        "pointer": "is a pointer of Git LFS, which 'git lfs pull' replaces",
        "silent": "has no sha256 in its card, silent.json",
        "bare": "has no card",
        "absent": "is missing",
    }.items():
        assert f"PROBLEM: models/mini/{name}.safetensors {said}" in done.output
    assert done.output.count("PROBLEM") == 6, "and nothing of the one that is well"
    monkeypatch.setattr(mini, "SHIPPED", {})
    for name in names[1:]:
        (folder / f"{name}.safetensors").unlink(missing_ok=True)
    assert "all is well" in invoke("doctor").output


def test_doctor():
    done = invoke("doctor")
    assert done.exit_code == 0, done.output
    for word in (
        "torch",
        "diffusers",
        "device:",
        "ffmpeg:",
        "writes H.264: yes",
        "523 clips",
        "compared with their cards",
        "all is well",
    ):
        assert word in done.output


@pytest.mark.parametrize(
    "broken, said",
    [
        ((DOCTOR, "requires", lambda name: ["torch>=2", "no-such-thing>=1"]), "pip install no-such-thing"),
        ((av, "codecs_available", {"vp9"}), "PyAV cannot write H.264"),
    ],
)
def test_doctor_says_what_to_install(monkeypatch, broken, said):
    monkeypatch.setattr(*broken)
    done = invoke("doctor")
    assert done.exit_code == 2 and said in done.output and "MISSING" in done.output
    assert "all is well" not in done.output


def test_inspect_and_convert(tmp_path):
    mini = ar.data_folder() / "models/mini"
    done = invoke("inspect", mini / "motion_module.safetensors", mini / "model_index.json")
    assert done.exit_code == 0
    for part in ("motion module v3", "48, 96, 160", "load_motion_module(path)", "not a model", "is a text file"):
        assert part in done.output
    done = invoke("convert", mini / "motion_module.safetensors", tmp_path / "adapter", "--to", "diffusers")
    assert done.exit_code == 0, done.output
    assert "from official to diffusers" in done.output and "pools this module's entry norm" in done.output
    assert ar.load_motion_module(tmp_path / "adapter").config == ar.load_motion_module("mini").config
    done = invoke("convert", tmp_path / "adapter", tmp_path / "m.ckpt", "--dtype", "bfloat16")
    assert ar.inspect_file(tmp_path / "m.ckpt").dtypes == ("bfloat16",)
    target = tmp_path / "a.safetensors"
    done = invoke("convert", mini / "domain_adapter.safetensors", target, "--to", "kohya", "--dtype", "float16")
    assert "float16; kohya names" in done.output
    ar.load_domain_adapter(ar.load_base("mini").unet, target)
    done = invoke("inspect", tmp_path / "absent", mini / "model_index.json")
    assert done.exit_code == 2 and "there is no file" in done.output and "not a model" in done.output
    target = tmp_path / "x.safetensors"
    refused = (
        ("inspect", tmp_path / "absent"),
        ("convert", mini / "styles/blob.safetensors", target),
        ("convert", mini / "model_index.json", target),
        ("convert", mini / "motion_module.safetensors", target, "--to", "kohya"),
        ("convert", mini / "domain_adapter.safetensors", target, "--to", "official"),
    )
    for words in refused:
        done = invoke(*words)
        assert done.exit_code == 2 and done.output.startswith("error: "), done.output
    assert not target.exists()
