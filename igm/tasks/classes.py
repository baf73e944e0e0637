"""Concepts that are classes, of which an image shows several."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from igm.encoding import numbers_of
from igm.figures.labels import label_sheet
from igm.inference.types import Inferred
from igm.statistics import ratio, share_interval, with_truth
from igm.tasks import register
from igm.tasks.columns import count_was_inferred, share_columns
from igm.tasks.labels import Labels, as_labels
from igm.tasks.task import Column, Finding, Groups, Record, Scores, Sheet, Task, names_of

MOST_COLUMNS = 8  # more classes do not fit on a line; summary.json has them


def label_metrics(records: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Score inferred sets of classes; conditions are one-hot rows.

    - pair_accuracy: share of images whose predicted set of classes is exactly the true one (of any size).
    - recall_per_class: for each class, in the order of the rows, the share of the images with it where it was found.
    - count_accuracy: share of images with as many predicted as true classes.

    Returns:
        metrics, ci95: as `position_metrics`; recall_per_class is a list, None for a class that no image shows.
    """
    records = with_truth(records)
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
        metrics[name], ci95[name] = ratio(top, ones), share_interval(top, ones)
    for number in range(num_classes):
        shown = [number in true for true, _ in sets]
        found = [number in true & pred for true, pred in sets]
        metrics["recall_per_class"].append(ratio(found, shown))
        ci95["recall_per_class"].append(share_interval(found, shown))
    return metrics, ci95


class Classes(Task):
    """Which of some classes a picture shows, several together."""

    name, former_names = "classes", ("animals",)
    pipeline_tag, hub_metrics = "zero-shot-image-classification", ("accuracy",)

    def cond_size(self, names: Sequence[str]) -> None:
        """Prompts have any size."""

    def record(self, found: Inferred, row: int, names: Sequence[str]) -> Record:
        """The names of all classes."""
        return {"concept_names": list(names)}

    def answer(self, found: Inferred, row: int, names: Sequence[str]) -> Labels:
        """The classes shown."""
        return as_labels(found, row, lambda conds: [names[number] for number in conds.argmax(1)])

    def findings(self, record: Record, options: Mapping[str, Any]) -> list[Finding]:
        """The classes shown; they are as sure as their set is."""
        names, numbers = names_of(record, options.get("classes")), sorted(numbers_of(record["conds_pred"]))
        return [Finding(None, (names[n],), record["confidence"], {"class": names[n]}) for n in numbers]

    def score(self, records: Iterable[Record]) -> Scores:
        """See `label_metrics`."""
        return label_metrics(records)

    def headline(self, records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
        """Images whose whole set of classes is right."""
        right = [numbers_of(record["conds_true"]) == numbers_of(record["conds_pred"]) for record in records]
        return np.array(right), np.ones(len(right))

    def columns(self, summary: Mapping[str, Any]) -> list[Column]:
        """Accuracy of the sets and of their sizes where these were sought; each class's recall, where they are few."""
        groups = list(summary["groups"].values())
        columns = share_columns(groups, ["pair_accuracy", *["count_accuracy"] * count_was_inferred(summary)])
        names = (summary["options"] or {}).get("classes") or []
        if len(names) > MOST_COLUMNS or not any("recall_per_class" in group["metrics"] for group in groups):
            return columns
        for number, name in enumerate(names):
            values = [(group["metrics"].get("recall_per_class") or [None] * len(names))[number] for group in groups]
            columns.append((f"{name} found", ["-" if value is None else f"{100 * value:.1f} %" for value in values]))
        return columns

    def draw(self, groups: Groups, sheets: Mapping[str, Sheet], folder: Path, options: Mapping[str, Any]) -> list[Path]:
        """A sheet for each group."""
        written = []
        for group, sheet in sheets.items():
            written.append(folder / f"labels_{group.replace('/', '_')}.png")
            label_sheet(sheet.images, sheet.records, options["classes"], written[-1], max_images=len(sheet.records))
        return written


register(Classes())
