"""Measure on images of known concepts what inference needs, and write it into a checkpoint's igm.json.

Positions: by how much an object must lower the error to count, and how far confidences can be trusted, on training scenes.
Attributes: the noise levels that tell values apart best, on validation images of the training domain.
Both: the highest denoising error of these images; those of more than twice that are said to be unlike them.

Examples:
    python scripts/calibrate.py --checkpoint models/pretrained/clevr-mini --dataset_root DIR --num_images 60
    python scripts/calibrate.py --checkpoint models/pretrained/celeba-mini --dataset_root faces
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igm.calibration.settings import CalibrationImages, CalibrationSettings
from igm.cli.launch import run
from igm.cli.options import Parser, take
from igm.data import DataError, find_dataset
from igm.dry_run import describe, memory_estimate, parts_of
from igm.facts import FACTS_FILE, Facts
from igm.files import replace_json
from igm.models import ModelError
from igm.models.denoiser import Denoiser
from igm.settings import setting
from igm.tasks import find_task


@dataclass(frozen=True, kw_only=True)
class Images(CalibrationImages):
    """The checkpoint, and the images that it learns from."""

    checkpoint: str = setting(help="folder whose igm.json is completed")
    dry_run: bool = setting(False, "print options, data, parameters and memory, and stop")


def find_reader(task: str) -> Callable[..., Any]:
    """A function (root, ...) that opens a folder with the dataset class that reads it."""
    return lambda root, *more, **chosen: find_dataset(root, task)(root, *more, **chosen)


def main() -> None:
    parser = Parser(__doc__)
    parser.add("images", Images)
    parser.add("calibration", CalibrationSettings)
    options = parser.read()
    images, settings = take(options, Images), take(options, CalibrationSettings)
    file = Path(images.checkpoint) / FACTS_FILE
    if not file.is_file():
        raise ModelError(f"--checkpoint {images.checkpoint} has no {file}, so that its task is unknown; name another")
    facts = Facts.read(file.parent)
    if facts.draws:
        raise ModelError(
            f"--checkpoint {images.checkpoint} draws scenes and infers nothing, so there is nothing to measure"
        )
    task = find_task(facts.task or "positions", file)
    dataset = task.calibration_images(
        find_reader(task.refines or task.name), images, facts
    )  # before the model: mistakes show at once
    denoiser = Denoiser.from_pretrained(images.checkpoint)
    dataset.resolution = denoiser.resolution
    if images.dry_run:
        memory = memory_estimate(denoiser, settings.batch_size, images=1)
        counts = {"training" if dataset.split == "train" else "validation": len(dataset)}
        given = {**dataclasses.asdict(images), **dataclasses.asdict(settings)}
        return describe(given, counts, parts_of(denoiser), memory)
    facts = task.calibrate(denoiser, dataset, settings)
    replace_json(file, facts.to_json())
    measured = {k: v for k, v in facts.known().items() if denoiser.facts.known().get(k) != v}
    print(f"wrote {measured} to {file}")


if __name__ == "__main__":
    run(main, DataError)
