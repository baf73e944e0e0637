"""Found positions matched to the true ones; (x, y) in [0, 1] image coordinates, L2 distances in the same unit."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from igm.statistics import with_truth

RADII = (0.02, 0.05, 0.10)


HEADLINE_RADIUS = 0.05


# A prediction exactly on the border counts as within. Positions are stored in float32, which moves 0.5 + 0.05 by up to
# 6e-8, so the border is drawn a little further out: far less than a pixel.
BORDER_TOLERANCE = 1e-6


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
    pred, true = as_points(pred, "pred"), as_points(true, "true")
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
    records = with_truth(records)
    distances = [match_points(record["conds_pred"], record["conds_true"])[2] for record in records]
    return distances, np.array([len(record["conds_true"]) for record in records], dtype=np.int64)


def num_within(distances: Sequence[np.ndarray], radius: float) -> np.ndarray:
    """Count, per image, the matched pairs at most `radius` apart: list of B arrays (P,) -> (B,)."""
    return np.array([np.count_nonzero(d <= radius + BORDER_TOLERANCE) for d in distances], dtype=np.int64)


def predictions_right(records: Iterable[Mapping[str, Any]], radius: float = HEADLINE_RADIUS) -> list[np.ndarray]:
    """For every prediction, whether its matched true object lies within the radius; one left unmatched is not right.

    Args:
        records: result records of position tasks; those without ground truth are left out.
        radius: in [0, 1] image coordinates.

    Returns:
        one bool array (num_pred,) per image, in the order of `conds_pred`.
    """
    right = []
    for record in with_truth(records):
        rows, _, distances = match_points(record["conds_pred"], record["conds_true"])
        right.append(np.zeros(len(record["conds_pred"]), dtype=bool))
        right[-1][rows] = distances <= radius + BORDER_TOLERANCE
    return right


def radius_name(radius: float) -> str:
    """The key of a radius in `perception_rate`: two decimals ("0.10"), more only where the radius has more."""
    return f"{radius:.2f}" if float(f"{radius:.2f}") == radius else repr(float(radius))


def as_points(points: ArrayLike, name: str) -> np.ndarray:
    """Points as an array (N, 2); `name` is said where they are none."""
    array = np.asarray(points, dtype=float)
    if array.size == 0:
        return array.reshape(0, 2)  # an empty list has no second axis
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"`{name}` must have shape (N, 2), got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"`{name}` holds coordinates that are not finite: {array.tolist()}")
    return array
