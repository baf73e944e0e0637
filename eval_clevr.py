"""Infer the positions of the objects in CLEVR images with a trained model; score and draw them.

Examples:
    python eval_clevr.py                                            the shipped model on generated scenes
    python eval_clevr.py --dataset_root CLEVR_v1.0 --checkpoint outputs/clevr/checkpoint-80000
    python eval_clevr.py --images my_pictures --count infer         one's own pictures: records and figures, no scores
"""

import argparse
import functools
from pathlib import Path

from igm.cli.evaluation import add_evaluation_options, evaluation_settings, find_model, load_denoiser, set_resolution
from igm.cli.groups import add_model_options, add_run_options, new_parser
from igm.cli.launch import run
from igm.data import DataError
from igm.data.clevr import Clevr
from igm.data.samples import sample_root
from igm.data.unlabelled import Pictures
from igm.devices import usable_precision
from igm.dry_run import describe_evaluation
from igm.evaluation.run import Infer, animate, evaluate, finish
from igm.inference.counting import infer_count
from igm.inference.gradient import infer_gradient
from igm.inference.pursuit import infer_pursuit, settings_of
from igm.models.denoiser import Denoiser
from igm.settings import int_range, not_negative, not_negative_float, positive, positive_float, probability

SAMPLE_IMAGES = 8  # per group, of the embedded default
DETERMINING = (
    *("dataset_root", "split", "object_counts", "num_images", "learning_rate", "num_steps", "num_draws", "num_inits"),
    *("timestep_range", "num_candidates", "min_separation", "count", "max_objects", "num_objects"),
    *("count_draws", "count_penalty", "confidence", "images"),
)


def parse_options() -> argparse.Namespace:
    """All options; argparse ends the program on a wrong one."""
    parser = new_parser(__doc__.splitlines()[0])
    group = parser.add_argument_group("data")
    group.add_argument("--dataset_root", help="folder of CLEVR_v1.0; without it, generated scenes")
    group.add_argument("--images", nargs="+", metavar="PATH", help="one's own pictures: files, folders; no scores")
    group.add_argument("--split", default="val", choices=("train", "val"), help="CLEVR's test split has no scenes")
    group.add_argument("--object_counts", type=int_range, nargs="+", default=[(3, 5), (6, 8)], help="one group each")
    group.add_argument("--num_images", type=positive, help=f"per group (default 100, generated {SAMPLE_IMAGES})")
    group.add_argument("--resolution", type=positive, help="default: the checkpoint's own")
    group.add_argument("--skip_bad_images", action="store_true", help="leave out unreadable images, and count them")
    group = parser.add_argument_group("inference")
    group.add_argument("--method", choices=("pursuit", "gradient"), default="pursuit", help="gradient: as published")
    group.add_argument("--learning_rate", type=positive_float, default=4e-3, help="of the positions")
    group.add_argument("--num_steps", type=positive, help="default: gradient 2000, pursuit's refinement 15")
    group.add_argument("--num_draws", type=positive, help="default: pursuit 16, gradient's choice of a start 64")
    group.add_argument("--num_inits", type=positive, default=10, help="gradient: starts per image")
    group.add_argument("--timestep_range", type=int, nargs=2, default=(0, 500), metavar=("LOW", "HIGH"))
    group.add_argument("--num_candidates", type=positive, default=256, help="pursuit: positions on the grid")
    group.add_argument("--min_separation", type=positive_float, help="pursuit (default: measured on training data)")
    group.add_argument(
        "--count", choices=("known", "infer"), default="known", help="number of objects: given, or sought"
    )
    group.add_argument("--num_objects", type=positive, help="known number of objects in each of --images")
    group.add_argument("--max_objects", type=positive, default=10, help="count infer: largest number considered")
    group.add_argument("--count_draws", type=positive, default=48, help="count infer: fresh draws that judge")
    group.add_argument(
        "--count_penalty", type=not_negative_float, help="error that an object must save (default: the checkpoint's)"
    )
    group.add_argument(
        "--confidence", type=probability, help="count infer: draw until so sure, at most 4 x count_draws"
    )
    group.add_argument("--animate", type=not_negative, default=0, metavar="N", help="gradient: animate N per group")
    add_model_options(parser, "clevr-2D-pos")
    add_evaluation_options(parser)
    add_run_options(parser)
    parser.set_defaults(tracker_project_name="clevr", unet_config=None)  # the checkpoint has its own
    options = parser.parse_args()
    if options.animate and options.method != "gradient":
        parser.error("--animate shows the steps of --method gradient; add that")
    if options.count == "infer" and options.method == "gradient":
        parser.error("--count infer needs --method pursuit, which finds the best set of every size at once")
    if options.count == "known" and options.confidence:
        parser.error("--confidence is that of the number of objects; add --count infer")
    if options.images and options.count == "known" and options.num_objects is None:
        parser.error("--images: nobody knows their number of objects; add --count infer, or --num_objects K")
    low, high = options.timestep_range
    if not 0 <= low < high <= 1000:
        parser.error(f"--timestep_range {low} {high}: must go upwards within 0 to 1000")
    return options


def load_groups(options: argparse.Namespace) -> dict[str, Clevr | Pictures]:
    """One dataset per range of object counts; generated scenes where neither --dataset_root nor --images is given."""
    if options.images:
        return {"images": Pictures(options.images, max_images=options.num_images)}
    number = options.num_images or (100 if options.dataset_root else SAMPLE_IMAGES)
    if options.dataset_root is None:
        print("No --dataset_root: the shipped model infers generated scenes")
    groups = {}
    for low, high in options.object_counts:
        root = options.dataset_root or sample_root((low, high), number)
        groups[f"{low}-{high}"] = Clevr(
            root, options.split, (low, high), max_images=number, skip_bad_images=options.skip_bad_images
        )
    return groups


def choose_method(options: argparse.Namespace, denoiser: Denoiser) -> Infer:
    """The inference function with its settings filled in."""
    common = {
        "t_range": tuple(options.timestep_range),
        "learning_rate": options.learning_rate,
        "seed": options.seed,
    }
    given = {"num_steps": options.num_steps, "num_draws": options.num_draws}
    given = {name: value for name, value in given.items() if value is not None}
    if options.method == "gradient":
        return functools.partial(infer_gradient, denoiser, num_inits=options.num_inits, **common, **given)
    given["num_candidates"] = options.num_candidates
    given |= settings_of(denoiser.facts)
    if options.min_separation is not None:
        given["min_separation"] = options.min_separation
    if options.count_penalty is not None:
        given["penalty"] = options.count_penalty
    if options.count == "known":
        return functools.partial(infer_pursuit, denoiser, **common, **given)
    return functools.partial(
        infer_count,
        denoiser,
        max_objects=options.max_objects,
        count_draws=options.count_draws,
        confidence=options.confidence,
        **common,
        **given,
    )


def main() -> None:
    options = parse_options()
    checkpoint = find_model(options, shipped="clevr-mini")
    groups = load_groups(options)  # before the model: mistakes in the data show at once
    denoiser = load_denoiser(options, checkpoint, cond_size=2)
    set_resolution(options, denoiser, groups.values())
    if options.dry_run:
        return describe_evaluation(options, denoiser, groups)
    infer = choose_method(options, denoiser)
    name = f"eval-{options.method}" + "-count" * (options.count == "infer") + "-images" * bool(options.images)
    output_dir = Path(options.output_dir) / options.tracker_project_name / name
    summary = evaluate(
        denoiser,
        groups,
        infer,
        output_dir,
        task="clevr",
        method=options.method,
        num_objects=options.num_objects,
        mixed_precision=usable_precision(options.mixed_precision, denoiser.device),
        **evaluation_settings(options, checkpoint, DETERMINING),
    )
    if summary:
        finish(summary, output_dir, figures=not options.no_figures)
        for name, dataset in groups.items():
            for number in range(min(options.animate, len(dataset))):
                path = output_dir / "figures" / f"animation_{name}_{number}.gif"
                animate(denoiser, dataset, number, functools.partial(infer, record_every=20), path)


if __name__ == "__main__":
    run(main, DataError)
