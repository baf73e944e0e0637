"""Train a compositional diffusion model on CLEVR: the mean of its predictions for each object denoises the image.

Examples:
    python train_clevr.py --config configs/clevr-mini/train.yaml --dataset_root DIR         the small model that ships
    python train_clevr.py --config configs/paper/clevr_train.yaml --dataset_root CLEVR_v1.0 --resume_from_checkpoint latest
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from igm import say
from igm.cli.labels import TrainingLabels
from igm.cli.launch import run
from igm.cli.training import or_training, read_training
from igm.data import DataError
from igm.data.varied import NOTHING, Forgetting, Variation, VariedScenes
from igm.facts import Facts
from igm.settings import int_range, positive, setting
from igm.tasks import find_task
from igm.training.settings import DataSettings
from igm.training.start import start_training


@dataclass(frozen=True, kw_only=True)
class ClevrData(TrainingLabels, DataSettings):
    """Which scenes are trained on."""

    split: str = setting("train", "scenes to train on, such as CoGenT's trainA; its val split (valA) is held out")
    object_counts: tuple[int, int] = setting((3, 5), "objects per training scene", kind=int_range)
    max_images: int = setting(50_000, "at most so many scenes, as published", kind=positive)


def load_data(data: ClevrData, forgetting: Forgetting, contrasts: bool) -> tuple[Any, Any, Facts]:
    """Training scenes (some attributes made unknown), those of the validation pictures (or training ones), facts."""
    root, counts = data.dataset_root, data.object_counts
    kind, own = data.find(root, "positions")
    own |= {"resolution": data.resolution, "skip_bad_images": data.skip_bad_images}
    dataset: Any = kind(root, data.split, counts, max_images=data.max_images, flip=data.flip, **own)
    for note in dataset.notes():
        say(note)
    objects = bool(own.pop("fields", None))  # the checkpoint's vocabulary says which, below
    facts = Facts(task="objects" if objects else "positions", mirrored=data.flip, **dataset.facts())
    mistaken = data.mistaken(facts, contrasts)
    opener = partial(kind, max_images=100, **own)
    val = data.split.replace("train", "val") if "train" in data.split else "val"
    held_out = partial(find_task(facts.task).open, facts, False, opener, root, val, counts)
    if data.vary or (objects and forgetting != NOTHING):
        dataset = VariedScenes(dataset, Variation(share=data.vary or 0.0), forgetting, mistaken=mistaken)
    return dataset, or_training(dataset, held_out), facts


def main() -> None:
    """Train what the command line asks for."""
    data, job = read_training(__doc__, ClevrData, "clevr-2D-pos", task="positions", tracker_project_name="clevr")
    start_training(job, *load_data(data, job.learner.forgetting, job.learner.contrasts(job.training)))


if __name__ == "__main__":
    run(main, DataError)
