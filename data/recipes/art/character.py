"""Pip, a character of our own: a small round monster with one eye, drawn by code in six poses.

    python -m recipes.art.character           # draws data/stills/pip.webp

No set of emoji has it, so a model that draws it has learnt it from these six pictures (train/style.py).
"""

from dataclasses import dataclass

from recipes.art import world
from recipes.art.artwork import rasterise, write_sheet

BODY, SHADE, BELLY, HORN, INK = "#19a89b", "#0c7f78", "#fff3c9", "#ff8a3c", "#20303a"


@dataclass(frozen=True)
class Pose:
    """How pip holds itself; in the units of a drawing of 100 by 100, y down."""

    look: tuple[float, float] = (0, 0)  # of the pupil, from the middle of the eye
    arms: tuple[float, float] = (8, 8)  # height of the hands below the shoulders, left and right
    feet: tuple[float, float] = (0, 0)  # how far each foot is lifted
    rise: float = 0  # of the whole body above the ground
    squash: float = 1.0  # height of the body: below one is flatter, and wider
    asleep: bool = False
    mouth: str = "smile"


POSES = {
    "standing": Pose(),
    "waving": Pose(look=(3, -1), arms=(9, -22), mouth="open"),
    "looking": Pose(look=(-6, -4), arms=(10, 10), squash=1.05, mouth="small"),
    "walking": Pose(look=(5, 1), arms=(2, 14), feet=(0, 6), rise=2),
    "jumping": Pose(look=(0, -5), arms=(-18, -18), feet=(-3, -3), rise=7, squash=1.08, mouth="open"),
    "sleeping": Pose(arms=(14, 14), squash=0.86, asleep=True, mouth="small"),
}
MOUTHS = {
    "smile": f'<path d="M41 0 Q50 8 59 0" fill="none" stroke="{INK}" stroke-width="2.6" stroke-linecap="round"/>',
    "open": f'<path d="M41 -1 H59 Q58 10 50 10 T41 -1Z" fill="{INK}"/><path d="M46 -1 h8 l-4 5Z" fill="#fff"/>',
    "small": f'<path d="M46 2 Q50 5 54 2" fill="none" stroke="{INK}" stroke-width="2.6" stroke-linecap="round"/>',
}


def eye(pose: Pose, y: float) -> str:
    if pose.asleep:
        return (
            f'<path d="M36 {y} Q50 {y + 9} 64 {y}" fill="none" stroke="{INK}" stroke-width="3" stroke-linecap="round"/>'
        )
    x, down = pose.look
    return (
        f'<circle cx="50" cy="{y}" r="15" fill="#fff"/><circle cx="{50 + x}" cy="{y + down}" r="8" fill="#6b3fa0"/>'
        f'<circle cx="{50 + x}" cy="{y + down}" r="4" fill="{INK}"/><circle cx="{53 + x}" cy="{y + down - 3}" r="2.2" fill="#fff"/>'
    )


def svg(pose: Pose) -> str:
    """A drawing of pip in a pose."""
    high, wide = 31 * pose.squash, 32 / pose.squash**0.5
    ground = 92 - pose.rise
    middle = ground - 4 - high
    top, shoulder = middle - high, middle + 2
    feet = "".join(
        f'<ellipse cx="{50 + side * 14}" cy="{ground - lifted}" rx="9" ry="5.5" fill="{SHADE}"/>'
        for side, lifted in zip((-1, 1), pose.feet)
    )
    arms = "".join(
        f'<path d="M{50 + side * (wide - 3):.1f} {shoulder:.1f} Q{50 + side * (wide + 7):.1f} {shoulder + hand / 3:.1f} {50 + side * (wide + 7):.1f} {shoulder + hand:.1f}" '
        f'fill="none" stroke="{SHADE}" stroke-width="7" stroke-linecap="round"/>'
        for side, hand in zip((-1, 1), pose.arms)
    )
    horns = "".join(
        f'<path d="M{50 + side * 9} {top + 4:.1f} Q{50 + side * 15} {top - 12:.1f} {50 + side * 25} {top - 11:.1f} Q{50 + side * 26} {top:.1f} {50 + side * 21} {top + 9:.1f}Z" fill="{HORN}"/>'
        for side in (-1, 1)
    )
    stripes = "".join(
        f'<path d="M30 {middle + high * part:.1f} H70" stroke="{HORN}" stroke-width="4"/>'
        for part in (0.42, 0.64, 0.86)
    )
    belly = f'<ellipse cx="50" cy="{middle + high * 0.62:.1f}" rx="{wide * 0.6:.1f}" ry="{high * 0.34:.1f}"'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">
<clipPath id="belly">{belly}/></clipPath>{horns}{arms}{feet}
<ellipse cx="50" cy="{middle:.1f}" rx="{wide:.1f}" ry="{high:.1f}" fill="{BODY}"/>
{belly} fill="{BELLY}"/><g clip-path="url(#belly)">{stripes}</g>
{eye(pose, middle - high * 0.36)}<g transform="translate(0 {middle + high * 0.14:.1f})">{MOUTHS[pose.mouth]}</g></svg>"""


def main() -> None:
    write_sheet([rasterise(svg(POSES[name])) for name in world.POSES], world.sheet("pip"))


if __name__ == "__main__":
    main()
