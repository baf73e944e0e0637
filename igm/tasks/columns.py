"""Cells of tables: shares in %, the headline ones with their 95 % interval."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def share_cell(group: Mapping[str, Any], name: str, key: str | None = None, interval: bool = True) -> str:
    """The share `name` (or its part `key`) of a group of a summary, as a cell."""
    value, bounds = group["metrics"].get(name), group["ci95"].get(name)
    if key is not None:
        value, bounds = (value or {}).get(key), (bounds or {}).get(key)
    if value is None:
        return "-"
    if not interval or bounds is None:
        return f"{100 * value:.1f} %"
    low, high = (f"{100 * bound:.1f}" for bound in bounds)
    if low == high and bounds[0] < bounds[1]:  # of many thousand images: outwards, so that there is a width
        low, high = f"{math.floor(1000 * bounds[0]) / 10:.1f}", f"{math.ceil(1000 * bounds[1]) / 10:.1f}"
    return f"{100 * value:.1f} % [{low}, {high}]"


def share_columns(groups: Sequence[Mapping[str, Any]], names: Iterable[str]) -> list[tuple[str, list[str]]]:
    """A column for every share that a group has."""
    present = [name for name in names if any(name in group["metrics"] for group in groups)]
    return [(name.replace("_", " "), [share_cell(group, name) for group in groups]) for name in present]


def keys_of(groups: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """The parts that a score has in any group, in their order."""
    return list(dict.fromkeys(key for group in groups for key in group["metrics"].get(name, {})))


def count_was_inferred(summary: Mapping[str, Any]) -> bool:
    """Whether the number of concepts was sought: with a known one the count accuracy is 1 by construction."""
    accuracies = [group["metrics"].get("count_accuracy") for group in summary["groups"].values()]
    inferred = (summary["options"] or {}).get("count") == "infer"
    return inferred or any(accuracy not in (None, 1) for accuracy in accuracies)
