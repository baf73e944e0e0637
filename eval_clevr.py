"""Infer the positions of the objects in CLEVR images with a trained model; score and draw them.

python eval_clevr.py                                            the shipped model on generated scenes
python eval_clevr.py --dataset_root CLEVR_v1.0 --checkpoint outputs/clevr/checkpoint-80000
python eval_clevr.py --images my_pictures --count infer         one's own pictures: records and figures, no scores
"""

from dataclasses import dataclass
from functools import partial

from igm.cli.evaluation import Evaluation, Groups, OwnPictures, open_groups, parse_evaluations, run_evaluation
from igm.cli.labels import PointLabels
from igm.cli.launch import run
from igm.data import DataError
from igm.data.samples import sample_root
from igm.settings import int_range, positive, setting

COUNTS = ((3, 5), (6, 8))  # of objects, by default: in the paper's training, and not
SAMPLE_IMAGES = 8  # per group, of the embedded default


@dataclass(frozen=True, kw_only=True)
class SceneSettings(PointLabels, OwnPictures):
    """Which scenes, or pictures of one's own, are inferred."""

    split: tuple[str, ...] = setting(("val",), "with a scenes file: val, new, ...; several: groups of each", nargs="+")
    object_counts: tuple | None = setting(None, "a group each (default: 3-5 6-8)", kind=int_range, nargs="+")
    places_only: bool = setting(False, "the data say no attributes, though the checkpoint knows them")
    num_objects: int | None = setting(None, "known number of objects in each of --images", kind=positive)

    @property
    def num_known(self) -> int | None:
        return self.num_objects


def load_groups(e: Evaluation[SceneSettings]) -> Groups:
    """A dataset per split and range of counts; generated scenes where neither --dataset_root nor --images is given."""
    data = e.data
    if data.images:
        return data.own_pictures("images")
    if data.dataset_root is None:
        print("No --dataset_root: the shipped model infers generated scenes")
    number = data.num_images or (100 if data.dataset_root else SAMPLE_IMAGES)

    def scenes(split: str, counts: tuple[int, int], **own: object) -> object:
        root = data.dataset_root or sample_root(counts, number)
        kind, labels = data.find(root, "positions")
        return kind(root, split, counts, **own, **labels, **data.bounds(number))

    return open_groups(data.object_counts, COUNTS, partial(e.task.open, e.facts, data.places_only, scenes), data.split)


def main() -> None:
    """Infer, score and draw what the command line asks for."""
    (evaluation,) = parse_evaluations(__doc__, "positions", SceneSettings, method="pursuit", seed=42)
    run_evaluation(evaluation, load_groups)


if __name__ == "__main__":
    run(main, DataError)
