"""The columns of own labels: points, what objects are, in which unit, and what is wrong with a row."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from igm.data import DataError
from igm.data.metadata import Row, is_finite
from igm.data.text import parse_json, shown
from igm.data.vocabulary import text_of

COORDINATES = {"pixels": False, "normalised": True, "normalized": True}
NO_FIELD = ("points", "coordinates", "split", "width", "height")  # columns that are no attribute of objects


def as_list(value: object) -> list[Any] | None:
    """A list, or the list that a table's cell holds as JSON; None for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = parse_json(value, "a cell")
        except DataError:
            return None
    return value if isinstance(value, list) else None


def find_fields(rows: Sequence[Row], counts: np.ndarray) -> tuple[list[str], list[str]]:
    """The columns with a list as long as the points in some row: those of values that an attribute can have, and others.

    The first such value decides, so that a wrong one later is a fault of its row.
    """
    first: dict[str, object] = {}
    for row, count in zip(rows, counts.tolist(), strict=True):
        for name in row.values.keys() - first.keys() - set(NO_FIELD):
            own = as_list(row.values[name]) or []
            if len(own) == count and (known := [value for value in own if value is not None]):
                first[name] = known[0]
    order = [name for name in dict.fromkeys(name for row in rows for name in row.values) if name in first]
    good = [name for name in order if text_of(first[name]) is not None]
    return good, [name for name in order if name not in good]


def fault_of_column(row: Row, name: str, count: int) -> str | None:
    """What is wrong with an attribute in a row of `count` objects, to follow the row's place in a message."""
    value = row.values.get(name)
    if value is None or value == "":
        return f": it has no {name}, which needs a list with a value for each point"
    own = as_list(value)
    if own is None:
        return f": {name} is {shown(value)}, expected a list with a value for each point"
    if len(own) != count:
        return f": {name} has {len(own)} values for {count} points"
    for number, each in enumerate(own, 1):
        if each is not None and text_of(each) is None:
            return f", object {number}: {name} is {shown(each)}, expected a short text or a whole number"
        if each is None:
            return f", object {number}: it has no {name}"
    return None


def points_of(row: Row) -> list[list[float]]:
    """The points of a picture as they are written; an empty list for a picture without objects.

    Raises:
        DataError: there are none, or they are something else.
    """
    if "points" not in row.values:
        raise DataError(f"{row.place}: there is no points; write a list of [x, y], [] for a picture without objects")
    points = as_list(row.values["points"])
    right = points is not None and all(
        isinstance(point, list) and len(point) == 2 and all(map(is_finite, point)) for point in points
    )
    if points is None or not right:
        raise DataError(f"{row.place}: points is {shown(row.values['points'])}, expected a list of [x, y]; mend it")
    return points


def coordinates_of(row: Row, asked: str | None) -> bool | None:
    """Whether a picture's points are declared as normalised (True) or as pixels (False); None: nobody says.

    Raises:
        DataError: its column says something else, or not what was asked for.
    """
    own = row.values.get("coordinates")
    if own is None or own == "":
        return None if asked is None else COORDINATES[asked]
    declared = COORDINATES.get(own.strip().lower()) if isinstance(own, str) else None
    if declared is None:
        raise DataError(f"{row.place}: coordinates is {shown(own)}, expected pixels or normalised; write it")
    if asked is not None and COORDINATES[asked] != declared:
        raise DataError(f"{row.place}: coordinates is {shown(own)}, against --coordinates {asked}; keep one")
    return declared


def check_size(row: Row, width: float, height: float) -> None:
    """Raise DataError where a row says another size than its picture has: its points are those of another picture."""
    said = [row.values.get(name) for name in ("width", "height")]
    if None in said or [str(value) for value in said] == [f"{width:g}", f"{height:g}"]:
        return
    if all(map(is_finite, said)) and said == [width, height]:
        return
    raise DataError(
        f"{row.place}: {row.file} is said to be {shown(said[0])} x {shown(said[1])} and has {width:g} x {height:g} pixels; "
        "give points and size of the picture as it is"
    )
