"""The report of a reproduction: each row's measured numbers beside the paper's, as text, Markdown, CSV and LaTeX."""

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from igm import UserError
from igm.evaluation.records import SUMMARY_NAME, Record, read_json, read_results
from igm.evaluation.summary import Difference, compare, task_of
from igm.evaluation.table import align
from igm.files import replace_text
from igm.hub import EMA_DIR, NETWORK_DIR, local_path
from igm.models.weights import find_weights, has_model, read_shapes
from igm.reproduction.figure import draw_ablations, draw_scores, draw_training
from igm.reproduction.rows import Place, Row, Table
from igm.reproduction.run import Outcome
from igm.statistics import share_interval
from igm.training.held_out import VALIDATION_FILE, read_lines

ALL = "all attributes"
COUNTERS = ("running_mean", "running_var", "num_batches_tracked")  # what a checkpoint holds besides parameters


@dataclass(frozen=True)
class Line:
    """A group of a row, measured; shares and differences in %, None for what is not known.

    Args:
        score, low, high: the headline share with its 95 % interval over images.
        error, error_near: estimation error over all pairs, and over those within 0.05.
        minus: by how much it is above the reference row, on the images that both have.
        attributes: of whole objects, the share right of each attribute, and of all of them, by name.
    """

    row: Row
    group: str
    num_images: int = 0
    score: float | None = None
    low: float | None = None
    high: float | None = None
    error: float | None = None
    error_near: float | None = None
    minus: Difference | None = None
    seconds: float | None = None
    parameters: int | None = None
    note: str = ""
    attributes: Mapping[str, float] = field(default_factory=dict)

    @property
    def paper_score(self) -> float | None:
        """What the paper has."""
        return self.row.paper[self.group].score if self.group in self.row.paper else None

    @property
    def paper_error(self) -> float | None:
        """The paper's estimation error."""
        return self.row.paper[self.group].error if self.group in self.row.paper else None


def measure(outcomes: Sequence[Outcome], reference: str) -> list[Line]:
    """The lines of a table from the results folders; a row without results has a line for each of the paper's groups."""
    folders = {outcome.row.name: outcome.folder for outcome in outcomes}
    lines: list[Line] = []
    for outcome in outcomes:
        if outcome.folder is None:
            note = f"not run: {outcome.reason}"
            lines += [Line(outcome.row, group, note=note) for group in outcome.row.paper or ("",)]
            continue
        differences = differences_of(outcome, folders.get(reference), reference)
        lines += lines_of(outcome.row, outcome.folder, differences)
    return lines


def differences_of(outcome: Outcome, reference: Path | None, name: str) -> dict[str, Difference]:
    """The paired difference of a row to the reference row, by group; empty where they share no image."""
    if outcome.folder is None or reference is None or outcome.row.name == name:
        return {}
    try:
        return {found.group: found for found in compare(outcome.folder, reference)}
    except UserError:  # such as groups of other numbers of objects
        return {}


def lines_of(row: Row, folder: Path, differences: dict[str, Difference]) -> list[Line]:
    """The lines of a row that has results."""
    summary, records = read_json(folder / SUMMARY_NAME), read_results(folder)
    task, parameters = task_of(folder, summary.get("task")), count_parameters(summary.get("checkpoint"))
    lines = []
    for group, scores in summary["groups"].items():
        members = [record for record in records if record["group"] == group]
        right, of = task.headline([record for record in members if record["conds_true"]])
        low, high = share_interval(right, of) or (math.nan, math.nan)
        metrics = scores["metrics"]
        lines.append(
            Line(
                row,
                group,
                num_images=len(members),
                score=None if not of.sum() else 100 * float(right.sum() / of.sum()),
                low=100 * low,
                high=100 * high,
                error=metrics.get("estimation_error"),
                error_near=metrics.get("estimation_error_perceived"),
                minus=differences.get(group),
                seconds=mean_seconds(members),
                parameters=parameters,
                note=row.note,
                attributes=attributes_of(metrics),
            )
        )
    return lines


def attributes_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The share right of each attribute of found objects, and of all of them, in %; empty where nobody asked."""
    shares = {**(metrics.get("attribute_accuracy") or {}), ALL: metrics.get("object_accuracy")}
    return {name: 100 * share for name, share in shares.items() if share is not None}


def mean_seconds(records: Sequence[Record]) -> float:
    """Seconds of an image, on average."""
    return sum(record["seconds"] for record in records) / len(records)


def count_parameters(checkpoint: str | None) -> int | None:
    """The parameters of a checkpoint's network, from its files' headers; None where it is not on this machine.

    A frozen backbone that a checkpoint only names does not count.
    """
    place = None if checkpoint is None else local_path(checkpoint)
    if place is None:
        return None
    folder = next((f for f in (place / EMA_DIR, place / NETWORK_DIR, place / "unet", place) if has_model(f)), None)
    if folder is None:
        return None
    shapes = read_shapes(find_weights(folder, "checkpoint"), "checkpoint")
    return sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(COUNTERS))


# Cells.

Cell = Callable[[Line], str]


def percent(value: float | None) -> str:
    """A share."""
    return "" if value is None else f"{value:.1f} %"


def small(value: float | None) -> str:
    """An estimation error."""
    return "" if value is None else f"{value:.1e}"


def scored(line: Line) -> str:
    """The headline share with its interval."""
    return "" if line.score is None else f"{line.score:.1f} % [{line.low:.1f}, {line.high:.1f}]"


def columns_of(lines: Sequence[Line], table: Table) -> list[tuple[str, list[str]]]:
    """Titles and cells; a column without any cell is left out."""
    titles: list[tuple[str, Cell]] = [
        ("Method", lambda line: line.row.title),
        ("Group", lambda line: line.group),
        ("Images", lambda line: f"{line.num_images:,}" if line.num_images else ""),
        (f"Paper: {table.score}", lambda line: percent(line.paper_score)),
        (f"Here: {table.score}", scored),
        (
            "Minus " + name_of(table.reference, lines),
            lambda line: f"{line.minus.points:+.1f} {line.minus.interval}" if line.minus else "",
        ),
        *((name.capitalize(), partial(attribute_cell, name, lines, table.compares_groups)) for name in names_in(lines)),
        ("Paper: error", lambda line: small(line.paper_error)),
        ("Here: error", lambda line: small(line.error)),
        ("Error within 0.05", lambda line: small(line.error_near)),
        ("Seconds an image", lambda line: "" if line.seconds is None else f"{line.seconds:.3g}"),
        ("Parameters", lambda line: "" if line.parameters is None else f"{line.parameters / 1e6:,.1f} M"),
        ("Note", lambda line: line.note),
    ]
    columns = [(title, [cell(line) for line in lines]) for title, cell in titles]
    return [(title, cells) for title, cells in columns if any(cells)]


def names_in(lines: Sequence[Line]) -> list[str]:
    """The names of all attributes of some lines, once each."""
    return list(dict.fromkeys(name for line in lines for name in line.attributes))


def attribute_cell(name: str, lines: Sequence[Line], compares: bool, line: Line) -> str:
    """The share right of an attribute, and by how much it is above that of the row's first group."""
    if name not in line.attributes:
        return ""
    first = next(other for other in lines if other.row is line.row)
    changed = compares and first is not line and name in first.attributes
    change = f" ({line.attributes[name] - first.attributes[name]:+.1f})" if changed else ""
    return percent(line.attributes[name]) + change


def name_of(reference: str, lines: Sequence[Line]) -> str:
    """The title of the reference row."""
    return next((line.row.title for line in lines if line.row.name == reference), reference)


# Formats.


def as_markdown(columns: Sequence[tuple[str, list[str]]]) -> str:
    """A table of Markdown; numbers stand at the right."""
    rows = zip(*(cells for _, cells in columns), strict=True)
    rule = [":--" if title in ("Method", "Note") else "--:" for title, _ in columns]
    lines = [[title for title, _ in columns], rule, *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def as_latex(columns: Sequence[tuple[str, list[str]]]) -> str:
    """A tabular in booktabs' style."""
    rows = [[title for title, _ in columns], *zip(*(cells for _, cells in columns), strict=True)]
    head, *body = (" & ".join(map(escaped, row)) + r" \\" for row in rows)
    kinds = "".join("l" if title in ("Method", "Note") else "r" for title, _ in columns)
    lines = [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {sign: f"\\{sign}" for sign in "%&#_$"} | {"{": r"\{", "}": r"\}"}


def escaped(text: str) -> str:
    """A text as LaTeX shows it."""
    return "".join(LATEX.get(sign, sign) for sign in text)


def as_csv(lines: Sequence[Line]) -> str:
    """The plain numbers, a line each; nothing where a number is not known."""
    apart = ("row", "group", "minus", "attributes")
    plain = [own.name for own in dataclasses.fields(Line) if own.name not in apart]
    of_difference, names = ("points", "low", "high", "num_images"), names_in(lines)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    paper = ("paper_score", "paper_error")
    writer.writerow(["row", "title", "group", *paper, *plain, *(f"minus_{name}" for name in of_difference), *names])
    for line in lines:
        values: list[Any] = [
            line.row.name,
            line.row.title,
            line.group,
            *(getattr(line, name) for name in (*paper, *plain)),
        ]
        values += [getattr(line.minus, name, None) for name in of_difference]
        values += [line.attributes.get(name) for name in names]
        writer.writerow(["" if value is None else value for value in values])
    return out.getvalue()


def training_curves(rows: Sequence[Row], place: Place) -> dict[str, list[tuple[int, float]]]:
    """(step, error on held-out images) of each row's training that measured them, by the row's title."""
    files = {row.title: row.training.folder(place) / VALIDATION_FILE for row in rows if row.training is not None}
    curves = {
        title: [(line["step"], line["val_error"]) for line in read_lines(file) if "val_error" in line]
        for title, file in files.items()
    }
    return {title: points for title, points in curves.items() if len(points) > 1}


def write_report(
    lines: Sequence[Line], table: Table, folder: Path, curves: Mapping[str, Sequence[tuple[int, float]]]
) -> list[Path]:
    """Write table.md, table.csv, table.tex and the figures, `curves` of trainings among them; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = columns_of(lines, table)
    texts = {
        "table.md": f"# {table.title}\n\n{as_markdown(columns)}",
        "table.csv": as_csv(lines),
        "table.tex": as_latex(columns),
    }
    for name, text in texts.items():
        replace_text(folder / name, text)
    drawn = draw(lines, table, folder)
    if curves:
        drawn.append(folder / "training.png")
        draw_training(curves, drawn[-1])
    return [*(folder / name for name in texts), *drawn]


def draw(lines: Sequence[Line], table: Table, folder: Path) -> list[Path]:
    """The figures: scores beside the paper's, and, of rows that belong to panels, what each change does."""
    whole = [line for line in lines if not line.row.panel and (line.score is not None or line.paper_score is not None)]
    parts = [line for line in lines if line.row.panel and line.score is not None]
    written = []
    if whole:
        written.append(folder / "scores.png")
        draw_scores(whole, table.score, written[-1])
    if parts:
        written.append(folder / "ablations.png")
        draw_ablations(parts, table.score, written[-1])
    return written


def as_text(lines: Sequence[Line], table: Table) -> str:
    """The table for a terminal; notes stand below it."""
    columns = [column for column in columns_of(lines, table) if column[0] != "Note"]
    notes = dict.fromkeys(f"{line.row.title}: {line.note}" for line in lines if line.note)
    return "\n".join([table.title, align(columns), *notes])
