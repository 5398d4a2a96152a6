"""Another device than the CPU, in a process of its own: what is pretended there would reach the other tests."""

import os
import subprocess
import sys
from pathlib import Path

import torch


def test_the_numbers_on_another_device_are_those_of_the_cpu():
    device = "cuda" if torch.cuda.is_available() else "gpu"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", Path(__file__).with_name("on_gpu.py")],
        env={**os.environ, "ANIMATEDIFF_REF_TEST_DEVICE": device},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout and "skipped" not in done.stdout
