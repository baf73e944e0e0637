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

where the checkpoint's calibration tells,

    unlike             bool, whether the picture is unlike all that the model was measured on

and, where the dataset knows the picture,

    image_path         str
    width, height      int, of the upright picture in pixels
    fit_box            [left, top, width, height], the part of the picture, in its pixels, that the square showed whose
                       [0, 1] coordinates positions are in; absent where that is the whole picture
    sizes_true, hidden_true  of each true object, its diameter in pixels of the picture and the share of it that others
                       hide (`igm.data.looks`)
    coords_true        of each true object, its place (x, y, z) in the scene

Further keys are kept; names of attributes and classes are `concept_names`. `python -m igm.evaluation.export DIR` writes
records in the formats of other programs. `python -m igm.evaluation.summary DIR` scores a results folder again and prints
the table; with `--against OTHER` also by how much it is above another run on the same images.
"""

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from igm import UserError
from igm.files import replace_json, replace_text
from igm.settings import shortened

logger = logging.getLogger(__name__)


Record = dict[str, Any]


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


MOST_DIGITS = 18  # of a whole number in a record: what follows computes in floats and in 64 bits
RESULTS_NAME, OPTIONS_NAME, SUMMARY_NAME = "results.jsonl", "options.json", "summary.json"


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
            UserError: on resuming with options other than the stored ones, without stored ones, or from a file with
                a line that cannot be read.
        """
        self.path = Path(path)
        self.finished: dict[tuple[str, str], Record] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        options_path = self.path.parent / OPTIONS_NAME
        if resume and any(file.stat().st_size for file in result_files(self.path.parent)):
            check_options(options_path, options)
            if self.path.exists():
                own = read_records(self.path)
                replace_text(self.path, "".join(to_line(record) for record in own))
            self.finished = {key_of(record): record for record in read_results(self.path.parent)}
        else:
            if self.path.name == RESULTS_NAME:
                clear_results(self.path.parent)
            (self.path.parent / RESULTS_NAME).unlink(missing_ok=True)  # what earlier shards were merged into
            self.path.write_text("", encoding="utf-8")
            write_json(options_path, options)
        self._file = open(self.path, "a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record and flush it; arrays and tensors become lists, other values that are not finite null.

        Raises:
            ValueError: if a key is missing, an image comes twice, or a condition holds a number that is not finite.
        """
        plain = to_plain(record)
        check_record(plain, f"the record of image {record.get('image_id')!r}")
        if key_of(plain) in self.finished:
            raise ValueError(f"a second record of image {plain['image_id']!r} in group {plain['group']!r}")
        self._file.write(to_line(plain))
        self._file.flush()
        self.finished[key_of(plain)] = plain

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
        UserError: naming file and line, for any other line that is not a complete record.
    """
    records = []
    lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, parse_constant=_refuse_constant, parse_int=_whole_number)
            check_record(record, "the line")
        except (ValueError, RecursionError) as error:
            if number == len(lines):  # not ended by a newline: the run was killed while writing it
                logger.warning("%s: line %d is torn and left out", path, number)
                break
            cause = shortened(str(error), 200)
            raise UserError(f"{path}, line {number}: {cause}; take the line out, or infer again") from error
        records.append(record)
    return records


def _whole_number(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"{digits[:MOST_DIGITS]}... is too large a number")
    return int(digits)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def read_results(folder: str | Path) -> list[Record]:
    """Read all result files of a folder, each image once.

    Raises:
        UserError: if the folder has no result file, or as `read_records`.
    """
    files = result_files(folder)
    if not files:
        raise UserError(f"no {RESULTS_NAME} in {folder}; name a folder that an evaluation wrote")
    return first_of_each(record for path in files for record in read_records(path))


def read_options(folder: str | Path) -> dict[str, Any]:
    """The options of the run that wrote a results folder; empty where none are kept."""
    return read_json(Path(folder) / OPTIONS_NAME)


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
    records = first_of_each(record for path in files for record in read_records(path))
    records.sort(key=key_of)
    replace_text(out, "".join(to_line(record) for record in records))
    for path in shards:
        path.unlink(missing_ok=True)
    return records


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


def check_record(record: Any, what: str) -> None:
    """Raise ValueError unless a record has all keys, each of its kind, and finite numbers."""
    if not isinstance(record, dict):
        raise ValueError(f"{what} is not a record but {type(record).__name__}")
    missing = [key for key in RECORD_KEYS if key not in record]
    if missing:
        raise ValueError(f"{what} lacks {', '.join(missing)}")
    wrong = next((name for name, holds in _KINDS.items() if not holds(record[name])), None)
    if wrong is not None:
        # A condition that diverged must stop the run: scored as if it were far away, it would hide the fault.
        raise ValueError(f"{what} holds in {wrong} a value that is not finite or not of its kind: {record[wrong]}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _are_conds(value: Any) -> bool:
    rows = isinstance(value, list) and all(isinstance(row, list) and all(map(_is_number, row)) for row in value)
    return rows and len({len(row) for row in value}) <= 1


_KINDS: dict[str, Callable[[Any], bool]] = {
    "image_id": lambda v: isinstance(v, str),
    "group": lambda v: isinstance(v, str),
    "conds_true": lambda v: v is None or _are_conds(v),
    "conds_pred": _are_conds,
    "num_true": lambda v: v is None or _is_count(v),
    "num_pred": _is_count,
    "error": lambda v: v is None or _is_number(v),
    "confidence": lambda v: v is None or (_is_number(v) and 0 <= v <= 1),
    "unet_evaluations": lambda v: isinstance(v, dict) and all(_is_number(v.get(k)) for k in ("forward", "backward")),
    "seconds": _is_number,
}


def check_options(path: Path, options: Mapping[str, Any]) -> None:
    """Raise UserError unless a run has the options of the one that it resumes."""
    if not path.exists():
        raise UserError(f"cannot resume: {path} is missing, so the options of the finished images are unknown")
    stored, options = read_json(path), to_plain(options)
    differing = [name for name in options if name not in stored or stored[name] != options[name]]
    if differing:
        changes = ", ".join(f"{name} (was {stored.get(name)!r}, is {options[name]!r})" for name in differing)
        raise UserError(f"cannot resume {path.parent} with other options: {changes}")


def key_of(record: Mapping[str, Any]) -> tuple[str, str]:
    """What tells an image from all others of a results folder."""
    return record["group"], record["image_id"]


def first_of_each(records: Iterable[Record]) -> list[Record]:
    """The records, of each image the first."""
    unique: dict[tuple[str, str], Record] = {}
    for record in records:
        unique.setdefault(key_of(record), record)
    return list(unique.values())


def to_line(record: Mapping[str, Any]) -> str:
    """A record as a line of JSON."""
    return json.dumps(to_plain(record), allow_nan=False) + "\n"


def write_json(path: str | Path, value: Mapping[str, Any]) -> dict[str, Any]:
    """Replace a file by a value as JSON; return what it holds."""
    plain = to_plain(value)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    replace_json(path, plain)
    return plain


def read_json(path: Path) -> dict[str, Any]:
    """The object that a file of a results folder holds; empty where there is no such file.

    Raises:
        UserError: it is no JSON object.
    """
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path} is not the JSON object that it was; restore it, or infer again without --resume")
    return value
