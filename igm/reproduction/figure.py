"""Figures of a reproduction: measured shares beside the paper's, and what each change of the inference does."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from igm.figures.style import COLOURS, DPI, GREY, STYLE, open_frame, save_figure
from igm.reproduction.rows import Row

HERE: dict[str, Any] = {"marker": "o", "markersize": 4, "capsize": 2, "elinewidth": 0.9, "linestyle": "none"}
PAPER: dict[str, Any] = {"marker": "D", "s": 20, "facecolors": "none", "linewidths": 0.9, "zorder": 3}


class Scored(Protocol):
    """What is drawn of a line of a table; see `igm.reproduction.report.Line`."""

    @property
    def row(self) -> Row: ...
    @property
    def group(self) -> str: ...
    @property
    def score(self) -> float | None: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...
    @property
    def paper_score(self) -> float | None: ...


def bars_of(lines: Sequence[Scored]) -> list[list[float]]:
    """How far the intervals reach below and above the scores: (2, N)."""
    known = [(line.score or 0.0, line.low or 0.0, line.high or 0.0) for line in lines]
    return [[max(0.0, score - low) for score, low, _ in known], [max(0.0, high - score) for score, _, high in known]]


@matplotlib.rc_context(STYLE)
def draw_scores(lines: Sequence[Scored], score: str, path: str | Path) -> Figure:
    """Draw a line per method: a dot with its 95 % interval for what was measured, a diamond for the paper, by group.

    Args:
        lines: in the table's order. score: what is drawn, in %. path: file to write; parents are created.

    Returns:
        the figure.
    """
    titles = list(dict.fromkeys(line.row.title for line in lines))
    groups = list(dict.fromkeys(line.group for line in lines if line.group))
    figure = Figure(figsize=(5.2, 0.75 + 0.36 * len(titles)), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for number, group in enumerate(groups):
        shift, colour = 0.26 * (number - (len(groups) - 1) / 2), COLOURS[number]
        own = [line for line in lines if line.group == group]
        measured = [line for line in own if line.score is not None]
        places = [titles.index(line.row.title) + shift for line in measured]
        if measured:
            scores = [line.score or 0.0 for line in measured]
            axes.errorbar(scores, places, xerr=bars_of(measured), color=colour, **HERE, label=f"{group}, here")
        cited = [line for line in own if line.paper_score is not None]
        if cited:
            places = [titles.index(line.row.title) + shift for line in cited]
            scores = [line.paper_score or 0.0 for line in cited]
            axes.scatter(scores, places, edgecolors=colour, **PAPER, label=f"{group}, paper")
    axes.set_yticks(range(len(titles)), titles)
    axes.set(ylim=(len(titles) - 0.45, -0.55), xlim=(0, 101), xlabel=f"{score}, %")
    axes.grid(axis="x", color="#E6E6E6", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    open_frame(axes)
    figure.legend(loc="outside upper center", ncols=2 * max(1, len(groups)), frameon=False, columnspacing=1.1)
    save_figure(figure, path)
    return figure


@matplotlib.rc_context(STYLE)
def draw_ablations(lines: Sequence[Scored], score: str, path: str | Path) -> Figure:
    """Draw a panel for each thing that was changed: the share against its value, a curve per group.

    Args:
        lines: measured ones. score: what is drawn, in %. path: file to write; parents are created.

    Returns:
        the figure, one axes per panel.
    """
    panels = list(dict.fromkeys(line.row.panel for line in lines))
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(2.9 * columns, 2.05 * rows + 0.3), dpi=DPI, layout="constrained")
    for number, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, number)
        draw_panel(axes, [line for line in lines if line.row.panel == panel])
        axes.set(xlabel=panel, ylabel=f"{score}, %" if number % columns == 1 or columns == 1 else "")
    handles = {label: h for axes in figure.axes for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=4, frameon=False)
    save_figure(figure, path)
    return figure


@matplotlib.rc_context(STYLE)
def draw_training(curves: Mapping[str, Sequence[tuple[int, float]]], path: str | Path) -> Figure:
    """Draw a panel for each training: its error on held-out images against its steps, the lowest marked.

    Args:
        curves: (step, error) by title. path: file to write; parents are created.

    Returns:
        the figure, one axes per training.
    """
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(2.1 * columns, 1.75 * rows), dpi=DPI, layout="constrained")
    for number, (title, points) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(rows, columns, number)
        steps, errors = [step / 1000 for step, _ in points], [error for _, error in points]
        axes.plot(steps, errors, color=COLOURS[1], linewidth=1.1)
        least = errors.index(min(errors))
        axes.plot(steps[least], errors[least], color=COLOURS[0], marker="o", markersize=3.5)
        axes.set_title(title, fontsize=8)
        axes.set(xlabel="thousand steps", ylabel="held-out error" if number % columns == 1 or columns == 1 else "")
        axes.set_ylim(bottom=0)
        axes.margins(x=0.04)
        axes.grid(axis="y", color="#E6E6E6", linewidth=0.5)
        axes.set_axisbelow(True)
        open_frame(axes)
    save_figure(figure, path)
    return figure


def draw_panel(axes: Axes, lines: Sequence[Scored]) -> None:
    """Draw one panel; where every value has a group of its own, that is one curve."""
    values = list(dict.fromkeys(line.row.x for line in lines))
    groups = list(dict.fromkeys(line.group for line in lines))
    alone = len(groups) > 1 and all(len({li.group for li in lines if li.row.x == value}) == 1 for value in values)
    curves = {"": list(lines)} if alone else {g: [line for line in lines if line.group == g] for g in groups}
    for number, (group, own) in enumerate(curves.items()):
        places = [values.index(line.row.x) for line in own]
        colour = GREY if alone else COLOURS[number]
        label = {} if alone else {"label": group}
        style: dict[str, Any] = {**HERE, "markersize": 3.2, "linestyle": "-", "linewidth": 1.1, **label}
        axes.errorbar(places, [line.score or 0.0 for line in own], yerr=bars_of(own), color=colour, **style)
    axes.set_xticks(range(len(values)), values)
    axes.margins(x=0.08, y=0.1)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.5)
    axes.set_axisbelow(True)
    open_frame(axes)
