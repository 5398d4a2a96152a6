"""``animatediff-ref clips check``: what is in a set of clips, and what is wrong with it."""

from collections import Counter
from typing import Annotated

import typer

import animatediff_ref as ar
from animatediff_ref.cli.errors import plain_errors

clips = typer.Typer(help="Look at sets of clips.", no_args_is_help=True)


@clips.callback()
def of_a_set() -> None:
    """Look at sets of clips."""


@clips.command()
def check(
    source: Annotated[str, typer.Argument(help="a folder of videos, or a .csv or .jsonl table")],
    frames: Annotated[int, typer.Option(min=1, help="frames that training needs")] = 16,
    stride: Annotated[int, typer.Option(min=1, help="every so many frames")] = 1,
    fps: Annotated[float | None, typer.Option(min=0.01, help="first take frames by the clock, at this rate")] = None,
) -> None:
    """Decode every clip once and report cuts, twins, what is short or unreadable, rates, sizes and captions."""
    with plain_errors():
        reports = ar.check_clips(ar.list_clips(source), frames, stride, fps)
    good = [report for report in reports if not report.fault]
    how = f"{frames} frames at stride {stride}" + (f" and {fps:g} a second" if fps else "")
    typer.echo(f"{source}: {len(reports)} clips, {len(good)} can be used with {how}")
    cut, twins = (sum(bool(of(report)) for report in good) for of in (lambda r: r.cuts, lambda r: r.twin))
    if cut or twins:
        typer.echo(f"training takes those with cuts ({cut}) and twins ({twins}), too: take out what you do not want")
    for report in reports:
        for problem in _problems(report):
            typer.echo(f"  {report.entry.path}: {problem}")
    for name, kinds in (
        ("rates", Counter(f"{report.fps:.4g} fps" if report.fps else "no clock" for report in good)),
        ("sizes", Counter("{}x{}".format(*report.size) for report in good)),
    ):
        typer.echo(f"{name}: " + (", ".join(f"{kind} ({n})" for kind, n in kinds.most_common(8)) or "none"))
    words = sorted(len(report.entry.caption.split()) for report in reports)
    empty = sum(not report.entry.caption.strip() for report in reports)
    sources = Counter(report.entry.told_by for report in reports)
    told = ", ".join(f"{n} from {source}" for source, n in sources.most_common())
    typer.echo(
        f"captions: {told}; {words[0]} to {words[-1]} words, {words[len(words) // 2]} in the middle; {empty} empty"
    )
    if not good:
        raise typer.Exit(2)


def _problems(report) -> list[str]:
    found = [report.fault] if report.fault else []
    if report.cuts:
        found.append(f"{len(report.cuts)} cuts, at frames {', '.join(map(str, report.cuts[:8]))}")
    return [*found, f"shows the same as {report.twin.path}"] if report.twin else found
