"""The bench: tables in ``data/results``, filled cell by cell, so that a sweep that was interrupted goes on where it was.

A table is a CSV with one row for each finished cell, and a card beside it: how it was made, of which weights, at which
budget. Rows that were made of other weights, by other code or at another budget are not mixed with new ones.
"""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from animatediff_ref.weights.tensors import written_aside
from recipes.ablate.scores import RESULTS
from recipes.common.card import data_hash, machine, provenance, rounded
from recipes.common.code import code_hash
from recipes.common.paths import DATA, ROOT

METHOD = [ROOT / "animatediff_ref" / room for room in ("method", "training")]
SHARED = [Path(__file__).with_name(name) for name in ("arms.py", "scores.py")]


class Table(NamedTuple):
    """What is to be measured, in which cells, and what all cells have in common."""

    name: str
    cells: list[dict]  # what tells a row from the others, such as arm, seed and prompt
    measure: Callable[..., dict[str, float]]  # called with what a cell says, gives the other columns of its row
    weights: list[Path]  # that every cell depends on
    budget: dict

    @property
    def path(self) -> Path:
        return RESULTS / f"{self.name}.csv"


def fill(table: Table, recipe: str, device: str) -> None:
    """Measure the cells that are missing; each row is written at once, and the card after it."""
    told = identity(table, recipe)
    check_same(table.path, told)
    rows = finished(table)
    done = {tuple(row[name] for name in table.cells[0]) for row in rows}
    todo = [cell for cell in table.cells if tuple(map(str, cell.values())) not in done]
    print(f"{table.path.name}: {len(todo)} of {len(table.cells)} cells to do", flush=True)
    for cell in todo:
        made = cell | rounded(table.measure(**cell))
        rows.append({name: str(value) for name, value in made.items()})
        write(table.path, rows, told | provenance(recipe) | machine(device))
        print(*rows[-1].values(), sep=", ", flush=True)


def identity(table: Table, recipe: str) -> dict:
    """What all rows of a table must have in common: weights, budget and the code that makes them."""
    weights = {path.relative_to(DATA).as_posix(): data_hash(path) for path in table.weights}
    code = code_hash(*METHOD, *SHARED, Path(recipe))
    return {"weights": weights, "budget": table.budget, "code": code}


def check_same(path: Path, told: dict) -> None:
    """``ValueError`` with the difference if there are rows already, made of or by something else."""
    if not path.exists():
        return
    if not (card := path.with_suffix(".json")).exists():
        raise ValueError(f"{path} has no card, so what made its rows is unknown: move it away to begin anew")
    before = json.loads(card.read_text())
    if changed := differences({key: before.get(key) for key in told}, told):
        raise ValueError(f"{path} has rows of something else: {'; '.join(changed)}. Move it away to begin anew")


def differences(before: object, now: object, name: str = "") -> list[str]:
    """In words, where two tables of tables differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        return [line for key in keys for line in differences(before.get(key), now.get(key), f"{name} {key}".strip())]
    return [] if before == now else [f"{name} was {before}, is {now}"]


def finished(table: Table) -> list[dict[str, str]]:
    """The rows there are. A last one that was half written is left out, and said."""
    if not table.path.exists():
        return []
    with open(table.path, newline="") as file:
        rows = list(csv.DictReader(file))
    whole = [row for row in rows if None not in row and None not in row.values()]
    for row in rows:
        if row not in whole:
            print(f"{table.path.name}: taken out, half written: {', '.join(map(str, row.values()))}", flush=True)
    return whole


def write(path: Path, rows: list[dict[str, str]], told: dict) -> None:
    """Rows and their card, each whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(exist_ok=True)
    with written_aside(path) as aside:
        aside.write_text(text.getvalue())
    with written_aside(path.with_suffix(".json")) as aside:
        aside.write_text(json.dumps({**told, "rows": len(rows), "sha256": data_hash(path)}, indent=1) + "\n")
