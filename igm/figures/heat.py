"""A map of changes of the error, laid over the picture that it is about."""

import numpy as np
from PIL import Image, ImageColor

LOWER, HIGHER = "#D55E00", "#0072B2"  # Okabe and Ito's vermilion and blue
STRONGEST = 0.85  # opacity of the largest change
HIGHER_SHARE = 0.45  # of that where the error rises, which it does nearly everywhere
BLANKED = 0.35  # how far the picture is taken towards its own greys, so that colours are the map's


def error_overlay(
    image: Image.Image, values: np.ndarray, box: tuple[float, float, float, float], scale: float | None = None
) -> Image.Image:
    """A copy of a picture, orange where the error falls (values below 0) and blue where it rises, the more the stronger.

    Args:
        values: (rows, columns), at the middles of the cells of `box`: (left, top, right, bottom) in [0, 1] of the picture.
        scale: the change that is drawn strongest; default the largest.

    Raises:
        ValueError: values that are no table of finite numbers.
    """
    values = np.asarray(values, dtype=np.float32)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"expected a table of finite numbers, got shape {values.shape}")
    picture = np.asarray(image.convert("RGB"), dtype=np.float32)  # (H, W, 3)
    grey = picture.mean(2, keepdims=True)
    picture = picture + BLANKED * (grey - picture)
    largest = float(np.abs(values).max()) if scale is None else scale
    values, box = faded(values, box)
    left, right = (round(side * image.width) for side in box[::2])
    top, bottom = (round(side * image.height) for side in box[1::2])
    size = max(1, right - left), max(1, bottom - top)
    smooth = np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BICUBIC))
    change = np.zeros(picture.shape[:2], dtype=np.float32)
    rows, columns = (slice(max(0, top), bottom), slice(max(0, left), right))
    part = change[rows, columns]
    part[:] = smooth[max(0, -top) :, max(0, -left) :][: part.shape[0], : part.shape[1]]
    strength = STRONGEST * np.clip(np.abs(change) / max(largest, 1e-12), 0, 1)[..., None]  # (H, W, 1)
    lower, higher = (np.array(ImageColor.getrgb(own), dtype=np.float32) for own in (LOWER, HIGHER))
    falls = change[..., None] < 0
    colour, strength = np.where(falls, lower, higher), np.where(falls, strength, HIGHER_SHARE * strength)
    return Image.fromarray(np.rint(picture + strength * (colour - picture)).clip(0, 255).astype(np.uint8))


def faded(
    values: np.ndarray, box: tuple[float, float, float, float]
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """The table with a cell of no change on each side, so that it has no edge."""
    wide, high = (box[2] - box[0]) / values.shape[1], (box[3] - box[1]) / values.shape[0]
    return np.pad(values, 1), (box[0] - wide, box[1] - high, box[2] + wide, box[3] + high)
