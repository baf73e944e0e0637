"""Scenes whose objects are labelled with their attributes, and the confusion of each attribute."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from igm.figures.sheet import draw_sheet
from igm.figures.style import DPI, FRAME_COLOUR, PRED_COLOUR, STYLE, save_figure
from igm.matching import HEADLINE_RADIUS, match_points

SCENE_WIDTH = 1.9  # inches, of a picture
PANEL_WIDTH = 1.35  # inches, of the list beside a picture
LINE = 0.1  # inches, of that list
WRONG = "#C00000"
SAID = ("size", "color", "material", "shape")  # in the order that people say them
CELL = 0.3  # inches, of a confusion matrix


@matplotlib.rc_context(STYLE)
def scene_sheet(
    images: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    path: str | Path,
    columns: int = 3,
    max_images: int = 12,
) -> None:
    """Draw pictures with a number at each object found, and a list of what they are; what is known to be wrong in red.

    Args:
        images: {image_id: image}. records: with `objects_pred`, and `objects_true` where it is known.
        path: file to write. columns: pictures per row. max_images: only the first that many are drawn.

    Raises:
        ValueError: there is no record.
    """
    figure = draw_sheet(
        images,
        records,
        list_objects,
        columns=columns,
        max_images=max_images,
        panel_width=PANEL_WIDTH,
        tile_width=SCENE_WIDTH,
        mark=number_objects,
    )
    save_figure(figure, path)


def number_objects(axes: Axes, record: Mapping[str, Any]) -> None:
    """A number at each object of a record, on axes in image coordinates."""
    outline = [withStroke(linewidth=1.2, foreground="white")]
    for number, (x, y) in enumerate(record["conds_pred"], 1):
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6, "path_effects": outline}
        axes.text(x, y, str(number), color=PRED_COLOUR, weight="bold", **style)


def list_objects(axes: Axes, record: Mapping[str, Any]) -> None:
    """What each object of a record is, a line each; red where the truth is known and another, or there is no object."""
    axes.set_axis_off()
    height = axes.get_window_extent().height / axes.figure.dpi  # inches
    line = min(LINE, height / max(len(record["objects_pred"]), 1)) / height
    true = true_objects(record)
    for number, own in enumerate(record["objects_pred"]):
        names = in_spoken_order(own)
        y = 1 - (number + 0.5) * line
        axes.text(0.0, y, str(number + 1), fontsize=4.8, va="center", color=PRED_COLOUR, transform=axes.transAxes)
        for place, name in enumerate(names):
            wrong = true is not None and (true[number] is None or true[number][name] != own[name])  # type: ignore[index]
            x, colour = 0.1 + 0.9 * place / len(names), WRONG if wrong else "#222222"
            axes.text(x, y, str(own[name]), fontsize=4.8, va="center", color=colour, transform=axes.transAxes)


def true_objects(record: Mapping[str, Any]) -> list[Mapping[str, Any] | None] | None:
    """For each prediction the true object within 0.05 of it, None where there is none; None where nobody knows."""
    if not record.get("objects_true"):
        return None
    matched: list[Mapping[str, Any] | None] = [None] * len(record["objects_pred"])
    for row, column, distance in zip(*match_points(record["conds_pred"], record["conds_true"]), strict=True):
        if distance <= HEADLINE_RADIUS:
            matched[row] = record["objects_true"][column]
    return matched


def label_of(attributes: Mapping[str, str | None]) -> str:
    """ "small red metal cube", in the order that people say it; other attributes follow."""
    return " ".join(str(attributes[name]) for name in in_spoken_order(attributes) if attributes[name])


def in_spoken_order(attributes: Mapping[str, Any]) -> list[str]:
    """The names of attributes as people order them."""
    return [name for name in SAID if name in attributes] + [name for name in attributes if name not in SAID]


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
