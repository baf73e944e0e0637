"""Sheets of positions, and the perception rate against the radius."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from igm.figures.sheet import MARGIN, draw_sheet
from igm.figures.style import (
    COLOURS,
    DPI,
    GREY,
    PANEL_COLOUR,
    PRED_COLOUR,
    STYLE,
    TRUE_COLOUR,
    open_frame,
    save_figure,
    unit_square,
)
from igm.matching import HEADLINE_RADIUS, RADII, matched_distances, num_within
from igm.statistics import share_interval

LEGEND_HEIGHT = 0.14  # inches


@matplotlib.rc_context(STYLE)
def position_sheet(
    images: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    path: str | Path,
    columns: int = 4,
    max_images: int = 24,
) -> None:
    """Draw each test image beside a panel with its true (o) and predicted (+) positions.

    Args:
        images: {image_id: image}; a record without an image gets an empty tile. The first image gives the aspect.
        records: result records; those without ground truth show predictions only.
        path: file to write, its suffix gives the format; parents are created.
        columns: pairs of image and panel per row.
        max_images: only the first that many records are drawn.

    Raises:
        ValueError: if there is no record, or a condition is not a position.
    """
    figure = draw_sheet(
        images,
        records,
        lambda panel, record: _draw_position_tile(panel, record["conds_true"], record["conds_pred"]),
        columns=columns,
        max_images=max_images,
        header=LEGEND_HEIGHT,
    )
    top = 1 - 0.5 * MARGIN / figure.get_size_inches()[1]
    _add_position_legend(figure, any(r["conds_true"] is not None for r in records), top)
    save_figure(figure, path)


@matplotlib.rc_context(STYLE)
def perception_curve(
    records_by_group: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path, max_radius: float = 0.15
) -> None:
    """Draw the perception rate against the radius, a curve per group with its 95 % interval over images.

    Args:
        records_by_group: {group: result records}; records without ground truth are left out.
        path: file to write; parents are created.
        max_radius: end of the radius axis, in [0, 1] image coordinates.

    Raises:
        ValueError: if no record has ground truth.
    """
    figure = Figure(figsize=(3.4, 2.5), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    radii = np.linspace(0, max_radius, 61)
    for colour, line, (group, records) in zip(
        cycle(COLOURS[1::-1] + COLOURS[2:]), cycle(("-", "--", "-.")), records_by_group.items()
    ):
        distances, num_true = matched_distances(records)
        if num_true.sum() == 0:
            continue
        found = [num_within(distances, radius) for radius in radii]
        bounds = 100 * np.array([share_interval(n, num_true) for n in found])
        axes.fill_between(radii, *bounds.T, color=colour, alpha=0.16, linewidth=0)
        label = f"{group} ({len(num_true)} images)"
        axes.plot(radii, [100 * n.sum() / num_true.sum() for n in found], line, color=colour, label=label)
    if not axes.lines:
        raise ValueError("no record with ground truth")
    for radius in RADII:
        dark = radius == HEADLINE_RADIUS
        axes.axvline(radius, color=GREY if dark else "#C8C8C8", linewidth=0.6, linestyle=(0, (4, 3)), zorder=0)
    axes.set(
        xlim=(0, max_radius), ylim=(0, 102), xlabel="radius in [0, 1] image coordinates", ylabel="perception rate (%)"
    )
    axes.set_yticks(range(0, 101, 20))
    axes.legend(loc="lower right", frameon=False)
    open_frame(axes)
    save_figure(figure, path)


def _draw_position_tile(axes: Axes, true: ArrayLike | None, pred: ArrayLike) -> None:
    unit_square(axes)
    axes.set_facecolor(PANEL_COLOUR)
    if true is not None:
        axes.plot(*_positions(true).T, **_marker("o"))
    axes.plot(*_positions(pred).T, **_marker("+"))


def _marker(kind: str) -> dict[str, Any]:
    shared = {"marker": kind, "linestyle": "none", "clip_on": False}
    if kind == "o":
        return {
            **shared,
            "markersize": 5.2,
            "markeredgewidth": 0.9,
            "markeredgecolor": TRUE_COLOUR,
            "markerfacecolor": "none",
        }
    return {**shared, "markersize": 5.2, "markeredgewidth": 1.0, "markeredgecolor": PRED_COLOUR, "zorder": 3}


def _positions(conds: ArrayLike) -> np.ndarray:
    """Conditions as (K, 2) positions, those off the image left out: they would be drawn into the neighbouring tile."""
    array = np.asarray(conds, dtype=float)
    array = array.reshape(0, 2) if array.size == 0 else array
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"conditions must be positions (K, 2), got shape {array.shape}")
    return array[((array >= -0.02) & (array <= 1.02)).all(axis=1)]


def _add_position_legend(figure: Figure, with_truth: bool, top: float) -> None:
    handles = [Line2D([], [], **_marker("o"), label="true")] if with_truth else []
    handles.append(Line2D([], [], **_marker("+"), label="predicted"))
    figure.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, top),
        ncols=2,
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        handletextpad=0.2,
        columnspacing=1.5,
        fontsize=6.5,
    )
