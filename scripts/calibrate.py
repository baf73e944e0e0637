"""Measure on training images what inference needs to know of a checkpoint, and write it into its igm.json.

`count_penalty`: by how much an object must lower the error to be counted. `confidence_scale` and `count_scale`: how much
the contributions of objects, and the errors of counts, vary beyond the noise of the draws.

Example:
    python scripts/calibrate.py --checkpoint models/pretrained/clevr-mini --dataset_root DIR
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data import DataError
from data.clevr import Clevr
from igm.dry_run import describe, memory_estimate, parts_of
from igm.evaluation import encode_images
from igm.inference.confidence import fit_scale
from igm.inference.counting import fit_count_scale, fit_penalty, infer_count
from igm.inference.pursuit import infer_pursuit, settings_of
from igm.metrics import HEADLINE_RADIUS, match_points
from igm.options import add_dry_run_option, int_range, new_parser, not_negative, positive, run
from models.denoiser import META_FILE, Denoiser


def parse_options() -> argparse.Namespace:
    parser = new_parser(__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="folder whose igm.json is completed")
    parser.add_argument("--dataset_root", required=True, help="folder of CLEVR_v1.0")
    parser.add_argument("--object_counts", type=int_range, default=(3, 5), help="objects per scene, as in training")
    parser.add_argument("--num_images", type=positive, default=50, help="training images used")
    parser.add_argument("--max_objects", type=positive, default=10, help="largest number considered")
    parser.add_argument("--batch_size", type=positive, default=1024, help="most network rows at once")
    parser.add_argument("--seed", type=not_negative, default=42)
    add_dry_run_option(parser)
    return parser.parse_args()


def found_within(conds: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Which of the positions (K, 2) are matched within the headline radius: (K,) bool."""
    rows, _, distances = match_points(conds.cpu().numpy(), true.numpy())
    right = torch.zeros(len(conds), dtype=torch.bool)
    right[rows] = torch.from_numpy(distances <= HEADLINE_RADIUS)
    return right


def main() -> None:
    options = parse_options()
    dataset = Clevr(options.dataset_root, "train", options.object_counts, max_images=options.num_images)
    denoiser = Denoiser.from_pretrained(options.checkpoint)
    dataset.resolution = denoiser.resolution
    if options.dry_run:
        memory = memory_estimate(denoiser, options.batch_size, images=1)
        return describe(vars(options), {"training": len(dataset)}, parts_of(denoiser), memory)
    common = {**settings_of(denoiser.meta), "batch_size": options.batch_size, "seed": options.seed}
    errors, counts, contributions, right = [], [], [], []
    for i in tqdm(range(len(dataset)), unit="image"):
        item = dataset[i]
        true = item["conds"][item["mask"] > 0]
        posterior = encode_images(denoiser, item["pixel_values"][None])
        counted = infer_count(
            denoiser,
            posterior,
            max_objects=options.max_objects,
            num_steps=0,
            confidence_draws=2,
            image_numbers=[i],
            **common,
        )
        known = infer_pursuit(denoiser, posterior, torch.tensor([len(true)]), image_numbers=[i], **common)
        errors.append(counted.extra["errors"][0])
        counts.append(len(true))
        contributions.append(known.extra["contributions"][0])
        right.append(found_within(known.conds[0], true))
    penalty, share = fit_penalty([own.mean(0) for own in errors], counts)
    measured = {
        "count_penalty": penalty,
        "confidence_scale": round(fit_scale(contributions, right, penalty), 4),
        "count_scale": round(fit_count_scale(errors, counts, penalty), 4),
    }
    file = Path(options.checkpoint) / META_FILE
    file.write_text(json.dumps({**denoiser.meta, **measured}, indent=2) + "\n")
    print(f"{share:.0%} of {len(counts)} counts right; wrote {measured} to {file}")


if __name__ == "__main__":
    run(main, DataError)
