"""Code as it runs, so that a hash of it does not mind a polished docstring."""

import ast
import hashlib
from pathlib import Path


def code_of(path: Path) -> bytes:
    """A module as it runs: its syntax tree without docstrings, line numbers and comments."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree).encode()


def code_hash(*paths: Path) -> str:
    """sha256 over some modules, and over all modules in some folders."""
    digest = hashlib.sha256()
    for path in paths:
        for module in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(module.name.encode() + code_of(module))
    return digest.hexdigest()[:16]
