"""Pictures of animals with the set of classes that each shows, from a folder.

Labels come from `metadata.csv` or `metadata.jsonl` in the folder (Hugging Face imagefolder convention: `file_name`, and
`labels`, a list or a text such as "cat;dog"), or else from file names such as `cat_dog_003.jpg` ("polar-bear" is the
class "polar bear").
"""

import csv
import hashlib
import json
from pathlib import Path

import torch

from igm.data import DataError
from igm.data.images import check_image, decode_image, image_to_tensor

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
LABEL_COLUMNS = ("labels", "label", "classes", "animals", "objects")


class Animals(torch.utils.data.Dataset):
    """Pictures whose number of classes lies in a range.

    An item is a dict: `pixel_values` (3, resolution, resolution) float32 in [-1, 1]; `conds` (K, num_classes) float32,
    one-hot rows of the picture's classes in the order of `classes`; `mask` (K,), 0 for padding; `image_id` str. K is the
    largest number of objects in the range.

    Args:
        root: the folder. classes: names of all classes.
        num_objects: fewest and most classes of a picture, both included; others are left out.
        resolution: side of the square that the whole image is resized to.
        max_images: keep the first so many.
        skip_bad_images: leave out images that cannot be read; `num_skipped` counts them.

    Raises:
        DataError: no folder, no image, no labels, a label not among the classes, or an unreadable image.
    """

    def __init__(
        self,
        root: str | Path,
        classes: list[str],
        num_objects: tuple[int, int] = (2, 2),
        resolution: int = 512,
        max_images: int | None = None,
        skip_bad_images: bool = False,
    ):
        self.root, self.classes, self.resolution, self.max_objects = Path(root), classes, resolution, num_objects[1]
        pictures = {path: check_labels(path, names, classes) for path, names in read_labels(self.root).items()}
        low, high = num_objects
        kept = [(path, names) for path, names in pictures.items() if low <= len(names) <= high][:max_images]
        if not kept:
            present = sorted({len(names) for names in pictures.values()})
            raise DataError(f"{root}: no picture of {low} to {high} classes (they have {present}); ask for others")
        readable = [self._is_readable(path, skip_bad_images) for path, _ in kept]
        self.pictures = [picture for picture, good in zip(kept, readable, strict=True) if good]
        self.num_skipped = len(kept) - len(self.pictures)
        if not self.pictures:
            raise DataError(f"{root}: none of the {len(kept)} images can be read; restore them")

    @staticmethod
    def _is_readable(path: Path, skip_bad: bool) -> bool:
        try:
            check_image(path)
            if skip_bad:
                decode_image(path)
        except DataError:
            if not skip_bad:
                raise
            return False
        return True

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> dict:
        return {"pixel_values": image_to_tensor(decode_image(self.path_of(i)), self.resolution), **self.annotation(i)}

    def annotation(self, i: int) -> dict:
        """Everything of item i but its pixels, without touching the image file."""
        numbers = sorted(self.classes.index(name) for name in self.pictures[i][1])
        conds = torch.zeros(self.max_objects, len(self.classes))
        conds[torch.arange(len(numbers)), numbers] = 1
        mask = (torch.arange(self.max_objects) < len(numbers)).float()
        return {"conds": conds, "mask": mask, "image_id": self.path_of(i).relative_to(self.root).as_posix()}

    def path_of(self, i: int) -> Path:
        """File of item i."""
        return self.pictures[i][0]

    def fingerprint(self) -> str:
        """A short name for exactly these images in this order at this resolution; keys caches of what they yield."""
        parts = [str(self.root.resolve()), str(self.resolution), *self.classes]
        stamps = [f"{p.name}:{p.stat().st_size}:{p.stat().st_mtime_ns}" for p, _ in self.pictures]
        return hashlib.sha256("\n".join(parts + stamps).encode()).hexdigest()[:16]


def read_labels(root: Path) -> dict[Path, list[str]]:
    """The class names of every picture in a folder, in the order of the metadata or else of the file names.

    Raises:
        DataError: no folder, no image, or metadata that cannot be used.
    """
    if not root.is_dir():
        raise DataError(f"--dataset_root {root} is not a folder; give the folder that holds the images")
    if (root / "metadata.csv").is_file():
        return labels_of_rows(root / "metadata.csv", read_csv(root / "metadata.csv"))
    if (root / "metadata.jsonl").is_file():
        return labels_of_rows(root / "metadata.jsonl", read_jsonl(root / "metadata.jsonl"))
    files = sorted(path for path in root.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"--dataset_root {root} holds no image ({' '.join(SUFFIXES)}); put some there")
    return {path: labels_of_name(path) for path in files}


def read_csv(file: Path) -> list[dict]:
    """The rows of a CSV file with a header.

    Raises:
        DataError: it is not text.
    """
    try:
        return list(csv.DictReader(file.read_text(encoding="utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error):
        raise DataError(f"{file} is not a CSV text; write it with a header file_name,labels") from None


def read_jsonl(file: Path) -> list[dict]:
    """The objects of a file with one JSON object per line.

    Raises:
        DataError: a line is something else.
    """
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                rows.append(None)
            if not isinstance(rows[-1], dict):
                raise DataError(
                    f'{file} line {number} is not a JSON object such as {{"file_name": ..., "labels": ...}}'
                )
    return rows


def labels_of_rows(file: Path, rows: list[dict]) -> dict[Path, list[str]]:
    """The class names of every picture that a metadata file names.

    Raises:
        DataError: no row, a row without `file_name` or labels, or a picture named twice.
    """
    if not rows:
        raise DataError(f"{file} names no image; write file_name,labels and one line per image")
    column = next((name for name in LABEL_COLUMNS if name in rows[0]), None)
    if column is None or "file_name" not in rows[0]:
        raise DataError(f"{file} needs the columns file_name and labels, it has {', '.join(map(str, rows[0]))}")
    pictures: dict[Path, list[str]] = {}
    for row in rows:
        value = row.get(column) or []
        names = value if isinstance(value, list) else str(value).replace(",", ";").split(";")
        path = file.parent / str(row.get("file_name"))
        if path in pictures:
            raise DataError(f"{file} names {row['file_name']} twice; keep one line for each image")
        pictures[path] = [str(name).strip() for name in names if str(name).strip()]
    return pictures


def labels_of_name(path: Path) -> list[str]:
    """The class names in a file name: all parts between underscores but a number at the end.

    Raises:
        DataError: there is none.
    """
    parts = [part for part in path.stem.split("_") if part and not part.isdigit()]
    if not parts:
        raise DataError(f"{path}: no label in its name; call it cat_dog_003{path.suffix}, or write a metadata.csv")
    return [part.replace("-", " ") for part in parts]


def check_labels(path: Path, names: list[str], classes: list[str]) -> list[str]:
    """The names as they are spelt in `classes`, whatever their case.

    Raises:
        DataError: one is not among the classes, appears twice, or there is none.
    """
    known = {name.lower(): name for name in classes}
    unknown = [name for name in names if name.lower() not in known]
    if unknown:
        raise DataError(f"{path}: label '{unknown[0]}' is not among --classes {' '.join(classes)}; add it or relabel")
    if not names:
        raise DataError(f"{path} has no label; write one in its metadata")
    if len(set(map(str.lower, names))) < len(names):
        raise DataError(f"{path}: a label is given twice ({', '.join(names)}); a picture's labels are a set of classes")
    return [known[name.lower()] for name in names]
