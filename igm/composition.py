"""Combining per-concept predictions into the prediction of a scene.

One network predicts f_k = f(x_t, t | c_k) for one concept; the scene's prediction is f_w = sum_k w_k f_k. The published
code writes u + sum_k w_k (f_k - u) with an unconditional u; as its weights sum to 1, u cancels and is not computed here.
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


def compose(predictions: torch.Tensor, weights: torch.Tensor, index: torch.Tensor, num_images: int) -> torch.Tensor:
    """f_w = sum_k w_k f_k: predictions (P, ...), weights (P,), index (P,) -> (num_images, ...)."""
    weighted = predictions * weights.view(-1, *[1] * (predictions.ndim - 1)).to(predictions)
    return weighted.new_zeros(num_images, *predictions.shape[1:]).index_add(0, index, weighted)


def predictor(
    denoiser: Denoiser, conds: torch.Tensor, mask: torch.Tensor
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The composed prediction of fixed concepts as a function of (x_t, t), for sampling: conds (B, K, D), mask (B, K)."""
    pair_conds, weights, index = pack(conds, mask)

    def predict(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return denoiser.predict_composed(x_t, t, pair_conds, weights, index)

    return predict
