"""How sure the attributes of objects are: measured on training scenes, beside what is measured of positions."""

import dataclasses

import torch
from tqdm.auto import tqdm

from igm.calibration.positions import measure_positions
from igm.calibration.scenes import CalibrationScenes
from igm.calibration.settings import CalibrationSettings
from igm.facts import Facts
from igm.inference.describing import marginals
from igm.inference.method import encode_images
from igm.inference.objects import SceneSearch
from igm.inference.settings import PursuitSettings
from igm.models.denoiser import Denoiser

SCALES = torch.logspace(-4, 2, 61)


@torch.no_grad()
def measure_objects(denoiser: Denoiser, dataset: CalibrationScenes, settings: CalibrationSettings) -> Facts:
    """Fit what `measure_positions` fits, and the scale of the attributes' confidence: that on training's own pictures.

    Elsewhere, and on varied ones, values are mistaken more often, so that a scale of all would say too little of scenes
    like training's.
    """
    facts = measure_positions(denoiser, dataset, settings, SceneSearch)
    lower, true = [], []
    for i in tqdm(range(len(dataset.own)), unit="image", desc="attributes"):
        item = dataset.own[i]
        own = item["conds"][item["mask"] > 0]  # (K, D)
        posterior = encode_images(denoiser, item["pixel_values"][None])
        search = SceneSearch(denoiser, posterior, PursuitSettings(seed=settings.seed), [i], settings.batch_size)
        conds = search.named(0, search.described(0, search.from_positions(own[:, :2]))).conds[0, 0]
        lower.append(search.evidence(0, conds))
        true.append(own[:, 2:].to(conds))
    scale = fit_attribute_scale(torch.cat(lower), torch.cat(true), search.values)
    return dataclasses.replace(facts, attribute_scale=scale)


def fit_attribute_scale(lower: torch.Tensor, true: torch.Tensor, values: torch.Tensor) -> float:
    """The scale of least squared error between the shares of the values and the truth (Brier's score).

    The likelihood would let a few objects that are mistaken for certain, such as hidden ones, make all others unsure.

    Args:
        lower: (K, M), of `igm.inference.describing.evidence`. true: blocks (K, D - 2). values: (M, D - 2).
    """
    losses = [(marginals(lower, values, float(scale)) - true).square().sum(1).mean() for scale in SCALES]
    return round(float(SCALES[int(torch.stack(losses).argmin())]), 6)
