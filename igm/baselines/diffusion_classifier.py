"""Two baselines that price prompts one by one: what inference is without composing predictions.

`diffusion_classifier` (Li et al. 2023, extended to several objects as the paper does): one prompt per class, and the K
classes of lowest denoising error. `dc_variant`: one joint prompt per combination of classes ("a photo of a cat and a
dog"), and the combination of lowest error. The paper names its variant without defining it; this is this project's
reading. Both see the same draws as `infer_discrete` for the same seed and images.
"""

import itertools

import torch

from igm.error_matrix import ErrorMatrix
from igm.inference.discrete import Subsets, infer_discrete, rounds
from igm.inference.draws import draw_for_images, image_generators
from igm.inference.pricing import confidence_of, price_draws
from igm.inference.types import Inferred, Posterior
from igm.models.denoiser import Denoiser


def infer_diffusion_classifier(
    denoiser: Denoiser,
    posterior: Posterior,
    num_concepts: torch.Tensor,
    candidates: torch.Tensor,
    *,
    labels: torch.Tensor,
    num_draws: int = 1000,
    draws_per_round: int = 50,
    confidence: float | None = None,
    t_range: tuple[int, int] = (0, 1000),
    batch_size: int = 1024,
    seed: int = 0,
    image_numbers: list[int] | None = None,
) -> Inferred:
    """The K candidates with the lowest denoising error each; K (B,) must be known.

    Args:
        candidates, labels, num_draws, confidence, ...: as in `infer_discrete`; with `confidence` an image stops when
            its K lowest are that sure to be below all others.

    Returns:
        Inferred; `error` is the mean of the chosen candidates' own errors.
    """
    numbers = image_numbers or list(range(len(posterior)))
    conds = torch.zeros(len(numbers), int(num_concepts.max()), labels.shape[1])
    found = []
    for row, number in enumerate(numbers):
        generator = image_generators(seed, [number], stream=4)[0]  # infer_discrete's stream
        matrix = ErrorMatrix(1, len(candidates), posterior.mean.device, keep_draws=True)
        for size in rounds(num_draws, draws_per_round if confidence else num_draws):
            draws = draw_for_images(posterior[row : row + 1], size, t_range, [generator], stratified=True)[0]
            price_draws(denoiser, matrix, 0, draws, candidates, batch_size)
            errors, order = matrix.A[0].diagonal().sort()
            k = int(num_concepts[row])
            best, rest = order[:k].tolist(), order[k:].tolist()
            sure = max(0.0, 1 - sum(1 - confidence_of(matrix, 0, [i], [[j] for j in rest]) for i in best))
            if confidence is not None and sure >= confidence:
                break
        conds[row, :k] = labels[best]
        found.append((float(errors[:k].mean()), sure, int(matrix.count[0])))
    error, sure, draws = map(torch.tensor, zip(*found, strict=True))
    rows = draws.long() * len(candidates)
    return Inferred(conds, num_concepts, error, rows, torch.zeros_like(rows), sure)


def combinations(num_classes: int, sizes: tuple[int, int]) -> list[tuple[int, ...]]:
    """All sets of classes whose size lies in the range."""
    return [c for size in range(sizes[0], sizes[1] + 1) for c in itertools.combinations(range(num_classes), size)]


def infer_dc_variant(
    denoiser: Denoiser,
    posterior: Posterior,
    candidates: torch.Tensor,
    members: list[tuple[int, ...]],
    *,
    labels: torch.Tensor,
    **options,
) -> Inferred:
    """The joint prompt with the lowest denoising error.

    Args:
        candidates: one joint prompt per combination (S, L, D). members: the classes of each. labels: (M, D') of the
            classes. options: as in `infer_discrete`.
    """
    found = infer_discrete(denoiser, posterior, candidates, Subsets(len(candidates), (1, 1)), **options)
    chosen = [members[one[0]] for one in found.extra["chosen"]]
    found.conds = torch.zeros(len(chosen), max(map(len, chosen)), labels.shape[1])
    for row, own in zip(found.conds, chosen, strict=True):
        row[: len(own)] = labels[list(own)]
    found.num_concepts = torch.tensor([len(own) for own in chosen])
    return found
