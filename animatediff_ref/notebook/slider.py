"""A slider over clips that were made before, on a page without a kernel."""

import html
import json
from collections.abc import Mapping

import numpy as np

from animatediff_ref.notebook.show import display_html, figure, grid

# What moving the slider does: shows one step, at the moment of the clip that the last one had reached, and names it.
CHOOSE = """
const box = this.closest('.clip-slider'), steps = box.querySelectorAll('.step'), names = JSON.parse(box.dataset.names);
const before = box.querySelector('.step:not([hidden]) video');
steps.forEach((step, i) => { step.hidden = i != this.value; });
for (const clip of steps[this.value].querySelectorAll('video')) {
  clip.currentTime = before.currentTime;
  before.paused ? clip.pause() : clip.play();
}
box.querySelector('output').value = names[this.value];
this.setAttribute('aria-valuetext', names[this.value]);
"""


def show_slider(
    steps: Mapping[float | str, np.ndarray | Mapping[str, np.ndarray]], name: str, *, start: float | str | None = None,
    columns: int = 4, width: int = 160, alt: str = "", fps: int = 8,
) -> None:  # fmt: skip
    """Play one of several clips, or of several grids of clips, that a slider called ``name`` chooses.

    ``steps`` has for every position of the slider, in order, a clip, uint8 (f, h, w, 3), or named clips side by side as
    for ``show_grid``. The slider begins at ``start``, by default at the first. It works by mouse, touch and keyboard,
    and needs no kernel. ``alt`` and the position are the text for screen readers. ``ValueError`` for no steps, and for
    a ``start`` that is none of them.
    """
    values = list(steps)
    if not values or (start is not None and start not in values):
        raise ValueError(f"a slider needs steps, and a start among them; got start={start!r}, steps {values}")
    chosen = values.index(start) if start is not None else 0
    names = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    cells = "".join(
        f'<div class="step"{"" if i == chosen else " hidden"}>{_step(steps[value], f"{alt} {name} {said}", columns, width, fps)}</div>'
        for i, (value, said) in enumerate(zip(values, names))
    )
    label = html.escape(name, quote=True)
    display_html(
        f'<div class="clip-slider" data-names="{html.escape(json.dumps(names), quote=True)}">{cells}'
        f'<label>{label} <input type="range" min="0" max="{len(values) - 1}" step="1" value="{chosen}" '
        f'aria-valuetext="{html.escape(names[chosen], quote=True)}" oninput="{html.escape(CHOOSE, quote=True)}"> '
        f"<output>{html.escape(names[chosen])}</output></label></div>"
    )


def _step(clips: np.ndarray | Mapping[str, np.ndarray], alt: str, columns: int, width: int, fps: int) -> str:
    if isinstance(clips, Mapping):
        return grid(clips, columns, width, f"{alt.strip()}:", fps)
    return figure(clips, "", alt.strip(), width, fps)
