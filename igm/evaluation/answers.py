"""What was found in pictures without labels, as a table for people: scores say nothing of these."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from igm import UserError
from igm.evaluation.export import Found, read_found
from igm.evaluation.table import align

MOST_PICTURES = 20  # whose findings are printed; the others are in the files


def format_answers(folder: Path, summary: Mapping[str, Any]) -> str:
    """A row for each finding in the first pictures that have no ground truth; empty where all have.

    Where there is no such form, as for a task that names no findings, the line that says so: a run is not lost by it.

    Args:
        folder: of results. summary: theirs.
    """
    unlabelled = [name for name, group in summary["groups"].items() if not group["metrics"]]
    if not unlabelled:
        return ""
    try:
        found = [own for own in read_found(folder) if own.group in unlabelled]
    except UserError as error:
        return str(error)
    rows = [row for own in found[:MOST_PICTURES] for row in rows_of(own)]
    titles = ("picture", "found", "x", "y", "sure", "unlike training")
    columns = [(title, cells) for title, *cells in zip(titles, *rows, strict=True) if any(cells)]
    left = len(found) - MOST_PICTURES
    command = f"python -m igm.evaluation.export {shlex.quote(str(folder))} --format csv --output found.csv"
    return align(columns) + (f"\n{left:,} more pictures: {command}" if left > 0 else "")


def rows_of(found: Found) -> Sequence[tuple[str, ...]]:
    """Picture, what, x and y in its pixels, and how sure, for each finding; what is of the picture is said once."""
    rows: list[tuple[str, ...]] = []
    name, strange = found.image_id, "yes" if found.unlike else ""
    for finding, point in zip(found.findings, found.points, strict=True):
        x, y = ("", "") if point is None else (f"{point[0]:.0f}", f"{point[1]:.0f}")
        sure = "" if finding.confidence is None else f"{100 * finding.confidence:.0f} %"
        rows.append((name, ", ".join(finding.names) or "none", x, y, sure, strange))
        name = strange = ""
    return rows or [(name, "nothing", "", "", "", strange)]
