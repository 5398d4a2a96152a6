"""Sets of clips in which some files are broken, each in another way; and a script that tries ten thousand.

    python tests/broken_clips.py 10000

It prints how many clips are delivered once an epoch, how many bad ones are named, and the loader's share of a step.
"""

import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

import animatediff_ref as ar


def broken_set(clip: np.ndarray, folder: Path, rows: int, every: int) -> tuple[list[Path], list[Path]]:
    """A WebVid-style table ``folder/set.csv`` of so many rows, one of ``every`` broken; the good files and the bad."""
    ar.write_clip(clip, folder / "whole.mp4")
    whole = (folder / "whole.mp4").read_bytes()
    ar.write_clip(clip[:2], folder / "short.mp4")
    broken = [
        b"",  # empty
        b"<html>404 Not Found</html>",  # what a server said
        whole[: len(whole) // 3],  # cut before its end
        (folder / "short.mp4").read_bytes(),  # too short
        whole[:40] + bytes(len(whole) - 40),  # zeros after the head
        None,  # missing
    ]
    good, bad, lines = [], [], ["videoid,name"]
    for row in range(rows):
        file = folder / f"{row:05d}.mp4"
        content = broken[(row // every) % len(broken)] if row % every == every - 1 else whole
        if content is not None:
            file.write_bytes(content)
        (good if content is whole else bad).append(file)
        lines.append(f"{row:05d},clip {row}")
    (folder / "set.csv").write_text("\n".join(lines))
    return good, bad


def main(rows: int) -> None:
    clip = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), np.uint8)
    with tempfile.TemporaryDirectory() as name:
        good, bad = broken_set(clip, Path(name), rows, every=100)
        pipe = ar.load_base("mini")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", ar.SkippedClipsWarning)
            clips = ar.encode_clips(pipe, ar.list_clips(f"{name}/set.csv"), num_frames=4, size=32)
        text = "".join(str(warning.message) for warning in said)
        named = sum(str(path) in text for path in bad)
    delivered = sorted(clips.in_turn(0, len(clips), seed=0)) == list(range(len(good)))
    print(f"{rows} rows: {len(good)} good, each once an epoch: {delivered}; {named} of {len(bad)} bad ones named")
    motion, loading, windows = ar.load_motion_module("mini"), [], clips.windows

    def timed(*args):
        start = time.perf_counter()
        found = windows(*args)
        loading.append(time.perf_counter() - start)
        return found

    clips.windows = timed
    plan = ar.TrainConfig(steps=20, batch_size=4, num_frames=4)
    records = list(ar.train_motion_module(pipe.unet, motion, clips, plan))
    print(f"loading a batch takes {100 * sum(loading) / records[-1].seconds:.2f} % of a step")


if __name__ == "__main__":
    main(int(sys.argv[1]))
