"""Tables of what was measured in the mini world, with the cards that say how, and what they say about a claim."""

import csv
import json
from collections.abc import Iterable
from hashlib import sha256

import numpy as np

from animatediff_ref.mini.files import data_folder


def read_results(name: str, *, earlier: bool = False) -> tuple[list[dict[str, str | float | None]], dict]:
    """The rows of a table below ``data/results``, and its card. Columns of numbers are numbers, None where empty.

    ``ValueError`` if there is no such table, if it is not the one that its card speaks of, or if it was measured of
    other weights than those that lie there now. With ``earlier`` a table of earlier weights is read too, and ``"changed"``
    in its card names the files that have changed since.
    """
    data = data_folder()
    path = data / "results" / f"{name}.csv"
    if not path.exists():
        there = ", ".join(sorted(file.stem for file in path.parent.glob("*.csv")))
        raise ValueError(f"there is no table {name!r} in {path.parent}; there are: {there or 'none'}")
    card = json.loads(path.with_suffix(".json").read_text())
    if (found := sha256(path.read_bytes()).hexdigest()[:16]) != card["sha256"]:
        raise ValueError(
            f"{path} has sha256 {found}, and its card speaks of {card['sha256']}: restore it, or fill it anew"
        )
    card["changed"] = []
    for file, said in card["weights"].items():
        if (found := sha256((data / file).read_bytes()).hexdigest()[:16]) != said:
            if not earlier:
                raise ValueError(
                    f"{path} was measured with another {file} ({said}) than the one that is there ({found})"
                )
            card["changed"].append(file)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    for key in rows[0]:
        if all(_is_number(row[key]) for row in rows if row[key]):
            for row in rows:
                row[key] = float(row[key]) if row[key] else None
    return rows, card


def column(rows: list[dict], measure: str, **where) -> np.ndarray:
    """A measure in the rows that say ``where``, in their order, float (n,). ``ValueError`` if there are no such rows."""
    kept = [row[measure] for row in rows if all(row[name] == value for name, value in where.items())]
    if not kept:
        raise ValueError(f"no row says {where}")
    return np.array(kept, float)


def verdict(intervals: Iterable[tuple[float, float, float]], side: int) -> str:
    """What the seeds of an experiment say about a claim, in one word.

    ``intervals`` holds a difference for each seed, as ``bootstrap`` returns it: value, low, high. ``side`` is +1 if the
    claim says that it lies above zero, -1 for below. ``"confirmed"`` if every interval lies on that side, ``"refuted"``
    if every one lies on the other, and otherwise ``"open"``. One seed alone leaves it open. ``ValueError`` for a side
    that is neither.
    """
    if side not in (1, -1):
        raise ValueError(f"the side of a claim is +1 or -1, got {side!r}")
    bounds = [sorted((side * low, side * high)) for _, low, high in intervals]
    if len(bounds) < 2:
        return "open"
    if all(low > 0 for low, _ in bounds):
        return "confirmed"
    return "refuted" if all(high < 0 for _, high in bounds) else "open"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
