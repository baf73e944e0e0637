"""From images to records, scores and figures: what the evaluation scripts share."""

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from accelerate import PartialState
from PIL import Image
from tqdm import tqdm

from igm import warn
from igm.evaluation.records import RecordWriter, clear_results, merge_shards, result_files, shard_path
from igm.evaluation.summary import METRICS_BY_TASK, library_versions, write_summary
from igm.evaluation.table import format_table
from igm.figures import convergence_gif, redraw
from igm.inference.types import Inferred, Posterior
from igm.models.denoiser import Denoiser

Infer = Callable[..., Inferred]  # (posterior, num_concepts (B,) or None, image_numbers=[...], batch_size=...)


def evaluate(
    denoiser: Denoiser,
    groups: Mapping[str, torch.utils.data.Dataset],
    infer: Infer,
    output_dir: Path,
    *,
    task: str,
    method: str,
    options: dict,
    checkpoint: str,
    images_per_batch: int = 8,
    batch_size: int = 1024,
    num_objects: int | None = None,
    mixed_precision: str = "no",
    resume: bool = False,
) -> dict:
    """Infer every image of every group; write records as they come, then summary.json; return the summary.

    Under several processes the images are shared out and the records gathered by the main one.

    Args:
        groups: name -> dataset whose items have `pixel_values`, `image_id` and, with ground truth, `conds` and `mask`.
        infer: (posterior, num_concepts (B,) or None without ground truth, image_numbers=[...], batch_size=...) -> Inferred.
        num_objects: known number of concepts in images without ground truth.
        batch_size: most network rows at once; halved, with a warning, where the memory does not suffice.
        options: what determines the results; a resumed run must have the same.
    """
    state = PartialState()
    output_dir = Path(output_dir)
    options = {"task": task, "method": method, "checkpoint": checkpoint, **options}
    if state.is_main_process and not resume:
        clear_results(output_dir)
    state.wait_for_everyone()
    roomy = within_memory(infer, batch_size)
    todo = [(name, i) for name, dataset in groups.items() for i in range(len(dataset))]
    with RecordWriter(shard_path(output_dir, state.process_index, state.num_processes), resume, options) as writer:
        todo = [(g, i) for g, i in todo if (g, groups[g].annotation(i)["image_id"]) not in writer.finished]
        mine = todo[state.process_index :: state.num_processes]
        with tqdm(total=len(mine), unit="image", desc=method, disable=not state.is_main_process) as bar:
            for first in range(0, len(mine), images_per_batch):
                batch = mine[first : first + images_per_batch]
                for record in infer_batch(
                    denoiser, groups, batch, roomy, mixed_precision, options.get("seed", 0), num_objects
                ):
                    writer.write(record)
                bar.update(len(batch))
    state.wait_for_everyone()
    if not state.is_main_process:
        return {}
    records = merge_shards(result_files(output_dir), output_dir / "results.jsonl")
    return write_summary(
        output_dir / "summary.json",
        task=task,
        method=method,
        records=records,
        metrics_fn=METRICS_BY_TASK[task],
        options=options,
        versions=library_versions(),
        checkpoint=checkpoint,
    )


def infer_batch(
    denoiser: Denoiser,
    groups: Mapping,
    batch: list,
    infer: Infer,
    precision: str,
    seed: int,
    num_objects: int | None = None,
) -> list[dict]:
    """Infer a batch of (group, item number); return its records. `num_objects` stands in for ground truth."""
    started = time.perf_counter()
    items = [groups[name][i] for name, i in batch]
    posterior = encode_images(denoiser, torch.stack([item["pixel_values"] for item in items]))
    counts = [int(item["mask"].sum()) if "mask" in item else num_objects for item in items]
    numbers = None if None in counts else torch.tensor(counts)
    with autocast(denoiser.device, precision):
        found = infer(posterior, numbers, image_numbers=[i for _, i in batch])
    seconds = (time.perf_counter() - started) / len(batch)
    records = []
    for row, ((name, i), item) in enumerate(zip(batch, items, strict=True)):
        record = make_record(name, item, found, row, seconds, seed, groups[name].path_of(i))
        names = getattr(groups[name], "attributes", None)
        records.append({**record, "concept_names": list(names)} if names else record)
    return records


def make_record(group: str, item: dict, found: Inferred, row: int, seconds: float, seed: int, path: Path) -> dict:
    """The record of one image; see `igm.evaluation.records`."""
    k = int(found.num_concepts[row])
    true = item["conds"][item["mask"] > 0].tolist() if "mask" in item else None
    more = {name: values[row] for name, values in found.extra.get("records", {}).items()}
    return {
        "image_id": item["image_id"],
        "group": group,
        "conds_true": true,
        "conds_pred": found.conds[row, :k].tolist(),
        "num_true": None if true is None else len(true),
        "num_pred": k,
        "error": float(found.error[row]),
        "confidence": None if found.confidence is None else float(found.confidence[row]),
        "unet_evaluations": {"forward": int(found.forward[row]), "backward": int(found.backward[row])},
        "seconds": seconds,
        "seed": seed,
        "image_path": str(path),
        **more,
    }


def within_memory(infer: Infer, batch_size: int) -> Infer:
    """`infer` with at most `batch_size` network rows at once; halved for good, and said, when memory runs out."""
    size = batch_size

    def roomy(*args, **kwargs) -> Inferred:
        nonlocal size
        while True:
            try:
                return infer(*args, **kwargs, batch_size=size)
            except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's allocator raises it plain
                if size == 1 or not ("memory" in str(error) and "alloc" in str(error)):
                    raise
            size //= 2
            warn(f"too little memory for --batch_size {2 * size}; going on with {size}")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    return roomy


@torch.no_grad()
def encode_images(denoiser: Denoiser, images: torch.Tensor) -> Posterior:
    """The posterior of images (B, 3, R, R), on the denoiser's device."""
    return Posterior(*denoiser.encode(images.to(denoiser.device)))


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Half-precision arithmetic of the network on request; sums over draws stay in float32."""
    if precision == "no":
        return contextlib.nullcontext()
    return torch.autocast(device.type, {"fp16": torch.float16, "bf16": torch.bfloat16}[precision])


def finish(summary: dict, output_dir: Path, *, figures: bool = True) -> None:
    """Print the table, draw the figures from the records, and say where everything is."""
    print(f"\n{format_table(summary)}\n\nRecords and summary: {output_dir}")
    if figures:
        paths = redraw(output_dir)
        print("Figures: " + " ".join(str(path) for path in paths))


def animate(denoiser: Denoiser, dataset, number: int, infer: Infer, path: Path) -> None:
    """Write an animation of one image's positions converging; `infer` must record a trajectory."""
    item = dataset[number]
    posterior = encode_images(denoiser, item["pixel_values"][None])
    found = infer(posterior, item["mask"].sum().long()[None], image_numbers=[number])
    true = item["conds"][item["mask"] > 0]
    picture = Image.open(dataset.path_of(number)).convert("RGB")
    convergence_gif(picture, found.trajectory[:, 0].numpy(), true.numpy(), path, best=int(found.extra["best"][0]))
