"""The figures of a results folder, from its records."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from igm.evaluation.records import read_options, read_results
from igm.figures.counts import confusion_matrices, error_by_count, reliability_diagrams
from igm.figures.labels import attribute_bars, attribute_sheet, label_sheet
from igm.figures.positions import perception_curve, position_sheet
from igm.metrics import predictions_right


def redraw(folder: str | Path, max_images: int = 24) -> list[Path]:
    """Draw the figures of a results folder again from its records, into DIR/figures.

    Besides sheets and scores: the error of every count and each object's confidence, where the records have them, and
    the confusion of counts, where they were inferred. An image is read from the `image_path` of its record (as given,
    or relative to the folder), where it has one.

    Returns:
        the files written.

    Raises:
        FileNotFoundError: if the folder has no result file.
        ValueError: if a record cannot be read, or the conditions are neither positions nor named attributes.
    """
    folder = Path(folder)
    options = read_options(folder)
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in read_results(folder):
        groups.setdefault(record["group"], []).append(record)
    kind = "attributes" if any("concept_names" in r for records in groups.values() for r in records) else "positions"
    kind = "labels" if options.get("task") == "animals" else kind
    written = []
    for group, records in groups.items():
        shown = spread(records, max_images)
        images = {record["image_id"]: _read_image(record, folder) for record in shown}
        images = {image_id: image for image_id, image in images.items() if image is not None}
        written.append(folder / "figures" / f"{kind}_{group.replace('/', '_')}.png")
        if kind == "labels":
            label_sheet(images, shown, options["classes"], written[-1], max_images=max_images)
        else:
            sheet = attribute_sheet if kind == "attributes" else position_sheet
            sheet(images, shown, written[-1], max_images=max_images)
    scored = any(record["conds_true"] for records in groups.values() for record in records)
    if scored and kind != "labels":
        written.append(folder / "figures" / ("accuracy.png" if kind == "attributes" else "perception_rate.png"))
        (attribute_bars if kind == "attributes" else perception_curve)(groups, written[-1])
    return written + _draw_counts(groups, folder / "figures", options.get("count") == "infer")


def _draw_counts(groups: Mapping[str, list[dict[str, Any]]], folder: Path, inferred: bool) -> list[Path]:
    """The figures of inferred counts and of confidences that the records have; returns the files written."""
    written = []
    for group, records in groups.items():
        records = [record for record in records if record.get("error_by_count")]
        if records:
            written.append(folder / f"error_by_count_{group.replace('/', '_')}.png")
            error_by_count(records, written[-1])
    scored = [r for records in groups.values() for r in records if r["conds_true"] is not None]
    if inferred and scored:
        written.append(folder / "count_confusion.png")
        confusion_matrices(groups, written[-1])
    items = _confidences(scored, inferred)
    if items:
        written.append(folder / "reliability.png")
        reliability_diagrams(items, written[-1])
    return written


def _confidences(records: Sequence[Mapping[str, Any]], inferred: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
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


def spread(records: list, number: int) -> list:
    """At most `number` records at equal steps: files are often sorted by what they show."""
    number = min(number, len(records))
    return [records[i * len(records) // number] for i in range(number)]


def _read_image(record: Mapping[str, Any], folder: Path) -> Image.Image | None:
    name = record.get("image_path")
    for path in [Path(name), folder / name] if name else []:
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except OSError:  # missing or not an image: the sheet shows an empty tile
            continue
    return None
