"""The bench: tables in ``data/results``, filled cell by cell, so that a sweep that was interrupted goes on where it was.

    python -m recipes.ablate.bench OTHER    # take over the rows of the tables in OTHER, which another machine has filled

A table is a CSV with one row for each finished cell, and a card beside it: how it was made, of which weights, at which
budget. Rows that were made of other weights, by other code or at another budget are not mixed with new ones; nor are
trainings in ``runs/`` taken for those of another. A table that is whole stays, whatever became of the code: its card
names the commit.
"""

import csv
import io
import json
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from animatediff_ref.weights.tensors import written_aside
from recipes.ablate.scores import RESULTS
from recipes.common.card import data_hash, machine, provenance, rounded
from recipes.common.code import code_hash
from recipes.common.paths import DATA, JUDGE, ROOT, RUNS, arguments

ROOMS = [ROOT / "animatediff_ref" / room for room in ("method", "training", "clips", "generate", "measure")]
SHARED = [ROOT / "data/recipes" / f"{name}.py" for name in ("ablate/arms", "ablate/scores", "measure/motion")]
MEASURING = [JUDGE / "model.safetensors", DATA / "watermark.png", DATA / "concepts.csv"]
SAME = ("weights", "budget", "code")  # for all rows of a table
LASTING = ("weights", "budget")  # for a table that is whole


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
    told, card = identity(table, recipe), table.path.with_suffix(".json")
    check_same(card, told, table.path, LASTING)
    rows = finished(table.path)
    done = {tuple(row[name] for name in table.cells[0]) for row in rows}
    todo = [cell for cell in table.cells if tuple(map(str, cell.values())) not in done]
    print(f"{table.path.name}: {len(todo)} of {len(table.cells)} cells to do", flush=True)
    if not todo:
        return
    check_same(card, told, table.path)
    check_same(RUNS / "ablate" / f"{table.name}.json", told, RUNS / "ablate")
    write_aside(RUNS / "ablate" / f"{table.name}.json", json.dumps(told))
    for cell in todo:
        made = cell | rounded(table.measure(**cell))
        rows.append({name: str(value) for name, value in made.items()})
        write(table.path, rows, told | provenance(recipe) | machine(device))
        print(*rows[-1].values(), sep=", ", flush=True)


def sweep(tables: Callable[[str], list[Table]], recipe: str) -> None:
    """The command line of a recipe without options of its own: fill its tables on a device."""
    device = arguments().parse_args().device
    for table in tables(device):
        fill(table, recipe, device)


def identity(table: Table, recipe: str) -> dict:
    """What all rows of a table must have in common: weights, budget and the code that makes them."""
    weights = {path.relative_to(DATA).as_posix(): data_hash(path) for path in [*table.weights, *MEASURING]}
    code = code_hash(*ROOMS, *SHARED, Path(recipe))
    return {"weights": weights, "budget": table.budget, "code": code}


def check_same(card: Path, told: dict, made: Path, what: tuple[str, ...] = SAME) -> None:
    """``ValueError`` with the difference if a card is there and tells of something else than ``told``."""
    if card.exists():
        before = json.loads(card.read_text())
        if changed := differences({key: before.get(key) for key in what}, {key: told.get(key) for key in what}):
            raise ValueError(f"{made} is of something else: {'; '.join(changed)}. Move it away to begin anew")


def differences(before: object, now: object, name: str = "") -> list[str]:
    """In words, where two tables of tables differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        return [line for key in keys for line in differences(before.get(key), now.get(key), f"{name} {key}".strip())]
    return [] if before == now else [f"{name} was {before}, is {now}"]


def finished(path: Path) -> list[dict[str, str]]:
    """The rows of a table. A last one that was half written, or that its card does not know yet, is left out, and said.

    ``ValueError`` if the card does not fit otherwise.
    """
    if not path.exists():
        return []
    text, card = path.read_text(), path.with_suffix(".json")
    known = json.loads(card.read_text()) if card.exists() else {"rows": 0, "sha256": ""}
    if text_hash(text) == known["sha256"]:
        return parsed(text)
    head, _, last = text.rstrip("\n").rpartition("\n")
    before, half = parsed(head), last.count(",") < head.partition("\n")[0].count(",")
    unknown = text_hash(f"{head}\n") == known["sha256"] or known["rows"] == len(before) == 0
    if not unknown and not (half and len(before) == known["rows"] - 1):
        raise ValueError(f"{path} is not the table that {card} speaks of: restore it, or move both away")
    print(f"{path.name}: taken out, not finished: {last}", flush=True)
    return before


def parsed(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def write(path: Path, rows: list[dict[str, str]], told: dict) -> None:
    """Rows and their card, each whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_aside(path, text.getvalue())
    card = {**told, "rows": len(rows), "sha256": text_hash(text.getvalue())}
    write_aside(path.with_suffix(".json"), json.dumps(card, indent=1) + "\n")


def write_aside(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        aside.write_text(text)


def text_hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]


def merge(path: Path, other: Path) -> None:
    """Take over the rows of another table of the same weights, code and budget that this one does not have yet."""
    told = json.loads(other.with_suffix(".json").read_text())
    check_same(path.with_suffix(".json"), told, other)
    rows = finished(path)
    rows += [row for row in finished(other) if row not in rows]
    write(path, rows, told)


if __name__ == "__main__":
    for table in sorted(Path(sys.argv[1]).glob("*.csv")):
        merge(RESULTS / table.name, table)
