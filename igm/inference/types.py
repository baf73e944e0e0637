"""What inference takes and gives: `Posterior`, `Inferred`."""

from dataclasses import dataclass, field

import torch


@dataclass
class Posterior:
    """An image batch as its codec sees it: `mean` and `std` of the latents, (B, C, H, W) each.

    Computed once per image; the published code encodes the image again in every step.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, rows) -> "Posterior":
        return Posterior(self.mean[rows], self.std[rows])


@dataclass
class Inferred:
    """What was found for a batch of images.

    conds (B, K, D), padded beyond an image's own number; num_concepts (B,); error (B,), the denoising error of the
    result on draws that every alternative shared; forward, backward (B,): network rows evaluated, one row being one
    concept under one draw; confidence (B,) or None; trajectory (T, B, R, K, D) if recorded.
    """

    conds: torch.Tensor
    num_concepts: torch.Tensor
    error: torch.Tensor
    forward: torch.Tensor
    backward: torch.Tensor
    confidence: torch.Tensor | None = None
    trajectory: torch.Tensor | None = None
    extra: dict = field(default_factory=dict)
