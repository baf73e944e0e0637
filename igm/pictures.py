"""Pictures in every form in which people hold them, as one batch of pixels."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from igm import UserError
from igm.data.images import decode_image, image_to_tensor, to_rgb
from igm.data.unlabelled import find_pictures

Picture = str | Path | Image.Image | np.ndarray | torch.Tensor
CHANNELS = (1, 3, 4)
SHOWN_SIDE = 640  # pixels of the longer side of the copies that answers keep


@dataclass(frozen=True)
class Batch:
    """Pixels (B, 3, R, R) in [-1, 1], whether they were given as one picture rather than as several, and the pictures.

    images: copies, made smaller where they are large.
    """

    pixels: torch.Tensor
    single: bool
    images: list[Image.Image]


def as_batch(pictures: Picture | Iterable[Picture], resolution: int) -> Batch:
    """One picture or several, squeezed to a square.

    A picture is a file, a PIL image, an array or a tensor: grey (H, W), (H, W, 1) or (1, H, W), or colour (H, W, 3) or
    (3, H, W); bytes, 16-bit numbers, or floats in [0, 1] (in [-1, 1] where any is negative). Several are a folder, an
    array or tensor of one more axis, or anything that yields pictures.

    Raises:
        DataError: a file that is not a picture. UserError: something else that is none; one sentence.
    """
    if isinstance(pictures, str | Path):
        place = Path(pictures)
        images: list[Any] = [decode_image(file) for file in find_pictures(place)]
        return _stack(images, resolution, single=not place.is_dir())
    if isinstance(pictures, Image.Image):
        return _stack([to_rgb(pictures)], resolution, single=True)
    if isinstance(pictures, np.ndarray | torch.Tensor):
        array = _array(pictures)
        if array.ndim == 4:
            return _stack([from_array(own) for own in array], resolution, single=False)
        return _stack([from_array(array)], resolution, single=True)
    if not isinstance(pictures, Iterable) or isinstance(pictures, bytes | dict | set):
        raise UserError(f"a picture is a file, a PIL image, an array or a tensor, not {type(pictures).__name__}")
    batches = [as_batch(own, resolution) for own in pictures]
    if not all(batch.single for batch in batches):
        raise UserError("a list of pictures holds a folder or a batch; give that by itself")
    pixels = [batch.pixels for batch in batches] or [torch.zeros(0, 3, resolution, resolution)]
    return Batch(torch.cat(pixels), single=False, images=[image for batch in batches for image in batch.images])


def _stack(images: list[Any], resolution: int, *, single: bool) -> Batch:
    if not images:
        return Batch(torch.zeros(0, 3, resolution, resolution), single, [])
    pixels = torch.stack([image_to_tensor(image, resolution) for image in images])
    return Batch(pixels, single, [reduced(image) for image in images])


def reduced(image: Image.Image) -> Image.Image:
    """A copy of a picture, of at most SHOWN_SIDE pixels a side."""
    copy = image.copy()
    copy.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return copy


def _array(values: np.ndarray | torch.Tensor) -> np.ndarray:
    """Any array with its axes as NumPy has them."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()
    return values


def from_array(array: np.ndarray) -> Image.Image:
    """An RGB image of one picture's array.

    Raises:
        UserError: a shape or numbers that are no picture's.
    """
    if array.ndim == 2:
        array = array[:, :, None]
    channels_last = array.ndim == 3 and array.shape[2] in CHANNELS
    if array.ndim == 3 and not channels_last and array.shape[0] in CHANNELS:
        array, channels_last = np.moveaxis(array, 0, 2), True
    if not channels_last or 0 in array.shape:
        raise UserError(f"shape {array.shape} is no picture's; give (H, W), (H, W, 3) or (3, H, W), or several of one")
    pixels = to_bytes(array)  # (H, W, 1, 3 or 4)
    pixels = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")


def to_bytes(array: np.ndarray) -> np.ndarray:
    """Numbers of a picture as bytes: 16-bit ones by their range, floats as [0, 1], or [-1, 1] where any is negative.

    Raises:
        UserError: numbers of another kind or range.
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return np.rint(array / 257.0).astype(np.uint8)
    if np.issubdtype(array.dtype, np.integer):
        if array.min() < 0 or array.max() > 255:
            raise UserError(f"whole numbers of a picture lie in 0 to 255, these in {array.min()} to {array.max()}")
        return array.astype(np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"numbers of type {array.dtype} are no picture's; give bytes or floats in [0, 1]")
    if not np.isfinite(array).all():
        raise UserError("a picture's numbers are finite, these are not")
    low, high = float(array.min()), float(array.max())
    if low < -1 or high > 1:
        raise UserError(f"floats of a picture lie in [0, 1] or [-1, 1], these in {low:g} to {high:g}; divide by 255?")
    unit = (array + 1) / 2 if low < 0 else array
    return np.rint(np.asarray(unit, dtype=np.float64) * 255).astype(np.uint8)
