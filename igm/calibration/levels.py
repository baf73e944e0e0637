"""Which noise levels tell discrete concepts apart best, measured on images whose concepts are known."""

from collections.abc import Callable

import torch

from igm.error_matrix import ErrorMatrix
from igm.inference.draws import draw_for_images, image_generators
from igm.inference.pricing import price_draws
from igm.inference.types import Posterior
from igm.models.denoiser import Denoiser


def errors_by_level(
    denoiser: Denoiser,
    posterior: Posterior,
    candidates: torch.Tensor,
    weights: torch.Tensor,
    *,
    num_draws: int,
    batch_size: int = 1024,
    seed: int = 0,
    image_numbers: list[int] | None = None,
    progress: Callable = iter,
) -> torch.Tensor:
    """Denoising error (B, N, S) of S compositions of each image on each of N draws, the first at the lowest noise.

    Args:
        candidates: (M, D). weights: (S, M) of the compositions.
        num_draws: N; draw n has a timestep from the n-th of N equal parts of the schedule.
        progress: wraps the iteration over images.
    """
    numbers = image_numbers or list(range(len(posterior)))
    errors, levels = [], (0, denoiser.num_timesteps)
    for i, number in progress(list(enumerate(numbers))):
        matrix = ErrorMatrix(1, len(candidates), posterior.mean.device, keep_draws=True)
        generators = image_generators(seed, [number], stream=5)
        draws = draw_for_images(posterior[i : i + 1], num_draws, levels, generators, stratified=True)[0]
        price_draws(denoiser, matrix, 0, draws, candidates, batch_size)
        errors.append(matrix.errors_per_draw(0, weights).cpu())
    return torch.stack(errors)


def best_levels(errors: torch.Tensor, right: torch.Tensor, step: int = 10) -> tuple[int, int, float]:
    """The range of draws whose mean error chooses best: first draw, end, and the mean of `right` that it reaches.

    Args:
        errors: (B, N, S), of `errors_by_level`. right: (B, S), how right each composition is.
        step: ranges begin and end at multiples of it, and are at least two of them long; of equals the longest wins.
    """
    num_draws = errors.shape[1]
    sums = torch.cat([torch.zeros_like(errors[:, :1]), errors.cumsum(1)], dim=1)  # (B, N + 1, S)
    ranges = [(low, high) for low in range(0, num_draws, step) for high in range(low + 2 * step, num_draws + 1, step)]
    if not ranges:
        raise ValueError(f"{num_draws} draws make no range of two steps of {step}")
    scores = [
        right.gather(1, (sums[:, high] - sums[:, low]).argmin(1, keepdim=True)).mean().item() for low, high in ranges
    ]
    score, _, low, high = max((s, high - low, low, high) for s, (low, high) in zip(scores, ranges, strict=True))
    return low, high, score
