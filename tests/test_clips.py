"""Reading, writing and listing clips; what is unreadable says so."""

import shutil
import subprocess
import sys
import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import shown_files
from broken_clips import broken_set
from PIL import Image, ImageDraw
from typer.testing import CliRunner

import animatediff_ref as ar
from animatediff_ref.cli import app
from animatediff_ref.clips.video import played


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
def test_written_clips_come_back(clip, tmp_path, suffix):
    ar.write_clip(clip, path := tmp_path / f"clip{suffix}")
    back = ar.read_clip(path)
    assert np.shape(back) == clip.shape
    assert np.abs(back.astype(float) - clip).mean() < 8
    if suffix != ".mp4":
        assert Image.open(path).info["loop"] == 0


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
@pytest.mark.parametrize("fps", [7, 8, 12.5, 25])
def test_frames_that_are_equal_come_back_as_often_as_they_were(tmp_path, suffix, fps):
    clip = np.zeros((40, 16, 16, 3), np.uint8)
    for i in range(40):
        clip[i, :, min(i, 4) :] = 255  # moves for five frames, then stands for 35
    ar.write_clip(clip, path := tmp_path / f"still{suffix}", fps)
    assert np.abs(ar.read_clip(path).astype(float) - clip).max() < 40
    ar.write_clip(clip[:1].repeat(8, 0), path, fps)  # nothing moves at all
    assert len(ar.read_clip(path)) == len(ar.read_clip(path, fps=fps)) == 8


@pytest.mark.parametrize(
    ("fps", "rate"),
    [(29.97, "2997/100"), (30000 / 1001, "30000/1001"), (np.float64(8), "8"), (np.int64(24), "24"), (0.5, "1/2")],
)
def test_any_positive_rate_is_written(clip, tmp_path, fps, rate):
    ar.write_clip(clip, path := tmp_path / "a.mp4", fps)
    with av.open(str(path)) as film:
        assert film.streams.video[0].average_rate == Fraction(rate)


def test_numbers_of_a_film_that_cannot_be(clip, tmp_path):
    for suffix in (".mp4", ".gif", ".webp"):
        for fps in (0, -1, "8", None, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="fps, frames a second, is a positive number"):
                ar.write_clip(clip, tmp_path / f"a{suffix}", fps=fps)
    with pytest.raises(ValueError, match="no more than 50"):
        ar.write_clip(clip, tmp_path / "a.gif", fps=60)
    with pytest.raises(ValueError, match="at least 2x2 pixels, got 1x32"):
        ar.write_clip(clip[:, :, :1], tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=r"crf.*got 20\.5"):
        ar.write_clip(clip, tmp_path / "a.mp4", crf=20.5)
    assert not list(tmp_path.iterdir())
    ar.write_clip(clip, path := tmp_path / "a.mp4")
    for wrong in ({"size": -4}, {"size": (32, 64)}, {"stride": 2.0}, {"num_frames": 0}):
        with pytest.raises(ValueError, match="whole numbers of at least 1"):
            ar.read_clip(path, **wrong)
    with pytest.raises(ValueError, match="fps"):
        ar.read_clip(path, fps=0)


@pytest.mark.parametrize(
    ("matrix", "seen"),
    [
        ((1, 0, 0, 1), lambda f: f),
        ((0, 1, -1, 0), lambda f: np.rot90(f, -1)),  # a phone held upright: a quarter turn clockwise
        ((0, -1, 1, 0), lambda f: np.rot90(f)),
        ((-1, 0, 0, -1), lambda f: f[::-1, ::-1]),
        ((-1, 0, 0, 1), lambda f: f[:, ::-1]),  # a mirror
        ((1, 0, 0, -1), lambda f: f[::-1]),
        ((0, 1, 1, 0), lambda f: f.swapaxes(0, 1)),
    ],
)
def test_films_are_turned_and_mirrored_as_they_say(tmp_path, matrix, seen):
    frame = np.zeros((32, 64, 3), np.uint8)
    frame[:16, :16], frame[16:, 48:] = 255, 120  # no two of its turns and mirrors are alike
    ar.write_clip(frame[None].repeat(4, 0), path := tmp_path / "phone.mp4", crf=1)
    shown_files.display_matrix(path, matrix)
    found, wanted = ar.read_clip(path), seen(frame)
    assert found.shape == (4, *wanted.shape)
    assert np.abs(found[0].astype(float) - wanted).mean() < 3


def test_pixels_that_are_not_square_are_stretched(tmp_path):
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        for _ in range(3):
            film.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 64, 3), np.uint8), format="rgb24")))
        film.mux(stream.encode())
    assert ar.read_clip(path).shape == (3, 32, 128, 3)


@pytest.mark.parametrize("name", ["sticker.png", "sticker.webp", "sticker.gif"])
def test_transparent_parts_are_white_whatever_lies_under_them(tmp_path, name):
    frames = []
    for i in range(4):
        frames.append(Image.new("RGBA", (32, 32), (255, 0, 0, 0)))
        ImageDraw.Draw(frames[-1]).rectangle((4 * i, 8, 4 * i + 8, 16), fill="blue")
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=100, disposal=2, lossless=True)
    clip = ar.read_clip(tmp_path / name)
    assert clip.shape == (4, 32, 32, 3)
    assert (clip[:, 30, 30] > 250).all()
    assert abs(clip[3, 12, 16].astype(int) - [0, 0, 255]).max() < 12 and clip[3, 12, 2].min() > 240


@pytest.mark.parametrize("kind", shown_files.FORMS, ids=lambda kind: " ".join(map(str, kind[:3])))
def test_films_are_seen_as_a_player_shows_them(tmp_path, kind):
    for seed in range(4):
        (tmp_path / str(seed)).mkdir()
        shown_files.try_film(shown_files.Drawn(seed), tmp_path / str(seed), kind)


def test_pictures_are_seen_as_a_viewer_shows_them(tmp_path):
    for seed in range(30):
        (tmp_path / str(seed)).mkdir()
        shown_files.try_pictures(shown_files.Drawn(seed), tmp_path / str(seed))


def test_the_lengths_of_frames_are_not_believed_where_frames_are_stored_out_of_order(tmp_path):
    """As phones film: H.265 at a rate that varies. FFmpeg tells of each frame the length of another."""
    times, clock = (0, 80, 120, 320, 400, 440, 480), Fraction(1, 1000)
    told = {"rate": 10, "clock": clock, "times": times, "aspect": 1, "colours": 5, "full": False, "tagged": False}
    clip = np.full((len(times), 32, 32, 4), 255, np.uint8)
    shown_files.write_film(tmp_path / "phone.mp4", "libx265", "yuv420p", clip, told)
    frames = list(played(tmp_path / "phone.mp4"))
    assert [round(1000 * frame.start) for frame in frames] == list(times)
    assert frames[-1].end < 0.6


def varying(path) -> None:
    """A film of 25 and then 5 frames a second, in which a bar moves evenly: 100 pixels a second."""
    base = Fraction(1, 1000)
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 160, 32, "yuv420p"
        stream.time_base = stream.codec_context.time_base = base
        for t in (0, 40, 80, 120, 160, 200, 400, 600, 800, 1000):
            picture = np.zeros((32, 160, 3), np.uint8)
            picture[:, t // 10 : t // 10 + 16] = 255
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = t, base
            film.mux(stream.encode(frame))
        film.mux(stream.encode())


def test_frames_by_time_move_evenly_where_the_rate_varies(tmp_path):
    varying(path := tmp_path / "vfr.mp4")

    def steps(**options):
        return np.diff([int((f[16, :, 0] > 128).argmax()) for f in ar.read_clip(path, **options)])

    assert set(steps()) == {4, 20}
    assert set(steps(fps=5)) == {20}
    assert len(ar.read_clip(path, fps=5)) in (6, 7)
    assert len(ar.read_clip(path, fps=25)) == pytest.approx(26, abs=2)  # frames are shown again
    ar.write_clip(np.zeros((60, 16, 16, 3), np.uint8), path := tmp_path / "fast.mp4", fps=60)
    assert len(ar.read_clip(path, fps=8)) == 8 and len(ar.read_clip(path, fps=8, stride=2)) == 4
    with pytest.raises(ValueError, match="has 8 frames at stride 1 and 8 a second, but 9 are needed"):
        ar.read_clip(path, 9, fps=8)


def test_a_film_that_changes_its_size_keeps_the_first(tmp_path):
    data = b""
    for height, width in ((32, 64), (64, 32)):
        with av.open(str(tmp_path / "part.ts"), "w", format="mpegts") as film:
            stream = film.add_stream("libx264", rate=8)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for picture in np.zeros((4, height, width, 3), np.uint8):
                film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            film.mux(stream.encode())
        data += (tmp_path / "part.ts").read_bytes()
    (tmp_path / "two.ts").write_bytes(data)
    assert ar.read_clip(tmp_path / "two.ts").shape == (8, 32, 64, 3)
    assert ar.read_clip(tmp_path / "two.ts", size=16).shape == (8, 16, 16, 3)


def test_memory_holds_the_result_and_not_the_film(tmp_path):
    """400 frames of 640 x 360 are 276 MB; what is asked for is 300 kB. In a process of its own, for its peak."""
    with av.open(str(tmp_path / "long.mp4"), "w") as film:
        stream = film.add_stream("libx264", rate=30, options={"preset": "ultrafast", "crf": "45"})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for i in range(400):
            picture = np.full((360, 640, 3), i % 256, np.uint8)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        film.mux(stream.encode())
    code = f"""
import gc, resource
from animatediff_ref.clips.video import read_clip
gc.disable()  # no frame may wait for the garbage collector
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
read_clip({str(tmp_path / "long.mp4")!r}, num_frames=4, size=16)
before = peak()
assert read_clip({str(tmp_path / "long.mp4")!r}, size=16).shape == (400, 16, 16, 3)
print(peak() - before)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(told.stdout) < 40


def test_a_folder_of_numbered_pictures_is_a_clip(tmp_path):
    (tmp_path / "set" / "walk").mkdir(parents=True)
    for i in (1, 2, 10):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "set" / "walk" / f"frame{i}.png")
    (tmp_path / "set" / "walk" / ".DS_Store").write_bytes(b"")
    (tmp_path / "set" / "walk.txt").write_text("someone walks")
    (found,) = ar.list_clips(tmp_path / "set")
    assert found.caption == "someone walks"
    assert ar.read_clip(found.path)[:, 0, 0, 0].tolist() == [1, 2, 10]


def test_names_as_cameras_and_editors_leave_them(clip, tmp_path):
    for name in ("A.mp4", "b.mp4", "c.gif", "d.webp"):
        ar.write_clip(clip, tmp_path / name)
    (tmp_path / "A.mp4").rename(tmp_path / "A.MP4")
    (tmp_path / "b.mp4").rename(tmp_path / "b.MOV")
    (tmp_path / "below").mkdir()
    ar.write_clip(clip, tmp_path / "below" / "e:f.mp4")  # not a protocol
    for leftover in ("._b.mp4", ".hidden.mp4", "~c.mp4", "notes.txt", "thumb.jpg"):
        (tmp_path / leftover).write_bytes(b"\0\5\26\7")
    Image.new("RGB", (8, 8)).save(tmp_path / "cover.png")
    found = ar.list_clips(tmp_path)
    assert sorted(entry.path.name for entry in found) == ["A.MP4", "b.MOV", "c.gif", "d.webp", "e:f.mp4"]
    assert all(ar.read_clip(entry.path).shape == clip.shape for entry in found)


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_captions_in_other_encodings(clip, tmp_path, coding):
    ar.write_clip(clip, tmp_path / "a.mp4")
    (tmp_path / "a.txt").write_bytes("café “noir”\r\n".encode(coding))
    assert ar.list_clips(tmp_path)[0].caption == "café “noir”"
    (tmp_path / "list.csv").write_bytes("videoid,name\r\na,café\r\n".encode(coding))
    assert ar.list_clips(tmp_path / "list.csv")[0].caption == "café"
    (tmp_path / "a.txt").write_bytes(b"caf\x81")
    with pytest.raises(ValueError, match=r"a\.txt is neither UTF-8 nor Windows-1252 text"):
        ar.list_clips(tmp_path)


def test_tables_beside_and_apart_from_their_files(clip, tmp_path):
    (tmp_path / "set").mkdir()
    ar.write_clip(clip, tmp_path / "set" / "a.mp4")
    rows = ['{"file_name": "a.mp4", "text": "a bird"}', "", '{"file_name": "b.mp4", "text": null}']
    (tmp_path / "set" / "metadata.jsonl").write_text("\n".join(rows))
    found = ar.list_clips(tmp_path / "set")
    assert found == [ar.ClipEntry(tmp_path / "set" / "a.mp4", "a bird"), ar.ClipEntry(tmp_path / "set" / "b.mp4", "")]
    (tmp_path / "apart.csv").write_text('video,caption\na.mp4,"a bird, and more"\n')
    assert ar.list_clips(tmp_path / "apart.csv", tmp_path / "set")[0].caption == "a bird, and more"
    (tmp_path / "set" / "metadata.jsonl").write_text('{"file_name": "a.mp4", "text": "a"}\n{"file_name": \n')
    with pytest.raises(ValueError, match=r"metadata\.jsonl, line 2, is not JSON"):
        ar.list_clips(tmp_path / "set")


CITY = Path(__file__).parent / "city.mp4"  # a real film: two views of skyscrapers, with a cut at frame 116


def test_a_set_is_checked_before_training(clip, tmp_path, capsys):
    shutil.copy(CITY, tmp_path / "city.mp4")
    ar.write_clip(ar.read_clip(CITY)[:, 10:80, 10:150], tmp_path / "cropped.mp4", fps=25)
    ar.write_clip(ar.read_clip(CITY), tmp_path / "twin.mp4", fps=25, crf=35)
    ar.write_clip(clip, tmp_path / "square.mp4", fps=8)
    (tmp_path / "broken.mp4").write_bytes((tmp_path / "twin.mp4").read_bytes()[:300])
    reports = {report.entry.path.stem: report for report in ar.check_clips(ar.list_clips(tmp_path), 16, stride=4)}
    assert reports["city"].cuts == reports["twin"].cuts == (116,) and reports["square"].cuts == ()
    assert reports["twin"].twin.path.stem == "city" and not reports["city"].twin and not reports["square"].twin
    assert (reports["city"].frames, reports["city"].size) == (190, (160, 90))
    assert reports["city"].fps == pytest.approx(25)
    assert "cannot be read" in reports["broken"].fault
    assert reports["square"].fault == "has 8 frames, and 61 are needed"
    done = CliRunner().invoke(app, ["clips", "check", str(tmp_path), "--stride", "4"])
    assert done.exit_code == 0 and "5 clips, 3 can be used with 16 frames at stride 4" in done.output
    assert "twin.mp4: shows the same as" in done.output and "1 cuts, at frames 116" in done.output
    assert "25 fps (3)" in done.output and "160x90 (2)" in done.output
    assert "those with cuts (3) and twins (1), too" in done.output and "captions: 5 from its own name" in done.output
    (tmp_path / "city.txt").write_text("skyscrapers from the air")
    done = CliRunner().invoke(app, ["clips", "check", str(tmp_path), "--frames", "61", "--fps", "8"])
    assert "captions: 4 from its own name, 1 from a .txt file" in done.output
    assert "3 can be used" in done.output and "square.mp4: has 8 frames at 8 a second, and 61 are needed" in done.output
    done = CliRunner().invoke(app, ["clips", "check", str(tmp_path), "--frames", "62", "--fps", "8"])
    assert done.exit_code == 2 and "city.mp4: has 61 frames at 8 a second, and 62 are needed" in done.output
    for rate in (3, 7.9, 8, 12.5, 30):  # as many as training then finds
        there = len(ar.read_clip(CITY, fps=rate))
        for needed, fault in ((there, ""), (there + 1, f"has {there} frames at {rate:g} a second, and")):
            (report,) = ar.check_clips([ar.ClipEntry(CITY, "")], needed, fps=rate)
            assert report.fault.startswith(fault) and bool(report.fault) == bool(fault)
    for number in range(16):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    (report,) = ar.check_clips([ar.ClipEntry(tmp_path, "")], 4, fps=8)
    assert "no clock" in report.fault


def test_quick_motion_is_no_cut(tmp_path):
    """A square that jumps half the picture in every frame, and a light that blinks."""
    jumps = np.zeros((12, 64, 64, 3), np.uint8)
    for i in range(12):
        jumps[i, 16:48, 32 * (i % 2) : 32 * (i % 2) + 32] = 255
    blinks = np.zeros((12, 64, 64, 3), np.uint8)
    blinks[::2] = 90
    for name, frames in (("jumps", jumps), ("blinks", blinks)):
        ar.write_clip(frames, tmp_path / f"{name}.mp4")
    assert [report.cuts for report in ar.check_clips(ar.list_clips(tmp_path))] == [(), ()]
    with pytest.raises(ValueError, match="no clips to check"):
        ar.check_clips([])


def test_two_hundred_rows_with_broken_ones_among_them(clip, tmp_path):
    """Every good clip is delivered once an epoch, and every bad one is named; what is encoded is kept."""
    good, bad = broken_set(clip, tmp_path, rows=200, every=20)
    pipe = ar.load_base("mini")
    with pytest.warns(ar.SkippedClipsWarning) as said:
        clips = ar.encode_clips(pipe, ar.list_clips(tmp_path / "set.csv"), num_frames=4, size=16)
    assert set(clips.names) == {str(path) for path in good} and len(clips) == len(good)
    assert all(str(path) in str(said[0].message) for path in bad) and f"{len(bad)} of 200" in str(said[0].message)
    epoch = [
        row for step in range(0, len(clips), 10) for row in clips.in_turn(step, min(10, len(clips) - step), seed=0)
    ]
    assert sorted(epoch) == list(range(len(good)))


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
    with pytest.raises(ValueError, match=r"needs a column of files, one of file_name.* It has id, caption"):
        ar.list_clips(tmp_path / "set.csv")
    with pytest.raises(ValueError, match="no videos in"):
        ar.list_clips(tmp_path)
    with pytest.raises(ValueError, match="no folder or table"):
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


def test_tables_as_they_are_found(clip, tmp_path):
    """Odd line ends inside captions; commas without quotes, empty names and numbers are told by their line."""
    odd = "one\u2028two\x0bthree"
    (tmp_path / "a.jsonl").write_text(
        '{"file": "a.mp4", "text": "' + odd.replace("\x0b", "") + '"}\n', encoding="utf-8"
    )
    assert ar.list_clips(tmp_path / "a.jsonl")[0].caption == "one\u2028twothree"
    (tmp_path / "a.csv").write_text(f'file,text\r\na.mp4,"{odd}"\r\n', encoding="utf-8", newline="")
    assert [entry.caption for entry in ar.list_clips(tmp_path / "a.csv")] == [odd]
    (tmp_path / "b.jsonl").write_text('{"videoid": 2, "page_dir": 7, "name": 12}\n{"videoid": 3}\n')
    assert ar.list_clips(tmp_path / "b.jsonl") == [
        ar.ClipEntry(tmp_path / "7" / "2.mp4", "12"),
        ar.ClipEntry(tmp_path / "3.mp4", ""),
    ]
    for text, said in (
        ("file,text\na.mp4,a bird, and more\n", r"line 2, has more fields than columns \(' and more'\)"),
        ("file,text\na.mp4,a\n,a bird\n", "line 3, names no file"),
        ("videoid,name,page_dir\n,a bird\n", "line 2, names no file"),
        ("file,text\n", "names no clips"),
    ):
        (tmp_path / "c.csv").write_text(text)
        with pytest.raises(ValueError, match=said):
            ar.list_clips(tmp_path / "c.csv")


def test_films_that_the_table_of_their_folder_does_not_name(clip, tmp_path):
    for name in ("a", "b", "c"):
        ar.write_clip(clip, tmp_path / f"{name}.mp4")
    table = tmp_path / "metadata.csv"
    table.write_text("file_name,caption\na.mp4,a fox\nb.mp4,a cat\n")
    with pytest.warns(
        ar.SkippedClipsWarning, match=r"1 clips are left out, which .*metadata\.csv does not name:\n  .*c\.mp4"
    ) as told:
        assert [entry.caption for entry in ar.list_clips(tmp_path)] == ["a fox", "a cat"]
    assert told[0].filename == __file__
    table.write_text(table.read_text() + "c.mp4,a duck\n")
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    with warnings.catch_warnings(action="error"):
        assert len(ar.list_clips(tmp_path)) == 3


def test_pictures_that_are_no_frames(clip, tmp_path):
    """Covers beside GIFs, and pictures without numbers, are not made a clip of."""
    for name in ("gifs", "thumbnails"):
        (tmp_path / name).mkdir()
    for name in ("a.gif", "b.gif"):
        ar.write_clip(clip, tmp_path / "gifs" / name)
    for name in ("gifs/c1.jpg", "gifs/c2.jpg", "thumbnails/fox.jpg", "thumbnails/cat.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert [entry.path.name for entry in ar.list_clips(tmp_path)] == ["a.gif", "b.gif"]
    (tmp_path / "frames").mkdir()
    for i in range(3):
        Image.fromarray(np.full((8, 8), 256 * 100, np.uint16)).save(tmp_path / "frames" / f"{i}.png")
    assert (ar.read_clip(tmp_path / "frames") == 100).all()  # grey in 16 bits
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "frames" / "3.tif")
    with pytest.raises(ValueError, match=r"frames cannot be read.*3.tif.*8 or 16 bits a channel, got mode F"):
        ar.read_clip(tmp_path / "frames")
    with pytest.raises(ValueError, match="pictures, which have no clock"):
        ar.read_clip(tmp_path / "frames", fps=8)


def test_films_whose_clock_starts_late_or_again(tmp_path):
    """Two films joined, each with its own clock, and a clock that jumps by a day."""

    def film(path, first: int) -> bytes:
        with av.open(str(path), "w", format="mpegts") as out:
            stream = out.add_stream("libx264", rate=8)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            for i in range(6):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * i, np.uint8), format="rgb24")
                frame.pts, frame.time_base = first * 8 + i, Fraction(1, 8)
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
        return path.read_bytes()

    for first in (0, 3600, 26 * 3600):
        joined = tmp_path / f"joined{first}.ts"
        joined.write_bytes(film(tmp_path / "one.ts", 40) + film(tmp_path / "two.ts", first))
        assert len(ar.read_clip(joined)) == 12
        assert len(ar.read_clip(joined, fps=8)) in (11, 12, 13)
        (report,) = ar.check_clips([ar.ClipEntry(joined, "")])
        assert report.seconds == pytest.approx(1.5, abs=0.3)


def test_a_title_in_another_encoding_is_no_fault_of_the_film(clip, tmp_path):
    with av.open(str(tmp_path / "a.avi"), "w") as film:
        film.metadata["title"] = "cafe!"
        stream = film.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for frame in clip:
            film.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        film.mux(stream.encode())
    data = (tmp_path / "a.avi").read_bytes()
    assert b"cafe!" in data
    (tmp_path / "a.avi").write_bytes(data.replace(b"cafe!", b"caf\xe9!"))
    assert ar.read_clip(tmp_path / "a.avi").shape == clip.shape


def test_an_animated_png_begins_after_its_stand_in(tmp_path):
    """An APNG may hold a picture for programs that cannot play it; and durations of 0 mean 100 ms, as in browsers."""
    stand_in, *frames = [Image.new("RGB", (8, 8), (40 * i, 0, 0)) for i in range(4)]
    stand_in.save(tmp_path / "a.png", save_all=True, append_images=frames, default_image=True, duration=[200, 100, 100])
    assert ar.read_clip(tmp_path / "a.png")[:, 0, 0, 0].tolist() == [40, 40, 80, 120]
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:], duration=[0, 100, 100])
    assert len(ar.read_clip(tmp_path / "b.gif")) == 3


def test_frames_too_few_for_a_stage_are_left_out_before_it(clip, tmp_path):
    ar.write_clip(clip, tmp_path / "long.mp4")
    ar.write_clip(clip[:3], tmp_path / "short.mp4")
    pipe = ar.load_base("mini")
    with pytest.warns(ar.SkippedClipsWarning, match=r"short\.mp4 has 3 frames at stride 1, but 4 are needed"):
        assert len(ar.encode_clips(pipe, ar.list_clips(tmp_path), at_least=4, size=32)) == 1
