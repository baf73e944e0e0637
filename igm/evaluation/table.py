"""A summary as a plain-text table."""

from collections.abc import Mapping, Sequence
from typing import Any


def format_table(summary: Mapping[str, Any]) -> str:
    """The summary as an aligned plain-text table: a line per group, then the cost per image.

    Shares are in %, the headline ones with their 95 % interval. The count accuracy is shown only where a count was
    inferred: with known counts it is 1 by construction.
    """
    groups = summary["groups"]
    columns = [("group", list(groups)), ("images", [str(group["num_images"]) for group in groups.values()])]
    radii = list(dict.fromkeys(r for g in groups.values() for r in g["metrics"].get("perception_rate", {})))
    for radius in radii:
        cells = [_share_cell(group, "perception_rate", radius, interval=radius == "0.05") for group in groups.values()]
        columns.append((f"found within {radius}", cells))
    for name, title in [("estimation_error", "error"), ("estimation_error_perceived", "error within 0.05")]:
        if any(name in group["metrics"] for group in groups.values()):
            values = [group["metrics"].get(name) for group in groups.values()]
            columns.append((title, ["-" if value is None else f"{value:.1e}" for value in values]))
    names = list(dict.fromkeys(n for g in groups.values() for n in g["metrics"].get("accuracy_per_attribute", {})))
    for name in names if len(names) <= 5 else []:  # more do not fit on a line; summary.json has them
        cells = [_share_cell(group, "accuracy_per_attribute", name, interval=False) for group in groups.values()]
        columns.append((name, cells))
    for name in ("accuracy", "balanced_accuracy", "exact_match", "pair_accuracy", "count_accuracy"):
        if any(name in group["metrics"] for group in groups.values()):
            if name != "count_accuracy" or _count_was_inferred(summary):
                cells = [_share_cell(group, name) for group in groups.values()]
                columns.append((name.replace("_", " "), cells))
    columns += _recall_columns(summary)
    return f"{_align(columns)}\n{_cost_line(summary)}"


def _share_cell(group: Mapping[str, Any], name: str, key: str | None = None, interval: bool = True) -> str:
    value, bounds = group["metrics"].get(name), group["ci95"].get(name)
    if key is not None:
        value, bounds = (value or {}).get(key), (bounds or {}).get(key)
    if value is None:
        return "-"
    if not interval or bounds is None:
        return f"{100 * value:.1f} %"
    return f"{100 * value:.1f} % [{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"


def _recall_columns(summary: Mapping[str, Any], most: int = 8) -> list[tuple[str, list[str]]]:
    """A column for each class's recall, where the classes are few; the summary always has all."""
    groups = list(summary["groups"].values())
    names = (summary["options"] or {}).get("classes") or []
    if len(names) > most or not any("recall_per_class" in group["metrics"] for group in groups):
        return []
    columns = []
    for number, name in enumerate(names):
        values = [(group["metrics"].get("recall_per_class") or [None] * len(names))[number] for group in groups]
        columns.append((f"{name} found", ["-" if value is None else f"{100 * value:.1f} %" for value in values]))
    return columns


def _count_was_inferred(summary: Mapping[str, Any]) -> bool:
    accuracies = [group["metrics"].get("count_accuracy") for group in summary["groups"].values()]
    inferred = (summary["options"] or {}).get("count") == "infer"
    return inferred or any(accuracy not in (None, 1) for accuracy in accuracies)


def _cost_line(summary: Mapping[str, Any]) -> str:
    seconds, evaluations = summary["seconds_per_image"], summary["unet_evaluations_per_image"]
    if seconds is None:
        return "no image"
    forward, backward = evaluations["forward"], evaluations["backward"]
    return (
        f"per image: {seconds:.3g} s, {forward + backward:,.0f} UNet evaluations "
        f"({forward:,.0f} forward + {backward:,.0f} backward)"
    )


def _align(columns: Sequence[tuple[str, Sequence[str]]]) -> str:
    lines = []
    for cells in zip(*[[title, *cells] for title, cells in columns], strict=True):
        lines.append(cells)
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    aligned = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in lines]
    return "\n".join(aligned)
