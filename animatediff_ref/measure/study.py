"""A blind user study: the page that asks, the answers that come back, and the average user ranking (paper, Table 1).

Participants put the clips of several methods in order, from best to worst, without knowing which method made which.
"""

import base64
import json
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from string import ascii_uppercase

import numpy as np
from PIL import Image

from animatediff_ref.clips.video import check_clip, write_clip
from animatediff_ref.measure.statistics import interval
from animatediff_ref.weights.tensors import written_aside

ASPECTS = {  # name -> what participants are asked; the three of the paper's Table 1
    "text": "Which clip shows best what the words say?",
    "domain": "Which clip keeps best to the style?",
    "smooth": "Which clip moves most smoothly?",
}
PAGE = Path(__file__).with_name("study.html")
AXES = ("participant", "prompt", "method")  # of a table of points
SIDE = 256  # pixels that the shorter side of a smaller clip is enlarged to


class SkippedAnswersWarning(UserWarning):
    """Files of answers were left out; the message names them, and why."""


@dataclass(frozen=True)
class UserRanking:
    """What participants said about one aspect."""

    participants: int
    points: dict[str, dict[str, float]]  # method -> mean, low, high: n for the best of n clips, 1 for the worst
    agreement: float  # Kendall's W, the mean over prompts: 1 if all rank alike, 1 / participants by chance
    repeated: float  # the share of pairs of clips that participants rank alike when they come again; 0.5 by chance


def write_study(
    folder: str | Path, items: Mapping[str, Mapping[str, np.ndarray]], aspects: Mapping[str, str] = ASPECTS, *,
    references: Mapping[str, np.ndarray] | None = None, repeats: int = 1, seed: int = 0, fps: float = 8,
) -> Path:  # fmt: skip
    """Write the page of a study, ``folder/study.html``, and ``folder/key.json``, which says what the page hides.

    ``items`` holds for every prompt a clip of each method, uint8 (f, h, w, 3). On the page the clips have letters.
    Which method has which letter is drawn by ``seed``, anew for every prompt, each method as often as can be at each
    letter. The order of the prompts is drawn in the browser of each participant. ``repeats`` prompts come twice, with
    other letters, to show how well participants agree with themselves.

    ``aspects`` maps names to questions; for each, participants rank all clips. ``references`` may hold pictures of each
    prompt, uint8 (n, h, w, 3), that show the style which is asked about. The page needs nothing but a browser, and the
    answers come as a file to download. Send participants the page alone, without the key. ``ValueError`` for fewer than
    two methods, other methods or shapes in one prompt than in another, and where another study is in the folder.
    """
    methods, rng = _checked(items, aspects, references, repeats), np.random.default_rng(seed)
    prompts, count = list(items), len(methods)
    turns = [rng.permutation(count) for _ in range(-(-len(prompts) // count))]  # of a block of prompts: all its turns
    orders = [np.roll(turn, by) for turn in turns for by in rng.permutation(count)][: len(prompts)]
    shown = list(zip(prompts, orders))
    shown += [(prompts[i], np.roll(orders[i], rng.integers(1, count))) for i in rng.permutation(len(prompts))[:repeats]]
    names = [f"page-{number}" for number in rng.permutation(len(shown)) + 1]
    key = {"seed": seed, "aspects": dict(aspects), "methods": methods, "items": {}}
    for i, (name, (prompt, order)) in enumerate(zip(names, shown)):
        letters = dict(zip(ascii_uppercase, (methods[j] for j in order)))
        key["items"][name] = {"prompt": prompt, "repeat": i >= len(prompts), "letters": letters}
    return _write(Path(folder).expanduser(), key, _content(items, key, references or {}, rng, fps))


def _checked(items: Mapping, aspects: Mapping, references: Mapping | None, repeats: int) -> list[str]:
    """The names of the methods. ``ValueError`` for what makes no study."""
    if not items or not aspects:
        raise ValueError(f"a study needs prompts and aspects, got {len(items)} and {len(aspects)}")
    first, *others = items
    methods = list(items[first])
    if not 2 <= len(methods) <= len(ascii_uppercase):
        raise ValueError(f"a study compares 2 to {len(ascii_uppercase)} methods, got {', '.join(methods) or 'none'}")
    for prompt in others:
        if differ := set(methods) ^ set(items[prompt]):
            raise ValueError(
                f"{first!r} and {prompt!r} need the same methods, and differ in {', '.join(sorted(differ))}"
            )
    for prompt, clips in items.items():
        shapes = {method: check_clip(clip).shape for method, clip in clips.items()}
        if len(set(shapes.values())) > 1:
            said = ", ".join(f"{method} {shape}" for method, shape in shapes.items())
            raise ValueError(f"clips of one prompt need one shape, else it tells them apart; {prompt!r} has {said}")
    if references is not None and (differ := set(items) ^ set(references)):
        raise ValueError(f"references are needed for every prompt and no other; they differ in {', '.join(differ)}")
    if not 0 <= repeats <= len(items):
        raise ValueError(f"repeats goes from 0 to the number of prompts, {len(items)}, got {repeats}")
    return methods


def _content(items: Mapping, key: dict, references: Mapping, rng: np.random.Generator, fps: float) -> dict:
    """What the page is made of: every clip once, in an order that tells nothing."""
    clips = [(prompt, method) for prompt in items for method in key["methods"]]
    rng.shuffle(clips)
    place = {tuple(clip): i for i, clip in enumerate(clips)}
    pictures = [(prompt, i) for prompt in references for i in range(len(check_clip(references[prompt])))]
    pages = {}
    for name in sorted(key["items"], key=lambda name: int(name.split("-")[1])):
        prompt, letters = key["items"][name]["prompt"], key["items"][name]["letters"]
        styles = [i for i, (of, _) in enumerate(pictures) if of == prompt]
        pages[name] = {"prompt": prompt, "clips": [place[prompt, m] for m in letters.values()], "references": styles}
    return {
        "aspects": key["aspects"],
        "items": pages,
        "clips": [_film(items[prompt][method], fps) for prompt, method in clips],
        "pictures": [_picture(references[prompt][i]) for prompt, i in pictures],
    }


def _film(clip: np.ndarray, fps: float) -> str:
    height, width = clip.shape[1:3]
    scale = max(1, round(SIDE / min(height, width)))
    frames = [Image.fromarray(frame).resize((width * scale, height * scale), Image.LANCZOS) for frame in clip]
    with tempfile.TemporaryDirectory() as folder:
        write_clip(np.stack(frames), path := Path(folder) / "clip.mp4", fps)
        return f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _picture(picture: np.ndarray) -> str:
    Image.fromarray(picture).save(file := BytesIO(), "webp", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _write(folder: Path, key: dict, content: dict) -> Path:
    """The key first: a page without one would be of no use."""
    content["id"] = key["study"] = sha256(json.dumps(content).encode()).hexdigest()[:16]
    text = json.dumps(content, ensure_ascii=False).replace(
        "<", "\\u003c"
    )  # no end of a script in the words of a prompt
    page = PAGE.read_text(encoding="utf-8").replace("STUDY", text, 1).encode()
    key["sha256"] = sha256(page).hexdigest()
    place = folder / "key.json"
    if place.exists() and _read_key(place)["study"] != key["study"]:
        raise ValueError(f"{folder} holds another study, whose answers could not be read without its key")
    for path, data in ((place, json.dumps(key, indent=1).encode()), (folder / "study.html", page)):
        with written_aside(path) as aside:
            aside.write_bytes(data)
    return folder / "study.html"


def read_study(key: str | Path, answers: str | Path | Iterable[str | Path]) -> list[dict]:
    """The rankings in files of answers, one row for each participant, prompt, aspect and method.

    ``answers`` is a folder of ``.json`` files, a file, or several files. A row has ``participant``, ``prompt``,
    ``aspect``, ``method``, ``points`` (of n clips the best has n, the worst 1) and ``repeat``, which is true where a
    prompt came for the second time. Files that cannot be used are left out, and named in a ``SkippedAnswersWarning``:
    those that are no answers, of another study, or not complete, and all but the first of one participant.
    ``ValueError`` for a key that is none, and if no file is left.
    """
    secret, rows, seen, faults = _read_key(Path(key).expanduser()), [], {}, []
    files = _files(answers, Path(key).expanduser())
    for file in files:
        try:
            participant, given = _read_answers(file, secret)
            if participant in seen:
                raise ValueError(f"is of participant {participant}, as {seen[participant].name} is")
        except (ValueError, OSError) as error:
            faults.append(f"\n  {file}: {error}")
            continue
        seen[participant] = file
        rows += _rows(participant, given, secret)
    if not rows:
        raise ValueError(f"there are no answers to use among {len(files)} files{''.join(faults[:10])}")
    if faults:
        told = "".join(faults[:10]) + ("\n  ..." if len(faults) > 10 else "")
        warnings.warn(f"{len(faults)} of {len(files)} files are left out:{told}", SkippedAnswersWarning, stacklevel=2)
    return rows


def _files(answers: str | Path | Iterable[str | Path], key: Path) -> list[Path]:
    several = [answers] if isinstance(answers, str | Path) else answers
    paths = [Path(path).expanduser() for path in several]
    inside = [sorted(path.glob("[!.]*.json")) if path.is_dir() else [path] for path in paths]
    return [file for files in inside for file in files if file.resolve() != key.resolve()]


def _json(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError("is not a JSON object")
    return found


def _read_key(path: Path) -> dict:
    try:
        found = _json(path)
    except ValueError as error:
        raise ValueError(f"{path} is not the key of a study: it {error}") from error
    if missing := [name for name in ("study", "aspects", "methods", "items") if name not in found]:
        raise ValueError(f"{path} is not the key of a study: it lacks {', '.join(missing)}")
    return found


def _read_answers(path: Path, key: dict) -> tuple[str, dict]:
    """Who answered, and the letters from best to worst by page and aspect."""
    found = _json(path)
    participant, given = found.get("participant"), found.get("answers")
    if not isinstance(participant, str) or not participant or not isinstance(given, dict):
        raise ValueError("is not a file of answers: it lacks a participant or answers")
    if found.get("study") != key["study"]:
        raise ValueError(f"is of another study ({found.get('study')}; the key is of {key['study']})")
    for name, item in key["items"].items():
        letters, page = list(item["letters"]), given.get(name)
        for aspect in key["aspects"]:
            ranking = page.get(aspect) if isinstance(page, dict) else None
            if not isinstance(ranking, list) or None in ranking:
                raise ValueError(f"is not complete: {name} has no whole ranking by {aspect!r}")
            if sorted(map(str, ranking)) != letters:
                raise ValueError(f"needs each of {', '.join(letters)} once: {name} has {ranking} by {aspect!r}")
    return participant, given


def _rows(participant: str, given: dict, key: dict) -> list[dict]:
    return [
        {"participant": participant, "prompt": item["prompt"], "aspect": aspect, "method": item["letters"][letter],
         "points": len(key["methods"]) - place, "repeat": item["repeat"]}
        for name, item in key["items"].items()
        for aspect in key["aspects"]
        for place, letter in enumerate(given[name][aspect])
    ]  # fmt: skip


def average_user_ranking(rows: list[dict]) -> dict[str, UserRanking]:
    """The average user ranking (AUR) of the paper's Table 1, by aspect, from the rows of ``read_study``.

    The points of a method are the mean over prompts and participants, with a 95 % bootstrap interval over
    *participants*: one person's rankings resemble each other, so they do not count as independent. For few participants
    it is somewhat too narrow, and it says nothing of other prompts. A prompt that came twice counts once. ``ValueError`` where somebody has not ranked everything.
    """
    if not rows:
        raise ValueError("an average user ranking needs rows of answers, got none")
    found = {}
    for aspect in dict.fromkeys(row["aspect"] for row in rows):
        points, methods = _table(rows, aspect), list(dict.fromkeys(row["method"] for row in rows))
        if np.isnan(points).any():
            raise ValueError(
                f"an average user ranking needs every prompt ranked by every participant, by {aspect!r}, too"
            )
        means = points.mean(1)  # participants, methods
        agreement = np.mean([kendalls_w(points[:, i]) for i in range(points.shape[1])])
        again = list(self_agreement([row for row in rows if row["aspect"] == aspect]).values())
        found[aspect] = UserRanking(
            len(means),
            {method: interval(means[:, i]) for i, method in enumerate(methods)},
            float(agreement),
            float(np.mean(again)) if again else float("nan"),
        )
    return found


def _table(rows: list[dict], aspect: str, repeat: bool = False) -> np.ndarray:
    """Points (participants, prompts, methods), NaN where nobody ranked."""
    axes = [list(dict.fromkeys(row[name] for row in rows)) for name in AXES]
    places = [{value: i for i, value in enumerate(axis)} for axis in axes]
    points = np.full([len(axis) for axis in axes], np.nan)
    for row in rows:
        if row["aspect"] == aspect and row["repeat"] == repeat:
            points[tuple(place[row[name]] for place, name in zip(places, AXES))] = row["points"]
    return points


def kendalls_w(points: np.ndarray) -> float:
    """Kendall's W, how far rankings agree, of points (participants, methods) without ties: 0 to 1.

    1 if all rank alike, 0 if the sums of all methods are equal. By chance it is 1 / participants; one alone has NaN.
    """
    raters, count = points.shape
    if raters < 2:
        return float("nan")
    sums = points.sum(0)
    return float(12 * np.square(sums - sums.mean()).sum() / (raters**2 * (count**3 - count)))


def self_agreement(rows: list[dict]) -> dict[str, float]:
    """How far each participant agrees with themselves: the share of pairs of clips in the same order both times.

    Of the prompts that came twice, over all aspects in the rows of ``read_study``; 0.5 by chance. Empty if none did.
    """
    aspects, people = (dict.fromkeys(row[name] for row in rows) for name in ("aspect", "participant"))
    once, twice = (np.stack([_table(rows, aspect, again) for aspect in aspects], 1) for again in (False, True))
    i, j = np.triu_indices(once.shape[-1], 1)
    alike = (once[..., i] - once[..., j]) * (twice[..., i] - twice[..., j])  # above zero: in the same order
    return {
        who: float((pairs[~np.isnan(pairs)] > 0).mean())
        for who, pairs in zip(people, alike)
        if not np.isnan(pairs).all()
    }
