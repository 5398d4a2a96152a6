"""Sets of clips: a folder of videos with captions, or a table."""

import csv
import io
import json
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from animatediff_ref.clips.video import ANIMATION_SUFFIXES, FILM_SUFFIXES, FRAME_SUFFIXES, frame_files

VIDEO_SUFFIXES = (*FILM_SUFFIXES, *ANIMATION_SUFFIXES)
WEBVID_COLUMNS = ("videoid", "name")  # a row is the file page_dir/videoid.mp4 and its caption
FILE_COLUMNS = ("file_name", "file", "path", "video", "video_path")  # else one of these
CAPTION_COLUMNS = ("caption", "text", "prompt", "name")  # with one of these
TABLES = ("metadata.jsonl", "metadata.csv", "captions.jsonl", "captions.csv")  # read where a folder has one


@dataclass(frozen=True)
class ClipEntry:
    """One entry of a set of clips: the video file or folder of frames, and what it shows."""

    path: Path
    caption: str
    told_by: str = "a table"  # where the caption is from: this, "a .txt file" or "its own name"


class SkippedClipsWarning(UserWarning):
    """Clips were left out; the message names them, and why."""


def list_clips(source: str | Path, folder: str | Path | None = None) -> list[ClipEntry]:
    """The clips of a folder, also in folders below, or of a .csv or .jsonl table.

    A folder may hold films and animated pictures (``VIDEO_SUFFIXES``, in any case) and folders of two or more numbered
    pictures. The captions stand in a table of the folder (``TABLES``), else the caption of ``NAME.mp4`` is the text of
    ``NAME.txt``, else its name. Hidden files and folders are left out.

    A table has rows as WebVid's (``videoid`` and ``name``, the caption, perhaps ``page_dir``; the files are
    ``folder/page_dir/videoid.mp4``), or a column of ``FILE_COLUMNS`` and one of ``CAPTION_COLUMNS``. ``folder`` is by
    default the table's own. Texts are UTF-8, UTF-16 with its mark, or else Windows-1252.

    Films beside those that a folder's table names are left out, with a ``SkippedClipsWarning``. ``ValueError`` where there
    are no clips, or not these columns, and for a line that is no JSON, by its number.
    """
    source = Path(source).expanduser()
    if source.is_dir():
        tables = [source / name for name in TABLES if (source / name).is_file()]
        if not tables:
            return _from_folder(source)
        clips = _from_table(tables[0], source)
        _tell_unnamed(clips, tables[0])
        return clips
    if source.is_file() and source.suffix.lower() in (".csv", ".jsonl"):
        return _from_table(source, Path(folder or source.parent))
    raise ValueError(f"no folder or table (.csv, .jsonl) of clips at {source}")


def _tell_unnamed(clips: list[ClipEntry], table: Path) -> None:
    named = [clip.path for clip in clips if clip.path.exists()]
    known = {(path.stat().st_dev, path.stat().st_ino) for path in named}  # file systems take several names for one file
    beside = [path for folder in {table.parent, *(path.parent for path in named)} for path in folder.iterdir()]
    films = [
        path
        for path in beside
        if path.suffix.lower() in FILM_SUFFIXES and not path.name.startswith((".", "~")) and path.is_file()
    ]
    others = sorted(path for path in films if (path.stat().st_dev, path.stat().st_ino) not in known)
    if others:
        some = "".join(f"\n  {path}" for path in others[:10]) + ("\n  ..." if len(others) > 10 else "")
        told = f"{len(others)} clips are left out, which {table} does not name:{some}"
        warnings.warn(told, SkippedClipsWarning, stacklevel=3)


def _from_folder(folder: Path) -> list[ClipEntry]:
    clips = [ClipEntry(path, *_caption(path)) for path in sorted(_videos_below(folder))]
    if not clips:
        raise ValueError(
            f"no videos in {folder}: give a folder of films ({', '.join(VIDEO_SUFFIXES)}) or of folders of frames, "
            f"or a CSV with the columns {', '.join(WEBVID_COLUMNS)}"
        )
    return clips


def _videos_below(folder: Path) -> Iterator[Path]:
    inside = [path for path in folder.iterdir() if not path.name.startswith((".", "~"))]
    for path in inside:
        if path.is_dir() and _holds_frames(path):
            yield path
        elif path.is_dir():
            yield from _videos_below(path)
        elif path.suffix.lower() in FILM_SUFFIXES or (path.suffix.lower() in ANIMATION_SUFFIXES and _moves(path)):
            yield path


def _holds_frames(folder: Path) -> bool:
    """Whether a folder is a clip: several pictures with numbers in their names, none of which moves, and no film or folder."""
    inside = [path for path in folder.iterdir() if not path.name.startswith((".", "~"))]
    if any(path.is_dir() or path.suffix.lower() in (*FILM_SUFFIXES, ".gif", ".apng") for path in inside):
        return False
    frames = frame_files(folder)
    numbered = all(any(c.isdigit() for c in frame.stem) for frame in frames)
    return len(frames) > 1 and numbered and not any(_moves(frame) for frame in (frames[0], frames[-1]))


def _moves(path: Path) -> bool:
    """Whether a picture has several frames; one that cannot be read is let through, to be named when it is."""
    if path.suffix.lower() not in (*ANIMATION_SUFFIXES, *FRAME_SUFFIXES):
        return False
    try:
        with Image.open(path) as picture:
            return getattr(picture, "n_frames", 1) > 1
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return path.suffix.lower() in (".gif", ".webp")


def _caption(path: Path) -> tuple[str, str]:
    """The caption of a clip in a folder, and where it is from."""
    text = path.parent / f"{path.name if path.is_dir() else path.stem}.txt"
    return (_text(text).strip(), "a .txt file") if text.exists() else (path.stem.replace("_", " "), "its own name")


def _from_table(table: Path, folder: Path) -> list[ClipEntry]:
    rows, columns = _jsonl(table) if table.suffix.lower() == ".jsonl" else _csv(table)
    webvid = set(WEBVID_COLUMNS) <= set(columns)
    file = "videoid" if webvid else _first(FILE_COLUMNS, columns)
    caption = "name" if webvid else _first(CAPTION_COLUMNS, columns)
    if not (file and caption):
        between = " (a .csv has commas between them)" if len(columns) == 1 and set(";\t") & set(columns[0]) else ""
        raise ValueError(
            f"{table} needs a column of files, one of {', '.join(FILE_COLUMNS)}, and one of captions, one of "
            f"{', '.join(CAPTION_COLUMNS)}; or {' and '.join(WEBVID_COLUMNS)}, as WebVid. It has "
            f"{', '.join(columns) or 'none'}{between}"
        )
    if not rows:
        raise ValueError(f"{table} names no clips: it has columns, but no rows below them")
    clips = []
    for number, row in rows:
        if not (name := _said(row, file)):
            raise ValueError(f"{table}, line {number}, names no file: its {file!r} is empty")
        path = Path(_said(row, "page_dir")) / f"{name}.mp4" if webvid else Path(name)
        clips.append(ClipEntry(folder / path, _said(row, caption)))
    return clips


def _said(row: dict, column: str) -> str:
    value = row.get(column)
    return "" if value is None else str(value)


def _csv(table: Path) -> tuple[list[tuple[int, dict]], list[str]]:
    """The rows of a CSV, each with the number of the line that it ends on, and its columns."""
    reader = csv.DictReader(io.StringIO(_text(table), newline=""))
    rows = [(reader.line_num, row) for row in reader]
    for number, row in rows:
        if None in row:
            more = ", ".join(row[None])
            raise ValueError(
                f"{table}, line {number}, has more fields than columns ({more!r}): quote texts with commas"
            )
    return rows, list(reader.fieldnames or [])


def _first(names: Iterable[str], columns: Iterable[str]) -> str | None:
    return next((name for name in names if name in columns), None)


def _jsonl(table: Path) -> tuple[list[tuple[int, dict]], list[str]]:
    """The rows of a table of JSON objects, one a line, each with its line's number, and all their names."""
    rows = []
    for number, line in enumerate(_text(table).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{table}, line {number}, is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{table}, line {number}, is not a JSON object: {line[:60]!r}")
        rows.append((number, row))
    return rows, list(dict.fromkeys(name for _, row in rows for name in row))


def _text(path: Path) -> str:
    """The text of a file: UTF-8 with or without a mark, UTF-16 with one, or else Windows-1252."""
    data = path.read_bytes()
    marked = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    for coding in (marked, "cp1252"):
        try:
            return data.decode(coding).replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            failed = error
    raise ValueError(f"{path} is neither UTF-8 nor Windows-1252 text: {failed}; save it as UTF-8")
