"""Infer the positions of the objects in CLEVR images with a trained model; score and draw them.

    python eval_clevr.py                                            the shipped model on generated scenes
    python eval_clevr.py --dataset_root CLEVR_v1.0 --checkpoint outputs/clevr/checkpoint-80000
"""

import argparse
import functools
from pathlib import Path

from data import DataError
from data.clevr import Clevr
from data.synthetic.clevr import sample_dataset
from igm.evaluation import animate, draw_figures, evaluate
from igm.inference.gradient import infer_gradient
from igm.inference.pursuit import infer_pursuit
from igm.options import add_evaluation_options, add_model_options, add_run_options, int_range, new_parser, positive, run
from igm.options import find_model, positive_float, report, set_up_evaluation


def parse_options() -> argparse.Namespace:
    """All options; argparse ends the program on a wrong one."""
    parser = new_parser(__doc__.splitlines()[0])
    group = parser.add_argument_group("data")
    group.add_argument("--dataset_root", help="folder of CLEVR_v1.0; without it, generated scenes")
    group.add_argument("--split", default="val", help="train or val")
    group.add_argument("--object_counts", type=int_range, nargs="+", default=[(3, 5), (6, 8)], help="one group each")
    group.add_argument("--num_images", type=positive, default=None, help="images per group (default 100, generated 12)")
    group.add_argument("--resolution", type=positive, help="must be the checkpoint's own, which is the default")
    group.add_argument("--skip_bad_images", action="store_true", help="leave out unreadable images, and count them")
    group = parser.add_argument_group("inference")
    group.add_argument("--method", choices=("pursuit", "gradient"), default="pursuit", help="gradient: as published")
    group.add_argument("--num_inits", type=positive, default=10, help="gradient: starts per image")
    group.add_argument("--num_steps", type=positive, help="steps (default: gradient 2000, pursuit's refinement 40)")
    group.add_argument("--learning_rate", type=positive_float, default=4e-3, help="of the positions")
    group.add_argument("--num_draws", type=positive, help="noise draws (default: pursuit 16, gradient's selection 64)")
    group.add_argument("--timestep_range", type=int, nargs=2, default=(0, 500), metavar=("LOW", "HIGH"))
    group.add_argument("--num_candidates", type=positive, default=256, help="pursuit: positions on the grid")
    group.add_argument("--min_separation", type=positive_float, help="pursuit: default, as measured on training data")
    group.add_argument("--animate", type=int, default=0, metavar="N", help="animate the first N images of each group")
    add_model_options(parser, "clevr-2D-pos")
    add_evaluation_options(parser)
    add_run_options(parser)
    return parser.parse_args()
