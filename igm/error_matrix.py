"""The denoising error of every composition of a dictionary, from one matrix (design identity: L(w) = w^T A w)."""

import torch


class ErrorMatrix:
    """The denoising error of EVERY composition of M candidate concepts, from one forward pass per candidate and draw.

    With residuals r_i = y - f(x_t, t | g_i) on shared draws of (t, eps), y - sum_i w_i f_i = sum_i w_i r_i + (1 - sum w) y.
    So with v = (w, 1 - sum w) and gram the mean over draws of all <., .> / dim among r_1 ... r_M and y, the denoising error
    is L(w) = v^T gram v, exactly, for any weights; for weights that sum to 1 it is w^T A w, A_ij = E <r_i, r_j> / dim.

    Args:
        num_images: B. num_candidates: M. device: where the sums are kept, in float32.
        keep_draws: also keep each draw's own gram, for `paired`: (M + 1)^2 numbers per draw.
    """

    def __init__(
        self, num_images: int, num_candidates: int, device: torch.device | str = "cpu", *, keep_draws: bool = False
    ):
        size = num_candidates + 1
        self.gram = torch.zeros(num_images, size, size, device=device)  # the last row and column are those of y
        self.count = torch.zeros(num_images, device=device)  # draws so far
        self.draws = [torch.zeros(0, size, size, device=device) for _ in range(num_images)] if keep_draws else None

    @property
    def A(self) -> torch.Tensor:
        """E <r_i, r_j> / dim: (B, M, M)."""
        return self.gram[:, :-1, :-1]

    def add(self, image: int, predictions: torch.Tensor, targets: torch.Tensor) -> None:
        """Add draws of one image: predictions (N, M, C, H, W), targets (N, C, H, W).

        Raises:
            FloatingPointError: a prediction is not finite.
        """
        n = len(targets)
        y = targets.flatten(1).float()[:, None]  # (N, 1, dim)
        r = torch.cat([y - predictions.flatten(2).float(), y], dim=1)  # (N, M + 1, dim)
        if not bool(r.isfinite().all()):
            raise FloatingPointError(f"a prediction for image {image} is not finite; use --mixed_precision no")
        if self.draws is None:
            flat = r.transpose(0, 1).flatten(1)  # (M + 1, N dim)
            added = flat @ flat.T / (y.shape[2] * n)
        else:
            own = r @ r.transpose(1, 2) / y.shape[2]  # (N, M + 1, M + 1)
            self.draws[image] = torch.cat([self.draws[image], own])
            added = own.mean(0)
        seen = float(self.count[image])
        self.gram[image] = (seen * self.gram[image] + n * added) / (seen + n)
        self.count[image] += n

    def error(self, weights: torch.Tensor) -> torch.Tensor:
        """Denoising error (B, S) of compositions with weights (B, S, M), whatever they sum to."""
        v = with_rest(weights)
        return torch.einsum("bsm,bmn,bsn->bs", v, self.gram, v)

    def errors_of_subsets(self, subsets: torch.Tensor) -> torch.Tensor:
        """Denoising error (B, S) of the equal-weight compositions of subsets (B, S, K) of candidate numbers."""
        b, s, k = subsets.shape
        rows = self.A.gather(1, subsets.reshape(b, s * k, 1).expand(-1, -1, self.A.shape[2]))  # (B, S K, M)
        cells = rows.view(b, s, k, -1).gather(3, subsets[:, :, None].expand(-1, -1, k, -1))  # (B, S, K, K)
        return cells.mean((2, 3))

    def errors_per_draw(self, image: int, weights: torch.Tensor) -> torch.Tensor:
        """Denoising error of compositions (S, M) on each kept draw of an image: (N, S)."""
        if self.draws is None:
            raise ValueError("the matrix keeps no draws")
        v = with_rest(weights.to(self.gram))
        return torch.einsum("sm,nmk,sk->ns", v, self.draws[image], v)

    def paired(self, image: int, weights: torch.Tensor, others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How much higher the error of other compositions is than that of one, on the same draws.

        Args:
            weights: (M,). others: (S, M).

        Returns:
            mean (S,) of the difference over the kept draws, and its standard error (S,); the draws being shared, it is
            far smaller than the standard error of either error.
        """
        errors = self.errors_per_draw(image, torch.cat([weights[None], others]))  # (N, 1 + S)
        difference = errors[:, 1:] - errors[:, :1]
        return difference.mean(0), difference.std(0) / len(errors) ** 0.5

    def restrict(self, members: list[int]) -> None:
        """Keep only these candidates, for every image; what was summed about them stays."""
        rows = torch.tensor([*members, self.gram.shape[1] - 1], device=self.gram.device)
        self.gram = self.gram[:, rows][:, :, rows]
        if self.draws is not None:
            self.draws = [draws[:, rows][:, :, rows] for draws in self.draws]


def with_rest(weights: torch.Tensor) -> torch.Tensor:
    """Append 1 - sum w, the weight of the target itself in the residual: (..., M) -> (..., M + 1)."""
    return torch.cat([weights, 1 - weights.sum(-1, keepdim=True)], dim=-1)


def subset_weights(subsets: list[list[int]], num_candidates: int) -> torch.Tensor:
    """Weights (S, M) of equal-weight compositions, from their members."""
    weights = torch.zeros(len(subsets), num_candidates)
    for row, members in zip(weights, subsets, strict=True):
        row[members] = 1 / len(members)
    return weights
