"""Reading, writing and listing clips; what is unreadable says so."""

import numpy as np
import pytest
from PIL import Image

import animatediff_ref as ar


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
def test_written_clips_come_back(clip, tmp_path, suffix):
    ar.write_clip(clip, path := tmp_path / f"clip{suffix}")
    if suffix == ".mp4":
        back = ar.read_clip(path)
    else:
        image, back = Image.open(path), []
        for i in range(image.n_frames):
            image.seek(i)
            back.append(np.asarray(image.convert("RGB")))
        assert image.info["loop"] == 0
    assert np.shape(back) == clip.shape
    assert np.abs(np.asarray(back, float) - clip).mean() < 8


def test_stride_count_and_size(clip, tmp_path):
    ar.write_clip(np.concatenate([clip, clip], 2), path := tmp_path / "wide.mp4")
    assert ar.read_clip(path).shape == (8, 32, 64, 3)
    small = ar.read_clip(path, num_frames=3, stride=2, size=16)
    assert small.shape == (3, 16, 16, 3)
    assert np.abs(small[1].astype(float) - ar.read_clip(path, size=16)[2]).max() == 0


def test_unreadable_empty_and_short_videos(clip, tmp_path):
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    ar.write_clip(clip, tmp_path / "short.mp4")
    for name in ("text.mp4", "empty.mp4", "absent.mp4"):
        with pytest.raises(ValueError, match=rf"{name} cannot be read as video"):
            ar.read_clip(tmp_path / name)
    with pytest.raises(ValueError, match="has 4 frames at stride 2, but 16 are needed"):
        ar.read_clip(tmp_path / "short.mp4", num_frames=16, stride=2)


def test_what_is_no_clip(tmp_path):
    with pytest.raises(
        ValueError, match=r"uint8 of shape \(frames, height, width, 3\), got float64 of shape \(2, 4, 4, 3\)"
    ):
        ar.write_clip(np.zeros((2, 4, 4, 3)), tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=r"\.mp4, \.gif, \.webp, got 'a\.avi'"):
        ar.write_clip(np.zeros((2, 4, 4, 3), np.uint8), tmp_path / "a.avi")
    assert not list(tmp_path.iterdir())


def test_lists_of_clips(clip, tmp_path):
    for name in ("one", "two_birds"):
        ar.write_clip(clip, tmp_path / f"{name}.mp4")
    (tmp_path / "one.txt").write_text("a single bird\n")
    assert [c.caption for c in ar.list_clips(tmp_path)] == ["a single bird", "two birds"]
    (tmp_path / "set.csv").write_text("videoid,name,page_dir\none,a bird,\n")
    (found,) = ar.list_clips(tmp_path / "set.csv")
    assert (found.caption, found.path) == ("a bird", tmp_path / "one.mp4")


def test_lists_that_cannot_be_read(tmp_path):
    (tmp_path / "set.csv").write_text("id,caption\n1,a bird\n")
    with pytest.raises(ValueError, match="lacks the columns videoid, name; it has id, caption"):
        ar.list_clips(tmp_path / "set.csv")
    with pytest.raises(ValueError, match=r"no \.mp4 in"):
        ar.list_clips(tmp_path)
    with pytest.raises(ValueError, match="no folder or CSV of clips at"):
        ar.list_clips(tmp_path / "absent")


def test_looking_at_clips(clip, capsys):
    assert ar.filmstrip(clip, frames=4, width=32).size == (4 * 34 - 2, 32)
    assert np.asarray(ar.xt_slice(clip, scale=1)).shape == (8, 32, 3)
    with pytest.raises(ValueError, match="row from 0 to 31, got 40"):
        ar.xt_slice(clip, row=40)


def test_motion_amount(clip):
    assert ar.motion_amount(clip[[0] * 5]) == 0
    mask = ar.object_mask(clip, np.zeros((32, 32, 3)))
    assert mask.sum() == 8 * 100
    # ten columns by two pixels change at each side of the square, out of 120 pixels that it covers before or after
    assert ar.motion_amount(clip, mask) == pytest.approx(40 / 120)
    assert ar.motion_amount(clip, np.zeros_like(mask)) == 0


def test_tables_from_spreadsheets_and_empty_ones(tmp_path):
    (tmp_path / "set.csv").write_text("videoid,name\none,a bird\n", encoding="utf-8-sig")
    assert ar.list_clips(tmp_path / "set.csv")[0].caption == "a bird"
    (tmp_path / "set.csv").write_text("videoid,name\n")
    with pytest.raises(ValueError, match="names no clips"):
        ar.list_clips(tmp_path / "set.csv")
    with pytest.raises(ValueError, match="stride=0"):
        ar.read_clip(tmp_path / "any.mp4", stride=0)
