"""How well clips fit their prompt and their style, by the features of a CLIP, the judge (paper section 5.2, Table 1).

The mini world has a CLIP of its own; the same functions take OpenAI's, by its hub id. A frozen clip has the best
consistency and loses no similarity: read these scores beside an amount of motion and a frozen row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch.nn.functional import normalize
from transformers import AutoConfig, CLIPModel, CLIPProcessor, PreTrainedModel

from animatediff_ref.clips.video import check_clip
from animatediff_ref.generate.pipeline import HUB_ID, quietly
from animatediff_ref.mini.files import resolve
from animatediff_ref.mini.judge import MiniCLIP

CENTROIDS_FILE = "centroids.npz"  # beside the mini judge: the mean feature of each style of its training pictures


@dataclass(frozen=True)
class Judge:
    """A CLIP model with what it needs to judge."""

    model: PreTrainedModel
    processor: CLIPProcessor
    centroids: Mapping[str, np.ndarray] = field(default_factory=dict)  # style -> its mean image feature (d,), if known


def load_judge(name: str | Path = "mini") -> Judge:
    """The mini world's judge, or a CLIP from a folder or hub id such as ``"openai/clip-vit-base-patch32"``.

    A hub id is downloaded. The judge is float32 on the CPU; ``judge.model.to("cuda")`` moves it. The mini judge only
    knows the things and styles of the mini world, at 64x64 pixels. ``ValueError`` where there is no CLIP that
    transformers can load.
    """
    place = resolve("judge", name)
    if not place.is_dir() and not HUB_ID.fullmatch(str(name)):
        raise ValueError(f"no judge at {place}: give 'mini', a folder of a CLIP or a hub id such as 'owner/name'")
    source = str(place if place.is_dir() else name)
    centroids = place / CENTROIDS_FILE
    try:
        with quietly():
            is_mini = AutoConfig.from_pretrained(source).model_type == MiniCLIP.config_class.model_type
            kind = MiniCLIP if is_mini else CLIPModel
            model = kind.from_pretrained(source, dtype=torch.float32).eval()
            processor = CLIPProcessor.from_pretrained(source)
        return Judge(model, processor, dict(np.load(centroids)) if centroids.exists() else {})
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{name} is not a CLIP that transformers can load: {str(error).splitlines()[0]}") from error


@torch.no_grad()
def image_features(judge: Judge, clip: np.ndarray, at_once: int = 256) -> np.ndarray:
    """Features of unit length, float32 (f, d), of the frames of a clip, or of any pictures, uint8 (f, h, w, 3).

    ``at_once`` pictures go through the judge at a time.
    """
    pictures, parts = list(check_clip(clip)), []
    for start in range(0, len(pictures), at_once):
        some = pictures[start : start + at_once]
        pixels = judge.processor.image_processor(some, return_tensors="pt").pixel_values
        parts.append(judge.model.get_image_features(pixels.to(judge.model.device)).pooler_output)
    return normalize(torch.cat(parts), dim=-1).cpu().numpy()


@torch.no_grad()
def text_features(judge: Judge, prompts: str | Sequence[str], at_once: int = 256) -> np.ndarray:
    """Features of unit length, float32 (n, d), of one prompt or several. A prompt longer than the context is cut."""
    prompts, parts = [prompts] if isinstance(prompts, str) else list(prompts), []
    if not prompts:
        raise ValueError("text_features needs at least one prompt, got none")
    for start in range(0, len(prompts), at_once):
        some = prompts[start : start + at_once]
        tokens = judge.processor.tokenizer(some, padding=True, truncation=True, return_tensors="pt")
        parts.append(judge.model.get_text_features(**tokens.to(judge.model.device)).pooler_output)
    return normalize(torch.cat(parts), dim=-1).cpu().numpy()


def text_alignment(judge: Judge, clip: np.ndarray, prompt: str) -> float:
    """The CLIP score: 100 times the mean cosine of frames and prompt, -100 to 100. Blind to the order of the frames."""
    return 100 * float((image_features(judge, clip) @ text_features(judge, prompt).T).mean())


def domain_similarity(judge: Judge, clip: np.ndarray, references: np.ndarray) -> float:
    """100 times the mean cosine of frames and references, -100 to 100.

    ``references``, uint8 (n, h, w, 3), are images that the personalised model makes without motion; in the paper of the
    same prompt.
    """
    return 100 * float((image_features(judge, clip) @ image_features(judge, references).T).mean())


def frame_consistency(judge: Judge, clip: np.ndarray, pairs: str = "successive") -> float:
    """100 times the mean cosine of pairs of frames, -100 to 100; a frozen clip has 100.

    ``pairs`` is ``"successive"`` (the motion smoothness of the paper's Table 1, as we read it) or ``"all"``
    (Tune-A-Video's). ``ValueError`` for fewer than two frames.
    """
    if pairs not in ("successive", "all"):
        raise ValueError(f"pairs is 'successive' or 'all', got {pairs!r}")
    features = image_features(judge, clip)
    if len(features) < 2:
        raise ValueError(f"consistency needs at least 2 frames, got {len(features)}")
    cosines = features @ features.T
    if pairs == "successive":
        return 100 * float(np.diagonal(cosines, offset=1).mean())
    return 100 * float(cosines[np.triu_indices(len(features), 1)].mean())


def retrieval(queries: np.ndarray, candidates: np.ndarray, right: np.ndarray, top: int = 5) -> float:
    """The share of queries, 0 to 1, with a right candidate among their ``top`` nearest.

    Features of queries (n, d) and candidates (m, d), images and texts either way round. ``right`` says which candidates
    are: bool (n, m), or the number of the right one for each query, (n,).
    """
    right = np.asarray(right)
    if right.dtype != bool:
        right = right[:, None] == np.arange(len(candidates))
    if right.shape != (len(queries), len(candidates)) or not 1 <= top <= len(candidates):
        raise ValueError(
            f"retrieval needs right of shape {(len(queries), len(candidates))} or {(len(queries),)} "
            f"and top from 1 to {len(candidates)}, got {right.shape} and top={top}"
        )
    nearest = np.argsort(-(queries @ candidates.T), axis=1, kind="stable")[:, :top]
    return float(np.take_along_axis(right, nearest, 1).any(1).mean())


def nearest_centroid(features: np.ndarray, centroids: Mapping[str, np.ndarray]) -> list[str]:
    """The name of the nearest centroid, by cosine, for each of the features (n, d): with ``judge.centroids`` the style.

    A centroid is a mean feature, (d,): ``image_features(judge, pictures).mean(0)``. What a picture shows weighs more in
    a feature than its style: to tell similar styles apart, use centroids of pictures of the same thing.
    """
    if not centroids:
        raise ValueError("nearest_centroid needs centroids by name: image_features(judge, pictures).mean(0) makes one")
    table = np.stack([mean / np.linalg.norm(mean) for mean in centroids.values()])
    return [list(centroids)[i] for i in (features @ table.T).argmax(1)]
