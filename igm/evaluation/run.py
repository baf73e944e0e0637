"""From images to records and a summary: what every evaluation does, whatever the method and the task."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from igm import UserError, warn
from igm.data.dataset import Dataset
from igm.evaluation.records import (
    RESULTS_NAME,
    SUMMARY_NAME,
    Record,
    RecordWriter,
    clear_results,
    merge_shards,
    result_files,
    shard_path,
)
from igm.evaluation.summary import write_summary
from igm.files import locked
from igm.inference.method import Method
from igm.inference.types import Inferred
from igm.provenance import provenance
from igm.settings import Settings, positive, setting, shortened
from igm.tasks.task import Task

Groups = Mapping[str, Any]  # datasets by the row of the table that they make


@dataclass(frozen=True, kw_only=True)
class BatchSettings(Settings):
    """How many images and network rows are worked on together; results do not depend on it."""

    images_per_batch: int = setting(8, "images inferred together", kind=positive, determines=False)
    batch_size: int | None = setting(None, "most network rows at once", kind=positive, determines=False)
    resume: bool = setting(False, "skip the images that results.jsonl has", determines=False)


def evaluate(
    method: Method,
    task: Task,
    groups: Groups,
    output_dir: Path,
    *,
    options: Mapping[str, Any],
    checkpoint: str,
    batching: BatchSettings | None = None,
    num_objects: int | None = None,
) -> dict[str, Any]:
    """Infer every image of every group; write records as they come, then summary.json; return the summary.

    Under several processes the images are shared out and the records gathered by the main one, which alone returns
    more than an empty dict.

    Args:
        groups: name -> dataset whose items have `pixel_values`, `image_id` and, with ground truth, `conds` and `mask`.
        options: what determines the results, besides task, method and checkpoint; a resumed run must have the same.
        num_objects: known number of concepts in images without ground truth.

    Raises:
        UserError: the method needs the number of concepts, and nobody knows it; a run that cannot be resumed; or
            another process is writing there.
    """
    state, batching, output_dir = PartialState(), batching or BatchSettings(), Path(output_dir)
    options = {"task": task.name, "method": method.name, "checkpoint": checkpoint, **options}
    worker = Worker(method, task, groups, options.get("seed", 0), batching.batch_size, num_objects)
    with locked(output_dir) if state.is_main_process else contextlib.nullcontext():
        if state.is_main_process and not batching.resume:
            clear_results(output_dir)
        state.wait_for_everyone()
        infer_all(worker, output_dir, options, batching)
        state.wait_for_everyone()
        if not state.is_main_process:
            return {}
        return write_summary(
            output_dir / SUMMARY_NAME,
            task=task,
            method=method.name,
            records=merge_shards(result_files(output_dir), output_dir / RESULTS_NAME),
            options=options,
            checkpoint=checkpoint,
            made_by=provenance(method.model.device, state.num_processes).to_json(),
        )


def infer_all(worker: "Worker", output_dir: Path, options: Mapping[str, Any], batching: BatchSettings) -> None:
    """Write the record of every image that this process has to infer and that has none yet.

    Raises:
        KeyboardInterrupt: stopped; its notes say how to go on.
    """
    state, size = PartialState(), batching.images_per_batch
    path = shard_path(output_dir, state.process_index, state.num_processes)
    with RecordWriter(path, batching.resume, options) as writer:
        check_known(worker, writer.finished, path)
        todo = [(g, i) for g, i in worker.images() if (g, worker.image_id(g, i)) not in writer.finished]
        mine = todo[state.process_index :: state.num_processes]
        name = worker.method.name
        with tqdm(total=len(mine), unit="image", desc=name, disable=not state.is_main_process) as bar:
            for batch in (mine[first : first + size] for first in range(0, len(mine), size)):
                try:
                    for record in worker.infer(batch):
                        writer.write(record)
                except KeyboardInterrupt as stop:
                    kept = f"{bar.n} of {len(mine)} images are in {output_dir}"
                    stop.add_note(f"{kept}; the same command with --resume goes on")
                    raise
                bar.update(len(batch))


def check_known(worker: "Worker", finished: Mapping[tuple[str, str], Record], path: Path) -> None:
    """Raise UserError where a resumed folder holds a record of an image that this run does not have."""
    if (
        strange := finished.keys() - {(group, worker.image_id(group, i)) for group, i in worker.images()}
        if finished
        else ()
    ):
        group, image = sorted(strange)[0]
        raise UserError(
            f"{path.parent} holds a record of image {shortened(image)} in group {shortened(group)}, which this run does "
            "not have; take its line out, or infer again without --resume"
        )


class Worker:
    """Infers batches of images and makes their records.

    Args:
        seed: as it is recorded. batch_size: most network rows at once; None: what the method says.
        num_objects: known number of concepts in images without ground truth.
    """

    def __init__(
        self, method: Method, task: Task, groups: Groups, seed: int, batch_size: int | None, num_objects: int | None
    ):
        self.method, self.task, self.groups, self.seed = method, task, groups, seed
        self.num_objects = num_objects
        self.roomy = within_memory(method, batch_size or method.rows_at_once)

    def images(self) -> list[tuple[str, int]]:
        """(group, item number) of every image."""
        return [(name, i) for name, dataset in self.groups.items() for i in range(len(dataset))]

    def image_id(self, group: str, i: int) -> str:
        """The name of an image in its group."""
        return self.groups[group].annotation(i)["image_id"]

    def infer(self, batch: Sequence[tuple[str, int]]) -> list[Record]:
        """The records of some (group, item number)."""
        started = time.perf_counter()
        items = [self.groups[name][i] for name, i in batch]
        counts = [int(item["mask"].sum()) if "mask" in item else self.num_objects for item in items]
        known = [count for count in counts if count is not None]
        found = self.roomy(
            torch.stack([item["pixel_values"] for item in items]),
            torch.tensor(known) if len(known) == len(counts) else None,
            image_numbers=[i for _, i in batch],
        )
        seconds = (time.perf_counter() - started) / len(batch)
        return [
            {**self.record(name, item, found, row, seconds), **picture_of(self.groups[name], i)}
            for row, ((name, i), item) in enumerate(zip(batch, items, strict=True))
        ]

    def record(self, group: str, item: dict, found: Inferred, row: int, seconds: float) -> Record:
        """The record of one image; see `igm.evaluation.records`."""
        k = int(found.num_concepts[row])
        true = item["conds"][item["mask"] > 0] if "mask" in item else None
        return {
            "image_id": item["image_id"],
            "group": group,
            "conds_true": None if true is None else self.task.conditions(true),
            "conds_pred": self.task.conditions(found.conds[row, :k]),
            "num_true": None if true is None else len(true),
            "num_pred": k,
            "error": float(found.error[row]),
            "confidence": None if found.confidence is None else float(found.confidence[row]),
            "unet_evaluations": {"forward": int(found.forward[row]), "backward": int(found.backward[row])},
            "seconds": seconds,
            "seed": self.seed,
            **({} if found.unlike is None else {"unlike": found.unlike[row]}),
            **({} if true is None else self.task.truth(true, self.method.names)),
            **self.task.record(found, row, self.method.names),
        }


def picture_of(dataset: Dataset, i: int) -> Record:
    """What a record says of item i's picture: its file, its size, how its objects look, and which part positions are in."""
    width, height = dataset.size_of(i)
    record: Record = {"image_path": str(dataset.path_of(i)), "width": width, "height": height, **dataset.looks_of(i)}
    box = [round(float(side), 4) for side in dataset.box_of(i)]
    return record if box == [0, 0, width, height] else {**record, "fit_box": box}


def within_memory(infer: Callable[..., Inferred], batch_size: int) -> Callable[..., Inferred]:
    """`infer` with at most `batch_size` network rows at once; halved for good, and said, when memory runs out."""
    size = batch_size

    def roomy(*args: Any, **kwargs: Any) -> Inferred:
        nonlocal size
        while True:
            try:
                return infer(*args, **kwargs, batch_size=size)
            except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's allocator raises it plain
                if not ("memory" in str(error) and "alloc" in str(error)):
                    raise
                if size == 1:
                    raise UserError("too little memory for a single network row; use a smaller model") from error
            size //= 2
            warn(f"too little memory for --batch_size {2 * size}; going on with {size}")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    return roomy
