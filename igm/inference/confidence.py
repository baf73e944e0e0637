"""How sure an inferred object is: by how much the error rises, on fresh draws, when the object alone is taken away."""

from collections.abc import Callable

import torch

from igm.error_matrix import ErrorMatrix
from igm.inference.draws import draw_for_images, image_generators
from igm.inference.pricing import base_members, price_draws
from igm.inference.types import Inferred, Posterior
from igm.models.denoiser import Denoiser


def assess_objects(
    denoiser: Denoiser,
    posterior: Posterior,
    found: Inferred,
    candidates: torch.Tensor,
    *,
    num_draws: int,
    t_range: tuple[int, int],
    seed: int,
    numbers: list[int],
    batch_size: int,
) -> list[torch.Tensor]:
    """What each object of each image contributes: paired differences (N, K_i) of the error without it and with it.

    The composition is that of `found` with its gain; without an object, its share goes to the base, the mean of
    predictions spread over `candidates`. The network rows are added to `found.forward`.
    """
    base = candidates[base_members(len(candidates))]
    device, contributions, gains = (
        posterior.mean.device,
        [],
        torch.ones(len(posterior)) if found.gain is None else found.gain,
    )
    for i, generator in enumerate(image_generators(seed, numbers, stream=6)):
        k, gain = int(found.num_concepts[i]), float(gains[i])
        dictionary = torch.cat([found.conds[i, :k].to(base), base])
        matrix = ErrorMatrix(1, len(dictionary), device, keep_draws=True)
        draws = draw_for_images(posterior[i : i + 1], num_draws, t_range, [generator], stratified=True)[0]
        price_draws(denoiser, matrix, 0, draws, dictionary.to(device), batch_size)
        errors = matrix.errors_per_draw(0, weights_without_each(k, gain, len(dictionary))).cpu()  # (N, 1 + K)
        contributions.append(errors[:, 1:] - errors[:, :1])
        found.forward[i] += num_draws * len(dictionary)
    return contributions


def add_confidence(found: Inferred, contributions: list[torch.Tensor], penalty: float, scale: float) -> None:
    """Say how sure each object is; the image's confidence is that all of its objects are right."""
    each = [object_confidence(own, penalty, scale) for own in contributions]
    found.contributions, found.object_confidence = contributions, each
    found.confidence = torch.stack([(1 - (1 - own).sum()).clamp(0, 1) for own in each])


def weights_without_each(k: int, gain: float, size: int) -> torch.Tensor:
    """Weights (1 + K, M) on K objects and the base candidates: of the whole, then without each object."""
    own = torch.cat([torch.ones(1, k), 1 - torch.eye(k)]) * gain / k  # (1 + K, K)
    rest = 1 - own.sum(1, keepdim=True)
    return torch.cat([own, (rest / (size - k)).expand(-1, size - k)], dim=1)


def object_confidence(contributions: torch.Tensor, penalty: float, scale: float = 1.0) -> torch.Tensor:
    """Normal probability that an object's mean contribution (N, K) exceeds `penalty`: (K,).

    `scale`, measured on training images, makes it the share of objects that are right: contributions vary between images
    as well as between draws.
    """
    error = standard_error(contributions).clamp(min=1e-12)
    return torch.special.ndtr(scale * (contributions.mean(0) - penalty) / error)


def confidence_of_choice(costs: torch.Tensor, best: int, scale: float = 1.0) -> float:
    """1 - sum over the others of P(it is cheaper), each normal from its paired differences; costs (N, S).

    With `scale` 1 the probability that more draws would choose the same; a scale measured on training images makes it
    that of being right.
    """
    difference = costs - costs[:, best : best + 1]
    others = torch.arange(costs.shape[1]) != best
    z = scale * difference.mean(0) / standard_error(difference).clamp(min=1e-12)  # (S,)
    return float((1 - torch.special.ndtr(-z[others]).sum()).clamp(0, 1))


def fit_scale(contributions: list[torch.Tensor], right: list[torch.Tensor], penalty: float) -> float:
    """The `scale` under which the objects' confidences best predict which are right (K_i,) bool."""
    return most_likely_scale(
        lambda scale: torch.cat([object_confidence(own, penalty, scale) for own in contributions]), torch.cat(right)
    )


def most_likely_scale(confidence: Callable[[float], torch.Tensor], right: torch.Tensor) -> float:
    """The scale on a grid whose confidences (N,) give what was right (N,) bool the highest likelihood."""

    def likelihood(scale: float) -> float:
        sure = confidence(scale).clamp(1e-6, 1 - 1e-6)
        return float(torch.where(right, sure, 1 - sure).log().sum())

    return max(torch.logspace(-2.5, 0, 51).tolist(), key=likelihood)


def standard_error(values: torch.Tensor) -> torch.Tensor:
    """Of the mean over draws: (N, S) -> (S,); infinite for a single draw, which does not tell."""
    if len(values) < 2:
        return torch.full_like(values[0], torch.inf)
    return values.std(0) / len(values) ** 0.5
