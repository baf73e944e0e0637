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
from igm.data.vocabulary import FIELDS
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
    fields: tuple[str, ...] = setting((), "beside the position", choices=("all", *FIELDS), nargs="+")


def load_data(data: ClevrData) -> tuple[Dataset, Dataset]:
    """Training scenes, and the scenes of the validation pictures (training ones where there is no val split)."""
    common: dict[str, Any] = {"resolution": data.resolution, "skip_bad_images": data.skip_bad_images}
    common |= {"fields": data.fields} if data.fields else {}
    root, counts = data.dataset_root, data.object_counts
    kind: Any = find_dataset(root, "positions")
    dataset: Any = kind(root, "train", counts, max_images=data.max_images, flip=data.flip, **common)
    if data.vary or data.fields:  # attributes are made unknown at random, as pictures are varied
        dataset = VariedScenes(dataset, Variation(share=data.vary or 0.0))
    try:
        validation = kind(root, "val", counts, max_images=100, **common)
    except DataError:
        return dataset, dataset
    if data.fields:
        validation.speak(dataset.facts()["vocabulary"], "the training split")
    return dataset, validation


def main() -> None:
    """Train what the command line asks for."""
    data, job = read_training(__doc__, ClevrData, "clevr-2D-pos", tracker_project_name="clevr")
    dataset, validation = load_data(data)
    facts = Facts(task="objects" if data.fields else "positions", **dataset.facts())
    start_training(job, dataset, validation, facts)


if __name__ == "__main__":
    run(main, DataError)
