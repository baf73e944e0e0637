"""Statistics of results: intervals, reliability of confidences, confusion of counts; B is the number of images."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

# Resamples are drawn in blocks of at most this many indices, to bound the memory for large test sets.
_BLOCK_SIZE = 2_000_000


def bootstrap_interval(
    numerators: ArrayLike, denominators: ArrayLike, num_bootstrap: int = 1000, seed: int = 0, level: float = 0.95
) -> list[float] | None:
    """Interval of the ratio sum(numerators) / sum(denominators) by resampling images with replacement.

    The images are the units that vary independently, so both sums are taken over the same resampled images. The same
    seed and number of images give the same resamples, whatever the statistic.

    Args:
        numerators: (B,) per-image sums, e.g. objects found or squared errors.
        denominators: (B,) per-image counts, e.g. objects or coordinates; all ones for a mean over images.
        num_bootstrap: number of resamples.
        seed: seed of the resamples.
        level: share of the resampled ratios that the interval holds.

    Returns:
        [low, high], or None where the ratio does not exist (no image, or all denominators 0).

    Raises:
        ValueError: if the arguments are not two vectors of one length.
    """
    numerators, denominators = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    if numerators.ndim != 1 or numerators.shape != denominators.shape:
        raise ValueError(f"expected two vectors of one length, got shapes {numerators.shape} and {denominators.shape}")
    if denominators.sum() == 0:
        return None
    num_images = len(numerators)
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK_SIZE // num_images)
    ratios = []
    for start in range(0, num_bootstrap, block):
        images = rng.integers(num_images, size=(min(block, num_bootstrap - start), num_images))
        top, bottom = numerators[images].sum(axis=1), denominators[images].sum(axis=1)
        ratios.append(top[bottom > 0] / bottom[bottom > 0])  # a resample may miss every image that counts
    low, high = np.quantile(np.concatenate(ratios), [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]


def share_interval(
    right: ArrayLike, of: ArrayLike, num_bootstrap: int = 1000, seed: int = 0, level: float = 0.95
) -> list[float] | None:
    """Interval of the share sum(right) / sum(of), over images; it has a width even where all or none is right.

    Where no image counts more than once, Wilson's score interval (1927). Otherwise the hull of the bootstrap over images,
    which knows that what one image holds may go right or wrong together, and of Wilson's interval of sum(of)
    independent trials, below whose width no share is known: where nothing varies a bootstrap has none.

    Args:
        right: (B,) what is right per image, between 0 and `of`. of: (B,) of how much.
        num_bootstrap, seed, level: as `bootstrap_interval`.

    Returns:
        [low, high], or None where there is nothing to be right.

    Raises:
        ValueError: if the arguments are not two vectors of one length, or more is right than there is.
    """
    right, of = np.asarray(right, dtype=float), np.asarray(of, dtype=float)
    if right.ndim != 1 or right.shape != of.shape:
        raise ValueError(f"expected two vectors of one length, got shapes {right.shape} and {of.shape}")
    if ((right < 0) | (right > of)).any():
        raise ValueError(f"no shares: {right.tolist()} of {of.tolist()}")
    if of.sum() == 0:
        return None
    low, high = (float(bound) for bound in wilson_interval(right.sum(), of.sum(), level))
    if of.max() > 1:
        resampled = bootstrap_interval(right, of, num_bootstrap, seed, level) or [low, high]
        low, high = min(low, resampled[0]), max(high, resampled[1])
    return [low, high]


def difference_interval(
    difference: ArrayLike, of: ArrayLike, num_bootstrap: int = 1000, seed: int = 0, level: float = 0.95
) -> list[float] | None:
    """Interval of sum(difference) / sum(of), by how much one share is above another of the same images.

    The hull of the bootstrap over images, and of what Wilson's intervals of the gains' and of the losses' share leave open
    (`sum_interval`), so that two runs that agree on few images are not said to be equal.

    Args:
        difference: (B,) right by the one less right by the other, between -`of` and `of`. of: (B,) of how much.
        num_bootstrap, seed, level: as `bootstrap_interval`.

    Returns:
        [low, high] within [-1, 1], or None where there is nothing to be right.
    """
    difference, of = np.asarray(difference, dtype=float), np.asarray(of, dtype=float)
    resampled = bootstrap_interval(difference, of, num_bootstrap, seed, level)
    if resampled is None:
        return None
    changed = np.array([np.clip(difference, 0, None).sum(), np.clip(-difference, 0, None).sum()])
    low, high = sum_interval([1, -1], changed, [of.sum(), of.sum()], level)
    return [max(-1.0, min(low, resampled[0])), min(1.0, max(high, resampled[1]))]


def sum_interval(
    weights: ArrayLike, successes: ArrayLike, trials: ArrayLike, level: float = 0.95
) -> tuple[float, float]:
    """Interval of a weighted sum of independent shares, from Wilson's interval of each.

    The distances of the bounds from the shares add up as standard errors do: Newcombe's hybrid score interval (Statistics
    in Medicine 17, 1998, method 10) for weights 1 and -1, the square-and-add of Zou and Donner (2008) for any.

    Args:
        weights: (K,). successes, trials: (K,), trials above 0.
    """
    weights, shares = np.asarray(weights, dtype=float), np.asarray(successes, dtype=float) / np.asarray(trials)
    bounds = weights * np.stack(wilson_interval(successes, trials, level))  # (2, K)
    centre = weights * shares
    low, high = bounds.min(0), bounds.max(0)
    below, above = (float(np.sqrt(np.square(side - centre).sum())) for side in (low, high))
    return float(centre.sum()) - below, float(centre.sum()) + above


def count_confusion(records: Iterable[Mapping[str, Any]]) -> dict[int, dict[int, int]]:
    """Count the images by true and predicted number of objects: {num_true: {num_pred: images}}, keys ascending."""
    confusion: dict[int, dict[int, int]] = {}
    for true, pred in sorted((int(r["num_true"]), int(r["num_pred"])) for r in with_truth(records)):
        row = confusion.setdefault(true, {})
        row[pred] = row.get(pred, 0) + 1
    return confusion


def reliability(
    confidences: ArrayLike, right: ArrayLike, num_bins: int = 10, min_per_bin: int = 20
) -> tuple[dict[str, np.ndarray], float | None]:
    """Compare confidences with the shares that are right, in bins of about equal numbers of items.

    Items of equal confidence share a bin, so that the result does not depend on the order of the items.

    Args:
        confidences: (N,) in [0, 1]. right: (N,) whether each item is right.
        num_bins: number of bins at most. min_per_bin: with fewer items than that for each, there are fewer bins.

    Returns:
        bins: `num_items`, `confidence` (mean), `share` right, `low` and `high` (its 95 % Wilson interval, which takes
            the items as independent), a value per bin, by rising confidence.
        expected_calibration_error: mean over items of |confidence - share| of their bin (Guo et al., ICML 2017, there
            with bins of equal width), or None without an item.

    Raises:
        ValueError: if the arguments are not two vectors of one length, or a confidence is not in [0, 1].
    """
    confidences, right = np.asarray(confidences, dtype=float), np.asarray(right, dtype=float)
    if confidences.ndim != 1 or confidences.shape != right.shape:
        raise ValueError(f"expected two vectors of one length, got shapes {confidences.shape} and {right.shape}")
    if not ((confidences >= 0) & (confidences <= 1)).all():
        raise ValueError(f"confidences must be in [0, 1], got {confidences.tolist()}")
    order = np.argsort(confidences, kind="stable")
    confidences, right = confidences[order], right[order]
    num_bins = min(num_bins, max(1, len(right) // min_per_bin), len(right))
    last = np.rint(np.arange(1, num_bins + 1) * len(right) / max(num_bins, 1)).astype(int) - 1
    ends = np.unique(np.searchsorted(confidences, confidences[last], side="right"))
    starts = np.concatenate([[0], ends])[:-1].astype(int)
    sums = [np.add.reduceat(values, starts) if len(starts) else np.zeros(0) for values in (confidences, right)]
    num_items = ends - starts
    mean, share = (total / num_items for total in sums)
    low, high = wilson_interval(sums[1], num_items)
    bins = {"num_items": num_items, "confidence": mean, "share": share, "low": low, "high": high}
    return bins, ratio(num_items * np.abs(mean - share), num_items)


def wilson_interval(successes: ArrayLike, trials: ArrayLike, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval of a share, elementwise: bounds in [0, 1] that hold the share even at 0 and 1."""
    successes, trials = np.asarray(successes, dtype=float), np.asarray(trials, dtype=float)
    z = ndtri((1 + level) / 2)
    share = successes / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def with_truth(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The records with ground truth."""
    return [record for record in records if record["conds_true"] is not None]


def ratio(numerators: ArrayLike, denominators: ArrayLike) -> float | None:
    """The ratio of the sums, or None where there is nothing to divide by."""
    total = float(np.sum(denominators))
    return float(np.sum(numerators)) / total if total > 0 else None


def kernel_distance(a: ArrayLike, b: ArrayLike) -> float:
    """The kernel distance (KID) between two sets of pictures, of their features (N, F) and (M, F).

    The unbiased estimate of the squared maximum mean discrepancy under k(x, y) = (<x, y> / F + 1)^3 (Binkowski et al. 2018,
    arXiv 1801.01401): about 0, of either sign, where both come from one distribution. Unlike the Frechet distance it is
    unbiased for few pictures, too.

    Raises:
        ValueError: fewer than two pictures in a set, or features of different sizes.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"features {a.shape} and {b.shape}: two or more pictures each are needed, of the same features"
        )
    of_a, of_b, between = ((x @ y.T / a.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    n, m = len(a), len(b)
    own = (of_a.sum() - of_a.trace()) / (n * (n - 1)) + (of_b.sum() - of_b.trace()) / (m * (m - 1))
    return float(own - 2 * between.mean())
