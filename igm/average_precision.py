"""Average precision of predicted sets of objects, as the set-prediction literature measures it on CLEVR.

All predictions of all images are ranked by their confidence. One is a hit if an object of its image that no earlier
prediction has hit has all its attributes, and lies within a distance of it; the nearest such object is taken. The precision
at each hit, made non-increasing in the recall, is summed over the steps of the recall (Locatello et al. 2020,
arXiv 2006.15055, whose distances are those of 3-D coordinates). Distances are of [0, 1] image coordinates, or of CLEVR's
scenes for records `in_3d`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from igm.data.looks import HEIGHTS, lift
from igm.matching import BORDER_TOLERANCE

TRUSTED = 0.25  # of the scene: what the mean camera may be off by, in the median; CLEVR's scenes give 0.11


def average_precision(records: Sequence[Mapping[str, Any]], most: float) -> float | None:
    """Average precision of records with `objects_true` and `objects_pred`, a hit at most `most` away; None: no object.

    An object's confidence is that of its place times those of its attributes, as far as they are known.
    """
    ranked = sorted(
        ((confidence_of(record, i), number, i) for number, record in enumerate(records)
         for i in range(len(record["conds_pred"]))), key=lambda own: -own[0],
    )  # fmt: skip
    free = [set(range(len(record["conds_true"]))) for record in records]
    total, hits = sum(map(len, free)), np.zeros(len(ranked))
    if not total:
        return None
    for place, (_, number, i) in enumerate(ranked):
        if (hit := hit_of(records[number], i, free[number], most)) is not None:
            free[number].discard(hit)
            hits[place] = 1
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    ceiling = np.maximum.accumulate(precision[::-1])[::-1]  # the best precision at this recall or a higher one
    return float((ceiling * hits).sum() / total)


def confidence_of(record: Mapping[str, Any], i: int) -> float:
    """How sure object i is: its place, and its attributes."""
    places, attributes = record.get("object_confidence"), record.get("attribute_confidence")
    sure = float(places[i]) if places else 1.0
    return sure * float(np.prod(list(attributes[i].values()))) if attributes else sure


def hit_of(record: Mapping[str, Any], i: int, free: set[int], most: float) -> int | None:
    """The nearest of the free true objects with the attributes of prediction i, at most `most` away."""
    here = np.asarray(record["conds_pred"][i])
    same = [j for j in sorted(free) if record["objects_true"][j] == record["objects_pred"][i]]
    distances = {j: float(np.linalg.norm(here - record["conds_true"][j])) for j in same}
    near = {j: d for j, d in distances.items() if d <= most + BORDER_TOLERANCE}
    return min(near, key=near.__getitem__) if near else None


def in_3d(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    """Records whose places are those in the scene: the true ones, and the predicted ones lifted (`igm.data.looks.lift`).

    None where a scene's own places are not known, a size is none of CLEVR's, or the camera is not CLEVR's: lifting the true
    centres must bring half of them to within 0.25 of the true places, as pictures of other shapes do not.
    """
    if not records or any(record.get("coords_true") is None for record in records):
        return None
    true = [lifted_places(record, "true") for record in records]
    pred = [lifted_places(record, "pred") for record in records]
    if any(places is None for places in (*true, *pred)):
        return None
    known = np.concatenate([np.reshape(record["coords_true"], (-1, 3)) for record in records])  # (N, 3)
    apart = np.linalg.norm(np.concatenate(true) - known, axis=1)  # type: ignore[arg-type]
    if not len(apart) or np.median(apart) > TRUSTED:
        return None
    return [
        {**record, "conds_pred": own.tolist(), "conds_true": record["coords_true"]}  # type: ignore[union-attr]
        for record, own in zip(records, pred, strict=True)
    ]


def lifted_places(record: Mapping[str, Any], which: str) -> np.ndarray | None:
    """Places (K, 3) in the scene of a record's true or predicted objects; None where a size is none of CLEVR's."""
    sizes = [own.get("size") for own in record[f"objects_{which}"]]
    if not HEIGHTS.keys() >= set(sizes):
        return None
    left, top, width, height = record.get("fit_box") or (0, 0, record["width"], record["height"])
    points = np.reshape(record[f"conds_{which}"], (-1, 2)) * [width, height] + [left, top]
    return lift(points, np.array([HEIGHTS[size] for size in sizes]), record["width"], record["height"])
