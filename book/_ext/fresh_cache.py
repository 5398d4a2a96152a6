"""Empty the build's cache of executed pages when what the pages run has changed.

The cache looks at the cells of a page alone. This looks at what lies under them: the package's code without its docstrings and
comments, and the data. A page whose text was polished, or a docstring, executes nothing again.
"""

import hashlib
import os
import shutil
from pathlib import Path

from recipes.common.code import code_of

ROOT = Path(__file__).resolve().parents[2]
CACHE, STAMP = ROOT / "_build" / ".jupyter_cache", ROOT / "_build" / ".code"


def state(root: Path = ROOT) -> str:
    """One hash over the package's code, the data, the pinned libraries and the size of the run.

    Recipes and texts about the data do not count.
    """
    digest = hashlib.sha256(os.environ.get("ANIMATEDIFF_REF_RUN", "").encode())
    if (pins := root / "constraints.txt").exists():
        digest.update(pins.read_bytes())
    for path in sorted((root / "animatediff_ref").rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + code_of(path))
    for path in sorted((root / "animatediff_ref").rglob("*.html")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    for path in sorted((root / "data").rglob("*")):
        name = path.relative_to(root)
        if path.is_file() and "recipes" not in name.parts and path.suffix != ".md":
            digest.update(name.as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def main() -> None:
    """Write the state into ``_build/.code`` where it is another than before, and then empty the cache."""
    now = state()
    if not STAMP.exists() or STAMP.read_text() != now:
        if CACHE.exists():
            shutil.rmtree(CACHE)
        STAMP.parent.mkdir(exist_ok=True)
        STAMP.write_text(now)


if __name__ == "__main__":
    main()
