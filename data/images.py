"""Reading images: what every dataset of files shares."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data import DataError

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


def decode_image(path: Path) -> Image.Image:
    """Decode a whole image file to RGB (CLEVR's own PNGs are RGBA).

    Raises:
        DataError: the file is absent or corrupt.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError):  # Pillow reports a broken PNG as any of the three
        raise DataError(f"image {path} is absent or corrupt; replace it, or pass --skip_bad_images") from None


def image_to_tensor(image: Image.Image, resolution: int) -> torch.Tensor:
    """Resize the whole image to a square, antialiased, as the published code does.

    Returns:
        pixels: (3, resolution, resolution), float32 in [-1, 1].
    """
    image = image.convert("RGB").resize((resolution, resolution), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (3, H, W) uint8
    return pixels.float() / 127.5 - 1


def tensor_to_image(pixels: torch.Tensor) -> Image.Image:
    """Turn pixels (3, H, W) in [-1, 1] into a picture; values outside are clipped."""
    array = ((pixels.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(array.permute(1, 2, 0).numpy())  # (H, W, 3)
