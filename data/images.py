"""Reading images: what every dataset of files shares."""

import contextlib
import os
import stat
import struct
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from igm.data import DataError
from igm.data.framing import cut, frame_for

CLEVR_ASPECT = 1.5  # width / height of CLEVR's pictures: 480 x 320
Fit = Literal["squeeze", "crop", "pad", "frame"]
FITS: tuple[str, ...] = get_args(Fit)
SUFFIXES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
Image.init()
# Decoders of pictures that people bring. Pillow's others (PostScript by a program of its own among them) stay shut.
FORMATS: list[str] = [
    name
    for name in ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "PPM", "JPEG2000")
    if name in Image.OPEN  # an older Pillow lacks AVIF
]
MAX_PIXELS = 178_956_970  # where Pillow refuses by default; as RGB and once more as an array they take 1.3 GB
ROWS_AT_ONCE = 1024  # of a deep grey picture, to save memory
BIG_PIXELS = 1 << 24  # larger ones are decoded one at a time
DEEP_GREYS = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
ORIENTATION = 0x0112
EXIF_PLACES = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

SIDE_KEPT = 1024  # pixels of the short side that a large picture keeps

one_big_at_a_time = threading.Lock()
warnings.filterwarnings("ignore", module="PIL")  # of large pictures (MAX_PIXELS is the limit here), damaged EXIF data


@dataclass(frozen=True)
class Header:
    """What is known of an image file without decoding it: its upright size in pixels, and which file it is."""

    size: tuple[int, int]
    inode: tuple[int, int]


def list_pictures(folder: Path) -> list[Path]:
    """The image files of a folder in the order of their names; hidden ones (`._scene.png` of macOS) are none.

    Raises:
        DataError: it may not be read.
    """
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be listed ({error.strerror}); give a folder that may be read") from None
    own = [folder / name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    return sorted(path for path in own if os.path.isfile(path))


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[tuple[BinaryIO, Image.Image]]:
    """An image file and its picture, not decoded yet; whatever goes wrong inside ends in one line.

    Raises:
        DataError: the file is absent, not a picture, or too large; or the body's decoding failed.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe would wait for ever
            raise DataError(f"image {path} is not a file; replace it, or pass --skip_bad_images")
        with open(path, "rb") as file, Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            yield file, image
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"image {path} is missing; restore it, or pass --skip_bad_images") from None
    except (Image.DecompressionBombError, MemoryError):
        limit = f"{MAX_PIXELS / 1e6:.0f} million pixels"
        raise DataError(
            f"image {path} is too large to decode (more than {limit}); make it smaller, or pass --skip_bad_images"
        ) from None
    except Exception:  # Pillow's decoders report broken files by exceptions of a dozen kinds
        raise DataError(f"image {path} is not readable; replace it, or pass --skip_bad_images") from None


def inspect_image(path: str | Path) -> Header:
    """Read an image's header, and see whether the file was written to its end.

    Raises:
        DataError: the file is absent, not an image, too large, or cut short.
    """
    with opened(path) as (file, image):
        whole, late_exif = check_end(file, image)
        if not whole:
            raise DataError(f"image {path} is cut short; replace it, or pass --skip_bad_images")
        if late_exif:
            image.load()
        width, height = image.size
        if image.format != "TIFF" and orientation(image) >= 5:  # Pillow turns TIFFs by itself
            width, height = height, width
        status = os.fstat(file.fileno())
        return Header((width, height), (status.st_dev, status.st_ino))


def check_image(path: str | Path) -> tuple[int, int]:
    """Return (width, height) in pixels of the upright picture, from the header alone.

    Raises:
        DataError: the file is absent, not an image, too large, or cut short.
    """
    return inspect_image(path).size


def check_end(file: BinaryIO, image: Image.Image) -> tuple[bool, bool]:
    """Whether a PNG or JPEG is complete (data may follow its end), and whether an orientation may stand after the pixels.

    Other formats count as complete: only decoding shows it.
    """
    if image.format == "PNG":
        return walk_png(file.fileno())
    if image.format == "JPEG" and not is_ended_jpeg(file.fileno()):
        try:
            image.load()  # data after the end (a phone's film, a second picture), or no end
        except OSError:
            return False, False
    return True, False


def is_ended_jpeg(descriptor: int) -> bool:
    """Whether the marker of the end stands in the last 64 bytes; that costs no decoding."""
    return b"\xff\xd9" in os.pread(descriptor, 64, max(0, os.fstat(descriptor).st_size - 64))


def walk_png(descriptor: int) -> tuple[bool, bool]:
    """Step over the chunks of a PNG: is there an end, and does something that may hold an orientation follow the pixels?"""
    place, late_exif, pixels = 8, False, False
    while len(head := os.pread(descriptor, 8, place)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            return True, late_exif
        pixels = pixels or kind == b"IDAT"
        if pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            keyword = os.pread(descriptor, 24, place + 8)
            late_exif = late_exif or kind == b"eXIf" or keyword.startswith((b"Raw profile type", b"XML:com.adobe"))
        place += 12 + length
    return False, False


def check_images(
    paths: Sequence[str], skip_bad: bool, places: Sequence[str] | None = None, whole: bool = False
) -> list[Header | None]:
    """Read every image's header; None for bad ones.

    Args:
        skip_bad: decode each image whole and mark the bad ones, instead of raising.
        places: where each image is listed ("FILE, line 7"), for the message.
        whole: decode each image whole in any case.

    Raises:
        DataError: an image is absent, not an image, or cut short, and `skip_bad` is not set.
    """

    def check(number: int) -> Header | None:
        try:
            header = inspect_image(paths[number])
            if skip_bad or whole:
                decode_image(paths[number])
            return header
        except DataError as error:
            if skip_bad:
                return None
            if places is None:
                raise
            raise DataError(f"{places[number]}: {error}") from None

    with ThreadPoolExecutor(8) as pool:
        quiet = len(paths) < 5000
        numbers = range(len(paths))
        return list(tqdm(pool.map(check, numbers), "checking images", len(paths), disable=quiet, leave=False))


def decode_image(path: str | Path, resolution: int | None = None) -> Image.Image:
    """Decode a whole image file to upright RGB (CLEVR's own PNGs are RGBA).

    Args:
        resolution: where the image will be resized to this square, a JPEG may be decoded at a half, a quarter or an
            eighth of its size, as long as both sides stay at least that long; faster, and nearly the same pixels.

    Raises:
        DataError: the file is absent, corrupt, too large, or has grey values of an unknown range.
    """
    with opened(path) as (_, image):
        with one_big_at_a_time if image.width * image.height > BIG_PIXELS else contextlib.nullcontext():
            if resolution is not None:
                image.draft("RGB", (resolution, resolution))
            try:
                return to_rgb(image, f"image {path}")
            except (OSError, SyntaxError, ValueError) as error:  # Pillow reports a broken PNG as any of the three
                if isinstance(error, DataError):
                    raise
                raise DataError(f"image {path} is absent or corrupt; replace it, or pass --skip_bad_images") from None


def to_rgb(image: Image.Image, name: str = "picture") -> Image.Image:
    """A picture upright and in RGB of 8 bits, whatever its mode; the same object where it is so already.

    Args:
        name: what to call it in a message.

    Raises:
        DataError: grey values of an unknown range.
    """
    image.load()  # an orientation may stand after the pixels
    turn = TRANSPOSITIONS.get(orientation(image))
    if turn is not None:
        image = image.transpose(turn)
        for place in EXIF_PLACES:  # it is upright now
            image.info.pop(place, None)
    if image.mode in DEEP_GREYS:
        image = to_8_bits(image, name)
    factor = min(int((image.width * image.height / BIG_PIXELS) ** 0.5), min(image.size) // SIDE_KEPT)
    if factor > 1 and image.mode in ("RGB", "L"):  # before there are two copies of it
        image = image.reduce(factor)
    return image if type(image) is Image.Image and image.mode == "RGB" else image.convert("RGB")


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, as far as the picture's header has been read; 1 is upright, and the default."""
    if not any(place in image.info for place in EXIF_PLACES):
        return 1
    try:
        # Pillow would decode a PNG whole to look for EXIF data after its pixels; `load` has done so, or nobody asks.
        value = Image.Image.getexif(image).get(ORIENTATION, 1)
    except Exception:  # damaged EXIF data says nothing about the picture
        return 1
    return value if value in TRANSPOSITIONS else 1


def to_8_bits(image: Image.Image, name: str) -> Image.Image:
    """A grey picture of 16 or 32 bits or of floats with white at 255 instead of at 65,535 or at 1.

    Raises:
        DataError: values from which it cannot be told what white is.
    """
    grey = np.asarray(image)  # (H, W)
    low, high = (float(grey.min()), float(grey.max())) if grey.size else (0.0, 0.0)
    is_16_bit = image.mode.startswith("I;16") or getattr(image, "format", None) in ("PPM", "PNG")
    if not (np.isfinite(low) and np.isfinite(high) and 0 <= low and high <= 65_535):
        raise DataError(
            f"{name} has grey values from {low:g} to {high:g}, and nothing says which is white; save it with 8 or 16 bits"
        )
    white = 1 if high <= 1 and image.mode == "F" else 255 if high <= 255 and not is_16_bit else 65_535
    bits = np.empty(grey.shape, dtype=np.uint8)
    for start in range(0, len(grey), ROWS_AT_ONCE):
        part = grey[start : start + ROWS_AT_ONCE]
        if image.mode == "F":
            part = np.round(part * np.float32(255 / white))
        bits[start : start + ROWS_AT_ONCE] = part >> 8 if white == 65_535 and image.mode != "F" else part
    return Image.fromarray(bits)


def scaled_size(size: tuple[int, int], resolution: int, fit: str) -> tuple[int, int]:
    """Width and height, in pixels of the square, to which a picture (width, height) is resized whole."""
    if fit == "squeeze":
        return resolution, resolution
    if fit == "pad":
        width, height = (max(1, round(resolution * side / max(size))) for side in size)
        return width, height
    short = min(size)  # the longer side is rounded down, as torchvision's Resize does
    width, height = (resolution if side == short else int(resolution * side / short) for side in size)
    return width, height


def fit_box(size: tuple[int, int], resolution: int, fit: str) -> tuple[float, float, float, float]:
    """The rectangle (left, top, width, height) of a picture (width, height), in its pixels, that the square shows.

    It is the whole picture ("squeeze"), a part of it ("crop"), or more than it ("pad", "frame": left or top may be
    negative).
    """
    if fit == "frame":
        return frame_for(*size, CLEVR_ASPECT).in_pixels(*size)
    scaled = scaled_size(size, resolution, fit)
    left, top = (offset(side, resolution) * old / side for side, old in zip(scaled, size, strict=True))
    width, height = (resolution * old / side for side, old in zip(scaled, size, strict=True))
    return left, top, width, height


def offset(scaled: int, resolution: int) -> int:
    """Where the square begins along a scaled side, as torchvision's CenterCrop; negative beside a shorter side."""
    return round((scaled - resolution) / 2) if scaled > resolution else -((resolution - scaled) // 2)


def image_to_tensor(image: Image.Image, resolution: int, fit: str = "squeeze") -> torch.Tensor:
    """Resize an image to a square.

    PyTorch's filter for bytes takes half of Pillow's time; one pixel in 500 differs, by one level of 255.

    Args:
        resolution: side R of the square, in pixels.
        fit: "squeeze", the whole image, antialiased, as the published code does with scenes and faces; "crop", the short
            side to R, bicubic, and the middle of the long one, as it does with animals; "pad", the whole image in its
            own proportions, grey (0) beside it; "frame", rows cut off or repeated until it has the shape of CLEVR's
            pictures (`igm.data.framing`), then squeezed.

    Returns:
        pixels: (3, R, R), float32 in [-1, 1].
    """
    rgb = to_rgb(image)
    if fit == "crop":
        return to_range(crop_to_square(rgb, resolution))
    if fit == "frame":
        return to_range(squeezed(cut(np.array(rgb), frame_for(*rgb.size, CLEVR_ASPECT)), resolution))
    pixels = torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None]  # (1, 3, H, W) uint8
    width, height = scaled_size(rgb.size, resolution, fit)
    pixels = torch.nn.functional.interpolate(pixels, (height, width), mode="bilinear", antialias=True)[0]  # (3, h, w)
    if fit == "squeeze":
        return to_range(pixels)
    square = torch.zeros(3, resolution, resolution)
    left, top = -offset(width, resolution), -offset(height, resolution)
    square[:, top : top + height, left : left + width] = to_range(pixels)
    return square


def squeezed(pixels: np.ndarray, resolution: int) -> torch.Tensor:
    """Pixels (H, W, 3) of bytes resized to a square, antialiased: (3, R, R), bytes."""
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]  # (1, 3, H, W) uint8
    return torch.nn.functional.interpolate(image, (resolution, resolution), mode="bilinear", antialias=True)[0]


def to_range(pixels: torch.Tensor) -> torch.Tensor:
    """Bytes as float32 in [-1, 1]."""
    return pixels.float().div_(127.5).sub_(1)


def crop_to_square(rgb: Image.Image, resolution: int) -> torch.Tensor:
    """The middle of a picture as bytes (3, R, R): torchvision's Resize (bicubic) and CenterCrop."""
    scaled = scaled_size(rgb.size, resolution, "crop")
    if max(scaled) <= 8 * resolution:
        left, top = (offset(side, resolution) for side in scaled)
        square = rgb.resize(scaled, Image.Resampling.BICUBIC).crop((left, top, left + resolution, top + resolution))
    else:  # the same without making the long strip
        x, y, width, height = fit_box(rgb.size, resolution, "crop")
        box = (x, y, min(x + width, rgb.width), min(y + height, rgb.height))
        square = rgb.resize((resolution, resolution), Image.Resampling.BICUBIC, box=box)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)  # (3, R, R) uint8


def tensor_to_image(pixels: torch.Tensor) -> Image.Image:
    """Turn pixels (3, H, W) in [-1, 1] into a picture; values outside are clipped."""
    array = ((pixels.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(array.permute(1, 2, 0).numpy())  # (H, W, 3)
