"""`--dry_run` of a reproduction: its commands, the memory that each training needs, and about how long all takes."""

import subprocess
import sys
from collections.abc import Sequence

from igm.reproduction.rows import Place, Row, Table, Training
from igm.reproduction.run import in_words, is_trained, last_line, launched, results_of

TOLD = ("Network:", "Memory per process", "error: ")  # lines of a training's dry run that are repeated


def describe_rows(rows: Sequence[Row], table: Table, place: Place) -> None:
    """Print what is to be done for each row; nothing is trained or inferred."""
    trainings: dict[str, str] = {}  # names of runs that an earlier row has made, by that row
    total, known = 0.0, True
    for row in rows:
        print(f"\n{row.name}: {row.title}")
        hours: list[float | None] = []
        if row.training is not None and row.training.name in trainings:
            print(f"  trained with row {trainings[row.training.name]}")
        elif row.training is not None:
            trainings[row.training.name] = row.name
            hours.append(describe_training(row.training, place))
        words = row.words(place, table.num_images)
        print(f"  $ {in_words(words)}")
        if results_of(row, words, place) is not None:
            print("  finished")
        else:
            number = (place.num_images or table.num_images) * row.groups
            hours.append(None if row.image_seconds is None else row.image_seconds * number / 3600)
            print(f"  evaluation of {number:,} images: {in_hours(hours[-1])}")
        total += sum(own or 0 for own in hours)
        known = known and None not in hours
    print(f"\nAll: {in_hours(total)}{'' if known else ', besides what is not known'}")
    print(f"The hours are estimates: {table.basis}")
    print("Dry run: nothing was trained, inferred or written")


def describe_training(training: Training, place: Place) -> float | None:
    """Print a training's command, and what its own dry run says of memory; return its hours, where they are known."""
    command = launched(training, place)
    print(f"  $ {in_words(command)}")
    if is_trained(training, place):
        print("  trained")
        return 0.0
    for line in dry_run_of(training, place):
        print(f"  {line}")
    hours = None if training.step_seconds is None else training.step_seconds * training.steps / 3600
    if hours is not None:
        hours *= training.processes / min(place.num_processes, training.processes)
    print(f"  training of {training.steps:,} steps: {in_hours(hours)}")
    return hours


def dry_run_of(training: Training, place: Place) -> list[str]:
    """The lines on network and memory of a training's own `--dry_run`, on one process."""
    command = [sys.executable, *training.words(place), "--dry_run"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return [f"its --dry_run says: {last_line(done.stderr)}"]
    return [line for line in done.stdout.splitlines() if line.startswith(TOLD)]


def in_hours(hours: float | None) -> str:
    """About how long, in words."""
    if hours is None:
        return "hours not known"
    if hours < 1 / 60:
        return "less than a minute"
    if hours < 1.5 / 60:
        return "about a minute"
    return f"about {hours:.1f} hours" if hours >= 0.95 else f"about {60 * hours:.0f} minutes"
