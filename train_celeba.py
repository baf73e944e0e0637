"""Train a compositional diffusion model on CelebA: the mean of its predictions for each attribute denoises the face.

Examples:
    accelerate launch train_celeba.py --dataset_root celeba
    accelerate launch train_celeba.py --dataset_root celeba --learner resnet50 --max_train_steps 20000
"""

from dataclasses import dataclass

from igm import say, warn
from igm.cli.labels import FolderLabels
from igm.cli.launch import run
from igm.cli.training import or_training, read_training
from igm.data import DataError
from igm.data.attributes import DOMAINS
from igm.data.celeba import DEFAULT_ATTRIBUTES, PARTITIONS
from igm.data.dataset import Dataset
from igm.facts import Facts
from igm.settings import setting, side
from igm.training.settings import DataSettings
from igm.training.start import start_training


@dataclass(frozen=True, kw_only=True)
class CelebaData(FolderLabels, DataSettings):
    """Which faces are trained on, and which of their attributes."""

    attributes: tuple[str, ...] = setting(DEFAULT_ATTRIBUTES, "names of the header, or all", nargs="+")
    domain: str = setting("female", "training images", choices=(*DOMAINS, "all"))
    partition: str = setting("auto", "official: the partition file; rows: the published rows", choices=PARTITIONS)
    resolution: int = setting(128, "images are resized to this square", kind=side)


def load_data(data: CelebaData) -> tuple[Dataset, Dataset]:
    """Training faces, and the faces of the validation pictures (training ones where there is no val split)."""
    root = data.dataset_root
    common = {"domain": data.domain, "attributes": data.attributes, "resolution": data.resolution}
    common |= {"partition": data.partition, "skip_bad_images": data.skip_bad_images}
    kind, own = data.find(root, "attributes")
    common |= own
    dataset = kind(root, "train", max_images=data.max_images, flip=data.flip, **common)
    for note in dataset.notes():
        say(note)
    for doubt in dataset.doubts():
        warn(doubt)
    return dataset, or_training(dataset, lambda: kind(root, "val", max_images=100, **common))


def main() -> None:
    """Train what the command line asks for."""
    data, job = read_training(
        __doc__, CelebaData, "celeba", task="attributes", tracker_project_name="celeba", train_batch_size=64
    )
    dataset, validation = load_data(data)
    start_training(job, dataset, validation, Facts(task="attributes", mirrored=data.flip, **dataset.facts()))


if __name__ == "__main__":
    run(main, DataError)
