"""Infer which animals a picture shows, zero-shot, with a pretrained Stable Diffusion; score and draw the answers.

Examples:
    python eval_animal.py                                           the shipped pictures with Stable Diffusion 2.1
    python eval_animal.py --checkpoint animals-mini --method igm diffusion_classifier dc_variant
"""

from dataclasses import dataclass

from igm import warn
from igm.cli.evaluation import DataSettings, Evaluation, parse_evaluations, run_evaluation
from igm.cli.launch import run
from igm.data import DataError
from igm.data.animals import Animals
from igm.data.unlabelled import Pictures
from igm.devices import best_device
from igm.models.codec import DEFAULT_MODEL
from igm.models.stable_diffusion import is_within_reach
from igm.resources import ANIMAL_PICTURES
from igm.settings import setting


@dataclass(frozen=True, kw_only=True)
class AnimalSettings(DataSettings):
    """Which pictures are inferred, and the classes to choose from."""

    images: tuple[str, ...] | None = setting(None, "own pictures instead: files, folders; no scores", nargs="+")
    classes: tuple[str, ...] = setting(("cat", "dog", "rabbit"), "what may be in a picture", nargs="+")

    @property
    def names(self) -> tuple[str, ...]:
        return self.classes


def load_groups(evaluation: Evaluation) -> dict[str, Animals | Pictures]:
    """The pictures of --images, or those of --dataset_root with their labels."""
    data = evaluation.data
    if data.images:
        return {"all": Pictures(data.images, max_images=data.num_images)}
    chosen = {"max_images": data.num_images, "skip_bad_images": data.skip_bad_images}
    return {"all": Animals(data.dataset_root, list(data.classes), evaluation.settings.num_objects, **chosen)}


def default_checkpoint(local_files_only: bool) -> str:
    """Stable Diffusion where it is within reach, else the shipped small model; one line says which."""
    if is_within_reach(DEFAULT_MODEL, local_files_only):
        if best_device().type == "cpu":
            warn(f"{DEFAULT_MODEL} takes many minutes per image on a CPU; --checkpoint animals-mini is quick")
        return DEFAULT_MODEL
    print(f"{DEFAULT_MODEL} is not in the local cache and the hub does not answer: running the small animals-mini")
    return "animals-mini"


def main() -> None:
    defaults = {"dataset_root": str(ANIMAL_PICTURES), "images_per_batch": 1, "seed": 42}
    evaluations = parse_evaluations(__doc__, "classes", AnimalSettings, method="igm", several=True, **defaults)
    for evaluation in evaluations:
        evaluation.method.check(evaluation.settings, evaluation.data.classes)
        load_groups(evaluation)  # mistakes in any show at once
    first = evaluations[0]
    checkpoint = first.run.checkpoint or default_checkpoint(first.loading.local_files_only)
    for evaluation in evaluations:
        run_evaluation(evaluation.with_checkpoint(checkpoint), load_groups)


if __name__ == "__main__":
    run(main, DataError)
