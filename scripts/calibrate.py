"""Measure on images of known concepts what inference needs, and write it into a checkpoint's igm.json.

Positions: by how much an object must lower the error to count, and how far confidences can be trusted, on training scenes.
Attributes: the noise levels that tell values apart best, on validation images of the training domain.

Examples:
    python scripts/calibrate.py --checkpoint models/pretrained/clevr-mini --dataset_root DIR --num_images 60
    python scripts/calibrate.py --checkpoint models/pretrained/celeba-mini --dataset_root faces
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from igm import UserError
from igm.calibration.settings import CalibrationSettings
from igm.cli.launch import run
from igm.cli.options import Parser, take
from igm.data import DataError
from igm.data.celeba import DOMAINS, CelebA
from igm.data.clevr import Clevr
from igm.dry_run import describe, memory_estimate, parts_of
from igm.facts import FACTS_FILE, Facts
from igm.files import replace_json
from igm.models import ModelError
from igm.models.denoiser import Denoiser
from igm.settings import Settings, int_range, positive, setting
from igm.tasks import find_task


@dataclass(frozen=True, kw_only=True)
class Images(Settings):
    """The images that tell, and the checkpoint that learns from them."""

    checkpoint: str = setting(help="folder whose igm.json is completed")
    dataset_root: str = setting(help="folder of CLEVR_v1.0, or of CelebA")
    object_counts: tuple[int, int] = setting((3, 5), "positions: per scene, as in training", kind=int_range)
    domain: str = setting("female", "attributes: as in training", choices=(*DOMAINS, "all"))
    num_images: int = setting(50, "images used", kind=positive)
    dry_run: bool = setting(False, "print options, data, parameters and memory, and stop")


def load_data(images: Images, facts: Facts) -> Clevr | CelebA:
    """Images of the checkpoint's task.

    Raises:
        UserError: there is nothing to measure for this task.
    """
    if facts.task in (None, "positions"):
        return Clevr(images.dataset_root, "train", images.object_counts, max_images=images.num_images)
    if facts.attributes:
        return CelebA(images.dataset_root, "val", images.domain, facts.attributes, max_images=images.num_images)
    raise UserError(
        f"--checkpoint {images.checkpoint} was trained as {facts.task}; there is nothing to measure for that"
    )


def main() -> None:
    parser = Parser(__doc__)
    parser.add("images", Images)
    parser.add("calibration", CalibrationSettings)
    options = parser.read()
    images, settings = take(options, Images), take(options, CalibrationSettings)
    file = Path(images.checkpoint) / FACTS_FILE
    if not file.is_file():
        raise ModelError(f"--checkpoint {images.checkpoint} has no {file}, so that its task is unknown; name another")
    dataset = load_data(images, Facts.read(file.parent))  # before the model: mistakes show at once
    denoiser = Denoiser.from_pretrained(images.checkpoint)
    dataset.resolution = denoiser.resolution
    if images.dry_run:
        memory = memory_estimate(denoiser, settings.batch_size, images=1)
        counts = {"training" if isinstance(dataset, Clevr) else "validation": len(dataset)}
        given = {**dataclasses.asdict(images), **dataclasses.asdict(settings)}
        return describe(given, counts, parts_of(denoiser), memory)
    facts = find_task(denoiser.facts.task or "positions").calibrate(denoiser, dataset, settings)
    replace_json(file, facts.to_json())
    measured = {k: v for k, v in facts.known().items() if denoiser.facts.known().get(k) != v}
    print(f"wrote {measured} to {file}")


if __name__ == "__main__":
    run(main, DataError)
