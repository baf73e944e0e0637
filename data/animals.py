"""Pictures of animals with the set of classes that each shows, from a folder.

Labels come from `metadata.csv` or `metadata.jsonl` in the folder (Hugging Face imagefolder convention: `file_name`, and
`labels`, a list or a text such as "cat;dog"; or one column for each class with 1 or 0), or else from file names such as
`cat_dog_003.jpg` ("polar-bear" is the class "polar bear").
"""

import os
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from igm.data import DataError, printable
from igm.data.dataset import Concepts, ImageDataset, locate_file
from igm.data.images import SUFFIXES, list_pictures
from igm.data.metadata import json_rows
from igm.data.tables import IMAGE_COLUMNS, read_rows
from igm.data.text import shown

LABEL_COLUMNS = ("labels", "label", "classes", "class", "animals", "objects")
ROW_NUMBERS = ("", "index", "id", "unnamed: 0")  # columns that other programs add
BITS = {"1": True, "1.0": True, "true": True, "yes": True, "x": True}
BITS |= dict.fromkeys(("0", "0.0", "-1", "false", "no", ""), False)
PUBLISHED_RESOLUTION = 256  # pixels; Stable Diffusion takes 512 or 768, the models that ship less
# "cat_dog_000 (1)", "cat_dog_000 - Copy (2)", "cat_dog_000 copy 2"
COPY_MARK = re.compile(r"[\s_-]*(\((copy)?\s*\d*\)|(\b|_)(copy|kopie|copie|copia)\s*\d*)\s*$", re.IGNORECASE)
JOINED = re.compile(r"\s+and\s+|[\s&+/]+")  # "cat and dog", "cat & dog", "cat dog"


@dataclass(frozen=True)
class Labelled:
    """A picture's file, as its folder or metadata names it, its class names, and where they stand."""

    file: str
    names: list[str]
    place: str


class Animals(ImageDataset):
    """Pictures whose number of classes lies in a range.

    An item is a dict: `pixel_values` (3, resolution, resolution) float32 in [-1, 1]; `conds` (K, num_classes) float32,
    one-hot rows of the picture's classes in the order of `classes`; `mask` (K,), 0 for padding; `image_id` str. K is the
    largest number of objects in the range.

    Args:
        root: the folder. classes: names of all classes.
        num_objects: fewest and most classes of a picture, both included; others are left out.
        resolution: side of the square.
        max_images: keep the first so many.
        skip_bad_images: leave out images that cannot be read; `num_skipped` counts them.
        fit: how the image gets into the square, as in `image_to_tensor`; by default "crop", as published, from 256 pixels
            on, and below, where the small models learnt it so, "squeeze".

    Raises:
        DataError: no folder, no image, no labels, a label not among the classes, or an unreadable image.
    """

    task = "classes"
    is_default = True
    decode_all = True

    def __init__(
        self,
        root: str | Path,
        classes: Sequence[str],
        num_objects: tuple[int, int] = (2, 2),
        resolution: int = 512,
        max_images: int | None = None,
        skip_bad_images: bool = False,
        fit: str | None = None,
    ):
        super().__init__(resolution, fit)
        self.root, self.classes, self.max_objects = Path(root), list(classes), num_objects[1]
        pictures = [(own, check_labels(own, self.classes)) for own in read_labels(self.root, self.classes)]
        low, high = num_objects
        chosen = [(own, names) for own, names in pictures if low <= len(names) <= high][:max_images]
        if not chosen:
            present = sorted({len(names) for _, names in pictures})
            raise DataError(f"{root}: no picture of {low} to {high} classes (they have {present}); ask for others")
        files = [locate_file(self.root, own.file, own.place) for own, _ in chosen]
        ids = [Path(file.replace("\\", "/")).as_posix() for file in files]
        kept = self.admit(
            self.root, files, list(map(printable, ids)), skip_bad_images, [own.place for own, _ in chosen]
        )
        self.shown_classes = [names for (_, names), good in zip(chosen, kept, strict=True) if good]

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether a folder holds metadata or pictures."""
        return any((root / name).is_file() for name in METADATA) or (os.path.isdir(root) and bool(list_pictures(root)))

    def fit_of(self, resolution: int) -> str:
        """How an image gets into a square of this side."""
        return self.fit or ("crop" if resolution >= PUBLISHED_RESOLUTION else "squeeze")

    def concepts(self, row: int, mirrored: bool) -> Concepts:
        """`conds` (K, num_classes) and `mask` (K,) of a picture."""
        numbers = sorted(self.classes.index(name) for name in self.shown_classes[row])
        conds = torch.zeros(self.max_objects, len(self.classes))
        conds[torch.arange(len(numbers)), numbers] = 1
        return {"conds": conds, "mask": (torch.arange(self.max_objects) < len(numbers)).float()}

    def facts(self) -> dict[str, Any]:
        """Names of the classes."""
        return {"classes": list(self.classes)}

    def fingerprint_parts(self) -> Sequence[object]:
        """The classes, whose order is that of the conditions."""
        return self.classes


def read_labels(root: Path, classes: Sequence[str] = ()) -> list[Labelled]:
    """The class names of every picture in a folder, in the order of the metadata or else of the file names.

    Args:
        classes: names of all classes, by which columns of a class each are told.

    Raises:
        DataError: no folder, no image, or metadata that cannot be used.
    """
    if not os.path.isdir(root):
        raise DataError(f"--dataset_root {root} is not a folder; give the folder that holds the images")
    for name, reader in METADATA.items():
        if (root / name).is_file():
            pictures = reader(root / name, classes)
            check_once(root / name, pictures)
            return pictures
    files = list_pictures(root)
    if not files:
        raise DataError(f"--dataset_root {root} holds no image ({' '.join(SUFFIXES)}); put some there")
    return [Labelled(path.name, labels_of_name(path), f"image {path}") for path in files]


def read_csv(file: Path, classes: Sequence[str]) -> list[Labelled]:
    """The pictures that a CSV file with a header names: in a column of labels, or in one column for each class.

    Raises:
        DataError: it is no such table.
    """
    rows = read_rows(file)
    header = [name.strip().lower() for name in rows[0][1]] if rows else []
    images = next((c for name in IMAGE_COLUMNS for c, own in enumerate(header) if own == name), None)
    labels = next((c for name in LABEL_COLUMNS for c, own in enumerate(header) if own == name), None)
    known = {name.lower() for name in classes}
    if images is None or (labels is None and known.isdisjoint(header)):
        found = ", ".join(rows[0][1]) if rows else "nothing"
        raise DataError(f"{file} needs the columns file_name and labels (or one for each class), it has {found}")
    if len(rows) == 1:
        raise DataError(f"{file} names no image; write file_name,labels and one line per image")
    if labels is None:
        return read_one_hot(file, rows, images)
    pictures = []
    for line, cells in rows[1:]:
        place = f"{file}, line {line}"
        if len(cells) > len(header) and labels == len(header) - 1:  # labels that stand in cells of their own
            cells = [*cells[:labels], ";".join(cells[labels:])]
        if len(cells) != len(header):
            raise DataError(f"{place}: {len(cells)} cells, expected {len(header)}; put several labels in quotes")
        pictures.append(Labelled(cells[images], split_labels(cells[labels]), place))
    return pictures


def read_one_hot(file: Path, rows: Sequence[tuple[int, list[str]]], images: int) -> list[Labelled]:
    """The pictures of a table with one column for each class: 1 where the picture shows it, else 0.

    Raises:
        DataError: a row of another length than the header.
    """
    header = rows[0][1]
    for line, cells in rows[1:]:
        if len(cells) != len(header):
            raise DataError(f"{file}, line {line}: {len(cells)} cells, expected {len(header)}; mend it")
    columns = [c for c, name in enumerate(header) if c != images and name.strip().lower() not in ROW_NUMBERS]
    columns = [c for c in columns if all(cells[c].lower() in BITS for _, cells in rows[1:])]
    return [
        Labelled(cells[images], [header[c].strip() for c in columns if BITS[cells[c].lower()]], f"{file}, line {line}")
        for line, cells in rows[1:]
    ]


def read_jsonl(file: Path, classes: Sequence[str]) -> list[Labelled]:
    """The pictures that a file with one JSON object per line names.

    Raises:
        DataError: a line is something else.
    """
    pictures = []
    for place, row in json_rows(file, '{"file_name": ..., "labels": ...}'):
        name = next((row[key] for key in IMAGE_COLUMNS if key in row), None)
        labels = next((row[key] for key in LABEL_COLUMNS if key in row), None)
        if not isinstance(name, str):
            raise DataError(f"{place}: file_name is {shown(name)}, expected the name of an image; write it")
        if not isinstance(labels, str | list) or not all(isinstance(label, str) for label in labels):
            raise DataError(f"{place}: labels is {shown(labels)}, expected a list of class names; write it")
        names = split_labels(labels) if isinstance(labels, str) else [label.strip() for label in labels]
        pictures.append(Labelled(name, names, place))
    if not pictures:
        raise DataError(f"{file} names no image; write one JSON object of file_name and labels per line")
    return pictures


METADATA = {"metadata.csv": read_csv, "metadata.jsonl": read_jsonl}


def check_once(file: Path, pictures: Sequence[Labelled]) -> None:
    """Raise DataError if metadata name a picture twice."""
    first: dict[str, str] = {}
    for own in pictures:
        if (other := first.setdefault(own.file, own.place)) != own.place:
            raise DataError(f"{other} and {own.place.removeprefix(str(file))}: both are of {shown(own.file)}; keep one")


def split_labels(text: str) -> list[str]:
    """The names in a text such as "cat;dog", "cat|dog", "cat, dog" or "['cat', 'dog']"."""
    inner = text.strip()
    if inner[:1] + inner[-1:] in ("[]", "()", "{}"):
        inner = inner[1:-1]
        if quoted := re.findall("'([^']*)'|\"([^\"]*)\"", inner):  # commas between them or, as NumPy writes, none
            return [(single or double).strip() for single, double in quoted]
    names = [name.strip().strip("\"'").strip() for name in re.split("[;,|]", inner)]
    return [name for name in names if name]


def labels_of_name(path: Path) -> list[str]:
    """The class names in a file name: all parts between underscores but numbers, and without the mark of a copy.

    Raises:
        DataError: there is none.
    """
    stem = path.stem
    while (plain := COPY_MARK.sub("", stem)) != stem:
        stem = plain
    parts = [part.strip() for part in stem.split("_") if part.strip() and not part.strip().isdigit()]
    if not parts:
        raise DataError(f"{path}: no label in its name; call it cat_dog_003{path.suffix}, or write a metadata.csv")
    return [part.replace("-", " ") for part in parts]


def check_labels(picture: Labelled, classes: Sequence[str]) -> list[str]:
    """The names as they are spelt in `classes`, whatever their case.

    Raises:
        DataError: one is not among the classes, appears twice, or there is none.
    """
    names, place = picture.names, f"{picture.place}, {picture.file}"
    if picture.place.endswith(picture.file):  # labelled by its own name
        place = picture.place
    known = {name.lower(): name for name in classes}
    names = [part for name in names for part in parts_of(name, known)]
    unknown = [name for name in names if name.lower() not in known]
    if unknown:
        raise DataError(
            f"{place}: label {shown(unknown[0])} is not among --classes {' '.join(classes)}; add it or relabel"
        )
    if not names:
        raise DataError(f"{place} has no label; write one in its metadata")
    if len(set(map(str.lower, names))) < len(names):
        raise DataError(
            f"{place}: a label is given twice ({', '.join(names)}); a picture's labels are a set of classes"
        )
    return [known[name.lower()] for name in names]


def parts_of(name: str, known: Container[str]) -> list[str]:
    """The classes in a label such as "cat and dog" or "cat dog" that is no class itself; else the label alone."""
    parts = [part for part in JOINED.split(name.lower()) if part]
    return parts if name.lower() not in known and parts and all(part in known for part in parts) else [name]
