"""CelebA (Liu et al. 2015): face images with 40 binary attributes.

Layouts, told apart by what is found:
    <root>/img_align_celeba/img_align_celeba/000001.jpg    <root>/list_attr_celeba.csv    (Kaggle)
    <root>/img_align_celeba/000001.jpg                     <root>/list_attr_celeba.txt    (original)
and list_eval_partition.csv or .txt, where there is one.
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from igm import warn
from igm.data import DataError
from igm.data.attributes import DOMAINS, AttributeDataset, choose_columns
from igm.data.dataset import locate_file, unique_ids
from igm.data.images import SUFFIXES
from igm.data.metadata import SPLIT_WORDS, SPLITS
from igm.data.tables import Table, read_table

DEFAULT_ATTRIBUTES = ("Black_Hair", "Eyeglasses", "Smiling")
TRAIN_ROWS, TEST_ROWS = 70_000, 90_000  # the published split: training rows below the one, test rows from the other
PARTITIONS = ("auto", "official", "rows")
LABEL_FILE, PARTITION_FILE = "list_attr_celeba", "list_eval_partition"
warn_once = functools.cache(warn)


class CelebA(AttributeDataset):
    """Faces of one domain with the values of chosen attributes as concepts.

    An item is a dict: `pixel_values` (3, resolution, resolution) float32 in [-1, 1]; `conds` (K, 2 K) float32, for
    attribute k a row that is 1 at 2 k + value and 0 elsewhere, value 0 or 1; `mask` (K,) ones; `image_id` str. With
    `joint` there is one concept, the sum of those rows, and `conds` is (1, 2 K): the generative classifier's label.
    `partition_note` says in one sentence which rows are in which split.

    Args:
        root: folder in either layout.
        split: "train", "val" or "test".
        domain: "female", "male" or "all".
        attributes: K names of the file's header, or "all" for every name there (40).
        resolution: side of the square.
        max_images: keep the first so many.
        flip: append the mirror image of every face; length doubles.
        joint: one concept for all attributes together.
        skip_bad_images: leave out rows whose image is absent or corrupt, and allow images without a row.
        partition: "official" splits as the partition file says, "rows" as the published code does, by row numbers; "auto"
            is "rows" for the whole table (more than 90,000 rows) and where there is no partition file, else "official".
        fit: how the image gets into the square, as in `image_to_tensor`; by default it is squeezed, as published.

    Raises:
        DataError: files missing or not CelebA's, an unknown attribute, a row without its image or the reverse, or no
            image in this domain and split.
    """

    task = "attributes"
    is_default = True
    shrink_jpegs = True

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        domain: str = "female",
        attributes: Sequence[str] | str = DEFAULT_ATTRIBUTES,
        resolution: int = 128,
        max_images: int | None = None,
        flip: bool = False,
        joint: bool = False,
        skip_bad_images: bool = False,
        partition: str = "auto",
        fit: str | None = None,
    ):
        super().__init__(resolution, fit, flip)
        self.split, self.domain, self.joint = split, domain, joint
        label_file = find_table(Path(root), LABEL_FILE)
        if label_file is None:
            raise DataError(f"{Path(root) / LABEL_FILE}.txt (or .csv) is missing; give the folder of CelebA")
        self.label_file, table = label_file, read_table(label_file)
        values = read_values(table)
        columns = choose_columns(attributes, table.names, self.label_file)
        self.attributes = tuple(table.names[c] for c in columns)
        folder = find_images(Path(root), table)
        files = match_files(folder, table)
        splits, self.partition_note = choose_splits(Path(root), table, partition)
        rows = self.select_rows(table, values, splits)[:max_images]
        if not skip_bad_images:
            self.check_listing(folder, files)
        places = [table.place(row) for row in rows]
        ids = unique_ids(table.files)
        kept = self.admit(folder, [files[r] for r in rows], [ids[r] for r in rows], skip_bad_images, places)
        self.rows = rows[kept]
        self.values = (values[self.rows][:, columns] > 0).astype(np.int64)  # (N, K), 0 or 1

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether a folder holds CelebA's table of attributes."""
        return os.path.isdir(root) and find_table(root, LABEL_FILE) is not None

    def select_rows(self, table: Table, values: np.ndarray, splits: np.ndarray) -> np.ndarray:
        """Numbers of the rows of this split and domain."""
        keep = splits == SPLITS.index(self.split)
        if not keep.any():
            raise DataError(
                f"{self.label_file}: no row is in the {self.split} split ({self.partition_note}); choose another --split"
            )
        if self.domain != "all":
            if "Male" not in table.names:
                raise DataError(f"{self.label_file} has no attribute Male, which --domain {self.domain} needs")
            keep &= values[:, table.names.index("Male")] == DOMAINS[self.domain]
        if not keep.any():
            raise DataError(f"{self.label_file}: no {self.domain} row in the {self.split} split; check attribute Male")
        return np.flatnonzero(keep)

    def check_listing(self, folder: Path, files: Sequence[str]) -> None:
        """Raise DataError if the folder holds images, of the kinds that the table lists, that no row describes."""
        listed = set(files)
        kinds = {suffix_of(name) for name in files}
        extra = [name for name in pictures_in(folder) if name not in listed and suffix_of(name) in kinds]
        if extra:
            raise DataError(
                f"image {folder / min(extra)} has no row in {self.label_file} ({len(extra)} such images); "
                "restore the file, or pass --skip_bad_images"
            )

    def notes(self) -> list[str]:
        """Which rows are in which split."""
        return [self.partition_note]


def find_table(root: Path, stem: str) -> Path | None:
    """The file `stem`.txt or .csv in the root or in the places where archives put it, or None.

    Raises:
        DataError: the root does not exist.
    """
    if not os.path.isdir(root):
        raise DataError(f"--dataset_root {root} is not a folder; give the folder of CelebA")
    folders = (root, root / "Anno", root / "Eval", root / "img_align_celeba", root / "celeba")
    places = [folder / f"{stem}.{suffix}" for folder in folders for suffix in ("txt", "csv")]
    return next((place for place in places if place.is_file()), None)


def suffix_of(name: str) -> str:
    """The suffix of a file's name in small letters: ".jpg"."""
    return os.path.splitext(name)[1].lower()


def pictures_in(folder: Path) -> list[str]:
    """Names of the image files in a folder, in no order; hidden ones (`._000001.jpg` of macOS) are none."""
    names = os.listdir(folder) if folder.is_dir() else []
    return [name for name in names if suffix_of(name) in SUFFIXES and not name.startswith(".")]


def find_images(root: Path, table: Table) -> Path:
    """The folder that holds the images: the deepest of the usual places with any of the first rows' files."""
    places = [root / "img_align_celeba" / "img_align_celeba", root / "img_align_celeba"]
    places += [root / "Img" / "img_align_celeba", root / "images", root]
    names = table.files[:100]
    for place in places:
        if any(os.path.isfile(place / locate_file(place, name, table.place(row))) for row, name in enumerate(names)):
            return place
    stems = {os.path.splitext(name)[0] for name in names}
    for place in places:  # files of another suffix than the table says
        if any(os.path.splitext(name)[0] in stems for name in pictures_in(place)):
            return place
    return next((place for place in places if place.is_dir()), places[1])


def match_files(folder: Path, table: Table) -> list[str]:
    """The file, in a folder, of each row: of its name, else the one of its stem (000001.png where the table says .jpg)."""
    present = set(os.listdir(folder)) if folder.is_dir() else set()
    files = [
        name if name in present else locate_file(folder, name, table.place(row)) for row, name in enumerate(table.files)
    ]
    missing = [row for row, name in enumerate(files) if name not in present and not os.path.isfile(folder / name)]
    if missing:
        by_stem: dict[str, list[str]] = {}
        for name in pictures_in(folder):
            by_stem.setdefault(os.path.splitext(name)[0], []).append(name)
        for row in missing:
            found = by_stem.get(os.path.splitext(files[row])[0], [])
            files[row] = found[0] if len(found) == 1 else files[row]
    return files


def read_values(table: Table) -> np.ndarray:
    """The attributes (N, columns) of a table, 1 or -1.

    Raises:
        DataError: there are no named columns, or a cell is something else.
    """
    if not table.names:
        raise DataError(f"{table.path} has no header with the attributes' names; write it as the first line")
    values = table.numbers()
    wrong = np.argwhere(np.abs(values) != 1)
    if len(wrong):
        row, column = wrong[0]
        raise DataError(
            f"{table.place(row)}: {table.names[column]} is {values[row, column]}, expected 1 or -1; mend it"
        )
    return values


def choose_splits(root: Path, table: Table, partition: str) -> tuple[np.ndarray, str]:
    """The split (N,) of every row, 0 train, 1 val, 2 test, -1 none; and a sentence that says whose it is.

    Raises:
        DataError: the partition file is needed and missing, or at fault.
    """
    if partition not in PARTITIONS:
        raise ValueError(f"partition {partition!r}, expected one of {', '.join(PARTITIONS)}")
    path = find_table(root, PARTITION_FILE)
    if partition == "official" and path is None:
        raise DataError(
            f"{root / PARTITION_FILE}.txt (or .csv) is missing, which --partition official needs; restore it"
        )
    rows = np.arange(len(table.files))
    if partition != "rows" and path is not None and (partition == "official" or len(rows) <= TEST_ROWS):
        splits = read_splits(path, table)
        left_out = int((splits < 0).sum())
        note = f"the split is that of {path}" + (f", without {left_out} rows that it does not list" if left_out else "")
        if left_out:
            warn_once(f"{path} lists {len(rows) - left_out} of the {len(rows)} images; {left_out} are left out")
        return splits, note
    splits = np.where(rows < TRAIN_ROWS, 0, np.where(rows < TEST_ROWS, 1, 2))
    return splits, f"the split is the published one: rows below {TRAIN_ROWS:,} train, from {TEST_ROWS:,} on test"


def read_splits(path: Path, table: Table) -> np.ndarray:
    """The split (N,) of every row as a partition file has it, by number or in words; -1 for rows that it does not list.

    Raises:
        DataError: a split is neither, no image is in both files, or one is missing in a partition file that is not shorter.
    """
    partition = read_table(path)
    column = len(partition.cells[0]) - 1 if "partition" not in partition.names else partition.names.index("partition")
    split_of = {}
    for row, (name, cells) in enumerate(zip(partition.files, partition.cells, strict=True)):
        if not cells:
            raise DataError(f"{partition.place(row)}: no split beside {name}; write 0, 1 or 2")
        number = SPLIT_WORDS.get(cells[column].lower())
        if number is None:
            number = partition.number(row, column)
        if number not in (0, 1, 2):
            raise DataError(f"{partition.place(row)}: split {number}, expected 0, 1 or 2; mend it")
        split_of[name] = number
    splits = np.array([split_of.get(name, -1) for name in table.files])
    if (splits < 0).any():  # the one file may say .jpg and the other .png
        by_id = dict(zip(unique_ids(partition.files), split_of.values(), strict=True))
        splits = np.array(
            [
                split_of.get(name, by_id.get(own, -1))
                for name, own in zip(table.files, unique_ids(table.files), strict=True)
            ]
        )
    unknown = np.flatnonzero(splits < 0)
    if len(unknown) and (len(unknown) == len(splits) or len(partition.files) >= len(table.files)):
        row = int(unknown[0])
        raise DataError(f"{table.place(row)}: {table.files[row]} is not in {path}; take both files of one collection")
    return splits
