"""Pictures on their way in and out: uploads that may be anything, and pictures as the page shows them."""

import base64
import functools
import io
import os
from collections.abc import Callable
from html import escape
from typing import Any

import gradio as gr
from PIL import Image

from igm import UserError
from igm.data import DataError
from igm.data.images import decode_image, inspect_image
from igm.models import ModelError

from .turn import in_turn

MOST_BYTES = 20 << 20
MOST_PIXELS = 50_000_000
UNLIKE = "This picture is unlike all that the model knows; what it says of it means little."


def opened(path: str | None) -> Image.Image:
    """An uploaded picture, upright and in RGB.

    Raises:
        UserError: none, too large, or not a picture.
    """
    if path is None:
        raise UserError("No file has come; give a picture.")
    if os.path.getsize(path) > MOST_BYTES:
        raise UserError(f"The file has more than {MOST_BYTES >> 20} MB; give a smaller picture.")
    try:
        width, height = inspect_image(path).size
        if width * height > MOST_PIXELS:
            raise UserError(
                f"The picture has {width} x {height} pixels, more than {MOST_PIXELS // 10**6} million; make it smaller."
            )
        return decode_image(path)
    except DataError:
        raise UserError(
            "The file is not a picture that can be read; give a PNG, JPEG, WebP, GIF, BMP or TIFF."
        ) from None


def spoken(handler: Callable) -> Callable:
    """A handler whose mistakes are one sentence on the page; it computes in turn."""

    @functools.wraps(handler)
    def wrapped(*args: Any) -> Any:
        try:
            return in_turn(handler)(*args)
        except (UserError, DataError, ModelError) as error:
            raise gr.Error(
                escape(str(error), quote=False), title="Not done", duration=15, print_exception=False
            ) from None

    return wrapped


def as_url(image: Image.Image, side: int | None = None) -> str:
    """A picture as a data URL, its longer side brought to `side` pixels."""
    if side is not None:
        factor = side / max(image.size)
        size = (max(1, round(factor * image.width)), max(1, round(factor * image.height)))
        image = image.resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=92)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def shown(image: Image.Image, caption: str = "", side: int = 640) -> str:
    """HTML of a picture with a caption."""
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure class="igm-figure"><img alt="" src="{as_url(image, side)}">{below}</figure>'
