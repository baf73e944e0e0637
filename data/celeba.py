"""CelebA (Liu et al. 2015): face images with 40 binary attributes.

Layouts, told apart by what is found:
    <root>/img_align_celeba/img_align_celeba/000001.jpg    <root>/list_attr_celeba.csv    (Kaggle)
    <root>/img_align_celeba/000001.jpg                     <root>/list_attr_celeba.txt    (original)
and list_eval_partition.csv or .txt, where there is one.
"""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from igm.data import DataError
from igm.data.images import check_images, decode_image, files_fingerprint, image_to_tensor

DEFAULT_ATTRIBUTES = ("Black_Hair", "Eyeglasses", "Smiling")
DOMAINS = {"female": -1, "male": 1}  # the value of Male
SPLITS = ("train", "val", "test")  # their numbers in the partition file
TRAIN_ROWS, TEST_ROWS = 70_000, 90_000  # the published split: training rows below the one, test rows from the other
LABEL_FILE, PARTITION_FILE = "list_attr_celeba", "list_eval_partition"


class CelebA(torch.utils.data.Dataset):
    """Faces of one domain with the values of chosen attributes as concepts.

    An item is a dict: `pixel_values` (3, resolution, resolution) float32 in [-1, 1]; `conds` (K, 2 K) float32, for
    attribute k a row that is 1 at 2 k + value and 0 elsewhere, value 0 or 1; `mask` (K,) ones; `image_id` str. With
    `joint` there is one concept, the sum of those rows, and `conds` is (1, 2 K): the generative classifier's label.

    Args:
        root: folder in either layout.
        split: "train", "val" or "test", of the partition file; without one, rows as in the published code.
        domain: "female", "male" or "all".
        attributes: K names of the file's header, or "all" for every name there (40).
        resolution: side of the square that the whole image is resized to.
        max_images: keep the first so many.
        flip: append the mirror image of every face; length doubles.
        joint: one concept for all attributes together.
        skip_bad_images: leave out rows whose image is absent or corrupt, and allow images without a row.

    Raises:
        DataError: files missing or not CelebA's, an unknown attribute, a row without its image or the reverse, or no
            image in this domain and split.
    """

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
    ):
        self.split, self.domain, self.resolution, self.flip, self.joint = split, domain, resolution, flip, joint
        self.label_file = find_table(Path(root), LABEL_FILE)
        if self.label_file is None:
            raise DataError(f"{Path(root) / LABEL_FILE}.txt (or .csv) is missing; give the folder of CelebA")
        names, self.files, values, self.lines = read_table(self.label_file)
        check_values(values, names, self.label_file, self.lines)
        columns = choose_columns(attributes, names, self.label_file)
        self.attributes = tuple(names[c] for c in columns)
        rows = self.select_rows(Path(root), names, values)[:max_images]
        self.image_dir = find_images(Path(root), self.files)
        self.check_listing(skip_bad_images)
        places = [f"{self.label_file}, line {self.lines[row]}" for row in rows]
        bad = check_images([self.image_dir / self.files[row] for row in rows], skip_bad_images, places)[1]
        self.rows, self.num_skipped = rows[~bad], int(bad.sum())
        if not len(self.rows):
            raise DataError(f"{self.image_dir}: none of the {len(rows)} images can be read; restore them")
        self.values = (values[self.rows][:, columns] > 0).astype(np.int64)  # (N, K), 0 or 1

    def select_rows(self, root: Path, names: list[str], values: np.ndarray) -> np.ndarray:
        """Numbers of the rows of this split and domain."""
        splits = read_splits(root, self.files, self.lines, self.label_file)
        keep = splits == SPLITS.index(self.split)
        if not keep.any():
            raise DataError(f"{self.label_file}: no row is in the {self.split} split; choose another --split")
        if self.domain != "all":
            if "Male" not in names:
                raise DataError(f"{self.label_file} has no attribute Male, which --domain {self.domain} needs")
            keep &= values[:, names.index("Male")] == DOMAINS[self.domain]
        if not keep.any():
            raise DataError(f"{self.label_file}: no {self.domain} row in the {self.split} split; check attribute Male")
        return np.flatnonzero(keep)

    def check_listing(self, skip_bad_images: bool) -> None:
        """Raise DataError if the folder holds images that no row describes."""
        if skip_bad_images or not self.image_dir.is_dir():
            return
        listed = set(self.files)
        extra = sorted(p.name for p in self.image_dir.iterdir() if p.suffix == ".jpg" and p.name not in listed)
        if extra:
            raise DataError(
                f"image {self.image_dir / extra[0]} has no row in {self.label_file} ({len(extra)} such images); "
                "restore the file, or pass --skip_bad_images"
            )

    def __len__(self) -> int:
        return len(self.rows) * (2 if self.flip else 1)

    def __getitem__(self, i: int) -> dict:
        pixels = image_to_tensor(decode_image(self.path_of(i), self.resolution), self.resolution)
        return {"pixel_values": pixels.flip(-1) if i >= len(self.rows) else pixels, **self.annotation(i)}

    def annotation(self, i: int) -> dict:
        """Everything of item i but its pixels, without touching the image file."""
        j = i % len(self.rows)
        conds = one_hot(torch.from_numpy(self.values[j]))  # (K, 2 K)
        if self.joint:
            conds = conds.sum(0, keepdim=True)  # (1, 2 K)
        image_id = Path(self.files[self.rows[j]]).stem + ("_mirrored" if i >= len(self.rows) else "")
        return {"conds": conds, "mask": torch.ones(len(conds)), "image_id": image_id}

    def statistics(self) -> dict:
        """Facts about the training data that inference uses: names of the attributes and how often each is 1."""
        shares = [round(float(share), 4) for share in self.values.mean(0)]
        return {"attributes": list(self.attributes), "frequencies": shares}

    def constant_attributes(self) -> list[str]:
        """Attributes that have one value only in these rows: nothing can be learnt about the other."""
        varies = self.values.min(0) != self.values.max(0)
        return [name for name, v in zip(self.attributes, varies, strict=True) if not v]

    def path_of(self, i: int) -> Path:
        """File of item i; IndexError beyond the end, which also ends `for item in dataset`."""
        if not 0 <= i < len(self):
            raise IndexError(f"item {i} of {len(self)}")
        return self.image_dir / self.files[self.rows[i % len(self.rows)]]

    def fingerprint(self) -> str:
        """A short name for exactly these images in this order at this resolution; keys caches of what they yield."""
        paths = [self.path_of(i) for i in range(len(self.rows))]
        return files_fingerprint(paths, self.image_dir.resolve(), self.resolution, self.flip)


def one_hot(values: torch.Tensor) -> torch.Tensor:
    """Concepts (..., K, 2 K) of attribute values (..., K) in {0, 1}: row k is 1 at 2 k + value."""
    k = values.shape[-1]
    return torch.eye(2 * k)[2 * torch.arange(k) + values]


def all_concepts(num_attributes: int) -> torch.Tensor:
    """The 2 K candidate concepts (2 K, 2 K), the two values of each attribute side by side."""
    return torch.eye(2 * num_attributes)


def find_table(root: Path, stem: str) -> Path | None:
    """The file `stem`.txt or .csv in the root or in the places where archives put it, or None.

    Raises:
        DataError: the root does not exist.
    """
    if not root.is_dir():
        raise DataError(f"--dataset_root {root} is not a folder; give the folder of CelebA")
    folders = (root, root / "Anno", root / "Eval", root / "img_align_celeba", root / "celeba")
    places = [folder / f"{stem}.{suffix}" for folder in folders for suffix in ("txt", "csv")]
    return next((place for place in places if place.is_file()), None)


def find_images(root: Path, files: Sequence[str]) -> Path:
    """The folder that holds the images: the deepest of the usual places with any of the first rows' files."""
    places = [root / "img_align_celeba" / "img_align_celeba", root / "img_align_celeba"]
    places += [root / "Img" / "img_align_celeba", root / "images", root]
    for place in places:
        if any((place / name).is_file() for name in files[:100]):
            return place
    return next((place for place in places if place.is_dir()), places[1])


def read_table(path: Path) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Read a table of whole numbers with a file name in its first column: comma or blank separated, told by content.

    A first line that is one number is the count of rows, as the original files have it.

    Returns:
        names of the columns (empty if there is no header), files, values (N, columns) int64, and the line (N,) of the
        file that each row stands in, from 1.

    Raises:
        DataError: not text, cut short, or a row of another length or with something else than whole numbers.
    """
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{path} is not a text file; unpack it again") from None
    rows = [(number, line.replace(",", " ").split()) for number, line in enumerate(lines, 1) if line.strip()]
    count = int(rows.pop(0)[1][0]) if rows and len(rows[0][1]) == 1 and rows[0][1][0].isdecimal() else None
    names = []
    if rows and "." not in rows[0][1][0]:  # a header: no file name
        names = [name for name in rows.pop(0)[1] if name != "image_id"]
    if not rows:
        raise DataError(f"{path} has no rows; unpack it again")
    if count is not None and count != len(rows):
        raise DataError(f"{path} announces {count} rows and has {len(rows)}: it is cut short; unpack it again")
    width = len(names) if names else len(rows[0][1]) - 1
    for number, cells in rows:
        if len(cells) != width + 1:
            raise DataError(f"{path}, line {number}: {len(cells) - 1} values, expected {width}; unpack it again")
    files = [cells[0] for _, cells in rows]
    try:
        values = np.array([cells[1:] for _, cells in rows]).astype(np.int64)
    except ValueError:
        number, cell = next((n, c) for n, cells in rows for c in cells[1:] if not c.lstrip("+-").isdecimal())
        raise DataError(f"{path}, line {number}: {cell!r} is not a whole number; unpack it again") from None
    return names, files, values, np.array([number for number, _ in rows])


def check_values(values: np.ndarray, names: list[str], path: Path, lines: np.ndarray) -> None:
    """Raise DataError unless there are named columns and all values are 1 or -1."""
    if not names:
        raise DataError(f"{path} has no header with the attributes' names; unpack it again")
    wrong = np.argwhere(np.abs(values) != 1)
    if len(wrong):
        row, column = wrong[0]
        raise DataError(
            f"{path}, line {lines[row]}: {names[column]} is {values[row, column]}, expected 1 or -1; mend it"
        )


def choose_columns(attributes: Sequence[str] | str, names: list[str], path: Path) -> list[int]:
    """Columns of the attributes asked for.

    Raises:
        DataError: one is unknown or named twice; the nearest name is suggested.
    """
    if attributes == "all" or list(attributes) == ["all"]:
        return list(range(len(names)))
    for name in attributes:
        if name not in names:
            near = difflib.get_close_matches(name.lower(), [n.lower() for n in names], 1, cutoff=0.0)
            suggestion = next(n for n in names if n.lower() == near[0])
            raise DataError(f"--attributes {name} is not in {path}; did you mean {suggestion}?")
    if len(set(attributes)) != len(attributes):
        raise DataError(f"--attributes {' '.join(attributes)} names one twice; name each once")
    return [names.index(name) for name in attributes]


def read_splits(root: Path, files: Iterable[str], lines: np.ndarray, label_file: Path) -> np.ndarray:
    """The split (N,) of every row: 0 train, 1 val, 2 test; of the partition file, else the published rows.

    Raises:
        DataError: a row's image is not in the partition file, or has another number there.
    """
    path = find_table(root, PARTITION_FILE)
    if path is None:
        row = np.arange(len(lines))
        return np.where(row < TRAIN_ROWS, 0, np.where(row < TEST_ROWS, 1, 2))
    _, names, values, numbers = read_table(path)
    wrong = np.flatnonzero((values[:, 0] < 0) | (values[:, 0] > 2))
    if len(wrong):
        raise DataError(f"{path}, line {numbers[wrong[0]]}: split {values[wrong[0], 0]}, expected 0, 1 or 2; mend it")
    split_of = dict(zip(names, values[:, 0].tolist(), strict=True))
    for name, line in zip(files, lines, strict=True):
        if name not in split_of:
            raise DataError(f"{label_file}, line {line}: {name} is not in {path}; unpack both again")
    return np.array([split_of[name] for name in files])
