"""Two baselines that price prompts one by one: what inference is without composing predictions.

`diffusion_classifier` (Li et al. 2023, extended to several objects as the paper does): one prompt per class, and the K
classes of lowest denoising error. `dc_variant`: one joint prompt per combination of classes ("a photo of a cat and a
dog"), and the combination of lowest error. The paper names its variant without defining it; this is this project's
reading. Both see the same draws as `infer_discrete` for the same seed and images.
"""

import itertools
from collections.abc import Sequence
from typing import Unpack

import torch

from igm import UserError
from igm.error_matrix import ErrorMatrix
from igm.inference.discrete import Subsets, infer_discrete, rounds, stack_chosen
from igm.inference.draws import draw_for_images, image_generators
from igm.inference.method import Batching, register
from igm.inference.pricing import confidence_of, price_draws
from igm.inference.prompts import PromptMethod, PromptSettings
from igm.inference.settings import DiscreteSettings
from igm.inference.types import Inferred, Posterior
from igm.models.denoiser import Denoiser

MOST_JOINT_PROMPTS = 10_000


def infer_diffusion_classifier(
    denoiser: Denoiser,
    posterior: Posterior,
    num_concepts: torch.Tensor,
    candidates: torch.Tensor,
    settings: DiscreteSettings,
    *,
    labels: torch.Tensor,
    batch_size: int = 1024,
    image_numbers: list[int] | None = None,
) -> Inferred:
    """The K candidates with the lowest denoising error each; K (B,) must be known.

    Args:
        candidates, settings, labels, ...: as in `infer_discrete`; with a confidence an image stops when its K lowest
            are that sure to be below all others.

    Returns:
        Inferred; `error` is the mean of the chosen candidates' own errors.
    """
    s = settings.for_facts(denoiser.facts)
    numbers = image_numbers or list(range(len(posterior)))
    t_range, found, chosen = s.range_of(denoiser.num_timesteps), [], []
    for row, number in enumerate(numbers):
        generator = image_generators(s.seed, [number], stream=4)[0]  # infer_discrete's stream
        matrix = ErrorMatrix(1, len(candidates), posterior.mean.device, keep_draws=True)
        for size in rounds(s):
            draws = draw_for_images(posterior[row : row + 1], size, t_range, [generator], stratified=True)[0]
            price_draws(denoiser, matrix, 0, draws, candidates, batch_size)
            errors, order = matrix.A[0].diagonal().sort()
            k = int(num_concepts[row])
            best, rest = order[:k].tolist(), order[k:].tolist()
            sure = max(0.0, 1 - sum(1 - confidence_of(matrix, 0, [i], [[j] for j in rest]) for i in best))
            if s.stops_at is not None and sure >= s.stops_at:
                break
        chosen.append(best)
        found.append((float(errors[:k].mean()), sure, int(matrix.count[0])))
    error, confidence, draws_of = map(torch.tensor, zip(*found, strict=True))
    rows = draws_of.long() * len(candidates)
    conds = stack_chosen(labels, chosen)
    return Inferred(conds, num_concepts, error, rows, torch.zeros_like(rows), confidence, chosen=chosen)


def combinations(num_classes: int, sizes: tuple[int, int]) -> list[tuple[int, ...]]:
    """All sets of classes whose size lies in the range."""
    return [c for size in range(sizes[0], sizes[1] + 1) for c in itertools.combinations(range(num_classes), size)]


def infer_dc_variant(
    denoiser: Denoiser,
    posterior: Posterior,
    candidates: torch.Tensor,
    members: list[tuple[int, ...]],
    settings: DiscreteSettings,
    *,
    labels: torch.Tensor,
    batch_size: int = 1024,
    image_numbers: list[int] | None = None,
) -> Inferred:
    """The joint prompt with the lowest denoising error.

    Args:
        candidates: one joint prompt per combination (S, L, D). members: the classes of each. labels: (M, D') of the
            classes. settings, ...: as in `infer_discrete`.
    """
    space = Subsets(len(candidates), (1, 1))
    found = infer_discrete(
        denoiser, posterior, candidates, space, settings, batch_size=batch_size, image_numbers=image_numbers
    )
    chosen = [list(members[one[0]]) for one in found.chosen or ()]
    found.conds, found.chosen = stack_chosen(labels, chosen), chosen
    found.num_concepts = torch.tensor([len(own) for own in chosen])
    return found


@register
class DiffusionClassifier(PromptMethod):
    """The paper's Diffusion Classifier row: classes by themselves, their number known."""

    name = "diffusion_classifier"
    about = "Diffusion Classifier: the classes whose own prompts denoise best"

    @classmethod
    def check(cls, settings: PromptSettings, names: Sequence[str]) -> None:
        """Raise UserError where the number of classes is not known."""
        super().check(settings, names)
        if settings.num_objects[0] < settings.num_objects[1]:
            raise UserError("--method diffusion_classifier takes the lowest n classes, n known; give one --num_objects")

    def infer(
        self,
        posterior: Posterior,
        num_concepts: torch.Tensor | None,
        **batching: Unpack[Batching],
    ) -> Inferred:
        """The `num_objects` classes of lowest error."""
        counts = torch.full((len(posterior),), self.settings.num_objects[0])
        found = infer_diffusion_classifier(
            self.model,
            posterior,
            counts,
            self.prompts,
            self.settings,
            labels=self.labels,
            **batching,
        )
        return self.count_templates(found)


@register
class JointPrompts(PromptMethod):
    """The paper's DC variant row: one joint prompt for every combination of classes."""

    name = "dc_variant"
    about = "joint prompts (DC variant): one prompt for every combination of classes"

    @classmethod
    def check(cls, settings: PromptSettings, names: Sequence[str]) -> None:
        """Raise UserError where there are too many combinations."""
        super().check(settings, names)
        if len(combinations(len(names), settings.num_objects)) > MOST_JOINT_PROMPTS:
            raise UserError("--method dc_variant needs a prompt for every combination, too many here; use --method igm")

    def texts(self) -> list[str]:
        """Every combination in words."""
        self.members = combinations(len(self.names), self.settings.num_objects)
        return [in_words([self.names[i] for i in own]) for own in self.members]

    def infer(
        self,
        posterior: Posterior,
        num_concepts: torch.Tensor | None,
        **batching: Unpack[Batching],
    ) -> Inferred:
        """The combination whose joint prompt has the lowest error."""
        found = infer_dc_variant(
            self.model,
            posterior,
            self.prompts,
            self.members,
            self.settings,
            labels=self.labels,
            **batching,
        )
        return self.count_templates(found)


def in_words(names: Sequence[str]) -> str:
    """ "cat", "cat and a dog", "cat, a dog and a rabbit": what follows the template's own article."""
    return " and a ".join([", a ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
