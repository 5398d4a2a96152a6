"""One switch for how much a page computes: the environment variable ``ANIMATEDIFF_REF_RUN`` = smoke, normal or full."""

import os
from typing import TypeVar

T = TypeVar("T")
SIZES = ("smoke", "normal", "full")


def run_size() -> str:
    """The size now in force; ``normal`` unless the environment says otherwise."""
    size = os.environ.get("ANIMATEDIFF_REF_RUN", "normal")
    if size not in SIZES:
        raise ValueError(f"ANIMATEDIFF_REF_RUN must be one of {', '.join(SIZES)}, got {size!r}")
    return size


def sized(smoke: T, normal: T, full: T) -> T:
    """The value for the size now in force: ``steps = sized(smoke=5, normal=60, full=900)``."""
    return {"smoke": smoke, "normal": normal, "full": full}[run_size()]
