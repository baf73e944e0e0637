"""Combining per-concept predictions into the prediction of a scene.

One network predicts f_k = f(x_t, t | c_k) for one concept; the scene's prediction is f_w = sum_k w_k f_k. The published
code writes u + sum_k w_k (f_k - u) with an unconditional u; as its weights sum to 1, u cancels and is not computed here.
"""

from collections.abc import Callable

import torch

from models.denoiser import Denoiser


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
        return compose(denoiser.predict_pairs(x_t, t, pair_conds, index), weights, index, len(x_t))

    return predict


class ErrorMatrix:
    """The denoising error of EVERY composition of M candidate concepts, from one forward pass per candidate and draw.

    With r_i = y - f(x_t, t | g_i) on shared draws of (t, eps) and A_ij = E <r_i, r_j> / dim, weights that sum to 1 have the
    denoising error L(w) = w^T A w, exactly. For others, with G_ij = E <f_i, f_j> / dim and b_i = E <f_i, y> / dim,
    L(w) = E |y|^2 / dim - 2 b^T w + w^T G w; all three follow from the residuals and the target.

    Args:
        num_images: B. num_candidates: M. device: where the sums are kept, in float32.
    """

    def __init__(self, num_images: int, num_candidates: int, device: torch.device | str = "cpu"):
        self.A = torch.zeros(num_images, num_candidates, num_candidates, device=device)
        self.ry = torch.zeros(num_images, num_candidates, device=device)  # E <r_i, y> / dim
        self.yy = torch.zeros(num_images, device=device)  # E <y, y> / dim
        self.count = torch.zeros(num_images, device=device)  # draws so far

    def add(self, image: int, predictions: torch.Tensor, targets: torch.Tensor) -> None:
        """Add draws of one image: predictions (N, M, C, H, W), targets (N, C, H, W).

        Raises:
            FloatingPointError: a prediction is not finite.
        """
        n, m = predictions.shape[:2]
        y = targets.flatten(1).float()  # (N, dim)
        r = y[:, None] - predictions.flatten(2).float()  # (N, M, dim)
        if not bool(r.isfinite().all()):
            raise FloatingPointError(f"a prediction for image {image} is not finite; use --mixed_precision no")
        dim, seen = y.shape[1], float(self.count[image])
        scale, keep = 1 / (dim * (seen + n)), seen / (seen + n)
        flat = r.transpose(0, 1).reshape(m, -1)  # (M, N dim)
        self.A[image] = keep * self.A[image] + scale * (flat @ flat.T)
        self.ry[image] = keep * self.ry[image] + scale * (r * y[:, None]).sum((0, 2))
        self.yy[image] = keep * self.yy[image] + scale * y.square().sum()
        self.count[image] += n

    def error(self, weights: torch.Tensor) -> torch.Tensor:
        """Denoising error (B, S) of compositions with weights (B, S, M), whatever they sum to."""
        gap = 1 - weights.sum(2)  # y - sum w_i f_i = gap y + sum w_i r_i
        quadratic = torch.einsum("bsm,bmn,bsn->bs", weights, self.A, weights)
        return quadratic + 2 * gap * torch.einsum("bsm,bm->bs", weights, self.ry) + gap**2 * self.yy[:, None]

    def errors_of_subsets(self, subsets: torch.Tensor) -> torch.Tensor:
        """Denoising error (B, S) of the equal-weight compositions of subsets (B, S, K) of candidate numbers."""
        b, s, k = subsets.shape
        rows = self.A.gather(1, subsets.reshape(b, s * k, 1).expand(-1, -1, self.A.shape[2]))  # (B, S K, M)
        cells = rows.view(b, s, k, -1).gather(3, subsets[:, :, None].expand(-1, -1, k, -1))  # (B, S, K, K)
        return cells.mean((2, 3))
