"""Summaries: the scores of a results folder, and comparisons of two."""

import argparse
import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igm import UserError
from igm.evaluation.records import (
    OPTIONS_NAME,
    SUMMARY_NAME,
    Record,
    key_of,
    read_json,
    read_options,
    read_results,
    write_json,
)
from igm.evaluation.table import format_table
from igm.settings import shortened
from igm.statistics import difference_interval
from igm.tasks import find_task
from igm.tasks.task import Task

MADE_BY = ("versions", "device", "threads", "processes", "command", "commit")  # of the run


def write_summary(
    path: str | Path,
    *,
    task: Task,
    method: str | None,
    records: Sequence[Record],
    options: Mapping[str, Any],
    checkpoint: str | None,
    made_by: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Score the records group by group and write summary.json in one step.

    Args:
        path: the file to write; its parents are created.
        task: what was inferred.
        method: how, e.g. "pursuit".
        records: result records; groups appear in order of first appearance. Records without ground truth count in
            `num_images`, seconds and evaluations but not in the metrics; `num_unlike` is None where none says so.
        options: the options of the run.
        checkpoint: where the weights came from.
        made_by: the provenance of the run (`igm.provenance`), by name.

    Returns:
        the summary as written: plain JSON values, None for what is not finite.
    """
    groups: dict[str, Any] = {}
    for name in dict.fromkeys(record["group"] for record in records):
        members = [record for record in records if record["group"] == name]
        scored = [record for record in members if record["conds_true"] is not None]
        metrics, ci95 = task.score(scored) if scored else ({}, {})
        told = [record["unlike"] for record in members if "unlike" in record]
        unlike = told.count(True) if told else None
        groups[name] = {"num_images": len(members), "num_unlike": unlike, "metrics": metrics, "ci95": ci95}
    summary = {
        "task": task.name,
        "method": method,
        "groups": groups,
        "seconds_per_image": mean_of(record["seconds"] for record in records),
        "unet_evaluations_per_image": {
            kind: mean_of(record["unet_evaluations"][kind] for record in records) for kind in ("forward", "backward")
        },
        "options": options,
        **{name: (made_by or {}).get(name) for name in MADE_BY},
        "checkpoint": checkpoint,
    }
    return write_json(path, summary)


def rescore(folder: str | Path) -> dict[str, Any]:
    """Score a results folder again from its records and options, and rewrite its summary.

    Task, method and checkpoint come from the former summary, or else from the options; what made the records stays as the
    former summary has it.

    Raises:
        UserError: if the folder has no result file, a line cannot be read, or the task is unknown.
    """
    folder = Path(folder)
    records = read_results(folder)
    options = read_json(folder / OPTIONS_NAME)
    former = read_json(folder / SUMMARY_NAME)
    task = task_of(folder, former.get("task", options.get("task")))
    with fitting(folder, task):
        return write_summary(
            folder / SUMMARY_NAME,
            task=task,
            method=former.get("method", options.get("method")),
            records=records,
            options=options,
            checkpoint=former.get("checkpoint", options.get("checkpoint")),
            made_by=former,
        )


@contextlib.contextmanager
def fitting(folder: Path, task: Task) -> Iterator[None]:
    """Turn what goes wrong with records or options that are not a task's into one line.

    Raises:
        UserError: naming the folder.
    """
    try:
        yield
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, IndexError) as error:
        cause = shortened(str(error), 200)
        raise UserError(f"{folder}: records or options are not those of {task.name} ({cause}); infer again") from error


def task_of(folder: Path, name: str | None) -> Task:
    """The task of a results folder.

    Raises:
        UserError: it is not known.
    """
    try:
        return find_task(name)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None


@dataclass(frozen=True)
class Difference:
    """By how much the headline score of a group is above another run's, in points, with its 95 % interval."""

    group: str
    points: float
    low: float
    high: float
    num_images: int

    def __str__(self) -> str:
        return f"{self.group}: {self.points:+.1f} points {self.interval} on {self.num_images:,} images"

    @property
    def interval(self) -> str:
        """The interval as tables have it."""
        return f"[{self.low:+.1f}, {self.high:+.1f}]"


def compare(folder: str | Path, other: str | Path) -> list[Difference]:
    """By how much a folder's headline score is above another's on the images that both have, group by group.

    The 95 % interval is over images and paired: the same resampled images count for both.

    Raises:
        UserError: a folder has no result file, other tasks, or no image in common.
    """
    tasks = [task_of(Path(place), read_options(place).get("task")) for place in (folder, other)]
    ours, theirs = ({key_of(r): r for r in read_results(place) if r["conds_true"]} for place in (folder, other))
    shared = [key for key in ours if key in theirs and ours[key]["conds_true"] == theirs[key]["conds_true"]]
    if tasks[0] is not tasks[1] or not shared:
        raise UserError(f"{folder} and {other} have no image of one task in common; name runs on the same images")
    groups: dict[str, list[tuple[Record, Record]]] = {}
    for key in shared:
        groups.setdefault(key[0], []).append((ours[key], theirs[key]))
    with fitting(Path(folder), tasks[0]):
        return [compare_group(tasks[0], group, pairs) for group, pairs in groups.items()]


def compare_group(task: Task, group: str, pairs: Sequence[tuple[Record, Record]]) -> Difference:
    """The difference of one group, from both records of each image that both runs have."""
    ours, theirs = zip(*pairs, strict=True)
    (top, of), (other_top, _) = task.headline(ours), task.headline(theirs)
    difference = np.asarray(top, dtype=float) - other_top
    low, high = difference_interval(difference, of) or (math.nan, math.nan)
    return Difference(group, 100 * float(difference.sum() / of.sum()), 100 * low, 100 * high, len(pairs))


def mean_of(values: Iterable[float]) -> float | None:
    """The mean of values, or None of none."""
    values = list(values)
    return sum(values) / len(values) if values else None


def main() -> None:
    """Score a results folder again from its records, rewrite its summary.json and print the table."""
    parser = argparse.ArgumentParser(prog="python -m igm.evaluation.summary", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="results folder: results.jsonl and options.json")
    parser.add_argument("--against", type=Path, help="also compare with this folder's results on the same images")
    options = parser.parse_args()
    try:
        summary = rescore(options.folder)
        differences = compare(options.folder, options.against) if options.against else []
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    print("\n".join([format_table(summary), *map(str, differences)]))


if __name__ == "__main__":
    main()
