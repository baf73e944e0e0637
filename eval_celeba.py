"""Infer the attributes of CelebA faces, in the domain of training (female) and out of it (male); score and draw them.

Examples:
    python eval_celeba.py                                           the shipped model on drawn faces
    python eval_celeba.py --dataset_root celeba --checkpoint outputs/celeba/checkpoint-30000
    python eval_celeba.py --images my_pictures                      one's own pictures: records and figures, no scores
"""

from dataclasses import dataclass

from igm.cli.evaluation import Evaluation, Groups, OwnPictures, parse_evaluations, run_evaluation
from igm.cli.labels import FolderLabels
from igm.cli.launch import run
from igm.data import DataError
from igm.data.attributes import DOMAINS
from igm.data.celeba import DEFAULT_ATTRIBUTES, PARTITIONS
from igm.data.metadata import SPLITS
from igm.data.samples import sample_faces
from igm.settings import setting

SAMPLE_IMAGES, SAMPLE_DRAWS = 40, 100  # per domain, and per image, of the embedded default


@dataclass(frozen=True, kw_only=True)
class FaceSettings(FolderLabels, OwnPictures):
    """Which faces are inferred, and which attributes of them."""

    split: str = setting("test", "of the partition file, or the published rows", choices=SPLITS)
    attributes: tuple[str, ...] = setting(DEFAULT_ATTRIBUTES, "as in training, or all", nargs="+")
    partition: str = setting("auto", "official: the partition file; rows: the published rows", choices=PARTITIONS)
    domains: tuple[str, ...] = setting(tuple(DOMAINS), "one group each", choices=(*DOMAINS, "all"), nargs="+")

    @property
    def names(self) -> tuple[str, ...] | None:
        return self.attributes if self.images else None


def load_groups(evaluation: Evaluation[FaceSettings]) -> Groups:
    """One dataset per domain; drawn faces where no --dataset_root is given."""
    data = evaluation.data
    if data.images:
        return data.own_pictures("images")
    number = data.num_images or (1000 if data.dataset_root else SAMPLE_IMAGES)
    if data.dataset_root is None:
        print("No --dataset_root: the shipped model infers drawn faces")
    root = data.dataset_root or sample_faces(number)
    kind, own = data.find(root, "attributes")
    chosen = {"attributes": data.attributes, "partition": data.partition, **own, **data.bounds(number)}
    return {domain: kind(root, data.split, domain=domain, **chosen) for domain in data.domains}


def main() -> None:
    """Infer, score and draw what the command line asks for."""
    sample = {"num_draws": SAMPLE_DRAWS}
    (evaluation,) = parse_evaluations(__doc__, "attributes", FaceSettings, method="discrete", sample=sample, seed=42)
    run_evaluation(evaluation, load_groups)


if __name__ == "__main__":
    run(main, DataError)
