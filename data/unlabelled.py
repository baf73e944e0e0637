"""One's own pictures, without ground truth: files, or folders of files."""

import os
from collections.abc import Sequence
from pathlib import Path

from igm.data import DataError
from igm.data.dataset import Concepts, ImageDataset, unique_ids
from igm.data.images import SUFFIXES, list_pictures


class Pictures(ImageDataset):
    """Pictures whose concepts nobody knows; an item has `pixel_values` (3, R, R) in [-1, 1] and `image_id` only.

    Args:
        places: image files, or folders whose image files are taken in the order of their names.
        resolution: side R of the square that the picture is fitted into.
        max_images: keep the first so many.
        skip_bad_images: leave out pictures that cannot be read; `num_skipped` counts them.
        fit: how the picture gets into the square, as in `image_to_tensor`.

    Raises:
        DataError: a place does not exist, a folder without pictures, a picture twice, or one that cannot be read.
    """

    decode_all = True

    def __init__(
        self,
        places: Sequence[str | Path],
        resolution: int = 64,
        max_images: int | None = None,
        skip_bad_images: bool = False,
        fit: str | None = None,
    ):
        super().__init__(resolution, fit)
        paths = [path for place in places for path in find_pictures(Path(place))]
        files = [str(path) for path in paths][:max_images]
        self.admit(Path(), files, unique_ids(names_in_common_folder(paths))[:max_images], skip_bad_images)

    def concepts(self, row: int, mirrored: bool) -> Concepts:
        """Nothing: there is no ground truth."""
        return {}


def names_in_common_folder(paths: Sequence[Path]) -> list[str]:
    """The paths relative to the deepest folder that holds them all."""
    full = [Path(os.path.abspath(path)) for path in paths]
    folders = [folder for folder in full[0].parents if all(folder in path.parents for path in full)] if full else []
    return [path.relative_to(folders[0]).as_posix() for path in full]


def find_pictures(place: Path) -> list[Path]:
    """The image files that a name stands for.

    Raises:
        DataError: it does not exist, or is a folder without pictures.
    """
    if os.path.isfile(place):
        return [place]
    if not os.path.isdir(place):
        raise DataError(f"--images {place} does not exist; name image files or folders of them")
    found = list_pictures(place)
    if not found:
        raise DataError(f"--images {place} holds no image file ({' '.join(SUFFIXES)}); name another folder")
    return found
