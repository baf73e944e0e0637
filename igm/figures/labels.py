"""Sheets of attributes and of classes, and the accuracy of each attribute."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from igm.encoding import attribute_values
from igm.figures.sheet import TILE_WIDTH, draw_sheet, draw_stacked_sheet
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


@matplotlib.rc_context(STYLE)
def attribute_sheet(
    images: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    path: str | Path,
    columns: int = 4,
    max_images: int = 24,
) -> None:
    """Draw each test image beside its attributes with a tick or cross for the true and the predicted value.

    A wrong prediction is red. Of more than six attributes the wrong ones come first, and six are shown.

    Args:
        images: {image_id: image}; a record without an image gets an empty tile.
        records: result records with one-hot concepts; `concept_names` names the attributes.
        path: file to write, its suffix gives the format; parents are created.
        columns: pairs of image and panel per row.
        max_images: only the first that many records are drawn.

    Raises:
        ValueError: if there is no record, or a condition is not an attribute.
    """
    figure = draw_sheet(
        images, records, _draw_attribute_tile, columns=columns, max_images=max_images, panel_width=1.25 * TILE_WIDTH
    )
    save_figure(figure, path)


@matplotlib.rc_context(STYLE)
def attribute_bars(
    scores: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]], path: str | Path, max_attributes: int = 40
) -> None:
    """Draw the accuracy of each attribute, a bar per group with its 95 % interval over images, and the mean.

    Args:
        scores: {group: (metrics, ci95)} of `igm.tasks.attributes.attribute_metrics`.
        path: file to write; parents are created.

    Raises:
        ValueError: if there is no group.
    """
    if not scores:
        raise ValueError("no scores to draw")
    names = list(next(iter(scores.values()))[0]["accuracy_per_attribute"])[:max_attributes]
    figure = Figure(figsize=(1.6 + 0.42 * (len(names) + 1), 2.5), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    places, thickness = np.arange(len(names) + 1), 0.8 / len(scores)
    for number, (group, (metrics, ci95)) in enumerate(scores.items()):
        values = np.array([*(metrics["accuracy_per_attribute"][n] for n in names), metrics["accuracy"]])
        bounds = np.array([*(ci95["accuracy_per_attribute"][n] for n in names), ci95["accuracy"]])
        axes.bar(
            places + (number - (len(scores) - 1) / 2) * thickness,
            100 * values,
            thickness,
            yerr=100 * np.clip(np.stack([values - bounds[:, 0], bounds[:, 1] - values]), 0, None),
            color=(TRUE_COLOUR, PRED_COLOUR, *COLOURS[2:])[number % len(COLOURS)],
            error_kw={"elinewidth": 0.8, "capsize": 1.5},
            label=group,
        )
    axes.axhline(50, color="#C8C8C8", linewidth=0.6, linestyle=(0, (4, 3)), zorder=0)
    labels = [name.replace("_", " ") for name in names] + ["mean"]
    axes.set_xticks(places, labels, rotation=30 if len(names) < 8 else 90, ha="right" if len(names) < 8 else "center")
    axes.set(ylim=(0, 102), ylabel="accuracy (%)")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(scores), frameon=False, borderpad=0)
    open_frame(axes)
    save_figure(figure, path)


@matplotlib.rc_context(STYLE)
def label_sheet(
    images: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    path: str | Path,
    columns: int = 6,
    max_images: int = 24,
    max_names: int = 8,
) -> None:
    """Draw each test image over the ticks of its true and its predicted classes; a wrong row is coloured.

    Args:
        images: {image_id: image}; a record without an image gets an empty tile.
        records: result records whose conditions are one-hot rows. names: of the classes, in the order of the rows.
        path: file to write; parents are created.
        max_names: where there are more classes, only those of the truth and the prediction are listed.

    Raises:
        ValueError: if there is no record.
    """
    lines = min(len(names), max_names)
    figure = draw_stacked_sheet(
        images,
        records,
        lambda panel, record: _draw_ticks(panel, record, names, lines),
        columns=columns,
        max_images=max_images,
        side=1.5 * TILE_WIDTH,
        panel_height=0.13 * (lines + 1),
    )
    save_figure(figure, path)


def _draw_attribute_tile(axes: Axes, record: Mapping[str, Any], most: int = 6) -> None:
    unit_square(axes)
    axes.set_facecolor(PANEL_COLOUR)
    pred = attribute_values(record["conds_pred"])
    true = None if record["conds_true"] is None else attribute_values(record["conds_true"])
    names = record.get("concept_names") or [str(k) for k in range(len(pred))]
    order = (
        sorted(range(len(pred)), key=lambda k: true is None or true[k] == pred[k])
        if len(pred) > most
        else range(len(pred))
    )
    columns = [("true", 0.72, true, TRUE_COLOUR), ("predicted", 0.89, pred, "#333333")]
    for title, x, values, colour in columns:
        if values is not None:
            axes.text(x, 0.07, title[:4], fontsize=4, ha="center", va="center", color=colour)
    for line, k in enumerate(list(order)[:most]):
        y = 0.2 + 0.13 * line
        wrong = true is not None and true[k] != pred[k]
        axes.text(0.05, y, names[k].replace("_", " "), fontsize=4.6, va="center", color="#333333")
        for title, x, values, colour in columns:
            if values is not None:
                ink = "#C00000" if wrong and title == "predicted" else colour
                mark = "\N{CHECK MARK}" if values[k] else "\N{MULTIPLICATION SIGN}"
                axes.text(x, y, mark, fontsize=5.5, ha="center", va="center", color=ink, weight="bold")


def _draw_ticks(axes: Axes, record: Mapping[str, Any], names: Sequence[str], lines: int) -> None:
    true = None if record["conds_true"] is None else {int(np.argmax(row)) for row in record["conds_true"]}
    pred = {int(np.argmax(row)) for row in record["conds_pred"]}
    shown = list(range(len(names))) if len(names) <= lines else sorted((true or set()) | pred)[:lines]
    axes.set(xlim=(0, 1), ylim=(lines + 1, 0))
    axes.axis("off")
    for x, title in [(0.6, "true"), (0.86, "pred.")]:
        axes.text(x, 0.55, title, ha="center", va="center", fontsize=5.5, color=GREY)
    for y, number in enumerate(shown, start=1):
        wrong = true is not None and (number in true) != (number in pred)
        colour = PRED_COLOUR if wrong else "#333333"
        axes.text(0.02, y + 0.5, names[number], va="center", fontsize=6.5, color=colour)
        for x, chosen in [(0.6, true or ()), (0.86, pred)]:
            if number in chosen:
                mark = "\N{BALLOT X}" if wrong and chosen is pred else "\N{CHECK MARK}"
                axes.text(x, y + 0.5, mark, ha="center", va="center", fontsize=7, color=colour)
