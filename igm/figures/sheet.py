"""The layout of all sheets: each record's image beside, or over, a panel with its truth and prediction."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from igm.figures.style import DPI, as_pil, draw_image_tile, sheet_title

# Measures in inches.
TILE_WIDTH, TILE_GAP, CELL_GAP, TITLE_HEIGHT, MARGIN = 0.84, 0.05, 0.16, 0.16, 0.08


def draw_sheet(
    images: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    draw_panel: Callable[[Axes, Mapping[str, Any]], None],
    *,
    columns: int,
    max_images: int,
    panel_width: float = TILE_WIDTH,
    tile_width: float = TILE_WIDTH,
    header: float = 0.0,
    mark: Callable[[Axes, Mapping[str, Any]], None] | None = None,
) -> Figure:
    """Draw images with their titles, each with its panel on the right.

    Args:
        images: {image_id: image}; a record without an image gets an empty tile. The first image gives the aspect.
        draw_panel: called with the axes of a panel and its record.
        columns: pairs of image and panel per row. max_images: only the first that many records are drawn.
        panel_width, tile_width, header: inches; the header is room left above all rows.
        mark: called with the axes of an image and its record, to draw on it.

    Raises:
        ValueError: if there is no record.
    """
    records, images = drawable(images, records, max_images)
    aspect = next((image.height / image.width for image in images.values()), 1.0)
    tile_height = tile_width * aspect
    size = (tile_width + TILE_GAP + panel_width, TITLE_HEIGHT + tile_height)
    figure, corners = cells(len(records), columns, size, TILE_GAP, header)
    for record, (left, bottom) in zip(records, corners, strict=True):
        picture = add_axes(figure, left, bottom, tile_width, tile_height)
        draw_image_tile(picture, images.get(record["image_id"]))
        if mark is not None:
            mark(picture, record)
        picture.set_title(sheet_title(record), loc="left", fontsize=5.5, pad=2.5, color="#333333")
        draw_panel(add_axes(figure, left + tile_width + TILE_GAP, bottom, panel_width, tile_height), record)
    return figure


def draw_stacked_sheet(
    images: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    draw_panel: Callable[[Axes, Mapping[str, Any]], None],
    *,
    columns: int,
    max_images: int,
    side: float,
    panel_height: float,
) -> Figure:
    """As `draw_sheet`, with the panel under its square image, and no titles."""
    records, images = drawable(images, records, max_images)
    figure, corners = cells(len(records), columns, (side, side + panel_height), CELL_GAP)
    for record, (left, bottom) in zip(records, corners, strict=True):
        picture = add_axes(figure, left, bottom + panel_height, side, side)
        draw_image_tile(picture, images.get(record["image_id"]))
        draw_panel(add_axes(figure, left, bottom, side, panel_height), record)
    return figure


def drawable(images: Mapping[str, Any], records: Sequence, max_images: int) -> tuple[list, dict]:
    """The first records, and their images as PIL images.

    Raises:
        ValueError: if there is no record.
    """
    records = list(records)[:max_images]
    if not records:
        raise ValueError("no records to draw")
    return records, {r["image_id"]: as_pil(images[r["image_id"]]) for r in records if r["image_id"] in images}


def cells(
    number: int, columns: int, size: tuple[float, float], row_gap: float, header: float = 0.0
) -> tuple[Figure, list[tuple[float, float]]]:
    """A white figure for `number` cells in rows, and the lower left corner of each, in inches."""
    (cell_width, cell_height), columns = size, min(columns, number)
    rows = math.ceil(number / columns)
    width = max(2 * MARGIN + columns * cell_width + (columns - 1) * CELL_GAP, 2.0)
    height = 2 * MARGIN + header + rows * cell_height + (rows - 1) * row_gap
    lefts = [MARGIN + column * (cell_width + CELL_GAP) for column in range(columns)]
    bottoms = [height - MARGIN - header - (row + 1) * cell_height - row * row_gap for row in range(rows)]
    corners = [(left, bottom) for bottom in bottoms for left in lefts]
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white"), corners[:number]


def add_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in inches."""
    whole_width, whole_height = figure.get_size_inches()
    return figure.add_axes((left / whole_width, bottom / whole_height, width / whole_width, height / whole_height))
