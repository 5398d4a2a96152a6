"""Kill runs at random moments, go on with them, and compare what they leave with an uninterrupted run.

python tests/kill_runs.py [10]      # so many times a stage; minutes
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import animatediff_ref as ar
from animatediff_ref.weights.tensors import read_weights

STEPS = 12


def command(stage: str, videos: Path, out: Path) -> list[str]:
    words = ["train", stage, "smoke", f"clips={videos}", f"out={out}", f"steps={STEPS}", f"latents={videos}-latents"]
    return [sys.executable, "-m", "animatediff_ref.cli", *words, *(["camera=zoom_in"] if stage == "camera" else [])]


def finished(words: list[str], seconds: float | None) -> bool:
    """Whether a command comes to its end within so many seconds; else it is killed by SIGKILL."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert process.wait(seconds) == 0, words
        return True
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return False


def weights(stage: str, out: Path) -> dict[str, torch.Tensor]:
    camera = {"camera": "zoom_in"} if stage == "camera" else {}
    return read_weights(ar.weights_file(stage, ar.read_config(stage, "smoke", {"out": out, **camera}))).tensors


def main(times: int) -> None:
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = folder / "videos"
        videos.mkdir()
        for clip in ar.list_clips(ar.data_folder() / "clips.csv", ar.data_folder() / "clips")[:3]:
            shutil.copy(clip.path, videos)
        for stage in ("adapter", "motion", "camera"):
            start = time.perf_counter()
            assert finished(command(stage, videos, folder / stage), None)
            whole, took, at = weights(stage, folder / stage), time.perf_counter() - start, []
            for i in range(times):
                out, kills = folder / f"{stage}-{i}", 0
                while not finished(command(stage, videos, out), rng.uniform(0.2, 1.1) * took if kills < 3 else None):
                    kills += 1
                at.append(kills)
                same = weights(stage, out)
                assert same.keys() == whole.keys() and all(torch.equal(same[k], whole[k]) for k in whole), (stage, i)
            print(
                f"{stage}: {times} runs killed {sum(at)} times, all with the weights of the uninterrupted one",
                flush=True,
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
