"""Labels that people write themselves: a row for each picture, in `metadata.jsonl`, `metadata.csv` or a COCO JSON.

The names of the first two, and `file_name`, are the imagefolder convention of Hugging Face `datasets`.
"""

import contextlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igm.data import DataError
from igm.data.tables import IMAGE_COLUMNS, check_once, read_rows
from igm.data.text import parse_json, read_text, shown

METADATA = ("metadata.jsonl", "metadata.csv")
COCO_NAME = re.compile(r"(annotations|coco|instances|keypoints).*\.json$", re.IGNORECASE)
SPLITS = ("train", "val", "test")  # their numbers in CelebA's partition file
SPLIT_WORDS = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "dev": 1, "test": 2, "testing": 2}


@dataclass(frozen=True)
class Row:
    """What a file says of a picture: its name, where that stands, and everything else by the name of its column."""

    file: str
    place: str
    values: dict[str, Any]


def read_metadata(file: Path) -> list[Row]:
    """The rows of a file of one of the three kinds.

    Raises:
        DataError: it is none, names no picture or one twice, or a row cannot be used.
    """
    if file.suffix.lower() == ".csv":
        rows = list(csv_rows(file))
    elif file.suffix.lower() == ".jsonl":
        rows = [named_row(*row) for row in json_rows(file, '{"file_name": ..., "points": [[x, y], ...]}')]
    else:
        rows = coco_rows(file)
    if not rows:
        raise DataError(f"{file} names no picture; write a row for each")
    check_once(file, [row.file for row in rows], list(range(1, len(rows) + 1)), "rows")
    return rows


def json_rows(file: Path, example: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file with one JSON object per line, and where each stands.

    Raises:
        DataError: a line is something else; names the `example`.
    """
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if not line.strip():
            continue
        place, row = f"{file}, line {number}", None
        with contextlib.suppress(DataError):
            row = parse_json(line, place)
        if not isinstance(row, dict):
            raise DataError(f"{place} is not a JSON object such as {example}")
        yield place, row


def named_row(place: str, values: dict[str, Any]) -> Row:
    """A row with the name of its picture apart from the other values.

    Raises:
        DataError: it has no name.
    """
    column = next((name for name in IMAGE_COLUMNS if name in values), "file_name")
    name = values.get(column)
    if not isinstance(name, str) or not name:
        raise DataError(f"{place}: file_name is {shown(name)}, expected the name of an image; write it")
    return Row(name, place, {key: value for key, value in values.items() if key != column})


def csv_rows(file: Path) -> Iterator[Row]:
    """The rows of a table with a header; all values are texts.

    Raises:
        DataError: there is no column of names, or a row is of another length than the header.
    """
    rows = read_rows(file)
    header = [name.strip() for name in rows[0][1]] if rows else []
    if len(set(header)) < len(header):
        raise DataError(f"{file}: the header names a column twice ({', '.join(header)}); name each once")
    if not set(header) & set(IMAGE_COLUMNS):
        raise DataError(f"{file} needs a header with the column file_name, it has {', '.join(header) or 'nothing'}")
    for line, cells in rows[1:]:
        place = f"{file}, line {line}"
        if len(cells) != len(header):
            raise DataError(
                f"{place}: {len(cells)} cells, expected {len(header)}; put a cell with commas, such as points, in quotes"
            )
        yield named_row(place, dict(zip(header, cells, strict=True)))


def coco_rows(file: Path) -> list[Row]:
    """The pictures of a COCO JSON: `points` are the only visible keypoint of an annotation, or else its box's centre.

    `category` holds the objects' names. Crowds (`iscrowd`) are no objects.

    Raises:
        DataError: it is no COCO JSON, or an image or an annotation in it is at fault.
    """
    contents = parse_json(read_text(file), file)
    if not isinstance(contents, dict) or not all(isinstance(contents.get(k), list) for k in ("images", "annotations")):
        raise DataError(f"{file} has no lists 'images' and 'annotations'; it is not a COCO file")
    listed, categories = contents.get("categories") or [], {}
    if not isinstance(listed, list):
        raise DataError(f"{file}: categories is {shown(listed)}, expected a list; mend it")
    for number, own in enumerate(listed, 1):
        if not isinstance(own, dict) or not isinstance(own.get("name"), str) or not is_id(own.get("id")):
            raise DataError(f"{file}, category {number}: it is {shown(own)}, expected id and name; mend it")
        categories[own["id"]] = own["name"]
    rows: dict[int, Row] = {}
    for number, own in enumerate(contents["images"], 1):
        place = f"{file}, image {number}"
        if not isinstance(own, dict) or not is_id(own.get("id")) or own["id"] in rows:
            raise DataError(f"{place}: it is {shown(own)}, expected an id of its own and file_name; mend it")
        row = named_row(place, own)
        sides = {name: own[name] for name in ("width", "height") if name in own}
        rows[own["id"]] = Row(row.file, place, {**sides, "points": [], "category": []})
    for number, own in enumerate(contents["annotations"], 1):
        place = f"{file}, annotation {number}"
        if not isinstance(own, dict) or not is_id(own.get("image_id")) or own["image_id"] not in rows:
            raise DataError(f"{place}: image_id is of no image; take it out, or add the image")
        if own.get("iscrowd") == 1:
            continue
        values = rows[own["image_id"]].values
        values["points"].append(point_of(own, place))
        values["category"].append(categories.get(own["category_id"]) if is_id(own.get("category_id")) else None)
    return list(rows.values())


def point_of(annotation: dict[str, Any], place: str) -> list[float]:
    """Where an object of a COCO file is, (x, y) in pixels.

    Raises:
        DataError: it has neither a single visible keypoint nor a box.
    """
    keypoints, box = annotation.get("keypoints"), annotation.get("bbox")
    if isinstance(keypoints, list) and len(keypoints) % 3 == 0 and all(map(is_finite, keypoints)):
        visible = [keypoints[i : i + 2] for i in range(0, len(keypoints), 3) if keypoints[i + 2] > 0]
        if len(visible) == 1:
            return visible[0]
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_finite, box)) or min(box[2:]) < 0:
        raise DataError(f"{place}: bbox is {shown(box)}, expected [x, y, width, height] in pixels; write it")
    return [box[0] + box[2] / 2, box[1] + box[3] / 2]


def is_id(value: object) -> bool:
    """Whether a value of a COCO file may be an id: a whole number, or a text."""
    return isinstance(value, int | str) and not isinstance(value, bool)


def is_finite(value: object) -> bool:
    """Whether a value of a JSON is a finite number; true, false and texts are none."""
    return type(value) in (int, float) and -1e15 < value < 1e15 and not math.isnan(value)  # type: ignore[operator,arg-type]


def find_listings(root: Path) -> dict[str | None, Path]:
    """The files that list the pictures of a folder, by the split that their place or name says; None: they do not say.

    They are in the folder itself, in its `annotations`, or in folders called train, val (valid, validation, dev) and test.

    Raises:
        DataError: two list the same pictures.
    """
    found: dict[str | None, Path] = {}
    if not root.is_dir():
        return found
    folders: list[tuple[Path, str | None]] = [(root, None), (root / "annotations", None)]
    folders += [(path, SPLITS[SPLIT_WORDS[path.name.lower()]]) for path in sorted(root.iterdir()) if is_split(path)]
    for folder, split in folders:
        for file in listings_in(folder):
            own = split or split_in(file.stem)
            if found.setdefault(own, file) != file or (None in found and len(found) > 1):
                other = next(path for path in found.values() if path != file)
                raise DataError(f"{other} and {file} both list pictures; keep one, or name each after its split")
    return found


def is_split(path: Path) -> bool:
    """Whether a folder is called as a split is."""
    return path.name.lower() in SPLIT_WORDS and path.is_dir()


def listings_in(folder: Path) -> list[Path]:
    """The files of a folder that are called as those which list pictures."""
    if not folder.is_dir():
        return []
    coco = sorted(path for path in folder.iterdir() if COCO_NAME.search(path.name) and not path.name.startswith("."))
    return [path for path in [*(folder / name for name in METADATA), *coco] if path.is_file()]


def split_in(stem: str) -> str | None:
    """The split that a file's name says, as `instances_train2017` does; None where it says none."""
    words = [SPLIT_WORDS[word] for word in re.findall("[a-z]+", stem.lower()) if word in SPLIT_WORDS]
    return SPLITS[words[0]] if len(set(words)) == 1 else None
