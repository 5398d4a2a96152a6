"""What holds of the repository as a whole: notebooks in step with their sources, cards for weights, imports that run one way."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import fields
from graphlib import TopologicalSorter
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement

import animatediff_ref as ar
from animatediff_ref.mini.cards import card_of, checked
from recipes.measure import describe

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import book_tweaks  # noqa: E402
import dataclass_fields  # noqa: E402
import fresh_cache  # noqa: E402

CONTRACT = [
    "load_base",
    "load_motion_module",
    "inject",
    "eject",
    "animate",
    "MotionConfig",
    "MotionModule",
    "load_motion_lora",
    "set_motion_loras",
    "load_domain_adapter",
    "set_domain_adapter",
    "save_motion_module",
    "save_motion_lora",
    "save_domain_adapter",
    "inspect_file",
    "train_domain_adapter",
    "train_motion_module",
    "show",
    "show_grid",
    "filmstrip",
    "xt_slice",
]
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
# Rooms of the package, lowest first: a module may import from its own room and from those before it.
ROOMS = ["method", "mini", "weights", "generate", "clips", "training", "measure", "baselines", "notebook", "cli"]
# Files of a room that are read in this order; in other rooms any order without a circle will do.
READ = ["config", "temporal", "motion_module", "inflation", "adapters", "objective", "loop", "stages"]
MODULES = sorted((ROOT / "animatediff_ref").rglob("*.py"))


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


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports: ``"method.temporal"``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: imports are absolute"
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not any(name.split(".")[0] in ("book", "tests", "recipes") for name in names)
        found |= {name.removeprefix("animatediff_ref.") for name in names if name.split(".")[0] == "animatediff_ref"}
    return found


def module(path: Path) -> str:
    return path.relative_to(ROOT / "animatediff_ref").with_suffix("").as_posix().replace("/", ".")


def test_labels_of_exercises_and_figures_are_there_once():
    """Two of a name are an error only when the whole book has been built."""
    pages = [*(ROOT / "book" / "_src").glob("*.md"), *(ROOT / "book").glob("*.md")]
    label = re.compile(r"^(?::label:|:name:|    name:) ((?:ex|fig)-\S+)", re.MULTILINE)
    found = Counter(name for page in pages for name in label.findall(page.read_text(encoding="utf-8")))
    assert len(found) > 40 and [name for name, times in found.items() if times > 1] == []


def test_printed_lines_are_not_broken_where_they_arrive_in_pieces():
    pieces = [
        ("stdout", "a line, "),
        ("stderr", "a warning"),
        ("stdout", "one piece\n"),
        ("stdout", "  another line\n"),
    ]
    outputs = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in pieces]
    joined = {output["name"]: output["text"] for output in book_tweaks.join_streams(outputs)}
    assert joined == {"stdout": "a line, one piece\n  another line\n", "stderr": "a warning\n"}


def test_imports_run_one_way():
    """From a room only down, within the reading order only back, and nowhere in a circle."""
    arrows = {module(path): imported(path) for path in MODULES if path.parent.name != "animatediff_ref"}
    for name, others in arrows.items():
        assert "animatediff_ref" not in others or name.startswith("cli."), f"{name}: name the module, not the package"
        for other in others - {"animatediff_ref"}:
            room, below = name.split(".")[0], other.split(".")[0]
            assert ROOMS.index(below) <= ROOMS.index(room), f"{name} imports {other}, which lies above it"
            assert room != "method" or below == "method", f"{name} imports {other}: the method knows nothing of ours"
            here, there = name.split(".")[-1], other.split(".")[-1]
            if here in READ and there in READ:
                assert READ.index(there) < READ.index(here), f"{name} imports {other}, which is read after it"
    assert list(TopologicalSorter(arrows).static_order())  # raises CycleError on a circle


@pytest.mark.parametrize("path", MODULES, ids=module)
def test_public_names_have_docstrings(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}: {node.name}"


def lines_of_code(node: ast.AST, text: str) -> int:
    """Lines that hold code: no docstrings, comments or blank lines."""
    docs = {
        line
        for inner in ast.walk(node)
        if isinstance(inner, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(inner)
        for line in range(inner.body[0].lineno, inner.body[0].end_lineno + 1)
    }
    first, last = getattr(node, "lineno", 1), getattr(node, "end_lineno", len(text.splitlines()))
    lines = enumerate(text.splitlines()[first - 1 : last], first)
    return sum(1 for n, line in lines if n not in docs and line.strip() and not line.strip().startswith("#"))


def test_the_interface_page_has_every_public_name():
    page = (ROOT / "book" / "interface.md").read_text()
    assert sorted(re.findall(r"^\.\. auto\w+:: (\w+)$", page, re.M)) == ar.__all__


def test_the_interface_page_lists_the_fields_of_dataclasses_with_their_comments():
    lines = ["What it is."]
    dataclass_fields.list_fields(None, "class", "", ar.TrainConfig, None, lines)
    assert "- ``batch_size: int = 4``: clips in a step; frames in stage 1" in lines and "- ``seed: int = 42``" in lines
    assert len(lines) == 1 + len(fields(ar.TrainConfig)) + 1


def test_the_method_is_an_evenings_read():
    texts = {path: path.read_text() for path in MODULES}
    method = sum(
        lines_of_code(ast.parse(text), text)
        for path, text in texts.items()
        if path.parent.name in ("method", "training")
    )
    assert method <= 1200
    sizes = {}
    for path, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                sizes[f"{path.name}: {node.name}"] = lines_of_code(node, text)
    assert {name: size for name, size in sizes.items() if size > 40} == {}
    assert sorted(sizes.values())[len(sizes) // 2] <= 8


def test_the_contract_is_there_and_importing_the_package_is_light():
    """Every public name is found, and ``import animatediff_ref`` and ``--help`` import nothing heavy."""
    for name in CONTRACT:
        assert getattr(ar, name).__name__ == name
    assert not set(ar.__all__) & set(ROOMS)
    assert set(ar.__all__) >= set(CONTRACT) and set(dir(ar)) >= set(ar.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lowd_base'"):
        ar.lowd_base  # noqa: B018
    for words in (["-c", "import animatediff_ref"], ["-m", "animatediff_ref.cli", "--help"]):
        done = subprocess.run([sys.executable, "-X", "importtime", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-500:]
        loaded = {line.rsplit("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
        assert "animatediff_ref" in loaded and not loaded & {"torch", "diffusers", "transformers", "numpy", "cv2"}


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
    assert sum(sizes.values()) < 90
    assert max(sizes.values()) < 25


def test_the_table_of_models_is_in_step_with_the_cards():
    assert describe.table() in describe.README.read_text()


COLAB = {  # what an image of 2026 brings along, the first whose transformers read the mini world; no av, no mediapy
    "torch": "2.11.0",
    "diffusers": "0.39.0",
    "transformers": "5.13.1",
    "peft": "0.19.1",
    "accelerate": "1.14.0",
    "numpy": "2.0.2",
    "ipywidgets": "7.7.1",
    "matplotlib": "3.10.0",
    "opencv-python-headless": "4.12.0.88",
}


def test_the_pages_replace_nothing_that_colab_brings_along():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["pages"]]
    held = [line for line in asked if line.name in COLAB]
    assert len(held) == len(COLAB)
    assert [str(line) for line in held if COLAB[line.name] not in line.specifier] == []
    assert not {"jupyterlab", "jupyter-book", "notebook"} & {line.name for line in asked}
    assert all('"/content/book[pages]"' in path.read_text().replace("\\", "") for path in NOTEBOOKS)


def test_the_drawings_are_those_of_their_script():
    done = subprocess.run([sys.executable, ROOT / "book/_ext/draw.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_run_sizes(monkeypatch):
    monkeypatch.setenv("ANIMATEDIFF_REF_RUN", "smoke")
    assert ar.sized(1, 2, 3) == 1
    monkeypatch.setenv("ANIMATEDIFF_REF_RUN", "huge")
    with pytest.raises(ValueError, match="smoke, normal, full, got 'huge'"):
        ar.run_size()


def test_the_cache_of_executed_pages_heeds_code_and_data_and_no_docstring(tmp_path):
    module, data = tmp_path / "animatediff_ref" / "a.py", tmp_path / "data" / "b.csv"
    for path, text in ((module, '"""Old."""\nx = 1\n'), (data, "1\n"), (tmp_path / "data" / "README.md", "old")):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    before = fresh_cache.state(tmp_path)
    module.write_text('"""New."""\n\nx = 1  # said\n')
    (tmp_path / "data" / "README.md").write_text("new")
    assert fresh_cache.state(tmp_path) == before
    module.write_text('"""New."""\nx = 2\n')
    changed = fresh_cache.state(tmp_path)
    data.write_text("2\n")
    assert len({before, changed, fresh_cache.state(tmp_path)}) == 3
