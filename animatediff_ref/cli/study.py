"""``animatediff-ref study``: the page of a user study from folders of clips, and what its answers say."""

import warnings
from pathlib import Path
from typing import Annotated

import typer

import animatediff_ref as ar
from animatediff_ref.cli.errors import plain_errors

METHOD = "NAME=FOLDER, a method and its clips; once for each method. Clips of one prompt have the same file name"
ASPECT = "NAME=QUESTION, what is asked; may come several times. By default text, domain and smooth, as in the paper"

study = typer.Typer(help="Ask people which clips are best.", no_args_is_help=True)


@study.command()
def make(
    out: Annotated[Path, typer.Argument(help="folder for study.html and key.json")],
    method: Annotated[list[str], typer.Option(help=METHOD)],
    aspect: Annotated[list[str] | None, typer.Option(help=ASPECT)] = None,
    references: Annotated[
        Path | None, typer.Option(help="folder of pictures that show the style, named as clips")
    ] = None,
    repeats: Annotated[int, typer.Option(help="prompts that come twice")] = 1,
    seed: Annotated[int, typer.Option(help="of the order of the clips")] = 0,
    fps: Annotated[float, typer.Option(help="frames a second")] = 8,
) -> None:
    """Write the page that participants open, and the key that says which clip is of which method."""
    with plain_errors():
        sets = {name: _by_stem(folder) for name, folder in _named(method, "method").items()}
        prompts = _prompts(sets)
        items = {
            prompt: {name: ar.read_clip(clips[stem].path) for name, clips in sets.items()}
            for stem, prompt in prompts.items()
        }
        options = {"aspects": _named(aspect, "aspect")} if aspect else {}
        if references:
            options["references"] = {prompt: _picture(references, stem) for stem, prompt in prompts.items()}
        page = ar.write_study(out, items, **options, repeats=repeats, seed=seed, fps=fps)
    size = f"{len(items)} prompts, {repeats} of them twice, {len(sets)} methods, {page.stat().st_size / 2**20:.1f} MiB"
    typer.echo(f"{page}: {size}. Send this file, and keep {page.with_name('key.json')} to yourself")


@study.command()
def read(
    key: Annotated[Path, typer.Argument(help="the key.json of the study")],
    answers: Annotated[list[Path], typer.Argument(help="files of answers, or a folder of them")],
) -> None:
    """Print the average user ranking: n for the best of n clips, 1 for the worst, with 95 % intervals."""
    with plain_errors(), warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: typer.echo(f"warning: {message}", err=True)
        found = ar.average_user_ranking(ar.read_study(key, answers))
    for aspect, ranking in found.items():
        typer.echo(
            f"{aspect}: {ranking.participants} participants, agreement {ranking.agreement:.2f}, repeated {ranking.repeated:.0%}"
        )
        for name, of in sorted(ranking.points.items(), key=lambda one: -one[1]["mean"]):
            typer.echo(f"  {of['mean']:.3f} ({of['low']:.3f} to {of['high']:.3f})  {name}")


def _named(several: list[str], what: str) -> dict[str, str]:
    """What is behind ``=``, by what stands before."""
    pairs = [words.partition("=") for words in several]
    if wrong := [words for words, (name, _, value) in zip(several, pairs) if not (name and value)]:
        raise ValueError(f"--{what} is NAME=VALUE, got {wrong[0]!r}")
    if len({name for name, _, _ in pairs}) < len(pairs):
        raise ValueError(f"a name of --{what} comes twice: {', '.join(name for name, _, _ in pairs)}")
    return {name: value for name, _, value in pairs}


def _by_stem(folder: str) -> dict:
    return {entry.path.stem: entry for entry in ar.list_clips(folder)}


def _prompts(sets: dict[str, dict]) -> dict[str, str]:
    """The prompt of each file name: what a text beside a clip says, else the name."""
    first, clips = next(iter(sets.items()))
    for name, others in sets.items():
        if differ := sorted(set(clips) ^ set(others)):
            raise ValueError(f"{first} and {name} need clips of the same names, and differ in {', '.join(differ[:5])}")
    prompts: dict[str, str] = {}
    for stem in clips:
        entries = [others[stem] for others in sets.values()]
        told = {entry.caption for entry in entries if entry.told_by != "its own name"} or {entries[0].caption}
        if len(told) > 1:
            raise ValueError(f"the clips called {stem} have several prompts: {', '.join(sorted(told))}")
        if (prompt := told.pop()) in prompts.values():
            raise ValueError(f"two clips of a method have the prompt {prompt!r}: a study asks about each prompt once")
        prompts[stem] = prompt
    return prompts


def _picture(folder: Path, stem: str):
    """The pictures of a style for one file name, (1, h, w, 3)."""
    import numpy as np
    from PIL import Image

    from animatediff_ref.clips.video import FRAME_SUFFIXES

    for path in sorted(folder.glob(f"{stem}.*")):
        if path.suffix.lower() in FRAME_SUFFIXES:
            return np.asarray(Image.open(path).convert("RGB"))[None]
    raise ValueError(f"{folder} has no picture called {stem}, with one of {', '.join(FRAME_SUFFIXES)}")
