"""The figures of a results folder, from its records and images alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from igm.data import DataError
from igm.data.images import decode_image
from igm.evaluation.records import read_options, read_results
from igm.evaluation.summary import fitting, task_of
from igm.tasks.task import Record, Sheet


def redraw(folder: str | Path, max_images: int = 24) -> list[Path]:
    """Draw the figures of a results folder again from its records, into DIR/figures; the task says which there are.

    An image is read from the `image_path` of its record (as given, or relative to the folder), where it has one.

    Returns:
        the files written.

    Raises:
        FileNotFoundError: if the folder has no result file.
        UserError: if a record cannot be read, or its conditions are not those of the task.
    """
    folder = Path(folder)
    options = read_options(folder)
    groups: dict[str, list[Record]] = {}
    for record in read_results(folder):
        groups.setdefault(record["group"], []).append(record)
    task = task_of(folder, options.get("task"))
    sheets = {group: sheet_of(spread(records, max_images), folder) for group, records in groups.items()}
    with fitting(folder, task):
        return task.draw(groups, sheets, folder / "figures", options)


def sheet_of(records: list[Record], folder: Path) -> Sheet:
    """Records with those of their pictures that are still there."""
    return Sheet(records, {r["image_id"]: image for r in records if (image := read_image(r, folder))})


def spread(records: list, number: int) -> list:
    """At most `number` records at equal steps: files are often sorted by what they show."""
    number = min(number, len(records))
    return [records[i * len(records) // number] for i in range(number)]


def read_image(record: Mapping[str, Any], folder: Path) -> Image.Image | None:
    """The image of a record, or None where it is no more: the sheet then shows an empty tile."""
    name = record.get("image_path")
    for path in [Path(name), folder / name] if name else []:
        try:
            return decode_image(path)
        except DataError:
            continue
    return None
