"""Many pictures with buttons that choose among them, on a page without a kernel."""

import base64
import html
from collections.abc import Mapping, Sequence
from io import BytesIO
from uuid import uuid4

import numpy as np
from PIL import Image

from animatediff_ref.clips.video import check_clip
from animatediff_ref.notebook.show import display_html


def show_gallery(pictures: Mapping[tuple[str, ...], np.ndarray], by: Sequence[str], *, width: int = 96) -> None:
    """Show many pictures, uint8 (h, w, 3), with a row of buttons for each of the properties ``by``.

    A picture's key holds its value of each property: ``{("ink", "a penguin"): picture, ...}`` with ``by=("style",
    "prompt")``. Pictures with the same first value stand in a row. It works by style sheet alone, so also on a page
    without a kernel.
    """
    if wrong := [key for key in pictures if len(key) != len(by)]:
        raise ValueError(f"a key needs {len(by)} values ({', '.join(by)}), got {wrong[0]!r}")
    gallery = f"gallery-{uuid4().hex[:8]}"
    choices = [list(dict.fromkeys(key[i] for key in pictures)) for i in range(len(by))]
    buttons = "".join(_buttons(f"{gallery}-{i}", name, choices[i]) for i, name in enumerate(by))
    rules = "".join(_rules(gallery, i, len(values)) for i, values in enumerate(choices))
    rows = dict.fromkeys(choices[0], "")
    for key, picture in pictures.items():
        rows[key[0]] += _picture(picture, key, [values.index(v) + 1 for v, values in zip(key, choices)], width)
    lines = "".join(_row(n, name, cells) for n, (name, cells) in enumerate(rows.items(), 1))
    display_html(
        f'<div class="gallery" id="{gallery}"><style>#{gallery} figure{{margin:0}}{rules}</style>{buttons}'
        f'<div class="pictures">{lines}</div></div>'
    )


def _row(n: int, name: str, cells: str) -> str:
    """The pictures with one value of the first property, after its name."""
    look = 'style="display:flex;flex-wrap:wrap;gap:4px;align-items:center"'
    return f'<div class="line" data-0="{n}" {look}><span>{html.escape(name)}</span>{cells}</div>'


def _rules(gallery: str, i: int, count: int) -> str:
    """For each button of property ``i``: while it is chosen, pictures of another value are not shown."""
    return "".join(
        f'#{gallery}:has(#{gallery}-{i}-{n}:checked) [data-{i}]:not([data-{i}="{n}"]){{display:none!important}}'
        for n in range(1, count + 1)
    )


def _buttons(group: str, name: str, values: list[str]) -> str:
    """A row of buttons of which one is chosen, the first being all."""
    buttons = "".join(
        f'<input type="radio" name="{group}" id="{group}-{n}"{" checked" if n == 0 else ""}>'
        f'<label for="{group}-{n}">{html.escape(value)}</label>'
        for n, value in enumerate(["all", *values])
    )
    return f"<fieldset><legend>{html.escape(name)}</legend>{buttons}</fieldset>"


def _picture(picture: np.ndarray, key: tuple[str, ...], numbers: list[int], width: int) -> str:
    image = Image.fromarray(check_clip(picture[None])[0])
    image.save(file := BytesIO(), "webp", quality=90)
    label = html.escape(", ".join(key), quote=True)
    data = " ".join(f'data-{i}="{number}"' for i, number in enumerate(numbers))
    source = base64.b64encode(file.getvalue()).decode()
    return (
        f'<figure {data}><img src="data:image/webp;base64,{source}" class="dark-light" width="{width}" '
        f'alt="{label}" title="{label}"></figure>'
    )
