"""Concepts that are binary attributes of an image."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from igm import UserError
from igm.calibration.attributes import measure_attributes
from igm.calibration.settings import CalibrationImages, CalibrationSettings
from igm.encoding import attribute_values
from igm.facts import Facts
from igm.figures.labels import attribute_bars, attribute_sheet
from igm.inference.types import Inferred
from igm.models import ModelError
from igm.statistics import share_interval, sum_interval, with_truth
from igm.tasks import register
from igm.tasks.columns import keys_of, share_cell, share_columns
from igm.tasks.labels import Labels, as_labels
from igm.tasks.task import Column, Finding, Groups, Record, Scores, Sheet, Task, names_of

MOST_COLUMNS = 5  # more attributes do not fit on a line; summary.json has them


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
    records = with_truth(records)
    if not records:
        empty = dict.fromkeys(("accuracy", "balanced_accuracy", "exact_match"))
        return empty, dict(empty)
    true, pred = (np.array([attribute_values(r[name]) for r in records]) for name in ("conds_true", "conds_pred"))
    names = records[0].get("concept_names") or [str(k) for k in range(true.shape[1])]
    right, ones, of = true == pred, np.ones(len(true)), np.full(len(true), true.shape[1])
    metrics: dict[str, Any] = {"accuracy": float(right.mean()), "exact_match": float(right.all(1).mean())}
    ci95: dict[str, Any] = {
        "accuracy": share_interval(right.sum(1), of, num_bootstrap, seed),
        "exact_match": share_interval(right.all(1), ones),
    }
    metrics["accuracy_per_attribute"] = {name: float(r.mean()) for name, r in zip(names, right.T, strict=True)}
    ci95["accuracy_per_attribute"] = {name: share_interval(r, ones) for name, r in zip(names, right.T, strict=True)}
    counts = np.random.default_rng(seed).multinomial(len(true), ones / len(true), num_bootstrap)  # resampled images
    balanced, spread = _balanced(true, right, ones[None])[0], _balanced(true, right, counts)  # (K,), (S, K)
    metrics["balanced_accuracy"] = None if np.isnan(balanced).all() else float(np.nanmean(balanced))
    metrics["balanced_accuracy_per_attribute"] = {
        name: None if np.isnan(value) else float(value) for name, value in zip(names, balanced, strict=True)
    }
    ci95["balanced_accuracy"] = _balanced_interval(true, right, ~np.isnan(balanced), spread)
    return metrics, ci95


def _balanced(true: np.ndarray, right: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Balanced accuracy (S, K) of each attribute under image weights (S, B); NaN where a value does not occur."""
    with np.errstate(invalid="ignore"):
        shares = [(weights @ (right & is_value)) / (weights @ is_value) for is_value in (true == 1, true == 0)]
    return (shares[0] + shares[1]) / 2


def _balanced_interval(
    true: np.ndarray, right: np.ndarray, known: np.ndarray, spread: np.ndarray
) -> list[float] | None:
    """Interval of the mean balanced accuracy of the `known` attributes (K,): a hull as that of `share_interval`.

    Args:
        true, right: (B, K). spread: (S, K) balanced accuracies of resampled images.
    """
    if not known.any():
        return None
    true, right, spread = true[:, known], right[:, known], spread[:, known]
    shown = np.concatenate([true == 1, true == 0], axis=1)  # (B, 2 K), each with an image
    found = shown & np.concatenate([right, right], axis=1)
    weights = np.full(shown.shape[1], 1 / shown.shape[1])
    low, high = sum_interval(weights, found.sum(0), shown.sum(0))
    spread = spread[~np.isnan(spread).all(1)]  # a small resample may miss a value of every attribute
    resampled = np.nanmean(spread, axis=1) if len(spread) else np.array([low, high])
    below, above = np.quantile(resampled, (0.025, 0.975)).tolist()
    return [max(0.0, min(low, below)), min(1.0, max(high, above))]


class Attributes(Task):
    """Which of some attributes an image has, one value of each."""

    name, former_names = "attributes", ("celeba", "celeba-gc", "celeba-resnet")
    pipeline_tag, hub_metrics = "image-classification", ("accuracy", "balanced_accuracy")

    def names(self, dataset: Any) -> tuple[str, ...]:
        """The attributes."""
        return tuple(dataset.attributes)

    def cond_size(self, names: Sequence[str]) -> int:
        """Two values of each attribute."""
        return 2 * len(names)

    def check_facts(self, facts: Facts, names: Sequence[str], checkpoint: str) -> None:
        """Raise ModelError where a checkpoint was trained for other attributes."""
        if facts.attributes not in (None, tuple(names)):
            trained = " ".join(facts.attributes or ())
            raise ModelError(f"--checkpoint {checkpoint} was trained for --attributes {trained}; pass these")

    def record(self, found: Inferred, row: int, names: Sequence[str]) -> Record:
        """The attributes' names."""
        return {"concept_names": list(names)}

    def answer(self, found: Inferred, row: int, names: Sequence[str]) -> Labels:
        """The names of the attributes that hold."""

        def holding(conds: np.ndarray) -> list[str]:
            return [name for name, value in zip(names, attribute_values(conds), strict=True) if value]

        return as_labels(found, row, holding)

    def findings(self, record: Record, options: Mapping[str, Any]) -> list[Finding]:
        """All attributes of the image together, a column of 1 or 0 for each."""
        names = names_of(record, options.get("attributes"))
        values = dict(zip(names, map(int, attribute_values(record["conds_pred"])), strict=True))
        return [Finding(None, tuple(name for name in names if values[name]), record["confidence"], values)]

    def score(self, records: Iterable[Record]) -> Scores:
        """See `attribute_metrics`."""
        return attribute_metrics(records)

    def headline(self, records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
        """Right values, of all values."""
        true, pred = ([attribute_values(r[name]) for r in records] for name in ("conds_true", "conds_pred"))
        right = np.array([(t == p).sum() for t, p in zip(true, pred, strict=True)])
        return right, np.array([len(values) for values in true])

    def columns(self, summary: Mapping[str, Any]) -> list[Column]:
        """Accuracy of each attribute, where they are few, and of all."""
        groups = list(summary["groups"].values())
        names = keys_of(groups, "accuracy_per_attribute")
        columns = [
            (name, [share_cell(group, "accuracy_per_attribute", name, interval=False) for group in groups])
            for name in (names if len(names) <= MOST_COLUMNS else [])
        ]
        return columns + share_columns(groups, ["accuracy", "balanced_accuracy", "exact_match"])

    def draw(self, groups: Groups, sheets: Mapping[str, Sheet], folder: Path, options: Mapping[str, Any]) -> list[Path]:
        """Sheets, and the accuracy of each attribute."""
        written = []
        for group, sheet in sheets.items():
            written.append(folder / f"attributes_{group.replace('/', '_')}.png")
            attribute_sheet(sheet.images, sheet.records, written[-1], max_images=len(sheet.records))
        scores = {group: attribute_metrics(records) for group, records in groups.items()}
        scores = {group: score for group, score in scores.items() if score[0]["accuracy"] is not None}
        if scores:
            written.append(folder / "accuracy.png")
            attribute_bars(scores, written[-1])
        return written

    def calibration_images(self, kind: Callable[..., Any], images: CalibrationImages, facts: Facts) -> Any:
        """Validation faces of the training domain.

        Raises:
            UserError: more is asked for than them.
        """
        if images.vary or images.other_root:
            raise UserError("--vary and --other_root are for scenes; leave them out for a checkpoint of attributes")
        return kind(
            images.dataset_root, "val", domain=images.domain, attributes=facts.attributes, max_images=images.num_images
        )

    def calibrate(self, denoiser: Any, dataset: Any, settings: CalibrationSettings) -> Facts:
        """The noise levels that tell values apart best."""
        return measure_attributes(denoiser, dataset, settings)


register(Attributes())
