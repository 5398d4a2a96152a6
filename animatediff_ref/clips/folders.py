"""Sets of clips: a folder of videos, or a WebVid-style table."""

import csv
from dataclasses import dataclass
from pathlib import Path

WEBVID_COLUMNS = ("videoid", "name")  # of a WebVid-style CSV; "page_dir" may name a folder below


@dataclass(frozen=True)
class ClipEntry:
    """One row of a set of clips: where it lies and what it shows."""

    path: Path
    caption: str


def list_clips(source: str | Path, folder: str | Path | None = None) -> list[ClipEntry]:
    """The clips of a folder of .mp4 (caption: ``NAME.txt`` beside, else the file's name) or of a WebVid-style CSV.

    A CSV has the columns ``videoid`` and ``name`` (the caption), and optionally ``page_dir``; files are
    ``folder/page_dir/videoid.mp4``, ``folder`` being the CSV's own unless given.
    """
    source = Path(source)
    if source.is_dir():
        found = [ClipEntry(path, _caption(path)) for path in sorted(source.glob("*.mp4"))]
        if not found:
            raise ValueError(
                f"no .mp4 in {source}: needed is a folder of clips, or a CSV with the columns {', '.join(WEBVID_COLUMNS)}"
            )
        return found
    if not source.is_file() or source.suffix != ".csv":
        raise ValueError(f"no folder or CSV of clips at {source}")
    with open(source, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if missing := [name for name in WEBVID_COLUMNS if name not in (reader.fieldnames or [])]:
            came = ", ".join(reader.fieldnames or []) or "none"
            raise ValueError(f"{source} lacks the columns {', '.join(missing)}; it has {came}")
        rows = list(reader)
    if not rows:
        raise ValueError(f"{source} names no clips: it has its columns, and no rows below them")
    root = Path(folder or source.parent)
    return [ClipEntry(root / (row.get("page_dir") or "") / f"{row['videoid']}.mp4", row["name"] or "") for row in rows]


def _caption(path: Path) -> str:
    beside = path.with_suffix(".txt")
    return beside.read_text(encoding="utf-8").strip() if beside.exists() else path.stem.replace("_", " ")
