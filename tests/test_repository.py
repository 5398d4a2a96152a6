"""What holds of the repository as a whole: notebooks in step with their sources, cards for weights, imports that run one way."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import animatediff_ref as ar
from animatediff_ref.mini import card_of, checked

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "data" / "recipes"))

import describe  # noqa: E402

NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
# Lower layers first: a module may import from those before it.
LAYERS = [
    "positions",
    "runsize",
    "storage",
    "mini",
    "names",
    "motion_module",
    "inflation",
    "objective",
    "clips",
    "low_rank",
    "files",
    "checkpoints",
    "lora",
    "convert",
    "training",
    "rows",
    "generate",
    "evaluate",
    "judge",
    "show",
    "cli",
]


def test_notebooks_are_in_step_with_their_sources():
    done = subprocess.run(
        [sys.executable, ROOT / "book/_ext/make_notebooks.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_hold_no_outputs_and_cells_are_small(path):
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    lengths = sorted(len(cell.source.splitlines()) for cell in cells)
    assert lengths[len(lengths) // 2] <= 8 or len(cells) < 5


@pytest.mark.parametrize("path", sorted((ROOT / "animatediff_ref").glob("*.py")), ids=lambda path: path.stem)
def test_imports_run_one_way_and_public_names_have_docstrings(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith("animatediff_ref.")
            and path.stem != "__init__"
        ):
            assert LAYERS.index(node.module.split(".")[1]) < LAYERS.index(path.stem), (
                f"{path.name} imports {node.module}"
            )
        if isinstance(node, ast.ImportFrom | ast.Import):
            assert not any(name.name.split(".")[0] in ("book", "tests", "recipes") for name in node.names)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}: {node.name}"


def test_every_weight_file_has_a_card():
    for name in checked():
        if name.endswith(".safetensors"):
            card = json.loads(card_of(ROOT / "data" / name).read_text())
            for key in ("recipe", "commit", "config", "minutes", "device", "torch", "data_sha256"):
                assert key in card, f"the card of {name} lacks {key}"
            assert (ROOT / card["recipe"]).exists()


def test_every_weight_file_is_what_its_card_says():
    assert {name: fault for name, fault in checked().items() if fault} == {}


def test_size_of_the_data():
    sizes = {path: path.stat().st_size / 2**20 for path in (ROOT / "data").rglob("*") if path.is_file()}
    assert sum(sizes.values()) < 60
    assert max(sizes.values()) < 25


# The bars that the personalised models miss, as the page on the mini world says: 90 % recognised, concepts within ten points.
BELOW_THE_BAR = {
    "style": {"blob", "emojione", "flat", "ink", "openmoji", "pixel", "sepia"},
    "concepts": {"blob", "emojione", "flat", "ink", "openmoji", "sepia"},
}


def test_measured_quality():
    """The bars that the mini world is held to; the pages show the figures."""
    measured = json.loads((ROOT / "data/measured.json").read_text())
    drawn = measured["text to image"]
    assert drawn["taught pairs"]["top5 generated / real"]["mean"] >= 0.8
    for row in drawn.values():
        assert row["real"]["top5_percent"]["mean"] >= 90
    short = {"style": set(), "concepts": set()}
    for name, row in measured["personalised"].items():
        recognised, concepts = row["style recognised_percent"]["mean"], row["concepts"]["top5_percent"]["mean"]
        assert recognised > row["the base's recognised as it_percent"]["mean"], name
        short["style"] |= {name} if recognised < 90 else set()
        short["concepts"] |= {name} if concepts < row["concepts of the base"]["top5_percent"]["mean"] - 10 else set()
    assert short == BELOW_THE_BAR
    motion = measured["motion"]["mean"]
    assert motion["frozen"]["mean"] == 0 < motion["generated"]["mean"] < motion["per-frame images"]["mean"]


def test_the_autoencoder_is_as_good_as_it_must_be():
    card = json.loads((ROOT / "data/models/mini/vae/card.json").read_text())
    unseen = card["psnr_unseen_styles_db"]
    assert card["psnr_held_out_db"] >= 28
    assert sum(unseen.values()) / len(unseen) >= 26
    assert {style for style, psnr in unseen.items() if psnr < 26} == {"openmoji", "pixel"}  # that miss it


def test_the_table_of_models_is_in_step_with_the_cards():
    assert describe.table() in describe.README.read_text()


def test_run_sizes(monkeypatch):
    monkeypatch.setenv("ANIMATEDIFF_REF_RUN", "smoke")
    assert ar.sized(1, 2, 3) == 1
    monkeypatch.setenv("ANIMATEDIFF_REF_RUN", "huge")
    with pytest.raises(ValueError, match="smoke, normal, full, got 'huge'"):
        ar.run_size()
