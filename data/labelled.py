"""One's own pictures with labels of one's own, in a folder with `metadata.jsonl`, `metadata.csv` or a COCO JSON.

Positions: `points`, a list of [x, y] for each picture, in pixels, or in [0, 1] where a column or `--coordinates` says so.
What objects are: any further columns, each a list with a value for each point.
Attributes of whole pictures: a column for each, whose cells are 1 or -1, or 1 or 0 (true or false).
The split is that of a column `split`, of folders or files called train, val and test, or else by a hash of the file's name.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igm.data import DataError, NothingAsked
from igm.data.attributes import DOMAINS, AttributeDataset, choose_columns
from igm.data.celeba import DEFAULT_ATTRIBUTES, LABEL_FILE, find_table
from igm.data.clevr import found_splits
from igm.data.columns import (
    as_list,
    check_size,
    coordinates_of,
    fault_of_column,
    find_fields,
    points_of,
)
from igm.data.dataset import locate_file, unique_ids
from igm.data.metadata import SPLIT_WORDS, SPLITS, Row, find_listings, read_metadata
from igm.data.objects import ObjectDataset, attributes_of
from igm.data.text import shown
from igm.data.vocabulary import text_of

VAL_SHARE = 0.1  # of the pictures, where nothing says which are for validation
TAKEN = (  # names that answers and tables use for something else
    "all", "position", "words", "confidence", "attributes", "shares", "likely", "x", "y", "x_share", "y_share", "image_id",
    "group", "pixel_coords", "picture", "num_objects", "file_name",
)  # fmt: skip
NO_ATTRIBUTE = ("split", "width", "height")  # columns that mean something else
BITS = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0, "-1": -1, "-1.0": -1}


class LabelledScenes(ObjectDataset):
    """Pictures of one's own with the positions of their objects, and what these are; items are those of `Clevr`.

    Args:
        root: folder with the file of labels. split: "train", "val" or "test".
        num_objects: smallest and largest number of objects, both included; other pictures are left out.
        resolution, max_images, flip, skip_bad_images, fit: as in `Clevr`.
        val_share: share of the pictures that are for validation, where no split is given (default 0.1).
        coordinates: "pixels" (of the upright picture, the default) or "normalised", in [0, 1] of its width and height.
        fields: attributes that conditions hold besides the position: names of columns, or "all" (`find_fields`).

    Raises:
        DataError: no such file, a row that cannot be used, a point outside its picture, points that may be meant in
            either way, an asked field that an object lacks, or a missing image. NothingAsked: no picture with so many
            objects.
    """

    task = "positions"
    options = ("val_share", "coordinates", *ObjectDataset.options)

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        num_objects: tuple[int, int] = (3, 5),
        resolution: int = 64,
        max_images: int | None = None,
        flip: bool = False,
        skip_bad_images: bool = False,
        fit: str | None = None,
        val_share: float | None = None,
        coordinates: str | None = None,
        fields: Sequence[str] = (),
    ):
        super().__init__(resolution, fit, flip)
        self.split, self.max_objects = split, num_objects[1]
        refuse_both(Path(root), found_splits(Path(root)), "CLEVR's scenes")
        chosen = choose_rows(Path(root), split, val_share)
        self.listing, points = chosen.listing, [points_of(row) for row in chosen.rows]
        counts = [len(own) for own in points]
        asked = [i for i, count in enumerate(counts) if num_objects[0] <= count <= num_objects[1]]
        if not asked:
            low, high = num_objects
            raise NothingAsked(
                f"{self.listing}: no picture of the {split} split with {low} to {high} objects (they have {min(counts)} to "
                f"{max(counts)}); ask for others by --object_counts"
            )
        self.left_out = len(counts) - len(asked)
        self.split_note = chosen.note
        asked = asked[:max_images]
        kept = self.admit(chosen.folder, *chosen.files_of(asked), skip_bad_images, chosen.places_of(asked))
        good = [i for i, is_good in zip(asked, kept, strict=True) if is_good]
        self.listed, self.rows = [chosen.rows[i] for i in good], np.arange(len(good))
        pixels = [self.in_pixels(row, points[i], coordinates) for row, i in enumerate(good)]
        self.index = make_index(pixels)
        self.check_positions()
        self.columns, self.no_columns = find_fields(self.listed, self.index["counts"])
        self.index |= attributes_of(self.things(), self.columns)
        self.choose_fields(fields)

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether a folder holds labels of one's own."""
        return bool(find_listings(root))

    def place_of(self, row: int) -> str:
        """Where a picture is listed, for a message."""
        return self.listed[row].place

    def in_pixels(self, row: int, points: list[list[float]], coordinates: str | None) -> np.ndarray:
        """The points (count, 2) of an admitted picture, in pixels.

        Raises:
            DataError: nobody says whether they are pixels or shares and both are possible; or another size is declared.
        """
        own, (width, height) = self.listed[row], self.sizes[row].tolist()
        check_size(own, width, height)
        places = np.array(points, dtype=np.float64).reshape(-1, 2)
        declared = coordinates_of(own, coordinates)
        within = len(places) > 0 and bool(((places >= 0) & (places <= 1)).all())
        if declared is None and within and max(width, height) > 2:
            raise DataError(
                f"{own.place}: all points lie in 0 to 1, in a picture of {width:g} x {height:g} pixels; say "
                "--coordinates normalised, or a column coordinates of normalised (or pixels)"
            )
        if declared and not within and len(places):
            raise DataError(f"{own.place}: points are normalised, but {shown(points)} leave 0 to 1; mend them")
        return (places * (width, height) if declared else places).astype(np.float32)

    def field_names(self) -> Sequence[str]:
        """The columns that say what objects are."""
        return self.columns

    def things(self) -> list[dict[str, str | None]]:
        """The attributes of all objects; None for what is missing, or no value."""
        found: list[dict[str, str | None]] = []
        for row, count in enumerate(self.index["counts"].tolist()):
            own = {name: values for name, values in self.fields(row).items() if name in self.columns}
            found += [{name: text_of(values[k]) for name, values in own.items()} for k in range(count)]
        return found

    def check_fields(self, source: str = "") -> None:
        """Also names the columns, and the cells, that cannot be used."""
        for name in self.vocabulary:
            if name in TAKEN or not text_of(name) or "=" in name:
                raise DataError(
                    f"{self.listing}: a column {shown(name)} cannot be an attribute, answers have that name for something "
                    "else; rename it, or name the others by --fields"
                )
            for row, count in zip(self.listed, self.index["counts"].tolist(), strict=True):
                if fault := fault_of_column(row, name, count):
                    raise DataError(f"{row.place}{fault}; mend it, or {self.mend_of(name)}")
        super().check_fields(source)

    def fields(self, row: int) -> dict[str, list[Any]]:
        """What the file says of each object of a picture besides its place: columns with a list as long as `points`."""
        count, found = int(self.index["counts"][row]), {}
        for name, value in self.listed[row].values.items():
            own = as_list(value)
            if name != "points" and own is not None and len(own) == count:
                found[name] = own
        return found

    def notes(self) -> list[str]:
        """Whose the split is, how many pictures are left out for their number of objects, and what objects are."""
        more = f"; {self.left_out} pictures with other numbers of objects are left out" if self.left_out else ""
        notes = [f"{self.listing}: {self.split_note}{more}"]
        if self.vocabulary:
            known = ", ".join(f"{name} ({len(values)} values)" for name, values in self.vocabulary.items())
            others = [name for name in (*self.columns, *self.no_columns) if name not in self.vocabulary]
            more = f"; not learnt: {', '.join(others)}" if others else ""
            notes.append(f"{self.listing}: attributes of objects: {known}{more}")
        return notes


class LabelledFaces(AttributeDataset):
    """Pictures of one's own with the values of attributes; items are those of `CelebA`.

    Args:
        root, split, val_share: as in `LabelledScenes`. domain: "all"; or "female" or "male", by a column Male.
        attributes: names of columns, or "all" for every column of such values.
        resolution, max_images, flip, skip_bad_images, fit: as in `CelebA`. partition: "auto" only.

    Raises:
        DataError: as in `LabelledScenes`; an unknown column, or one with other values.
    """

    task = "attributes"
    options = ("val_share",)
    shrink_jpegs = True

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        domain: str = "all",
        attributes: Sequence[str] | str = DEFAULT_ATTRIBUTES,
        resolution: int = 128,
        max_images: int | None = None,
        flip: bool = False,
        skip_bad_images: bool = False,
        partition: str = "auto",
        fit: str | None = None,
        val_share: float | None = None,
    ):
        super().__init__(resolution, fit, flip)
        self.split, self.domain = split, domain
        refuse_both(Path(root), find_table(Path(root), LABEL_FILE), "CelebA's table")
        chosen = choose_rows(Path(root), split, val_share)
        self.listing, self.split_note = chosen.listing, chosen.note
        if partition != "auto":
            raise DataError(f"--partition {partition} is of CelebA; {self.listing} has its own split, leave it out")
        names = attribute_columns(chosen.rows)
        if not names:
            raise DataError(f"{self.listing} has no column of 1 and -1, or of 1 and 0; write one for each attribute")
        self.attributes = tuple(names[c] for c in choose_columns(attributes, names, self.listing))
        values = np.array([[bit_of(row, name) for name in self.attributes] for row in chosen.rows])  # (S, K)
        check_two_values(self.attributes, values, chosen)
        asked = self.rows_of_domain(chosen, names)[:max_images]
        kept = self.admit(chosen.folder, *chosen.files_of(asked), skip_bad_images, chosen.places_of(asked))
        self.values = (values[asked][kept] > 0).astype(np.int64)  # (N, K), 0 or 1

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether a folder holds labels of one's own."""
        return bool(find_listings(root))

    def rows_of_domain(self, chosen: "Chosen", names: Sequence[str]) -> list[int]:
        """Numbers of the rows of this domain."""
        if self.domain == "all":
            return list(range(len(chosen.rows)))
        if "Male" not in names:
            raise DataError(
                f"{self.listing} has no column Male, which the domain {self.domain} needs; say --domain all in training, "
                "--domains all in evaluation"
            )
        asked = [i for i, row in enumerate(chosen.rows) if (bit_of(row, "Male") > 0) == (DOMAINS[self.domain] > 0)]
        if not asked:
            raise DataError(f"{self.listing}: no {self.domain} row in the {self.split} split; check the column Male")
        return asked

    def notes(self) -> list[str]:
        """Whose the split is."""
        return [f"{self.listing}: {self.split_note}"]


@dataclass(frozen=True)
class Chosen:
    """The rows of a split: of which file, and where their images are; `names` and `ids` of these in folder and results."""

    listing: Path
    folder: Path
    rows: list[Row]
    names: list[str]
    ids: list[str]
    note: str

    def files_of(self, numbers: Sequence[int]) -> tuple[list[str], list[str]]:
        """Names in the folder, and names in the results, of some rows."""
        return [self.names[i] for i in numbers], [self.ids[i] for i in numbers]

    def places_of(self, numbers: Sequence[int]) -> list[str]:
        """Where some rows stand."""
        return [self.rows[i].place for i in numbers]


def choose_rows(root: Path, split: str, val_share: float | None) -> Chosen:
    """The rows of a split: of its own file, or those whose column `split` says so, or by a hash of their names.

    Raises:
        DataError: there is no file, it cannot be used, or has no row of this split.
    """
    listings = find_listings(root)
    if not listings:
        raise DataError(f"--dataset_root {root} holds no metadata.jsonl, metadata.csv or COCO JSON; write one")
    number = SPLIT_WORDS.get(split.lower())
    name = SPLITS[number] if number is not None else split
    there = [own for own in listings if own is not None]
    if None not in listings and name not in listings:
        raise DataError(f"{root} has labels for {', '.join(there)}, none for the split {split}; choose one by --split")
    listing = listings[None] if None in listings else listings[name]
    rows = read_metadata(listing)
    folder = find_folder(root, listing, name, rows)
    names = [locate_file(folder, row.file, row.place) for row in rows]
    ids = unique_ids(names)
    if None in listings:
        splits, note = splits_of(listing, rows, names, val_share)
    else:
        splits, note = [name] * len(rows), f"the split {name} has a file of its own"
        refuse_share(listing, val_share, "a file for each split")
    asked = [i for i, own in enumerate(splits) if own == name]
    if not asked:
        counts = ", ".join(f"{own} ({splits.count(own)})" for own in sorted(set(splits)))
        raise DataError(f"{listing}: no picture is in the split {split}, there are {counts}; choose one by --split")
    return Chosen(listing, folder, [rows[i] for i in asked], [names[i] for i in asked], [ids[i] for i in asked], note)


def splits_of(
    listing: Path, rows: Sequence[Row], names: Sequence[str], val_share: float | None
) -> tuple[list[str], str]:
    """The split of every row, and a sentence that says whose it is.

    Raises:
        DataError: only some rows have one, or it is none.
    """
    if not any("split" in row.values for row in rows):
        share = VAL_SHARE if val_share is None else val_share
        note = f"{share:g} of the pictures, by a hash of their names, are for validation (--val_share)"
        return ["val" if hashed(name) < share else "train" for name in names], note
    refuse_share(listing, val_share, "a column split")
    splits = []
    for row in rows:
        own = row.values.get("split")
        number = SPLIT_WORDS.get(own.strip().lower()) if isinstance(own, str) else None
        if number is None:
            raise DataError(f"{row.place}: split is {shown(own)}, expected train, val or test; write it")
        splits.append(SPLITS[number])
    return splits, "the split is that of its column split"


def refuse_share(listing: Path, val_share: float | None, why: str) -> None:
    """Raise DataError where a share is asked for, but the split is given."""
    if val_share is not None:
        raise DataError(f"--val_share {val_share:g} has no effect on {listing}, which has {why}; leave it out")


def refuse_both(root: Path, others: object, what: str) -> None:
    """Raise DataError where a folder holds the labels of a known dataset, too."""
    if others:
        raise DataError(f"--dataset_root {root} holds labels of its own and {what}; keep one of them")


def hashed(name: str) -> float:
    """A number in [0, 1) that depends on a file's name alone, so that a picture keeps its split when others come."""
    digest = hashlib.sha256(name.replace("\\", "/").encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def find_folder(root: Path, listing: Path, split: str, rows: Sequence[Row]) -> Path:
    """The folder that holds the images: the first of the usual ones with any of the first rows' files."""
    own = sorted(path for path in root.iterdir() if path.is_dir() and path.name.lower().startswith(split))
    for folder in (listing.parent, root, root / "images", *own, root / "images" / split):
        if any((folder / locate_file(folder, row.file, row.place)).is_file() for row in rows[:10]):
            return folder
    return listing.parent


def make_index(points: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of `PositionDataset` from each picture's points (count, 2)."""
    counts = np.array([len(own) for own in points], dtype=np.int64)
    return {"counts": counts, "starts": np.cumsum(counts) - counts, "pixel_coords": np.concatenate(points)}


def attribute_columns(rows: Sequence[Row]) -> list[str]:
    """Names of the columns that have a value in every row, one that an attribute may have in the first."""
    names = [name for name in rows[0].values if name not in NO_ATTRIBUTE and as_bit(rows[0].values[name]) is not None]
    return [name for name in names if all(name in row.values for row in rows)]


def as_bit(value: object) -> int | None:
    """1, 0 or -1, however it is written; None for anything else."""
    return BITS.get(str(value).strip().lower())


def bit_of(row: Row, name: str) -> int:
    """1, 0 or -1 in a column of a row.

    Raises:
        DataError: something else.
    """
    bit = as_bit(row.values[name])
    if bit is None:
        raise DataError(f"{row.place}: {name} is {shown(row.values[name])}, expected 1 or -1, or 1 or 0; mend it")
    return bit


def check_two_values(attributes: Sequence[str], values: np.ndarray, chosen: Chosen) -> None:
    """Raise DataError where a column has 0 and -1: nobody knows whether one of them means that it is not known."""
    for column, name in enumerate(attributes):
        own = values[:, column]
        if (own == 0).any() and (own == -1).any():
            row = chosen.rows[int(np.flatnonzero(own == 0)[0])]
            raise DataError(f"{row.place}: {name} is 0, and -1 in other rows; write 1 and -1, or 1 and 0")
