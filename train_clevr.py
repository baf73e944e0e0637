"""Train a compositional diffusion model on CLEVR: the mean of its predictions for each object denoises the image.

Examples:
    python train_clevr.py --config configs/clevr-mini/train.yaml --dataset_root DIR         the small model that ships
    python train_clevr.py --config configs/paper/clevr_train.yaml --dataset_root CLEVR_v1.0 --resume_from_checkpoint latest
"""

from dataclasses import dataclass
from typing import Any

from igm.cli.launch import run
from igm.cli.training import read_training
from igm.data import DataError, find_dataset
from igm.data.dataset import Dataset
from igm.data.varied import Variation, VariedScenes
from igm.facts import Facts
from igm.settings import int_range, positive, probability, setting
from igm.training.settings import DataSettings
from igm.training.start import start_training


@dataclass(frozen=True, kw_only=True)
class ClevrData(DataSettings):
    """Which scenes are trained on."""

    object_counts: tuple[int, int] = setting((3, 5), "objects per training scene", kind=int_range)
    max_images: int = setting(50_000, "at most so many scenes, as published", kind=positive)
    vary: float | None = setting(None, "share of the pictures with other colours and framings", kind=probability)


def load_data(data: ClevrData) -> tuple[Dataset, Dataset]:
    """Training scenes, and the scenes of the validation pictures (training ones where there is no val split)."""
    common = {"resolution": data.resolution, "skip_bad_images": data.skip_bad_images}
    root, counts = data.dataset_root, data.object_counts
    kind = find_dataset(root, "positions")
    dataset: Any = kind(root, "train", counts, max_images=data.max_images, flip=data.flip, **common)
    if data.vary:
        dataset = VariedScenes(dataset, Variation(share=data.vary))
    try:
        return dataset, kind(root, "val", counts, max_images=100, **common)
    except DataError:
        return dataset, dataset


def main() -> None:
    """Train what the command line asks for."""
    data, job = read_training(__doc__, ClevrData, "clevr-2D-pos", task="positions", tracker_project_name="clevr")
    dataset, validation = load_data(data)
    start_training(job, dataset, validation, Facts(task="positions", **dataset.facts()))


if __name__ == "__main__":
    run(main, DataError)
