"""What inference takes and gives: `Posterior`, `Inferred`."""

from dataclasses import dataclass

import torch

from igm.inference.views import View


@dataclass
class Posterior:
    """An image batch as its codec sees it: `mean` and `std` of the latents, (B, C, H, W) each.

    Computed once per image; the published code encodes the image again in every step.

    Attributes:
        view: of the images. others: the same images in other views.
    """

    mean: torch.Tensor
    std: torch.Tensor
    view: View = View()
    others: tuple["Posterior", ...] = ()

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, rows) -> "Posterior":
        return Posterior(self.mean[rows], self.std[rows], self.view, tuple(other[rows] for other in self.others))

    def in_views(self, number: int) -> list["Posterior"]:
        """The first views of the images, at most `number`."""
        return [self, *self.others][:number]


@dataclass
class Inferred:
    """What was found for a batch of images; a method leaves None what it does not know.

    Attributes:
        conds: (B, K, D), padded beyond an image's own number. num_concepts: (B,).
        error: (B,), the denoising error of the result on draws that every alternative shared.
        forward, backward: (B,) network rows evaluated, one row being one concept under one draw.
        confidence: (B,) that the whole answer is right. object_confidence: of each image, (K_i,) that each concept is.
        marginals: of each image, (K_i, D - 2), how likely each value of each object's attributes is.
        contributions: of each image, (N, K_i), by how much the error rises on each draw without each concept.
        gain: (B,) of the composition. chosen: of each image, the numbers of the candidates chosen.
        num_draws: of each image, the draws it took. alternatives: of each image, concepts (K', D) of the best compositions
            and the error of each, the chosen one first.
        count_errors: of each image, (N, K_max), the error of the best set of every size on each fresh draw.
        count_prices: of each image, (K_max,), how many times the penalty the best set of every size has to pay.
        start_errors: (B, R), the error of every start. best_start: (B,), the number of the best.
        trajectory: (T, B, R, K, D), where the steps were recorded.
        unlike: of each image, whether it is unlike all that the model was measured on.
    """

    conds: torch.Tensor
    num_concepts: torch.Tensor
    error: torch.Tensor
    forward: torch.Tensor
    backward: torch.Tensor
    confidence: torch.Tensor | None = None
    object_confidence: list[torch.Tensor] | None = None
    marginals: list[torch.Tensor] | None = None
    contributions: list[torch.Tensor] | None = None
    gain: torch.Tensor | None = None
    chosen: list[list[int]] | None = None
    num_draws: list[int] | None = None
    alternatives: list[list[tuple[torch.Tensor, float]]] | None = None
    count_errors: list[torch.Tensor] | None = None
    count_prices: list[torch.Tensor] | None = None
    start_errors: torch.Tensor | None = None
    best_start: torch.Tensor | None = None
    trajectory: torch.Tensor | None = None
    unlike: list[bool] | None = None
