"""Concepts that are positions of objects."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from igm.calibration.positions import measure_positions
from igm.calibration.scenes import CalibrationScenes
from igm.calibration.settings import CalibrationImages, CalibrationSettings
from igm.editing import Editable
from igm.facts import Facts
from igm.figures.counts import confusion_matrices, error_by_count, reliability_diagrams
from igm.figures.marks import as_png, draw_points
from igm.figures.positions import perception_curve, position_sheet
from igm.inference.confidence import standard_error
from igm.inference.types import Inferred
from igm.matching import (
    BORDER_TOLERANCE,
    HEADLINE_RADIUS,
    RADII,
    matched_distances,
    num_within,
    predictions_right,
    radius_name,
)
from igm.models import ModelError
from igm.statistics import bootstrap_interval, ratio, share_interval, with_truth
from igm.tasks import register
from igm.tasks.columns import count_was_inferred, keys_of, share_cell, share_columns
from igm.tasks.task import Column, Finding, Groups, Record, Scores, Sheet, Task, padded


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
    records = with_truth(records)
    distances, num_true = matched_distances(records)
    # The sum over both coordinates of a pair's squared differences is its squared distance.
    squared = [d**2 for d in distances]
    near = [s[d <= HEADLINE_RADIUS + BORDER_TOLERANCE] for s, d in zip(squared, distances, strict=True)]
    ratios = {radius_name(radius): (num_within(distances, radius), num_true) for radius in radii}
    metrics: dict[str, Any] = {"perception_rate": {}}
    ci95: dict[str, Any] = {"perception_rate": {}}
    for name, (found, of) in ratios.items():
        metrics["perception_rate"][name] = ratio(found, of)
        ci95["perception_rate"][name] = share_interval(found, of, num_bootstrap, seed)
    same_count = [record["num_pred"] == record["num_true"] for record in records]
    parts: list[tuple[str, ArrayLike, ArrayLike]] = [
        ("estimation_error", [s.sum() for s in squared], [2 * len(s) for s in squared]),
        ("estimation_error_perceived", [s.sum() for s in near], [2 * len(s) for s in near]),
    ]
    for name, top, bottom in parts:
        metrics[name] = ratio(top, bottom)
        ci95[name] = bootstrap_interval(top, bottom, num_bootstrap, seed)
    images = np.ones(len(records))
    metrics["count_accuracy"] = ratio(same_count, images)
    ci95["count_accuracy"] = share_interval(same_count, images)
    return metrics, ci95


@dataclass
class Scene(Editable):
    """What a picture shows: positions (K, 2) as (x, y) in [0, 1] of its width and height, y down; count K; confidence.

    confidence: that the count is right, or, where it was given, every position; object_confidence (K,): each position.
    image: the picture, made smaller where it is large; in a notebook a scene shows itself on it.
    model: of `igm.api`, that found it; with it the scene can be changed (`igm.editing`). It is not pickled.
    error_by_count (K_max,): where the number was sought, the error of the best set of every size on fresh draws.
    standard_error_by_count (K_max,): of each.
    unlike: whether the picture is unlike all that the model was measured on, so that the rest says little; None: not known.
    """

    positions: np.ndarray
    count: int
    confidence: float | None
    object_confidence: np.ndarray | None
    error: float
    image: Image.Image | None = field(default=None, repr=False, compare=False)
    model: Any = field(default=None, repr=False, compare=False)
    error_by_count: np.ndarray | None = field(default=None, repr=False, compare=False)
    standard_error_by_count: np.ndarray | None = field(default=None, repr=False, compare=False)
    unlike: bool | None = None

    def parts(self) -> list[dict[str, Any]]:
        """Its positions as `generate` takes objects."""
        return [{"position": (float(x), float(y))} for x, y in self.positions]

    def draw(self, image: Image.Image | None = None) -> Image.Image:
        """The picture (or another of the same view) with a cross at each position, and how sure each is in %."""
        return draw_points(image or self.image, self.positions.tolist(), self.to_dict()["object_confidence"])

    def to_dict(self) -> dict[str, Any]:
        """All but the picture, as JSON has it."""
        each = None if self.object_confidence is None else self.object_confidence.tolist()
        sure = {"confidence": self.confidence, "object_confidence": each}
        told = {"count": self.count, "positions": self.positions.tolist(), **sure, "error": self.error}
        return {**told, "unlike": self.unlike}

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows."""
        return None if self.image is None else as_png(self.draw())


class Positions(Task):
    """Where the objects of a scene are, and how many."""

    name = "positions"
    former_names: ClassVar[tuple[str, ...]] = ("clevr", "clevrtex")
    pipeline_tag = "keypoint-detection"
    hub_metrics: ClassVar[tuple[str, ...]] = ("perception_rate", "estimation_error")

    def cond_size(self, names: Sequence[str]) -> int | None:
        """x and y."""
        return 2

    def record(self, found: Inferred, row: int, names: Sequence[str]) -> Record:
        """How sure each object is, and the error of every count where it was sought."""
        more: Record = {}
        if found.object_confidence is not None:
            more["object_confidence"] = found.object_confidence[row].tolist()
        if found.count_errors is not None:
            errors = found.count_errors[row]  # (N, K_max)
            more["error_by_count"] = errors.mean(0).tolist()
            more["standard_error_by_count"] = standard_error(errors).tolist()
            more["count_draws"] = len(errors)
        return more

    def answer(self, found: Inferred, row: int, names: Sequence[str]) -> Scene:
        """The scene."""
        each, counts = found.object_confidence, found.count_errors
        return Scene(
            positions=padded(found.conds, found.num_concepts, row),
            count=int(found.num_concepts[row]),
            confidence=None if found.confidence is None else float(found.confidence[row]),
            object_confidence=None if each is None else each[row].cpu().numpy(),
            error=float(found.error[row]),
            unlike=None if found.unlike is None else found.unlike[row],
            error_by_count=None if counts is None else counts[row].mean(0).cpu().numpy(),
            standard_error_by_count=None if counts is None else standard_error(counts[row]).cpu().numpy(),
        )

    def findings(self, record: Record, options: Mapping[str, Any]) -> list[Finding]:
        """The objects."""
        sure = record.get("object_confidence") or [None] * len(record["conds_pred"])
        return [Finding((x, y), ("object",), own) for (x, y), own in zip(record["conds_pred"], sure, strict=True)]

    def score(self, records: Iterable[Record]) -> Scores:
        """See `position_metrics`."""
        return position_metrics(records)

    def headline(self, records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
        """Objects within 0.05, of all objects."""
        distances, num_true = matched_distances(records)
        return num_within(distances, HEADLINE_RADIUS), num_true

    def columns(self, summary: Mapping[str, Any]) -> list[Column]:
        """Perception rates, estimation errors, and the accuracy of counts that were sought."""
        groups = list(summary["groups"].values())
        columns = []
        for radius in keys_of(groups, "perception_rate"):
            cells = [share_cell(g, "perception_rate", radius, interval=radius == "0.05") for g in groups]
            columns.append((f"found within {radius}", cells))
        for name, title in [("estimation_error", "error"), ("estimation_error_perceived", "error within 0.05")]:
            if any(name in group["metrics"] for group in groups):
                values = [group["metrics"].get(name) for group in groups]
                columns.append((title, ["-" if value is None else f"{value:.1e}" for value in values]))
        return columns + share_columns(groups, ["count_accuracy"] * count_was_inferred(summary))

    def draw(self, groups: Groups, sheets: Mapping[str, Sheet], folder: Path, options: Mapping[str, Any]) -> list[Path]:
        """Sheets, the perception rate against the radius, errors of counts, their confusion, and reliability."""
        written = []
        for group, sheet in sheets.items():
            written.append(folder / f"positions_{group.replace('/', '_')}.png")
            position_sheet(sheet.images, sheet.records, written[-1], max_images=len(sheet.records))
        if any(record["conds_true"] for records in groups.values() for record in records):
            written.append(folder / "perception_rate.png")
            perception_curve(groups, written[-1])
        return written + _draw_counts(groups, folder, options.get("count") == "infer")

    def calibration_images(self, kind: Callable[..., Any], images: CalibrationImages, facts: Facts) -> Any:
        """Training scenes, and others that are asked for."""
        opener = partial(self.open_to_calibrate, kind, images, facts)
        other = opener(images.other_root, images.other_counts or (3, 10)) if images.other_root else None
        return CalibrationScenes(opener(images.dataset_root, images.object_counts), images.vary, other)

    def open_to_calibrate(
        self, kind: Callable[..., Any], images: CalibrationImages, facts: Facts, root: str, counts: tuple[int, int]
    ) -> Any:
        """Scenes of a folder's training split."""
        return kind(root, "train", counts, max_images=images.num_images)

    def calibrate(self, denoiser: Any, dataset: Any, settings: CalibrationSettings) -> Facts:
        """Penalty of a count, and scales of the confidences."""
        if denoiser.facts.learner == "joint_label":
            raise ModelError("the checkpoint is a GC's, whose inference uses nothing that is measured; name another")
        return measure_positions(denoiser, dataset, settings)


def _draw_counts(groups: Groups, folder: Path, inferred: bool) -> list[Path]:
    """The figures of inferred counts and of confidences that the records have; returns the files written."""
    written = []
    for group, records in groups.items():
        judged = [record for record in records if record.get("error_by_count")]
        if judged:
            written.append(folder / f"error_by_count_{group.replace('/', '_')}.png")
            error_by_count(judged, written[-1])
    scored = [r for records in groups.values() for r in records if r["conds_true"] is not None]
    if inferred and scored:
        written.append(folder / "count_confusion.png")
        confusion_matrices(groups, written[-1])
    items = _confidences(scored, inferred)
    if items:
        written.append(folder / "reliability.png")
        reliability_diagrams(items, written[-1])
    return written


def _confidences(records: Sequence[Record], inferred: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{kind: (confidences, right)}: each object's against its position, and, of inferred counts, each image's."""
    items = {}
    judged = [record for record in records if record.get("object_confidence")]
    if judged:
        confidences = np.concatenate([record["object_confidence"] for record in judged])
        items["objects"] = confidences, np.concatenate(predictions_right(judged))
    judged = [record for record in records if inferred and record["confidence"] is not None]
    if judged:
        right = np.array([record["num_pred"] == record["num_true"] for record in judged])
        items["counts"] = np.array([record["confidence"] for record in judged]), right
    return items


register(Positions())
