"""Scenes whose objects are labelled with their attributes, and the confusion of each attribute."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from igm.figures.sheet import add_axes, cells, drawable
from igm.figures.style import DPI, FRAME_COLOUR, PRED_COLOUR, STYLE, draw_image_tile, save_figure, sheet_title

TILE_WIDTH, TITLE_HEIGHT, ROW_GAP = 2.5, 0.17, 0.08  # inches
LABEL_HEIGHT = 0.05  # of a line of text, in the picture's height: labels nearer than two lines are moved apart
CELL = 0.3  # inches, of a confusion matrix


@matplotlib.rc_context(STYLE)
def scene_sheet(
    images: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    path: str | Path,
    columns: int = 3,
    max_images: int = 12,
) -> None:
    """Draw pictures with a mark and a label at each object found.

    Args:
        images: {image_id: image}. records: with `objects_pred`, and `objects_true` where it is known.
        path: file to write. columns: pictures per row. max_images: only the first that many are drawn.

    Raises:
        ValueError: there is no record.
    """
    records, pictures = drawable(images, records, max_images)
    aspect = next((image.height / image.width for image in pictures.values()), 1.0)
    size = (TILE_WIDTH, TITLE_HEIGHT + TILE_WIDTH * aspect)
    figure, corners = cells(len(records), columns, size, ROW_GAP)
    for record, (left, bottom) in zip(records, corners, strict=True):
        axes = add_axes(figure, left, bottom, TILE_WIDTH, TILE_WIDTH * aspect)
        draw_image_tile(axes, pictures.get(record["image_id"]))
        axes.set_title(sheet_title(record), loc="left", fontsize=5.5, pad=2.5, color="#333333")
        draw_objects(axes, record)
    save_figure(figure, path)


def draw_objects(axes: Axes, record: Mapping[str, Any]) -> None:
    """Mark and label the objects of a record on axes in image coordinates."""
    outline = [withStroke(linewidth=1.4, foreground="white")]
    places = np.asarray(record["conds_pred"], dtype=float).reshape(-1, 2)
    heights = label_heights(places)
    for (x, y), height, own in zip(places, heights, record["objects_pred"], strict=True):
        axes.plot(x, y, marker="+", markersize=5, markeredgewidth=1.1, color=PRED_COLOUR, path_effects=outline)
        side = "left" if x < 0.5 else "right"
        shift = 0.015 if x < 0.5 else -0.015
        axes.text(
            x + shift, height, label_of(own), fontsize=4.6, ha=side, va="center", color="#111111", path_effects=outline
        )


def label_of(attributes: Mapping[str, str | None]) -> str:
    """ "small red metal cube", in the order that people say it; other attributes follow."""
    said = ("size", "color", "material", "shape")
    names = [name for name in said if name in attributes] + [name for name in attributes if name not in said]
    return " ".join(str(attributes[name]) for name in names if attributes[name])


def label_heights(places: np.ndarray) -> np.ndarray:
    """Where labels stand (K,): at their objects, moved down where one above would cover them."""
    heights = places[:, 1].copy()
    order = heights.argsort()
    for above, own in zip(order[:-1], order[1:], strict=True):
        if abs(places[above, 0] - places[own, 0]) < 0.4:
            heights[own] = max(heights[own], heights[above] + LABEL_HEIGHT)
    return heights


@matplotlib.rc_context(STYLE)
def attribute_confusion(
    pairs: Sequence[tuple[Mapping[str, str], Mapping[str, str]]], path: str | Path, most: int = 12
) -> Figure:
    """Draw for each attribute which value was taken for which.

    Args:
        pairs: (true, predicted) attributes of every found object. most: attributes of more values are left out.

    Raises:
        ValueError: there is no object, or no attribute of so few values.
    """
    fields = list(pairs[0][0]) if pairs else []
    values = {field: sorted({str(own[field]) for pair in pairs for own in pair}) for field in fields}
    shown = {field: names for field, names in values.items() if len(names) <= most}
    if not shown:
        raise ValueError("no attribute to draw")
    left, gap, top, bottom = 0.62, 0.66, 0.24, 0.62
    widths = [max(len(names) * CELL, 1.1) for names in shown.values()]
    height = max(map(len, shown.values())) * CELL + top + bottom
    width = left + sum(widths) + gap * (len(shown) - 1) + 0.1
    figure, x = Figure(figsize=(width, height), dpi=DPI, facecolor="white"), left
    for (field, names), room in zip(shown.items(), widths, strict=True):
        side = len(names) * CELL
        axes = figure.add_axes((x / width, 1 - (top + side) / height, side / width, side / height))
        draw_matrix(axes, confusion(pairs, field, names), field, names)
        x += room + gap
    save_figure(figure, path)
    return figure


def confusion(pairs: Sequence[tuple[Mapping, Mapping]], field: str, names: Sequence[str]) -> np.ndarray:
    """How often each true value (rows) was taken for each value (columns)."""
    numbers = {name: number for number, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names)), dtype=int)
    for true, pred in pairs:
        matrix[numbers[str(true[field])], numbers[str(pred[field])]] += 1
    return matrix


def draw_matrix(axes: Axes, matrix: np.ndarray, field: str, names: Sequence[str]) -> None:
    """One confusion matrix: shares of each row as shades, numbers where there are any."""
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15)
    for (row, column), number in np.ndenumerate(matrix):
        if number:
            ink = "white" if shares[row, column] > 0.7 else "#222222"
            axes.text(column, row, str(number), ha="center", va="center", fontsize=5.5, color=ink)
    right = 100 * matrix.trace() / max(matrix.sum(), 1)
    axes.set_title(f"{field}: {right:.1f} %", fontsize=7, pad=4)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=6)
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.set_xlabel("predicted", labelpad=2, fontsize=7)
    axes.set_ylabel("true", labelpad=2, fontsize=7)
    axes.tick_params(length=0, pad=2)
    axes.spines[:].set(color=FRAME_COLOUR, linewidth=0.5)
