"""How right the attributes of objects are, against the objects' size in the picture and against what is hidden of them."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from igm.figures.style import COLOURS, DPI, GREY, STYLE, open_frame, save_figure
from igm.statistics import wilson_interval

SIZE_BINS = 6  # at most, of equal numbers of objects
FEWEST = 15  # objects of a bin
HIDDEN_EDGES = (0.0, 0.1, 0.25, 0.5, 1.0)  # of the bins of what is hidden
FOUND, AT_MOST, DASH = "found", "\N{LESS-THAN OR EQUAL TO}", "\N{EN DASH}"


@dataclass(frozen=True)
class SeenObject:
    """A true object: its diameter in pixels, the share of it that is hidden, and which attributes were read rightly.

    right: by attribute; None where the object was not found.
    """

    size: float
    hidden: float
    right: dict[str, bool] | None


@dataclass(frozen=True)
class Curve:
    """Shares in % with their 95 % intervals at some bins: x, share, low, high (N,) each."""

    x: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray


def size_bins(objects: Sequence[SeenObject]) -> list[list[SeenObject]]:
    """Objects in bins of rising size and about equal number, at least 15 in each where there are so many."""
    ordered = sorted(objects, key=lambda one: one.size)
    number = min(SIZE_BINS, max(1, len(ordered) // FEWEST))
    return [[ordered[i] for i in part] for part in np.array_split(np.arange(len(ordered)), number)]


def hidden_bins(objects: Sequence[SeenObject]) -> dict[str, list[SeenObject]]:
    """Objects by the % that is hidden of them: 0, up to 10, 25, 50, 100; bins of fewer than 15 join a neighbour.

    What is not hidden at all has a bin of its own, however small. Empty bins are left out.
    """
    edges = [HIDDEN_EDGES[-1]]  # falling
    for low in reversed(HIDDEN_EDGES[1:-1]):
        if len(between(objects, low, edges[-1])) >= FEWEST:
            edges.append(low)
    if len(edges) > 1 and len(between(objects, 0, edges[-1])) < FEWEST:
        edges.pop()
    bins = {"0": [one for one in objects if not one.hidden]}
    for low, high in itertools.pairwise([0.0, *reversed(edges)]):
        bins[f"{f'{100 * low:g}{DASH}' if low else AT_MOST}{100 * high:g}"] = between(objects, low, high)
    return {name: own for name, own in bins.items() if own}


def between(objects: Sequence[SeenObject], low: float, high: float) -> list[SeenObject]:
    """The objects of which more than `low` and at most `high` is hidden."""
    return [one for one in objects if low < one.hidden <= high]


def curves_of(bins: Sequence[Sequence[SeenObject]], x: Sequence[float]) -> dict[str, Curve]:
    """The share right of each attribute among the found objects of each bin, and the share found; empty bins left out."""
    names = dict.fromkeys(name for own in bins for one in own for name in one.right or ())
    said = {FOUND: [[one.right is not None for one in own] for own in bins]}
    for name in names:
        said[name] = [[one.right[name] for one in own if one.right is not None] for own in bins]
    return {name: curve_of(answers, x) for name, answers in said.items()}


def curve_of(answers: Sequence[Sequence[bool]], x: Sequence[float]) -> Curve:
    """The share of true answers of each bin that has any, with Wilson's interval."""
    kept = [(place, sum(own), len(own)) for place, own in zip(x, answers, strict=True) if own]
    places, right, of = (np.array(column, dtype=float) for column in zip(*kept, strict=True))
    bounds = np.array([wilson_interval(r, n) for r, n in zip(right, of, strict=True)])  # (N, 2)
    return Curve(places, 100 * right / of, 100 * bounds[:, 0], 100 * bounds[:, 1])


@matplotlib.rc_context(STYLE)
def attributes_by_look(objects: Sequence[SeenObject], path: str | Path) -> Figure:
    """Draw the share right of each attribute against size and against what is hidden, and the share of objects found.

    Args:
        objects: true objects of all pictures. path: file to write; its folder is made.

    Raises:
        ValueError: no object was found.
    """
    if not any(one.right for one in objects):
        raise ValueError("no object was found, so that no attribute was read")
    figure = Figure(figsize=(5.6, 2.45), dpi=DPI, facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    sizes, hidden = size_bins(objects), hidden_bins(objects)
    draw_curves(left, curves_of(sizes, [float(np.mean([one.size for one in own])) for own in sizes]), spread=0.25)
    draw_curves(right, curves_of(list(hidden.values()), range(len(hidden))), spread=0.06)
    left.set(xlabel="diameter of the object in pixels", ylabel="right, %")
    counts = [f"{name}\n({len(own):,})" for name, own in hidden.items()]
    right.set_xticks(range(len(counts)), counts)
    right.set(xlabel="hidden, % of the object (objects)", xlim=(-0.4, len(counts) - 0.6))
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, columnspacing=1.2)
    save_figure(figure, path)
    return figure


def draw_curves(axes: Axes, curves: dict[str, Curve], spread: float) -> None:
    """Draw a line with error bars for each name; they stand `spread` apart in x, so that bars can be told apart."""
    for number, (name, own) in enumerate(curves.items()):
        x = own.x + spread * (number - (len(curves) - 1) / 2)
        colour, dashes = (GREY, "--") if name == FOUND else (COLOURS[(number - 1) % len(COLOURS)], "-")
        bars = np.stack([own.share - own.low, own.high - own.share]).clip(min=0)
        axes.errorbar(
            x, own.share, yerr=bars, color=colour, linestyle=dashes, label=name, marker="o", markersize=2.6,
            linewidth=1.1, elinewidth=0.6, capsize=0,
        )  # fmt: skip
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.5)
    axes.set_axisbelow(True)
    low = min(float(own.low.min()) for own in curves.values())
    axes.set_ylim(min(axes.get_ylim()[0], max(0, 10 * np.floor(low / 10))), 101)
    open_frame(axes)
