"""Infer the attributes of CelebA faces, in the domain of training (female) and out of it (male); score and draw them.

Examples:
    python eval_celeba.py                                           the shipped model on drawn faces
    python eval_celeba.py --dataset_root celeba --checkpoint outputs/celeba/checkpoint-30000
"""

import argparse
import functools
from pathlib import Path

from igm.baselines.joint_label import infer_classifier, infer_joint
from igm.baselines.resnet50 import Classifier
from igm.cli.evaluation import (
    add_evaluation_options,
    check_task,
    evaluation_settings,
    find_model,
    load_denoiser,
    set_resolution,
)
from igm.cli.groups import add_model_options, add_run_options, new_parser
from igm.cli.launch import run
from igm.data import DataError
from igm.data.celeba import DEFAULT_ATTRIBUTES, DOMAINS, SPLITS, CelebA, all_concepts
from igm.data.samples import sample_faces
from igm.devices import usable_precision
from igm.dry_run import describe_evaluation
from igm.evaluation.run import Infer, evaluate, finish
from igm.inference.discrete import OneOfEach, infer_discrete
from igm.models.denoiser import Denoiser
from igm.settings import positive, probability

SAMPLE_IMAGES, SAMPLE_DRAWS = 40, 100  # per domain, and per image, of the embedded default
RUNS = {"discrete": "celeba", "gc": "celeba-gc", "resnet": "celeba-resnet50"}  # the folders of their trainings
LEARNERS = {"discrete": "compositional", "gc": "joint_label", "resnet": "resnet50"}
DETERMINING = (
    "dataset_root",
    "split",
    "attributes",
    "domains",
    "num_images",
    "num_draws",
    "confidence",
    "timestep_range",
)


def parse_options() -> argparse.Namespace:
    """All options; argparse ends the program on a wrong one."""
    parser = new_parser(__doc__.splitlines()[0])
    group = parser.add_argument_group("data")
    group.add_argument("--dataset_root", help="folder of CelebA; without it, drawn faces")
    group.add_argument("--split", default="test", choices=SPLITS, help="of the partition file, or the published rows")
    group.add_argument("--attributes", nargs="+", default=list(DEFAULT_ATTRIBUTES), help="as in training, or all")
    group.add_argument("--domains", nargs="+", choices=[*DOMAINS, "all"], default=list(DOMAINS), help="one group each")
    group.add_argument("--num_images", type=positive, help=f"per domain (default 1000, drawn faces {SAMPLE_IMAGES})")
    group.add_argument("--resolution", type=positive, help="default: the checkpoint's own")
    group.add_argument("--skip_bad_images", action="store_true", help="leave out unreadable images, and count them")
    group = parser.add_argument_group("inference")
    group.add_argument("--method", choices=list(RUNS), default="discrete", help="gc, resnet: the paper's baselines")
    group.add_argument("--num_draws", type=positive, help=f"noise draws (default 1000, drawn faces {SAMPLE_DRAWS})")
    group.add_argument("--confidence", type=probability, help="stop drawing for an image that is so sure, such as 0.99")
    group.add_argument(
        "--timestep_range", type=int, nargs=2, metavar=("LOW", "HIGH"), help="default: the checkpoint's, or 0 1000"
    )
    add_model_options(parser, "celeba")
    add_evaluation_options(parser)
    add_run_options(parser)
    parser.set_defaults(unet_config=None)  # the checkpoint has its own
    options = parser.parse_args()
    low, high = options.timestep_range or (0, 1000)
    if not 0 <= low < high <= 1000:
        parser.error(f"--timestep_range {low} {high}: must go upwards within 0 to 1000")
    options.tracker_project_name = options.tracker_project_name or RUNS[options.method]
    options.num_images = options.num_images or (1000 if options.dataset_root else SAMPLE_IMAGES)
    options.num_draws = options.num_draws or (1000 if options.dataset_root else SAMPLE_DRAWS)
    return options


def load_groups(options: argparse.Namespace) -> dict[str, CelebA]:
    """One dataset per domain; drawn faces where no --dataset_root is given."""
    if options.dataset_root is None:
        print("No --dataset_root: the shipped model infers drawn faces")
    root = options.dataset_root or sample_faces(options.num_images)
    common = {"max_images": options.num_images, "skip_bad_images": options.skip_bad_images}
    return {d: CelebA(root, options.split, d, options.attributes, **common) for d in options.domains}


def choose_method(options: argparse.Namespace, model: Denoiser | Classifier, num_attributes: int) -> Infer:
    """The inference function with its settings filled in."""
    values, sizes = all_concepts(num_attributes), [2] * num_attributes
    settings = {
        "num_draws": options.num_draws,
        "confidence": options.confidence,
        "t_range": tuple(options.timestep_range or model.facts.t_range or (0, 1000)),
        "seed": options.seed,
    }
    method = {
        "discrete": functools.partial(infer_discrete, candidates=values, space=OneOfEach(sizes), **settings),
        "gc": functools.partial(infer_joint, values=values, sizes=sizes, **settings),
        "resnet": lambda model, posterior, **unused: infer_classifier(model, posterior, values),
    }[options.method]
    return lambda posterior, num_concepts, **batching: method(model, posterior, **batching)


def main() -> None:
    options = parse_options()
    shipped = "celeba-mini" if options.method == "discrete" else None
    checkpoint = find_model(options, shipped=shipped)
    groups = load_groups(options)  # before the model: mistakes in the data show at once
    attributes = next(iter(groups.values())).attributes
    model_class = Classifier if options.method == "resnet" else Denoiser
    model = load_denoiser(options, checkpoint, cond_size=2 * len(attributes), model_class=model_class)
    check_task(model, "attributes", LEARNERS[options.method], attributes, checkpoint)
    set_resolution(options, model, groups.values())
    if options.dry_run:
        return describe_evaluation(options, model, groups)
    output_dir = Path(options.output_dir) / options.tracker_project_name / f"eval-{options.method}"
    summary = evaluate(
        model,
        groups,
        choose_method(options, model, len(attributes)),
        output_dir,
        task="celeba",
        method=options.method,
        mixed_precision=usable_precision(options.mixed_precision, model.device),
        **evaluation_settings(options, checkpoint, DETERMINING),
    )
    if summary:
        finish(summary, output_dir, figures=not options.no_figures)


if __name__ == "__main__":
    run(main, DataError)
