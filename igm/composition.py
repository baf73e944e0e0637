"""Combining per-concept predictions into the prediction of a scene.

One network predicts f_k = f(x_t, t | c_k) for one concept; the scene's prediction is f_w = sum_k w_k f_k. The published
code writes u + sum_k w_k (f_k - u) with an unconditional u; as its weights sum to 1, u cancels and is not computed here.
The sum itself is `igm.models.composition.compose`, as networks need it, too.
"""

from collections.abc import Callable

import torch

from igm.models.denoiser import Denoiser


def equal_weights(mask: torch.Tensor) -> torch.Tensor:
    """Weights 1 / K of each image's real concepts, 0 for padding: mask (B, K) -> (B, K).

    The published code; the paper writes a plain sum.
    """
    return mask / mask.sum(dim=1, keepdim=True)


def pack(conds: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keep only the real (image, concept) pairs.

    Args:
        conds: (B, K, ...). mask: (B, K), 0 for padding.

    Returns:
        pair_conds (P, ...), pair_weights (P,) equal within an image, index (P,) the image of each pair.

    Raises:
        ValueError: an image without any concept.
    """
    if not bool((mask.sum(dim=1) > 0).all()):
        raise ValueError(f"every image needs at least one concept, mask sums are {mask.sum(dim=1).tolist()}")
    index, slot = mask.nonzero(as_tuple=True)  # (P,) each
    return conds[index, slot], equal_weights(mask)[index, slot], index


def predictor(
    denoiser: Denoiser, conds: torch.Tensor, mask: torch.Tensor
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The composed prediction of fixed concepts as a function of (x_t, t), for sampling: conds (B, K, D), mask (B, K)."""
    pair_conds, weights, index = pack(conds, mask)

    def predict(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return denoiser.predict_composed(x_t, t, pair_conds, weights, index)

    return predict


def entering_weights(weights: torch.Tensor, composition: str, guidance: float = 1.0) -> torch.Tensor:
    """How relative weights (P,) of one image's concepts, 1 each by default, enter its prediction: (P,).

    Args:
        composition: of the denoiser. "sum": a_k is the weight itself. "mean": w_k sum to 1, so that the unconditional
            prediction of composable diffusion (Liu et al. 2022) cancels for negative weights, too.
        guidance: factor on all of them.

    Raises:
        ValueError: weights of a mean that have no positive sum.
    """
    if composition == "sum":
        return guidance * weights
    if not float(weights.sum()) > 1e-6:
        raise ValueError(f"weights of a mean need a positive sum, got {weights.tolist()}")
    return guidance * weights / weights.sum()


def weighted_predictor(
    denoiser: Denoiser, conds: torch.Tensor, weights: torch.Tensor, num_images: int
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """As `predictor`, of one composition that `num_images` share: conds (P, ...), weights (P,) as they enter.

    A concept of weight 0 is never computed.
    """
    real = weights != 0
    conds, weights = conds[real], weights[real]
    pair_conds = conds.repeat(num_images, *[1] * (conds.ndim - 1))  # (B P, ...)
    index = torch.arange(num_images, device=conds.device).repeat_interleave(len(conds))  # (B P,)
    pair_weights = weights.repeat(num_images)  # (B P,)

    def predict(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return denoiser.predict_weighted(x_t, t, pair_conds, pair_weights, index)

    return predict


def guided_predictor(
    denoiser: Denoiser,
    conds: torch.Tensor,
    plain: torch.Tensor,
    weights: torch.Tensor,
    guidance: float,
    num_images: int,
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """As `weighted_predictor`, of u + g (f - u): classifier-free guidance (Ho and Salimans 2022).

    Args:
        conds, plain: concepts (P, D) of f and of u, which have the same weights (P,). guidance: g.
    """
    real = weights != 0
    pair_conds = torch.cat([own[real].repeat(num_images, 1) for own in (conds, plain)])  # (2 B P, D)
    pair_weights = weights[real].repeat(2 * num_images)  # (2 B P,)
    index = torch.arange(2 * num_images, device=conds.device).repeat_interleave(int(real.sum()))  # (2 B P,)

    def predict(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        both = denoiser.predict_weighted(torch.cat([x_t, x_t]), torch.cat([t, t]), pair_conds, pair_weights, index)
        f, u = both.chunk(2)  # (B, C, H, W) each
        return u + guidance * (f - u)

    return predict
