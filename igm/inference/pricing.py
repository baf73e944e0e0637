"""Pricing candidates: every composition of them gets its denoising error from the same few network rows."""

import torch

from igm.error_matrix import ErrorMatrix, subset_weights
from igm.inference.draws import Draws
from igm.inference.types import Posterior
from igm.models.denoiser import Denoiser


def base_members(num_candidates: int) -> torch.Tensor:
    """Numbers of about 32 candidates spread over a dictionary; their mean prediction is the base of a gain."""
    return torch.arange(0, num_candidates, max(1, num_candidates // 32))


@torch.no_grad()
def price_draws(
    denoiser: Denoiser, matrix: ErrorMatrix, image: int, draws: Draws, candidates: torch.Tensor, batch_size: int
) -> torch.Tensor:
    """Add an image's draws to its error matrix: one network row per (draw, candidate).

    Args:
        draws: of this image alone: x_0, eps (N, C, H, W), t (N,). candidates: (M, D), or (M, L, D) for text.
        batch_size: most rows in the network at once, or one draw's candidates if they are more.

    Returns:
        base (N, C, H, W), each draw's mean prediction over `base_members`.
    """
    m, base = len(candidates), torch.zeros_like(draws.x_0)
    members = base_members(m).to(draws.t.device)
    for part in torch.arange(len(draws.t), device=draws.t.device).split(max(1, batch_size // m)):
        x_0, t, eps = draws.x_0[part], draws.t[part], draws.eps[part]
        shared = denoiser.share(denoiser.add_noise(x_0, eps, t), t)
        parts = []
        for own in torch.arange(m, device=t.device).split(batch_size):  # more than one only where m > batch_size
            index = torch.arange(len(part), device=t.device).repeat_interleave(len(own))
            conds = candidates[own].repeat(len(part), *[1] * (candidates.ndim - 1))
            parts.append(denoiser.predict_shared(shared, conds, index).unflatten(0, (len(part), len(own))))
        predictions = torch.cat(parts, dim=1)  # (N, M, C, H, W)
        matrix.add(image, predictions, denoiser.target(x_0, eps, t))
        base[part] = predictions[:, members].mean(1)
    return base


def price_candidates(
    denoiser: Denoiser, posterior: Posterior, candidates: torch.Tensor, draws: Draws, batch_size: int
) -> tuple[ErrorMatrix, torch.Tensor]:
    """The error matrix of every image over the same candidates (M, D), on each image's own draws.

    Returns:
        the matrix; base (B, N, C, H, W), each draw's mean prediction over `base_members`.
    """
    candidates = candidates.to(posterior.mean.device)
    matrix = ErrorMatrix(len(posterior), len(candidates), posterior.mean.device)
    base = [
        price_draws(denoiser, matrix, image, draws[image], candidates, batch_size) for image in range(len(posterior))
    ]
    return matrix, torch.stack(base)


def confidence_of(matrix: ErrorMatrix, image: int, best: list[int], rivals: list[list[int]]) -> float:
    """How sure the kept draws are that `best` has the lowest error among its rivals: 1 - sum_r P(r is lower).

    P(r is lower) is normal, from the paired difference and its standard error: a bound on the chance that more draws
    would choose otherwise. It says nothing about whether the network itself is right.
    """
    if not rivals:
        return 1.0
    weights = subset_weights([best, *rivals], matrix.A.shape[1])
    mean, error = matrix.paired(image, weights[0], weights[1:])
    doubt = torch.special.ndtr(-mean / error.clamp(min=1e-12)).sum()
    return float((1 - doubt).clamp(0, 1))
