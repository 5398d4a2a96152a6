"""The page on troubles quotes the package: every word that it quotes is said by the code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import animatediff_ref as ar

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "book" / "troubleshooting.md").read_text(encoding="utf-8")
VALUE = "\0"  # stands for a value that a message has put in


def rows() -> list[list[str]]:
    """The cells of the tables of troubles, without the headings."""
    tables = re.findall(r"^```{table}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    lines = [line for table in tables for line in table.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] not in ("what you see", "---")]


QUOTES = sorted({quote for row in rows() for quote in re.findall(r"`([^`]+)`", row[0])})


def texts(tree: ast.AST) -> Iterator[str]:
    """The texts in a piece of code but for docstrings, with ``VALUE`` where something is put in."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else VALUE for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        else:
            yield from texts(node)


SAID = [text for path in (ROOT / "animatediff_ref").rglob("*.py") for text in texts(ast.parse(path.read_text("utf-8")))]


def is_said(quote: str) -> bool:
    """Whether a message has these words, in this order, and a value for every ``…``."""
    wanted = re.compile(f"[^{VALUE}]*{VALUE}.*?".join(map(re.escape, quote.split("…"))), re.DOTALL)
    return any(wanted.search(text) for text in SAID)


@pytest.mark.parametrize("quote", QUOTES)
def test_what_the_page_quotes_is_said(quote):
    if quote.endswith("Warning"):
        assert issubclass(getattr(ar, quote), UserWarning)
    else:
        assert is_said(quote), f"the package says nothing like {quote!r}"


def test_rows_are_whole():
    assert len(QUOTES) > 60
    assert {len(row) for row in rows()} == {3}
    assert all(cell for row in rows() for cell in row)


def test_a_quote_that_nobody_says_would_be_noticed():
    assert is_said("has positions for 1 to … frames")
    assert not is_said("has places for 1 to … frames")
    assert not is_said("has positions for … to … frames"), "the 1 is said as it is"
    assert not is_said("has positions for 1 to 32 frames"), "the 32 is put in"
