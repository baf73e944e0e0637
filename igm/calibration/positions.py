"""When an object counts, and how sure that is: measured on training scenes."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from tqdm.auto import tqdm

from igm.calibration.settings import CalibrationSettings
from igm.facts import Facts
from igm.inference.confidence import fit_scale
from igm.inference.counting import fit_count_scale, fit_penalty, infer_count
from igm.inference.method import encode_images
from igm.inference.pursuit import infer_pursuit
from igm.inference.separable import SeparableSearch, infer_known, infer_number
from igm.inference.settings import PursuitSettings
from igm.inference.types import Inferred
from igm.matching import HEADLINE_RADIUS, match_points
from igm.models.denoiser import Denoiser


def measure_positions(
    denoiser: Denoiser, dataset: Any, settings: CalibrationSettings, search: type[SeparableSearch] = SeparableSearch
) -> Facts:
    """Infer positions and numbers; fit the penalty of a count and the scales of the confidences, and note the usual error.

    Args:
        search: what a separable network is asked for.
    """
    s = PursuitSettings(seed=settings.seed, max_objects=settings.max_objects)
    number: Callable[..., Inferred]
    positions: Callable[..., Inferred]
    if denoiser.is_separable:  # the penalty says near which numbers the search is thorough
        counting = dataclasses.replace(s, count_penalty=search.first_penalty)
        number, positions = (functools.partial(ask, search_class=search) for ask in (infer_number, infer_known))
    else:
        counting, number, positions = (
            dataclasses.replace(s, num_steps=0, confidence_draws=2),
            infer_count,
            infer_pursuit,
        )
    errors, prices, counts, contributions, right, left = [], [], [], [], [], []
    for i in tqdm(range(len(dataset)), unit="image"):
        item, rows = dataset[i], settings.batch_size
        true = item["conds"][item["mask"] > 0]
        posterior = encode_images(denoiser, item["pixel_values"][None])
        counted = number(denoiser, posterior, counting, image_numbers=[i], batch_size=rows)
        known = positions(denoiser, posterior, torch.tensor([len(true)]), s, image_numbers=[i], batch_size=rows)
        errors += counted.count_errors or []
        prices += counted.count_prices or []
        counts.append(len(true))
        contributions += known.contributions or []
        left.append(float(known.error))
        right.append(found_within(known.conds[0, :, :2], true[:, :2]))
    penalty, share = fit_penalty([own.mean(0) for own in errors], counts, prices)
    print(f"{share:.0%} of {len(counts)} counts right")
    return dataclasses.replace(
        denoiser.facts,
        count_penalty=penalty,
        confidence_scale=round(fit_scale(contributions, right, penalty), 4),
        count_scale=round(fit_count_scale(errors, counts, penalty, prices), 4),
        usual_error=round(max(left), 4),
    )


def found_within(conds: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Which of the positions (K, 2) are matched within the headline radius: (K,) bool."""
    rows, _, distances = match_points(conds.cpu().numpy(), true.numpy())
    right = torch.zeros(len(conds), dtype=torch.bool)
    right[rows] = torch.from_numpy(distances <= HEADLINE_RADIUS)
    return right
