"""One's own pictures, without ground truth: files, or folders of files."""

from pathlib import Path

import torch
from PIL import Image

from igm.data import DataError
from igm.data.images import check_image, decode_image, image_to_tensor

Image.init()
SUFFIXES = tuple(sorted(Image.registered_extensions()))


class Pictures(torch.utils.data.Dataset):
    """Pictures whose concepts nobody knows; an item has `pixel_values` (3, R, R) in [-1, 1] and `image_id` only.

    Args:
        places: image files, or folders whose image files are taken in the order of their names.
        resolution: side R of the square that the whole picture is resized to.
        max_images: keep the first so many.

    Raises:
        DataError: a place does not exist, a folder without pictures, or a picture that cannot be read.
    """

    def __init__(self, places: list[str | Path], resolution: int = 64, max_images: int | None = None):
        self.resolution = resolution
        self.paths = [path for place in places for path in find_pictures(Path(place))][:max_images]
        for path in self.paths:
            check_image(path)
        stems = [path.stem for path in self.paths]
        self.names = [path.stem if stems.count(path.stem) == 1 else str(path) for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> dict:
        return {"pixel_values": image_to_tensor(decode_image(self.paths[i]), self.resolution), **self.annotation(i)}

    def annotation(self, i: int) -> dict:
        """Everything of item i but its pixels."""
        return {"image_id": self.names[i]}

    def path_of(self, i: int) -> Path:
        """File of item i."""
        return self.paths[i]


def find_pictures(place: Path) -> list[Path]:
    """The image files that a name stands for.

    Raises:
        DataError: it does not exist, or is a folder without pictures.
    """
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise DataError(f"--images {place} does not exist; name image files or folders of them")
    found = sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise DataError(f"--images {place} holds no image file; name another folder")
    return found
