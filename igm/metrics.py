"""Scores of inferred concepts: matching, perception rate, estimation error, counts, calibration, and their intervals.

Positions are (x, y) in [0, 1] image coordinates, distances are L2 in the same unit. B is the number of images.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.special import ndtri

RADII = (0.02, 0.05, 0.10)
HEADLINE_RADIUS = 0.05

# A prediction exactly on the border counts as within. Positions are stored in float32, which moves 0.5 + 0.05 by up to
# 6e-8, so the border is drawn a little further out: far less than a pixel.
_BORDER_TOLERANCE = 1e-6

# Resamples are drawn in blocks of at most this many indices, to bound the memory for large test sets.
_BLOCK_SIZE = 2_000_000


def match_points(pred: ArrayLike, true: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Match predicted to true points one to one, with the least total L2 distance (Hungarian algorithm).

    Args:
        pred: predicted points, (N, 2); N may differ from M and may be 0.
        true: true points, (M, 2).

    Returns:
        rows: (P,) indices into `pred`, P = min(N, M), ascending.
        cols: (P,) indices into `true`; pred[rows[i]] is matched to true[cols[i]].
        distances: (P,) L2 distance of each pair.

    Raises:
        ValueError: if an argument has another shape or a coordinate is not finite.
    """
    pred, true = _as_points(pred, "pred"), _as_points(true, "true")
    costs = cdist(pred, true)  # (N, M)
    rows, cols = linear_sum_assignment(costs)
    return rows, cols, costs[rows, cols]


def matched_distances(records: Iterable[Mapping[str, Any]]) -> tuple[list[np.ndarray], np.ndarray]:
    """Match every record's positions and keep the distances.

    Args:
        records: result records of position tasks; those without ground truth are left out.

    Returns:
        distances: one array (P,) per image, P = min(num_pred, num_true).
        num_true: (B,) number of true objects per image.
    """
    records = _with_truth(records)
    distances = [match_points(record["conds_pred"], record["conds_true"])[2] for record in records]
    return distances, np.array([len(record["conds_true"]) for record in records], dtype=np.int64)


def num_within(distances: Sequence[np.ndarray], radius: float) -> np.ndarray:
    """Count, per image, the matched pairs at most `radius` apart: list of B arrays (P,) -> (B,)."""
    return np.array([np.count_nonzero(d <= radius + _BORDER_TOLERANCE) for d in distances], dtype=np.int64)


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


def position_metrics(
    records: Iterable[Mapping[str, Any]],
    radii: Sequence[float] = RADII,
    num_bootstrap: int = 1000,
    seed: int = 0,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Score inferred positions.

    - perception_rate: share of true objects whose matched prediction lies within the radius; a missing prediction is
      an object not found, an extra prediction costs nothing here (see count_accuracy).
    - estimation_error: mean squared error per coordinate over all matched pairs.
    - estimation_error_perceived: the same over the pairs within 0.05.
    - count_accuracy: share of images with as many predicted as true objects.

    Args:
        records: result records; those without ground truth are left out.
        radii: radii of the perception rate, in [0, 1] image coordinates.
        num_bootstrap: resamples of the images for the intervals.
        seed: seed of the resamples.

    Returns:
        metrics: the four names above; perception_rate is a dict keyed by radius ("0.02", ...). A value that does not
            exist (no pair, no image) is None.
        ci95: the same keys, each [low, high] or None.
    """
    records = _with_truth(records)
    distances, num_true = matched_distances(records)
    # The sum over both coordinates of a pair's squared differences is its squared distance.
    squared = [d**2 for d in distances]
    near = [s[d <= HEADLINE_RADIUS + _BORDER_TOLERANCE] for s, d in zip(squared, distances, strict=True)]
    ratios = {radius_name(radius): (num_within(distances, radius), num_true) for radius in radii}
    metrics: dict[str, Any] = {"perception_rate": {}}
    ci95: dict[str, Any] = {"perception_rate": {}}
    for name, (top, bottom) in ratios.items():
        metrics["perception_rate"][name] = _ratio(top, bottom)
        ci95["perception_rate"][name] = bootstrap_interval(top, bottom, num_bootstrap, seed)
    same_count = [record["num_pred"] == record["num_true"] for record in records]
    for name, top, bottom in [
        ("estimation_error", [s.sum() for s in squared], [2 * len(s) for s in squared]),
        ("estimation_error_perceived", [s.sum() for s in near], [2 * len(s) for s in near]),
        ("count_accuracy", same_count, np.ones(len(records))),
    ]:
        metrics[name] = _ratio(top, bottom)
        ci95[name] = bootstrap_interval(top, bottom, num_bootstrap, seed)
    return metrics, ci95


def attribute_metrics(
    records: Iterable[Mapping[str, Any]], num_bootstrap: int = 1000, seed: int = 0
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Score inferred binary attributes, one-hot concepts as in `data.celeba`.

    - accuracy: share of right values over all images and attributes; accuracy_per_attribute: of each.
    - balanced_accuracy: mean over attributes of the mean of the shares of right ones and right zeros, so that a rare
      attribute is not scored by guessing "no"; balanced_accuracy_per_attribute: of each. An attribute of which the
      images show only one value has none.
    - exact_match: share of images with every attribute right.

    Args:
        records: result records; those without ground truth are left out. `concept_names` names the attributes.
        num_bootstrap: resamples of the images for the intervals. seed: of the resamples.

    Returns:
        metrics and ci95, with the keys above; a value that does not exist is None.
    """
    records = _with_truth(records)
    if not records:
        empty = dict.fromkeys(("accuracy", "balanced_accuracy", "exact_match"))
        return empty, dict(empty)
    true, pred = (np.array([attribute_values(r[name]) for r in records]) for name in ("conds_true", "conds_pred"))
    names = records[0].get("concept_names") or [str(k) for k in range(true.shape[1])]
    right, ones = true == pred, np.ones(len(true))
    metrics: dict[str, Any] = {"accuracy": float(right.mean()), "exact_match": float(right.all(1).mean())}
    ci95: dict[str, Any] = {
        "accuracy": bootstrap_interval(right.mean(1), ones, num_bootstrap, seed),
        "exact_match": bootstrap_interval(right.all(1), ones, num_bootstrap, seed),
    }
    metrics["accuracy_per_attribute"] = {name: float(r.mean()) for name, r in zip(names, right.T, strict=True)}
    ci95["accuracy_per_attribute"] = {
        name: bootstrap_interval(r, ones, num_bootstrap, seed) for name, r in zip(names, right.T, strict=True)
    }
    counts = np.random.default_rng(seed).multinomial(len(true), ones / len(true), num_bootstrap)  # resampled images
    balanced, spread = _balanced(true, right, ones[None])[0], _balanced(true, right, counts)  # (K,), (S, K)
    metrics["balanced_accuracy"] = None if np.isnan(balanced).all() else float(np.nanmean(balanced))
    metrics["balanced_accuracy_per_attribute"] = {
        name: None if np.isnan(value) else float(value) for name, value in zip(names, balanced, strict=True)
    }
    spread = spread[:, ~np.isnan(balanced)]
    spread = spread[~np.isnan(spread).all(1)]  # a small resample may miss a value of every attribute
    low_high = np.quantile(np.nanmean(spread, axis=1), (0.025, 0.975)).tolist() if spread.size else None
    ci95["balanced_accuracy"] = low_high
    return metrics, ci95


def attribute_values(conds: ArrayLike) -> np.ndarray:
    """Values (K,) in {0, 1} of one-hot concepts (K, 2 K).

    Raises:
        ValueError: another shape, or a row whose 1 is not at one of its own two places.
    """
    conds = np.asarray(conds, dtype=float)
    if conds.ndim != 2 or conds.shape[1] != 2 * len(conds):
        raise ValueError(f"attributes must be one-hot rows (K, 2 K), got shape {conds.shape}")
    values = conds.argmax(1) - 2 * np.arange(len(conds))
    if not ((values == 0) | (values == 1)).all():
        raise ValueError(f"rows must be one-hot within their own attribute, got {conds.tolist()}")
    return values


def _balanced(true: np.ndarray, right: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Balanced accuracy (S, K) of each attribute under image weights (S, B); NaN where a value does not occur."""
    with np.errstate(invalid="ignore"):
        shares = [(weights @ (right & is_value)) / (weights @ is_value) for is_value in (true == 1, true == 0)]
    return (shares[0] + shares[1]) / 2


def label_metrics(
    records: Iterable[Mapping[str, Any]], num_bootstrap: int = 1000, seed: int = 0
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Score inferred sets of classes; conditions are one-hot rows.

    - pair_accuracy: share of images whose predicted set of classes is exactly the true one (of any size).
    - recall_per_class: for each class, in the order of the rows, the share of the images with it where it was found.
    - count_accuracy: share of images with as many predicted as true classes.

    Returns:
        metrics, ci95: as `position_metrics`; recall_per_class is a list, None for a class that no image shows.
    """
    records = _with_truth(records)
    sets = [
        [{int(np.argmax(row)) for row in record[key]} for key in ("conds_true", "conds_pred")] for record in records
    ]
    num_classes = len(records[0]["conds_true"][0]) if records else 0
    ones = np.ones(len(records))
    metrics: dict[str, Any] = {"recall_per_class": []}
    ci95: dict[str, Any] = {"recall_per_class": []}
    for name, top in [
        ("pair_accuracy", [true == pred for true, pred in sets]),
        ("count_accuracy", [len(true) == len(pred) for true, pred in sets]),
    ]:
        metrics[name], ci95[name] = _ratio(top, ones), bootstrap_interval(top, ones, num_bootstrap, seed)
    for number in range(num_classes):
        shown = [number in true for true, _ in sets]
        found = [number in true & pred for true, pred in sets]
        metrics["recall_per_class"].append(_ratio(found, shown))
        ci95["recall_per_class"].append(bootstrap_interval(found, shown, num_bootstrap, seed))
    return metrics, ci95


def headline_parts(task: str, records: Iterable[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """A task's headline score image by image: what is right (B,), of how much (B,); the score is the ratio of the sums.

    Objects within 0.05, attribute values, or for classes whether the whole set is right. Every record has ground truth.
    """
    records = list(records)
    if task.startswith("clevr"):
        distances, num_true = matched_distances(records)
        return num_within(distances, HEADLINE_RADIUS), num_true
    true, pred = (
        [np.argmax(np.asarray(record[name]), axis=1) for record in records] for name in ("conds_true", "conds_pred")
    )
    if task == "animals":
        return np.array([set(t) == set(p) for t, p in zip(true, pred, strict=True)]), np.ones(len(records))
    return np.array([(t == p).sum() for t, p in zip(true, pred, strict=True)]), np.array([len(t) for t in true])


def count_confusion(records: Iterable[Mapping[str, Any]]) -> dict[int, dict[int, int]]:
    """Count the images by true and predicted number of objects: {num_true: {num_pred: images}}, keys ascending."""
    confusion: dict[int, dict[int, int]] = {}
    for true, pred in sorted((int(r["num_true"]), int(r["num_pred"])) for r in _with_truth(records)):
        row = confusion.setdefault(true, {})
        row[pred] = row.get(pred, 0) + 1
    return confusion


def predictions_right(records: Iterable[Mapping[str, Any]], radius: float = HEADLINE_RADIUS) -> list[np.ndarray]:
    """For every prediction, whether its matched true object lies within the radius; one left unmatched is not right.

    Args:
        records: result records of position tasks; those without ground truth are left out.
        radius: in [0, 1] image coordinates.

    Returns:
        one bool array (num_pred,) per image, in the order of `conds_pred`.
    """
    right = []
    for record in _with_truth(records):
        rows, _, distances = match_points(record["conds_pred"], record["conds_true"])
        right.append(np.zeros(len(record["conds_pred"]), dtype=bool))
        right[-1][rows] = distances <= radius + _BORDER_TOLERANCE
    return right


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
    return bins, _ratio(num_items * np.abs(mean - share), num_items)


def wilson_interval(successes: ArrayLike, trials: ArrayLike, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval of a share, elementwise: bounds in [0, 1] that hold the share even at 0 and 1."""
    successes, trials = np.asarray(successes, dtype=float), np.asarray(trials, dtype=float)
    z = ndtri((1 + level) / 2)
    share = successes / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def radius_name(radius: float) -> str:
    """The key of a radius in `perception_rate`: two decimals ("0.10"), more only where the radius has more."""
    return f"{radius:.2f}" if float(f"{radius:.2f}") == radius else repr(float(radius))


def _with_truth(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [record for record in records if record["conds_true"] is not None]


def _ratio(numerators: ArrayLike, denominators: ArrayLike) -> float | None:
    total = float(np.sum(denominators))
    return float(np.sum(numerators)) / total if total > 0 else None


def _as_points(points: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(points, dtype=float)
    if array.size == 0:
        return array.reshape(0, 2)  # an empty list has no second axis
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"`{name}` must have shape (N, 2), got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"`{name}` holds coordinates that are not finite: {array.tolist()}")
    return array
