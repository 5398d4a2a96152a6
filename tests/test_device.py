"""Another device than the CPU, in a process of its own: what is pretended there would reach the other tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import backend_registration


def test_the_numbers_on_another_device_are_those_of_the_cpu():
    device = os.environ.get("ANIMATEDIFF_REF_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "gpu")
    if device == "gpu" and not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch cannot pretend a device")
    env = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", Path(__file__).with_name("on_gpu.py")],
        env={**env, "ANIMATEDIFF_REF_TEST_DEVICE": device},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout and "skipped" not in done.stdout
