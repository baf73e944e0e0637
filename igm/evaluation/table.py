"""A summary as a plain-text table."""

from collections.abc import Mapping, Sequence
from typing import Any

from igm.tasks import find_task


def format_table(summary: Mapping[str, Any]) -> str:
    """The summary as an aligned plain-text table: a line per group, then the cost per image.

    Shares are in %, the headline ones with their 95 % interval; the task says which columns there are.
    """
    groups = summary["groups"]
    columns = [("group", list(groups)), ("images", [str(group["num_images"]) for group in groups.values()])]
    columns += find_task(summary["task"]).columns(summary)
    return f"{align(columns)}\n{cost_line(summary)}"


def cost_line(summary: Mapping[str, Any]) -> str:
    """What an image cost on average."""
    seconds, evaluations = summary["seconds_per_image"], summary["unet_evaluations_per_image"]
    if seconds is None:
        return "no image"
    forward, backward = evaluations["forward"], evaluations["backward"]
    return (
        f"per image: {seconds:.3g} s, {forward + backward:,.0f} UNet evaluations "
        f"({forward:,.0f} forward + {backward:,.0f} backward)"
    )


def align(columns: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Columns of (title, cells) as lines of one width; the first is flush left, the others right."""
    lines = list(zip(*[[title, *cells] for title, cells in columns], strict=True))
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    aligned = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in lines]
    return "\n".join(aligned)
