"""Numbers with their 95 % intervals, and how well a score separates two groups.

Intervals are bootstrap intervals over prompts, clips or pictures.
"""

from collections.abc import Callable

import numpy as np

DRAWS = 2000


def bootstrap(
    measure: Callable[..., float], *samples: np.ndarray, paired: bool = False, seed: int = 15
) -> tuple[float, float, float]:
    """A measure of samples with its 95 % interval: value, low, high.

    Each sample (n, ...) is resampled by itself; with ``paired=True`` all by the same rows, as where the same prompts
    were measured twice. ``ValueError`` for an empty sample, and for paired samples of different lengths.
    """
    samples = tuple(np.asarray(sample) for sample in samples)
    lengths = [len(sample) for sample in samples]
    if not all(lengths) or (paired and len(set(lengths)) > 1):
        raise ValueError(f"a bootstrap needs samples that are not empty, and of one length if paired; got {lengths}")
    rng, draws = np.random.default_rng(seed), []
    for _ in range(DRAWS):
        rows = [rng.integers(length, size=length) for length in lengths]
        draws.append(measure(*(sample[rows[0 if paired else i]] for i, sample in enumerate(samples))))
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(measure(*samples)), float(low), float(high)


def interval(values: np.ndarray) -> dict[str, float]:
    """The mean of some values with its 95 % interval: ``mean``, ``low`` and ``high``."""
    return dict(zip(("mean", "low", "high"), bootstrap(np.mean, values)))


def ratio(above: np.ndarray, below: np.ndarray) -> dict[str, float]:
    """One mean over another with its 95 % interval: ``mean``, ``low`` and ``high``.

    Both were measured on the same things, so they are resampled in pairs.
    """
    found = bootstrap(lambda a, b: a.mean() / b.mean(), above, below, paired=True)
    return dict(zip(("mean", "low", "high"), found))


def auc(marked: np.ndarray, clean: np.ndarray) -> float:
    """The share of pairs, one value of each, in which the marked one is higher.

    Ties count half. 0.5: the score tells nothing; 1: it tells everything.
    """
    order = np.sort(clean)
    below, up_to = np.searchsorted(order, marked, "left"), np.searchsorted(order, marked, "right")
    return float((below + up_to).mean() / 2 / len(order))
