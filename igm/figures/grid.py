"""A titled grid of images, their pixels kept exact."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from igm.figures.style import as_pil, write_picture


def save_image_grid(
    rows: Sequence[Sequence[Any]],
    path: str | Path,
    row_titles: Sequence[str] | None = None,
    column_titles: Sequence[str] | None = None,
) -> Image.Image:
    """Save images as a titled grid, e.g. the validation images of a training run.

    Small images are enlarged by a whole factor, so that their pixels stay exact; images of another size than the
    largest are resized to it. A row may be shorter than the others.

    Args:
        rows: images, PIL or (3, H, W) in [-1, 1].
        path: file to write; parents are created.
        row_titles: one per row, written left of it.
        column_titles: one per column, written above it.

    Returns:
        the grid.

    Raises:
        ValueError: if there is no image, or the number of titles is wrong.
    """
    tiles = [[as_pil(image) for image in row] for row in rows]
    num_columns = max((len(row) for row in tiles), default=0)
    if num_columns == 0:
        raise ValueError("no images to draw")
    for name, titles, number in [("row", row_titles, len(tiles)), ("column", column_titles, num_columns)]:
        if titles is not None and len(titles) != number:
            raise ValueError(f"{len(titles)} {name} titles for {number} {name}s")
    width, height = max((image.size for row in tiles for image in row), key=lambda size: size[0] * size[1])
    factor = max(1, math.ceil(128 / width))
    width, height = width * factor, height * factor
    font = _font(max(11, width // 11))
    gap, line = max(4, width // 32), math.ceil(font.size) + 6
    left = gap + max((math.ceil(font.getlength(title)) + gap for title in row_titles or []), default=0)
    top = gap + (line if column_titles else 0)
    grid = Image.new("RGB", (left + num_columns * (width + gap), top + len(tiles) * (height + gap)), "white")
    draw = ImageDraw.Draw(grid)
    for column, title in enumerate(column_titles or []):
        draw.text(
            (left + column * (width + gap) + width // 2, top - 3), _fit(title, font, width), "#222222", font, "mb"
        )
    for row, images in enumerate(tiles):
        y = top + row * (height + gap)
        if row_titles:
            draw.text((left - gap, y + height // 2), row_titles[row], "#222222", font, "rm")
        for column, image in enumerate(images):
            grid.paste(image.resize((width, height), Image.Resampling.NEAREST), (left + column * (width + gap), y))
    write_picture(path, grid.save)
    return grid


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _fit(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    while len(text) > 1 and font.getlength(text) > width:
        text = text[:-2] + "\N{HORIZONTAL ELLIPSIS}"
    return text
