"""Measure on images with known concepts what inference needs to know of a checkpoint, and write it into its igm.json.

Positions (training images): `count_penalty`, by how much an object must lower the error to be counted;
`confidence_scale` and `count_scale`, how much the contributions of objects, and the errors of counts, vary beyond the
noise of the draws. Attributes (validation images of the training domain): `timestep_range`, the noise levels that tell
their values apart best.

Examples:
    python scripts/calibrate.py --checkpoint models/pretrained/clevr-mini --dataset_root DIR
    python scripts/calibrate.py --checkpoint models/pretrained/celeba-mini --dataset_root faces --num_images 300
"""

import argparse
import dataclasses
import json
from pathlib import Path

import torch
from tqdm import tqdm

from igm import UserError
from igm.baselines.joint_label import joint_choices
from igm.calibration.levels import best_levels, errors_by_level
from igm.cli.groups import add_dry_run_option, new_parser
from igm.cli.launch import run
from igm.data import DataError
from igm.data.celeba import DOMAINS, CelebA, all_concepts
from igm.data.clevr import Clevr
from igm.dry_run import describe, memory_estimate, parts_of
from igm.error_matrix import subset_weights
from igm.inference.method import encode_images
from igm.facts import FACTS_FILE, Facts
from igm.inference.confidence import fit_scale
from igm.inference.counting import fit_count_scale, fit_penalty, infer_count
from igm.inference.pursuit import infer_pursuit, settings_of
from igm.matching import HEADLINE_RADIUS, match_points
from igm.models.denoiser import Denoiser
from igm.settings import int_range, positive, seed_number

LEVEL_DRAWS, LEVEL_STEP = 100, 10  # noise draws over all levels, and the grid of the ranges tried


def parse_options() -> argparse.Namespace:
    """All options; argparse ends the program on a wrong one."""
    parser = new_parser(__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="folder whose igm.json is completed")
    parser.add_argument("--dataset_root", required=True, help="folder of CLEVR_v1.0, or of CelebA")
    parser.add_argument("--object_counts", type=int_range, default=(3, 5), help="positions: per scene, as in training")
    parser.add_argument("--domain", choices=[*DOMAINS, "all"], default="female", help="attributes: as in training")
    parser.add_argument("--num_images", type=positive, default=50, help="images used")
    parser.add_argument("--max_objects", type=positive, default=10, help="positions: largest number considered")
    parser.add_argument("--batch_size", type=positive, default=1024, help="most network rows at once")
    parser.add_argument("--seed", type=seed_number, default=42, help="the same seed gives the same numbers")
    add_dry_run_option(parser)
    return parser.parse_args()


def load_data(options: argparse.Namespace, facts: Facts) -> Clevr | CelebA:
    """Images of the checkpoint's task, of which `facts` tells.

    Raises:
        UserError: there is nothing to measure for this task.
    """
    if facts.task in (None, "positions"):
        return Clevr(options.dataset_root, "train", options.object_counts, max_images=options.num_images)
    if facts.task != "attributes":
        raise UserError(
            f"--checkpoint {options.checkpoint} was trained as {facts.task}; there is nothing to measure for that"
        )
    return CelebA(options.dataset_root, "val", options.domain, facts.attributes, max_images=options.num_images)


def measure_positions(denoiser: Denoiser, dataset: Clevr, options: argparse.Namespace) -> dict:
    """Infer positions and numbers; fit the penalty of a count and the scales of the confidences."""
    common = {**settings_of(denoiser.facts), "batch_size": options.batch_size, "seed": options.seed}
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
    print(f"{share:.0%} of {len(counts)} counts right")
    return {
        "count_penalty": penalty,
        "confidence_scale": round(fit_scale(contributions, right, penalty), 4),
        "count_scale": round(fit_count_scale(errors, counts, penalty), 4),
    }


def found_within(conds: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Which of the positions (K, 2) are matched within the headline radius: (K,) bool."""
    rows, _, distances = match_points(conds.cpu().numpy(), true.numpy())
    right = torch.zeros(len(conds), dtype=torch.bool)
    right[rows] = torch.from_numpy(distances <= HEADLINE_RADIUS)
    return right


def measure_attributes(denoiser: Denoiser, dataset: CelebA, options: argparse.Namespace) -> dict:
    """Price every combination of values at every noise level; choose the levels with the most values right."""
    k = len(dataset.attributes)
    choices = joint_choices([2] * k)  # (S, K)
    candidates, weights = all_concepts(k), subset_weights(choices.tolist(), 2 * k)
    if denoiser.facts.learner == "joint_label":
        candidates, weights = candidates[choices].sum(1), torch.eye(len(choices))
    images = torch.stack([item["pixel_values"] for item in dataset])
    errors = errors_by_level(
        denoiser,
        encode_images(denoiser, images),
        candidates.to(denoiser.device),
        weights,
        num_draws=LEVEL_DRAWS,
        batch_size=options.batch_size,
        seed=options.seed,
        progress=tqdm,
    )
    values = choices - 2 * torch.arange(k)  # (S, K), 0 or 1
    right = (values == torch.from_numpy(dataset.values)[:, None]).float().mean(2)  # (B, S)
    low, high, share = best_levels(errors, right, LEVEL_STEP)
    print(f"{share:.1%} of the values of {len(dataset)} images right")
    return {"t_range": [draw * denoiser.num_timesteps // LEVEL_DRAWS for draw in (low, high)]}


def main() -> None:
    options = parse_options()
    file = Path(options.checkpoint) / FACTS_FILE
    if not file.is_file():
        raise UserError(f"--checkpoint {options.checkpoint} has no {FACTS_FILE}, so that its task is unknown: {file}")
    dataset = load_data(options, Facts.read(file.parent))  # before the model: mistakes show at once
    denoiser = Denoiser.from_pretrained(options.checkpoint)
    dataset.resolution = denoiser.resolution
    if options.dry_run:
        memory = memory_estimate(denoiser, options.batch_size, images=1)
        return describe(
            vars(options),
            {"training" if isinstance(dataset, Clevr) else "validation": len(dataset)},
            parts_of(denoiser),
            memory,
        )
    measure = measure_positions if isinstance(dataset, Clevr) else measure_attributes
    measured = measure(denoiser, dataset, options)
    facts = dataclasses.replace(denoiser.facts, **measured)
    file.write_text(json.dumps(facts.to_json(), indent=2) + "\n")
    print(f"wrote {measured} to {file}")


if __name__ == "__main__":
    run(main, DataError)
