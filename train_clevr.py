"""Train a compositional diffusion model on CLEVR: the mean of its predictions for each object denoises the image.

Example:
    accelerate launch train_clevr.py --dataset_root CLEVR_v1.0
"""

import argparse

from igm.cli.groups import add_model_options, add_run_options, new_parser
from igm.cli.launch import run
from igm.cli.training import add_training_options
from igm.data import DataError
from igm.data.clevr import Clevr
from igm.facts import Facts
from igm.settings import int_range, positive
from igm.training.start import start_training


def parse_options() -> argparse.Namespace:
    """All options; argparse ends the program on a wrong one."""
    parser = new_parser(__doc__.splitlines()[0])
    group = parser.add_argument_group("data")
    group.add_argument("--dataset_root", required=True, help="folder of CLEVR_v1.0 (images/, scenes/)")
    group.add_argument("--object_counts", type=int_range, default=(3, 5), help="objects per training scene")
    group.add_argument("--resolution", type=positive, default=64, help="images are resized to this square")
    group.add_argument("--max_images", type=positive, default=50_000, help="at most so many scenes, as published")
    group.add_argument("--flip", action="store_true", help="add the mirror image of every scene")
    group.add_argument("--skip_bad_images", action="store_true", help="leave out unreadable images, and count them")
    add_model_options(parser, "clevr-2D-pos")
    add_training_options(parser, train_batch_size=128, tracker_project_name="clevr")
    add_run_options(parser)
    return parser.parse_args()


def load_data(options: argparse.Namespace) -> tuple[Clevr, Clevr]:
    """Training scenes, and the scenes of the validation pictures (training ones where there is no val split)."""
    common = {"resolution": options.resolution, "skip_bad_images": options.skip_bad_images}
    dataset = Clevr(
        options.dataset_root, "train", options.object_counts, max_images=options.max_images, flip=options.flip, **common
    )
    try:
        return dataset, Clevr(options.dataset_root, "val", options.object_counts, max_images=100, **common)
    except DataError:
        return dataset, dataset


def main() -> None:
    options = parse_options()
    dataset, validation = load_data(options)
    start_training(options, dataset, validation, facts=Facts(task="positions", **dataset.facts()), cond_size=2)


if __name__ == "__main__":
    run(main, DataError)
