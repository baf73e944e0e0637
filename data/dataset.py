"""What a dataset is, and what all datasets of image files share.

A new dataset of a known kind of concept is one file here with one subclass of `ImageDataset`; `igm.data.find_dataset` finds
it by what a folder holds.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NotRequired, Protocol, Required, TypedDict

import numpy as np
import torch

from igm.data import DataError, printable
from igm.data.images import FITS, Header, check_images, decode_image, fit_box, image_to_tensor
from igm.data.text import shown

READING_VERSION = 2  # in every fingerprint: raised when the same file gives other pixels than before


class Concepts(TypedDict, total=False):
    """What an image shows; nothing for pictures without ground truth."""

    conds: torch.Tensor  # (K, D) float32
    mask: torch.Tensor  # (K,) float32, 0 for padding


class Item(Concepts):
    """One image, or its annotation, which has no pixels."""

    pixel_values: NotRequired[torch.Tensor]  # (3, R, R) float32 in [-1, 1]
    image_id: Required[str]  # unique in the dataset
    mistaken: NotRequired[torch.Tensor]  # (K, D), `conds` with one wrong value


class Dataset(Protocol):
    """What training and evaluation ask of a dataset."""

    resolution: int  # side R of the square, in pixels
    num_skipped: int  # images left out because they cannot be read

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Item: ...

    def annotation(self, i: int) -> Item:
        """Everything of item i but its pixels, without touching the image file."""

    def path_of(self, i: int) -> Path:
        """File of item i."""

    def size_of(self, i: int) -> tuple[int, int]:
        """Width and height in pixels of item i's upright picture."""

    def box_of(self, i: int) -> tuple[float, float, float, float]:
        """Left, top, width and height, in pixels of item i's picture, of what the square shows."""

    def looks_of(self, i: int) -> Mapping[str, Any]:
        """What a record says of the true concepts of item i besides their conditions; nothing where nobody knows."""

    def fingerprint(self) -> str:
        """A short name for exactly these images, read in this way; keys caches of what they yield."""

    def facts(self) -> dict[str, Any]:
        """What inference needs to know of the training data."""


class ImageDataset(torch.utils.data.Dataset[Item]):
    """Image files with annotations.

    A subclass names its `task`, chooses the files in its constructor (`super().__init__`, then `admit`), and gives
    `concepts`; to be found by a folder's content, `recognises`; where inference needs to know more, `facts`.

    Args:
        resolution: side of the square that each image is fitted into; may be set later.
        fit: "squeeze", "crop", "pad" or "frame", as in `image_to_tensor`; None leaves it to `fit_of`.
        flip: append the mirror image of every picture; length doubles.
    """

    task: ClassVar[str] = ""  # kind of concept: "positions", "attributes" or "classes"
    is_default: ClassVar[bool] = False  # takes the folders of its task that no class recognises
    shrink_jpegs: ClassVar[bool] = False  # decode JPEGs at a fraction of their size where that is large enough
    decode_all: ClassVar[bool] = False  # decode every image when the dataset is opened, for small ones
    options: ClassVar[tuple[str, ...]] = ()  # what its constructor takes besides what all of its task take

    def __init__(self, resolution: int, fit: str | None = None, flip: bool = False):
        if fit is not None and fit not in FITS:
            raise ValueError(f"fit {fit!r}, expected one of {', '.join(FITS)}")
        self.resolution, self.fit, self.flip = resolution, fit, flip
        self.folder, self.num_skipped = Path(), 0
        self.files = self.image_ids = np.array([], dtype=str)  # (N,) names in the folder; names in the results
        self.sizes = np.zeros((0, 2), dtype=np.float32)  # (N, 2) width and height of the upright pictures, in pixels

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether a folder holds this dataset's files."""
        return False

    def concepts(self, row: int, mirrored: bool) -> Concepts:
        """`conds` and `mask` of picture `row` (of those admitted), or of its mirror image."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """What inference needs to know of the training data; nothing by default."""
        return {}

    def notes(self) -> list[str]:
        """What a person should know of how the files were read, a sentence each."""
        return []

    def doubts(self) -> list[str]:
        """What makes a training on these images pointless in part, a sentence each."""
        return []

    def fit_of(self, resolution: int) -> str:
        """How an image gets into a square of this side: as asked for, or else squeezed."""
        return self.fit or "squeeze"

    def admit(
        self,
        folder: Path,
        files: Sequence[str],
        image_ids: Sequence[str],
        skip_bad_images: bool,
        places: Sequence[str] | None = None,
    ) -> np.ndarray:
        """Take image files into the dataset, and leave out bad ones where that is asked for.

        Args:
            folder: what the names are relative to. image_ids: one for each file.
            places: where each file is listed ("FILE, line 7"), for messages.

        Returns:
            kept (N,) bool.

        Raises:
            DataError: a bad image and no `skip_bad_images`, no good one, or one image twice.
        """
        paths = [os.path.join(folder, name) for name in files]
        headers = check_images(paths, skip_bad_images, places, self.decode_all)
        kept = np.array([header is not None for header in headers], dtype=bool)
        if not kept.any():
            raise DataError(f"image {paths[0]}: none of the {len(files)} images can be read; restore them")
        check_twice(paths, headers, image_ids, places, self.flip)
        self.folder, self.num_skipped = folder, int((~kept).sum())
        self.files, self.image_ids = np.array(files, dtype=str)[kept], np.array(image_ids, dtype=str)[kept]
        self.sizes = np.array([header.size for header in headers if header is not None], dtype=np.float32)
        return kept

    def __len__(self) -> int:
        return len(self.files) * (2 if self.flip else 1)

    def __getitem__(self, i: int) -> Item:
        image = decode_image(self.path_of(i), self.resolution if self.shrink_jpegs else None)
        pixels = image_to_tensor(image, self.resolution, self.fit_of(self.resolution))
        return {"pixel_values": pixels.flip(-1) if i >= len(self.files) else pixels, **self.annotation(i)}

    def annotation(self, i: int) -> Item:
        """Everything of item i but its pixels, without touching the image file."""
        row, mirrored = self.row_of(i), i >= len(self.files)
        return {**self.concepts(row, mirrored), "image_id": str(self.image_ids[row]) + "_mirrored" * mirrored}

    def labels(self, i: int) -> Item:
        """The former name of `annotation`."""
        return self.annotation(i)

    def statistics(self) -> dict[str, Any]:
        """The former name of `facts`."""
        return self.facts()

    def row_of(self, i: int) -> int:
        """The picture that item i, or its mirror image, is; IndexError beyond the end, which ends `for item in dataset`."""
        if not 0 <= i < len(self):
            raise IndexError(f"item {i} of {len(self)}")
        return i % len(self.files)

    def path_of(self, i: int) -> Path:
        """File of item i; IndexError beyond the end."""
        return self.folder / str(self.files[self.row_of(i)])

    def size_of(self, i: int) -> tuple[int, int]:
        """Width and height in pixels of item i's upright picture."""
        width, height = self.sizes[self.row_of(i)].tolist()
        return int(width), int(height)

    def box_of(self, i: int) -> tuple[float, float, float, float]:
        """Left, top, width and height, in pixels of item i's picture, of what the square shows."""
        return fit_box(self.size_of(i), self.resolution, self.fit_of(self.resolution))

    def looks_of(self, i: int) -> Mapping[str, Any]:
        """Nothing by default."""
        return {}

    def fingerprint(self) -> str:
        """A short name for exactly these images in this order, read in this way; keys caches of what they yield."""
        stamps = []
        for name in self.files:
            status = os.stat(os.path.join(self.folder, name))
            stamps.append(f"{name}:{status.st_size}:{status.st_mtime_ns}")
        fit = self.fit_of(self.resolution)
        parts = [READING_VERSION, self.folder.resolve(), self.resolution, fit, self.flip, *self.fingerprint_parts()]
        text = "\n".join([*map(str, parts), *stamps])
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]

    def fingerprint_parts(self) -> Sequence[object]:
        """What else than files, size, fit and flip determines an item."""
        return ()


def check_twice(
    paths: Sequence[str],
    headers: Sequence[Header | None],
    image_ids: Sequence[str],
    places: Sequence[str] | None,
    flip: bool,
) -> None:
    """Raise DataError if two of the good images are one file, or have one name."""
    files: dict[tuple[int, int], int] = {}
    names: dict[str, int] = {}
    for row, (path, header, image_id) in enumerate(zip(paths, headers, image_ids, strict=True)):
        if header is None:
            continue
        start = f"{places[row]}: " if places else ""
        other = files.setdefault(header.inode, row)
        if other != row and os.path.realpath(paths[other]) == os.path.realpath(path):  # else two names of one content
            both = "is given twice" if paths[other] == path else f"is the same file as {paths[other]}"
            raise DataError(f"{start}image {path} {both}; keep one")
        for name in (image_id, image_id + "_mirrored") if flip else (image_id,):
            if (other := names.setdefault(name, row)) != row:
                raise DataError(
                    f"{start}images {paths[other]} and {path} would both be called {name} in the results; rename one"
                )


def unique_ids(files: Sequence[str]) -> list[str]:
    """Names of image files for results: the stem; where several have it, the path without suffix; else the whole path.

    Control characters stand as escapes.
    """
    names = [name.replace("\\", "/") for name in files]
    ids = [os.path.splitext(name.rpartition("/")[2])[0] for name in names]
    for longer in (lambda name: os.path.splitext(name)[0], lambda name: name):
        counts: dict[str, int] = {}
        for own in ids:
            counts[own] = counts.get(own, 0) + 1
        if len(counts) == len(ids):
            break
        ids = [own if counts[own] == 1 else longer(name) for own, name in zip(ids, names, strict=True)]
    return [printable(own) for own in ids]


def can_be_path(name: str) -> bool:
    """Whether a file system can be asked for a name: JSON may say halves of characters, which no file's name has."""
    try:
        return b"\0" not in os.fsencode(name) and len(name) <= 1000
    except UnicodeEncodeError:
        return False


def locate_file(folder: Path, name: str, listed: str) -> str:
    """The name, in a folder, of the image that a file lists: perhaps by a path of another machine, or of Windows.

    Args:
        listed: where it is listed, for the message.

    Returns:
        the name as it is, or the longest end of its path that is a file there; else the name, without a leading slash.

    Raises:
        DataError: it is empty, cannot be a file's name, or leads out of the folder.
    """
    parts = name.replace("\\", "/").split("/")
    if parts[-1] in ("", ".") or ".." in parts or max(map(len, parts)) > 255 or not can_be_path(name):
        raise DataError(
            f"{listed}: {shown(name)} is not the name of an image in {folder}; write its name in that folder"
        )
    if len(parts) == 1 or (not os.path.isabs(name) and os.path.isfile(os.path.join(folder, name))):
        return name
    parts = [part for part in parts if part not in ("", ".")]
    ends = ["/".join(parts[start:]) for start in range(len(parts))]
    return next((end for end in ends if os.path.isfile(os.path.join(folder, end))), ends[0])
