"""The recipes, run from the autoencoder to the gallery in a toy world."""

import json
import os
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

import animatediff_ref as ar
from animatediff_ref.clips.camera import CAMERAS
from animatediff_ref.mini.cards import card_of, checked
from animatediff_ref.mini.files import STYLES
from recipes import make_world
from recipes.art.toy import lay_out
from recipes.common.card import rounded

ROOT = Path(__file__).resolve().parents[1]
TOLD = ["recipe", "commit", "clean", "command", "sources_sha256", "config", "minutes", "device", "torch", "data_sha256"]


def state(folder: Path) -> str:
    """A hash of a folder's files."""
    total = sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "recipes" not in path.parts:
            total.update(path.as_posix().encode() + path.read_bytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    """The data of a toy world, made by every recipe in turn, while the real data stays as it is."""
    folder, before = tmp_path_factory.mktemp("toy") / "data", state(ROOT / "data")
    words = [sys.executable, "-m", "recipes.make_world", "--smoke", folder]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "data"), "TQDM_DISABLE": "1"}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
    assert state(ROOT / "data") == before
    return folder


def test_every_model_of_a_toy_world_loads(toy, monkeypatch):
    monkeypatch.setenv("ANIMATEDIFF_REF_DATA", str(toy))
    pipe = ar.load_base("mini")
    ar.load_domain_adapter(pipe.unet, "mini")
    ar.inject(pipe.unet, motion := ar.load_motion_module("mini"), num_frames=4)
    for camera in CAMERAS:
        ar.load_motion_lora(motion, camera)
    assert ar.animate(pipe, "a penguin", num_inference_steps=1).shape == (4, 64, 64, 3)
    for style in STYLES:
        ar.load_base("mini", style=style)
    assert ar.text_features(ar.load_judge("mini"), "a penguin").shape == (1, 128)


def test_every_weight_of_a_toy_world_has_a_card_that_says_how_it_was_made(toy, monkeypatch):
    monkeypatch.setenv("ANIMATEDIFF_REF_DATA", str(toy))
    found = checked()
    assert len(found) > 12 and set(found.values()) == {""}
    for name in found:
        if name.endswith(".safetensors"):
            card = json.loads(card_of(toy / name).read_text())
            assert not set(TOLD) - set(card), name
            assert card["config"]["steps"] == 2 and (ROOT / card["recipe"]).exists()
            assert card["command"].startswith("python -m recipes.train.")
    base, motion = (json.loads((toy / f"models/mini/{name}.json").read_text()) for name in ("card", "motion_module"))
    assert (base["things"], base["continued_from"]["things"]) == ("taught", "base")
    assert base["command"] == "python -m recipes.train.base --things taught --start models/mini --device cpu"
    assert motion["config"]["weighting"] == "debiased"
    assert (
        motion["held_out_loss"].keys() == motion["held_out_loss_shuffled"].keys() and len(motion["held_out_loss"]) == 3
    )


def test_what_is_measured_of_a_toy_world_has_the_names_of_the_real_one(toy):
    """Except for what is counted by name: the prompts."""

    def names(found):
        return {key: names(value) for key, value in found.items()} if isinstance(found, dict) else None

    for file in ("measured.json", "footage.json"):
        made, real = (json.loads((folder / file).read_text()) for folder in (toy, ROOT / "data"))
        assert {key: names(real[key]) for key in real if key in made and key != "commit"} == {
            key: names(made[key]) for key in made if key in real and key != "commit"
        }
        assert {"made by", "commit", "command", "sources_sha256"} < made.keys()
        assert set(real) - set(made) == set()
    assert len(list((toy / "contact").glob("*.webp"))) == 9 and (toy / "gallery.webp").exists()


def test_every_ablation_runs_in_a_toy_world(toy):
    """Each table of the sweeps, a row for each cell; a second run finds nothing to do."""
    words = [sys.executable, "-m", "recipes.make_ablations"]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "data"), "TQDM_DISABLE": "1", "ANIMATEDIFF_REF_DATA": str(toy)}
    for again in (False, True):
        options = [] if again else ["--smoke", toy]
        done = subprocess.run([*words, *options], cwd=ROOT, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
        todo = re.findall(r"(\w+)\.csv: (\d+) of (\d+) cells", done.stdout)
        assert len({name for name, *_ in todo}) == 9
        assert all(int(left) == (0 if again else int(cells)) for _, left, cells in todo)
    cards = sorted((toy / "results").glob("*.json"))
    assert len(cards) == 9
    for card in map(json.loads, map(Path.read_text, cards)):
        assert card["recipe"].startswith("data/recipes/ablate/") and card["rows"] > 0
    assert len(list((toy / "results" / "clips").glob("*.mp4"))) > 20


def test_only_what_is_missing_is_made_and_what_is_measured_of_it(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(make_world, "DATA", tmp_path / "data")
    monkeypatch.setattr(make_world, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(make_world, "run", lambda step, device: ran.append(step))
    for made in make_world.STEPS.values():
        (path := tmp_path / "data" / made).parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    make_world.make("cpu", force=False)
    assert ran == []
    (tmp_path / "data/models/judge/card.json").unlink()
    make_world.make("cpu", force=False)
    measures = ["measure.footage", "measure.world", "measure.gallery", "measure.describe"]
    assert ran == ["train.judge", *measures]
    ran.clear()
    make_world.make("cpu", force=True)
    assert ran == list(make_world.STEPS)


def test_a_making_that_was_interrupted_goes_on(tmp_path, monkeypatch):
    ran = []

    def run(step: str, device: str) -> None:
        if step == "train.judge" and not ran.count(step):
            ran.append(step)
            raise KeyboardInterrupt
        ran.append(step)

    monkeypatch.setattr(make_world, "DATA", tmp_path / "data")
    monkeypatch.setattr(make_world, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(make_world, "run", run)
    with pytest.raises(KeyboardInterrupt):
        make_world.make("cpu", force=True)
    done = len(ran)
    make_world.make("cpu", force=False)
    assert ran[done:] == list(make_world.STEPS)[done - 1 :]
    assert not (tmp_path / "runs/world.txt").exists()


def test_a_toy_world_is_not_laid_over_another(tmp_path):
    with pytest.raises(ValueError, match="is there and is no toy world"):
        lay_out(tmp_path)
    assert not list(tmp_path.iterdir())


def test_numbers_are_rounded_wherever_they_are():
    assert rounded({"a": [1.23456, 2], "b": ("x", {"c": 98765.4})}) == {"a": [1.235, 2], "b": ["x", {"c": 98770.0}]}
