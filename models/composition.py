"""The sum that all composition is: f_w = sum_k w_k f_k over the concepts of each image."""

import torch


def compose(predictions: torch.Tensor, weights: torch.Tensor, index: torch.Tensor, num_images: int) -> torch.Tensor:
    """f_w = sum_k w_k f_k: predictions (P, ...), weights (P,) or of each place, index (P,) -> (num_images, ...)."""
    weighted = predictions * weights.view(*weights.shape, *[1] * (predictions.ndim - weights.ndim)).to(predictions)
    return weighted.new_zeros(num_images, *weighted.shape[1:]).index_add(0, index, weighted)
