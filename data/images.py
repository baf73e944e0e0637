"""Reading images: what every dataset of files shares."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from igm.data import DataError

# The last bytes of a file that was written to its end. Reading them costs no decoding.
END_MARKERS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}


def check_image(path: Path) -> tuple[int, int]:
    """Return (width, height) in pixels, from the header alone.

    Raises:
        DataError: the file is absent, not an image, or cut short.
    """
    try:
        with Image.open(path) as image:
            size, kind = image.size, image.format
    except FileNotFoundError:
        raise DataError(f"image {path} is missing; restore it, or pass --skip_bad_images") from None
    except OSError:
        raise DataError(f"image {path} is not readable; replace it, or pass --skip_bad_images") from None
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 64))
        tail = file.read()
    if END_MARKERS.get(kind, b"") not in tail:
        raise DataError(f"image {path} is cut short; replace it, or pass --skip_bad_images")
    return size


def check_images(
    paths: Sequence[Path], skip_bad: bool, places: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Read every image's size; with `skip_bad` also decode it whole and mark the bad ones.

    Args:
        places: where each image is listed ("FILE, line 7"), for the message.

    Returns:
        sizes (N, 2) float32, width and height in pixels; bad (N,) bool.

    Raises:
        DataError: an image is absent, not an image, or cut short, and `skip_bad` is not set.
    """

    def check(number: int) -> tuple[int, int] | None:
        try:
            size = check_image(paths[number])
            return decode_image(paths[number]).size if skip_bad else size
        except DataError as error:
            if skip_bad:
                return None
            if places is None:
                raise
            raise DataError(f"{places[number]}: {error}") from None

    with ThreadPoolExecutor(8) as pool:
        quiet = len(paths) < 5000
        numbers = range(len(paths))
        sizes = list(tqdm(pool.map(check, numbers), "checking images", len(paths), disable=quiet, leave=False))
    bad = np.array([size is None for size in sizes], dtype=bool)
    return np.array([size or (1, 1) for size in sizes], dtype=np.float32), bad


def files_fingerprint(paths: Sequence[Path], *parts: object) -> str:
    """A short name for exactly these files in this order, and whatever else determines what is read of them."""
    stamps = [f"{p.name}:{p.stat().st_size}:{p.stat().st_mtime_ns}" for p in paths]
    return hashlib.sha256("\n".join([*map(str, parts), *stamps]).encode()).hexdigest()[:16]


def decode_image(path: Path, resolution: int | None = None) -> Image.Image:
    """Decode a whole image file to RGB (CLEVR's own PNGs are RGBA).

    Args:
        resolution: where the image will be resized to this square, a JPEG may be decoded at a half, a quarter or an
            eighth of its size, as long as both sides stay at least that long; faster, and nearly the same pixels.

    Raises:
        DataError: the file is absent or corrupt.
    """
    try:
        with Image.open(path) as image:
            if resolution is not None:
                image.draft("RGB", (resolution, resolution))
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError):  # Pillow reports a broken PNG as any of the three
        raise DataError(f"image {path} is absent or corrupt; replace it, or pass --skip_bad_images") from None


def image_to_tensor(image: Image.Image, resolution: int) -> torch.Tensor:
    """Resize the whole image to a square, antialiased, as the published code does.

    PyTorch's filter for bytes takes half of Pillow's time; one pixel in 500 differs, by one level of 255.

    Returns:
        pixels: (3, resolution, resolution), float32 in [-1, 1].
    """
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    pixels = torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None]  # (1, 3, H, W) uint8
    size = (resolution, resolution)
    pixels = torch.nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True)[0]  # (3, R, R) uint8
    return pixels.float().div_(127.5).sub_(1)


def tensor_to_image(pixels: torch.Tensor) -> Image.Image:
    """Turn pixels (3, H, W) in [-1, 1] into a picture; values outside are clipped."""
    array = ((pixels.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(array.permute(1, 2, 0).numpy())  # (H, W, 3)
