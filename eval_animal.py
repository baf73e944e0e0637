"""Infer which animals a picture shows, zero-shot, with a pretrained Stable Diffusion; score and draw the answers.

Examples:
    python eval_animal.py                                           the shipped pictures with Stable Diffusion 2.1
    python eval_animal.py --checkpoint animals-mini --method igm diffusion_classifier dc_variant
"""

from dataclasses import dataclass
from typing import Any

from igm.cli.evaluation import Evaluation, Groups, OwnPictures, parse_evaluations, run_evaluation
from igm.cli.launch import run
from igm.data import DataError, find_dataset
from igm.resources import ANIMAL_PICTURES
from igm.settings import setting


@dataclass(frozen=True, kw_only=True)
class AnimalSettings(OwnPictures):
    """Which pictures are inferred, and the classes to choose from."""

    classes: tuple[str, ...] = setting(("cat", "dog", "rabbit"), "what may be in a picture", nargs="+")

    @property
    def names(self) -> tuple[str, ...]:
        return self.classes


def load_groups(evaluation: Evaluation[AnimalSettings]) -> Groups:
    """The pictures of --images, or those of --dataset_root with their labels."""
    data = evaluation.data
    if data.images:
        return data.own_pictures("all")
    root, counts = data.dataset_root or ANIMAL_PICTURES, evaluation.settings.num_objects
    bounds = {"max_images": data.num_images, "skip_bad_images": data.skip_bad_images}
    return {"all": find_dataset(root, "classes")(root, list(data.classes), counts, fit=data.fit, **bounds)}


def main() -> None:
    """Infer, score and draw with each method that the command line names."""
    defaults: dict[str, Any] = {"dataset_root": str(ANIMAL_PICTURES), "images_per_batch": 1, "seed": 42}
    evaluations = parse_evaluations(__doc__, "classes", AnimalSettings, method="igm", several=True, **defaults)
    for evaluation in evaluations:
        evaluation.method.check(evaluation.settings, evaluation.data.classes)
        load_groups(evaluation)  # mistakes in any show at once
    for evaluation in evaluations:
        run_evaluation(evaluation, load_groups)


if __name__ == "__main__":
    run(main, DataError)
