"""Pictures drawn from result records and images alone; no network is needed to draw them again.

Positions are (x, y) in [0, 1] image coordinates, y down. Images are PIL images, or float arrays or tensors (3, H, W)
in [-1, 1]. `python -m igm.figures DIR` draws the figures of a results folder again.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from PIL import Image, ImageColor, ImageDraw, ImageFont
from scipy.spatial import KDTree

from igm.metrics import (
    HEADLINE_RADIUS,
    RADII,
    attribute_metrics,
    attribute_values,
    bootstrap_interval,
    matched_distances,
    num_within,
)
from igm.results import read_options, read_results

# Okabe and Ito's colours, told apart by readers with any colour vision.
TRUE_COLOUR, PRED_COLOUR = "#0072B2", "#D55E00"
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#4D4D4D")
PANEL_COLOUR, FRAME_COLOUR, GREY = "#FAFAFA", "#9A9A9A", "#666666"

DPI = 200
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.linewidth": 0.6,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.4,
    "pdf.fonttype": 42,  # text stays text in a PDF
}

# Measures of a position sheet, in inches.
_TILE_WIDTH, _TILE_GAP, _PAIR_GAP, _TITLE_HEIGHT, _MARGIN, _LEGEND_HEIGHT = 0.84, 0.05, 0.16, 0.16, 0.08, 0.14

_GIF_FRAMES_PER_SECOND = 15
_GIF_HOLD_SECONDS = 1.5
_GIF_SUPERSAMPLING = 3  # PIL draws without smoothing: draw larger, then shrink
_GIF_IMAGE_COLOURS = 128  # of 256; the others are kept for markers and panel
_GIF_GAP = 8  # pixels around picture and panel


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
    records = list(records)[:max_images]
    if not records:
        raise ValueError("no records to draw")
    images = {
        record["image_id"]: as_pil(images[record["image_id"]]) for record in records if record["image_id"] in images
    }
    aspect = next((image.height / image.width for image in images.values()), 1.0)
    columns = min(columns, len(records))
    rows = math.ceil(len(records) / columns)
    pair_width, tile_height = 2 * _TILE_WIDTH + _TILE_GAP, _TILE_WIDTH * aspect
    width = max(2 * _MARGIN + columns * pair_width + (columns - 1) * _PAIR_GAP, 2.0)
    row_height = _TITLE_HEIGHT + tile_height
    height = 2 * _MARGIN + _LEGEND_HEIGHT + rows * row_height + (rows - 1) * _TILE_GAP
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    for index, record in enumerate(records):
        row, column = divmod(index, columns)
        left = _MARGIN + column * (pair_width + _PAIR_GAP)
        bottom = height - _MARGIN - _LEGEND_HEIGHT - (row + 1) * row_height - row * _TILE_GAP
        tiles = [
            figure.add_axes((x / width, bottom / height, _TILE_WIDTH / width, tile_height / height))
            for x in (left, left + _TILE_WIDTH + _TILE_GAP)
        ]
        _draw_image_tile(tiles[0], images.get(record["image_id"]))
        _draw_position_tile(tiles[1], record["conds_true"], record["conds_pred"])
        tiles[0].set_title(_sheet_title(record), loc="left", fontsize=5.5, pad=2.5, color="#333333")
    _add_position_legend(figure, any(r["conds_true"] is not None for r in records), 1 - 0.5 * _MARGIN / height)
    _save(figure, path)


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
    records = list(records)[:max_images]
    if not records:
        raise ValueError("no records to draw")
    images = {r["image_id"]: as_pil(images[r["image_id"]]) for r in records if r["image_id"] in images}
    aspect = next((image.height / image.width for image in images.values()), 1.0)
    columns = min(columns, len(records))
    rows = math.ceil(len(records) / columns)
    panel_width, tile_height = 1.25 * _TILE_WIDTH, _TILE_WIDTH * aspect
    pair_width = _TILE_WIDTH + _TILE_GAP + panel_width
    width = max(2 * _MARGIN + columns * pair_width + (columns - 1) * _PAIR_GAP, 2.0)
    row_height = _TITLE_HEIGHT + tile_height
    height = 2 * _MARGIN + rows * row_height + (rows - 1) * _TILE_GAP
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    for index, record in enumerate(records):
        row, column = divmod(index, columns)
        left = _MARGIN + column * (pair_width + _PAIR_GAP)
        bottom = height - _MARGIN - (row + 1) * row_height - row * _TILE_GAP
        picture, panel = (
            figure.add_axes((x / width, bottom / height, tile_width / width, tile_height / height))
            for x, tile_width in ((left, _TILE_WIDTH), (left + _TILE_WIDTH + _TILE_GAP, panel_width))
        )
        _draw_image_tile(picture, images.get(record["image_id"]))
        _draw_attribute_tile(panel, record)
        picture.set_title(_sheet_title(record), loc="left", fontsize=5.5, pad=2.5, color="#333333")
    _save(figure, path)


@matplotlib.rc_context(STYLE)
def attribute_bars(
    records_by_group: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path, max_attributes: int = 40
) -> None:
    """Draw the accuracy of each attribute, a bar per group with its 95 % interval over images, and the mean.

    Args:
        records_by_group: {group: result records}; records without ground truth are left out.
        path: file to write; parents are created.

    Raises:
        ValueError: if no record has ground truth.
    """
    scores = {group: attribute_metrics(records) for group, records in records_by_group.items()}
    scores = {group: score for group, score in scores.items() if score[0]["accuracy"] is not None}
    if not scores:
        raise ValueError("no record with ground truth")
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
    _open_frame(axes)
    _save(figure, path)


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
    records = list(records)[:max_images]
    if not records:
        raise ValueError("no records to draw")
    columns, lines = min(columns, len(records)), min(len(names), max_names)
    rows = math.ceil(len(records) / columns)
    side, line = 2 * _TILE_WIDTH * 0.75, 0.13
    panel = (lines + 1) * line
    width = 2 * _MARGIN + columns * side + (columns - 1) * _PAIR_GAP
    height = 2 * _MARGIN + rows * (side + panel) + (rows - 1) * _PAIR_GAP
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    for index, record in enumerate(records):
        row, column = divmod(index, columns)
        left = _MARGIN + column * (side + _PAIR_GAP)
        bottom = height - _MARGIN - (row + 1) * (side + panel) - row * _PAIR_GAP
        tile = figure.add_axes((left / width, (bottom + panel) / height, side / width, side / height))
        image = images.get(record["image_id"])
        _draw_image_tile(tile, None if image is None else as_pil(image))
        ticks = figure.add_axes((left / width, bottom / height, side / width, panel / height))
        _draw_ticks(ticks, record, names, lines)
    _save(figure, path)


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
        bounds = 100 * np.array([bootstrap_interval(n, num_true) for n in found])
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
    _open_frame(axes)
    _save(figure, path)


@matplotlib.rc_context(STYLE)
def error_against_count(
    errors: ArrayLike,
    standard_errors: ArrayLike | None,
    num_true: int | None,
    path: str | Path,
    counts: Sequence[int] | None = None,
) -> None:
    """Draw the denoising error of the best composition against its number of concepts, the true number marked.

    Args:
        errors: (K,) error of the best composition of each count.
        standard_errors: (K,) standard errors, drawn as bars, or None.
        num_true: true number of concepts, or None.
        path: file to write; parents are created.
        counts: (K,) the counts; default 1 to K.

    Raises:
        ValueError: if the lengths differ.
    """
    errors = np.asarray(errors, dtype=float)
    counts = list(range(1, len(errors) + 1)) if counts is None else list(counts)
    bars = None if standard_errors is None else np.asarray(standard_errors, dtype=float)
    if len(counts) != len(errors) or (bars is not None and bars.shape != errors.shape):
        raise ValueError(
            f"{len(errors)} errors, {len(counts)} counts and {np.shape(bars)} standard errors differ in length"
        )
    figure = Figure(figsize=(3.4, 2.3), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    best = int(np.nanargmin(errors))
    if num_true is not None:
        axes.axvline(num_true, color=TRUE_COLOUR, linewidth=1.0, linestyle=(0, (4, 3)), label=f"true K = {num_true}")
    axes.errorbar(counts, errors, yerr=bars, color="#333333", marker="o", markersize=3.2, capsize=2, elinewidth=0.8)
    lowest = {"markersize": 8, "markerfacecolor": "none", "markeredgecolor": PRED_COLOUR, "markeredgewidth": 1.2}
    axes.plot(counts[best], errors[best], "o", **lowest, label=f"lowest error: K = {counts[best]}")
    axes.set(xlabel="number of concepts K", ylabel="denoising error", xticks=counts)
    axes.margins(y=0.12)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, borderpad=0
    )  # clear of the curve
    _open_frame(axes)
    _save(figure, path)


def convergence_gif(
    image: Any,
    trajectory: ArrayLike,
    true_positions: ArrayLike | None,
    path: str | Path,
    best: int = 0,
    seconds: float = 4,
    size: int = 240,
) -> None:
    """Animate positions on their way: left the image with moving markers, right the panel with o and +.

    Each concept has its own colour and a faint tail; the other restarts move as grey markers on the panel. The last
    frame is held. Steps are spread evenly over the frames; there are no more frames than steps.

    Args:
        image: PIL image, or (3, H, W) in [-1, 1].
        trajectory: (T, R, K, 2), or (T, K, 2) for a single start; T steps, R restarts, K concepts.
        true_positions: (M, 2), or None without ground truth.
        path: .gif file to write; parents are created.
        best: the restart to show in colour.
        seconds: duration without the held frame.
        size: width of each half in pixels.

    Raises:
        ValueError: if the trajectory has another shape, is empty, or `best` is not one of its restarts.
    """
    trajectory = np.asarray(trajectory, dtype=float)
    if trajectory.ndim == 3:
        trajectory = trajectory[:, None]  # (T, 1, K, 2)
    if trajectory.ndim != 4 or trajectory.shape[-1] != 2 or not len(trajectory):
        raise ValueError(f"`trajectory` must have shape (T, R, K, 2) or (T, K, 2), got {trajectory.shape}")
    if not 0 <= best < trajectory.shape[1]:
        raise ValueError(f"`best` is {best}, the trajectory has {trajectory.shape[1]} restarts")
    true = np.zeros((0, 2)) if true_positions is None else np.asarray(true_positions, dtype=float).reshape(-1, 2)
    image = as_pil(image)
    picture = image.resize((size, round(size * image.height / image.width)), Image.Resampling.LANCZOS)
    steps = np.unique(np.linspace(0, len(trajectory) - 1, max(2, round(seconds * _GIF_FRAMES_PER_SECOND))).astype(int))
    canvases = [_gif_frame(picture, trajectory[: step + 1], true, best, (step + 1) / len(trajectory)) for step in steps]
    frames = _share_palette(canvases, picture)
    durations = [round(1000 * seconds / len(frames))] * (len(frames) - 1) + [round(1000 * _GIF_HOLD_SECONDS)]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # `optimize` stores only the pixels that change: a quarter of the size, a tenth for a textured picture.
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True)


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
    gap, line = max(4, width // 32), font.size + 6
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
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    grid.save(path)
    return grid


def as_pil(image: Any) -> Image.Image:
    """Turn a float array or tensor (3, H, W) in [-1, 1], or a PIL image, into an RGB PIL image.

    Raises:
        ValueError: if an array has another shape.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    array = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image, dtype=np.float32)
    if array.ndim != 3 or array.shape[0] != 3:
        raise ValueError(f"an image must have shape (3, H, W), got {array.shape}")
    pixels = np.rint((np.nan_to_num(array).clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))  # (H, W, 3)


def redraw(folder: str | Path, max_images: int = 24) -> list[Path]:
    """Draw the figures of a results folder again from its records, into DIR/figures.

    An image is read from the `image_path` of its record (as given, or relative to the folder), where it has one.

    Returns:
        the files written.

    Raises:
        FileNotFoundError: if the folder has no result file.
        ValueError: if a record cannot be read, or the conditions are neither positions nor named attributes.
    """
    folder = Path(folder)
    options = read_options(folder)
    kind = {"celeba": "attributes", "animals": "labels"}.get(options.get("task"), "positions")
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in read_results(folder):
        groups.setdefault(record["group"], []).append(record)
    written = []
    for group, records in groups.items():
        shown = records[:max_images]
        images = {record["image_id"]: _read_image(record, folder) for record in shown}
        images = {image_id: image for image_id, image in images.items() if image is not None}
        written.append(folder / "figures" / f"{kind}_{group.replace('/', '_')}.png")
        if kind == "labels":
            label_sheet(images, shown, options["classes"], written[-1], max_images=max_images)
        else:
            sheet = attribute_sheet if kind == "attributes" else position_sheet
            sheet(images, shown, written[-1], max_images=max_images)
    scored = any(record["conds_true"] for records in groups.values() for record in records)
    if scored and kind != "labels":
        written.append(folder / "figures" / ("accuracy.png" if kind == "attributes" else "perception_rate.png"))
        (attribute_bars if kind == "attributes" else perception_curve)(groups, written[-1])
    return written


def _draw_image_tile(axes: Axes, image: Image.Image | None) -> None:
    _unit_square(axes)
    if image is None:
        axes.set_facecolor("#EEEEEE")
        axes.text(0.5, 0.5, "no image", ha="center", va="center", fontsize=5.5, color=GREY)
    else:
        axes.imshow(np.asarray(image), extent=(0, 1, 1, 0), aspect="auto", interpolation="lanczos")


def _draw_position_tile(axes: Axes, true: ArrayLike | None, pred: ArrayLike) -> None:
    _unit_square(axes)
    axes.set_facecolor(PANEL_COLOUR)
    if true is not None:
        axes.plot(*_positions(true).T, **_marker("o"))
    axes.plot(*_positions(pred).T, **_marker("+"))


def _draw_attribute_tile(axes: Axes, record: Mapping[str, Any], most: int = 6) -> None:
    _unit_square(axes)
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


def _unit_square(axes: Axes) -> None:
    axes.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=FRAME_COLOUR, linewidth=0.5)


def _open_frame(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _sheet_title(record: Mapping[str, Any], max_characters: int = 28) -> str:
    name = Path(record["image_id"]).stem if "/" in record["image_id"] else record["image_id"]
    name = name if len(name) <= max_characters else "\N{HORIZONTAL ELLIPSIS}" + name[1 - max_characters :]
    error = record.get("error")
    return name if error is None else f"{name}   error {error:.4f}"


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


def _save(figure: Figure, path: str | Path) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)


def _gif_frame(
    picture: Image.Image, trajectory: np.ndarray, true: np.ndarray, best: int, progress: float
) -> Image.Image:
    """One frame: `trajectory` (t, R, K, 2) up to the step shown, `progress` the share of the steps done."""
    scale, (width, height), gap = _GIF_SUPERSAMPLING, picture.size, _GIF_GAP
    total = (2 * width + 3 * gap, height + 3 * gap)
    canvas = Image.new("RGB", (total[0] * scale, total[1] * scale), "white")
    canvas.paste(picture.resize((width * scale, height * scale), Image.Resampling.NEAREST), (gap * scale, gap * scale))
    draw = ImageDraw.Draw(canvas, "RGBA")
    panel = (2 * gap + width, gap)
    box = [v * scale for v in (panel[0], panel[1], panel[0] + width, panel[1] + height)]
    draw.rectangle(box, fill="white", outline=FRAME_COLOUR, width=scale)

    def to_pixels(points: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
        return (np.asarray(corner) + np.asarray(points) * (width, height)) * scale

    for x, y in to_pixels(true, panel):
        radius = 7 * scale
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline="#222222", width=2 * scale)
    for restart in np.delete(trajectory[-1], best, axis=0):
        for x, y in to_pixels(restart, panel):
            _plus(draw, x, y, 4 * scale, scale, "#C4C4C4")
    for corner in ((gap, gap), panel):
        for concept in range(trajectory.shape[2]):
            track = to_pixels(trajectory[-max(2, len(trajectory) // 2) :, best, concept], corner)
            _tail(draw, track, COLOURS[concept % len(COLOURS)], scale)
        for concept, (x, y) in enumerate(to_pixels(trajectory[-1, best], corner)):
            if corner != panel:
                _plus(draw, x, y, 8 * scale, 5 * scale, "white")  # a halo, to be seen on any picture
            _plus(draw, x, y, 7 * scale, round(2.4 * scale), COLOURS[concept % len(COLOURS)])
    canvas = canvas.resize(total, Image.Resampling.BOX)
    bar = ImageDraw.Draw(canvas)
    bar.rectangle((gap, height + 2 * gap, total[0] - gap - 1, height + 2 * gap + 2), fill="#E4E4E4")
    bar.rectangle((gap, height + 2 * gap, gap + progress * (total[0] - 2 * gap - 1), height + 2 * gap + 2), fill=GREY)
    return canvas


def _plus(draw: ImageDraw.ImageDraw, x: float, y: float, arm: float, width: int, colour: str) -> None:
    half = width / 2
    draw.rectangle((x - arm, y - half, x + arm, y + half), fill=colour)
    draw.rectangle((x - half, y - arm, x + half, y + arm), fill=colour)


def _tail(draw: ImageDraw.ImageDraw, track: np.ndarray, colour: str, scale: int) -> None:
    """The way a marker came, (t, 2) pixels, fading towards its start."""
    for index, (start, end) in enumerate(zip(track[:-1], track[1:], strict=True)):
        opacity = round(190 * (index + 1) / len(track))
        draw.line([*start, *end], fill=(*ImageColor.getrgb(colour), opacity), width=2 * scale)


def _share_palette(canvases: Sequence[Image.Image], picture: Image.Image) -> list[Image.Image]:
    """Reduce the frames to one palette: the picture's colours, then those of markers and panel with their shades.

    The picture is dithered once and its pixels stay the same in all frames; dithering frame by frame would make still
    pixels flicker, and the file large. What is drawn over it takes the nearest colour.
    """
    # Maximum coverage keeps the colours of small objects, which the default gives up for shades of the background.
    palette = picture.quantize(_GIF_IMAGE_COLOURS, method=Image.Quantize.MAXCOVERAGE, kmeans=3)
    quantised = picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    own = np.array(quantised.getpalette()).reshape(-1, 3)[:_GIF_IMAGE_COLOURS]  # may be fewer
    mean = np.asarray(picture, dtype=float).reshape(-1, 3).mean(axis=0)
    drawn = [np.array([ImageColor.getrgb(c) for c in ("white", PANEL_COLOUR, FRAME_COLOUR, "#E4E4E4", "#C4C4C4")])]
    for colour in ("#222222", GREY, *COLOURS):
        rgb = np.array(ImageColor.getrgb(colour))
        for ground, shares in [(255, (1, 0.88, 0.75, 0.6, 0.45, 0.3, 0.15)), (mean, (0.75, 0.5, 0.3))]:
            drawn += [np.rint(ground + share * (rgb - ground))[None] for share in shares]
    colours = np.concatenate([own, *drawn]).astype(np.uint8)  # (P, 3), P <= 256
    nearest = KDTree(colours.astype(float))
    corner = (slice(_GIF_GAP, _GIF_GAP + picture.height), slice(_GIF_GAP, _GIF_GAP + picture.width))
    frames = []
    for canvas in canvases:
        pixels = np.asarray(canvas)  # (height, width, 3)
        drawn_over = (pixels != 255).any(axis=-1)
        drawn_over[corner] = (pixels[corner] != np.asarray(picture)).any(axis=-1)
        indices = np.full(drawn_over.shape, len(own), dtype=np.uint8)  # white, the first of the drawn colours
        indices[corner] = np.asarray(quantised)
        indices[drawn_over] = nearest.query(pixels[drawn_over])[1]
        frame = Image.fromarray(indices).convert("P")
        frame.putpalette(colours.ravel().tolist())
        frames.append(frame)
    return frames


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _fit(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    while len(text) > 1 and font.getlength(text) > width:
        text = text[:-2] + "\N{HORIZONTAL ELLIPSIS}"
    return text


def _read_image(record: Mapping[str, Any], folder: Path) -> Image.Image | None:
    name = record.get("image_path")
    for path in [Path(name), folder / name] if name else []:
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except OSError:  # missing or not an image: the sheet shows an empty tile
            continue
    return None


def main() -> None:
    """Draw the figures of a results folder again from its records."""
    parser = argparse.ArgumentParser(prog="python -m igm.figures", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="results folder with results.jsonl")
    parser.add_argument("--max_images", type=int, default=24, help="images per sheet (default: %(default)s)")
    options = parser.parse_args()
    try:
        written = redraw(options.folder, options.max_images)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    print("\n".join(map(str, written)))


if __name__ == "__main__":
    main()
