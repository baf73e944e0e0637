"""Figures of inferred counts: the error against the count, the confusion of counts, the reliability of confidences."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from igm.figures.style import DPI, GREY, PRED_COLOUR, STYLE, TRUE_COLOUR, open_frame, save_figure, sheet_title
from igm.statistics import count_confusion, reliability

DARK = "#333333"


@matplotlib.rc_context(STYLE)
def error_by_count(
    records: Sequence[Mapping[str, Any]], path: str | Path, columns: int = 4, max_images: int = 12
) -> Figure:
    """Draw, for each image, the denoising error of the best set of every size K, the true and the predicted K marked.

    The predicted K need not have the lowest error: every object has to lower it by a penalty (`igm.inference.counting`).

    Args:
        records: result records with `error_by_count`, and with `standard_error_by_count` for the bars.
        path: file to write, its suffix gives the format; parents are created.
        columns: images per row. max_images: only the first that many records are drawn.

    Returns:
        the figure, one axes per image.

    Raises:
        ValueError: if there is no record, or errors and standard errors differ in number.
    """
    records = list(records)[:max_images]
    if not records:
        raise ValueError("no records to draw")
    columns = min(columns, len(records))
    rows = math.ceil(len(records) / columns)
    figure = Figure(figsize=(max(1.72 * columns + 0.2, 2.9), 1.35 * rows + 0.45), dpi=DPI, layout="constrained")
    for number, record in enumerate(records, start=1):
        axes = figure.add_subplot(rows, columns, number)
        _draw_errors(axes, record)
        axes.set_title(sheet_title({**record, "error": None}), loc="left", fontsize=6, pad=3, color=DARK)
    figure.supxlabel("number of objects K", fontsize=8)
    figure.supylabel("denoising error", fontsize=8)
    handles = {label: h for axes in figure.axes for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=3, frameon=False, borderpad=0)
    save_figure(figure, path)
    return figure


def _draw_errors(axes: Axes, record: Mapping[str, Any]) -> None:
    errors = np.asarray(record["error_by_count"], dtype=float)  # (K_max,)
    bars = record.get("standard_error_by_count")
    if bars is not None and len(bars) != len(errors):
        raise ValueError(f"{record['image_id']}: {len(errors)} errors and {len(bars)} standard errors")
    counts = np.arange(1, len(errors) + 1)
    if record["num_true"] is not None:
        axes.axvline(record["num_true"], color=TRUE_COLOUR, linewidth=0.9, linestyle=(0, (4, 3)), label="true K")
    line: dict[str, Any] = {
        "color": DARK,
        "marker": "o",
        "markersize": 2.2,
        "linewidth": 1.0,
        "capsize": 1.3,
        "elinewidth": 0.7,
    }
    axes.errorbar(
        counts, errors, yerr=bars, **line, label="error" if bars is None else "error \N{PLUS-MINUS SIGN} standard error"
    )
    pred = record["num_pred"]
    ring: dict[str, Any] = {
        "markersize": 6.5,
        "markerfacecolor": "none",
        "markeredgecolor": PRED_COLOUR,
        "markeredgewidth": 1.1,
    }
    axes.plot(pred, errors[pred - 1], "o", zorder=3, **ring, label="predicted K")
    axes.tick_params(labelsize=6, length=2, pad=1.5)
    axes.set_xlim(0.4, len(errors) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=2))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.margins(y=0.1)
    open_frame(axes)


@matplotlib.rc_context(STYLE)
def confusion_matrices(
    records_by_group: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path, cell: float = 0.27
) -> Figure:
    """Draw the number of images of every true and predicted count, a matrix per group; the shade is the share of a row.

    Args:
        records_by_group: {group: result records}; records without ground truth are left out.
        path: file to write; parents are created. cell: side of a cell in inches.

    Returns:
        the figure, one axes per group.

    Raises:
        ValueError: if no record has ground truth.
    """
    found = {group: _table(count_confusion(records)) for group, records in records_by_group.items()}
    tables = {group: table for group, table in found.items() if table is not None}
    if not tables:
        raise ValueError("no record with ground truth")
    shapes = [matrix.shape for matrix, _, _ in tables.values()]
    left, gap, top, bottom = 0.38, 0.62, 0.22, 0.34
    widths = [max(shape[1] * cell, 1.3) for shape in shapes]  # room for the title
    width = left + sum(widths) + gap * (len(shapes) - 1) + 0.12
    height = max(shape[0] for shape in shapes) * cell + top + bottom
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    x = left
    for (group, (matrix, true, pred)), room in zip(tables.items(), widths, strict=True):
        rows, columns = matrix.shape
        box = (x / width, 1 - (top + rows * cell) / height, columns * cell / width, rows * cell / height)
        _draw_confusion(figure.add_axes(box), matrix, true, pred, group)
        x += room + gap
    save_figure(figure, path)
    return figure


def _table(confusion: Mapping[int, Mapping[int, int]]) -> tuple[np.ndarray, range, range] | None:
    """The dict as a matrix (true, predicted) with its two ranges of counts; columns cover both, to show the diagonal."""
    if not confusion:
        return None
    every = [*confusion, *(pred for row in confusion.values() for pred in row)]
    true, pred = range(min(confusion), max(confusion) + 1), range(min(every), max(every) + 1)
    return np.array([[confusion.get(t, {}).get(p, 0) for p in pred] for t in true]), true, pred


def _draw_confusion(axes: Axes, matrix: np.ndarray, true: range, pred: range, group: str) -> None:
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
    for (row, column), number in np.ndenumerate(matrix):
        if number:
            ink = "white" if shares[row, column] > 0.7 else "#222222"
            axes.text(column, row, str(number), ha="center", va="center", fontsize=6.5, color=ink)
        if true[row] == pred[column]:
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=GREY, linewidth=0.7))
    right = sum(matrix[t - true[0], t - pred[0]] for t in true)
    axes.set_title(f"{group}: {100 * right / matrix.sum():.1f} % of {matrix.sum()} right", fontsize=7, pad=4)
    axes.set_xticks(range(len(pred)), list(map(str, pred)))
    axes.set_yticks(range(len(true)), list(map(str, true)))
    axes.set_xlabel("predicted K", labelpad=2)
    axes.set_ylabel("true K", labelpad=2)
    axes.tick_params(length=0, pad=3)
    axes.spines[:].set(color=GREY, linewidth=0.5)


@matplotlib.rc_context(STYLE)
def reliability_diagrams(items: Mapping[str, tuple[np.ndarray, np.ndarray]], path: str | Path) -> Figure:
    """Draw confidence against the share that is right, a panel per kind of item; see `igm.metrics.reliability`.

    Args:
        items: {kind: (confidences (N,), right (N,))}, N at least 1.
        path: file to write; parents are created.

    Returns:
        the figure, one axes per kind.

    Raises:
        ValueError: if there is no item.
    """
    if not items or not all(len(confidences) for confidences, _ in items.values()):
        raise ValueError("no items to draw")
    figure = Figure(figsize=(2.3 * len(items) + 0.15, 2.62), dpi=DPI, layout="constrained")
    for number, (kind, (confidences, right)) in enumerate(items.items(), start=1):
        axes = figure.add_subplot(1, len(items), number)
        bins, error = reliability(confidences, right)
        mean, share = bins["confidence"], bins["share"]
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.7, linestyle=(0, (4, 3)), zorder=0)
        bars = np.clip([share - bins["low"], bins["high"] - share], 0, None)
        style: dict[str, Any] = {
            "color": TRUE_COLOUR,
            "marker": "o",
            "markersize": 3.2,
            "linestyle": "none",
            "elinewidth": 0.8,
        }
        label = f"{len(confidences):,} {kind}, ECE {error:.3f}"
        drawn = axes.errorbar(mean, share, yerr=bars, **style, capsize=1.5, label=label)
        for artist in drawn.get_children():
            artist.set_clip_on(False)  # whole at 1 and 1
        lowest = math.floor(5 * min(mean.min(), bins["low"].min())) / 5  # most confidences are high: no empty corner
        ticks = np.linspace(lowest, 1, round(5 * (1 - lowest)) + 1)
        axes.set(xlim=(lowest, 1), ylim=(lowest, 1), xticks=ticks, yticks=ticks, xlabel="confidence")
        axes.set_ylabel("share right" if number == 1 else "")
        axes.set_box_aspect(1)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), frameon=False, handletextpad=0.3, borderpad=0)
        open_frame(axes)
    save_figure(figure, path)
    return figure
