"""Result records, one JSON line per image, and the summaries computed from them.

A record is a plain dict:

    image_id           str
    group              str, the row of the table that the image belongs to ("3-5", "female", "all")
    conds_true         list of K conditions (lists of D numbers), or None without ground truth
    conds_pred         list of conditions
    num_true, num_pred int; num_true is None without ground truth
    error              denoising error of the predicted composition, or None
    confidence         in [0, 1], or None
    unet_evaluations   {"forward": int, "backward": int}
    seconds            float, wall-clock time spent on the image
    seed               int

Further keys are kept. `python -m igm.results DIR` scores a results folder again and prints the table; with
`--against OTHER` also by how much it is above another run on the same images.
"""

import argparse
import json
import logging
import math
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from igm import UserError
from igm.metrics import attribute_metrics, bootstrap_interval, headline_parts, label_metrics, position_metrics

logger = logging.getLogger(__name__)

Record = dict[str, Any]
MetricsFn = Callable[[list[Record]], tuple[dict[str, Any], dict[str, Any]]]

RECORD_KEYS = (
    "image_id",
    "group",
    "conds_true",
    "conds_pred",
    "num_true",
    "num_pred",
    "error",
    "confidence",
    "unet_evaluations",
    "seconds",
    "seed",
)
RESULTS_NAME, OPTIONS_NAME, SUMMARY_NAME = "results.jsonl", "options.json", "summary.json"

# Which score a folder is given when it is scored again; a new task adds its line here.
METRICS_BY_TASK: dict[str, MetricsFn] = {
    "clevr": position_metrics,
    "clevrtex": position_metrics,
    "celeba": attribute_metrics,
    "animals": label_metrics,
}

_PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "numpy", "scipy")


class RecordWriter:
    """Append result records to a file, one JSON line per image, flushed as each image finishes.

    Use it as a context manager. The options that determine the results are stored beside the file, in options.json.

    With `resume`, the finished records are read first, from this file and from the other result files of the folder
    (so that a run may resume with another number of processes); the torn last line of a killed run is dropped.
    Without, an existing file is replaced. A fresh run of several processes calls `clear_results` in one of them before
    any of them opens its file, so that no shard of an earlier run is left to be picked up later.

    Attributes:
        finished: {(group, image_id): record} of the images that need no further work.
    """

    def __init__(self, path: str | Path, resume: bool, options: Mapping[str, Any]) -> None:
        """Open `path`, a file in the results folder (see `shard_path`); its parents are created.

        Raises:
            ValueError: on resuming with options other than the stored ones, without stored ones, or from a file with
                a line that cannot be read.
        """
        self.path = Path(path)
        self.finished: dict[tuple[str, str], Record] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        options_path = self.path.parent / OPTIONS_NAME
        if resume and any(file.stat().st_size for file in result_files(self.path.parent)):
            _check_options(options_path, options)
            if self.path.exists():
                own = read_records(self.path)
                _write_atomically(self.path, "".join(_to_line(record) for record in own))
            self.finished = {_key(record): record for record in read_results(self.path.parent)}
        else:
            if self.path.name == RESULTS_NAME:
                clear_results(self.path.parent)
            (self.path.parent / RESULTS_NAME).unlink(missing_ok=True)  # what earlier shards were merged into
            self.path.write_text("", encoding="utf-8")
            _write_json(options_path, options)
        self._file = open(self.path, "a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record and flush it; arrays and tensors become lists, other values that are not finite null.

        Raises:
            ValueError: if a key is missing, or a condition holds a number that is not finite.
        """
        plain = to_plain(record)
        _check_record(plain, f"the record of image {record.get('image_id')!r}")
        self._file.write(_to_line(plain))
        self._file.flush()
        self.finished[_key(plain)] = plain

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def shard_path(folder: str | Path, rank: int = 0, num_processes: int = 1) -> Path:
    """The file one process writes: results.jsonl, or results.<rank>.jsonl where there are several processes."""
    return Path(folder) / (RESULTS_NAME if num_processes == 1 else f"results.{rank}.jsonl")


def result_files(folder: str | Path) -> list[Path]:
    """The result files of a folder: results.jsonl if there is one, then the shards in order of rank."""
    folder = Path(folder)
    shards = [path for path in folder.glob("results.*.jsonl") if path.name.split(".")[1].isdecimal()]
    merged = [folder / RESULTS_NAME] if (folder / RESULTS_NAME).exists() else []
    return merged + sorted(shards, key=lambda path: int(path.name.split(".")[1]))


def clear_results(folder: str | Path) -> None:
    """Remove every result file of a folder, shards included; options and summary stay until they are rewritten."""
    for path in result_files(folder):
        path.unlink(missing_ok=True)


def read_records(path: str | Path) -> list[Record]:
    """Read one result file, in the order of its lines. A torn last line (a killed run) is left out with a warning.

    Raises:
        ValueError: naming file and line, for any other line that is not a complete record.
    """
    records = []
    lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            _check_record(record, "the line")
        except ValueError as error:
            if number == len(lines):  # not ended by a newline: the run was killed while writing it
                logger.warning("%s: line %d is torn and left out", path, number)
                break
            raise UserError(f"{path}, line {number}: {error}") from error
        records.append(record)
    return records


def read_results(folder: str | Path) -> list[Record]:
    """Read all result files of a folder, each image once.

    Raises:
        FileNotFoundError: if the folder has no result file.
        ValueError: as `read_records`.
    """
    files = result_files(folder)
    if not files:
        raise FileNotFoundError(f"no {RESULTS_NAME} in {folder}")
    return _first_of_each(record for path in files for record in read_records(path))


def read_options(folder: str | Path) -> dict[str, Any]:
    """The options of the run that wrote a results folder; empty where none are kept."""
    return _read_json(Path(folder) / OPTIONS_NAME)


def merge_shards(paths: Iterable[str | Path], out: str | Path) -> list[Record]:
    """Merge the files of several processes into `out`, in order of group and image_id, and remove them.

    Records that `out` already holds (a resumed run) stay; an image that several files hold is kept once. `out` is
    replaced in one step, and the shards are removed only after that, so that a kill loses nothing.

    Returns:
        the merged records.

    Raises:
        ValueError: as `read_records`.
    """
    out = Path(out)
    shards = [Path(path) for path in paths if Path(path) != out]
    files = [path for path in [out, *shards] if path.exists()]
    records = _first_of_each(record for path in files for record in read_records(path))
    records.sort(key=_key)
    _write_atomically(out, "".join(_to_line(record) for record in records))
    for path in shards:
        path.unlink(missing_ok=True)
    return records


def write_summary(
    path: str | Path,
    *,
    task: str,
    method: str,
    records: Sequence[Record],
    metrics_fn: MetricsFn,
    options: Mapping[str, Any],
    versions: Mapping[str, str] | None,
    checkpoint: str | None,
) -> dict[str, Any]:
    """Score the records group by group and write summary.json in one step.

    Args:
        path: the file to write; its parents are created.
        task: what was inferred, e.g. "clevr".
        method: how, e.g. "pursuit".
        records: result records; groups appear in order of first appearance. Records without ground truth count in
            `num_images`, seconds and evaluations but not in the metrics.
        metrics_fn: maps the records of a group to (metrics, ci95), e.g. `metrics.position_metrics`.
        options: the options of the run.
        versions: library versions of the run, see `library_versions`.
        checkpoint: where the weights came from.

    Returns:
        the summary as written: plain JSON values, None for what is not finite.
    """
    groups: dict[str, Any] = {}
    for name in dict.fromkeys(record["group"] for record in records):
        members = [record for record in records if record["group"] == name]
        scored = [record for record in members if record["conds_true"] is not None]
        metrics, ci95 = metrics_fn(scored) if scored else ({}, {})
        groups[name] = {"num_images": len(members), "metrics": metrics, "ci95": ci95}
    summary = {
        "task": task,
        "method": method,
        "groups": groups,
        "seconds_per_image": _mean(record["seconds"] for record in records),
        "unet_evaluations_per_image": {
            kind: _mean(record["unet_evaluations"][kind] for record in records) for kind in ("forward", "backward")
        },
        "options": options,
        "versions": versions,
        "checkpoint": checkpoint,
    }
    return _write_json(path, summary)


def rescore(folder: str | Path) -> dict[str, Any]:
    """Score a results folder again from its records and options, and rewrite its summary.

    Task, method and checkpoint come from the former summary, or else from the options; so do the versions, which are
    those of the run: they are null where no summary kept them.

    Raises:
        FileNotFoundError: if the folder has no result file.
        ValueError: if a line cannot be read or the task is unknown.
    """
    folder = Path(folder)
    records = read_results(folder)
    options = _read_json(folder / OPTIONS_NAME)
    former = _read_json(folder / SUMMARY_NAME)
    task = former.get("task", options.get("task"))
    if task not in METRICS_BY_TASK:
        raise UserError(f"{folder}: no score for task {task!r}; known tasks: {', '.join(METRICS_BY_TASK)}")
    return write_summary(
        folder / SUMMARY_NAME,
        task=task,
        method=former.get("method", options.get("method")),
        records=records,
        metrics_fn=METRICS_BY_TASK[task],
        options=options,
        versions=former.get("versions"),
        checkpoint=former.get("checkpoint", options.get("checkpoint")),
    )


def compare(folder: str | Path, other: str | Path) -> list[str]:
    """By how much a folder's headline score is above another's on the images that both have, a line per group.

    The 95 % interval is over images and paired: the same resampled images count for both.

    Raises:
        FileNotFoundError: if a folder has no result file. UserError: other tasks, or no image in common.
    """
    tasks = [read_options(place).get("task") for place in (folder, other)]
    ours, theirs = ({_key(r): r for r in read_results(place) if r["conds_true"]} for place in (folder, other))
    shared = [key for key in ours if key in theirs and ours[key]["conds_true"] == theirs[key]["conds_true"]]
    if tasks[0] != tasks[1] or not shared:
        raise UserError(f"{folder} and {other} have no image of one task in common; name runs on the same images")
    lines = []
    for group in dict.fromkeys(group for group, _ in shared):
        keys = [key for key in shared if key[0] == group]
        (top, of), (other_top, _) = (headline_parts(tasks[0], [side[k] for k in keys]) for side in (ours, theirs))
        difference = np.asarray(top, dtype=float) - other_top
        low, high = bootstrap_interval(difference, of)
        score = 100 * difference.sum() / of.sum()
        lines.append(f"{group}: {score:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}] on {len(keys):,} images")
    return lines


def library_versions() -> dict[str, str]:
    """Versions of Python and of the installed libraries that results depend on."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


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


def to_plain(value: Any) -> Any:
    """Turn a value into what JSON holds: arrays and tensors into lists, tuples into lists, NaN and infinity into None.

    Values of any other type (paths, dtypes) become their string.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars
        return to_plain(value.tolist())
    return str(value)


def _check_record(record: Any, what: str) -> None:
    if not isinstance(record, dict):
        raise ValueError(f"{what} is not a record but {type(record).__name__}")
    missing = [key for key in RECORD_KEYS if key not in record]
    if missing:
        raise ValueError(f"{what} lacks {', '.join(missing)}")
    for name in ("conds_true", "conds_pred"):
        # A condition that diverged must stop the run: scored as if it were far away, it would hide the fault.
        if _holds_none(record[name]) and record[name] is not None:
            raise ValueError(f"{what} holds a number that is not finite in {name}: {record[name]}")


def _holds_none(value: Any) -> bool:
    return any(_holds_none(item) for item in value) if isinstance(value, list) else value is None


def _check_options(path: Path, options: Mapping[str, Any]) -> None:
    if not path.exists():
        raise UserError(f"cannot resume: {path} is missing, so the options of the finished images are unknown")
    stored, options = _read_json(path), to_plain(options)
    differing = [name for name in options if name not in stored or stored[name] != options[name]]
    if differing:
        changes = ", ".join(f"{name} (was {stored.get(name)!r}, is {options[name]!r})" for name in differing)
        raise UserError(f"cannot resume {path.parent} with other options: {changes}")


def _key(record: Mapping[str, Any]) -> tuple[str, str]:
    return record["group"], record["image_id"]


def _first_of_each(records: Iterable[Record]) -> list[Record]:
    unique: dict[tuple[str, str], Record] = {}
    for record in records:
        unique.setdefault(_key(record), record)
    return list(unique.values())


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None


def _to_line(record: Mapping[str, Any]) -> str:
    return json.dumps(to_plain(record), allow_nan=False) + "\n"


def _write_json(path: str | Path, value: Mapping[str, Any]) -> dict[str, Any]:
    plain = to_plain(value)
    _write_atomically(path, json.dumps(plain, indent=2, allow_nan=False) + "\n")
    return plain


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _write_atomically(path: str | Path, text: str) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")  # its own name per process: all write options.json
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


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


def main() -> None:
    """Score a results folder again from its records, rewrite its summary.json and print the table."""
    parser = argparse.ArgumentParser(prog="python -m igm.results", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="results folder: results.jsonl and options.json")
    parser.add_argument("--against", type=Path, help="also compare with this folder's results on the same images")
    options = parser.parse_args()
    try:
        summary = rescore(options.folder)
        differences = compare(options.folder, options.against) if options.against else []
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    print("\n".join([format_table(summary), *differences]))


if __name__ == "__main__":
    main()
