"""Write the drawings of the book, book/_static/drawings/NAME.svg, byte-identical each time.

    python book/_ext/draw.py            # write those that changed
    python book/_ext/draw.py --check    # list those that are out of step; exit code 1 if any

Image layers are blue-grey, the motion module blue, adapters green; frozen is pale with a lock, trained is full.
Words have a ground of their own, to be read on any page. A drawing's docstring is its title and its description.
"""

import re
import sys
from html import escape
from itertools import combinations, product
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "_static" / "drawings"
SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"
INK, WHITE, LINE, NOTE, FILM = "#18222d", "#ffffff", "#7b8794", "#e4e8ed", "#52657a"
PALE = {"image": "#d3dce6", "motion": "#d2e1f8", "lora": "#cde8d8"}  # the ground of what is frozen
RIM = {"image": "#6a7f96", "motion": "#3d78d6", "lora": "#2b8a57"}  # its outline
FULL = {"motion": "#2463c2", "lora": "#1b7748"}  # what trains
PENGUIN, YOURS = ("#2c3a4b", "#ffffff", "#f0a030"), ("#8a3f9e", "#ffe3c2", "#e0563f")  # body, belly, beak
DASHES = {"stroke_dasharray": "8 6"}
NAMES = {"image layers": "image", "domain adapter": "lora", "motion module": "motion", "MotionLoRA": "lora"}
LIT = {"base": "image layers", "motion": "motion module", "adapter": "domain adapter", "motionlora": "MotionLoRA"}


def tag(name: str, inside: str = "", **attributes: object) -> str:
    """An element; ``font_size=20`` writes ``font-size="20"``."""
    shown = {key.replace("_", "-"): f"{v:.5g}" if isinstance(v, float) else v for key, v in attributes.items()}
    head = " ".join([name, *(f'{key}="{value}"' for key, value in shown.items())])
    return f"<{head}>{inside}</{name}>\n" if inside else f"<{head}/>\n"


def ground(x: float, y: float, w: float, h: float, fill: str, stroke: str = "none", **more: object) -> str:
    return tag("rect", x=x, y=y, width=w, height=h, rx=8, fill=fill, stroke=stroke, stroke_width=2.5, **more)


def words(x: float, y: float, *lines: str, size: int = 20, ink: str = INK, bold: bool = True) -> str:
    """Lines of text around the middle (x, y): the first one bold, one that begins with ` as code."""
    drawn = ""
    for i, said in enumerate(lines):
        look = {"font_family": MONO} if said[0] == "`" else {"font_weight": 700} if bold and i == 0 else {}
        base = y + 1.3 * size * (i - (len(lines) - 1) / 2) + 0.35 * size
        drawn += tag("text", escape(said.strip("`"), False), x=x, y=base, font_size=size, fill=ink, **look)
    return drawn


def note(x: float, y: float, w: float, *lines: str, size: int = 22, bold: bool = False) -> str:
    """Words on a pale ground, with their middle at (x, y)."""
    h = 1.3 * size * len(lines) + 12
    return ground(x - w / 2, y - h / 2, w, h, NOTE) + words(x, y, *lines, size=size, bold=bold)


def frozen(kind: str, x: float, y: float, w: float, h: float, *lines: str, size: int = 20, **more: object) -> str:
    """A part whose weights stay as they are; the lock is left of the words."""
    left, middle = x + (22 if lines else w / 2), y + h / 2
    bow = f"M{left - 5:g} {middle - 1:g}v-4a5 5 0 0 1 10 0v4"
    box = ground(x, y, w, h, PALE[kind], RIM[kind], **more) + words(x + w / 2 + 14, middle, *lines, size=size)
    box += tag("path", d=bow, fill="none", stroke=RIM[kind], stroke_width=2.5)
    return box + tag("rect", x=left - 8, y=middle - 2, width=16, height=12, rx=2.5, fill=RIM[kind])


def trained(kind: str, x: float, y: float, w: float, h: float, *lines: str, size: int = 20) -> str:
    """A part that learns."""
    return ground(x, y, w, h, FULL[kind]) + words(x + w / 2, y + h / 2, *lines, size=size, ink=WHITE)


def line(*points: tuple[float, float], ink: str = LINE, width: float = 3, **more: object) -> str:
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
    return tag("path", d=path, fill="none", stroke=ink, stroke_width=width, stroke_linejoin="round", **more)


def arrow(*points: tuple[float, float], ink: str = LINE, width: float = 3) -> str:
    """A line through the points, with a head that ends at the last."""
    (x0, y0), (x, y) = points[-2:]
    length = ((x - x0) ** 2 + (y - y0) ** 2) ** 0.5
    dx, dy = (x - x0) / length * 12, (y - y0) / length * 12
    head = f"M{x:g} {y:g}L{x - dx - dy / 2:g} {y - dy + dx / 2:g}L{x - dx + dy / 2:g} {y - dy - dx / 2:g}z"
    return line(*points[:-1], (x - dx, y - dy), ink=ink, width=width) + tag("path", d=head, fill=ink)


def picture(x: float, y: float, size: float, who: str, tilt: float = 0, zoom: float = 1) -> str:
    """A square frame with a penguin in snow; that of a video has the pale look and the mark of stock footage."""
    body, belly, beak = YOURS if who == "yours" else PENGUIN
    bird = f'<path d="M-12 19a6 3 0 0 1 12 0a6 3 0 0 1 12 0a6 3 0 0 1 -12 0a6 3 0 0 1 -12 0" fill="{beak}"/>'
    bird += f'<ellipse rx="15" ry="20" fill="{body}"/><ellipse cy="5" rx="9.5" ry="13" fill="{belly}"/>'
    for eye in (-4.5, 4.5):
        bird += f'<circle cx="{eye}" cy="-9" r="2.6" fill="#fff"/><circle cx="{eye}" cy="-9" r="1.3" fill="{INK}"/>'
    bird += f'<path d="M-4 -5h8l-4 6z" fill="{beak}"/>'
    inside = '<rect width="64" height="64" rx="5" fill="#a9cdec"/>'
    inside += '<path d="M1 46Q32 38 63 46V59Q63 63 59 63H5Q1 63 1 59z" fill="#f6f9fc"/>'
    inside += tag("g", bird, transform=f"translate(32 36) rotate({tilt:g} 0 19) scale({zoom:g})")
    if who == "video":
        inside += '<rect width="64" height="64" rx="5" fill="#c9ccd0" opacity=".5"/>'
        inside += '<path d="M4 50L50 4M14 60L60 14" stroke="#fff" stroke-width="5" opacity=".8"/>'
    inside += f'<rect x="1" y="1" width="62" height="62" rx="5" fill="none" stroke="{RIM["image"]}" stroke-width="2"/>'
    return tag("g", inside, transform=f"translate({x:g} {y:g}) scale({size / 64:.4g})")


def film(x: float, y: float, size: float, count: int, who: str, turn: float, grow: float = 0) -> str:
    """Frames of a clip in which the penguin waddles and the camera may come nearer."""
    zooms = [1.15 - grow * (count - 1 - i) if grow else 1 for i in range(count)]
    frames = (picture(x + 6 + i * (size + 6), y + 6, size, who, turn * (-1) ** i, zooms[i]) for i in range(count))
    return ground(x, y, count * (size + 6) + 6, size + 12, FILM) + "".join(frames)


def part(content: str, lit: bool) -> str:
    """A part of a drawing; out of the light it is faint and has no words."""
    wordless = re.sub(f'<text.*?</text>\n|<rect[^>]*"{NOTE}"[^>]*>\n', "", content)
    return content if lit else tag("g", wordless, opacity=0.4)


def shade(row: int, column: int, frame: int) -> str:
    """The colour of a pixel: orange near a spot that moves with the frames, pale far from it."""
    near = max(0.0, 1 - ((row - 0.2 - 0.5 * frame) ** 2 + (column - 0.7 * frame) ** 2) ** 0.5 / 1.7)
    return "#" + "".join(f"{round(far + near * (spot - far)):02x}" for far, spot in ((238, 232), (241, 118), (245, 28)))


def pixels(x: float, y: float, frame: int) -> str:
    """A frame of three by three pixels."""
    drawn = ""
    for row, column in product(range(3), repeat=2):
        drawn += tag("rect", x=x + 32 * column, y=y + 32 * row, width=32, height=32, fill=shade(row, column, frame))
    return drawn + tag("rect", x=x, y=y, width=96, height=96, fill="none", stroke=INK, stroke_width=1.5)


def fold() -> str:
    """A clip, folded for image layers and for temporal layers

    A clip of four frames, b f c h w. Image layers take its frames as a batch, each frame alone: (b f) c h w. Temporal
    layers take each pixel alone, as a sequence through all frames: (b h w) f c. The middle pixel is marked in every
    frame; its four values become one sequence, in which all attend to all. Then it is all folded back for image layers.
    """
    columns, blue = [264 + 126 * i for i in range(4)], FULL["motion"]
    drawn = ground(246, 0, 510, 120, RIM["image"]) + note(115, 60, 226, "a clip", "`b f c h w", bold=True)
    drawn += frozen("image", 2, 188, 226, 132, "image layers", "frame by frame", "`(b f) c h w", size=22)
    drawn += trained("motion", 2, 418, 226, 132, "temporal layers", "pixel by pixel", "`(b h w) f c", size=22)
    drawn += arrow((48, 326), (48, 412)) + arrow((182, 412), (182, 326)) + note(115, 369, 92, "back")
    drawn += "".join(ground(247 + 9 * i, 418 + 9 * i, 508 - 18 * i, 132, blue, PALE["motion"]) for i in (2, 1, 0))
    for i, x in enumerate(columns):
        drawn += pixels(x, 12, i) + arrow((x + 48, 126), (x + 48, 182))
        drawn += ground(x - 12, 188, 120, 132, PALE["image"], RIM["image"]) + pixels(x, 206, i)
        drawn += tag("rect", x=x + 32, y=238, width=32, height=32, rx=3, fill="none", stroke=blue, stroke_width=5)
        drawn += arrow((x + 48, 270), (x + 48, 414), ink=blue, width=4)
        drawn += tag("rect", x=x + 26, y=432, width=44, height=44, fill=shade(1, 1, i), stroke=WHITE, stroke_width=3)
    for a, b in combinations(columns, 2):
        curve = f"M{a + 48} 478Q{(a + b) // 2 + 48} {484 + 36 * (b - a) // 126} {b + 48} 478"
        drawn += tag("path", d=curve, fill="none", stroke=WHITE, stroke_width=2.5)
    return drawn + arrow((264, 608), (738, 608)) + note(501, 608, 90, "time")


def low_rank(x: float, y: float, filled: bool = False) -> str:
    """The mark of an adapter on a block."""
    fill, rim = (FULL["lora"], WHITE) if filled else (PALE["lora"], RIM["lora"])
    return tag("rect", x=x - 7, y=y - 7, width=14, height=14, rx=3, fill=fill, stroke=rim, stroke_width=2.5)


def level(y: float, step: int, lit: tuple[str, ...]) -> str:
    """One level of the U: image layers, then a motion module, on the way down (left) and on the way up (right)."""
    left, width, blue = 164 + 20 * step, 90 - 6 * step, FULL["motion"]
    right = 750 - left - width
    skip = line((left + width, y + 66), (right, y + 66), width=2, stroke_dasharray="2 7", stroke_linecap="round")
    flow = arrow((245, y + 80), (245, y + 98)) + arrow((505, y + 98), (505, y + 80)) if step < 2 else ""
    blocks = frozen("image", left, y, width, 50) + frozen("image", right, y + 28, width, 50)
    drawn = part(skip + flow, "frame" in lit) + part(blocks, "base" in lit)
    drawn += part(ground(left, y + 54, width, 24, blue) + ground(right, y, width, 24, blue), "motion" in lit)
    drawn += part(low_rank(left + 15, y + 25) + low_rank(735 - left, y + 53), "adapter" in lit)
    return drawn + part(low_rank(left + 15, y + 66, True) + low_rank(735 - left, y + 12, True), "motionlora" in lit)


def parts(*lit: str) -> str:
    """The parts of AnimateDiff

    Noise and a prompt go into a UNet, and a clip comes out. The UNet's image layers are frozen: those of the base model
    or of your style. After them, on every level down and up, comes a piece of the motion module (in version 2 also in
    the middle). The domain adapter acts on the image layers, while training, and is then dropped. MotionLoRA acts on
    the motion module and adds a camera move.
    """
    frame = tag("rect", x=150, y=136, width=450, height=372, rx=22, fill="none", stroke=LINE, stroke_width=2.5)
    frame += arrow((128, 176), (148, 176)) + arrow((128, 290), (148, 290)) + arrow((602, 176), (624, 176))
    frame += line((245, 442), (245, 471), (313, 471)) + arrow((437, 471), (505, 471), (505, 442))
    frame += note(64, 176, 124, "noise") + note(64, 290, 124, "prompt", "a penguin", "in snow", bold=True)
    frame += note(375, 364, 96, "UNet") + note(693, 110, 130, "a clip") + ground(628, 136, 130, 372, FILM)
    frame += "".join(picture(639, 148 + 120 * i, 108, "yours", 12 * (i - 1)) for i in range(3))
    base = arrow((348, 34), (402, 34), ink=RIM["image"]) + arrow((402, 58), (348, 58), ink=RIM["image"])
    for x, who, name in ((130, "base", "base"), (406, "yours", "your style")):
        base += ground(x, 2, 214, 88, PALE["image"], RIM["image"])
        base += picture(x + 12, 14, 64, who) + words(x + 144, 46, name)
    base += arrow((375, 76), (375, 158), ink=RIM["image"])
    base += frozen("image", 270, 162, 210, 44, "image layers") + frozen("image", 313, 446, 124, 50)
    adapter = arrow((179, 556), (179, 385), (202, 385), ink=RIM["lora"]) + low_rank(328, 471)
    adapter += ground(2, 560, 366, 86, PALE["lora"], RIM["lora"], **DASHES)
    adapter += words(185, 603, "domain adapter", "while training, then dropped", size=22)
    lora = arrow((571, 556), (571, 372), (546, 372), ink=RIM["lora"])
    lora += trained("lora", 392, 560, 366, 86, "MotionLoRA", "one more camera move", size=22)
    module = trained("motion", 281, 252, 188, 44, "motion module")
    named = {"frame": frame, "base": base, "motion": module, "adapter": adapter, "motionlora": lora}
    levels = "".join(level(160 + 100 * i, i, lit) for i in range(3))
    return "".join(part(content, name in lit) for name, content in named.items()) + levels


def model(x: float, y: float, *states: str) -> str:
    """The parts below each other: trained, frozen, optional or "" for not yet; after a colon, more to say."""
    drawn = ""
    for i, ((name, kind), told) in enumerate(zip(NAMES.items(), states)):
        state, *more = told.split(":")
        place, lines = (x + 2, y + 68 * i, 236, 60), (name, *more)
        if state:
            dashes = DASHES if state == "optional" else {}
            drawn += trained(kind, *place, *lines) if state == "trained" else frozen(kind, *place, *lines, **dashes)
        else:
            drawn += ground(*place, "none", RIM[kind], stroke_dasharray="3 7", stroke_linecap="round")
            drawn += note(x + 120, y + 68 * i + 30, 90, "not yet", size=20)
    return drawn


def stages(*lit: int) -> str:
    """The three stages of training, and animation

    Stage 1 trains the domain adapter, in the frozen image layers, on single frames of videos; there is no motion module
    yet. Stage 2 trains the motion module on clips; image layers and domain adapter are frozen. Stage 3 trains a
    MotionLoRA on 20 to 50 clips of one camera move; all else is frozen, and the domain adapter is optional.

    Then, to animate, the image layers are those of your style, the domain adapter is scaled by alpha or dropped, the
    motion module stays, and a MotionLoRA is optional: it adds, for example, a zoom.
    """
    data = (picture(88, 52, 64, "video"), film(261, 52, 52, 4, "video", 14), film(521, 52, 52, 4, "video", 0, 0.2))
    told = (("single frames", "of videos"), ("clips,", "16 frames each"), ("20–50 clips of", "one camera move"))
    first, drawn = ("frozen", "trained", "", ""), ""
    states = (first, ("frozen", *first[:3]), ("frozen", "optional:optional", "frozen", "trained"))
    for i, (x, name) in enumerate(((0, "1 domain adapter"), (260, "2 motion module"), (520, "3 MotionLoRA"))):
        stage = data[i] + note(x + 120, 166, 240, *told[i], size=20) + arrow((x + 120, 206), (x + 120, 234))
        drawn += note(x + 120, 22, 240, name, bold=True) + part(stage + model(x, 240, *states[i]), i + 1 in lit)
    after = model(0, 612, "frozen:your style", "optional:× α, or dropped", "frozen", "optional:optional")
    after += arrow((242, 744), (264, 744), (264, 690), (287, 690)) + arrow((264, 744), (264, 840), (287, 840))
    after += note(524, 618, 468, "motion module alone", size=20) + film(291, 641, 86, 5, "yours", 10)
    after += note(524, 768, 468, "with MotionLoRA: zoom in", size=20) + film(291, 791, 86, 5, "yours", 10, 0.15)
    return drawn + (note(380, 556, 760, "then animate", bold=True) + after if 4 in lit else "")


def inflated_block() -> str:
    """A temporal transformer in the UNet

    Frozen: a ResNet, attention in space, attention to the text. Trained: a temporal transformer after them. Inside: a
    norm and the fold into one sequence per pixel; projection in; twice a norm, positions added, and attention in time,
    with a residual around; a norm and a feed-forward, with a residual around; projection out, which starts at zero;
    the fold back; and a residual around it all.
    """
    drawn = tag("path", d="M230 512L344 2V746L230 602z", fill=RIM["motion"], opacity=0.25)
    for i, lines in enumerate((("ResNet",), ("attention", "in space"), ("attention", "to the text"))):
        drawn += frozen("image", 2, 74 + 146 * i, 226, 90, *lines, size=22)
    drawn += "".join(arrow((115, 168 + 146 * i), (115, 216 + 146 * i)) for i in range(4)) + arrow((115, 44), (115, 70))
    drawn += trained("motion", 2, 512, 226, 90, "temporal", "transformer", size=22) + note(115, 23, 230, "`(b f) c h w")
    drawn += note(115, 680, 230, "to the next block", size=20) + ground(345, 2, 410, 744, "none", FULL["motion"])
    drawn += ground(369, 206, 340, 202, "none", RIM["motion"], **DASHES) + note(419, 380, 64, "× 2", bold=True)
    flow = {50: 82, 128: 146, 192: 238, 284: 302, 348: 365, 395: 440, 486: 503, 533: 550, 620: 638, 684: 701, 731: 764}
    drawn += "".join(arrow((531, top), (531, end), ink=RIM["motion"]) for top, end in flow.items())
    for top, end, x in ((60, 716, 731), (218, 380, 691), (420, 518, 691)):  # residuals, each with its sum
        drawn += arrow((531, top), (x, top), (x, end), (546, end), ink=RIM["motion"])
        drawn += tag("circle", cx=531, cy=end, r=13, fill=WHITE, stroke=FULL["motion"], stroke_width=2.5)
        drawn += tag("path", d=f"M524 {end}h14M531 {end - 7}v14", stroke=FULL["motion"], stroke_width=3)
    steps = {84: "norm, fold by pixel", 148: "project in", 240: "norm, + positions", 304: "attention in time"}
    for y, name in {**steps, 442: "norm, feed-forward", 640: "fold back"}.items():
        drawn += trained("motion", 391, y, 280, 44, name, size=22)
    drawn += trained("motion", 391, 552, 280, 68, "project out", "starts at zero", size=22)
    return drawn + note(531, 30, 200, "`(b f) c h w")


def latent(x: float, y: float, size: float, noise: float) -> str:
    """A latent of six by six numbers: a shape under so much noise, from 0 to 1."""
    drawn, cell = "", size / 6
    for row, column in product(range(6), repeat=2):
        shape = 1.0 if 1 <= row <= 4 and 2 <= column <= 3 else 0.25
        chance = (37 * row + 61 * column + 23 * row * column + 11 * (row ^ column)) % 97 / 96
        grey = round(235 - 195 * ((1 - noise) * shape + noise * chance))
        place = {"x": x + cell * column, "y": y + cell * row, "width": cell, "height": cell}
        drawn += tag("rect", **place, fill=f"#{grey:02x}{grey:02x}{min(255, grey + 20):02x}")
    return drawn + tag("rect", x=x, y=y, width=size, height=size, fill="none", stroke=RIM["image"], stroke_width=2)


def diffusion() -> str:
    """Latent diffusion: how it is trained, and how it draws

    Training: the encoder makes a latent of a picture. Noise that is known is added, as much as the timestep says. The
    UNet gets the noisy latent, the timestep and the caption, and guesses the noise; the loss compares both.

    Drawing: the UNet gets noise, a timestep and a prompt. A part of the noise that it guesses is taken away. This is
    repeated with smaller timesteps, until the decoder makes a picture of what is left.
    """
    drawn = note(380, 22, 760, "training", bold=True) + note(380, 342, 760, "drawing", bold=True)
    drawn += picture(2, 106, 84, "yours") + arrow((90, 148), (104, 148)) + arrow((204, 148), (218, 148))
    drawn += ground(106, 122, 96, 52, NOTE) + words(154, 148, "encoder", size=20, bold=False)
    drawn += latent(222, 106, 84, 0) + note(330, 148, 32, "+", size=26, bold=True) + latent(354, 106, 84, 1)
    drawn += tag("rect", x=212, y=96, width=236, height=138, rx=8, fill="none", stroke=RIM["image"], stroke_width=2.5)
    drawn += (
        note(330, 70, 180, "noisy latent", size=20)
        + note(264, 212, 84, "latent", size=20)
        + note(396, 212, 84, "noise", size=20)
    )
    drawn += arrow((452, 148), (476, 148)) + trained("motion", 480, 106, 112, 84, "UNet", "learns", size=20)
    drawn += note(536, 66, 220, "timestep, caption", size=20) + arrow((536, 84), (536, 104))
    drawn += arrow((596, 148), (660, 148)) + latent(664, 106, 84, 0.9) + note(706, 212, 100, "guess", size=20)
    drawn += arrow((706, 232), (706, 268), (396, 268), (396, 240)) + note(551, 268, 130, "compare", size=20)
    drawn += latent(2, 426, 84, 1) + arrow((90, 468), (134, 468))
    drawn += frozen("image", 138, 426, 112, 84, "UNet", size=20)
    drawn += note(194, 386, 220, "timestep, prompt", size=20) + arrow((194, 404), (194, 424))
    drawn += arrow((254, 468), (298, 468)) + latent(302, 426, 84, 0.9) + note(344, 532, 100, "guess", size=20)
    drawn += note(44, 532, 88, "noise", size=20) + arrow((390, 468), (434, 468))
    drawn += latent(438, 426, 84, 0.55) + note(480, 532, 110, "less noise", size=20)
    drawn += arrow((480, 552), (480, 592), (44, 592), (44, 552)) + note(
        262, 592, 240, "repeat, 12 to 50 times", size=20
    )
    drawn += arrow((526, 468), (552, 468)) + ground(554, 442, 100, 52, NOTE)
    drawn += words(604, 468, "decoder", size=20, bold=False)
    return drawn + arrow((656, 468), (670, 468)) + picture(674, 426, 84, "yours", 8)


def drawings() -> dict[str, str]:
    """Name and text of every drawing."""
    made = {"fold": (fold, 632, fold()), "inflated_block": (inflated_block, 766, inflated_block())}
    made |= {"diffusion": (diffusion, 614, diffusion())}
    made |= {"parts": (parts, 648, parts("frame", *LIT)), "stages": (stages, 892, stages(1, 2, 3, 4))}
    made |= {f"parts-{name}": (parts, 648, parts(name)) for name in LIT}
    made |= {f"stages-{i}": (stages, 516, stages(i)) for i in (1, 2, 3)}
    for name, (whole, height, content) in made.items():
        title, description, *more = (" ".join(text.split()) for text in whole.__doc__.split("\n\n"))
        lit = name.partition("-")[2]
        title += f": {LIT.get(lit, f'stage {lit}')}" if lit else ""
        description = f"The rest is faint. {description}" if lit else " ".join([description, *more])
        label = tag("title", title, id=f"{name}-title") + tag("desc", description, id=f"{name}-desc")
        look = {"viewBox": f"0 0 760 {height}", "role": "img", "aria_labelledby": f"{name}-title {name}-desc"}
        look |= {"font_family": SANS, "text_anchor": "middle", "xmlns": "http://www.w3.org/2000/svg"}
        made[name] = tag("svg", f"\n{label}{content}", **look)
    return made


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    files = {FOLDER / f"{name}.svg": text.encode() for name, text in drawings().items()}
    stale = [file for file, text in files.items() if not file.exists() or file.read_bytes() != text]
    for file in () if "--check" in sys.argv else stale:
        file.write_bytes(files[file])
    print("out of step:" if "--check" in sys.argv else "written:", ", ".join(file.name for file in stale) or "none")
    return int("--check" in sys.argv and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
