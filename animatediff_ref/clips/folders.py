"""Sets of clips: a folder of videos, or a WebVid-style table."""

import csv
from dataclasses import dataclass
from pathlib import Path

WEBVID_COLUMNS = ("videoid", "name")  # that a WebVid-style CSV must have; "page_dir" may name a folder below


@dataclass(frozen=True)
class ClipEntry:
    """One entry of a set of clips: the video file, and what it shows."""

    path: Path
    caption: str


def list_clips(source: str | Path, folder: str | Path | None = None) -> list[ClipEntry]:
    """The clips of a folder of .mp4 files, or of a WebVid-style CSV.

    In a folder the caption of ``NAME.mp4`` is the text of ``NAME.txt``, else the name itself. A CSV has the columns
    ``videoid`` and ``name`` (the caption), and perhaps ``page_dir``; the files are ``folder/page_dir/videoid.mp4``.
    ``folder`` is by default the CSV's own. ``ValueError`` where there are no clips, or not these columns.
    """
    source = Path(source)
    if source.is_dir():
        return _list_folder(source)
    if source.is_file() and source.suffix == ".csv":
        return _list_table(source, Path(folder or source.parent))
    raise ValueError(f"no folder or CSV of clips at {source}")


def _list_folder(folder: Path) -> list[ClipEntry]:
    clips = [ClipEntry(path, _caption(path)) for path in sorted(folder.glob("*.mp4"))]
    if not clips:
        columns = ", ".join(WEBVID_COLUMNS)
        raise ValueError(f"no .mp4 in {folder}: give a folder of clips, or a CSV with the columns {columns}")
    return clips


def _caption(path: Path) -> str:
    text = path.with_suffix(".txt")
    return text.read_text(encoding="utf-8").strip() if text.exists() else path.stem.replace("_", " ")


def _list_table(table: Path, folder: Path) -> list[ClipEntry]:
    with open(table, newline="", encoding="utf-8-sig") as file:  # -sig: spreadsheets put a mark at the beginning
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        rows = list(reader)
    missing = [name for name in WEBVID_COLUMNS if name not in columns]
    if missing:
        raise ValueError(f"{table} lacks the columns {', '.join(missing)}; it has {', '.join(columns) or 'none'}")
    if not rows:
        raise ValueError(f"{table} names no clips: it has columns, but no rows below them")
    return [
        ClipEntry(folder / (row.get("page_dir") or "") / f"{row['videoid']}.mp4", row["name"] or "") for row in rows
    ]
