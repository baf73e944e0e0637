"""Train a compositional diffusion model on CelebA: the mean of its predictions for each attribute denoises the face.

Example:
    accelerate launch train_celeba.py --dataset_root celeba
"""

import argparse

from igm import warn
from igm.cli.groups import add_model_options, add_run_options, new_parser
from igm.cli.launch import run
from igm.cli.training import add_training_options
from igm.data import DataError
from igm.data.celeba import DEFAULT_ATTRIBUTES, DOMAINS, CelebA
from igm.facts import Facts
from igm.settings import positive
from igm.training.start import start_training


def parse_options(config: str = "celeba", **defaults) -> argparse.Namespace:
    """All options; argparse ends the program on a wrong one. Other models of the same data have other defaults."""
    parser = new_parser(__doc__.splitlines()[0])
    group = parser.add_argument_group("data")
    group.add_argument("--dataset_root", required=True, help="folder of CelebA, of Kaggle's layout or the original")
    group.add_argument("--attributes", nargs="+", default=list(DEFAULT_ATTRIBUTES), help="names of the header, or all")
    group.add_argument("--domain", choices=[*DOMAINS, "all"], default="female", help="training images")
    group.add_argument("--resolution", type=positive, default=128, help="images are resized to this square")
    group.add_argument("--max_images", type=positive, help="at most so many faces")
    group.add_argument("--flip", action="store_true", help="add the mirror image of every face")
    group.add_argument("--skip_bad_images", action="store_true", help="leave out unreadable images, and count them")
    add_model_options(parser, config)
    add_training_options(parser, **{"train_batch_size": 64, "tracker_project_name": "celeba", **defaults})
    add_run_options(parser)
    return parser.parse_args()


def load_data(options: argparse.Namespace, *, joint: bool = False) -> tuple[CelebA, CelebA]:
    """Training faces, and the faces of the validation pictures (training ones where there is no val split)."""
    common = {"domain": options.domain, "resolution": options.resolution, "joint": joint}
    common["skip_bad_images"] = options.skip_bad_images
    root, flip = options.dataset_root, options.flip
    dataset = CelebA(root, "train", attributes=options.attributes, max_images=options.max_images, flip=flip, **common)
    for name in dataset.constant_attributes():
        warn(
            f"attribute {name} has one value only in the {len(dataset):,} training rows; nothing can be learnt about it"
        )
    try:
        return dataset, CelebA(root, "val", attributes=options.attributes, max_images=100, **common)
    except DataError:
        return dataset, dataset


def main() -> None:
    options = parse_options()
    dataset, validation = load_data(options)
    facts = Facts(task="attributes", **dataset.facts())
    start_training(options, dataset, validation, facts=facts, cond_size=2 * len(dataset.attributes))


if __name__ == "__main__":
    run(main, DataError)
