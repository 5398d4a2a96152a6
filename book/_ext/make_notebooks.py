"""Write book/NAME.ipynb from book/_src/NAME.md, one way only, byte-identical each time and without outputs.

    python book/_ext/make_notebooks.py            # write those that changed
    python book/_ext/make_notebooks.py --check    # list those that are out of step; exit code 1 if any

The first code cell of a page installs the package where it runs in Colab: from the repository and branch that
``_config.yml`` names, which is also where the page's launch button finds the page itself.
"""

import hashlib
import sys
from collections import Counter
from pathlib import Path

import jupytext
import nbformat
import yaml

BOOK = Path(__file__).resolve().parents[1]
COLAB = """import sys

if "google.colab" in sys.modules:  # fetch package and mini world
    REPOSITORY = "{url}"
    !git clone -q --depth 1 --branch {branch} {{REPOSITORY}} /content/book
    %pip install -q -e "/content/book[pages]"
    sys.path.insert(0, "/content/book")"""


def colab_cell() -> nbformat.NotebookNode:
    config = yaml.safe_load((BOOK.parent / "_config.yml").read_text())
    source = COLAB.format(**{key: config["repository"][key] for key in ("url", "branch")})
    return nbformat.v4.new_code_cell(source, metadata={"tags": ["remove-cell"]})


def notebook(source: Path) -> str:
    """The notebook of a page as text: cell ids follow from the cells' sources, so nothing changes that need not."""
    made = jupytext.read(source)
    made.nbformat, made.nbformat_minor = 4, 5
    made.metadata.pop("jupytext", None)
    first = next(i for i, cell in enumerate(made.cells) if cell.cell_type == "code")
    made.cells.insert(first, colab_cell())
    seen = Counter()
    for cell in made.cells:
        seen[cell.source] += 1
        cell.id = hashlib.sha256(f"{seen[cell.source]}:{cell.source}".encode()).hexdigest()[:8]
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.validate(made)
    return nbformat.writes(made) + "\n"


def main() -> int:
    stale = []
    for source in sorted((BOOK / "_src").glob("*.md")):
        page, text = BOOK / f"{source.stem}.ipynb", notebook(source)
        if not page.exists() or page.read_text() != text:
            stale.append(page.name)
            if "--check" not in sys.argv:
                page.write_text(text)
    print(f"{'out of step' if '--check' in sys.argv else 'written'}: {', '.join(stale) or 'none'}")
    return int("--check" in sys.argv and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
