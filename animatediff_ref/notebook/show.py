"""Looking at clips: in a page, as a strip of frames, as a slice through time."""

import base64
import html
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from animatediff_ref.clips.video import check_clip, write_clip

STYLE = "margin:0;max-width:100%;display:inline-block;vertical-align:top"
BUTTON = "display:block;width:100%;padding:0;border:0;background:none;cursor:pointer"
TOGGLE = "const v = this.querySelector('video'); v.paused ? v.play() : v.pause()"


def show(clip: np.ndarray, caption: str = "", *, alt: str = "", width: int = 256, fps: int = 8) -> None:
    """Play a clip in a notebook or page: looping, muted, with a caption and a text for screen readers.

    The clip is a button that pauses and plays: by mouse, touch, or Enter and Space.
    """
    display_html(figure(clip, caption, alt or caption, width, fps))


def show_grid(
    clips: Mapping[str, np.ndarray], *, columns: int = 4, width: int = 160, alt: str = "", fps: int = 8
) -> None:
    """Play several clips side by side, each above its name; they wrap on a narrow screen."""
    display_html(grid(clips, columns, width, alt, fps))


def filmstrip(clip: np.ndarray, frames: int = 8, width: int = 96) -> Image.Image:
    """Evenly spaced frames of a clip side by side, as one picture."""
    clip = check_clip(clip)
    picked = clip[np.linspace(0, len(clip) - 1, min(frames, len(clip))).round().astype(int)]
    height = round(width * clip.shape[1] / clip.shape[2])
    strip = Image.new("RGB", (len(picked) * (width + 2) - 2, height), "white")
    for i, frame in enumerate(picked):
        strip.paste(
            Image.fromarray(frame).resize(
                (width, height), Image.NEAREST if width % clip.shape[2] == 0 else Image.LANCZOS
            ),
            (i * (width + 2), 0),
        )
    return strip


def xt_slice(clip: np.ndarray, row: int | None = None, scale: int = 4) -> Image.Image:
    """One row of pixels (the middle one) through time: x goes across, time goes down.

    A still thing draws straight vertical lines.
    """
    clip = check_clip(clip)
    row = clip.shape[1] // 2 if row is None else row
    if not 0 <= row < clip.shape[1]:
        raise ValueError(f"a slice needs a row from 0 to {clip.shape[1] - 1}, got {row}")
    lines = Image.fromarray(np.ascontiguousarray(clip[:, row]))
    return lines.resize((lines.width * scale, lines.height * scale), Image.NEAREST)


def grid(clips: Mapping[str, np.ndarray], columns: int, width: int, alt: str, fps: int) -> str:
    """The markup of ``show_grid``."""
    cells = "".join(figure(clip, name, f"{alt} {name}".strip(), width, fps) for name, clip in clips.items())
    share = f"calc((100% - {12 * (columns - 1)}px)/{columns})"
    least = f"max({share},min(140px,calc(50% - 6px)))"  # on a phone two in a row
    tracks = f"repeat(auto-fill,minmax(min({width}px,{least}),1fr))"
    style = f"display:grid;grid-template-columns:{tracks};gap:12px;max-width:{columns * (width + 12)}px"
    return f'<div class="clip-grid" style="{style}">{cells}</div>'


def figure(clip: np.ndarray, caption: str, alt: str, width: int, fps: int) -> str:
    """The markup of ``show``: everything is in it, nothing is fetched."""
    clip = check_clip(clip)
    size = (width, width * clip.shape[1] // clip.shape[2])
    enlarged = np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.LANCZOS)) for frame in clip])
    with tempfile.TemporaryDirectory() as folder:
        write_clip(enlarged, path := Path(folder) / "clip.mp4", fps)
        video = base64.b64encode(path.read_bytes()).decode()
        Image.fromarray(enlarged[0]).save(path := Path(folder) / "poster.webp", quality=80)
        still = base64.b64encode(path.read_bytes()).decode()
    label = html.escape(alt or f"a clip of {len(clip)} frames", quote=True)
    words = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure class="clip" style="{STYLE};width:{width}px">'
        f'<button type="button" style="{BUTTON}" aria-label="{label}. Press to pause or play." onclick="{TOGGLE}">'
        f'<video playsinline loop muted autoplay width="{width}" style="display:block;width:100%;height:auto" '
        f"onplay=\"this.parentNode.dataset.state='playing'\" onpause=\"this.parentNode.dataset.state='paused'\" "
        f'poster="data:image/webp;base64,{still}" src="data:video/mp4;base64,{video}"></video></button>{words}</figure>'
    )


def display_html(markup: str) -> None:
    """Put markup into the output of a cell."""
    from IPython.display import HTML, display

    display(HTML(markup))
