"""Which noise levels tell attribute values apart best: measured on validation images of the training domain."""

import dataclasses
from typing import Any

import torch
from tqdm.auto import tqdm

from igm.baselines.joint_label import joint_choices
from igm.calibration.levels import best_levels, errors_by_level
from igm.calibration.settings import CalibrationSettings
from igm.encoding import all_concepts, attribute_values
from igm.error_matrix import subset_weights
from igm.facts import Facts
from igm.inference.method import encode_images
from igm.models.denoiser import Denoiser

LEVEL_DRAWS, LEVEL_STEP = 100, 10


def measure_attributes(denoiser: Denoiser, dataset: Any, settings: CalibrationSettings) -> Facts:
    """Price every combination of values at every noise level; choose the levels with the most values right."""
    items = [dataset[i] for i in range(len(dataset))]
    k = len(denoiser.facts.attributes or ())
    choices = joint_choices([2] * k)  # (S, K)
    candidates, weights = all_concepts(k), subset_weights(choices.tolist(), 2 * k)
    if denoiser.facts.learner == "joint_label":
        candidates, weights = candidates[choices].sum(1), torch.eye(len(choices))
    errors = errors_by_level(
        denoiser,
        encode_images(denoiser, torch.stack([item["pixel_values"] for item in items])),
        candidates.to(denoiser.device),
        weights,
        num_draws=LEVEL_DRAWS,
        batch_size=settings.batch_size,
        seed=settings.seed,
        progress=tqdm,
    )
    values = choices - 2 * torch.arange(k)  # (S, K), 0 or 1
    true = torch.stack([torch.from_numpy(attribute_values(item["conds"])) for item in items])  # (B, K)
    right = (values == true[:, None]).float().mean(2)  # (B, S)
    low, high, share = best_levels(errors, right, LEVEL_STEP)
    print(f"{share:.1%} of the values of {len(dataset)} images right")
    t_range = low * denoiser.num_timesteps // LEVEL_DRAWS, high * denoiser.num_timesteps // LEVEL_DRAWS
    usual = float(errors[:, low:high].mean(1).amin(1).max())  # of the best combination
    return dataclasses.replace(denoiser.facts, t_range=t_range, usual_error=round(usual, 4))
